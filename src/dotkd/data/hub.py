"""Image data sets in parquet files: local folders, the Hugging Face hub, and CIFAR, with its own columns."""

import hashlib
import importlib
import json
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from difflib import get_close_matches
from itertools import chain, combinations
from pathlib import Path
from typing import Any, NamedTuple, Unpack

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dotkd._validate import UNLABELLED, check_integer
from dotkd.data.cifar import find_batches, read_batches
from dotkd.data.decode import ANY_IMAGE, MAX_PIXELS, Accepted, Encoded, Part, decode
from dotkd.data.images import DataFacts, ImageData, Images, Splits, cached_images, from_arrays
from dotkd.data.sources import SplitOptions, check_streaming, check_test_share, draw_test, load_splits, source
from dotkd.data.streamed import stream_parts
from dotkd.errors import BadInput, missing_extra, unknown

Files = dict[str, list[Path]]  # split -> parquet or Arrow files

# ---------------------------------------------------------------- files of a data set

_HUB_NAME = re.compile(r"\w[\w.-]*/\w[\w.-]*")


def _is_hub_name(root: str | Path) -> bool:
    """Tell a name of the hub, ``"owner/name"``, from a path: its first half is no folder here."""
    return isinstance(root, str) and bool(_HUB_NAME.fullmatch(root)) and not Path(root).parent.exists()


def _local_files(folder: Path, splits: Sequence[str], subfolders: Sequence[str]) -> Files | None:
    """Find ``SPLIT-*.parquet`` of all splits in the folder or else in one of its subfolders."""
    for sub in ("", *subfolders):
        paths = sorted((folder / sub).glob("*.parquet"))
        files = {split: [path for path in paths if path.name.startswith(f"{split}-")] for split in splits}
        if all(files.values()):
            return files
    return None


def _library_files(root: str | Path, config: str, what: str) -> Files:
    """Let the library ``datasets`` download or convert a data set; return its Arrow files."""
    datasets, local = _library("datasets", what), Path(root).is_dir()
    try:
        name = str(Path(root).absolute()) if local else str(root)
        parts = datasets.load_dataset(name, *([config] if config else []))
    except Exception as error:  # the network, the hub and each kind of file have types of their own
        told = f"root {str(root)!r} is no folder here, and as a data set of the hub it cannot be loaded"
        told = f"root {root} cannot be read as a data set" if local else told
        raise BadInput(f"{told}: {_first_line(error)}") from error
    return {split: [Path(file["filename"]) for file in part.cache_files] for split, part in parts.items()}


