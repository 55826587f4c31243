"""Augmentation: steps against plain slicing, Pillow and torch, and lists of steps as recipes write them."""

import re
from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import stats
from torch.nn import functional

from dotkd.data import Augmentation, ImageData, augment, crop_flip
from dotkd.data.augment import STEPS, cutmix, cutout, mixup, resized_crop, rotate
from dotkd.errors import BadInput
from dotkd.models import ImageModel


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def noise(*shape, dtype=torch.uint8):
    """Pixels that are never zero, as the border is."""
    return torch.randint(1, 256, shape, generator=generator(99)).to(dtype)


def by_slicing(images, view, pad):
    """One image after the other, as one would write it down."""
    channels, height, width = images.shape[1:]
    views = []
    for image, number in zip(images, view.tolist(), strict=True):
        place, flip = divmod(number, 2)
        top, left = divmod(place, 2 * pad + 1)
        padded = torch.zeros(channels, height + 2 * pad, width + 2 * pad, dtype=images.dtype)
        padded[:, pad : pad + height, pad : pad + width] = image
        crop = padded[:, top : top + height, left : left + width]
        views.append(crop.flip(2) if flip else crop)
    return torch.stack(views)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.float16])
@pytest.mark.parametrize(("shape", "pad"), [((3, 32, 32), 4), ((1, 5, 9), 2), ((2, 7, 3), 8), ((3, 4, 6), 0)])
def test_equals_plain_slicing(seed, dtype, shape, pad):
    images = noise(40, *shape, dtype=dtype)
    before = images.clone()
    views, view = crop_flip(images, generator=generator(seed), pad=pad)
    assert torch.equal(views, by_slicing(images, view, pad))
    assert (views.dtype, views.shape, views.is_contiguous()) == (dtype, images.shape, True)
    assert (view.dtype, view.shape) == (torch.int64, (40,))
    assert torch.equal(images, before)


def test_equals_pillow():
    images = noise(30, 3, 32, 32)
    views, view = crop_flip(images, generator=generator())
    for image, here, number in zip(images, views, view.tolist(), strict=True):
        peer = Image.new("RGB", (40, 40))
        peer.paste(Image.fromarray(image.permute(1, 2, 0).contiguous().numpy()), (4, 4))
        top, left = divmod(number // 2, 9)
        peer = peer.crop((left, top, left + 32, top + 32))
        if number % 2:
            peer = peer.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        assert peer.tobytes() == here.permute(1, 2, 0).contiguous().numpy().tobytes()


@pytest.mark.parametrize("pad", [0, 1, 4])
def test_every_view_is_equally_likely(pad):
    count, each = 2 * (2 * pad + 1) ** 2, 500
    _, view = crop_flip(noise(1, 1, 1, 1).expand(count * each, 1, 1, 1), generator=generator(), pad=pad)
    hits = torch.bincount(view, minlength=count)
    assert len(hits) == count
    # Chi-squared with count - 1 degrees of freedom: mean count - 1, variance twice that.
    distance = float(((hits - each) ** 2).sum() / each)
    assert abs(distance - (count - 1)) < 4 * (2 * max(count - 1, 1)) ** 0.5


def test_without_a_border_there_is_only_the_flip():
    images = noise(50, 3, 4, 6)
    views, view = crop_flip(images, generator=generator(), pad=0)
    assert set(view.tolist()) == {0, 1}
    assert torch.equal(views[view == 0], images[view == 0])
    assert torch.equal(views[view == 1], images[view == 1].flip(3))


def test_the_middle_without_a_flip_is_the_image():
    images = noise(2000, 1, 2, 2)
    views, view = crop_flip(images, generator=generator(), pad=1)
    middle = view == (1 * 3 + 1) * 2
    assert middle.any()
    assert torch.equal(views[middle], images[middle])


def test_crop_flip_gives_the_same_bits_from_the_same_state_and_moves_on():
    images, first, second = noise(64, 3, 8, 8), generator(3), generator(3)
    one, two = (crop_flip(images, generator=source) for source in (first, second))
    assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))
    assert not torch.equal(crop_flip(images, generator=first)[1], one[1])
    assert not torch.equal(crop_flip(images, generator=generator(4))[1], one[1])


def test_the_draws_do_not_depend_on_what_the_images_are():
    views = [
        crop_flip(images, generator=generator())[1]
        for images in (noise(64, 3, 8, 8), noise(64, 1, 5, 9, dtype=torch.float32))
    ]
    assert torch.equal(*views)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.bfloat16])
