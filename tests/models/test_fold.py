"""Folding batch norms: outputs and features stay the same in the zoo, and no unsafe pair is folded."""

import copy

import pytest
import torch
from torch import nn

from dotkd.features.taps import INPUT, Taps
from dotkd.models import create_model
from dotkd.models.fold import fold_batch_norm

# Network -> number of batch norms that do not follow a convolution (all in Wide ResNets).
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
    """Randomise batch norms: with initial statistics and weights, folding would change nothing."""
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
def test_a_folded_network_has_the_same_logits_and_features(name):
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
        ("1", True),  # an Identity by now, with the batch norm's output
        ("2", True),
        ("2:input", True),
        ("0:input", True),
        ("0", False),
        ("1:input", False),
    ],
)
def test_a_pair_tapped_in_between_is_not_folded(keep, folds):
    plain = block()
    folded = copy.deepcopy(plain)
    assert fold_batch_norm(folded, keep=[keep]) == folds
    compare(Taps(plain, {"here": keep}), Taps(folded, {"here": keep}), torch.rand(2, 3, 8, 8))


def test_a_pair_is_not_folded_if_a_tapped_container_ends_in_between():
    plain = settled(nn.Sequential(nn.Sequential(nn.ReLU(), nn.Conv2d(3, 4, 1)), nn.BatchNorm2d(4)))
    assert fold_batch_norm(copy.deepcopy(plain), keep=["0"]) == 0
    assert fold_batch_norm(copy.deepcopy(plain), keep=["0.0"]) == 1


@pytest.mark.parametrize("options", [{"bias": False}, {"bias": True}, {"groups": 1, "stride": 2}])
def test_convolution_options(options):
    plain = block(**options)
    folded = copy.deepcopy(plain)
    assert fold_batch_norm(folded) == 1
    compare(Taps(plain, {}), Taps(folded, {}), torch.rand(2, 3, 8, 8))


class Twice(nn.Module):
    """Reads the convolution's output or weight a second time."""

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
def test_a_convolution_read_twice_is_not_folded(how, folds):
    plain = settled(Twice(how))
    folded = copy.deepcopy(plain)
    assert fold_batch_norm(folded) == folds
    torch.testing.assert_close(folded(torch.ones(2, 3, 4, 4)), plain(torch.ones(2, 3, 4, 4)))


def test_hooks_parametrisations_and_other_layers_are_not_folded():
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


def test_a_shared_batch_norm_is_replaced_under_both_names():
    net = settled(Twice(""))
    net.other = net.norm
    assert fold_batch_norm(net) == 1
    assert isinstance(net.other, nn.Identity)


def test_layout_dtype_and_requires_grad_stay():
    net = block().double().to(memory_format=torch.channels_last).requires_grad_(False)
    strides = net[0].weight.stride()
    fold_batch_norm(net)
    assert net[0].weight.stride() == strides
    assert net[0].weight.dtype == net[0].bias.dtype == torch.float64
    assert not net[0].weight.requires_grad
    assert not any(module.training for module in net.modules())


def test_training_mode_is_refused():
    with pytest.raises(ValueError, match=r"needs a model in evaluation mode: call model\.eval\(\) first"):
        fold_batch_norm(block().train())
