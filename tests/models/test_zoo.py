"""Networks of the zoo: published numbers, keys and shapes, feature paths, image sizes, normalisation."""

import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from dotkd.features.taps import Taps
from dotkd.models import ImageModel, create_model, model_names

GOLDEN: dict[str, Any] = json.loads((Path(__file__).parents[1] / "golden/models.json").read_text())
ZOO = [name for name in model_names() if not name.startswith("small/")]
# One of each family and layout, for tests that do not depend on depth and width.
FAMILIES = ["resnet8", "ResNet18", "wrn_16_1", "vgg8", "MobileNetV2", "ShuffleV1", "ShuffleV2"]
FAMILIES += ["tiny_imagenet/MobileNetV2", "imagenet/ResNet18", "imagenet/MobileNetV1"]
LARGE = ("ResNet34", "ResNet50", "vgg13", "vgg16", "vgg19", "resnet32x4")


def marked(names: Iterable[str]) -> list[Any]:
    """Mark the large networks as slow, and those that Tiny-ImageNet shares with CIFAR-100."""
    shared = {f"tiny_imagenet/{name.partition('/')[2]}" for name in names if name.startswith("cifar100/")}
    slow = {name for name in names if name.endswith(LARGE)} | shared - {"tiny_imagenet/MobileNetV2"}
    return [pytest.param(name, marks=pytest.mark.slow) if name in slow else name for name in names]


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
    """The weights with which the reference was recorded: one seed per entry."""
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


@pytest.mark.parametrize("name", marked(GOLDEN))
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


def test_layouts_without_recorded_numbers() -> None:
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


# ---------------------------------------------------------------- every model


@pytest.mark.parametrize("name", marked(model_names()))
def test_every_parameter_gets_a_gradient(name: str) -> None:
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
def test_preact_paths_lead_to_the_features_before_the_relu(name: str) -> None:
    model = made(name, image_shape=(3, 32, 32))
    _, tapped = features(model, images(2, 3, 32, 32))
    for before, after in zip(model.preact_paths, model.stage_paths, strict=False):
        if not name.startswith("wrn"):  # whose ReLU is part of the next stage
            assert torch.equal(tapped[before].relu(), tapped[after])


@pytest.mark.parametrize("name", FAMILIES)
def test_any_size_and_any_number_of_channels(name: str) -> None:
    model = made(name, image_shape=(1, 32, 32)).eval()
    for size in [(32, 32), (64, 64), (5, 7), (1, 1)]:
        assert model(images(2, 1, *size)).isfinite().all(), size


def test_vgg_for_64_pixels_halves_once_more() -> None:
    for size in (32, 64):
        model = made("vgg8", image_shape=(3, size, size))
        _, tapped = features(model, images(2, 3, size, size))
        assert tapped["relu4"].shape == (2, 512, 4, 4)


@pytest.mark.parametrize("name", FAMILIES)
def test_normalises_per_channel(name: str) -> None:
    mean, std = (0.1, 0.5, 0.9), (0.2, 0.5, 2.0)
    plain, own = made(name), made(name, mean=mean, std=std)
    assert list(own.state_dict()) == list(plain.state_dict())
    batch = images(4, 3, 32, 32)
    by_hand = torch.stack([(batch[:, c] - mean[c]) / std[c] for c in range(3)], dim=1)
    assert torch.allclose(own(batch), plain(by_hand), rtol=1e-4, atol=1e-5)
    assert not torch.allclose(own(batch), plain(batch), rtol=1e-3)


@pytest.mark.parametrize("name", ["resnet8", "ResNet18", "wrn_16_2", "vgg8", "MobileNetV2"])
def test_convolutions_are_initialised_as_published(name: str) -> None:
    for module in made(name).modules():
        if isinstance(module, torch.nn.Conv2d):
            kernel = math.prod(module.kernel_size)
            wanted = math.sqrt(2 / (kernel * module.out_channels))
            rough = 5 / math.sqrt(2 * module.weight.numel())  # five standard errors of a deviation
            assert module.weight.std().item() == pytest.approx(wanted, rel=rough)
            assert module.bias is None or not module.bias.any()


