"""Data sets by name, and the embedded digits."""

from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple, Unpack

import numpy as np
import torch

from dotkd.data.cifar import load_cifar10, load_cifar100
from dotkd.data.folders import folder_facts, load_folder, load_imagenet, load_tiny_imagenet
from dotkd.data.hub import hub_facts, load_hub
from dotkd.data.images import DataFacts, ImageData, Images
from dotkd.data.splits import SplitOptions, Splits, divide, make_splits, stratified_sample
from dotkd.errors import BadInput, unknown

_TEST_IMAGES = 397


def load_digits(*, validation: int = 200, label_noise: float = 0.0, seed: int = 0) -> Splits[ImageData]:
    """Load the 1,797 handwritten digits that ship with the package.

    Grey images of 8x8 pixels in ten classes, pixel values 0 to 16. The test split is 397 images,
    the same for every seed: within each class, images at even distances along the file. The other
    1,400 are training and validation images, drawn by ``seed`` in the shares of their classes, so
    the default leaves 1,200 to train on. ``Batch.index`` is the position in the file.

    The noise touches training labels only, and its stream is another than that of the split. The
    same call with ``label_noise=0`` gives the true labels of the same training images.

    Args:
        validation: how many images to set aside for validation, from 0 to 1399.
        label_noise: share of the training labels to replace by a wrong class, in [0, 1]; see
            :func:`dotkd.data.add_label_noise`.
        seed: draws the validation split and, in a stream of its own, the noise; at least 0.

    Returns:
        The splits, each in the order of the file; ``validation`` is None where it is 0 images.

    Raises:
        ValueError: if an argument lies outside its range.

    Example:
        >>> splits = load_digits(label_noise=0.3)
        >>> splits.train
        ImageData(1200 images of [1, 8, 8], 10 classes)
        >>> len(splits.validation), len(splits.test)
        (200, 397)
        >>> int((splits.train.labels != load_digits().train.labels).sum())
        360

    References:
        E. Alpaydin and C. Kaynak (1998), Optical Recognition of Handwritten Digits, UCI Machine
        Learning Repository, https://doi.org/10.24432/C50P49. Licence: CC BY 4.0. Changed: only the
        writer-independent test images of the original, repacked.
    """
    digits = _read()
    test, rest = divide(digits, stratified_sample(digits.labels, _TEST_IMAGES))
    return make_splits(rest, test, validation=validation, label_noise=label_noise, seed=seed)


def _read() -> ImageData:
    # Read anew each time: no two callers share a tensor that one of them may write to.
    with (
        resources.files("dotkd.data").joinpath("digits.npz").open("rb") as file,
        np.load(file, allow_pickle=False) as arrays,
    ):
        images, labels = torch.from_numpy(arrays["images"]), torch.from_numpy(arrays["labels"])
    names = tuple(str(digit) for digit in range(10))
    return ImageData(images.unsqueeze(1), labels.to(torch.int64), names, max_value=16)


# The options of load_data that only some sources read.
_SIZE = ("image_size",)
_STREAM = ("stream", "workers")
_NAMES = ("image_column", "label_column", "train_split", "test_split", "config")


class _Source(NamedTuple):
    facts: DataFacts
    root: str  # what must be given for it
    reads: tuple[str, ...]
    because: str  # why it reads no other options


_SOURCES = {
    "cifar10": _Source(
        DataFacts(3, 32, 32, 10, 50_000, 10_000),
        "a folder with the parquet files of CIFAR-10 or the hub name 'uoft-cs/cifar10'",
        (),
        "which has one form",
    ),
    "cifar100": _Source(
        DataFacts(3, 32, 32, 100, 50_000, 10_000),
        "a folder with the parquet files of CIFAR-100 or the hub name 'uoft-cs/cifar100'",
        (),
        "which has one form",
    ),
    "digits": _Source(DataFacts(1, 8, 8, 10, 1_400, 397), "", (), "which ship whole with the package"),
    "folder": _Source(
        DataFacts(3, 0, 0, 0, 0, 0),
        "a folder with train/ and test/ (or val/), each with one folder for each class",
        _SIZE + _STREAM,
        "whose files have no columns",
    ),
    "hub": _Source(
        DataFacts(3, 0, 0, 0, 0, 0),
        "a folder with parquet files or the name of a data set of the hub, such as 'owner/name'",
        _SIZE + _STREAM + _NAMES,
        "",
    ),
    "imagenet": _Source(
        DataFacts(3, 224, 224, 1000, 1_281_167, 50_000),
        "the folder that holds train/ and val/ of ImageNet",
        (*_SIZE, "workers"),
        "which is streamed from class folders",
    ),
    "tiny_imagenet": _Source(
        DataFacts(3, 64, 64, 200, 100_000, 10_000),
        "the folder tiny-imagenet-200 or the one above",
        (),
        "which has one form",
    ),
}

DATA_SETS: tuple[str, ...] = tuple(_SOURCES)


