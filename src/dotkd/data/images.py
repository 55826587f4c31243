"""Images with labels: the batch, the interface of all data sets, the one in memory and its disk cache."""

import hashlib
import os
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Generic, NamedTuple, Self, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dotkd._validate import UNLABELLED, check_int64_vector, check_integer, check_range, describe


@dataclass(frozen=True, eq=False, slots=True)
class Batch:
    """Images with labels, sample numbers and view numbers.

    Images are not normalised: a student and its teacher may use different means and standard
    deviations, so each model owns its own. The two integers identify what is stored per sample:
    ``index`` addresses a memory with one slot per image; ``index`` and ``view`` together address a
    cache of teacher outputs, which depend on the augmentation too.

    Args:
        images: [B, C, H, W], floating point, in [0, 1].
        labels: [B], int64, class numbers; -100 for an image without a label.
        index: [B], int64, sample numbers; they survive every split and shuffle.
        view: [B], int64, number of the augmented view of each image; None for images that are not
            augmented, or augmented with too many views to number.

    Raises:
        ValueError: if a dtype or a shape is wrong. The range of the images is not checked, since
            that would synchronise with the device in every step.

    Example:
        >>> batch = Batch(torch.zeros(2, 1, 8, 8), torch.tensor([3, 5]), torch.tensor([40, 7]))
        >>> len(batch), batch.view is None
        (2, True)
        >>> batch.to("cpu", dtype=torch.float64).images.dtype
        torch.float64
    """

    images: Tensor
    labels: Tensor
    index: Tensor
    view: Tensor | None = None

    def __post_init__(self) -> None:
        images = self.images
        if not isinstance(images, Tensor) or not images.is_floating_point() or images.ndim != 4:
            raise ValueError(f"images must be a floating-point tensor [B, C, H, W], got {describe(images)}")
        check_int64_vector("labels", self.labels, length=len(images))
        check_int64_vector("index", self.index, length=len(images))
        if self.view is not None:
            check_int64_vector("view", self.view, length=len(images))

    def __len__(self) -> int:
        return len(self.images)

    def to(
        self,
        device: torch.device | str,
        *,
        dtype: torch.dtype | None = None,
        non_blocking: bool = False,
    ) -> Self:
        """Move the batch to a device.

        Args:
            device: the device.
            dtype: floating-point type of the images; None keeps it. The integers stay int64.
            non_blocking: whether to copy from pinned memory asynchronously.

        Returns:
            A new batch; tensors that need no change are shared, not copied.
        """
        view = self.view
        return type(self)(
            self.images.to(device, dtype, non_blocking=non_blocking),
            self.labels.to(device, non_blocking=non_blocking),
            self.index.to(device, non_blocking=non_blocking),
            None if view is None else view.to(device, non_blocking=non_blocking),
        )


# Maps the stored pixels [B, C, H, W] of a batch to augmented pixels and their view numbers.
Augment = Callable[[Tensor], tuple[Tensor, Tensor | None]]


class DataFacts(NamedTuple):
    """Shape and size of a data set; 0 for unknown.

    Args:
        channels: of an image.
        height: of an image, in pixels.
        width: of an image, in pixels.
        num_classes: number of classes.
        train_images: number of images to train and validate on.
        test_images: number of images in the test split.

    Example:
        >>> facts = DataFacts(1, 8, 8, 10, 1400, 397)
        >>> facts.num_classes
        10
    """

    channels: int
    height: int
    width: int
    num_classes: int
    train_images: int
    test_images: int


