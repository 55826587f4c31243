"""Images that stay in files and are decoded when they are needed, by worker processes.

Here belongs the container for more images than memory holds, and the processes behind it.
"""

import hashlib
import math
import os
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from dotkd._validate import check_integer, check_range, describe
from dotkd.data.decode import Numbers, RandomResizedCrop, Store, View, centre_view, to_planes
from dotkd.data.images import Augment, Batch, Images, check_classes, check_labels, to_unit
from dotkd.errors import BadInput, RunFailed
from dotkd.processes import end_with_parent, new_context

_PART = 32  # images that a worker decodes at a time; small, since a part travels through shared memory
# So that not every worker loads torch and the common formats anew.
_PRELOAD = (__name__, "PIL.JpegImagePlugin", "PIL.PngImagePlugin")
_MOST_WORKERS = 8


@dataclass(frozen=True, eq=False, init=False, repr=False)
class StreamedImages(Images):
    """Images of any size in files; each batch is decoded when it is read.

    Every image becomes [3, size, size]: its middle as :func:`dotkd.data.decode.centre_view` cuts it,
    or a random view of the whole image where ``augment`` is a :class:`dotkd.data.RandomResizedCrop`.
    Worker processes decode ahead. What a batch holds does not depend on how many there are: order and
    random numbers are drawn by the calling process. Workers end with the epoch, and when it is
    broken off.

    Workers are forked from a clean server process where the system can do that (Linux, macOS), not
    from the calling one, which may hold threads and a GPU; else they are started afresh. Either
    way, a script has to guard what it does by ``if __name__ == "__main__":``, or use 0 workers.

    Args:
        store: the encoded images.
        labels: [N], int64, in [0, len(classes)).
        classes: the names of the classes, all different, in the order of their numbers.
        size: height and width of each view, at least 1.
        index: [N], int64, the numbers of the images in the store, which are the sample numbers;
            None for all of them in order.
        workers: how many processes decode; 0 decodes in this one, None takes one for each CPU that
            this process may use, at most 8.

    Raises:
        ValueError: if an argument lies outside its range.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from dotkd.data.folders import ImageFiles
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     for number in range(3):
        ...         Image.new("RGB", (40 + number, 30), (0, 0, 255)).save(Path(folder, f"{number}.png"))
        ...     files = ImageFiles(Path(folder), [b"0.png", b"1.png", b"2.png"])
        ...     data = StreamedImages(files, torch.tensor([0, 1, 0]), ("a", "b"), 16, workers=0)
        ...     batch = next(data.batches(2))
        >>> data
        StreamedImages(3 images of [3, 16, 16], 2 classes)
        >>> batch.images.shape, batch.images[0, :, 0, 0]
        (torch.Size([2, 3, 16, 16]), tensor([0., 0., 1.]))
    """

    store: Store
    labels: Tensor
    classes: tuple[str, ...]
    size: int
    index: Tensor
    workers: int | None

    def __init__(
        self,
        store: Store,
        labels: Tensor,
        classes: Sequence[str],
        size: int,
        index: Tensor | None = None,
        workers: int | None = None,
    ) -> None:
        classes = check_classes(classes)
        size = check_integer("size", size, low=1)
        if workers is not None:
            workers = check_integer("workers", workers, low=0)
        if index is None:
            index = torch.arange(len(store), device=labels.device)
        if len(index) == 0:
            raise ValueError("store must hold at least one image, got none")
        check_labels(labels, index, classes, count=len(index))
        check_range("index", index, len(store) - 1, f"{len(store)} images in the store")
        if index.device != labels.device:
            raise ValueError(f"index must lie where the labels do ({labels.device}), got {index.device}")
        # The class is frozen: this is the one place that writes.
        for name, value in (
            ("store", store),
            ("labels", labels),
            ("classes", classes),
            ("size", size),
            ("index", index),
            ("workers", workers),
        ):
            object.__setattr__(self, name, value)

    def __repr__(self) -> str:
        shape = [3, self.size, self.size]
        return f"StreamedImages({len(self)} images of {shape}, {len(self.classes)} classes)"

    def batch(self, positions: Tensor | Sequence[int]) -> Batch:
        """Decode the images at some positions, in this process; see the base class."""
        (batch,) = self._read([self._positions(positions).cpu()], None, None, workers=0)
        return batch

    def subset(self, positions: Tensor | Sequence[int]) -> Self:
        """Keep the images at some positions, with their sample numbers; see the base class."""
        chosen = self._positions(positions)
        return replace(self, labels=self.labels[chosen], index=self.index[chosen])

    def with_labels(self, labels: Tensor) -> Self:
        """Give the same images other labels; see the base class."""
        return replace(self, labels=labels)

    def to(self, device: torch.device | str) -> Self:
        """Have batches put on a device; see the base class."""
        return replace(self, labels=self.labels.to(device), index=self.index.to(device))

    def checksum(self) -> str:
        """Tell this data set from others, by the fingerprint of its store, labels and sample numbers.

        Returns:
            16 hexadecimal digits. For files the fingerprint is names, sizes and times, not contents.
        """
        digest = hashlib.sha256(self.store.fingerprint().encode())
        for tensor in (self.labels, self.index):
            digest.update(tensor.cpu().contiguous().numpy().data)
        return digest.hexdigest()[:16]

    def batches(
        self,
        batch_size: int,
        *,
        generator: torch.Generator | None = None,
        drop_last: bool = False,
        augment: Augment | RandomResizedCrop | None = None,
    ) -> Iterator[Batch]:
        """Go through the data set once; see the base class.

        Args:
            batch_size: images in a batch, at least 1; the last batch may be smaller.
            generator: shuffles the epoch and moves on; None goes in order and draws nothing.
            drop_last: whether to leave out a last batch that is not full.
            augment: a :class:`dotkd.data.RandomResizedCrop`, or a function of pixels that changes
                the middle views of a batch, [B, 3, size, size] of uint8, on the device.

        Returns:
            An iterator over the batches of one epoch. Reading it starts the workers.

        Raises:
            ValueError: if ``batch_size`` is not a whole number of at least 1, if ``drop_last``
                would leave no batch at all, or if ``augment`` is something else. Reading raises
                BadInput for an image that cannot be decoded.
        """
        if augment is not None and not (callable(augment) or isinstance(augment, RandomResizedCrop)):
            raise ValueError(
                f"augment must be a RandomResizedCrop or a function of pixels, got {describe(augment)}"
            )
        # Drawn here, not in the generator function: that must not wait for the first batch.
        order = self._order(batch_size, generator, drop_last, "cpu")
        workers = _available() if self.workers is None else self.workers
        if isinstance(augment, RandomResizedCrop):
            crops = _Crops(augment, augment.epoch())
            return self._read(order, crops, augment.then, workers=workers)
        return self._read(order, None, augment, workers=workers)

    def _read(
        self, order: Sequence[Tensor], crops: "_Crops | None", then: Augment | None, *, workers: int
    ) -> Iterator[Batch]:
        numbers = self.index.cpu()
        parts = [part for positions in order for part in torch.split(numbers[positions], _PART)]
        reader = _Reader(self.store.read, centre_view if crops is None else crops.crop.view, self.size)
        decoded = _decoded(reader, _Requests(self.store, parts, crops), len(order[0]), workers, self.device)
        with closing(decoded):  # an error must not keep the workers alive for as long as its traceback
            for positions in order:
                count = math.ceil(len(positions) / _PART)
                pixels, view = torch.cat([next(decoded) for _ in range(count)]), None
                if then is not None:
                    pixels, view = then(pixels)
                chosen = positions.to(self.device)
                yield Batch(
                    to_unit(pixels, 255),
                    self.labels[chosen],
                    self.index[chosen],
                    view if crops is None else None,
                )


