"""The views of images of any size: against filters and boxes that are written out here."""

import pickle

import numpy as np
import pytest
import torch
from PIL import Image

from dotkd.data import RandomResizedCrop
from dotkd.data.decode import centre_view

SIZES = [(60, 45), (45, 60), (50, 50), (9, 14), (200, 17), (31, 400)]  # width, height


def picture(width, height, seed=0):
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def crop(seed=0, **options):
    return RandomResizedCrop(torch.Generator().manual_seed(seed), **options)


def triangle(inputs, outputs):
    """The weights of antialiased bilinear resizing, one row for each output pixel."""
    scale = inputs / outputs
    reach = max(scale, 1.0)
    centres = (np.arange(outputs) + 0.5) * scale
    distance = np.abs((np.arange(inputs) + 0.5)[None] - centres[:, None]) / reach
    weights = np.clip(1 - distance, 0, None)
    return weights / weights.sum(axis=1, keepdims=True)


def resized(pixels, width, height):
    rows = np.einsum("ij,jkc->ikc", triangle(pixels.shape[0], height), pixels.astype(float))
    return np.einsum("ij,kjc->kic", triangle(pixels.shape[1], width), rows)


@pytest.mark.parametrize(("width", "height"), SIZES)
@pytest.mark.parametrize("size", [1, 16, 56])
def test_the_centre_view(width, height, size):
    image, short = picture(width, height), round(size * 256 / 224)
    wide, high = (
        (short, int(short * height / width)) if width <= height else (int(short * width / height), short)
    )
    left, top = round((wide - size) / 2), round((high - size) / 2)
    view = np.asarray(centre_view(image, size))
    whole = np.asarray(image.resize((wide, high), Image.Resampling.BILINEAR))
    assert np.array_equal(view, whole[top : top + size, left : left + size])
    exact = resized(np.asarray(image), wide, high)[top : top + size, left : left + size]
    assert np.abs(view - exact).max() < 1.5  # Pillow rounds twice, to whole numbers


def test_a_line_of_pixels_is_cut_before_it_is_resized():
    image = picture(1, 100_000)
    (view,) = {centre_view(part, 8).tobytes() for part in (image, image.crop((0, 49_992, 1, 50_008)))}
    assert len(view) == 3 * 8 * 8


def reference_box(width, height, numbers, low, high):
    areas, ratios, (down, right) = numbers[:10], numbers[10:20], numbers[20:22]
    wide = np.rint(np.sqrt(areas * width * height * ratios)).astype(int)
    tall = np.rint(np.sqrt(areas * width * height / ratios)).astype(int)
    fits = (wide >= 1) & (wide <= width) & (tall >= 1) & (tall <= height)
    if fits.any():
        first = fits.argmax()
        wide, tall = wide[first], tall[first]
        return (
            int(np.floor(right * (width - wide + 1))),
            int(np.floor(down * (height - tall + 1))),
            wide,
            tall,
        )
    ratio = np.clip(width / height, low, high)
    wide, tall = min(width, round(height * ratio)), min(height, round(width / ratio))
    return (width - wide) // 2, (height - tall) // 2, wide, tall


@pytest.mark.parametrize(("width", "height"), SIZES)
def test_the_random_view(width, height):
    image, spec = picture(width, height), crop(3)
    boxes = []
    for row in spec.draw(60, spec.epoch()).numpy():
        left, top, wide, tall = reference_box(width, height, row, 3 / 4, 4 / 3)
        assert 0 <= left <= left + wide <= width
        assert 0 <= top <= top + tall <= height
        part = np.asarray(image)[top : top + tall, left : left + wide]
        flipped = slice(None, None, -1 if row[22] else None)
        view = np.asarray(spec.view(image, 16, row))
        again = np.asarray(Image.fromarray(part).resize((16, 16), Image.Resampling.BILINEAR))
        assert np.array_equal(view, again[:, flipped])
        assert np.abs(view - resized(part, 16, 16)[:, flipped]).max() < 1.5
        boxes.append((wide, tall))
    # The largest box in the middle, for lack of another one.
    largest = (min(width, round(height * 4 / 3)), min(height, round(width * 4 / 3)))
    assert (boxes.count(largest) > 40) == (max(width, height) > 10 * min(width, height))


def test_what_is_drawn():
    spec = crop(scale=(0.2, 0.5), ratio=(0.5, 3.0), flip=0.25)
    numbers = spec.draw(4000, spec.epoch())
    areas, ratios, places, flips = numbers.split([10, 10, 2, 1], dim=1)
    assert (areas.min() >= 0.2, areas.max() <= 0.5) == (True, True)
    assert areas.mean() == pytest.approx(0.35, abs=5 * 0.3 / 12**0.5 / 200)
    assert (ratios.min() >= 0.5, ratios.max() <= 3.0) == (True, True)
    middle = np.log(1.5) / 2
    assert ratios.log().mean() == pytest.approx(middle, abs=5 * np.log(6) / 12**0.5 / 200)
    assert (places.min() >= 0, places.max() < 1) == (True, True)
    assert flips.unique().tolist() == [0, 1]
    assert flips.mean() == pytest.approx(0.25, abs=5 * 0.433 / 4000**0.5)


@pytest.mark.parametrize(("flip", "values"), [(0.0, [0]), (1.0, [1])])
def test_flips_can_be_all_or_none(flip, values):
    spec = crop(flip=flip)
    assert spec.draw(100, spec.epoch())[:, -1].unique().tolist() == values


def test_draws_do_not_depend_on_how_they_are_cut():
    spec, again = crop(5), crop(5)
    stream, other = spec.epoch(), again.epoch()
    whole = spec.draw(70, stream)
    assert torch.equal(whole, torch.cat([again.draw(count, other) for count in (1, 32, 37)]))
    assert not torch.equal(whole, spec.draw(70, spec.epoch()))
    assert torch.equal(spec.draw(3, spec.epoch()), again.draw(3, (again.epoch(), again.epoch())[1]))


def test_a_worker_can_have_the_function():
    spec = crop()
    view, row = pickle.loads(pickle.dumps(spec.view)), spec.draw(1, spec.epoch())[0].numpy()
    image = picture(30, 20)
    assert view(image, 8, row).tobytes() == spec.view(image, 8, row).tobytes()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scale": (0.0, 1.0)}, r"scale must be a number above 0 and at most 1, got 0.0"),
        ({"scale": (0.5, 1.1)}, r"scale must be a number above 0 and at most 1, got 1.1"),
        ({"scale": (0.5, 0.4)}, r"scale must be a pair of numbers, the smaller one first, got \(0.5, 0.4\)"),
        ({"scale": 0.5}, r"scale must be a pair of numbers, .*, got 0.5"),
        ({"ratio": (1.0, float("inf"))}, r"ratio must be a number above 0, got inf"),
        ({"ratio": (1.0, True)}, r"ratio must be a number above 0, got True"),
        ({"flip": 2}, r"flip must be a number from 0 to 1, got 2"),
    ],
)
def test_refuses(options, message):
    with pytest.raises(ValueError, match=message):
        crop(**options)
