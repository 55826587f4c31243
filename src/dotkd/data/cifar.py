"""CIFAR-100 from parquet files, local or from the Hugging Face hub.

Here belongs the way from such files to splits. The layout is that of the hub data set
uoft-cs/cifar100: one row per image, which is a file in ``img``, and its class in ``fine_label``.
"""

import hashlib
import importlib
import io
import json
import re
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from dotkd.data._checks import check_integer, check_share
from dotkd.data.cache import Arrays, cached
from dotkd.data.images import ImageData
from dotkd.data.label_noise import add_label_noise
from dotkd.data.randomness import random_stream
from dotkd.data.splits import Splits, stratified_sample
from dotkd.errors import BadInput

_CLASSES = 100
_FORMATS = ("PNG", "WEBP")  # copies of the data set are found in both
_SPLITS = ("train", "test")
_SUBFOLDERS = ("", "cifar100", "data")  # where repositories of the hub keep their files
_HUB_NAME = re.compile(r"\w[\w.-]*/\w[\w.-]*")

_Files = dict[str, list[Path]]


def load_cifar100(
    root: str | Path,
    *,
    validation: int = 0,
    label_noise: float = 0.0,
    train_images: int = 0,
    seed: int = 0,
) -> Splits:
    """Load CIFAR-100: colour images of 32x32 pixels in 100 classes, 50,000 to train and 10,000 to test.

    ``root`` holds ``train-*.parquet`` and ``test-*.parquet``, itself or in ``cifar100/`` or
    ``data/``, in any number of files, which are read in the order of their names. ``Batch.index``
    is the position among the rows of the split. The test split is always whole.

    The validation images are drawn first, then the training images from the rest, both in the
    shares of the classes, then the noise on their labels. Each has a random stream of its own:
    fewer training images leave the validation images as they were.

    The images are decoded once and kept in a cache, keyed by the contents of the files; see
    :func:`dotkd.data.cache.cached`.

    Args:
        root: a folder, or where there is none of that name, a data set of the hub as
            ``"owner/name"``, which is downloaded.
        validation: how many training images to set aside for validation.
        label_noise: share of the training labels to replace by a wrong class, in [0, 1]; see
            :func:`dotkd.data.add_label_noise`.
        train_images: how many of the other images to train on; 0 for all of them.
        seed: draws validation, training images and noise; at least 0.

    Returns:
        The splits, each in the order of the files; ``validation`` is None where it is 0 images.

    Raises:
        BadInput: if the files are missing or hold something else, or if the extra ``hub``, which
            reads them, is not installed.
        ValueError: if another argument lies outside its range.

    Example:
        >>> splits = load_cifar100("uoft-cs/cifar100", validation=5000)  # doctest: +SKIP
        >>> splits.train  # doctest: +SKIP
        ImageData(45000 images of [3, 32, 32], 100 classes)

    References:
        A. Krizhevsky (2009), Learning Multiple Layers of Features from Tiny Images, technical
        report, University of Toronto.
    """
    # What can be refused without the files is refused before they are read.
    check_integer("validation", validation, low=0)
    check_integer("train_images", train_images, low=0)
    check_share("label_noise", label_noise)
    streams = {name: random_stream(seed, f"data.{name}") for name in ("split", "train_images", "label_noise")}

    rest, test = _load(_find(root))
    check_integer("validation", validation, low=0, high=len(rest) - 1)
    check_integer("train_images", train_images, low=0, high=len(rest) - validation)

    held_out = None
    if validation:
        chosen = stratified_sample(rest.labels, validation, generator=streams["split"])
        others = torch.ones(len(rest), dtype=torch.bool)
        others[chosen] = False
        held_out, rest = rest.subset(chosen), rest.subset(others.nonzero().flatten())
    if train_images:
        rest = rest.subset(stratified_sample(rest.labels, train_images, generator=streams["train_images"]))
    labels = add_label_noise(rest.labels, label_noise, num_classes=_CLASSES, generator=streams["label_noise"])
    return Splits(replace(rest, labels=labels), held_out, test)


# ---------------------------------------------------------------- which files


def _find(root: str | Path) -> _Files:
    folder = Path(root)
    if folder.is_dir():
        for sub in _SUBFOLDERS:
            files = {split: sorted((folder / sub).glob(f"{split}-*.parquet")) for split in _SPLITS}
            if all(files.values()):
                return files
        names = sorted(path.name for path in folder.iterdir())
        there = ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
        raise BadInput(
            f"root must hold train-*.parquet and test-*.parquet, itself or in cifar100/ or data/; "
            f"{folder} holds {there or 'nothing'}"
        )
    # Where the first half is a folder here, a path was meant, and the hub need not be asked.
    if isinstance(root, str) and _HUB_NAME.fullmatch(root) and not folder.parent.exists():
        return _download(root)
    raise BadInput(
        f"root must be a folder with the parquet files of CIFAR-100 or the name of a data set of the hub, "
        f"such as 'uoft-cs/cifar100'; {str(root)!r} is neither"
    )


