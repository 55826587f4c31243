"""Augmentation as recipes spell it: names, numbers, order, and what the steps do together."""

import re

import pytest
import torch

from dotkd.data import ImageData, crop_flip
from dotkd.data.augment import STEPS, Augmentation, mixup, rotate
from dotkd.errors import BadInput

PIXELS = torch.randint(0, 256, (6, 3, 12, 12), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
LABELS = torch.tensor([0, 1, 2, 0, 1, 2])


def seeded(seed=3):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("name", STEPS)
def test_every_step_changes_images_and_repeats_under_one_seed(name):
    augmentation = Augmentation([name])
    results = []
    for _ in range(2):
        generator = seeded()
        views = augmentation.views(generator)
        pixels = views(PIXELS)[0] if views else PIXELS
        results.append(augmentation.mix(pixels / 255, LABELS, 3, generator=generator)[0])
    assert torch.equal(*results)
    assert results[0].shape == PIXELS.shape
    assert not torch.equal(results[0], PIXELS / 255)


def test_steps_follow_each_other_in_the_order_of_the_list():
    generator = seeded()
    views, numbers = Augmentation(["rotate:40", "crop-flip:2"]).views(generator)(PIXELS)
    generator = seeded()
    wanted = crop_flip(rotate(PIXELS, generator=generator, degrees=40.0), generator=generator, pad=2)[0]
    assert torch.equal(views, wanted)
    assert numbers is None


def test_mixing_comes_after_the_views_and_gives_probabilities():
    generator = seeded()
    augmentation = Augmentation(["flip", "mixup:0.5"])
    images = augmentation.views(generator)(PIXELS)[0] / 255
    mixed, probabilities = augmentation.mix(images, LABELS, 3, generator=generator)
    generator = seeded()
    flipped = crop_flip(PIXELS, generator=generator, pad=0)[0] / 255
    wanted = mixup(flipped, LABELS, 3, alpha=0.5, generator=generator)
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
    views = augmentation.views(seeded())
    batch = next(ImageData(PIXELS, LABELS, ("a", "b", "c")).batches(6, augment=views))
    assert (batch.view is None) == (number in (1, None))
    if batch.view is not None:
        assert int(batch.view.max()) < number


def test_no_step_is_no_change():
    assert Augmentation([]).views(seeded()) is None
    assert Augmentation(["cutmix"]).views(seeded()) is None
    images, labels = Augmentation([]).mix(PIXELS, LABELS, 3, generator=seeded())
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
