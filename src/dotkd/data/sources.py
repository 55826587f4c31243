"""The one place where the name of a data set becomes data.

Here belongs what a recipe may ask for by name; how a data set is read lives in a file of its own.
"""

from pathlib import Path
from typing import NamedTuple

from dotkd.data.cifar import load_cifar10, load_cifar100
from dotkd.data.digits import load_digits
from dotkd.data.folders import folder_shape, load_folder
from dotkd.data.splits import Splits
from dotkd.data.tiny_imagenet import load_tiny_imagenet
from dotkd.errors import BadInput, unknown


class DataFacts(NamedTuple):
    """What is known of a data set before it is loaded; 0 for what is not.

    Args:
        channels: of an image.
        height: of an image, in pixels.
        width: of an image, in pixels.
        num_classes: how many classes there are.
        train_images: how many images there are to train and to validate on.
        test_images: how many images there are in the test split.

    Example:
        >>> facts = DataFacts(1, 8, 8, 10, 1400, 397)
        >>> facts.num_classes
        10
    """

    channels: int
    height: int
    width: int
    num_classes: int
    train_images: int
    test_images: int


_FACTS = {
    "cifar10": DataFacts(3, 32, 32, 10, 50_000, 10_000),
    "cifar100": DataFacts(3, 32, 32, 100, 50_000, 10_000),
    "digits": DataFacts(1, 8, 8, 10, 1_400, 397),
    "folder": DataFacts(3, 0, 0, 0, 0, 0),
    "tiny_imagenet": DataFacts(3, 64, 64, 200, 100_000, 10_000),
}
_ROOTS = {
    "cifar10": "a folder with the parquet files of CIFAR-10 or the hub name 'uoft-cs/cifar10'",
    "cifar100": "a folder with the parquet files of CIFAR-100 or the hub name 'uoft-cs/cifar100'",
    "folder": "a folder with train/ and test/ (or val/), each with one folder for each class",
    "tiny_imagenet": "the folder tiny-imagenet-200 or the one above",
}

DATA_SETS: tuple[str, ...] = tuple(_FACTS)


def data_facts(name: str, root: str | Path = "") -> DataFacts:
    """Say what a data set looks like, without loading it.

    What ``"folder"`` holds, its files alone know: with ``root``, their names are listed and the
    first image is opened; without, only that the images will have 3 channels is known, and the
    other facts are 0.

    Args:
        name: one of ``DATA_SETS``.
        root: where the files of ``"folder"`` are; the others need none.

    Returns:
        Its facts.

    Raises:
        BadInput: if there is no data set of that name, or ``root`` is no such folder.

    Example:
        >>> data_facts("cifar100").num_classes
        100
    """
    if name == "folder" and str(root):
        shape = folder_shape(root)
        return DataFacts(3, *shape)
    if name in _FACTS:
        return _FACTS[name]
    raise BadInput(unknown("data set", name, DATA_SETS))


def load_data(
    name: str,
    *,
    root: str | Path = "",
    validation: int = 0,
    label_noise: float = 0.0,
    train_images: int = 0,
    seed: int = 0,
) -> Splits:
    """Load a data set by its name.

    Args:
        name: one of ``DATA_SETS``.
        root: where the files are; see :func:`dotkd.data.load_cifar`,
            :func:`dotkd.data.load_folder` and :func:`dotkd.data.load_tiny_imagenet`. Empty for
            ``"digits"``, which ship with the package.
        validation: how many training images to set aside for validation.
        label_noise: share of the training labels to replace by a wrong class, in [0, 1].
        train_images: how many of the other images to train on; 0 for all of them, which is what
            ``"digits"`` has.
        seed: for all that is drawn; at least 0.

    Returns:
        The splits, as the loader of the data set gives them.

    Raises:
        BadInput: if an argument is not right for the data set, or its files are not.

    Example:
        >>> load_data("digits", validation=200).train
        ImageData(1200 images of [1, 8, 8], 10 classes)
    """
    data_facts(name)
    try:
        if name == "digits":
            _only_for_others("root", root, "")
            _only_for_others("train_images", train_images, 0)
            return load_digits(validation=validation, label_noise=label_noise, seed=seed)
        if not str(root):
            raise BadInput(f"root must be {_ROOTS[name]}, got ''")
        load = {
            "cifar10": load_cifar10,
            "cifar100": load_cifar100,
            "folder": load_folder,
            "tiny_imagenet": load_tiny_imagenet,
        }[name]
        return load(
            root, validation=validation, label_noise=label_noise, train_images=train_images, seed=seed
        )
    except BadInput:
        raise
    except ValueError as error:
        raise BadInput(f"{name}: {error}") from error


def _only_for_others(name: str, value: object, right: object) -> None:
    if value != right:
        raise BadInput(
            f"{name} must be {right!r} for digits, which ship whole with the package; got {value!r}"
        )
