"""CIFAR-10 and CIFAR-100, from parquet files or from the authors' pickled batches."""

import hashlib
import json
import math
import pickle
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, Unpack

import numpy as np
from numpy.typing import NDArray

from dotkd.data.decode import Arrays, cached, decode, to_planes
from dotkd.data.hub import download, first_line, is_hub_name, library
from dotkd.data.images import ImageData
from dotkd.data.splits import SplitOptions, Splits, from_arrays, load_splits
from dotkd.errors import BadInput


class _Layout(NamedTuple):
    folder: str
    train: tuple[str, ...]
    test: str
    meta: str
    labels: str
    names: str


_LAYOUTS = {
    10: _Layout(
        "cifar-10-batches-py",
        tuple(f"data_batch_{number}" for number in range(1, 6)),
        "test_batch",
        "batches.meta",
        "labels",
        "label_names",
    ),
    100: _Layout("cifar-100-python", ("train",), "test", "meta", "fine_labels", "fine_label_names"),
}


def find_batches(root: Path, classes: int) -> Path | None:
    """Look for the folder with the batches.

    Args:
        root: that folder or the one above.
        classes: 10 or 100.

    Returns:
        The folder, or None where there is nothing of the kind.

    Raises:
        BadInput: if the folder is there and lacks a file.
    """
    layout = _LAYOUTS[classes]
    wanted = (*layout.train, layout.test, layout.meta)
    for folder in (root / layout.folder, root):
        missing = [name for name in wanted if not (folder / name).is_file()]
        if not missing:
            return folder
        if folder.is_dir() and folder.name == layout.folder:
            raise BadInput(f"{folder} must hold {', '.join(wanted)}; it lacks {', '.join(missing)}")
    return None


def read_batches(folder: Path, classes: int) -> Arrays:
    """Read all batches of a folder.

    Args:
        folder: what :func:`find_batches` has found.
        classes: 10 or 100.

    Returns:
        ``classes``, the names, and for ``train`` and ``test`` each ``_pixels``, uint8
        [N, 3, 32, 32], and ``_labels``, int64 [N].

    Raises:
        BadInput: if a file is broken, or holds anything else than its part of CIFAR.
    """
    layout = _LAYOUTS[classes]
    arrays: Arrays = {"classes": np.array(_names(folder / layout.meta, layout.names, classes))}
    for split, files in (("train", layout.train), ("test", (layout.test,))):
        parts = [_batch(folder / name, layout.labels, classes) for name in files]
        arrays[f"{split}_pixels"] = np.concatenate([pixels for pixels, _ in parts])
        arrays[f"{split}_labels"] = np.concatenate([labels for _, labels in parts])
        if len(arrays[f"{split}_labels"]) == 0:
            raise BadInput(f"{folder / files[0]} must have at least one image, got none")
    return arrays


def _names(path: Path, key: str, classes: int) -> list[str]:
    names = _entry(path, _read(path), key)
    texts = [_text(name) for name in names] if isinstance(names, list) else []
    if len({text for text in texts if isinstance(text, str)}) != classes or len(texts) != classes:
        raise BadInput(f"{path} must have {classes} different class names in {key}, got {len(texts)} entries")
    return [str(text) for text in texts]


def _batch(path: Path, key: str, classes: int) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    whole = _read(path)
    data, labels = _entry(path, whole, "data"), _entry(path, whole, key)
    pixels = data.pixels() if isinstance(data, _Array) else None
    if pixels is None or pixels.shape[1] != 3072:
        raise BadInput(f"{path}: data must be an array of uint8 [N, 3072]")
    if not isinstance(labels, list) or len(labels) != len(pixels):
        count = len(labels) if isinstance(labels, list) else "no list"
        raise BadInput(
            f"{path}: {key} must be a list of {len(pixels)} numbers as data has images, got {count}"
        )
    for row, label in enumerate(labels):
        if type(label) is not int or not 0 <= label < classes:
            raise BadInput(
                f"{path}, row {row}: {key} must be an integer from 0 to {classes - 1}, got {label!r}"
            )
    # A row is the red plane, then the green, then the blue one.
    return pixels.reshape(-1, 3, 32, 32), np.array(labels, dtype=np.int64)


def _entry(path: Path, whole: dict[str, Any], key: str) -> Any:
    if key not in whole:
        raise BadInput(f"{path} must have an entry {key!r}, has only {', '.join(sorted(whole)) or 'none'}")
    return whole[key]