def _download(name: str) -> _Files:
    datasets = _library("datasets")
    try:
        parts = datasets.load_dataset(name)
        return {split: [Path(file["filename"]) for file in parts[split].cache_files] for split in _SPLITS}
    except Exception as error:  # of the network, of the hub, of its cache: each has types of its own
        raise BadInput(
            f"root {name!r} is no folder here, and as a data set of the hub it cannot be loaded: "
            f"{_first_line(error)}"
        ) from error


def _library(name: str) -> Any:
    # By name, since the extra is optional, for the type checker too.
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise BadInput("CIFAR-100 needs the extra 'hub': pip install 'dotkd[hub]'") from error


# ---------------------------------------------------------------- from files to images


def _load(files: _Files) -> tuple[ImageData, ImageData]:
    digest = hashlib.sha256()
    for split in _SPLITS:
        for path in files[split]:
            digest.update(f"{split} {_checksum(path)}\n".encode())
    # The number goes up whenever what is kept changes its form.
    arrays = cached(f"cifar100-v1-{digest.hexdigest()}", partial(_decode, files))
    names = tuple(arrays["classes"].tolist())
    train, test = (
        ImageData(
            torch.from_numpy(arrays[f"{split}_pixels"]), torch.from_numpy(arrays[f"{split}_labels"]), names
        )
        for split in _SPLITS
    )
    return train, test


def _checksum(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise BadInput(f"{path} cannot be read: {error.strerror}") from error


def _decode(files: _Files) -> Arrays:
    arrays: Arrays = {}
    for split, paths in files.items():
        tables = [_read_table(path) for path in paths]
        for path, table in zip(paths, tables, strict=True):
            names = np.array(_class_names(path, table))
            if not np.array_equal(arrays.setdefault("classes", names), names):
                raise BadInput(f"{path} has other class names than {files[_SPLITS[0]][0]}")
        arrays[f"{split}_pixels"] = np.concatenate(
            [_pixels(path, table) for path, table in zip(paths, tables, strict=True)]
        )
        arrays[f"{split}_labels"] = np.concatenate(
            [_labels(path, table) for path, table in zip(paths, tables, strict=True)]
        )
        if len(arrays[f"{split}_labels"]) == 0:
            raise BadInput(f"{paths[0]} must have at least one row, got none")
    return arrays


def _read_table(path: Path) -> Any:
    arrow, parquet = _library("pyarrow"), _library("pyarrow.parquet")
    try:
        if path.suffix == ".arrow":  # how the library of the hub keeps what it has downloaded
            with path.open("rb") as file:
                table = arrow.ipc.open_stream(file).read_all()
        else:
            with parquet.ParquetFile(path) as file:
                table = file.read()
    except (OSError, arrow.ArrowException) as error:
        kind = path.suffix.removeprefix(".")
        raise BadInput(f"{path} is broken or no {kind} file: {_first_line(error)}") from error
    for column in ("img", "fine_label"):
        if column not in table.column_names:
            raise BadInput(f"{path} must have a column {column!r}, has only {', '.join(table.column_names)}")
    return table


def _class_names(path: Path, table: Any) -> Sequence[str]:
    metadata = (table.schema.metadata or {}).get(b"huggingface", b"{}")
    try:
        names = json.loads(metadata)["info"]["features"]["fine_label"]["names"]
    except (ValueError, KeyError, TypeError):  # written by another hand: numbers will do
        return [str(number) for number in range(_CLASSES)]
    if len(set(names)) != _CLASSES:
        raise BadInput(
            f"{path} must have {_CLASSES} different class names in fine_label, got {len(set(names))}"
        )
    return [str(name) for name in names]


def _labels(path: Path, table: Any) -> NDArray[np.int64]:
    labels = table["fine_label"].to_pylist()
    for row, label in enumerate(labels):
        if not isinstance(label, int) or not 0 <= label < _CLASSES:
            raise BadInput(
                f"{path}, row {row}: fine_label must be an integer from 0 to {_CLASSES - 1}, got {label!r}"
            )
    return np.array(labels, dtype=np.int64)


def _pixels(path: Path, table: Any) -> NDArray[np.uint8]:
    pillow = _library("PIL.Image")
    pixels = np.empty((len(table), 32, 32, 3), dtype=np.uint8)
    for row, cell in enumerate(table["img"].to_pylist()):
        try:
            image = pillow.open(io.BytesIO(cell["bytes"]), formats=_FORMATS)
            found = f"{image.width}x{image.height} {image.mode}"
            if found == "32x32 RGB":
                pixels[row] = np.asarray(image)
        except Exception as error:  # Pillow raises many types on broken bytes
            raise BadInput(f"{path}, row {row}: img is no PNG or WebP image that can be decoded") from error
        if found != "32x32 RGB":
            raise BadInput(f"{path}, row {row}: img must be 32x32 RGB, got {found}")
    return np.ascontiguousarray(pixels.transpose(0, 3, 1, 2))


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)