class Images(ABC):
    """Images with labels: in memory (:class:`dotkd.data.ImageData`) or streamed from files.

    *Positions* count from 0 in this data set. *Sample numbers* (``index``) are assigned once, by the
    source, and stay with an image through every :meth:`subset`; batches carry them.

    Attributes:
        labels: [N], int64, in [0, len(classes)); -100 for an image without a label.
        classes: class names, all different, in the order of their numbers.
        index: [N], int64, sample numbers, at least 0.

    Example:
        >>> from dotkd.data import load_digits
        >>> test = load_digits().test
        >>> isinstance(test, Images), len(test), test.image_shape, test.device
        (True, 397, (1, 8, 8), device(type='cpu'))
        >>> test.subset([5, 3]).with_labels(torch.tensor([1, 2])).batch([0]).labels
        tensor([1])
    """

    labels: Tensor
    classes: tuple[str, ...]
    index: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def device(self) -> torch.device:
        """Device of the labels and of the batches."""
        return self.labels.device

    @property
    @abstractmethod
    def image_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of an image."""

    @abstractmethod
    def batch(self, positions: Tensor | Sequence[int]) -> Batch:
        """Collect the images at some positions.

        Args:
            positions: [B], int64 or whole numbers in [0, len(self)), in any order, repeats
                allowed; B at least 1.

        Returns:
            A batch with float32 images [B, C, H, W] in [0, 1], on the device of the data set,
            without view numbers.

        Raises:
            ValueError: if a position lies outside the data set, or none is given.
        """

    @abstractmethod
    def subset(self, positions: Tensor | Sequence[int]) -> Self:
        """Keep the images at some positions, with their sample numbers.

        Args:
            positions: as in :meth:`batch`.

        Returns:
            A new data set of B images in the order of ``positions``.
        """

    @abstractmethod
    def with_labels(self, labels: Tensor) -> Self:
        """Replace the labels.

        Args:
            labels: [N], int64, as in the data set and on its device.

        Returns:
            A new data set; the images are shared.
        """

    @abstractmethod
    def to(self, device: torch.device | str) -> Self:
        """Move the data set to a device.

        Args:
            device: device of the batches.

        Returns:
            A new data set; tensors that are on the device already are shared.
        """

    @abstractmethod
    def checksum(self) -> str:
        """Identify the data set by its images, labels and sample numbers.

        Returns:
            16 hexadecimal digits, the same on every device.
        """

    @abstractmethod
    def batches(
        self,
        batch_size: int,
        *,
        generator: torch.Generator | None = None,
        drop_last: bool = False,
        augment: Any = None,
    ) -> Iterator[Batch]:
        """Iterate over one epoch.

        The order is drawn when the method is called, not at the first batch: the state of the
        generator never depends on how much of an epoch was read.

        Args:
            batch_size: images in a batch, at least 1; the last batch may be smaller.
            generator: shuffles the epoch and advances; None keeps the order and draws nothing.
            drop_last: whether to drop a last batch that is not full.
            augment: maps the pixels [B, C, H, W] of a batch, as they are stored, to augmented pixels
                and view numbers [B], int64, or None for views without numbers. Called once per
                batch, when the batch is read; give it a generator of its own. See
                :func:`dotkd.data.crop_flip`.

        Returns:
            An iterator over the batches of one epoch.

        Raises:
            ValueError: if ``batch_size`` is not a whole number of at least 1, or if ``drop_last``
                would leave no batch.
        """

    def _order(
        self,
        batch_size: int,
        generator: torch.Generator | None,
        drop_last: bool,
        device: torch.device | str,
    ) -> tuple[Tensor, ...]:
        """Draw an epoch: the positions of each batch, on a device."""
        count = len(self)
        size = check_integer("batch_size", batch_size, low=1)
        if drop_last and size > count:
            raise ValueError(
                f"batch_size must be at most {count} with drop_last, the number of images, got {size}"
            )
        if generator is None:
            order = torch.arange(count)
        else:
            order = torch.randperm(count, generator=generator, device=generator.device)
        return torch.split(order[: count - count % size if drop_last else count].to(device), size)

    def _positions(self, positions: Tensor | Sequence[int]) -> Tensor:
        chosen, count = torch.as_tensor(positions, device=self.device), len(self)
        if chosen.numel() == 0:
            raise ValueError("positions must name at least one image, got none")
        check_int64_vector("positions", chosen)
        check_range("positions", chosen, count - 1, f"{count} images")
        return chosen


_Images_co = TypeVar("_Images_co", bound=Images, covariant=True)


class Splits(NamedTuple, Generic[_Images_co]):
    """Training, validation and test images.

    Hyper-parameters and the best epoch are chosen on ``validation``; ``test`` is read once, at the
    end. Without validation images, ``validation`` is None rather than an empty data set, whose
    accuracy would be 0 / 0.

    Args:
        train: images to train on.
        validation: images to choose on, or None.
        test: images for the final number.
    """

    train: _Images_co
    validation: _Images_co | None
    test: _Images_co

    @property
    def facts(self) -> DataFacts:
        """Shape and size of these splits; no file is opened."""
        held_out = 0 if self.validation is None else len(self.validation)
        train = self.train
        return DataFacts(*train.image_shape, len(train.classes), len(train) + held_out, len(self.test))


def check_classes(classes: Sequence[str]) -> tuple[str, ...]:
    """Accept at least one class name, all different."""
    names = (classes,) if isinstance(classes, str) else tuple(classes)
    if isinstance(classes, str) or not names or not all(isinstance(name, str) for name in names):
        raise ValueError(f"classes must be a sequence of at least one name, got {classes!r}")
    repeated = sorted(name for name, uses in Counter(names).items() if uses > 1)
    if repeated:
        raise ValueError(f"classes must be all different, got {', '.join(repeated)} more than once")
    return names


def check_samples(labels: Any, index: Any, classes: Sequence[str], *, count: int) -> None:
    """Accept labels and sample numbers that fit the number of images and of classes."""
    check_int64_vector("labels", labels, length=count)
    check_int64_vector("index", index, length=count)
    check_range("labels", labels[labels != UNLABELLED], len(classes) - 1, f"{len(classes)} classes")
    check_range("index", index)


def to_unit(pixels: Tensor, max_value: int) -> Tensor:
    """Scale whole numbers in [0, max_value] to float32 in [0, 1]."""
    return torch.div(pixels, max_value).to(torch.float32)  # one pass from uint8 to float32


@dataclass(frozen=True, eq=False, init=False, repr=False)
class ImageData(Images):
    """Data set in memory.

    Pixels stay uint8, a quarter of the memory of float32; a batch divides them by ``max_value`` and
    so lies in [0, 1]. *Positions* count from 0 in this data set. *Sample numbers* (``index``) are
    assigned once, by the source, and stay with an image through every :meth:`subset`; batches carry
    them.

    Args:
        pixels: [N, C, H, W], uint8, in [0, max_value]; N at least 1.
        labels: [N], int64, in [0, len(classes)); -100 for an image without a label.
        classes: class names, all different, in the order of their numbers.
        max_value: pixel value that becomes 1.0, from 1 to 255.
        index: [N], int64, sample numbers, at least 0; None numbers them 0, 1, ..., N - 1.

    Raises:
        ValueError: if a dtype, a shape or a range is wrong, if the tensors are on different
            devices, or if class names are missing or repeated.

    Example:
        >>> pixels = torch.tensor([0, 51, 102, 255], dtype=torch.uint8).reshape(4, 1, 1, 1)
        >>> data = ImageData(pixels, torch.tensor([0, 0, 1, 1]), ("dark", "light"))
        >>> data
        ImageData(4 images of [1, 1, 1], 2 classes)
        >>> data.batch([1, 3]).images.flatten().tolist()
        [0.20000000298023224, 1.0]
        >>> data.subset([1, 3]).batch([0]).index.tolist()
        [1]
    """

    pixels: Tensor
    labels: Tensor
    classes: tuple[str, ...]
    max_value: int
    index: Tensor

    def __init__(
        self,
        pixels: Tensor,
        labels: Tensor,
        classes: Sequence[str],
        max_value: int = 255,
        index: Tensor | None = None,
    ) -> None:
        classes = check_classes(classes)
        if not isinstance(pixels, Tensor) or pixels.dtype != torch.uint8 or pixels.ndim != 4:
            raise ValueError(f"pixels must be a tensor of uint8 [N, C, H, W], got {describe(pixels)}")
        if pixels.numel() == 0:
            raise ValueError(f"pixels must hold at least one image, got {describe(pixels)}")
        if index is None:
            index = torch.arange(len(pixels), device=pixels.device)
        for name, numbers in (("labels", labels), ("index", index)):
            if isinstance(numbers, Tensor) and numbers.device != pixels.device:
                raise ValueError(
                    f"{name} must be on the device of the pixels ({pixels.device}), got {numbers.device}"
                )
        check_samples(labels, index, classes, count=len(pixels))
        max_value = check_integer("max_value", max_value, low=1, high=255)
        check_range("pixels", pixels, max_value, f"max_value={max_value}")
        # The class is frozen: this is the one place that writes.
        for name, value in (
            ("pixels", pixels),
            ("labels", labels),
            ("classes", classes),
            ("max_value", max_value),
            ("index", index),
        ):
            object.__setattr__(self, name, value)

    def __repr__(self) -> str:
        shape = list(self.image_shape)
        return f"ImageData({len(self)} images of {shape}, {len(self.classes)} classes)"

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of an image."""
        _, channels, height, width = self.pixels.shape
        return channels, height, width

    def batch(self, positions: Tensor | Sequence[int]) -> Batch:
        """Collect the images at some positions, as float32 = pixels / max_value; see the base class."""
        return self._collect(self._positions(positions))

    def subset(self, positions: Tensor | Sequence[int]) -> Self:
        """Keep the images at some positions, with their sample numbers; see the base class."""
        chosen = self._positions(positions)
        return replace(self, pixels=self.pixels[chosen], labels=self.labels[chosen], index=self.index[chosen])

    def with_labels(self, labels: Tensor) -> Self:
        """Replace the labels; see the base class."""
        return replace(self, labels=labels)

    def to(self, device: torch.device | str) -> Self:
        """Move the whole data set to a device, so that batches are made there; see the base class."""
        return replace(
            self, pixels=self.pixels.to(device), labels=self.labels.to(device), index=self.index.to(device)
        )

    def checksum(self) -> str:
        """Identify the data set by its pixels, labels and sample numbers; see the base class."""
        digest = hashlib.sha256()
        for tensor in (self.pixels, self.labels, self.index):
            digest.update(tensor.cpu().contiguous().numpy().data)
        return digest.hexdigest()[:16]

    def batches(
        self,
        batch_size: int,
        *,
        generator: torch.Generator | None = None,
        drop_last: bool = False,
        augment: Augment | None = None,
    ) -> Iterator[Batch]:
        """Iterate over one epoch; see the base class.

        Args:
            batch_size: images in a batch, at least 1; the last batch may be smaller.
            generator: shuffles the epoch and advances; None keeps the order and draws nothing.
            drop_last: whether to drop a last batch that is not full.
            augment: a function of the pixels of a batch.

        Returns:
            An iterator over the batches of one epoch.

        Raises:
            ValueError: if ``batch_size`` is not a whole number of at least 1, if ``drop_last``
                would leave no batch, or if ``augment`` is not a function.
        """
        if augment is not None and not callable(augment):
            raise ValueError(
                f"augment must be a function of pixels for images in memory, got {describe(augment)}, "
                "which needs streamed images"
            )
        order = self._order(batch_size, generator, drop_last, self.device)
        return (self._collect(positions, augment) for positions in order)

    def _collect(self, positions: Tensor, augment: Augment | None = None) -> Batch:
        pixels, view = self.pixels[positions], None
        if augment is not None:
            pixels, view = augment(pixels)
        images = to_unit(pixels, self.max_value)
        return Batch(images, self.labels[positions], self.index[positions], view)