# ---------------------------------------------------------------- pickles as data


class _Refused(Exception):
    """A pickle names what it must not."""


class _Array:
    """Stands for a numpy array: keeps what the pickle says of it, and believes nothing."""

    __slots__ = ("state",)

    def __init__(self) -> None:
        self.state: Any = None

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def pixels(self) -> NDArray[np.uint8] | None:
        """Make the array, where it is one of uint8 and two dimensions; otherwise None."""
        state = self.state
        if type(state) is not tuple or len(state) != 5:
            return None
        _, shape, dtype, by_columns, content = state
        sound = (
            type(shape) is tuple
            and len(shape) == 2
            and all(type(length) is int and length >= 0 for length in shape)
            and isinstance(dtype, _Dtype)
            and _text(dtype.name) in {"u1", "|u1", "uint8"}
            and type(content) is bytes
            and len(content) == math.prod(shape)
        )
        if not sound:
            return None
        array = np.frombuffer(content, dtype=np.uint8).reshape(shape, order="F" if by_columns else "C")
        return np.array(array, order="C")


class _Dtype:
    """Stands for a numpy dtype."""

    __slots__ = ("name",)

    def __init__(self, name: Any) -> None:
        self.name = name

    def __setstate__(self, state: Any) -> None:
        """Byte order and the like: one byte has none."""


class _Call:
    """Stands for a function. No class and no function itself, so that a pickle cannot change one."""

    __slots__ = ("_function",)

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function

    def __call__(self, *args: Any) -> Any:
        return self._function(*args)

    def __setstate__(self, state: Any) -> None:
        raise _Refused("a change of a function")


def _encode(text: Any, codec: Any) -> bytes:
    # How Python 3 writes bytes for Python 2: with this codec and no other.
    if not isinstance(text, str) or _text(codec) not in {"latin1", "latin-1"}:
        raise _Refused(f"_codecs.encode to {codec!r}")
    return text.encode("latin-1")


