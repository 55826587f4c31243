"""Random crops and flips: against plain slicing, uniform, reproducible."""

from functools import partial

import pytest
import torch

from dotkd.data import ImageData
from dotkd.data.augment import crop_flip


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def pixels(*shape, dtype=torch.uint8):
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
    images = pixels(40, *shape, dtype=dtype)
    before = images.clone()
    views, view = crop_flip(images, generator=generator(seed), pad=pad)
    assert torch.equal(views, by_slicing(images, view, pad))
    assert (views.dtype, views.shape, views.is_contiguous()) == (dtype, images.shape, True)
    assert (view.dtype, view.shape) == (torch.int64, (40,))
    assert torch.equal(images, before)


def test_equals_pillow():
    image_module = pytest.importorskip("PIL.Image")
    images = pixels(30, 3, 32, 32)
    views, view = crop_flip(images, generator=generator())
    for image, here, number in zip(images, views, view.tolist(), strict=True):
        peer = image_module.new("RGB", (40, 40))
        peer.paste(image_module.fromarray(image.permute(1, 2, 0).contiguous().numpy()), (4, 4))
        top, left = divmod(number // 2, 9)
        peer = peer.crop((left, top, left + 32, top + 32))
        if number % 2:
            peer = peer.transpose(image_module.Transpose.FLIP_LEFT_RIGHT)
        assert peer.tobytes() == here.permute(1, 2, 0).contiguous().numpy().tobytes()


@pytest.mark.parametrize("pad", [0, 1, 4])
def test_every_view_is_equally_likely(pad):
    count, each = 2 * (2 * pad + 1) ** 2, 500
    _, view = crop_flip(pixels(1, 1, 1, 1).expand(count * each, 1, 1, 1), generator=generator(), pad=pad)
    hits = torch.bincount(view, minlength=count)
    assert len(hits) == count
    # Chi-squared with count - 1 degrees of freedom: mean count - 1, variance twice that.
    distance = float(((hits - each) ** 2).sum() / each)
    assert abs(distance - (count - 1)) < 4 * (2 * max(count - 1, 1)) ** 0.5


def test_without_a_border_there_is_only_the_flip():
    images = pixels(50, 3, 4, 6)
    views, view = crop_flip(images, generator=generator(), pad=0)
    assert set(view.tolist()) == {0, 1}
    assert torch.equal(views[view == 0], images[view == 0])
    assert torch.equal(views[view == 1], images[view == 1].flip(3))


def test_the_middle_without_a_flip_is_the_image():
    images = pixels(2000, 1, 2, 2)
    views, view = crop_flip(images, generator=generator(), pad=1)
    middle = view == (1 * 3 + 1) * 2
    assert middle.any()
    assert torch.equal(views[middle], images[middle])


def test_the_same_generator_state_gives_the_same_bits_and_moves_on():
    images, first, second = pixels(64, 3, 8, 8), generator(3), generator(3)
    one, two = (crop_flip(images, generator=source) for source in (first, second))
    assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))
    assert not torch.equal(crop_flip(images, generator=first)[1], one[1])
    assert not torch.equal(crop_flip(images, generator=generator(4))[1], one[1])


def test_the_draws_do_not_depend_on_what_the_images_are():
    views = [
        crop_flip(images, generator=generator())[1]
        for images in (pixels(64, 3, 8, 8), pixels(64, 1, 5, 9, dtype=torch.float32))
    ]
    assert torch.equal(*views)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.bfloat16])
def test_a_gpu_gives_the_same_bits(dtype):
    images = pixels(64, 3, 32, 32, dtype=dtype)
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
        (torch.zeros(1, 3, 8, 8), -1, r"pad must be an integer of at least 0, got -1"),
        (torch.zeros(1, 3, 8, 8), 1.5, r"pad must be an integer of at least 0, got 1.5"),
    ],
)
def test_refuses_other_arguments(images, pad, message):
    with pytest.raises(ValueError, match=message):
        crop_flip(images, generator=generator(), pad=pad)


# ---------------------------------------------------------------- in the batches of a data set


def data(count=20):
    return ImageData(pixels(count, 3, 8, 8), torch.zeros(count, dtype=torch.int64), ("one",))


def test_batches_carry_the_views_and_their_numbers():
    whole, augment = data(), partial(crop_flip, generator=generator(5), pad=2)
    batches = list(whole.batches(8, generator=generator(1), augment=augment))
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

    def augment(images):
        seen.append(images)
        return images, torch.zeros(len(images), dtype=torch.int64)

    whole = data()
    (batch,) = whole.batches(20, augment=augment)
    assert seen[0].dtype == torch.uint8
    assert torch.equal(seen[0], whole.pixels)
    assert batch.view.tolist() == [0] * 20
