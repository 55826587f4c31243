"""RandAugment: each operation against Pillow, image by image; each image its own operations."""

import numpy as np
import pytest
import torch

from dotkd.data.augment_policy import OPERATIONS, rand_augment

image_module = pytest.importorskip("PIL.Image")
enhance = pytest.importorskip("PIL.ImageEnhance")
ops = pytest.importorskip("PIL.ImageOps")

AFFINE = image_module.Transform.AFFINE


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def pictures(count, channels, height=24, width=31):
    """Smooth pictures with noise, of unlike brightness and contrast."""
    source = generator(7)
    low = torch.rand(count, channels, 4, 4, generator=source)
    smooth = torch.nn.functional.interpolate(low, (height, width), mode="bilinear")
    levels = smooth * torch.linspace(40, 240, count)[:, None, None, None]
    return (levels + 15 * torch.rand(smooth.shape, generator=source)).to(torch.uint8)


def to_pillow(image):
    channels = image.permute(1, 2, 0).contiguous().numpy()
    return image_module.fromarray(channels[..., 0] if len(image) == 1 else channels)


def from_pillow(peer):
    return torch.from_numpy(np.array(peer)).reshape(peer.height, peer.width, -1).permute(2, 0, 1)


PEERS = {
    "identity": lambda im, *_: im,
    "autocontrast": lambda im, *_: ops.autocontrast(im),
    "equalize": lambda im, *_: ops.equalize(im),
    "rotate": lambda im, m, s: im.rotate(30 * m * s),
    "solarize": lambda im, m, _: ops.solarize(im, 256 * (1 - m)),
    "color": lambda im, m, s: enhance.Color(im).enhance(1 + 0.9 * m * s),
    "posterize": lambda im, m, _: ops.posterize(im, 8 - round(4 * m)),
    "contrast": lambda im, m, s: enhance.Contrast(im).enhance(1 + 0.9 * m * s),
    "brightness": lambda im, m, s: enhance.Brightness(im).enhance(1 + 0.9 * m * s),
    "sharpness": lambda im, m, s: enhance.Sharpness(im).enhance(1 + 0.9 * m * s),
    "shear_x": lambda im, m, s: im.transform(im.size, AFFINE, (1, 0.3 * m * s, 0, 0, 1, 0)),
    "shear_y": lambda im, m, s: im.transform(im.size, AFFINE, (1, 0, 0, 0.3 * m * s, 1, 0)),
    "translate_x": lambda im, m, s: im.transform(
        im.size, AFFINE, (1, 0, 150 / 331 * m * s * im.width, 0, 1, 0)
    ),
    "translate_y": lambda im, m, s: im.transform(
        im.size, AFFINE, (1, 0, 0, 0, 1, 150 / 331 * m * s * im.height)
    ),
}
PLACES = {"rotate", "shear_x", "shear_y", "translate_x", "translate_y"}


@pytest.mark.parametrize("magnitude", [0, 7, 9, 15.5, 30])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", OPERATIONS)
def test_each_operation_equals_pillow(name, channels, magnitude):
    """Values within one level for every pixel; places for 99.5 %: Pillow has 16 bits behind the point."""
    images, level = pictures(24, channels), magnitude / 30
    images[0], images[1, :, :, ::2] = 17, 255  # one without any contrast, one with the brightest level
    signs = 2.0 * torch.randint(2, (24,), generator=generator(1)).double() - 1
    here = OPERATIONS[name](images, level, signs)
    assert (here.dtype, here.shape) == (torch.uint8, images.shape)
    peers = [
        from_pillow(PEERS[name](to_pillow(image), level, sign))
        for image, sign in zip(images, signs.tolist(), strict=True)
    ]
    distance = (here.int() - torch.stack(peers).int()).abs()
    if name in PLACES:
        assert float((distance == 0).float().mean()) > 0.995
    else:
        assert int(distance.max()) <= 1
        assert float((distance == 0).float().mean()) > 0.99