def _library(name: str, what: str) -> Any:
    """Import a module of the extra ``hub``; by its name, since the type checker may lack it too."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise missing_extra(what, "hub") from error


def _first_line(error: BaseException) -> str:
    """Return the first line of an error of the library, with the configurations it lists in the second."""
    if "generating the dataset" in str(error) and error.__cause__ is not None:
        error = error.__cause__
    first, *rest = str(error).splitlines() or [type(error).__name__]
    return " ".join([first, *(line for line in rest if "available configs" in line)])


def _checksum(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise BadInput(f"{path} cannot be read: {error.strerror}") from error


# ---------------------------------------------------------------- the parquet reader

_ROWS = 1000  # read at a time


def _is_arrow(path: Path) -> bool:
    return path.suffix == ".arrow"  # in the cache of the library; all others are parquet files


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """Open a parquet file, or map an Arrow file as a table; errors name the file."""
    arrow, parquet = _library("pyarrow", str(path)), _library("pyarrow.parquet", str(path))
    try:
        if _is_arrow(path):
            yield arrow.ipc.open_stream(arrow.memory_map(str(path))).read_all()
        else:
            with parquet.ParquetFile(path) as file:
                yield file
    except (OSError, arrow.ArrowException) as error:
        kind = path.suffix.removeprefix(".")
        raise BadInput(f"{path} is broken or no {kind} file: {_first_line(error)}") from error


def _schema(path: Path) -> Any:
    with _opened(path) as file:
        return file.schema if _is_arrow(path) else file.schema_arrow


def _cells(path: Path, column: str) -> Iterator[Any]:
    """Read a column, array by array."""
    with _opened(path) as file:
        if _is_arrow(path):
            yield from file.column(column).chunks
        else:
            for batch in file.iter_batches(_ROWS, columns=[column]):
                yield batch.column(0)


class ArrowImages:
    """Encoded images in a column of parquet or Arrow files; a :class:`dotkd.data.decode.Store`.

    Args:
        files: the files, in order.
        column: a column of bytes, or of structs with the field ``bytes``, in Arrow files or ``path``.
        where: name of the split in messages.
        accepted: formats and modes to accept.
        rows: rows of the column to take, ascending; None for all.
    """

    def __init__(
        self,
        files: Sequence[Path],
        column: str,
        where: str,
        accepted: Accepted,
        rows: NDArray[np.int64] | None = None,
    ) -> None:
        self._files, self._column, self._where, self._accepted = files, column, where, accepted
        self._rows = rows
        self._opened: Any = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_opened": None}  # another process opens the files itself

    def _by_row(self) -> Any:
        if self._opened is None:
            arrow = _library("pyarrow", self._where)
            self._opened = arrow.chunked_array(
                [cells for path in self._files for cells in _cells(path, self._column)]
            )
        return self._opened

    def __len__(self) -> int:
        return len(self._by_row()) if self._rows is None else len(self._rows)

    def pick(self, numbers: NDArray[np.int64]) -> "ArrowImages":
        """Return the images of some numbers."""
        rows = numbers if self._rows is None else self._rows[numbers]
        return ArrowImages(self._files, self._column, self._where, self._accepted, rows)

    def key(self, number: int) -> int:
        """Return the row of an image."""
        return number if self._rows is None else int(self._rows[number])

    def title(self, number: int) -> str:
        """Return split, row and column of an image."""
        return self._title(self.key(number))

    def _title(self, row: int) -> str:
        return f"{self._where}, row {row}: {self._column}"

    def read(self, key: int) -> Image.Image:
        """Decode the image in a row."""
        return decode(self._content(key, self._by_row()[key].as_py()), self._title(key), self._accepted)

    def contents(self) -> Iterator[list[bytes]]:
        """Return the bytes of all images, array by array of the column."""
        start = 0
        for path in self._files:
            for cells in _cells(path, self._column):
                rows = np.arange(start, start + len(cells))
                stop = start + len(cells)
                if self._rows is not None:
                    rows = np.intersect1d(rows, self._rows)
                    cells = cells.take(_library("pyarrow", self._where).array(rows - start))
                yield [
                    self._content(row, cell)
                    for row, cell in zip(rows.tolist(), cells.to_pylist(), strict=True)
                ]
                start = stop

    def fingerprint(self) -> str:
        """Identify the images by all sizes and by the bytes of a thousand of them, at even distances."""
        compute, cells = _library("pyarrow.compute", self._where), self._by_row()
        encoded = compute.struct_field(cells, "bytes") if cells.type.num_fields else cells
        sizes = compute.fill_null(compute.binary_length(encoded), -1).to_numpy().astype(np.int64)
        rows = np.arange(len(sizes)) if self._rows is None else self._rows
        digest = hashlib.sha256(sizes[rows].data)
        for row in rows[np.linspace(0, len(rows) - 1, min(_ROWS, len(rows)), dtype=int)].tolist():
            digest.update(self._content(row, cells[row].as_py()))
        return digest.hexdigest()

    def _content(self, row: int, cell: Any) -> bytes:
        content, path = (cell.get("bytes"), cell.get("path")) if isinstance(cell, dict) else (cell, None)
        if content is None and path and _is_arrow(self._files[0]) and Path(path).is_file():
            content = Path(path).read_bytes()  # the library keeps folders of images as paths
        if not isinstance(content, bytes):
            raise BadInput(f"{self._title(row)} must hold the bytes of an image file, has none")
        return content


class _Rows(NamedTuple):
    """Rows of a split; None for all of them."""

    split: str
    files: list[Path]
    rows: NDArray[np.int64] | None


_SLICE = re.compile(r"(?P<split>[^\[\]]+)(?P<slice>\[(?P<start>-?\d+%?)?:(?P<stop>-?\d+%?)?\])?")


def _slice(option: str, text: str) -> re.Match[str]:
    """Read ``"train"``, ``"train[:80%]"`` or ``"train[100:-50]"``, as the library ``datasets`` does."""
    found = _SLICE.fullmatch(text)
    if found is None:
        raise BadInput(
            f"{option} must be the name of a split, or a slice of one such as 'train[:80%]' or "
            f"'train[100:200]', got {text!r}"
        )
    return found


def _numbers(wanted: re.Match[str], total: int) -> NDArray[np.int64]:
    """Return the rows of a slice."""

    def bound(text: str | None) -> int | None:
        if text is None:
            return None
        return round(int(text[:-1]) * total / 100) if text.endswith("%") else int(text)

    return np.arange(total)[bound(wanted["start"]) : bound(wanted["stop"])]


def _count(path: Path) -> int:
    with _opened(path) as file:
        return int(file.num_rows if _is_arrow(path) else file.metadata.num_rows)


@dataclass(frozen=True)
class _Parquet:
    """A data set in parquet files; see :func:`load_hub` for the options."""

    root: str | Path
    image_column: str
    label_column: str
    train_split: str = "train"
    test_split: str = "test"
    validation_split: str = ""
    test_share: float = 0.0
    config: str = ""
    image_size: int = 0
    stream: bool = False
    workers: int | None = None
    max_image_pixels: int = MAX_PIXELS
    name: str = "hub-v3"
    num_classes: int | None = None  # None: as many as the files have
    accepted: Accepted = ANY_IMAGE

    def __post_init__(self) -> None:
        check_streaming(self.image_size, self.stream, self.workers)
        check_test_share(self.test_share)
        limit = check_integer("max_image_pixels", self.max_image_pixels, low=1)
        # The class is frozen: this is the one place that writes.
        object.__setattr__(self, "accepted", self.accepted._replace(max_pixels=limit))
        if self.test_share and self.test_split != "test":
            raise BadInput(
                f"test_split must be left out where test_share={self.test_share:g} draws the test split, "
                f"got {self.test_split!r}"
            )

    def facts(self) -> DataFacts:
        """Return shape and size; the first image is decoded where no size is given."""
        return self._open(self._files()).facts(self.image_size)

    def read(self) -> Splits[Images]:
        """Return the splits, streamed or in memory."""
        files = self._files()
        splits: Splits[Images]
        if self.stream:
            splits = stream_parts(self._open(files), self.image_size, self.workers)
        else:
            splits = self.in_memory(files)
        self._tell_unlabelled(splits)
        return splits

    def _tell_unlabelled(self, splits: Splits[Images]) -> None:
        """Warn of images without a label, for a label may be missing by mistake."""
        parts = {name: part for name, part in splits._asdict().items() if part is not None}
        missing = {name: int((part.labels == UNLABELLED).sum()) for name, part in parts.items()}
        if any(missing.values()):
            counts = ", ".join(
                f"{count} of {len(parts[name])} for {name}" for name, count in missing.items() if count
            )
            warnings.warn(
                f"{self.root}: images without a label: {counts}; they are trained on without the task loss, "
                "and left out of validation and test",
                stacklevel=2,
            )

    def in_memory(self, files: Files) -> Splits[ImageData]:
        """Decode all images, or read them from the cache, whose key is the contents of the files."""
        digest = hashlib.sha256(f"{self.image_column} {self.label_column}\n".encode())
        if self.test_share:
            digest.update(f"{self.test_share}\n".encode())
        for role, (split, paths, rows) in self._rows(files).items():
            for path in paths:
                digest.update(f"{role} {_checksum(path)}\n".encode())
            if rows is not None:
                digest.update(rows.data)
            if _is_arrow(paths[0]):  # which may hold the paths of images instead of their bytes
                self._check_columns(self._where(split), paths)
                images = ArrowImages(paths, self.image_column, self._where(split), self.accepted)
                for content in chain.from_iterable(images.contents()):
                    digest.update(content)
        # The number goes up whenever the cached arrays change their form.
        key = f"{self.name}-{digest.hexdigest()}" + (f"-{self.image_size}" if self.image_size else "")
        return cached_images(key, lambda: self._open(files).decode(self.image_size))

    def _files(self) -> Files:
        """Find the files of all splits: local parquet files as they are, all else through the library."""
        folder, what = Path(self.root), f"data set {str(self.root)!r}"
        if not folder.is_dir() and not _is_hub_name(self.root):
            raise BadInput(
                "root must be a folder with parquet files or the name of a data set of the hub, such as "
                f"'owner/name'; {str(self.root)!r} is neither"
            )
        # The library copies parquet files to Arrow files in its cache. Streaming needs these, for rows of
        # parquet files cannot be read one by one; and a README.md may declare configurations.
        plain = folder.is_dir() and not (self.config or self.stream or (folder / "README.md").exists())
        splits = sorted({wanted["split"] for wanted in self._wanted().values()})
        files = _local_files(folder, splits, ("data",)) if plain else None
        return files or _library_files(self.root, self.config, what)

    def _where(self, split: str) -> str:
        return f"{self.root}, split {split!r}"

    def _wanted(self) -> dict[str, re.Match[str]]:
        """Read the options that name splits, by the part that they are for."""
        names = {"train": self.train_split, "test": self.test_split, "validation": self.validation_split}
        if self.test_share:
            del names["test"]
        if not self.validation_split:
            del names["validation"]
        return {role: _slice(f"{role}_split", name) for role, name in names.items()}

    def _rows(self, files: Files) -> dict[str, _Rows]:
        """Find the rows of each part. No image is in two; a whole training split is what the others leave."""
        wanted = self._wanted()
        found: dict[str, NDArray[np.int64]] = {}
        totals: dict[str, int] = {}
        for role, name in wanted.items():
            split = name["split"]
            if split not in files:
                raise BadInput(self._no_split(role, split, files))
            totals[role] = sum(map(_count, files[split]))
            found[role] = _numbers(name, totals[role])
            if totals[role] and not len(found[role]):
                raise BadInput(f"{role}_split: {name[0]!r} has none of the {totals[role]} rows")
        for role, other in combinations(wanted, 2):
            one, two = wanted[role], wanted[other]
            if one["split"] != two["split"]:
                continue
            if role == "train" and two["slice"] and not one["slice"]:
                found["train"] = np.setdiff1d(found["train"], found[other])
            elif shared := len(np.intersect1d(found[role], found[other])):
                raise BadInput(
                    f"{other}_split: {two[0]!r} has {shared} images of {role}_split, {one[0]!r}: take "
                    f"different splits or slices, such as {other}_split='{one['split']}[80%:]'"
                )
        if totals["train"] and not len(found["train"]):
            raise BadInput(f"train_split: the others leave no row of {self.train_split!r} to train on")
        return {
            role: _Rows(
                wanted[role]["split"],
                files[wanted[role]["split"]],
                None if len(rows) == totals[role] else rows,
            )
            for role, rows in found.items()
        }

    def _no_split(self, role: str, name: str, files: Files) -> str:
        """Word the message of a missing split; it never leads to the split of another part."""
        wanted = self._wanted()
        used = {other["split"] for part, other in wanted.items() if part != role}
        near = get_close_matches(name, sorted(files.keys() - used), n=1, cutoff=0.0)
        nearest = f"; nearest: {near[0]!r}" if near else ""
        told = f"unknown {role}_split {name!r}{nearest} (known: {', '.join(sorted(files))})"
        split = wanted["train"]["split"]
        if role == "train" or split not in files:
            return told
        drawn = "test_share=0.2" if role == "test" else "validation=500"
        return f"{told}; {role}_split='{split}[80%:]' or {drawn} takes images of {split!r}"

    def _open(self, files: Files) -> Encoded:
        """Read labels and class names; the images stay encoded."""
        rows = self._rows(files)
        read = {part.split: self._read_labels(self._where(part.split), part.files) for part in rows.values()}
        train = read[rows["train"].split]
        names = self._class_names([path for labels in read.values() for path in labels.files])
        if names is not None:
            known: Sequence[Any] = range(len(names))
        else:
            present = {label for label in train.labels if not self._is_none(label, named=False)}
            known = range(self.num_classes) if self.num_classes else sorted(present)
        classes = [str(name) for name in (known if names is None else names)]
        if len(classes) < 2:
            raise BadInput(
                f"{train.where}: {self.label_column} must have at least two classes, has "
                f"{', '.join(classes) or 'none'}; null and {UNLABELLED} mean no label, as does -1 where "
                "the classes have names"
            )
        whole = {split: self._part(labels, known, named=names is not None) for split, labels in read.items()}
        parts = {
            role: whole[split] if chosen is None else whole[split].pick(chosen)
            for role, (split, _, chosen) in rows.items()
        }
        for role in parts.keys() - {"train"}:
            if rows[role].split == rows["train"].split:
                self._check_slice(role, parts[role].labels, parts["train"].labels, classes)
        if self.test_share:
            parts["train"], parts["test"] = draw_test(parts["train"], self.test_share)
        return Encoded(classes, parts["train"], parts["test"], self.accepted, parts.get("validation"))

    def _check_slice(
        self, role: str, labels: NDArray[np.int64], train: NDArray[np.int64], classes: Sequence[str]
    ) -> None:
        """Refuse a slice of rows in the order of their classes; warn of a few classes that the rest lacks."""
        present = np.unique(labels[labels != UNLABELLED])
        lacking = np.setdiff1d(present, train)
        if not len(lacking):
            return
        option = f"{role}_split: {getattr(self, f'{role}_split')!r}"
        count = "1 class" if len(lacking) == 1 else f"{len(lacking)} classes"
        if 2 * len(lacking) < len(present):
            names = ", ".join(repr(classes[number]) for number in lacking)
            warnings.warn(
                f"{option} has all images of {count}, {names}, and leaves none to train on", stacklevel=2
            )
            return
        drawn = "test_share=0.2" if role == "test" else "validation=500"
        raise BadInput(
            f"{option} has all images of {count}, such as {classes[lacking[0]]!r}, and leaves none to train "
            f"on; {drawn} takes a share of each"
        )

    def _is_none(self, label: Any, *, named: bool) -> bool:
        """Whether a label means that the image has none; published sets with fixed classes have them all."""
        if self.num_classes is not None or isinstance(label, str):
            return False
        return label is None or label in ((-1, UNLABELLED) if named else (UNLABELLED,))

    def _read_labels(self, where: str, paths: list[Path]) -> "_Labels":
        self._check_columns(where, paths)
        labels = [
            label
            for path in paths
            for cells in _cells(path, self.label_column)
            for label in cells.to_pylist()
        ]
        if not labels:
            raise BadInput(f"{where} must have at least one row, got none")
        for row, label in enumerate(labels):
            if not isinstance(label, str | int) and not self._is_none(label, named=True):
                raise BadInput(
                    f"{where}, row {row}: {self.label_column} must be a whole number or a text, got {label!r}"
                )
        return _Labels(where, paths, labels)

    def _check_columns(self, where: str, paths: list[Path]) -> None:
        for schema in map(_schema, paths):
            for option in ("image_column", "label_column"):
                if getattr(self, option) not in schema.names:
                    raise BadInput(f"{unknown(option, getattr(self, option), schema.names)} in {where}")
            kind = schema.field(self.image_column).type
            inner = (
                kind.field("bytes").type if kind.num_fields and kind.get_field_index("bytes") >= 0 else kind
            )
            if str(inner) not in ("binary", "large_binary"):
                raise BadInput(
                    f"image_column: {self.image_column!r} must hold the bytes of image files, "
                    f"holds {kind} in {where}"
                )

    def _class_names(self, paths: list[Path]) -> list[str] | None:
        """Return the class names in the metadata, which all files must share; None where there are none."""
        found = {path: _names_in_metadata(_schema(path), self.label_column) for path in paths}
        first, names = next(iter(found.items()))
        for path, others in found.items():
            if others is not None and self.num_classes not in (None, len(set(others))):
                raise BadInput(
                    f"{path} must have {self.num_classes} different class names in {self.label_column}, "
                    f"got {len(set(others))}"
                )
            if others != names:
                raise BadInput(f"{path} has other class names than {first}")
        return names

    def _part(self, read: "_Labels", known: Sequence[Any], *, named: bool) -> Part:
        numbers = {value: number for number, value in enumerate(known)}
        for row, label in enumerate(read.labels):
            if label not in numbers and not self._is_none(label, named=named):
                raise BadInput(
                    f"{read.where}, row {row}: {self.label_column} must be one of {len(known)} classes, "
                    f"{known[0]!r} to {known[-1]!r}, got {label!r}"
                )
        images = ArrowImages(read.files, self.image_column, read.where, self.accepted)
        # What means no label is no class: named ones begin at 0, and `present` leaves it out of the others.
        labels = [numbers.get(label, UNLABELLED) for label in read.labels]
        return Part(images, np.array(labels, dtype=np.int64))


class _Labels(NamedTuple):
    """The labels of a split, as its files have them."""

    where: str
    files: list[Path]
    labels: list[Any]


def _names_in_metadata(schema: Any, label_column: str) -> list[str] | None:
    metadata = (schema.metadata or {}).get(b"huggingface", b"{}")
    try:
        return [str(name) for name in json.loads(metadata)["info"]["features"][label_column]["names"]]
    except (ValueError, KeyError, TypeError):  # not written by the library
        return None


# ---------------------------------------------------------------- loaders


@source(
    "hub",
    root="a folder with parquet files or the name of a data set of the hub, such as 'owner/name'",
    facts=DataFacts(3, 0, 0, 0, 0, 0),
    opens=_Parquet,
)
def load_hub(
    root: str | Path,
    *,
    image_column: str = "image",
    label_column: str = "label",
    train_split: str = "train",
    test_split: str = "test",
    validation_split: str = "",
    test_share: float = 0.0,
    config: str = "",
    image_size: int = 0,
    stream: bool = False,
    workers: int | None = None,
    max_image_pixels: int = MAX_PIXELS,
    **split: Unpack[SplitOptions],
) -> Splits[Images]:
    """Load an image data set from parquet files or from the Hugging Face hub.

    ``root`` is a name on the hub, ``"owner/name"``, or a folder: parquet files whose names begin with
    their split, such as ``train-00000-of-00002.parquet``, in the folder or in ``data/``, or anything
    else that the library ``datasets`` reads. One column holds encoded images (bytes, or structs of
    bytes and path), another one the classes: numbers with names in the metadata, or whole numbers or
    texts, whose sorted distinct values become the classes. Null and -100 mean that an image has no label,
    as does -1 where the classes have names: it is trained on without the task loss, and left out of
    validation and test, with a warning that counts such images.

    A split may be a slice, as in ``datasets``: ``"train[80%:]"``, ``"train[:500]"``. No image may be in
    two splits; a ``train_split`` without a slice is what the slices of the others leave of it.

    With ``image_size`` 0 all images must have one size. Without ``stream`` they are decoded once,
    cached by the contents of the files, and kept in memory; with it they stay encoded as for
    :func:`load_folder`, and parquet files are copied to the cache of ``datasets``.

    Args:
        root: a folder, or if there is none of that name, a data set of the hub, which is
            downloaded.
        image_column: column with the images.
        label_column: column with the classes.
        train_split: split or slice to train on, and to draw validation images from.
        test_split: split or slice to test on.
        validation_split: split or slice to validate on; empty for none.
        test_share: share of each class to set aside as the test split, in (0, 1), the same images
            whatever the seed, drawn from ``train_split``; 0 for data with a test split of their own.
        config: configuration, for a data set that has several.
        image_size: height and width to resize all images to; 0 keeps their size.
        stream: whether to decode each image when it is needed, in worker processes.
        workers: number of worker processes with ``stream``; None for one per CPU, at most 8.
        max_image_pixels: limit on width times height of an image file; by default Pillow's.
        **split: see :class:`dotkd.data.sources.SplitOptions`.

    Returns:
        The splits, of ImageData or StreamedImages, in the order of the rows; ``validation`` is None
        where it is 0 images.

    Raises:
        BadInput: if there is no such data set, split or column, if an image or a label is missing
            or wrong, or if the extra ``hub`` is not installed.
        ValueError: if another argument lies outside its range, or needs ``stream``.

    Example:
        >>> load_hub("zalando-datasets/fashion_mnist").train  # doctest: +SKIP
        ImageData(60000 images of [3, 28, 28], 10 classes)
    """
    parquet = _Parquet(
        root,
        image_column,
        label_column,
        train_split,
        test_split,
        validation_split,
        test_share,
        config,
        image_size,
        stream,
        workers,
        max_image_pixels,
    )
    return load_splits(parquet.read, **split)


class _Cifar(NamedTuple):
    title: str
    label_column: str
    subfolders: tuple[str, str]  # of repositories on the hub


_CIFAR = {
    10: _Cifar("CIFAR-10", "label", ("plain_text", "data")),
    100: _Cifar("CIFAR-100", "fine_label", ("cifar100", "data")),
}
# Copies of the data set come in both formats; others would change the pixels.
_CIFAR_IMAGES = Accepted(("PNG", "WEBP"), ("RGB",), (32, 32))


def load_cifar(root: str | Path, *, classes: int = 100, **split: Unpack[SplitOptions]) -> Splits[ImageData]:
    """Load CIFAR: colour images of 32x32 pixels, 50,000 to train and 10,000 to test.

    ``root`` holds ``train-*.parquet`` and ``test-*.parquet``, itself or in the subfolder of the hub
    (``plain_text/`` of CIFAR-10, ``cifar100/`` of CIFAR-100, or ``data/``), in any number of files,
    read in the order of their names. Or it is, or holds, the folder that the authors distribute for
    Python, ``cifar-10-batches-py`` or ``cifar-100-python``; its pickles are read as data and run no
    code. Parquet files go first. ``Batch.index`` is the position among the images of the split. The
    test split is always whole.

    The splits are drawn as in :func:`dotkd.data.sources.make_splits`, alike for both kinds of files
    if these have the same images in the same order. Images of parquet files are decoded once and
    cached by the contents of the files, in ``$DOTKD_CACHE`` or ``~/.cache/dotkd``.

    Args:
        root: a folder, or if there is none of that name, a data set of the hub, ``"owner/name"``,
            which is downloaded.
        classes: 100 or 10.
        **split: see :class:`dotkd.data.sources.SplitOptions`.

    Returns:
        The splits, each in the order of the files; ``validation`` is None where it is 0 images.

    Raises:
        BadInput: if the files are missing or wrong, or if the extra ``hub``, which reads parquet
            files, is not installed.
        ValueError: if another argument lies outside its range.

    Example:
        >>> splits = load_cifar("cifar-10-batches-py", classes=10, validation=5000)  # doctest: +SKIP
        >>> splits.train  # doctest: +SKIP
        ImageData(45000 images of [3, 32, 32], 10 classes)

    References:
        A. Krizhevsky (2009), Learning Multiple Layers of Features from Tiny Images, technical
        report, University of Toronto.
    """
    if classes not in _CIFAR:
        raise ValueError(f"classes must be 10 or 100, got {classes!r}")
    return load_splits(lambda: _read_cifar(root, classes), **split)


@source(
    "cifar10",
    root="a folder with the parquet files of CIFAR-10 or the hub name 'uoft-cs/cifar10'",
    facts=DataFacts(3, 32, 32, 10, 50_000, 10_000),
)
def load_cifar10(root: str | Path, **split: Unpack[SplitOptions]) -> Splits[ImageData]:
    """Load CIFAR-10: :func:`load_cifar` with 10 classes.

    Args:
        root: as there; ``"uoft-cs/cifar10"`` on the hub.
        **split: see :class:`dotkd.data.sources.SplitOptions`.

    Returns:
        The splits, each in the order of the files; ``validation`` is None where it is 0 images.

    Example:
        >>> load_cifar10("uoft-cs/cifar10").train  # doctest: +SKIP
        ImageData(50000 images of [3, 32, 32], 10 classes)
    """
    return load_cifar(root, classes=10, **split)


@source(
    "cifar100",
    root="a folder with the parquet files of CIFAR-100 or the hub name 'uoft-cs/cifar100'",
    facts=DataFacts(3, 32, 32, 100, 50_000, 10_000),
)
def load_cifar100(root: str | Path, **split: Unpack[SplitOptions]) -> Splits[ImageData]:
    """Load CIFAR-100: :func:`load_cifar` with 100 classes.

    Args:
        root: as there; ``"uoft-cs/cifar100"`` on the hub.
        **split: see :class:`dotkd.data.sources.SplitOptions`.

    Returns:
        The splits, each in the order of the files; ``validation`` is None where it is 0 images.

    Example:
        >>> splits = load_cifar100("uoft-cs/cifar100", validation=5000)  # doctest: +SKIP
        >>> splits.train  # doctest: +SKIP
        ImageData(45000 images of [3, 32, 32], 100 classes)
    """
    return load_cifar(root, classes=100, **split)


def _read_cifar(root: str | Path, classes: int) -> Splits[ImageData]:
    layout, folder = _CIFAR[classes], Path(root)
    if folder.is_dir():
        files = _local_files(folder, ("train", "test"), layout.subfolders)
        batches = None if files else find_batches(folder, classes)
        if batches is not None:
            return from_arrays(read_batches(batches, classes))
        if files is None:
            names = sorted(path.name for path in folder.iterdir())
            raise BadInput(
                "root must hold train-*.parquet and test-*.parquet, itself or in "
                f"{'/ or '.join(layout.subfolders)}/; {folder} holds "
                f"{', '.join(names[:5]) or 'nothing'}{', ...' if len(names) > 5 else ''}"
            )
    elif _is_hub_name(root):
        files = _library_files(root, "", layout.title)
    else:
        raise BadInput(
            f"root must be a folder with the parquet files of {layout.title} or the name of a data set of "
            f"the hub, such as 'uoft-cs/cifar{classes}'; {str(root)!r} is neither"
        )
    parquet = _Parquet(
        root,
        "img",
        layout.label_column,
        name=f"cifar{classes}-v1",
        num_classes=classes,
        accepted=_CIFAR_IMAGES,
    )
    return parquet.in_memory(files)