# ---------------------------------------------------------------- small models


def small(name: str, **options: Any) -> ImageModel:
    return made(name, **{"image_shape": (1, 8, 8), **options}).eval()


@pytest.mark.parametrize("name", [name for name in model_names() if name.startswith("small/")])
@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 32, 32), (2, 5, 7)])
def test_small_models_return_logits(name: str, shape: tuple[int, int, int]) -> None:
    logits = small(name, num_classes=7, image_shape=shape)(images(3, *shape))
    assert logits.shape == (3, 7)
    assert logits.isfinite().all()


@pytest.mark.parametrize("name", [name for name in model_names() if "/cnn" in name])
@pytest.mark.parametrize("size", [(1, 1), (3, 9), (40, 33)])
def test_small_cnns_take_images_of_any_size(name: str, size: tuple[int, int]) -> None:
    assert small(name)(images(2, 1, *size)).shape == (2, 10)


def test_small_models_have_the_width_of_their_name() -> None:
    mlp = small("small/mlp32")
    assert sum(p.numel() for p in mlp.parameters()) == 64 * 32 + 32 + 32 * 10 + 10
    cnn = small("small/cnn4")
    convolutions = 9 * (1 * 4 + 4 * 8 + 8 * 16)
    assert sum(p.numel() for p in cnn.parameters()) == convolutions + 2 * (4 + 8 + 16) + 16 * 10 + 10


def test_small_models_treat_images_independently() -> None:
    for name in ("small/mlp16", "small/cnn4"):
        model, batch = small(name), images(4, 1, 8, 8)
        assert torch.allclose(model(batch)[1:2], model(batch[1:2]), atol=1e-6)


@pytest.mark.parametrize("name", ["small/mlp16", "small/cnn4"])
def test_small_models_normalise_per_channel(name: str) -> None:
    mean, std = (0.1, 0.5, 0.9), (0.2, 0.5, 2.0)
    plain = small(name, image_shape=(3, 8, 8))
    own = small(name, image_shape=(3, 8, 8), mean=mean, std=std)
    own.load_state_dict(plain.state_dict())
    batch = images(2, 3, 8, 8)
    by_hand = torch.stack([(batch[:, c] - mean[c]) / std[c] for c in range(3)], dim=1)
    assert torch.allclose(own(batch), plain(by_hand), atol=1e-6)
    assert not torch.allclose(own(batch), plain(batch), atol=1e-3)


def test_normalisation_is_not_part_of_the_state_dict() -> None:
    plain, own = small("small/cnn4"), small("small/cnn4", mean=[0.3], std=[0.2])
    assert own.state_dict().keys() == plain.state_dict().keys()
    assert not {"mean", "std"} & own.state_dict().keys()
    assert not {"mean", "std"} & dict(own.named_parameters()).keys()
    moved = own.to(torch.float64)
    assert moved.mean.dtype == torch.float64  # the buffer follows the weights


@pytest.mark.parametrize(
    ("mean", "std"), [([0.5], []), ([], [1.0]), ([0.5], [0.0]), ([0.5], [-1.0]), ([0], [float("nan")])]
)
def test_bad_normalisation_is_refused(mean, std) -> None:
    with pytest.raises(ValueError, match="one number for each channel, std > 0"):
        small("small/mlp16", mean=mean, std=std)


def test_the_same_seed_gives_the_same_weights() -> None:
    a, b = small("small/cnn4"), small("small/cnn4")
    assert all(torch.equal(x, y) for x, y in zip(a.parameters(), b.parameters(), strict=True))
    assert create_model("small/cnn4", num_classes=3).training


def test_every_published_name_is_known() -> None:
    assert set(GOLDEN) <= set(model_names())
    assert len(ZOO) == len(set(ZOO)) == 52
