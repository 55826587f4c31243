"""The teacher cache: stores a teacher's outputs, after one forward pass for each view of an image.

A crop by up to 4 pixels and a flip make 162 views of an image, and a frozen teacher has the same outputs for
a view in each epoch. Epoch t finds the share 1 - (161/162)^(t-1) of its images known. The student is the
same to the last bit: the bits of an output do not depend on what else is in the batch. They may depend on
the batch size, since libraries have other kernels for small batches. So the teacher is tried once on a whole
batch and on parts of it, and computes missing images only in batch sizes that gave the bits of the whole
batch; known images fill up to the next such size.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dotkd.data import Batch
from dotkd.methods.base import Outputs
from dotkd.train.cache_rows import Numbers, Rows

_IN_FLIGHT = 2  # batches on their way to the host

Teach = Callable[[Tensor], Outputs]


class Layout(NamedTuple):
    """How the outputs for one image lie in a row: the logits, then each feature.

    Attributes:
        classes: How many logits.
        features: Name and shape of each feature, without the batch.
    """

    classes: int
    features: tuple[tuple[str, tuple[int, ...]], ...]

    @classmethod
    def of(cls, outputs: Outputs) -> "Layout":
        """Read the layout off the outputs for any batch."""
        features = tuple((name, tuple(each.shape[1:])) for name, each in outputs.features.items())
        return cls(outputs.logits.shape[1], features)

    @property
    def width(self) -> int:
        """Numbers in a row."""
        return self.classes + sum(int(np.prod(shape)) for _, shape in self.features)

    def pack(self, outputs: Outputs) -> Tensor:
        """Lay outputs out as rows [B, width] of float32, in which float16 and bfloat16 keep their value."""
        return torch.cat(
            [outputs.logits.float(), *(f.flatten(1).float() for f in outputs.features.values())], 1
        )

    def unpack(self, rows: Tensor) -> Outputs:
        """Make outputs of rows."""
        sizes = [self.classes, *(int(np.prod(shape)) for _, shape in self.features)]
        logits, *parts = (part.contiguous() for part in torch.split(rows, sizes, dim=1))
        named = zip(self.features, parts, strict=True)
        return Outputs(logits, {name: part.reshape(-1, *shape) for (name, shape), part in named})


class TeacherCache:
    """A teacher that remembers.

    Rows are looked up on the host, which must know them without waiting for the device: :meth:`follow`
    fetches the numbers of a batch while the device still works on the one before.

    Args:
        rows: Where outputs are kept, under ``index * views + view``.
        layout: How they lie there.
        views: How many views of an image there are.
        sizes: In which numbers of images the teacher gives the bits of a whole batch.
        key: All that the outputs depend on.

    Attributes:
        key: See above.

    Example:
        >>> from dotkd.data import load_digits
        >>> from dotkd.train.cache_rows import MemoryRows
        >>> rows, asked = MemoryRows(count=2000, width=10, capacity=2000), []
        >>> cache = TeacherCache(rows, Layout(10, ()), views=1, sizes=[64], key={})
        >>> def teach(images):
        ...     asked.append(len(images))
        ...     return Outputs(images.flatten(1)[:, :10])
        >>> for _ in range(2):
        ...     for batch in cache.follow(load_digits().train.batches(64, drop_last=True)):
        ...         _ = cache.outputs(batch.images, teach)
        ...     cache.hit_rate(), len(asked)
        (0.0, 18)
        (1.0, 18)
    """

    def __init__(
        self, rows: Rows, layout: Layout, *, views: int, sizes: Iterable[int], key: dict[str, Any]
    ) -> None:
        self.key = key
        self._rows, self._layout, self._views, self._sizes = rows, layout, views, sorted(sizes)
        self._numbers: Numbers = np.empty(0, dtype=np.int64)
        self._landing: deque[tuple[Numbers, _OnHost]] = deque()
        self._asked = self._hits = 0

    def follow(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """Give the batches of an epoch one after the other; :meth:`outputs` is about the one given last.

        Args:
            batches: The epoch; it is read one batch ahead. On a GPU the numbers of a batch are then copied
                before the work on the batch in front of it is handed over: the host waits for a copy that
                has this much work behind it, and the device never runs dry.

        Yields:
            The batches.
        """
        waiting: tuple[Batch, _OnHost] | None = None
        for batch in batches:
            view = 0 if batch.view is None else batch.view
            upcoming = batch, _OnHost(batch.index * self._views + view)
            if waiting is not None:
                yield self._turn_to(*waiting)
            waiting = upcoming
        if waiting is not None:
            yield self._turn_to(*waiting)
        self._remember(0)

    def _turn_to(self, batch: Batch, numbers: "_OnHost") -> Batch:
        self._numbers = numbers.wait()
        return batch

    def outputs(self, images: Tensor, teach: Teach) -> Outputs:
        """Return what the teacher says of the images of a batch, asking it where that is not known.

        Args:
            images: [B, C, H, W], those of the batch that :meth:`follow` gave last, on any device.
            teach: Asks the teacher: as many images as it is given, in the order in which they are given.

        Returns:
            The outputs in float32, with the bits that ``teach(images)`` has.
        """
        numbers, count = self._numbers, len(images)
        self._asked += count
        if count not in self._sizes:
            return teach(images)  # a last batch so small that its bits are its own
        rows, known = self._rows.read(numbers)
        missing = np.flatnonzero(~known)
        self._hits += count - len(missing)
        if not len(missing):
            return self._layout.unpack(_to_device(rows, images.device))
        size = next(size for size in self._sizes if size >= len(missing))
        places = _to_device(np.concatenate([missing, np.flatnonzero(known)])[:size], images.device)
        if size == count:  # the batch as it is: a copy in another order would change nothing
            table = self._layout.pack(teach(images))
            fresh = table[places[: len(missing)]]
        else:
            fresh = self._layout.pack(teach(images[places]))[: len(missing)]
            table = _to_device(rows, images.device).index_copy_(0, places[: len(missing)], fresh)
        self._landing.append((numbers[missing], _OnHost(fresh)))
        self._remember(_IN_FLIGHT)
        return self._layout.unpack(table)

    def hit_rate(self) -> float:
        """Return the share of images that were known, since it was asked last."""
        rate = self._hits / max(self._asked, 1)
        self._asked = self._hits = 0
        return rate

    def _remember(self, most: int) -> None:
        """Write down the outputs that have reached the host, until at most some are still on their way."""
        while self._landing and (len(self._landing) > most or self._landing[0][1].is_there()):
            numbers, rows = self._landing.popleft()
            self._rows.write(numbers, rows.wait())


class _OnHost:
    """A copy on the host, which is on its way while the device works."""

    def __init__(self, tensor: Tensor) -> None:
        self._tensor = tensor.detach().to("cpu", non_blocking=True)  # pinned, where it comes from a GPU
        self._event = None
        if tensor.is_cuda:
            self._event = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._event.record(torch.cuda.current_stream(tensor.device))

    def is_there(self) -> bool:
        return self._event is None or bool(self._event.query())  # type: ignore[no-untyped-call]

    def wait(self) -> Any:
        if self._event is not None:
            self._event.synchronize()
        return self._tensor.numpy()


def _to_device(array: NDArray[Any], device: torch.device) -> Tensor:
    tensor = torch.from_numpy(array)
    # From pageable memory the host would wait for the copy.
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor
