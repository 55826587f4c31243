"""Image data sets in parquet files or on the Hugging Face hub."""

import hashlib
import importlib
import re
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, Unpack

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from dotkd.data.decode import Arrays, cached, decode, stack_parts
from dotkd.data.folders import check_streaming
from dotkd.data.images import DataFacts, Images
from dotkd.data.splits import SplitOptions, Splits, from_arrays, load_splits
from dotkd.data.streamed import StreamedImages
from dotkd.errors import BadInput, missing_extra, unknown

_NAME = re.compile(r"\w[\w.-]*/\w[\w.-]*")
_SAMPLE = 1000  # images whose bytes are in a fingerprint


def library(name: str, what: str) -> Any:
    """Import a library of the extra ``hub``.

    By its name, since the extra is optional, for the type checker too.

    Args:
        name: of the module.
        what: what needs it.

    Returns:
        The module.

    Raises:
        BadInput: if it is not installed.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        absent = missing_extra(what, "hub")
        raise absent from error


def is_hub_name(root: str | Path) -> bool:
    """Say whether something is a name of the hub, ``"owner/name"``, rather than a path.

    Args:
        root: what the caller passed in.

    Returns:
        Whether it is. Where the first half is a folder here, a path was meant.
    """
    return isinstance(root, str) and bool(_NAME.fullmatch(root)) and not Path(root).parent.exists()


def download(name: str, what: str, *config: str) -> Any:
    """Fetch a data set of the hub, or find it where it was put before.

    Args:
        name: ``"owner/name"``.
        what: what needs the library.
        *config: which of several configurations, where it has several.

    Returns:
        The library's dictionary of splits.

    Raises:
        BadInput: if the library is missing, there is no such data set, or no way to the hub.
    """
    datasets = library("datasets", what)
    try:
        return datasets.load_dataset(name, *config)
    except Exception as error:  # of the network, of the hub, of its cache: each has types of its own
        raise BadInput(
            f"root {name!r} is no folder here, and as a data set of the hub it cannot be loaded: "
            f"{first_line(error)}"
        ) from error


def first_line(error: BaseException) -> str:
    """Return what an error says, in one line.

    Args:
        error: of the library, which writes the configurations that there are into a second line,
            and the reason why a file is wrong into another error.

    Returns:
        Its first line, with the configurations.
    """
    if "generating the dataset" in str(error) and error.__cause__ is not None:
        error = error.__cause__
    first, *rest = str(error).splitlines() or [type(error).__name__]
    return " ".join([first, *(line for line in rest if "available configs" in line)])


class HubImages:
    """Images in a column of Arrow files, as the library keeps them; a :class:`dotkd.data.decode.Store`.

    Args:
        files: the Arrow files, in order.
        column: the name of the column: bytes of image files, alone or with a ``path`` beside.
        what: what messages call the whole.
    """

    def __init__(self, files: list[str], column: str, what: str) -> None:
        self._files, self._column, self._what = files, column, what
        self._cells: Any = None

    def __getstate__(self) -> dict[str, Any]:
        # Another process maps the files anew.
        return {**self.__dict__, "_cells": None}

    def __len__(self) -> int:
        return len(self._opened())

    def key(self, number: int) -> int:
        """Say where an image is: its row."""
        return number

    def title(self, number: int) -> str:
        """Say what messages call an image."""
        return f"{self._what}, row {number}: {self._column}"

    def read(self, key: int) -> Image.Image:
        """Decode an image to RGB.

        Args:
            key: its row.

        Returns:
            The image.

        Raises:
            BadInput: if it cannot be decoded; see :func:`dotkd.data.decode.decode`.
        """
        return decode(self._content(key), self.title(key)).image

    def fingerprint(self, sample: int = _SAMPLE) -> str:
        """Make a checksum over the sizes of all images and the bytes of some, at even distances.

        Args:
            sample: how many are read.

        Returns:
            64 hexadecimal digits.
        """
        compute, cells = library("pyarrow.compute", self._what), self._opened()
        encoded = compute.struct_field(cells, "bytes") if cells.type.num_fields else cells
        sizes = compute.fill_null(compute.binary_length(encoded), -1).to_numpy()
        digest = hashlib.sha256(sizes.astype(np.int64).data)
        for number in np.linspace(0, len(cells) - 1, min(sample, len(cells)), dtype=int).tolist():
            digest.update(self._content(number))
        return digest.hexdigest()

    def _content(self, number: int) -> bytes:
        cell = self._opened()[number].as_py()
        content = cell.get("bytes") if isinstance(cell, dict) else cell
        path = cell.get("path") if isinstance(cell, dict) else None
        if content is None and path is not None and Path(path).is_file():  # folders of images
            content = Path(path).read_bytes()
        if not isinstance(content, bytes):
            raise BadInput(f"{self.title(number)} must hold the bytes of an image file, has none")
        return content

    def _opened(self) -> Any:
        if self._cells is None:
            arrow = library("pyarrow", self._what)
            tables = [arrow.ipc.open_stream(arrow.memory_map(file)).read_all() for file in self._files]
            self._cells = arrow.concat_tables(tables).column(self._column)
        return self._cells


class _Names(NamedTuple):
    """What the columns, the splits and the configuration are called."""

    image_column: str
    label_column: str
    train_split: str
    test_split: str
    config: str


class _Part(NamedTuple):
    images: HubImages
    labels: NDArray[np.int64]


class _Whole(NamedTuple):
    train: _Part
    test: _Part
    classes: list[str]


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
    """Load an image data set of the Hugging Face hub.

    ``root`` is its name there, ``"owner/name"``, or a folder here that the library ``datasets``
    understands: parquet files whose names begin with that of their split, such as
    ``train-00000-of-00002.parquet``. A column holds encoded images (bytes, or bytes beside a path),
    another one class numbers with names, or else whole numbers or texts, of which the sorted
    distinct values are the classes.

    With ``image_size`` 0 all images must be of one size. Without ``stream`` they are decoded once,
    kept in a cache whose key is their contents, and lie in memory; else as :func:`load_folder`.

    Args:
        root: a folder, or where there is none of that name, a data set of the hub, which is
            downloaded.
        image_column: the column with the images.
        label_column: the column with the classes.
        train_split: the split to train and to validate on.
        test_split: the split to test on.
        config: the configuration, where the data set has several.
        image_size: height and width to give all images; 0 leaves them as they are.
        stream: whether to decode each image when it is needed, in worker processes.
        workers: how many, with ``stream``; None for one on each CPU, at most 8.
        **split: see :class:`dotkd.data.splits.SplitOptions`.

    Returns:
        The splits, of ImageData or StreamedImages, in the order of the rows; ``validation`` is None
        where it is 0 images.

    Raises:
        BadInput: if there is no such data set, split or column, an image or a label is missing or
            wrong, or the extra ``hub`` is not installed.
        ValueError: if another argument lies outside its range, or goes with ``stream`` only.

    Example:
        >>> load_hub("zalando-datasets/fashion_mnist").train  # doctest: +SKIP
        ImageData(60000 images of [3, 28, 28], 10 classes)
    """
    check_streaming(image_size, stream, workers)
    names = _Names(image_column, label_column, train_split, test_split, config)
    return load_splits(lambda: _load(root, names, image_size, stream, workers), **split)


def hub_facts(
    root: str | Path,
    *,
    image_column: str = "image",
    label_column: str = "label",
    train_split: str = "train",
    test_split: str = "test",
    config: str = "",
    image_size: int = 0,
) -> DataFacts:
    """Look at a data set of the hub without decoding more than its first image.

    Args:
        root: as for :func:`load_hub`, and so are the others.
        image_column: the column with the images.
        label_column: the column with the classes.
        train_split: the split to train and to validate on.
        test_split: the split to test on.
        config: the configuration, where the data set has several.
        image_size: height and width of all images, or 0.

    Returns:
        Its facts; whether all images are alike is not looked at.
    """
    whole = _open(root, _Names(image_column, label_column, train_split, test_split, config))
    images = whole.train.images
    width, height = (image_size, image_size) if image_size else images.read(images.key(0)).size
    return DataFacts(3, height, width, len(whole.classes), len(whole.train.labels), len(whole.test.labels))


def _load(
    root: str | Path, names: _Names, size: int, stream: bool, workers: int | None
) -> tuple[Images, Images]:
    whole = _open(root, names)
    if stream:
        rest, test = (
            StreamedImages(part.images, torch.from_numpy(part.labels), whole.classes, size, workers=workers)
            for part in (whole.train, whole.test)
        )
        return rest, test
    digest = hashlib.sha256(repr(whole.classes).encode())
    for part in (whole.train, whole.test):
        digest.update(part.images.fingerprint(sample=len(part.labels)).encode())
        digest.update(part.labels.data)
    key = f"hub-v1-{digest.hexdigest()}" + (f"-{size}" if size else "")
    return from_arrays(cached(key, partial(_decode, whole, size)))


def _decode(whole: _Whole, size: int) -> Arrays:
    train, test = stack_parts(whole.train.images, whole.test.images, size)
    return {
        "classes": np.array(whole.classes),
        "train_pixels": train,
        "train_labels": whole.train.labels,
        "test_pixels": test,
        "test_labels": whole.test.labels,
    }


# ---------------------------------------------------------------- names


def _open(root: str | Path, names: _Names) -> _Whole:
    parts = _splits(root, names.config)
    chosen = []
    for key, split in (("train_split", names.train_split), ("test_split", names.test_split)):
        if split not in parts:
            raise BadInput(f"{key}: {unknown('split', split, parts)}")
        _check(parts[split], names, f"{root}, split {split!r}")
        chosen.append((parts[split], f"{root}, split {split!r}"))
    (train, first), (test, second) = chosen
    classes = getattr(train.features[names.label_column], "names", None)
    if classes != getattr(test.features[names.label_column], "names", None):
        raise BadInput(f"{second} has other class names than split {names.train_split!r}")
    if classes is None:
        known: list[Any] = sorted(set(_labels(train, names.label_column, first)))
    else:
        known = list(range(len(classes)))
    return _Whole(
        _part(train, names, known, first),
        _part(test, names, known, second),
        [str(name) for name in (known if classes is None else classes)],
    )


def _check(part: Any, names: _Names, where: str) -> None:
    for key in ("image_column", "label_column"):
        if getattr(names, key) not in part.column_names:
            raise BadInput(f"{key}: {unknown('column', getattr(names, key), part.column_names)} in {where}")
    if len(part) == 0:
        raise BadInput(f"{where} must have at least one row, got none")
    kind = part.data.column(names.image_column).type
    inner = kind.field("bytes").type if kind.num_fields and kind.get_field_index("bytes") >= 0 else kind
    if str(inner) not in ("binary", "large_binary"):
        raise BadInput(
            f"image_column: {names.image_column!r} must hold the bytes of image files, "
            f"holds {kind} in {where}"
        )


def _part(part: Any, names: _Names, known: Sequence[Any], where: str) -> _Part:
    images = HubImages([file["filename"] for file in part.cache_files], names.image_column, where)
    labels, numbers = _labels(part, names.label_column, where), {value: n for n, value in enumerate(known)}
    for row, label in enumerate(labels):
        if label not in numbers:
            raise BadInput(
                f"{where}, row {row}: {names.label_column} must be one of {len(known)} classes, "
                f"{known[0]!r} to {known[-1]!r}, got {label!r}"
            )
    return _Part(images, np.array([numbers[label] for label in labels], dtype=np.int64))


def _labels(part: Any, column: str, where: str) -> list[Any]:
    labels: list[Any] = part.data.column(column).to_pylist()
    for row, label in enumerate(labels):
        if not isinstance(label, str | int):
            raise BadInput(f"{where}, row {row}: {column} must be a whole number or a text, got {label!r}")
    return labels


def _splits(root: str | Path, config: str) -> Any:
    folder, what = Path(root), f"data set {str(root)!r}"
    configs = [config] if config else []
    if folder.is_dir():
        datasets = library("datasets", what)
        try:
            return datasets.load_dataset(str(folder.absolute()), *configs)
        except Exception as error:  # of every kind of file that the library reads
            raise BadInput(f"root {folder} cannot be read as a data set: {first_line(error)}") from error
    if not is_hub_name(root):
        raise BadInput(
            "root must be a folder with parquet files or the name of a data set of the hub, such as "
            f"'owner/name'; {str(root)!r} is neither"
        )
    return download(str(root), what, *configs)
