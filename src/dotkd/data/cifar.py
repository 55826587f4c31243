"""CIFAR-10 and CIFAR-100: from parquet files, local or from the Hugging Face hub, or from batches.

Here belongs the way from such files to splits. The layout of the parquet files is that of the hub
data sets uoft-cs/cifar10 and uoft-cs/cifar100: one row per image, which is a file in ``img``, and
its class in ``label`` or ``fine_label``. The batches of the authors are read in ``cifar_batches``.
"""

import hashlib
import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, Unpack

import numpy as np
from numpy.typing import NDArray

from dotkd.data.cache import Arrays, cached
from dotkd.data.cifar_batches import find_batches, read_batches
from dotkd.data.decode import decode
from dotkd.data.hub import download, first_line, is_hub_name, library
from dotkd.data.images import ImageData
from dotkd.data.splits import SplitOptions, Splits, from_arrays, load_splits
from dotkd.data.store import to_planes
from dotkd.errors import BadInput

_FORMATS = ("PNG", "WEBP")  # copies of the data set are found in both
_SPLITS = ("train", "test")

_Files = dict[str, list[Path]]


class _Layout(NamedTuple):
    title: str
    key: str
    classes: int
    label: str
    subfolders: tuple[str, str]  # where repositories of the hub keep their files


_LAYOUTS = {
    10: _Layout("CIFAR-10", "cifar10", 10, "label", ("plain_text", "data")),
    100: _Layout("CIFAR-100", "cifar100", 100, "fine_label", ("cifar100", "data")),
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
    files; see :func:`dotkd.data.cache.cached`. The batches need no decoding.

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
    if classes not in _LAYOUTS:
        raise ValueError(f"classes must be 10 or 100, got {classes!r}")
    return load_splits(lambda: from_arrays(_load(root, _LAYOUTS[classes])), **split)


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


def _load(root: str | Path, layout: _Layout) -> Arrays:
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


def _find(folder: Path, layout: _Layout) -> _Files | None:
    for sub in ("", *layout.subfolders):
        files = {split: sorted((folder / sub).glob(f"{split}-*.parquet")) for split in _SPLITS}
        if all(files.values()):
            return files
    return None


def _download(name: str, layout: _Layout) -> _Files:
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


def _decode(files: _Files, layout: _Layout) -> Arrays:
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


def _read_table(path: Path, layout: _Layout) -> Any:
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


def _class_names(path: Path, table: Any, layout: _Layout) -> Sequence[str]:
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


def _labels(path: Path, table: Any, layout: _Layout) -> NDArray[np.int64]:
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