def test_crop_flip_gives_the_same_bits_on_a_gpu(dtype):
    images = noise(64, 3, 32, 32, dtype=dtype)
    here, there = (crop_flip(where, generator=generator()) for where in (images, images.to("cuda")))
    for a, b in zip(here, there, strict=True):
        assert b.is_cuda
        assert torch.equal(a, b.cpu())


@pytest.mark.parametrize(
    ("images", "pad", "message"),
    [
        (
            torch.zeros(3, 8, 8),
            4,
            r"images must be a tensor \[B, C, H, W\], got a tensor of float32 \[3, 8, 8\]",
        ),
        ([1], 4, r"images must be a tensor \[B, C, H, W\], got \[1\]"),
        (torch.zeros(1, 3, 8, 8), -1, r"pad must be an integer >= 0, got -1"),
        (torch.zeros(1, 3, 8, 8), 1.5, r"pad must be an integer >= 0, got 1.5"),
    ],
)
def test_crop_flip_refuses_other_arguments(images, pad, message):
    with pytest.raises(ValueError, match=message):
        crop_flip(images, generator=generator(), pad=pad)


# ---------------------------------------------------------------- in the batches of a data set


def data(count=20):
    return ImageData(noise(count, 3, 8, 8), torch.zeros(count, dtype=torch.int64), ("one",))


def test_batches_carry_the_views_and_their_numbers():
    whole, change = data(), partial(crop_flip, generator=generator(5), pad=2)
    batches = list(whole.batches(8, generator=generator(1), augment=change))
    plain = list(whole.batches(8, generator=generator(1)))
    assert [len(batch) for batch in batches] == [8, 8, 4]
    for batch, other in zip(batches, plain, strict=True):
        assert torch.equal(batch.index, other.index)
        assert torch.equal(batch.labels, other.labels)
        expected = by_slicing(whole.pixels[batch.index], batch.view, 2)
        assert torch.equal(batch.images, expected.to(torch.float32) / 255)
        assert other.view is None


def test_the_augmentation_sees_the_pixels_as_they_are_stored():
    seen = []

    def change(images):
        seen.append(images)
        return images, torch.zeros(len(images), dtype=torch.int64)

    whole = data()
    (batch,) = whole.batches(20, augment=change)
    assert seen[0].dtype == torch.uint8
    assert torch.equal(seen[0], whole.pixels)
    assert batch.view.tolist() == [0] * 20


# ---------------------------------------------------------------- other steps


def pixels(*shape, dtype=torch.uint8):
    """Noise, in the range that the type has."""
    levels = torch.randint(0, 256, shape, generator=generator(99))
    return levels.to(torch.uint8) if dtype == torch.uint8 else (levels / 255).to(dtype)


def to_pillow(image):
    channels = image.permute(1, 2, 0).contiguous().numpy()
    return Image.fromarray(channels[..., 0] if len(image) == 1 else channels)


def from_pillow(peer):
    return torch.from_numpy(np.array(peer)).reshape(peer.height, peer.width, -1).permute(2, 0, 1)


def flip(images, *, generator):
    return crop_flip(images, generator=generator, pad=0)[0]


CHANGES = {
    "flip": flip,
    "rotate": partial(rotate, degrees=30),
    "resized_crop": lambda images, **more: resized_crop(images, (9, 14), **more),
    "cutout": partial(cutout, size=4),
}


@pytest.fixture(params=CHANGES)
def change(request):
    return CHANGES[request.param]


# ---------------------------------------------------------------- what all of them promise


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.float16, torch.float64])
@pytest.mark.parametrize("channels", [1, 3])
def test_type_and_shape_stay_and_the_images_too(change, channels, dtype):
    images = pixels(20, channels, 9, 14, dtype=dtype)
    before = images.clone()
    result = change(images, generator=generator())
    assert (result.dtype, result.shape) == (images.dtype, images.shape)
    assert torch.equal(images, before)
    assert not torch.equal(result, images)
    assert float(result.min()) >= 0
    assert float(result.max()) <= (255 if dtype == torch.uint8 else 1)


def test_the_same_state_gives_the_same_bits_and_another_one_does_not(change):
    images = pixels(32, 3, 9, 14)
    first, second, third = (change(images, generator=generator(seed)) for seed in (3, 3, 4))
    assert torch.equal(first, second)
    assert not torch.equal(first, third)