def data_facts(
    name: str,
    root: str | Path = "",
    *,
    image_size: int = 0,
    image_column: str = "image",
    label_column: str = "label",
    train_split: str = "train",
    test_split: str = "test",
    config: str = "",
) -> DataFacts:
    """Say what a data set looks like, without loading it.

    What ``"folder"`` and ``"hub"`` hold, their files alone know: with ``root``, their names are
    listed and, without ``image_size``, the first image is decoded (and a data set of the hub is
    downloaded); without ``root``, only the channels and ``image_size`` are known, and the other
    facts are 0.

    Args:
        name: one of ``DATA_SETS``.
        root: where the files of ``"folder"`` and ``"hub"`` are; the others need none.
        image_size: as for :func:`load_data`, and so are the others.
        image_column: the column of ``"hub"`` with the images.
        label_column: its column with the classes.
        train_split: its split to train on.
        test_split: its split to test on.
        config: its configuration.

    Returns:
        Its facts.

    Raises:
        BadInput: if there is no data set of that name, or it does not read an option, or ``root``
            holds no such data set.

    Example:
        >>> data_facts("cifar100").num_classes
        100
        >>> data_facts("imagenet", image_size=160)[:3]
        (3, 160, 160)
    """
    names = {
        "image_column": image_column,
        "label_column": label_column,
        "train_split": train_split,
        "test_split": test_split,
        "config": config,
    }
    given = _given(name, {"image_size": image_size, **names})
    if str(root) and name == "folder":
        return folder_facts(root, **given)
    if str(root) and name == "hub":
        return hub_facts(root, **given)
    facts = _SOURCES[name].facts
    return facts._replace(height=image_size, width=image_size) if image_size else facts


def load_data(
    name: str,
    *,
    root: str | Path = "",
    image_size: int = 0,
    stream: bool = False,
    workers: int | None = None,
    image_column: str = "image",
    label_column: str = "label",
    train_split: str = "train",
    test_split: str = "test",
    config: str = "",
    **split: Unpack[SplitOptions],
) -> Splits[Images]:
    """Load a data set by its name.

    Args:
        name: one of ``DATA_SETS``.
        root: where the files are; see :func:`dotkd.data.load_cifar`,
            :func:`dotkd.data.load_tiny_imagenet`, :func:`dotkd.data.load_imagenet`,
            :func:`dotkd.data.load_folder` and :func:`dotkd.data.load_hub`. Empty for ``"digits"``,
            which ship with the package.
        image_size: height and width to give the images of ``"folder"``, ``"hub"`` and
            ``"imagenet"``; 0 for their own, of ImageNet 224.
        stream: whether the images of ``"folder"`` and ``"hub"`` stay in their files; those of
            ImageNet do anyway.
        workers: how many processes decode images that are streamed; None for one on each CPU, at
            most 8.
        image_column: the column of ``"hub"`` with the images.
        label_column: its column with the classes.
        train_split: its split to train and to validate on.
        test_split: its split to test on.
        config: its configuration, where it has several.
        **split: see :class:`dotkd.data.splits.SplitOptions`; ``"digits"`` has no ``train_images``.

    Returns:
        The splits, as the loader of the data set gives them.

    Raises:
        BadInput: if an argument is not right for the data set, or its files are not.

    Example:
        >>> load_data("digits", validation=200).train
        ImageData(1200 images of [1, 8, 8], 10 classes)
    """
    options = {
        "image_size": image_size,
        "stream": stream,
        "workers": workers,
        "image_column": image_column,
        "label_column": label_column,
        "train_split": train_split,
        "test_split": test_split,
        "config": config,
    }
    given = _given(name, options)
    try:
        if name == "digits":
            return _digits(root, **split)
        if not str(root):
            raise BadInput(f"root must be {_SOURCES[name].root}, got ''")
        load = {
            "cifar10": load_cifar10,
            "cifar100": load_cifar100,
            "folder": load_folder,
            "hub": load_hub,
            "imagenet": load_imagenet,
            "tiny_imagenet": load_tiny_imagenet,
        }[name]
        splits: Splits[Images] = load(root, **given, **split)  # type: ignore[operator]
        return splits
    except BadInput:
        raise
    except ValueError as error:
        raise BadInput(f"{name}: {error}") from error


def _given(name: str, options: dict[str, Any]) -> dict[str, Any]:
    """Refuse what a source does not read; return what is not as it would be anyway."""
    if name not in _SOURCES:
        raise BadInput(unknown("data set", name, DATA_SETS))
    source = _SOURCES[name]
    defaults = load_data.__kwdefaults__ or {}
    given = {key: value for key, value in options.items() if value != defaults[key]}
    for key, value in given.items():
        if key not in source.reads:
            _refuse(key, defaults[key], name, value)
    return given


def _digits(
    root: str | Path,
    *,
    validation: int = 0,
    label_noise: float = 0.0,
    train_images: int = 0,
    seed: int = 0,
) -> Splits[Images]:
    for key, right, value in (("root", "", str(root)), ("train_images", 0, train_images)):
        if value != right:
            _refuse(key, right, "digits", value)
    return load_digits(validation=validation, label_noise=label_noise, seed=seed)


def _refuse(key: str, right: object, name: str, value: object) -> None:
    raise BadInput(f"{key} must be {right!r} for {name}, {_SOURCES[name].because}; got {value!r}")
