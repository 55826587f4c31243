"""The zoo: numbers, keys and shapes of the published models; names, stages, sizes, normalisation."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from dotkd.errors import BadInput
from dotkd.features.taps import Taps
from dotkd.models import ImageModel, create_model, model_names
from dotkd.models.registry import check_model_name

GOLDEN: dict[str, Any] = json.loads((Path(__file__).parents[1] / "golden/models.json").read_text())
ZOO = [name for name in model_names() if not name.startswith("small/")]
# One of each family and layout, for what does not depend on the size.
FAMILIES = ["resnet8", "ResNet18", "wrn_16_1", "vgg8", "MobileNetV2", "ShuffleV1", "ShuffleV2"]
FAMILIES += ["tiny_imagenet/MobileNetV2", "imagenet/ResNet18", "imagenet/MobileNetV1"]


def made(name: str, num_classes: int = 10, **options: Any) -> ImageModel:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return create_model(name, num_classes, **options)


def images(*shape: int) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(0))


def features(model: ImageModel, batch: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    paths = {path: path for path in (*model.stage_paths, *model.preact_paths, model.pooled_path)}
    return Taps(model, paths)(batch)


# ---------------------------------------------------------------- the published numbers


def published_weights(model: ImageModel) -> dict[str, Tensor]:
    """The weights under which the reference was recorded: one seed for each entry."""
    weights = {}
    for seed, (name, tensor) in enumerate(model.state_dict().items()):
        z = np.random.RandomState(seed).standard_normal(tuple(tensor.shape) or 1)
        if not tensor.is_floating_point():
            z = np.zeros(())
        elif tensor.ndim >= 2:
            z = z * math.sqrt(2 / math.prod(tensor.shape[1:]))
        elif name.endswith("running_var"):
            z = 1 + 0.1 * z**2
        else:
            z = 0.1 * z + name.endswith(".weight")
        weights[name] = torch.from_numpy(np.asarray(z)).to(tensor.dtype)
    return weights


@pytest.mark.parametrize("name", GOLDEN)
def test_published_numbers(name: str) -> None:
    golden = GOLDEN[name]
    model = made(name, len(golden["logits"][0]), image_shape=tuple(golden["input"][1:]))
    assert [[key, list(value.shape)] for key, value in model.state_dict().items()] == golden["state_dict"]
    assert sum(parameter.numel() for parameter in model.parameters()) == golden["parameters"]

    model.load_state_dict(published_weights(model))
    batch = np.random.RandomState(1234).standard_normal(golden["input"]).astype(np.float32)
    with torch.no_grad():
        logits, tapped = features(model.train(), torch.from_numpy(batch))
    wanted = torch.tensor(golden["logits"])
    assert (logits - wanted).abs().max() <= 1e-4 * wanted.abs().max()

    places = {"feats": model.stage_paths, "preact_feats": model.preact_paths}
    assert ("preact_feats" in golden["features"]) == bool(model.preact_paths)
    for kind, paths in places.items():
        if paths:
            assert [list(tapped[path].shape) for path in paths] == golden["features"][kind]
            norms = [tapped[path].norm().item() for path in paths]
            assert norms == pytest.approx(golden["feature_norms"][kind], rel=1e-4)
    pooled = tapped[model.pooled_path]
    assert list(pooled.shape) == golden["features"]["pooled_feat"]
    assert pooled.norm().item() == pytest.approx(golden["feature_norms"]["pooled_feat"], rel=1e-4)


# Parameters for 100 (CIFAR-100) and 1000 classes (ImageNet) as the literature gives them.
@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("resnet110", 1_736_564),
        ("wrn_40_1", 569_780),
        ("ShuffleV1", 949_258),
        ("imagenet/ResNet34", 21_797_672),
        ("vgg19", 20_086_692),
    ],
)
def test_published_parameter_counts(name: str, count: int) -> None:
    model = made(name, 1000 if name.startswith("imagenet") else 100)
    assert sum(parameter.numel() for parameter in model.parameters()) == count


def test_layouts_that_have_no_recorded_numbers() -> None:
    keys = list(made("ShuffleV1").state_dict())
    block = [key for key in keys if key.startswith("layer1.0.") and key.endswith("weight")]
    assert block == [f"layer1.0.{kind}{n}.weight" for n in (1, 2, 3) for kind in ("conv", "bn")]
    assert made("ShuffleV1").get_parameter("layer1.0.conv1.weight").shape == (54, 24, 1, 1)  # one group
    assert made("ShuffleV1").get_parameter("layer1.1.conv1.weight").shape == (60, 80, 1, 1)  # three

    tiny = made("tiny_imagenet/MobileNetV2", 200)
    assert tiny.get_parameter("pre.0.bias").shape == (32,)
    assert tiny.get_parameter("stage1.residual.3.weight").shape == (32, 1, 3, 3)
    assert tiny.get_parameter("stage5.2.residual.6.weight").shape == (96, 576, 1, 1)
    assert tiny.get_parameter("stage7.residual.0.weight").shape == (960, 160, 1, 1)
    assert tiny.get_parameter("conv2.weight").shape == (200, 1280, 1, 1)
    _, tapped = features(tiny, images(2, 3, 64, 64))
    assert [tapped[path].shape[-1] for path in tiny.stage_paths] == [66, 33, 17, 9, 9]


# ---------------------------------------------------------------- every name


@pytest.mark.parametrize("name", model_names())
def test_every_model_learns_something_everywhere(name: str) -> None:
    model = made(name, 5, image_shape=(3, 16, 16))
    logits, tapped = features(model, images(3, 3, 16, 16))
    assert logits.shape == (3, 5)
    logits.square().mean().backward()
    for key, parameter in model.named_parameters():
        assert parameter.grad is not None, key
        assert parameter.grad.isfinite().all(), key

    assert model.stage_paths
    assert len(model.preact_paths) in (0, len(model.stage_paths))
    for path in model.stage_paths:
        assert tapped[path].ndim == (2 if "/mlp" in name else 4)
    assert tapped[model.pooled_path].ndim == 2
    classifier = model.get_submodule(model.classifier_path)
    assert classifier.weight.shape[:2] == (5, tapped[model.pooled_path].shape[1])


@pytest.mark.parametrize("name", FAMILIES)
def test_what_stands_in_front_of_the_relu_is_the_feature_before_it(name: str) -> None:
    model = made(name, image_shape=(3, 32, 32))
    _, tapped = features(model, images(2, 3, 32, 32))
    for before, after in zip(model.preact_paths, model.stage_paths, strict=False):
        if not name.startswith("wrn"):  # there the ReLU stands in the next stage
            assert torch.equal(tapped[before].relu(), tapped[after])


@pytest.mark.parametrize("name", FAMILIES)
def test_any_size_and_any_number_of_channels(name: str) -> None:
    model = made(name, image_shape=(1, 32, 32)).eval()
    for size in [(32, 32), (64, 64), (5, 7), (1, 1)]:
        assert model(images(2, 1, *size)).isfinite().all(), size


def test_vgg_halves_once_more_for_images_of_64_pixels() -> None:
    for size in (32, 64):
        model = made("vgg8", image_shape=(3, size, size))
        _, tapped = features(model, images(2, 3, size, size))
        assert tapped["relu4"].shape == (2, 512, 4, 4)


@pytest.mark.parametrize("name", FAMILIES)
def test_normalises_by_its_own_mean_and_deviation(name: str) -> None:
    mean, std = (0.1, 0.5, 0.9), (0.2, 0.5, 2.0)
    plain, own = made(name), made(name, mean=mean, std=std)
    assert list(own.state_dict()) == list(plain.state_dict())
    batch = images(4, 3, 32, 32)
    by_hand = torch.stack([(batch[:, c] - mean[c]) / std[c] for c in range(3)], dim=1)
    assert torch.allclose(own(batch), plain(by_hand), rtol=1e-4, atol=1e-5)
    assert not torch.allclose(own(batch), plain(batch), rtol=1e-3)


@pytest.mark.parametrize("name", ["resnet8", "ResNet18", "wrn_16_2", "vgg8", "MobileNetV2"])
def test_convolutions_start_as_published(name: str) -> None:
    for module in made(name).modules():
        if isinstance(module, torch.nn.Conv2d):
            kernel = math.prod(module.kernel_size)
            wanted = math.sqrt(2 / (kernel * module.out_channels))
            rough = 5 / math.sqrt(2 * module.weight.numel())  # five standard errors of a deviation
            assert module.weight.std().item() == pytest.approx(wanted, rel=rough)
            assert module.bias is None or not module.bias.any()


# ---------------------------------------------------------------- names


def test_a_bare_name_means_cifar100() -> None:
    assert check_model_name("resnet8x4") == check_model_name("cifar100/resnet8x4") == "cifar100/resnet8x4"
    assert list(made("vgg8").state_dict()) == list(made("cifar100/vgg8").state_dict())


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("resnet8x5", "cifar100/resnet8x4"),
        ("RESNET8X4", "cifar100/resnet8x4"),
        ("mobilenetv1", "imagenet/MobileNetV1"),
        ("wrn-40-2", "cifar100/wrn_40_2"),
        ("imagenet/Resnet43", "imagenet/ResNet34"),
        ("tinyimagenet/ResNet18", "tiny_imagenet/ResNet18"),
        ("small/mlp", "small/mlp16"),
        ("mlp32", "small/mlp32"),
    ],
)
def test_an_unknown_name_gets_five_near_ones(name: str, nearest: str) -> None:
    with pytest.raises(BadInput) as caught:
        create_model(name, 10)
    message = str(caught.value)
    assert message.startswith(f"unknown model '{name}'; nearest: '{nearest}', ")
    assert message.endswith(f" (known: {len(model_names())} models, dotkd.models.model_names() lists them)")
    assert sum(known in message.split("nearest")[1].split("'") for known in model_names()) == 5


def test_every_published_name_is_there() -> None:
    assert set(GOLDEN) <= set(model_names())
    assert len(ZOO) == len(set(ZOO)) == 52
