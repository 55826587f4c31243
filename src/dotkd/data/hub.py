"""Image data sets in parquet files: local folders, the Hugging Face hub, and CIFAR, with its own columns."""

import hashlib
import importlib
import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple, Unpack

import numpy as np
from PIL import Image

from dotkd.data.cifar import find_batches, read_batches
from dotkd.data.decode import ANY_IMAGE, Accepted, Encoded, Part, decode
from dotkd.data.images import DataFacts, ImageData, Images, cached_images, from_arrays
from dotkd.data.sources import SplitOptions, Splits, check_streaming, load_splits, source
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
    """

    def __init__(self, files: Sequence[Path], column: str, where: str, accepted: Accepted) -> None:
        self._files, self._column, self._where, self._accepted = files, column, where, accepted
        self._rows: Any = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_rows": None}  # another process opens the files itself

    def _by_row(self) -> Any:
        if self._rows is None:
            arrow = _library("pyarrow", self._where)
            self._rows = arrow.chunked_array(
                [cells for path in self._files for cells in _cells(path, self._column)]
            )
        return self._rows

    def __len__(self) -> int:
        return len(self._by_row())

    def key(self, number: int) -> int:
        """Return the row of an image."""
        return number

    def title(self, number: int) -> str:
        """Return split, row and column of an image."""
        return f"{self._where}, row {number}: {self._column}"

    def read(self, key: int) -> Image.Image:
        """Decode the image in a row."""
        return decode(self._content(key, self._by_row()[key].as_py()), self.title(key), self._accepted)

    def contents(self) -> Iterator[list[bytes]]:
        """Return the bytes of all images, array by array of the column."""
        row = 0
        for path in self._files:
            for cells in _cells(path, self._column):
                yield [self._content(row + place, cell) for place, cell in enumerate(cells.to_pylist())]
                row += len(cells)

    def fingerprint(self) -> str:
        """Identify the images by all sizes and by the bytes of a thousand of them, at even distances."""
        compute, cells = _library("pyarrow.compute", self._where), self._by_row()
        encoded = compute.struct_field(cells, "bytes") if cells.type.num_fields else cells
        sizes = compute.fill_null(compute.binary_length(encoded), -1).to_numpy()
        digest = hashlib.sha256(sizes.astype(np.int64).data)
        for row in np.linspace(0, len(cells) - 1, min(_ROWS, len(cells)), dtype=int).tolist():
            digest.update(self._content(row, cells[row].as_py()))
        return digest.hexdigest()

    def _content(self, row: int, cell: Any) -> bytes:
        content, path = (cell.get("bytes"), cell.get("path")) if isinstance(cell, dict) else (cell, None)
        if content is None and path and _is_arrow(self._files[0]) and Path(path).is_file():
            content = Path(path).read_bytes()  # the library keeps folders of images as paths
        if not isinstance(content, bytes):
            raise BadInput(f"{self.title(row)} must hold the bytes of an image file, has none")
        return content


@dataclass(frozen=True)
class _Parquet:
    """A data set in parquet files; see :func:`load_hub` for the options."""

    root: str | Path
    image_column: str
    label_column: str
    train_split: str = "train"
    test_split: str = "test"
    config: str = ""
    image_size: int = 0
    stream: bool = False
    workers: int | None = None
    name: str = "hub"
    num_classes: int | None = None  # None: as many as the files have
    accepted: Accepted = ANY_IMAGE

    def __post_init__(self) -> None:
        check_streaming(self.image_size, self.stream, self.workers)

    def facts(self) -> DataFacts:
        """Return shape and size; the first image is decoded where no size is given."""
        return self._open(self._files()).facts(self.image_size)

    def read(self) -> tuple[Images, Images]:
        """Return the images other than the test split, and the test split, streamed or in memory."""
        files = self._files()
        if self.stream:
            return stream_parts(self._open(files), self.image_size, self.workers)
        return self.in_memory(files)

    def in_memory(self, files: Files) -> tuple[ImageData, ImageData]:
        """Decode all images, or read them from the cache, whose key is the contents of the files."""
        digest = hashlib.sha256(f"{self.image_column} {self.label_column}\n".encode())
        for role in ("train", "test"):
            where, paths = self._split(files, role)
            for path in paths:
                digest.update(f"{role} {_checksum(path)}\n".encode())
            if _is_arrow(paths[0]):  # which may hold the paths of images instead of their bytes
                self._check_columns(where, paths)
                images = ArrowImages(paths, self.image_column, where, self.accepted)
                for content in chain.from_iterable(images.contents()):
                    digest.update(content)
        # The number goes up whenever the cached arrays change their form.
        key = f"{self.name}-v1-{digest.hexdigest()}" + (f"-{self.image_size}" if self.image_size else "")
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
        splits = (self.train_split, self.test_split)
        files = _local_files(folder, splits, ("data",)) if plain else None
        return files or _library_files(self.root, self.config, what)

    def _split(self, files: Files, role: str) -> tuple[str, list[Path]]:
        split = getattr(self, f"{role}_split")
        if split not in files:
            raise BadInput(unknown(f"{role}_split", split, files))
        return f"{self.root}, split {split!r}", files[split]

    def _open(self, files: Files) -> Encoded:
        """Read labels and class names; the images stay encoded."""
        train, test = (self._read_labels(*self._split(files, role)) for role in ("train", "test"))
        names = self._class_names([*train.files, *test.files])
        if names is not None:
            known: Sequence[Any] = range(len(names))
        else:
            known = range(self.num_classes) if self.num_classes else sorted(set(train.labels))
        classes = [str(name) for name in (known if names is None else names)]
        return Encoded(classes, self._part(train, known), self._part(test, known), self.accepted)

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
            if not isinstance(label, str | int):
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

    def _part(self, read: "_Labels", known: Sequence[Any]) -> Part:
        numbers = {value: number for number, value in enumerate(known)}
        for row, label in enumerate(read.labels):
            if label not in numbers:
                raise BadInput(
                    f"{read.where}, row {row}: {self.label_column} must be one of {len(known)} classes, "
                    f"{known[0]!r} to {known[-1]!r}, got {label!r}"
                )
        images = ArrowImages(read.files, self.image_column, read.where, self.accepted)
        return Part(images, np.array([numbers[label] for label in read.labels], dtype=np.int64))


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
    config: str = "",
    image_size: int = 0,
    stream: bool = False,
    workers: int | None = None,
    **split: Unpack[SplitOptions],
) -> Splits[Images]:
    """Load an image data set from parquet files or from the Hugging Face hub.

    ``root`` is a name on the hub, ``"owner/name"``, or a folder: parquet files whose names begin with
    their split, such as ``train-00000-of-00002.parquet``, in the folder or in ``data/``, or anything
    else that the library ``datasets`` reads. One column holds encoded images (bytes, or structs of
    bytes and path), another one the classes: numbers with names in the metadata, or whole numbers or
    texts, whose sorted distinct values become the classes.

    With ``image_size`` 0 all images must have one size. Without ``stream`` they are decoded once,
    cached by the contents of the files, and kept in memory; with it they stay encoded as for
    :func:`load_folder`, and parquet files are copied to the cache of ``datasets``.

    Args:
        root: a folder, or if there is none of that name, a data set of the hub, which is
            downloaded.
        image_column: column with the images.
        label_column: column with the classes.
        train_split: split to train and to validate on.
        test_split: split to test on.
        config: configuration, for a data set that has several.
        image_size: height and width to resize all images to; 0 keeps their size.
        stream: whether to decode each image when it is needed, in worker processes.
        workers: number of worker processes with ``stream``; None for one per CPU, at most 8.
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
    columns = (image_column, label_column)
    parquet = _Parquet(root, *columns, train_split, test_split, config, image_size, stream, workers)
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


def _read_cifar(root: str | Path, classes: int) -> tuple[ImageData, ImageData]:
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
        name=f"cifar{classes}",
        num_classes=classes,
        accepted=_CIFAR_IMAGES,
    )
    return parquet.in_memory(files)
