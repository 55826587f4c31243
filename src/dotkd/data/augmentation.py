"""Augmentation as a recipe spells it: a list of steps such as ``["rotate:20", "flip", "mixup:0.2"]``.

Here belong the names of the steps, their numbers and how they follow each other; what a step does to images
is in the files ``augment*``.
"""

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from dotkd.data.augment import crop_flip
from dotkd.data.augment_geometry import cutout, random_resized_crop, rotate
from dotkd.data.augment_mix import cutmix, mixup
from dotkd.data.augment_policy import rand_augment
from dotkd.data.base import Augment
from dotkd.data.views import RandomResizedCrop
from dotkd.errors import BadInput, unknown


class _Kind(NamedTuple):
    """A step that a recipe may name, and the number behind its colon."""

    meaning: str
    number: float | None  # the default; None for a step that takes none
    low: float = 0.0
    high: float = float("inf")
    whole: bool = False


STEPS = {
    "crop-flip": _Kind(
        "a border of N zeros, a crop at a random place, a flip for every other image", 4, 0, 64, True
    ),
    "flip": _Kind("mirrored left to right, every other image", None),
    "rotate": _Kind("by up to N degrees either way, nearest pixel, zeros outside", 15, 0, 180),
    "resized-crop": _Kind(
        "a box of at least the share N of the area, resized to the image's size", 0.08, 1e-4, 1
    ),
    "rand-augment": _Kind("two operations of RandAugment at magnitude N", 9, 0, 30),
    "cutout": _Kind("a square of N pixels set to zero", 8, 0, 4096, True),
    "mixup": _Kind("blended with another image and its label, by Beta(N, N); last in the list", 0.2, 1e-4),
    "cutmix": _Kind(
        "a box of another image pasted in, labels by area, by Beta(N, N); last in the list", 1.0, 1e-4
    ),
}
_MIXING = ("mixup", "cutmix")
_COUNTABLE = ("crop-flip", "flip")
_WHOLE = "resized-crop"


class Step(NamedTuple):
    """One step: its name and its number, None where it takes none."""

    name: str
    number: float | None

    def __str__(self) -> str:
        return self.name if self.number is None else f"{self.name}:{self.number:g}"


class Augmentation:
    """What a batch of training images goes through, in the order of the list.

    Args:
        steps: Names of :data:`STEPS`, with ``:NUMBER`` where another than the default is wanted.

    Raises:
        BadInput: There is no such step, its number is out of range, or a mixing step is not the last.

    Example:
        >>> augmentation = Augmentation(["rotate:20", "flip", "mixup"])
        >>> [str(step) for step in augmentation.steps], augmentation.mixes_labels
        (['rotate:20', 'flip', 'mixup:0.2'], True)
        >>> Augmentation(["crop-flip"]).num_views
        162
    """

    def __init__(self, steps: Sequence[str]) -> None:
        self.steps = tuple(_parsed(step) for step in steps)
        for place, step in enumerate(self.steps, start=1):
            if step.name in _MIXING and place < len(self.steps):
                raise BadInput(
                    f"{step} mixes labels and must be the last step, got {list(map(str, self.steps))}"
                )

    @property
    def mixes_labels(self) -> bool:
        """Whether labels become probabilities of classes."""
        return bool(self.steps) and self.steps[-1].name in _MIXING

    @property
    def num_views(self) -> int | None:
        """How many views of an image there are; None where they cannot be counted."""
        if not self.steps:
            return 1
        return 2 * (2 * self._pad + 1) ** 2 if self._countable else None

    @property
    def _countable(self) -> bool:
        return len(self.steps) == 1 and self.steps[0].name in _COUNTABLE

    @property
    def _pad(self) -> int:
        return int(self.steps[0].number or 0)

    def views(
        self, generator: torch.Generator, *, streamed: bool = False
    ) -> Augment | RandomResizedCrop | None:
        """Make what the ``augment`` of :meth:`dotkd.data.Images.batches` is to be.

        Of streamed images ``resized-crop`` cuts a box out of the whole image, in the worker that decodes it;
        all other steps, and all of images in memory, are applied to whole batches.

        Args:
            generator: Where the random numbers come from.
            streamed: Whether the images come from files, each of a size of its own.

        Returns:
            None where there is nothing to do.

        Raises:
            BadInput: Images are streamed and ``resized-crop`` is not the first step.
        """
        changes = [step for step in self.steps if step.name not in _MIXING]
        if streamed and any(step.name == _WHOLE for step in changes):
            if changes[0].name != _WHOLE:
                raise BadInput(f"{_WHOLE} must be the first step for images that are streamed from files")
            rest = self._applied(changes[1:], generator)
            return RandomResizedCrop(generator, scale=(changes[0].number or 0.0, 1.0), flip=0.0, then=rest)
        return self._applied(changes, generator)

    def _applied(self, changes: Sequence[Step], generator: torch.Generator) -> Augment | None:
        if not changes:
            return None
        if self._countable:
            return partial(crop_flip, generator=generator, pad=self._pad)

        def change(pixels: Tensor) -> tuple[Tensor, None]:
            for step in changes:
                pixels = _changed(step, pixels, generator)
            return pixels, None

        return change

    def mix(
        self, images: Tensor, labels: Tensor, num_classes: int, *, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """Mix the images of a batch with each other, where the last step says so.

        Args:
            images: [B, C, H, W].
            labels: [B], int64.
            num_classes: How many classes there are.
            generator: Where the random numbers come from.

        Returns:
            Images and probabilities [B, K]; both as they were where nothing mixes.
        """
        if not self.mixes_labels:
            return images, labels
        name, number = self.steps[-1]
        assert number is not None
        function = {"mixup": mixup, "cutmix": cutmix}[name]
        return function(images, labels, num_classes, alpha=number, generator=generator)


def _parsed(text: str) -> Step:
    name, colon, written = text.partition(":")
    if name not in STEPS:
        raise BadInput(unknown("step", name, STEPS))
    kind = STEPS[name]
    if not colon:
        return Step(name, kind.number)
    try:
        number = float(written)
    except ValueError:
        number = float("nan")
    takes = kind.number is not None
    if (
        not takes
        or not kind.low <= number <= kind.high
        or number == float("inf")
        or (kind.whole and number % 1)
    ):
        what = (
            f"a {'whole ' if kind.whole else ''}number from {kind.low:g} to {kind.high:g}"
            if takes
            else "none"
        )
        raise BadInput(f"the number of {name!r} must be {what}, got {text!r}")
    return Step(name, number)


def _changed(step: Step, pixels: Tensor, generator: torch.Generator) -> Tensor:
    number = step.number or 0.0
    if step.name in _COUNTABLE:
        return crop_flip(pixels, generator=generator, pad=int(number))[0]
    if step.name == "rotate":
        return rotate(pixels, generator=generator, degrees=number)
    if step.name == _WHOLE:
        height, width = pixels.shape[2:]
        return random_resized_crop(pixels, (height, width), generator=generator, scale=(number, 1.0))
    if step.name == "cutout":
        return cutout(pixels, generator=generator, size=int(number))
    return rand_augment(pixels, generator=generator, magnitude=number)
