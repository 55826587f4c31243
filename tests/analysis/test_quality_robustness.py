"""Corruptions keep to [0, 1], grow with the strength and repeat; the adversarial step raises the loss."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import ive
from torch import nn

from dotkd.analysis import CORRUPTIONS, corrupt, fgsm

every_kind = pytest.mark.parametrize("kind", sorted(CORRUPTIONS))


def images(seed: int = 0, *shape: int, dtype=torch.float32) -> torch.Tensor:
    return torch.rand(shape or (4, 3, 9, 7), generator=torch.Generator().manual_seed(seed)).to(dtype)


def corrupted(clean: torch.Tensor, kind: str, strength: int, seed: int = 0) -> torch.Tensor:
    return corrupt(clean, kind, strength, generator=torch.Generator().manual_seed(seed))


@every_kind
@settings(deadline=None)
@given(st.integers(0, 2**32 - 1), st.tuples(*[st.integers(1, 12)] * 4))
def test_range_shape_and_strength(kind: str, seed: int, shape: tuple[int, ...]) -> None:
    clean = images(seed, *shape, dtype=torch.float64)
    before = clean.clone()
    changed = [corrupted(clean, kind, strength, seed) for strength in range(1, 6)]
    assert torch.equal(clean, before)
    for one in changed:
        assert (one.shape, one.dtype) == (clean.shape, clean.dtype)
        assert 0 <= one.min() <= one.max() <= 1
    distances = [(one - clean).norm().item() for one in changed]
    assert all(low <= high + 1e-12 for low, high in itertools.pairwise([0, *distances]))


@every_kind
def test_each_strength_changes_more(kind: str) -> None:
    clean = nn.functional.interpolate(images(0, 4, 3, 6, 6), 24, mode="bilinear")  # smooth, as photos are
    distances = [(corrupted(clean, kind, strength) - clean).norm().item() for strength in range(1, 6)]
    assert all(low * 1.05 < high for low, high in itertools.pairwise(distances))
    assert distances[0] > 0.1


@every_kind
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_stays_what_it_is(kind: str, dtype) -> None:
    clean = images(dtype=dtype)
    changed = corrupted(clean, kind, 3)
    assert changed.dtype == dtype
    assert torch.equal(changed, corrupted(clean.float(), kind, 3).to(dtype))


@every_kind
def test_a_corruption_repeats(kind: str) -> None:
    assert torch.equal(corrupted(images(), kind, 2), corrupted(images(), kind, 2))
    differs = not torch.equal(corrupted(images(), kind, 2), corrupted(images(), kind, 2, seed=1))
    generator = torch.Generator().manual_seed(0)
    untouched = generator.get_state()
    corrupt(images(), kind, 2, generator=generator)
    drawn = not torch.equal(generator.get_state(), untouched)
    assert differs == drawn == (kind == "gaussian_noise")


def test_numbers_by_hand() -> None:
    clean = torch.tensor([0.0, 0.5, 0.6, 0.9]).reshape(1, 1, 2, 2)
    assert corrupted(clean, "brightness", 4).flatten().tolist() == pytest.approx([0.4, 0.9, 1, 1])
    contrast = [0.5 + 0.3 * (value - 0.5) for value in (0, 0.5, 0.6, 0.9)]
    assert corrupted(clean, "contrast", 4).flatten().tolist() == pytest.approx(contrast)
    grey = torch.full((8, 3, 32, 32), 0.5)
    noise = corrupted(grey, "gaussian_noise", 3) - grey
    assert noise.std().item() == pytest.approx(0.08, rel=0.02)
    assert noise.mean().item() == pytest.approx(0, abs=0.002)


@pytest.mark.parametrize("strength", range(1, 6))
def test_blur_is_a_gaussian(strength: int) -> None:
    sigma = CORRUPTIONS["gaussian_blur"][strength - 1]
    point = torch.zeros(1, 1, 33, 25, dtype=torch.float64)
    point[0, 0, 16, 12] = 1
    spread = corrupted(point, "gaussian_blur", strength)[0, 0]
    assert spread.sum().item() == pytest.approx(1, abs=1e-12)
    for dim, centre in ((0, 16), (1, 12)):
        offsets = np.abs(np.arange(point.shape[2 + dim]) - centre)
        # The discrete analogue of the Gaussian, in closed form; the edges are far away.
        expected = ive(offsets, sigma**2)
        np.testing.assert_allclose(spread.sum(1 - dim).numpy(), expected, atol=1e-6)
        assert (expected * offsets**2).sum() == pytest.approx(sigma**2, rel=1e-3)


def test_blur_keeps_constants_and_the_mean() -> None:
    grey = torch.full((1, 2, 5, 8), 0.3, dtype=torch.float64)
    torch.testing.assert_close(corrupted(grey, "gaussian_blur", 5), grey)
    clean = images(dtype=torch.float64)
    blurred = corrupted(clean, "gaussian_blur", 5)
    torch.testing.assert_close(blurred.mean((2, 3)), clean.mean((2, 3)))
    torch.testing.assert_close(corrupted(clean.mT, "gaussian_blur", 5), blurred.mT)


# ---------------------------------------------------------------- adversarial images


def network() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Conv2d(3, 6, 3), nn.Tanh(), nn.Flatten(), nn.Linear(6 * 7 * 5, 4))
    return model.double().eval()


def loss_of(model: nn.Module):
    target = torch.tensor([0, 1, 2, 3])
    return lambda batch: nn.functional.cross_entropy(model(batch), target)


def test_loss_rises_by_epsilon_times_the_l1_norm_of_its_gradient() -> None:
    loss = loss_of(network())
    clean = 0.1 + 0.8 * images(dtype=torch.float64)
    inside = clean.clone().requires_grad_()
    (slope,) = torch.autograd.grad(loss(inside), inside)
    for epsilon in (1e-3, 1e-4):
        rise = loss(fgsm(loss, clean, epsilon=epsilon)) - loss(clean)
        assert rise.item() == pytest.approx(epsilon * slope.abs().sum().item(), rel=20 * epsilon)
        random = (
            clean + epsilon * (torch.randn(clean.shape, generator=torch.Generator().manual_seed(0))).sign()
        )
        assert loss(random) - loss(clean) < rise / 4


@settings(deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(0, 1))
def test_attack_stays_in_its_box(seed: int, epsilon: float) -> None:
    clean = images(seed)
    attacked = fgsm(lambda batch: (batch - 0.5).pow(3).sum(), clean, epsilon=epsilon)
    assert 0 <= attacked.min() <= attacked.max() <= 1
    assert (attacked - clean).abs().max() <= epsilon + 1e-6
    assert (attacked >= clean).all()


def test_nothing_but_the_images_is_changed() -> None:
    model, clean = network(), images(dtype=torch.float64)
    before = clean.clone()
    with torch.no_grad():
        attacked = fgsm(loss_of(model), clean, epsilon=8 / 255)
    assert torch.equal(clean, before)
    assert not attacked.requires_grad
    assert all(parameter.grad is None for parameter in model.parameters())
    assert attacked.dtype == torch.float64


# ---------------------------------------------------------------- wrong input


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (
            images()[0],
            r"images must be a floating-point tensor \[B, C, H, W\].* got a tensor of float32 \[3, 9, 7\]",
        ),
        (images()[:0], r"not empty, got a tensor of float32 \[0, 3, 9, 7\]"),
        (images().byte(), "got a tensor of uint8"),
        (2 * images() - 1, r"images must lie in \[0, 1\], not normalised, got -\d"),
        (images() + 1, r"images must lie in \[0, 1\], not normalised, got 1"),
        (images() * torch.nan, r"images must lie in \[0, 1\], not normalised, got nan"),
    ],
)
def test_images_are_checked(wrong, message) -> None:
    with pytest.raises(ValueError, match=message):
        corrupted(wrong, "contrast", 1)
    with pytest.raises(ValueError, match=message):
        fgsm(torch.sum, wrong, epsilon=0.1)


def test_kind_and_strength_are_checked() -> None:
    with pytest.raises(ValueError, match="unknown corruption 'blur'; nearest: 'gaussian_blur'"):
        corrupted(images(), "blur", 1)
    for strength in (0, 6, 1.0, True):
        with pytest.raises(ValueError, match=f"strength must be an integer from 1 to 5, got {strength}"):
            corrupted(images(), "contrast", strength)


def test_loss_and_epsilon_are_checked() -> None:
    with pytest.raises(ValueError, match=r"epsilon must be a finite number >= 0, got -0.1"):
        fgsm(torch.sum, images(), epsilon=-0.1)
    with pytest.raises(ValueError, match=r"loss_of_images must return a scalar, got shape \[4\]"):
        fgsm(lambda batch: batch.sum((1, 2, 3)), images(), epsilon=0.1)
    for constant in (torch.tensor(1.0), torch.tensor(1.0, requires_grad=True) * 2):
        with pytest.raises(ValueError, match="a loss that depends on the images, got one that does not"):
            fgsm(lambda _, constant=constant: constant, images(), epsilon=0.1)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@every_kind
def test_gpu_makes_the_same_images(kind: str) -> None:
    torch.testing.assert_close(corrupted(images().cuda(), kind, 4).cpu(), corrupted(images(), kind, 4))
