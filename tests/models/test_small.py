"""Small models: shapes, normalisation, state, names."""

import pytest
import torch

from dotkd.errors import BadInput
from dotkd.models import ImageModel, create_model, model_names


def images(*shape: int) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(0))


def made(name: str, **options) -> ImageModel:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return create_model(name, **{"num_classes": 10, "image_shape": (1, 8, 8), **options}).eval()


@pytest.mark.parametrize("name", [name for name in model_names() if name.startswith("small/")])
@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 32, 32), (2, 5, 7)])
def test_logits_have_a_row_an_image_and_a_column_a_class(name: str, shape: tuple[int, int, int]) -> None:
    logits = made(name, num_classes=7, image_shape=shape)(images(3, *shape))
    assert logits.shape == (3, 7)
    assert logits.isfinite().all()


@pytest.mark.parametrize("name", [name for name in model_names() if "/cnn" in name])
@pytest.mark.parametrize("size", [(1, 1), (3, 9), (40, 33)])
def test_a_cnn_takes_images_of_any_size(name: str, size: tuple[int, int]) -> None:
    assert made(name)(images(2, 1, *size)).shape == (2, 10)


def test_the_width_is_in_the_name() -> None:
    mlp = made("small/mlp32")
    assert sum(p.numel() for p in mlp.parameters()) == 64 * 32 + 32 + 32 * 10 + 10
    cnn = made("small/cnn4")
    convolutions = 9 * (1 * 4 + 4 * 8 + 8 * 16)
    assert sum(p.numel() for p in cnn.parameters()) == convolutions + 2 * (4 + 8 + 16) + 16 * 10 + 10


def test_an_image_does_not_depend_on_the_others_of_its_batch() -> None:
    for name in ("small/mlp16", "small/cnn4"):
        model, batch = made(name), images(4, 1, 8, 8)
        assert torch.allclose(model(batch)[1:2], model(batch[1:2]), atol=1e-6)


@pytest.mark.parametrize("name", ["small/mlp16", "small/cnn4"])
def test_normalisation_is_per_channel_and_really_applied(name: str) -> None:
    mean, std = (0.1, 0.5, 0.9), (0.2, 0.5, 2.0)
    plain = made(name, image_shape=(3, 8, 8))
    own = made(name, image_shape=(3, 8, 8), mean=mean, std=std)
    own.load_state_dict(plain.state_dict())
    batch = images(2, 3, 8, 8)
    by_hand = torch.stack([(batch[:, c] - mean[c]) / std[c] for c in range(3)], dim=1)
    assert torch.allclose(own(batch), plain(by_hand), atol=1e-6)
    assert not torch.allclose(own(batch), plain(batch), atol=1e-3)


def test_normalisation_is_a_setting_and_no_weight() -> None:
    plain, own = made("small/cnn4"), made("small/cnn4", mean=[0.3], std=[0.2])
    assert own.state_dict().keys() == plain.state_dict().keys()
    assert not {"mean", "std"} & own.state_dict().keys()
    assert not {"mean", "std"} & dict(own.named_parameters()).keys()
    moved = own.to(torch.float64)
    assert moved.mean.dtype == torch.float64  # it moves along with the weights


@pytest.mark.parametrize(
    ("mean", "std"), [([0.5], []), ([], [1.0]), ([0.5], [0.0]), ([0.5], [-1.0]), ([0], [float("nan")])]
)
def test_settings_that_do_not_fit(mean, std) -> None:
    with pytest.raises(ValueError, match="one number for each channel, std > 0"):
        made("small/mlp16", mean=mean, std=std)


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("small/mlp33", "small/mlp32"),
        ("mlp64", "small/mlp64"),
        ("small/cnn", "small/cnn4|small/cnn8"),
        ("", ""),
    ],
)
def test_unknown_name_names_the_nearest_and_all(name: str, nearest: str) -> None:
    with pytest.raises(BadInput, match=f"unknown model '{name}'; nearest: '({nearest})?") as error:
        create_model(name, num_classes=10)
    assert f"{len(model_names())} models" in str(error.value)


def test_the_same_seed_makes_the_same_weights() -> None:
    a, b = made("small/cnn4"), made("small/cnn4")
    assert all(torch.equal(x, y) for x, y in zip(a.parameters(), b.parameters(), strict=True))
    assert create_model("small/cnn4", num_classes=3).training
