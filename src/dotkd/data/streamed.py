"""Images that stay encoded and are decoded by worker processes, for data sets larger than memory."""

import hashlib
import math
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
from dotkd.data.augment import RandomResizedCrop, ViewFunction
from dotkd.data.decode import Encoded, Numbers, Store, centre_view, to_planes
from dotkd.data.images import Augment, Batch, Images, Splits, check_classes, check_samples, to_unit
from dotkd.errors import BadInput, RunFailed
from dotkd.processes import available_cpus, end_with_parent, new_context

_PART = 32  # images that a worker decodes at a time; small, since a part travels through shared memory
# Modules that the server process loads once for all workers.
_PRELOAD = (__name__, "PIL.JpegImagePlugin", "PIL.PngImagePlugin")
_MOST_WORKERS = 8


def stream_parts(encoded: Encoded, size: int, workers: int | None) -> Splits["StreamedImages"]:
    """Return the splits of the source."""
    parts = {
        name: StreamedImages(
            part.images, torch.from_numpy(part.labels), encoded.classes, size, workers=workers
        )
        for name, part in encoded.parts().items()
    }
    return Splits(parts["train"], parts.get("validation"), parts["test"])


@dataclass(frozen=True, eq=False, init=False, repr=False)
class StreamedImages(Images):
    """Data set of encoded images of any size, decoded batch by batch.

    Every image becomes [3, size, size]: its middle (shorter side resized to ``size * 256 / 224``, then
    cropped), or a random view of the whole image if ``augment`` is a
    :class:`dotkd.data.RandomResizedCrop`. Worker processes decode ahead. Batches do not depend on the
    number of workers: order and random numbers are drawn by the calling process. Workers end with the
    epoch, or when its iterator is closed.

    Workers are forked from a clean server process where the system supports it (Linux, macOS), not
    from the calling one, which may hold threads and a GPU; elsewhere they are spawned. Either way, a
    script needs the guard ``if __name__ == "__main__":``, or 0 workers.

    Args:
        store: the encoded images, such as :class:`dotkd.data.ImageFiles`.
        labels: [N], int64, in [0, len(classes)); -100 for an image without a label.
        classes: class names, all different, in the order of their numbers.
        size: height and width of each view, at least 1.
        index: [N], int64, numbers of the images in the store, which are the sample numbers; None
            for all of them in order.
        workers: number of worker processes; 0 decodes in the calling process, None takes one for
            each CPU that this process may use, at most 8.

    Raises:
        ValueError: if an argument lies outside its range.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from dotkd.data import ImageFiles
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
        check_samples(labels, index, classes, count=len(index))
        check_range("index", index, len(store) - 1, f"{len(store)} images in the store")
        if index.device != labels.device:
            raise ValueError(
                f"index must be on the device of the labels ({labels.device}), got {index.device}"
            )
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
        shape = list(self.image_shape)
        return f"StreamedImages({len(self)} images of {shape}, {len(self.classes)} classes)"

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of a view."""
        return 3, self.size, self.size

    def batch(self, positions: Tensor | Sequence[int]) -> Batch:
        """Decode the images at some positions, in this process; see the base class."""
        (batch,) = self._read([self._positions(positions).cpu()], None, None, workers=0)
        return batch

    def subset(self, positions: Tensor | Sequence[int]) -> Self:
        """Keep the images at some positions, with their sample numbers; see the base class."""
        chosen = self._positions(positions)
        return replace(self, labels=self.labels[chosen], index=self.index[chosen])

    def with_labels(self, labels: Tensor) -> Self:
        """Replace the labels; see the base class."""
        return replace(self, labels=labels)

    def to(self, device: torch.device | str) -> Self:
        """Move the batches to a device; see the base class."""
        return replace(self, labels=self.labels.to(device), index=self.index.to(device))

    def checksum(self) -> str:
        """Identify the data set by the fingerprint of its store, its labels and its sample numbers.

        Returns:
            16 hexadecimal digits. The fingerprint of files is names, sizes and times, not contents.
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
        """Iterate over one epoch; see the base class.

        Args:
            batch_size: images in a batch, at least 1; the last batch may be smaller.
            generator: shuffles the epoch and advances; None keeps the order and draws nothing.
            drop_last: whether to drop a last batch that is not full.
            augment: a :class:`dotkd.data.RandomResizedCrop`, or a function of the middle views of
                a batch, [B, 3, size, size] of uint8, on the device.

        Returns:
            An iterator over the batches of one epoch. Reading it starts the workers.

        Raises:
            ValueError: if ``batch_size`` is not a whole number of at least 1, if ``drop_last``
                would leave no batch, or if ``augment`` is something else. Reading raises BadInput
                for an image that cannot be decoded.
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


# ---------------------------------------------------------------- worker processes


class _Crops(NamedTuple):
    crop: RandomResizedCrop
    stream: torch.Generator


_Request = tuple[list[Any], Numbers | None]


class _Requests:
    """Requests to the workers, part by part; random numbers are drawn here, in the calling process."""

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
    """Decodes one request, in a worker."""

    def __init__(self, read: Callable[[Any], Image.Image], view: ViewFunction, size: int) -> None:
        self._read, self._view, self._size = read, view, size

    def __getitem__(self, request: _Request) -> Tensor | str:
        keys, numbers = request
        none = np.empty(0)
        pixels = np.empty((len(keys), 3, self._size, self._size), dtype=np.uint8)
        for place, key in enumerate(keys):
            try:
                image = self._read(key)
            except BadInput as error:
                return str(error)  # the calling process raises it, without the traceback of this one
            row = none if numbers is None else numbers[place]
            pixels[place] = to_planes(self._view(image, self._size, row))
        return torch.from_numpy(pixels)


def _decoded(
    reader: _Reader, requests: _Requests, batch_size: int, workers: int, device: torch.device
) -> Generator[Tensor]:
    """Yield the parts in order, on the device; the workers end with the iterator."""
    loader: DataLoader[Tensor | str] = DataLoader(
        reader,
        sampler=requests,
        batch_size=None,
        num_workers=workers,
        # Workers decode a whole batch ahead.
        prefetch_factor=1 + math.ceil(batch_size / (_PART * workers)) if workers else None,
        multiprocessing_context=new_context(*_PRELOAD) if workers else None,
        worker_init_fn=_end_with_trainer if workers else None,
        pin_memory=device.type == "cuda",
        generator=torch.Generator(),  # for the seed of the workers, instead of the global one
    )
    try:
        for part in loader:
            if isinstance(part, str):
                raise BadInput(part)
            yield part.to(device, non_blocking=True)
        return
    except (RuntimeError, EOFError, OSError) as error:
        # A dead worker is noticed by the loader, or by a connection to it.
        if not workers or (
            isinstance(error, RuntimeError) and not str(error).startswith("DataLoader worker (")
        ):
            raise
        reason = str(error).partition("\n")[0] or type(error).__name__
    # Outside of the except clause: the error has a traceback that would keep the other workers alive.
    raise RunFailed(
        f"a worker that decodes images has died ({reason}): out of memory or shared memory? Try fewer "
        "workers; a script also needs the guard if __name__ == '__main__'"
    )


def _end_with_trainer(_: int) -> None:
    end_with_parent()


def _available() -> int:
    return min(available_cpus(), _MOST_WORKERS)