# ---------------------------------------------------------------- between the processes


class _Crops(NamedTuple):
    crop: RandomResizedCrop
    stream: torch.Generator


_Request = tuple[list[Any], Numbers | None]


class _Requests:
    """What the workers are asked, one part after the other; the random numbers are drawn here."""

    def __init__(self, store: Store, parts: list[Tensor], crops: _Crops | None) -> None:
        self._store, self._parts, self._crops = store, parts, crops

    def __len__(self) -> int:
        return len(self._parts)

    def __iter__(self) -> Iterator[_Request]:
        for part in self._parts:
            keys = [self._store.key(number) for number in part.tolist()]
            crops = self._crops
            yield keys, None if crops is None else crops.crop.draw(len(keys), crops.stream).numpy()


class _Reader(Dataset[Tensor | str]):
    """What a worker does."""

    def __init__(self, read: Callable[[Any], Image.Image], view: View, size: int) -> None:
        self._read, self._view, self._size = read, view, size

    def __getitem__(self, request: _Request) -> Tensor | str:
        keys, numbers = request
        none = np.empty(0)
        pixels = np.empty((len(keys), 3, self._size, self._size), dtype=np.uint8)
        for place, key in enumerate(keys):
            try:
                image = self._read(key)
            except BadInput as error:
                return str(error)  # raised by the calling process, without the traceback of this one
            row = none if numbers is None else numbers[place]
            pixels[place] = to_planes(self._view(image, self._size, row))
        return torch.from_numpy(pixels)


def _decoded(
    reader: _Reader, requests: _Requests, batch_size: int, workers: int, device: torch.device
) -> Generator[Tensor]:
    """Give the parts in order, on the device; the workers end when the iterator does."""
    loader: DataLoader[Tensor | str] = DataLoader(
        reader,
        sampler=requests,
        batch_size=None,
        num_workers=workers,
        # A whole batch is decoded ahead while the calling process works on another.
        prefetch_factor=1 + math.ceil(batch_size / (_PART * workers)) if workers else None,
        multiprocessing_context=new_context(*_PRELOAD) if workers else None,
        worker_init_fn=_end_with_trainer if workers else None,
        pin_memory=device.type == "cuda",
        generator=torch.Generator(),  # it draws a seed for its workers, not from the global one
    )
    try:
        for part in loader:
            if isinstance(part, str):
                raise BadInput(part)
            yield part.to(device, non_blocking=True)
        return
    except (RuntimeError, EOFError, OSError) as error:
        # A worker that is gone is noticed by the loader or, as it may happen, by a connection to it.
        if not workers or (
            isinstance(error, RuntimeError) and not str(error).startswith("DataLoader worker (")
        ):
            raise
        reason = str(error).partition("\n")[0] or type(error).__name__
    # Outside of the except clause: the error has a traceback that would keep the other workers alive.
    raise RunFailed(
        f"a process that decodes images has died ({reason}): memory or shared memory may be short, of which "
        "fewer workers need less; or a script lacks if __name__ == '__main__'"
    )


def _end_with_trainer(_: int) -> None:
    end_with_parent()


def _available() -> int:
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(cpus, _MOST_WORKERS)