def test_the_generator_moves_on_by_the_same_amount_whatever_the_images_hold(change):
    states = []
    for images in (pixels(32, 3, 9, 14), torch.zeros(32, 1, 9, 14), torch.ones(32, 3, 9, 14)):
        source = generator()
        change(images, generator=source)
        states.append(source.get_state())
    assert torch.equal(states[0], states[1])
    assert torch.equal(states[0], states[2])
    assert not torch.equal(states[0], generator().get_state())


def test_each_image_has_numbers_of_its_own(change):
    images = pixels(1, 3, 9, 14).expand(64, 3, 9, 14)
    different = torch.unique(change(images, generator=generator()), dim=0)
    assert len(different) == 2 if change is flip else len(different) > 40


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_a_gpu_gives_the_same(change, dtype):
    images = pixels(64, 3, 9, 14, dtype=dtype)
    here, there = (change(where, generator=generator()) for where in (images, images.to("cuda")))
    assert there.is_cuda
    torch.testing.assert_close(here, there.cpu(), rtol=0, atol=1 if dtype == torch.uint8 else 1e-6)


# ---------------------------------------------------------------- flips, and the whole of CIFAR


def test_half_of_the_images_are_mirrored():
    images = pixels(4000, 1, 1, 2)
    images[..., 1] = 255 - images[..., 0] // 2  # always differs from its mirror image but for 170
    result = flip(images, generator=generator())
    mirrored = (result == images.flip(3)).flatten(1).all(1)
    assert torch.equal(result[~mirrored], images[~mirrored])
    assert 0.46 < float(mirrored.float().mean()) < 0.54


def test_crop_flip_and_normalisation_equal_pillow_and_numpy():
    mean, std = (0.507, 0.487, 0.441), (0.267, 0.256, 0.276)
    images = pixels(60, 3, 32, 32)
    views, numbers = crop_flip(images, generator=generator())
    here = ImageModel(mean=mean, std=std).normalize(views.to(torch.float32) / 255)
    for image, result, number in zip(images, here, numbers.tolist(), strict=True):
        top, left = divmod(number // 2, 9)
        peer = Image.new("RGB", (40, 40))
        peer.paste(to_pillow(image), (4, 4))
        peer = peer.crop((left, top, left + 32, top + 32))
        if number % 2:
            peer = peer.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        expected = (np.asarray(peer) / 255 - np.array(mean)) / np.array(std)
        np.testing.assert_allclose(result.permute(1, 2, 0).numpy(), expected, rtol=0, atol=1e-5)


# ---------------------------------------------------------------- rotations


@pytest.mark.parametrize("shape", [(1, 32, 32), (3, 32, 32), (3, 9, 14)])
def test_rotation_equals_pillow(shape):
    """Within one level for 99.5 % of the pixels: Pillow's places have 16 bits behind the point."""
    images, angles = pixels(40, *shape), torch.linspace(-180, 180, 40, dtype=torch.float64)
    here = augment._rotated(images, angles)
    peers = [
        from_pillow(to_pillow(image).rotate(angle))
        for image, angle in zip(images, angles.tolist(), strict=True)
    ]
    distance = (here.int() - torch.stack(peers).int()).abs()
    assert float((distance <= 1).float().mean()) > 0.995


def test_angles_are_uniform_and_quarter_turns_exact(monkeypatch):
    seen, rotated = [], augment._rotated
    monkeypatch.setattr(
        augment, "_rotated", lambda images, angles: seen.append(angles) or rotated(images, angles)
    )
    images = pixels(2000, 1, 4, 4)
    rotate(images, generator=generator(), degrees=30)
    assert -30 <= float(seen[0].min()) < -29
    assert 29 < float(seen[0].max()) <= 30
    assert abs(float(seen[0].mean())) < 1.2
    quarters = rotated(images, torch.full((2000,), 90.0, dtype=torch.float64))
    assert torch.equal(quarters, images.rot90(1, (2, 3)))
    assert torch.equal(rotate(images, generator=generator(), degrees=0), images)


# ---------------------------------------------------------------- resized crops


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [16, (7, 40)])
def test_resized_crop_equals_torch(size, channels, dtype, monkeypatch):
    """Floats to 1e-5 for every pixel, uint8 to one level."""
    boxes, make = [], augment._boxes
    monkeypatch.setattr(augment, "_boxes", lambda *more: boxes.append(make(*more)) or boxes[-1])
    images = pixels(50, channels, 24, 31, dtype=dtype)
    here = resized_crop(images, size, generator=generator())
    sides = size if isinstance(size, tuple) else (size, size)
    for image, result, (top, left, height, width) in zip(images, here, boxes[0].T.tolist(), strict=True):
        crop = image[None, :, top : top + height, left : left + width].to(torch.float32)
        assert crop.shape[2:] == (height, width)
        peer = functional.interpolate(crop, sides, mode="bilinear", align_corners=False)[0]
        tolerance = 1 if dtype == torch.uint8 else 1e-5
        torch.testing.assert_close(result.to(torch.float32), peer, rtol=0, atol=tolerance)


