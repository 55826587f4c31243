"""Mixup and CutMix: the images are what the probabilities say."""

import pytest
import torch
from scipy import stats

from dotkd.data.augment import cutmix, mixup

CLASSES = 7


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def batch(count, channels=3, dtype=torch.float64):
    """Every image is its number alone, so that a mixture tells what is in it."""
    numbers = torch.arange(count).to(dtype)
    return numbers[:, None, None, None].repeat(1, channels, 10, 13), torch.arange(count) % CLASSES


def both(function):
    return pytest.mark.parametrize("mix", [mixup, cutmix])(function)


@both
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.float16])
@pytest.mark.parametrize("channels", [1, 3])
def test_type_shape_and_sums(mix, channels, dtype):
    images, labels = batch(40, channels, dtype)
    before = images.clone()
    mixed, probabilities = mix(images, labels, CLASSES, alpha=0.7, generator=generator())
    assert (mixed.dtype, mixed.shape) == (dtype, images.shape)
    assert (probabilities.dtype, probabilities.shape) == (torch.float32, (40, CLASSES))
    torch.testing.assert_close(probabilities.sum(1), torch.ones(40), rtol=0, atol=1e-6)
    assert torch.equal(images, before)
    assert not torch.equal(mixed, images)


@both
def test_probabilities_are_the_shares_in_the_image(mix):
    """One class for each image: the mean of the mixture is the mixture of the class numbers."""
    images, labels = batch(50)
    labels = torch.arange(50)
    mixed, probabilities = mix(images, labels, 50, alpha=1.0, generator=generator())
    shares = probabilities.double() @ torch.arange(50, dtype=torch.float64)
    torch.testing.assert_close(mixed.mean((1, 2, 3)), shares, rtol=0, atol=1e-5)
    assert int((probabilities > 0).sum(1).max()) == 2
    assert len(torch.unique(probabilities.max(1).values)) > 15


def test_cutmix_pastes_a_box():
    images, _ = batch(200)
    mixed, probabilities = cutmix(images, torch.arange(200), 200, alpha=1.0, generator=generator())
    foreign = (mixed != images)[:, 0]
    assert torch.equal((mixed != images)[:, 2], foreign)
    rows, columns, area = foreign.any(2).sum(1), foreign.any(1).sum(1), foreign.sum((1, 2))
    assert torch.equal(area, rows * columns)
    own = probabilities.diagonal()
    moved = area > 0
    torch.testing.assert_close(own[moved], (1 - area / 130)[moved], rtol=0, atol=1e-6)
    assert int(moved.sum()) > 150


def test_mixup_shares_are_beta():
    images, _ = batch(3000, 1)
    _, probabilities = mixup(images[..., :1, :1], torch.arange(3000), 3000, alpha=0.4, generator=generator())
    own = probabilities.diagonal()
    own = own[own < 1].numpy()
    assert stats.kstest(own, stats.beta(0.4, 0.4).cdf).pvalue > 0.01


@both
def test_the_same_state_gives_the_same_bits_and_moves_on_whatever_the_images_hold(mix):
    images, labels = batch(30)
    first, second, third = (
        mix(images, labels, CLASSES, alpha=1.0, generator=generator(seed)) for seed in (3, 3, 4)
    )
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert not torch.equal(first[0], third[0])
    states = []
    for other, alpha in ((images, 1.0), (torch.zeros(30, 1, 5, 4), 0.2)):
        source = generator()
        mix(other, labels.flip(0), CLASSES, alpha=alpha, generator=source)
        states.append(source.get_state())
    assert torch.equal(*states)


def test_a_tiny_alpha_hardly_mixes():
    images, labels = batch(50)
    _, probabilities = mixup(images, labels, CLASSES, alpha=1e-4, generator=generator())
    assert bool(probabilities.isfinite().all())
    assert float((probabilities.max(1).values > 0.99).float().mean()) > 0.9


@both
@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_gives_the_same(mix):
    images, labels = batch(50, dtype=torch.float32)
    here = mix(images, labels, CLASSES, alpha=1.0, generator=generator())
    there = mix(images.cuda(), labels.cuda(), CLASSES, alpha=1.0, generator=generator())
    for a, b in zip(here, there, strict=True):
        assert b.is_cuda
        torch.testing.assert_close(a, b.cpu(), rtol=0, atol=1e-5)


@both
@pytest.mark.parametrize(
    ("labels", "classes", "alpha", "message"),
    [
        (torch.zeros(3, dtype=torch.int64), 7, 1.0, r"labels must be a tensor of int64 \[2\]"),
        (torch.tensor([0, 7]), 7, 1.0, r"labels must lie from 0 to 6 \(7 classes\), got 0 to 7"),
        (torch.tensor([0, 1]), 0, 1.0, r"num_classes must be an integer of at least 1, got 0"),
        (torch.tensor([0, 1]), 7, 0, r"alpha must be a number above 0, got 0"),
    ],
)
def test_refuses_other_arguments(mix, labels, classes, alpha, message):
    with pytest.raises(ValueError, match=message):
        mix(torch.zeros(2, 3, 4, 4), labels, classes, alpha=alpha, generator=generator())
