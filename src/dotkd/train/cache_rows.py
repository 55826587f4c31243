"""Rows of numbers remembered under whole numbers: in memory for one run, or in a file for many at once.

Here belongs how rows are kept and found again; what a row is of is the caller's business. A row that is not
there, or not wholly there, is *missing*: nothing else is ever given back.
"""

import json
import shutil
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from dotkd.errors import BadInput

Numbers = NDArray[np.int64]
Floats = NDArray[np.float32]
Known = NDArray[np.bool_]

_MAGIC = b"dotkd teacher cache 1\n"
_HEADER = 4096  # bytes
_PAGE = 4096  # what a file system gives at least
_FACTOR, _SALT = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xC2B2AE3D27D4EB4F)  # odd, otherwise of no meaning


class Rows(Protocol):
    """Where rows are kept."""

    def read(self, numbers: Numbers) -> tuple[Floats, Known]:
        """Look rows up.

        Args:
            numbers: [B], in [0, count).

        Returns:
            The rows [B, width], and which of them are known; a row that is missing holds anything.
        """
        ...

    def write(self, numbers: Numbers, rows: Floats) -> None:
        """Remember rows.

        Args:
            numbers: [M], all different.
            rows: [M, width].
        """
        ...


class MemoryRows:
    """Rows in the memory of this process, of which the system takes only what has been written.

    Rows lie in the order in which they come, and a table says where each is: laid out by number, the few rows
    of a short run would touch nearly every page.

    Args:
        count: How many numbers there are.
        width: Floats in a row.
        capacity: How many rows to remember at most; those that come later are not kept.

    Raises:
        BadInput: The memory is not there.

    Example:
        >>> rows = MemoryRows(count=1000, width=2, capacity=10)
        >>> rows.write(np.array([7]), np.array([[0.5, 1.5]], dtype=np.float32))
        >>> found, known = rows.read(np.array([7, 8]))
        >>> found[0].tolist(), known.tolist()
        ([0.5, 1.5], [True, False])
    """

    def __init__(self, count: int, width: int, capacity: int) -> None:
        need = 4 * (capacity * width + count)
        free = _free_memory()
        if free is not None and need > free:
            raise BadInput(f"it may take {_size(need)} of memory in this run, and {_size(free)} are free")
        try:
            # Row 0 is nobody's, so that a table of zeros, which takes no memory, says that all are missing.
            self._place = np.zeros(count, dtype=np.int32)
            self._rows = np.empty((capacity + 1, width), dtype=np.float32)
        except MemoryError:
            raise BadInput(f"it may take {_size(need)} of memory in this run, which is not there") from None
        self._used = 0

    def read(self, numbers: Numbers) -> tuple[Floats, Known]:
        """Look rows up; see :class:`Rows`."""
        places = self._place[numbers]
        return self._rows[places], places > 0

    def write(self, numbers: Numbers, rows: Floats) -> None:
        """Remember rows; see :class:`Rows`."""
        fresh = np.flatnonzero(self._place[numbers] == 0)[: len(self._rows) - 1 - self._used]
        numbers, rows = numbers[fresh], rows[fresh]
        places = np.arange(self._used + 1, self._used + 1 + len(numbers), dtype=np.int32)
        self._rows[places] = rows
        self._place[numbers] = places
        self._used += len(numbers)