def test_boxes_keep_to_the_ranges():
    shape = torch.Size([5000, 3, 200, 300])
    top, left, height, width = augment._boxes(shape, (0.08, 1.0), (3 / 4, 4 / 3), generator())
    assert int(top.min()) == int(left.min()) == 0
    assert bool(((top + height <= 200) & (left + width <= 300)).all())
    share, ratio = height * width / 60000, width / height
    assert 0.075 < float(share.min()) < 0.09
    assert 0.7 < float(ratio.min()) < 0.76
    assert 1.32 < float(ratio.max()) < 1.36
    # Large boxes that are tall do not fit into a wide image and are drawn anew; small ones all fit.
    small = share < 0.4
    assert abs(float(ratio[small].log().mean())) < 0.02


def test_a_box_that_cannot_fit_becomes_the_largest_in_the_middle():
    boxes = augment._boxes(torch.Size([8, 3, 10, 100]), (1.0, 1.0), (0.5, 2.0), generator())
    assert torch.equal(boxes, torch.tensor([0, 40, 10, 20])[:, None].expand(4, 8))
    images = pixels(8, 3, 10, 20)
    whole = resized_crop(images, (10, 20), generator=generator(), scale=(1, 1), ratio=(2, 2))
    assert torch.equal(whole, images)


# ---------------------------------------------------------------- holes


@pytest.mark.parametrize("size", [0, 1, 4, 5, 40])
def test_the_hole_is_a_square_cut_off_at_the_edge(size):
    holes = cutout(torch.ones(400, 2, 12, 17), generator=generator(), size=size) == 0
    assert torch.equal(holes[:, 0], holes[:, 1])
    rows, columns = holes[:, 0].any(2).sum(1), holes[:, 0].any(1).sum(1)
    area = holes[:, 0].sum((1, 2))
    assert torch.equal(area, rows * columns)
    assert int(rows.max()) == min(size, 12)
    assert int(columns.max()) == min(size, 17)
    if 0 < size < 12:
        inside = float((area == size**2).float().mean())
        expected = (12 - size + 1) * (17 - size + 1) / (12 * 17)
        assert abs(inside - expected) < 0.1


# ---------------------------------------------------------------- what they refuse


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda x, g: cutout(x[0], generator=g, size=1),
            r"images must be .*\[B, C, H, W\], got .* \[3, 8, 8\]",
        ),
        (lambda x, g: cutout(x.int(), generator=g, size=1), r"images must be .* got a tensor of int32"),
        (lambda x, g: rotate(x, generator=g, degrees=-1), r"degrees must be a number of at least 0 .*-1"),
        (lambda x, g: rotate(x, generator=g, degrees=float("nan")), r"degrees must be a number .*nan"),
        (lambda x, g: cutout(x, generator=g, size=1.5), r"size must be an integer >= 0, got 1.5"),
        (lambda x, g: resized_crop(x, 0, generator=g), r"size must be an integer >= 1"),
        (
            lambda x, g: resized_crop(x, 8, generator=g, scale=(0.5, 1.5)),
            r"scale must be a number above 0 and at most 1, got 1.5",
        ),
        (
            lambda x, g: resized_crop(x, 8, generator=g, ratio=(2, 1)),
            r"ratio must be a pair of numbers, the smaller one first, got \(2, 1\)",
        ),
        (
            lambda x, g: resized_crop(x, 8, generator=g, ratio=1),
            r"ratio must be a pair of numbers, the smaller one first, got 1",
        ),
    ],
)
def test_steps_refuse_other_arguments(call, message):
    with pytest.raises(ValueError, match=message):
        call(torch.zeros(2, 3, 8, 8), generator())


# ---------------------------------------------------------------- mixup and CutMix


CLASSES = 7


def batch(count, channels=3, dtype=torch.float64):
    """Every image is its number alone, so that a mixture tells what is in it."""
    numbers = torch.arange(count).to(dtype)
    return numbers[:, None, None, None].repeat(1, channels, 10, 13), torch.arange(count) % CLASSES


def both(function):
    return pytest.mark.parametrize("mix", [mixup, cutmix])(function)


