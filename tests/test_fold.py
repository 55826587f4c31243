"""Folding: the same outputs and features, in every network of the zoo, and only where nothing is lost."""

import copy

import pytest
import torch
from torch import nn

from dotkd.features.taps import INPUT, Taps
from dotkd.models import create_model
from dotkd.models.fold import fold_batch_norm

# Network -> batch norms that do not stand behind a convolution: those that begin a wide block, and the last.
ZOO = {
    "resnet8x4": 0,
    "wrn_16_1": 7,
    "vgg8": 0,
    "MobileNetV2": 0,
    "ShuffleV1": 0,
    "tiny_imagenet/ResNet18": 0,
    "small/cnn8": 0,
    "small/mlp16": 0,
}


def settled(model):
    """With statistics and weights of norms that are not the initial ones, which folding would not show."""
    torch.manual_seed(0)
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.running_mean.normal_(0, 0.2)
            module.running_var.uniform_(0.5, 2.0)
            if module.affine:
                nn.init.normal_(module.weight, 1.0, 0.2)
                nn.init.normal_(module.bias, 0.0, 0.2)
    return model.eval()


def norms(model):
    return sum(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in model.modules())


def compare(before, after, images):
    with torch.no_grad():
        (logits, features), (folded, others) = before(images), after(images)
    scale = float(logits.abs().max())
    torch.testing.assert_close(folded, logits, rtol=0, atol=3e-5 * scale)
    assert features.keys() == others.keys()
    for name, feature in features.items():
        torch.testing.assert_close(others[name], feature, rtol=0, atol=3e-5 * float(feature.abs().max()))


@pytest.mark.parametrize("name", ZOO)
def test_a_folded_network_says_the_same_and_has_the_same_features(name):
    plain = settled(create_model(name, 10, image_shape=(3, 32, 32), mean=(0.5,) * 3, std=(0.2,) * 3))
    paths = {str(i): path for i, path in enumerate((*plain.stage_paths, *plain.preact_paths)) if path}
    paths["pooled"] = plain.pooled_path or plain.classifier_path + INPUT
    folded = copy.deepcopy(plain)
    count = fold_batch_norm(folded, keep=paths.values())
    assert norms(folded) == norms(plain) - count == ZOO[name]
    free = copy.deepcopy(plain)
    assert fold_batch_norm(free) == count
    images = torch.rand(3, 3, 32, 32)
    compare(Taps(plain, paths), Taps(folded, paths), images)
    compare(Taps(plain, {}), Taps(free, {}), images)


def block(**options):
    return settled(nn.Sequential(nn.Conv2d(3, 4, 3, **options), nn.BatchNorm2d(4), nn.ReLU()))


@pytest.mark.parametrize(
    ("keep", "folds"),
    [
        ("", True),
        ("1", True),  # an Identity that returns what the batch norm returned
        ("2", True),
        ("2:input", True),
        ("0:input", True),
        ("0", False),
        ("1:input", False),
    ],
)
def test_what_is_read_between_the_two_stays(keep, folds):
    plain = block()
    folded = copy.deepcopy(plain)
    assert fold_batch_norm(folded, keep=[keep]) == folds
    compare(Taps(plain, {"here": keep}), Taps(folded, {"here": keep}), torch.rand(2, 3, 8, 8))


def test_a_part_that_ends_between_the_two_keeps_them():
    plain = settled(nn.Sequential(nn.Sequential(nn.ReLU(), nn.Conv2d(3, 4, 1)), nn.BatchNorm2d(4)))
    assert fold_batch_norm(copy.deepcopy(plain), keep=["0"]) == 0
    assert fold_batch_norm(copy.deepcopy(plain), keep=["0.0"]) == 1


@pytest.mark.parametrize("options", [{"bias": False}, {"bias": True}, {"groups": 1, "stride": 2}])
def test_options_of_the_convolution(options):
    plain = block(**options)
    folded = copy.deepcopy(plain)
    assert fold_batch_norm(folded) == 1
    compare(Taps(plain, {}), Taps(folded, {}), torch.rand(2, 3, 8, 8))


class Twice(nn.Module):
    """Reads the output of its convolution in another way too."""

    def __init__(self, how):
        super().__init__()
        self.conv, self.norm, self.how = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3), how

    def forward(self, x):
        between = self.conv(x)
        if self.how == "skip":
            return self.norm(between) + between
        if self.how == "again":
            return self.norm(self.conv(x)) + between
        if self.how == "weight":
            return self.norm(between) + self.conv.weight.sum()
        if self.how == "shape":
            return self.norm(between) if between.sum() > 0 else between
        return self.norm(between)


@pytest.mark.parametrize(("how", "folds"), [("skip", 0), ("again", 0), ("weight", 0), ("shape", 0), ("", 1)])
def test_a_convolution_that_something_else_reads_stays(how, folds):
    plain = settled(Twice(how))
    folded = copy.deepcopy(plain)
    assert fold_batch_norm(folded) == folds
    torch.testing.assert_close(folded(torch.ones(2, 3, 4, 4)), plain(torch.ones(2, 3, 4, 4)))


def test_what_is_more_than_a_convolution_or_a_batch_norm_stays():
    for part, change in (
        (0, lambda conv: conv.register_forward_hook(lambda *_: None)),
        (1, lambda norm: norm.register_forward_pre_hook(lambda *_: None)),
        (0, nn.utils.parametrizations.weight_norm),
    ):
        net = block()
        change(net[part])
        net.eval()
        assert fold_batch_norm(net) == 0
    free = settled(nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4, affine=False)))
    images = torch.rand(2, 3, 4, 4)
    before = free(images)
    assert fold_batch_norm(free) == 1
    torch.testing.assert_close(free(images), before)
    without = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4, track_running_stats=False)).eval()
    assert fold_batch_norm(without) == 0
    assert fold_batch_norm(nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)).eval()) == 0


def test_a_batch_norm_with_two_names_goes_under_both():
    net = settled(Twice(""))
    net.other = net.norm
    assert fold_batch_norm(net) == 1
    assert isinstance(net.other, nn.Identity)


def test_layout_dtype_and_the_wish_for_gradients_stay():
    net = block().double().to(memory_format=torch.channels_last).requires_grad_(False)
    strides = net[0].weight.stride()
    fold_batch_norm(net)
    assert net[0].weight.stride() == strides
    assert net[0].weight.dtype == net[0].bias.dtype == torch.float64
    assert not net[0].weight.requires_grad
    assert not any(module.training for module in net.modules())


def test_a_network_in_training_mode_is_refused():
    with pytest.raises(ValueError, match=r"needs a model in evaluation mode: call model\.eval\(\) first"):
        fold_batch_norm(block().train())