# ---------------------------------------------------------------- decoded images on disk

# `classes`, and for `train`, `test` and perhaps `validation` each `_pixels` and `_labels`.
Arrays = dict[str, NDArray[Any]]


def cached_images(key: str, decode: Callable[[], Arrays]) -> Splits[ImageData]:
    """Return the splits of the source, decoding them at most once."""
    return from_arrays(cached(key, decode))


def from_arrays(arrays: Arrays) -> Splits[ImageData]:
    """Return the splits of the source."""
    classes = tuple(arrays["classes"].tolist())

    def part(name: str) -> ImageData:
        pixels, labels = (torch.from_numpy(arrays[f"{name}_{kind}"]) for kind in ("pixels", "labels"))
        return ImageData(pixels, labels, classes)

    own = part("validation") if "validation_labels" in arrays else None
    return Splits(part("train"), own, part("test"))


def cached(key: str, make: Callable[[], Arrays]) -> Arrays:
    """Read the arrays of a key from ``$DOTKD_CACHE`` or ``~/.cache/dotkd``, or make and store them."""
    path = Path(os.environ.get("DOTKD_CACHE") or "~/.cache/dotkd", f"{key}.npz")
    arrays = _read_cache(path)
    if arrays is None:
        arrays = make()
        _write_cache(path, arrays)
    return arrays


def _read_cache(path: Path) -> Arrays | None:
    # The archive has a checksum for each array, so broken files are noticed.
    try:
        with path.expanduser().open("rb") as file, np.load(file, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except Exception:  # numpy and zipfile raise a dozen types on broken bytes; all mean "not cached"
        return None


def _write_cache(path: Path, arrays: Arrays) -> None:
    unfinished: Path | None = None
    try:
        path = path.expanduser()
        path.parent.mkdir(parents=True, exist_ok=True)
        # Renamed when it is complete, so that no process reads half a file.
        unfinished = path.with_name(f"{path.stem}-{os.getpid()}.part")
        with unfinished.open("wb") as file:
            np.savez(file, **arrays)  # type: ignore[arg-type]
        unfinished.replace(path)
    except (OSError, RuntimeError):  # full, read-only, a file in the way, or no home folder
        pass
    finally:
        if unfinished is not None:
            unfinished.unlink(missing_ok=True)