@both
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.float16])
@pytest.mark.parametrize("channels", [1, 3])
def test_mixing_keeps_type_shape_and_sums(mix, channels, dtype):
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
def test_mixing_gives_the_same_bits_from_the_same_state_and_moves_on_whatever_the_images_hold(mix):
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
def test_mixing_gives_the_same_on_a_gpu(mix):
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
        (torch.tensor([0, 1]), 0, 1.0, r"num_classes must be an integer >= 1, got 0"),
        (torch.tensor([0, 1]), 7, 0, r"alpha must be a number above 0, got 0"),
    ],
)
def test_mixing_refuses_other_arguments(mix, labels, classes, alpha, message):
    with pytest.raises(ValueError, match=message):
        mix(torch.zeros(2, 3, 4, 4), labels, classes, alpha=alpha, generator=generator())


# ---------------------------------------------------------------- lists of steps


PIXELS = torch.randint(0, 256, (6, 3, 12, 12), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
LABELS = torch.tensor([0, 1, 2, 0, 1, 2])


@pytest.mark.parametrize("name", STEPS)
def test_every_step_changes_images_and_repeats_under_one_seed(name):
    augmentation = Augmentation([name])
    results = []
    for _ in range(2):
        source = generator(3)
        views = augmentation.views(source)
        pixels = views(PIXELS)[0] if views else PIXELS
        results.append(augmentation.mix(pixels / 255, LABELS, 3, generator=source)[0])
    assert torch.equal(*results)
    assert results[0].shape == PIXELS.shape
    assert not torch.equal(results[0], PIXELS / 255)


def test_steps_follow_each_other_in_the_order_of_the_list():
    source = generator(3)
    views, numbers = Augmentation(["rotate:40", "crop-flip:2"]).views(source)(PIXELS)
    source = generator(3)
    wanted = crop_flip(rotate(PIXELS, generator=source, degrees=40.0), generator=source, pad=2)[0]
    assert torch.equal(views, wanted)
    assert numbers is None


def test_mixing_comes_after_the_views_and_gives_probabilities():
    source = generator(3)
    augmentation = Augmentation(["flip", "mixup:0.5"])
    images = augmentation.views(source)(PIXELS)[0] / 255
    mixed, probabilities = augmentation.mix(images, LABELS, 3, generator=source)
    source = generator(3)
    flipped = crop_flip(PIXELS, generator=source, pad=0)[0] / 255
    wanted = mixup(flipped, LABELS, 3, alpha=0.5, generator=source)
    assert torch.equal(mixed, wanted[0])
    assert torch.equal(probabilities, wanted[1])
    assert torch.allclose(probabilities.sum(dim=1), torch.ones(6))


@pytest.mark.parametrize(
    ("steps", "number"),
    [([], 1), (["flip"], 2), (["crop-flip"], 162), (["crop-flip:1"], 18), (["rotate"], None)],
)
def test_views_that_can_be_counted_are_numbered(steps, number):
    augmentation = Augmentation(steps)
    assert augmentation.num_views == number
    views = augmentation.views(generator(3))
    batch = next(ImageData(PIXELS, LABELS, ("a", "b", "c")).batches(6, augment=views))
    assert (batch.view is None) == (number in (1, None))
    if batch.view is not None:
        assert int(batch.view.max()) < number


def test_no_step_is_no_change():
    assert Augmentation([]).views(generator(3)) is None
    assert Augmentation(["cutmix"]).views(generator(3)) is None
    images, labels = Augmentation([]).mix(PIXELS, LABELS, 3, generator=generator(3))
    assert images is PIXELS
    assert labels is LABELS


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        (["rotat"], "unknown step 'rotat'; nearest: 'rotate'"),
        (["rotate:"], "the number of 'rotate' must be a number from 0 to 180, got 'rotate:'"),
        (["rotate:nan"], "must be a number from 0 to 180, got 'rotate:nan'"),
        (["rotate:181"], "must be a number from 0 to 180, got 'rotate:181'"),
        (["mixup:inf"], "must be a number from 0.0001 to inf, got 'mixup:inf'"),
        (["crop-flip:1.5"], "must be a whole number from 0 to 64, got 'crop-flip:1.5'"),
        (["flip:2"], "the number of 'flip' must be none, got 'flip:2'"),
        (
            ["cutmix", "mixup"],
            "cutmix:1 mixes labels and must be the last step, got ['cutmix:1', 'mixup:0.2']",
        ),
    ],
)
def test_what_is_no_step_is_refused(steps, message):
    with pytest.raises(BadInput, match=re.escape(message)):
        Augmentation(steps)