def test_equalize_of_few_pixels_and_many_levels_equals_pillow():
    images = torch.randint(0, 256, (60, 1, 18, 18), generator=generator()).to(torch.uint8)
    images[30:] = images[30:] // 2 * 2
    images[:, :, :2] = 255
    here = OPERATIONS["equalize"](images, 0.0, torch.ones(60))
    peers = [from_pillow(ops.equalize(to_pillow(image))) for image in images]
    assert torch.equal(here, torch.stack(peers))


@pytest.mark.parametrize("size", [(1, 1), (2, 5), (3, 3)])
def test_small_images_go_through_every_operation(size):
    images = pictures(4, 3, *size)
    for name in OPERATIONS:
        assert rand_augment(images, generator=generator(), operations=[name]).shape == images.shape


# ---------------------------------------------------------------- which images get which


def test_every_image_has_operations_of_its_own():
    images = pictures(9, 3)[8:].expand(200, -1, -1, -1)
    one = rand_augment(images, generator=generator(), count=1, magnitude=20)
    # 5 places, 4 blends: two signs each; 4 more operations, and identity.
    assert 20 <= len(torch.unique(one, dim=0)) <= 23
    two = rand_augment(images, generator=generator(), count=2, magnitude=20)
    assert len(torch.unique(two, dim=0)) > 80


def test_operations_follow_the_draws_one_after_the_other():
    images, names = pictures(40, 3), ["solarize", "equalize", "rotate"]
    here = rand_augment(images, generator=generator(5), count=2, magnitude=12, operations=names)
    source = generator(5)
    chosen = torch.randint(3, (2, 40), generator=source)
    signs = 2.0 * torch.randint(2, (2, 40), generator=source).double() - 1
    for number, image in enumerate(images):
        expected = image[None]
        for choice, sign in zip(chosen[:, number], signs[:, number], strict=True):
            expected = OPERATIONS[names[choice]](expected, 12 / 30, sign[None])
        assert torch.equal(here[number], expected[0])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16])
def test_floats_are_the_levels_divided_by_255(dtype):
    images = pictures(30, 3)
    whole = rand_augment(images, generator=generator())
    floats = rand_augment((images.float() / 255).to(dtype), generator=generator())
    assert floats.dtype == dtype
    assert torch.equal((floats.float() * 255).round().to(torch.uint8), whole)


def test_the_images_stay_and_no_operation_changes_nothing():
    images = pictures(30, 3)
    before = images.clone()
    result = rand_augment(images, generator=generator())
    assert torch.equal(images, before)
    assert not torch.equal(result, images)
    assert torch.equal(rand_augment(images, generator=generator(), count=0), images)


def test_the_same_state_gives_the_same_bits_and_moves_on_whatever_the_images_hold():
    images, states = pictures(30, 3), []
    first, second, third = (rand_augment(images, generator=generator(seed)) for seed in (3, 3, 4))
    assert torch.equal(first, second)
    assert not torch.equal(first, third)
    for other in (images, torch.zeros(30, 1, 8, 8), torch.ones(30, 3, 5, 4)):
        source = generator()
        rand_augment(other, generator=source)
        states.append(source.get_state())
    assert torch.equal(states[0], states[1])
    assert torch.equal(states[0], states[2])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("name", OPERATIONS)
def test_a_gpu_gives_the_same(name):
    images = pictures(64, 3)
    here, there = (
        rand_augment(where, generator=generator(), operations=[name]) for where in (images, images.to("cuda"))
    )
    assert there.is_cuda
    assert int((here.int() - there.cpu().int()).abs().max()) <= 1


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"magnitude": 31}, r"magnitude must be a number of at least 0 and at most 30, got 31"),
        ({"count": -1}, r"count must be an integer of at least 0, got -1"),
        ({"operations": ["invert"]}, r"operations must be some of identity, .*, got \['invert'\]"),
        ({"operations": []}, r"operations must be some of identity"),
    ],
)
def test_refuses_other_arguments(more, message):
    with pytest.raises(ValueError, match=message):
        rand_augment(pictures(2, 3), generator=generator(), **more)


def test_refuses_two_channels():
    with pytest.raises(ValueError, match=r"\[B, 1 or 3, H, W\], got a tensor of uint8 \[2, 2, 8, 8\]"):
        rand_augment(torch.zeros(2, 2, 8, 8, dtype=torch.uint8), generator=generator())