_KNOWN = {
    ("numpy", "ndarray"): _Call(lambda *_: _Array()),
    ("numpy", "dtype"): _Call(lambda name, *_: _Dtype(name)),
    ("numpy.core.multiarray", "_reconstruct"): _Call(lambda *_: _Array()),
    ("numpy._core.multiarray", "_reconstruct"): _Call(lambda *_: _Array()),
    ("_codecs", "encode"): _Call(_encode),
    ("__builtin__", "bytes"): _Call(lambda: b""),  # how Python 3 writes no bytes for Python 2
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _KNOWN:
            raise _Refused(f"{module}.{name}")
        return _KNOWN[module, name]


def _read(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            whole = _Unpickler(file, encoding="bytes").load()
    except _Refused as error:
        raise BadInput(
            f"{path} must hold nothing but lists, texts, numbers and arrays; it asks for {error}, "
            "which was not run"
        ) from None
    except Exception as error:  # broken pickles raise many types
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise BadInput(f"{path} is broken or no batch of CIFAR: {reason}") from error
    if type(whole) is not dict:
        raise BadInput(f"{path} must hold a dictionary, got {type(whole).__name__}")
    return {str(_text(key)): value for key, value in whole.items()}


def _text(value: Any) -> Any:
    # Python 2 wrote texts as bytes.
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value


_FORMATS = ("PNG", "WEBP")  # copies of the data set are found in both
_SPLITS = ("train", "test")

_Files = dict[str, list[Path]]


class _ParquetLayout(NamedTuple):
    title: str
    key: str
    classes: int
    label: str
    subfolders: tuple[str, str]  # where repositories of the hub keep their files


_LAYOUTS_cifar = {
    10: _ParquetLayout("CIFAR-10", "cifar10", 10, "label", ("plain_text", "data")),
    100: _ParquetLayout("CIFAR-100", "cifar100", 100, "fine_label", ("cifar100", "data")),
}


def load_cifar(root: str | Path, *, classes: int = 100, **split: Unpack[SplitOptions]) -> Splits[ImageData]:
    """Load CIFAR: colour images of 32x32 pixels, 50,000 to train and 10,000 to test.

    ``root`` holds ``train-*.parquet`` and ``test-*.parquet``, itself or in the folder of the hub
    (``plain_text/`` of CIFAR-10, ``cifar100/`` of CIFAR-100, or ``data/``), in any number of
    files, which are read in the order of their names. Or it is, or holds, the folder that the
    authors distribute for Python, ``cifar-10-batches-py`` or ``cifar-100-python``; its pickles are
    read as data and run nothing. Where both are there, the parquet files are read. ``Batch.index``
    is the position among the images of the split. The test split is always whole.

    The splits are drawn as in :func:`dotkd.data.splits.make_splits`, the same for both kinds of
    files where these have the same images in the same order.

    The images of parquet files are decoded once and kept in a cache, keyed by the contents of the
    files; see :func:`dotkd.data.decode.cached`. The batches need no decoding.

    Args:
        root: a folder, or where there is none of that name, a data set of the hub as
            ``"owner/name"``, which is downloaded.
        classes: 100 or 10.
        **split: see :class:`dotkd.data.splits.SplitOptions`.

    Returns:
        The splits, each in the order of the files; ``validation`` is None where it is 0 images.

    Raises:
        BadInput: if the files are missing or hold something else, or if the extra ``hub``, which
            reads parquet files, is not installed.
        ValueError: if another argument lies outside its range.

    Example:
        >>> splits = load_cifar("cifar-10-batches-py", classes=10, validation=5000)  # doctest: +SKIP
        >>> splits.train  # doctest: +SKIP
        ImageData(45000 images of [3, 32, 32], 10 classes)

    References:
        A. Krizhevsky (2009), Learning Multiple Layers of Features from Tiny Images, technical
        report, University of Toronto.
    """
    if classes not in _LAYOUTS_cifar:
        raise ValueError(f"classes must be 10 or 100, got {classes!r}")
    return load_splits(lambda: from_arrays(_load(root, _LAYOUTS_cifar[classes])), **split)


def load_cifar10(root: str | Path, **split: Unpack[SplitOptions]) -> Splits[ImageData]:
    """Load CIFAR-10: :func:`load_cifar` with 10 classes.

    Args:
        root: as there; ``"uoft-cs/cifar10"`` on the hub.
        **split: see :class:`dotkd.data.splits.SplitOptions`.

    Returns:
        The splits, each in the order of the files; ``validation`` is None where it is 0 images.

    Example:
        >>> load_cifar10("uoft-cs/cifar10").train  # doctest: +SKIP
        ImageData(50000 images of [3, 32, 32], 10 classes)
    """
    return load_cifar(root, classes=10, **split)


def load_cifar100(root: str | Path, **split: Unpack[SplitOptions]) -> Splits[ImageData]:
    """Load CIFAR-100: :func:`load_cifar` with 100 classes.

    Args:
        root: as there; ``"uoft-cs/cifar100"`` on the hub.
        **split: see :class:`dotkd.data.splits.SplitOptions`.

    Returns:
        The splits, each in the order of the files; ``validation`` is None where it is 0 images.

    Example:
        >>> splits = load_cifar100("uoft-cs/cifar100", validation=5000)  # doctest: +SKIP
        >>> splits.train  # doctest: +SKIP
        ImageData(45000 images of [3, 32, 32], 100 classes)
    """
    return load_cifar(root, classes=100, **split)


# ---------------------------------------------------------------- which files


def _load(root: str | Path, layout: _ParquetLayout) -> Arrays:
    folder = Path(root)
    if folder.is_dir():
        files = _find(folder, layout)
        if files is None:
            batches = find_batches(folder, layout.classes)
            if batches is not None:
                return read_batches(batches, layout.classes)
            names = sorted(path.name for path in folder.iterdir())
            there = ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
            raise BadInput(
                "root must hold train-*.parquet and test-*.parquet, itself or in "
                f"{'/ or '.join(layout.subfolders)}/; {folder} holds {there or 'nothing'}"
            )
    elif is_hub_name(root):
        files = _download(str(root), layout)
    else:
        raise BadInput(
            f"root must be a folder with the parquet files of {layout.title} or the name of a data set of "
            f"the hub, such as 'uoft-cs/{layout.key}'; {str(root)!r} is neither"
        )
    digest = hashlib.sha256()
    for split in _SPLITS:
        for path in files[split]:
            digest.update(f"{split} {_checksum(path)}\n".encode())
    # The number goes up whenever what is kept changes its form.
    return cached(f"{layout.key}-v1-{digest.hexdigest()}", partial(_decode, files, layout))


def _find(folder: Path, layout: _ParquetLayout) -> _Files | None:
    for sub in ("", *layout.subfolders):
        files = {split: sorted((folder / sub).glob(f"{split}-*.parquet")) for split in _SPLITS}
        if all(files.values()):
            return files
    return None


def _download(name: str, layout: _ParquetLayout) -> _Files:
    parts = download(name, layout.title)
    missing = [split for split in _SPLITS if split not in parts]
    if missing:
        raise BadInput(f"root {name!r} must have the splits train and test, has only {', '.join(parts)}")
    return {split: [Path(file["filename"]) for file in parts[split].cache_files] for split in _SPLITS}


# ---------------------------------------------------------------- from files to images


def _checksum(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise BadInput(f"{path} cannot be read: {error.strerror}") from error


def _decode(files: _Files, layout: _ParquetLayout) -> Arrays:
    arrays: Arrays = {}
    for split, paths in files.items():
        tables = [_read_table(path, layout) for path in paths]
        for path, table in zip(paths, tables, strict=True):
            names = np.array(_class_names(path, table, layout))
            if not np.array_equal(arrays.setdefault("classes", names), names):
                raise BadInput(f"{path} has other class names than {files[_SPLITS[0]][0]}")
        arrays[f"{split}_pixels"] = np.concatenate(
            [_pixels(path, table) for path, table in zip(paths, tables, strict=True)]
        )
        arrays[f"{split}_labels"] = np.concatenate(
            [_labels(path, table, layout) for path, table in zip(paths, tables, strict=True)]
        )
        if len(arrays[f"{split}_labels"]) == 0:
            raise BadInput(f"{paths[0]} must have at least one row, got none")
    return arrays


def _read_table(path: Path, layout: _ParquetLayout) -> Any:
    arrow, parquet = library("pyarrow", layout.title), library("pyarrow.parquet", layout.title)
    try:
        if path.suffix == ".arrow":  # how the library of the hub keeps what it has downloaded
            with path.open("rb") as file:
                table = arrow.ipc.open_stream(file).read_all()
        else:
            with parquet.ParquetFile(path) as file:
                table = file.read()
    except (OSError, arrow.ArrowException) as error:
        kind = path.suffix.removeprefix(".")
        raise BadInput(f"{path} is broken or no {kind} file: {first_line(error)}") from error
    for column in ("img", layout.label):
        if column not in table.column_names:
            raise BadInput(f"{path} must have a column {column!r}, has only {', '.join(table.column_names)}")
    return table


def _class_names(path: Path, table: Any, layout: _ParquetLayout) -> Sequence[str]:
    metadata = (table.schema.metadata or {}).get(b"huggingface", b"{}")
    try:
        names = json.loads(metadata)["info"]["features"][layout.label]["names"]
    except (ValueError, KeyError, TypeError):  # written by another hand: numbers will do
        return [str(number) for number in range(layout.classes)]
    if len(set(names)) != layout.classes:
        raise BadInput(
            f"{path} must have {layout.classes} different class names in {layout.label}, "
            f"got {len(set(names))}"
        )
    return [str(name) for name in names]


def _labels(path: Path, table: Any, layout: _ParquetLayout) -> NDArray[np.int64]:
    labels = table[layout.label].to_pylist()
    for row, label in enumerate(labels):
        if not isinstance(label, int) or not 0 <= label < layout.classes:
            raise BadInput(
                f"{path}, row {row}: {layout.label} must be an integer from 0 to {layout.classes - 1}, "
                f"got {label!r}"
            )
    return np.array(labels, dtype=np.int64)


def _pixels(path: Path, table: Any) -> NDArray[np.uint8]:
    pixels = np.empty((len(table), 3, 32, 32), dtype=np.uint8)
    for row, cell in enumerate(table["img"].to_pylist()):
        try:
            image, mode = decode(cell["bytes"], "img", formats=_FORMATS)
        except (BadInput, TypeError, KeyError) as error:  # no image, no cell, no bytes in it
            raise BadInput(f"{path}, row {row}: img is no PNG or WebP image that can be decoded") from error
        if image.size != (32, 32) or mode != "RGB":
            found = f"{image.width}x{image.height} {mode}"
            raise BadInput(f"{path}, row {row}: img must be 32x32 RGB, got {found}")
        pixels[row] = to_planes(image)
    return pixels