class FileRows:
    """Rows in a file that several processes, one after the other or at once, read and write without locks.

    A row has its place by its number, and a check beside it that depends on every bit of the row, on their
    order and on the number. What was never written is a hole of zeros, whose check is wrong, and so is that
    of a row of which only a part was written: both are missing. Two writers of one row write the same bytes,
    for all that a row depends on is in the key. The file is sparse: it takes what was written, not its full
    length.

    Args:
        path: The file; it is made where it is not there.
        key: All that its rows depend on, for JSON. It stands in the file.
        count: How many numbers there are.
        width: Floats in a row.
        writes: How many rows will be written at most.

    Raises:
        BadInput: The file is one of another key or none of this kind, cannot be read or written, or may
            outgrow the disk.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     one, other = (FileRows(Path(folder, "x"), {"of": 1}, 1000, 2, 10) for _ in range(2))
        ...     one.write(np.array([7]), np.array([[0.5, 1.5]], dtype=np.float32))
        ...     found, known = other.read(np.array([7, 8]))
        >>> found[0].tolist(), known.tolist()
        ([0.5, 1.5], [True, False])
    """

    def __init__(self, path: Path, key: Mapping[str, Any], count: int, width: int, writes: int) -> None:
        self._record = np.dtype([("check", "<u8"), ("row", "<f4", (width,))])
        self._factors = np.cumprod(np.full(width, _FACTOR, dtype=np.uint64), dtype=np.uint64)
        self._path, self._writes = path, True
        length = _HEADER + count * self._record.itemsize
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch(exist_ok=True)
            _claim(path, key, length)
            _refuse_full_disk(path, length, writes * (_PAGE + self._record.itemsize))
            records = np.memmap(path, self._record, mode="r", offset=_HEADER, shape=(count,))
        except OSError as error:
            raise BadInput(f"{path}: cannot be used: {error.strerror or error}") from None
        self._records: NDArray[Any] = np.asarray(records)

    def read(self, numbers: Numbers) -> tuple[Floats, Known]:
        """Look rows up; see :class:`Rows`."""
        records = self._records[numbers]
        rows = np.ascontiguousarray(records["row"])
        return rows, records["check"] == self._check(numbers, rows)

    def write(self, numbers: Numbers, rows: Floats) -> None:
        """Remember rows; see :class:`Rows`. Of a disk that has become full there is one warning."""
        if not self._writes:
            return
        records = np.empty(len(rows), dtype=self._record)
        records["row"], records["check"] = rows, self._check(numbers, rows)
        content, size = records.tobytes(), self._record.itemsize
        try:
            # Not by way of the mapped memory, which ends the process where a disk is full.
            with self._path.open("r+b", buffering=0) as file:
                for place, number in enumerate(numbers.tolist()):
                    file.seek(_HEADER + number * size)
                    file.write(content[place * size : (place + 1) * size])
        except OSError as error:
            self._writes = False
            warnings.warn(
                f"{self._path}: {error.strerror or error}: the run goes on and remembers no more",
                RuntimeWarning,
                stacklevel=2,
            )

    def _check(self, numbers: Numbers, rows: Floats) -> NDArray[np.uint64]:
        """Return the sums of the bits of each float times a power of an odd factor, modulo 2^64."""
        bits = rows.astype("<f4", copy=False).view("<u4").astype(np.uint64)
        # The last bit is set, for 0 is the check of a row that was never written.
        sums: NDArray[np.uint64] = (bits * self._factors).sum(axis=1) + (
            numbers.astype(np.uint64) + _SALT
        ) * _FACTOR
        return np.bitwise_or(sums, np.uint64(1))


def _claim(path: Path, key: Mapping[str, Any], length: int) -> None:
    """Give a new file its header and length; refuse one that has another header.

    The header follows from the key alone. So it does no harm if two processes write it at once, and one that
    was cut off is completed.

    Raises:
        BadInput: It is a file of another key, or of another kind.
    """
    header = (_MAGIC + json.dumps(key, sort_keys=True).encode()).ljust(_HEADER, b"\n")
    assert len(header) == _HEADER
    with path.open("r+b", buffering=0) as file:
        found = file.read(_HEADER)
        if found != header:
            if not header.startswith(found.rstrip(b"\0")):
                raise BadInput(f"{path}: {_difference(found, key)}")
            file.seek(0)
            file.write(header)
        there = path.stat().st_size
        if there > length:
            raise BadInput(f"{path}: broken: it has {there} bytes, and {length} are right")
        if there < length:
            file.truncate(length)


def _difference(found: bytes, key: Mapping[str, Any]) -> str:
    """Say why a header is not that of a key."""
    if not found.startswith(_MAGIC):
        return "not a cache of a teacher's outputs, or one of another version"
    try:
        theirs = json.loads(found[len(_MAGIC) :])
    except ValueError:
        theirs = None
    if not isinstance(theirs, dict):
        return "broken: its first line does not say what it is of"
    unlike = [name for name in {**theirs, **key} if theirs.get(name) != key.get(name)]
    told = (f"{name} ({theirs.get(name)!r}, and here {key.get(name)!r})" for name in unlike)
    return f"made for something else, which differs in {', '.join(told)}"


def _refuse_full_disk(path: Path, length: int, writes: int) -> None:
    """Refuse a file that may outgrow its disk, by the bytes that this run writes or up to its full length.

    Raises:
        BadInput: It may.
    """
    taken = getattr(path.stat(), "st_blocks", 0) * 512
    need, free = min(length - taken, writes), shutil.disk_usage(path.parent).free
    if need > free:
        raise BadInput(f"{path}: it may grow by {_size(need)} in this run, and {_size(free)} are free there")


def _free_memory() -> int | None:
    """Return the bytes that the system can give, or None where it does not say."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    kilobytes = [int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")]
    return kilobytes[0] * 1024 if kilobytes else None


def _size(count: int) -> str:
    return f"{count / 2**30:.2f} GiB"
