"""Flips, rotations, resized crops and holes: against Pillow and torch, image by image; reproducible."""

from functools import partial

import numpy as np
import pytest
import torch
from torch.nn import functional

from dotkd.data import augment_geometry
from dotkd.data.augment import affine, crop_flip, cutout, flip, random_resized_crop, rotate, rotation
from dotkd.models import ImageModel

image_module = pytest.importorskip("PIL.Image")


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def pixels(*shape, dtype=torch.uint8):
    """Noise, in the range that the type has."""
    levels = torch.randint(0, 256, shape, generator=generator(99))
    return levels.to(torch.uint8) if dtype == torch.uint8 else (levels / 255).to(dtype)


def to_pillow(image):
    channels = image.permute(1, 2, 0).contiguous().numpy()
    return image_module.fromarray(channels[..., 0] if len(image) == 1 else channels)


def from_pillow(peer):
    return torch.from_numpy(np.array(peer)).reshape(peer.height, peer.width, -1).permute(2, 0, 1)


CHANGES = {
    "flip": flip,
    "rotate": partial(rotate, degrees=30),
    "rotate bilinear": partial(rotate, degrees=30, bilinear=True),
    "random_resized_crop": lambda images, **more: random_resized_crop(images, (9, 14), **more),
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
    assert torch.equal(flip(images, generator=generator(), probability=1), images.flip(3))
    assert torch.equal(flip(images, generator=generator(), probability=0), images)


def test_crop_flip_and_normalisation_equal_pillow_and_numpy():
    mean, std = (0.507, 0.487, 0.441), (0.267, 0.256, 0.276)
    images = pixels(60, 3, 32, 32)
    views, numbers = crop_flip(images, generator=generator())
    here = ImageModel(mean=mean, std=std).normalize(views.to(torch.float32) / 255)
    for image, result, number in zip(images, here, numbers.tolist(), strict=True):
        top, left = divmod(number // 2, 9)
        peer = image_module.new("RGB", (40, 40))
        peer.paste(to_pillow(image), (4, 4))
        peer = peer.crop((left, top, left + 32, top + 32))
        if number % 2:
            peer = peer.transpose(image_module.Transpose.FLIP_LEFT_RIGHT)
        expected = (np.asarray(peer) / 255 - np.array(mean)) / np.array(std)
        np.testing.assert_allclose(result.permute(1, 2, 0).numpy(), expected, rtol=0, atol=1e-5)


# ---------------------------------------------------------------- rotations


@pytest.mark.parametrize(("bilinear", "resample"), [(False, 0), (True, 2)])
@pytest.mark.parametrize("shape", [(1, 32, 32), (3, 32, 32), (3, 9, 14)])
def test_rotation_equals_pillow(shape, bilinear, resample):
    """Within one level for 99.5 % of the pixels: Pillow's places have 16 bits behind the point."""
    images, angles = pixels(40, *shape), torch.linspace(-180, 180, 40, dtype=torch.float64)
    here = affine(images, rotation(angles, *shape[1:]), bilinear=bilinear)
    peers = [
        from_pillow(to_pillow(image).rotate(angle, resample=resample))
        for image, angle in zip(images, angles.tolist(), strict=True)
    ]
    distance = (here.int() - torch.stack(peers).int()).abs()
    assert float((distance <= 1).float().mean()) > 0.995


def test_angles_are_uniform_and_quarter_turns_exact(monkeypatch):
    seen = []
    monkeypatch.setattr(
        augment_geometry, "rotation", lambda angles, *size: seen.append(angles) or rotation(angles, *size)
    )
    images = pixels(2000, 1, 4, 4)
    rotate(images, generator=generator(), degrees=30)
    assert -30 <= float(seen[0].min()) < -29
    assert 29 < float(seen[0].max()) <= 30
    assert abs(float(seen[0].mean())) < 1.2
    quarters = affine(images, rotation(torch.full((2000,), 90.0, dtype=torch.float64), 4, 4))
    assert torch.equal(quarters, images.rot90(1, (2, 3)))
    assert torch.equal(rotate(images, generator=generator(), degrees=0, bilinear=True), images)


# ---------------------------------------------------------------- resized crops


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [16, (7, 40)])
def test_resized_crop_equals_torch(size, channels, dtype, monkeypatch):
    """Floats to 1e-5 for every pixel, uint8 to one level."""
    boxes, make = [], augment_geometry._boxes
    monkeypatch.setattr(augment_geometry, "_boxes", lambda *more: boxes.append(make(*more)) or boxes[-1])
    images = pixels(50, channels, 24, 31, dtype=dtype)
    here = random_resized_crop(images, size, generator=generator())
    sides = size if isinstance(size, tuple) else (size, size)
    for image, result, (top, left, height, width) in zip(images, here, boxes[0].T.tolist(), strict=True):
        crop = image[None, :, top : top + height, left : left + width].to(torch.float32)
        assert crop.shape[2:] == (height, width)
        peer = functional.interpolate(crop, sides, mode="bilinear", align_corners=False)[0]
        tolerance = 1 if dtype == torch.uint8 else 1e-5
        torch.testing.assert_close(result.to(torch.float32), peer, rtol=0, atol=tolerance)


def test_boxes_keep_to_the_ranges():
    shape = torch.Size([5000, 3, 200, 300])
    top, left, height, width = augment_geometry._boxes(shape, (0.08, 1.0), (3 / 4, 4 / 3), generator())
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
    boxes = augment_geometry._boxes(torch.Size([8, 3, 10, 100]), (1.0, 1.0), (0.5, 2.0), generator())
    assert torch.equal(boxes, torch.tensor([0, 40, 10, 20])[:, None].expand(4, 8))
    images = pixels(8, 3, 10, 20)
    whole = random_resized_crop(images, (10, 20), generator=generator(), scale=(1, 1), ratio=(2, 2))
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
        (lambda x, g: flip(x[0], generator=g), r"images must be .*\[B, C, H, W\], got .* \[3, 8, 8\]"),
        (lambda x, g: flip(x.int(), generator=g), r"images must be .* got a tensor of int32"),
        (lambda x, g: flip(x, generator=g, probability=2), r"probability must be .* got 2"),
        (lambda x, g: rotate(x, generator=g, degrees=-1), r"degrees must be a number of at least 0 .*-1"),
        (lambda x, g: rotate(x, generator=g, degrees=float("nan")), r"degrees must be a number .*nan"),
        (lambda x, g: cutout(x, generator=g, size=1.5), r"size must be an integer of at least 0, got 1.5"),
        (lambda x, g: random_resized_crop(x, 0, generator=g), r"size must be an integer of at least 1"),
        (
            lambda x, g: random_resized_crop(x, 8, generator=g, scale=(0.5, 1.5)),
            r"scale must be a number above 0 and at most 1, got 1.5",
        ),
        (
            lambda x, g: random_resized_crop(x, 8, generator=g, ratio=(2, 1)),
            r"ratio must be two numbers, the least first, got \(2, 1\)",
        ),
        (
            lambda x, g: random_resized_crop(x, 8, generator=g, ratio=1),
            r"ratio must be two numbers, the least first, got 1",
        ),
    ],
)
def test_refuses_other_arguments(call, message):
    with pytest.raises(ValueError, match=message):
        call(torch.zeros(2, 3, 8, 8), generator())
