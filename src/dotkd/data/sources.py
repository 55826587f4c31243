"""Data sets by name: the table of sources and their options, the splits drawn from them, and the digits."""

import inspect
import os
import re
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypedDict, TypeVar, Unpack

import numpy as np
import torch
from torch import Tensor

from dotkd._validate import UNLABELLED, check_int64_vector, check_integer, check_range, check_share
from dotkd.data.decode import Part
from dotkd.data.images import DataFacts, ImageData, Images, Splits
from dotkd.errors import BadInput, unknown
from dotkd.seeding import random_stream

# ---------------------------------------------------------------- splits

_Images = TypeVar("_Images", bound=Images)


class SplitOptions(TypedDict, total=False):
    """Options of every loader: how the splits are drawn.

    Args:
        validation: training images to set aside for validation; default 0, and no other number for
            data with validation images of their own.
        label_noise: share of the training labels to replace by a wrong class, in [0, 1]; see
            :func:`dotkd.data.add_label_noise`; default 0.
        train_images: how many of the other images to train on; default 0, which keeps all of them.
        seed: draws validation, training images and noise; at least 0; default 0.
    """

    validation: int
    label_noise: float
    train_images: int
    seed: int


def load_splits(read: Callable[[], Splits[_Images]], **split: Unpack[SplitOptions]) -> Splits[_Images]:
    """Read a source and draw its splits, after checking the options: reading may take minutes."""
    for name in ("validation", "train_images", "seed"):
        check_integer(name, split.get(name, 0), low=0)
    check_share("label_noise", split.get("label_noise", 0.0))
    rest, own, test = read()
    if own is not None and split.get("validation"):
        raise BadInput(
            f"validation must be 0 for data with validation images of their own, {len(own)} of them, "
            f"got {split['validation']}"
        )
    splits = make_splits(rest, _labelled(test, "test"), **split)
    return splits if own is None else splits._replace(validation=_labelled(own, "validation"))


def _labelled(data: _Images, name: str) -> _Images:
    known = (data.labels != UNLABELLED).nonzero().flatten()
    if not len(known):
        raise BadInput(f"the {name} images must have labels; none of the {len(data)} has one")
    return data if len(known) == len(data) else data.subset(known)


def check_test_share(share: float) -> None:
    """Refuse a share outside [0, 1); 0 means that nothing is drawn."""
    if check_share("test_share", share) == 1:
        raise ValueError("test_share must be below 1, or nothing is left to train on")


def draw_test(part: Part, share: float) -> tuple[Part, Part]:
    """Draw a share of the labelled images, of each class alike and the same for every seed.

    Returns:
        The other images, and the share.

    Raises:
        BadInput: if the share is no image, or all of them.
    """
    known = np.flatnonzero(part.labels != UNLABELLED)
    count = round(share * len(known))
    if not 0 < count < len(known):
        raise BadInput(
            f"test_share={share:g} of {len(known)} images with labels is {count}: take another share"
        )
    stream = random_stream(0, "data.test")
    drawn = stratified_sample(torch.from_numpy(part.labels[known]), count, generator=stream)
    test = known[drawn.numpy()]
    return part.pick(np.setdiff1d(np.arange(len(part.labels)), test)), part.pick(test)


def make_splits(
    rest: _Images,
    test: _Images,
    *,
    validation: int = 0,
    label_noise: float = 0.0,
    train_images: int = 0,
    seed: int = 0,
) -> Splits[_Images]:
    """Draw the validation images, then the training images, then the label noise.

    Both draws keep the shares of the classes; images without a label are drawn for training alone, as a
    class of their own. Each of the three has a random stream of its own:
    fewer training images leave the validation images unchanged, and the noise does not depend on
    the split.

    Args:
        rest: all images other than the test split.
        test: the test split, which stays as it is.
        validation: as in :class:`SplitOptions`, and so are the others.
        label_noise: see there.
        train_images: see there.
        seed: see there.

    Returns:
        The splits, each in the order of ``rest``; ``validation`` is None where it is 0 images.

    Raises:
        ValueError: if an argument lies outside its range.

    Example:
        >>> labels = torch.arange(10) % 2
        >>> data = ImageData(torch.zeros(10, 1, 2, 2, dtype=torch.uint8), labels, ("a", "b"))
        >>> [len(part) for part in make_splits(data, data, validation=4)]
        [6, 4, 10]
    """
    count = len(rest)
    known = (rest.labels != UNLABELLED).nonzero().flatten()
    # One image, and with labels one of these, must be left to train on.
    validation = check_integer("validation", validation, low=0, high=max(len(known) - 1, 0))
    train_images = check_integer("train_images", train_images, low=0, high=count - validation)
    check_share("label_noise", label_noise)
    check_integer("seed", seed, low=0)
    train, held_out = rest, None
    if validation:
        stream = random_stream(seed, "data.split")
        drawn = stratified_sample(rest.labels[known], validation, generator=stream)
        held_out, train = divide(rest, known[drawn])
    if train_images:
        stream = random_stream(seed, "data.train_images")
        groups = train.labels.where(train.labels != UNLABELLED, len(rest.classes))
        train = train.subset(stratified_sample(groups, train_images, generator=stream))
    if label_noise:
        labels, known = train.labels.clone(), train.labels != UNLABELLED
        labels[known] = add_label_noise(
            labels[known], label_noise, num_classes=len(rest.classes), generator=_noise_stream(seed)
        )
        train = train.with_labels(labels)
    return Splits(train, held_out, test)


def without_label_noise(train: _Images, share: float, seed: int) -> _Images:
    """Return the training images of :func:`make_splits` with the labels that they had before the noise."""
    if not share:
        return train
    labels, known, classes = train.labels.clone(), train.labels != UNLABELLED, len(train.classes)
    # Which labels move, and how far, does not depend on the labels.
    zeros = torch.zeros_like(labels[known])
    moved = add_label_noise(zeros, share, num_classes=classes, generator=_noise_stream(seed))
    labels[known] = (labels[known] - moved) % classes
    return train.with_labels(labels)


def _noise_stream(seed: int) -> torch.Generator:
    return random_stream(seed, "data.label_noise")


def divide(data: _Images, positions: Tensor) -> tuple[_Images, _Images]:
    """Return the images at some positions, and all others in their order."""
    others = torch.ones(len(data), dtype=torch.bool)
    others[positions] = False
    return data.subset(positions), data.subset(others.nonzero().flatten())


def stratified_sample(labels: Tensor, count: int, *, generator: torch.Generator | None = None) -> Tensor:
    """Draw positions such that every class keeps its share.

    Of n_c images of class c among N, the class gives n_c * count / N, rounded down; the places left
    over go to the largest remainders, on a tie to the lower class number. Within a class, images are
    drawn without replacement, or without a generator taken at even distances along the data set.

    Args:
        labels: [N], int64, class numbers, at least 0.
        count: number of positions, from 0 to N.
        generator: draws within the classes and advances; None takes even distances.

    Returns:
        [count], int64: positions in ascending order, on the CPU.

    Raises:
        ValueError: if ``labels`` or ``count`` is out of range.

    Example:
        >>> labels = torch.tensor([0, 0, 0, 0, 0, 0, 1, 1, 1])
        >>> stratified_sample(labels, 3).tolist()
        [1, 4, 7]
        >>> drawn = stratified_sample(labels, 3, generator=torch.Generator().manual_seed(0))
        >>> labels[drawn].tolist()
        [0, 0, 1]
    """
    check_int64_vector("labels", labels)
    labels = labels.cpu()
    check_range("labels", labels)
    count = check_integer("count", count, low=0, high=len(labels))
    chosen = [torch.empty(0, dtype=torch.int64)]
    for number, places in enumerate(_places(torch.bincount(labels).tolist(), count)):
        members = (labels == number).nonzero().flatten()
        if generator is None:
            # The middles of `places` equal stretches; apart by at least one, so all different.
            order = (2 * torch.arange(places) + 1) * len(members) // max(2 * places, 1)
        else:
            order = torch.randperm(len(members), generator=generator, device=generator.device)
        chosen.append(members[order[:places].cpu()])
    return torch.cat(chosen).sort().values


def _places(sizes: list[int], count: int) -> list[int]:
    # Largest remainders, in whole numbers only: no rounding error can break a tie.
    total = max(sum(sizes), 1)
    places = [size * count // total for size in sizes]
    by_remainder = sorted(range(len(sizes)), key=lambda c: (-(sizes[c] * count % total), c))
    for number in by_remainder[: count - sum(places)]:
        places[number] += 1
    return places


def add_label_noise(labels: Tensor, share: float, *, num_classes: int, generator: torch.Generator) -> Tensor:
    """Replace an exact share of the labels by wrong ones (symmetric label noise).

    ``round(share * N)`` labels, chosen without replacement, become

        y' = (y + k) mod num_classes,    k uniform on 1, ..., num_classes - 1,

    so a replaced label is always wrong, and every other class is equally likely. Every share draws
    the same number of random numbers; the noise is therefore nested: from one state of the
    generator, the labels that are wrong at share 0.2 are wrong in the same way at share 0.4.

    Args:
        labels: [N], int64, class numbers in [0, num_classes); not changed.
        share: share of the labels to replace, in [0, 1].
        num_classes: number of classes, at least 2.
        generator: source of the random numbers; it advances.

    Returns:
        [N], int64, on the device of ``labels``: a new tensor, whatever the share.

    Raises:
        ValueError: if an argument lies outside its range or ``labels`` is not such a tensor.

    Example:
        >>> labels = torch.arange(10)
        >>> generator = torch.Generator().manual_seed(0)
        >>> noisy = add_label_noise(labels, 0.3, num_classes=10, generator=generator)
        >>> int((noisy != labels).sum())
        3

    References:
        Zhang, Bengio, Hardt, Recht, Vinyals (2017), Understanding deep learning requires
        rethinking generalization, arXiv 1611.03530: partially corrupted labels. Their labels are
        redrawn with a probability and may come out right; here the count is exact and a replaced
        label is wrong.
    """
    check_int64_vector("labels", labels)
    num_classes = check_integer("num_classes", num_classes, low=2)
    check_share("share", share)
    check_range("labels", labels, num_classes - 1, f"num_classes={num_classes}")
    count, device = round(share * len(labels)), generator.device
    order = torch.randperm(len(labels), generator=generator, device=device)
    shift = torch.randint(1, num_classes, (len(labels),), generator=generator, device=device)
    chosen, shift = order[:count].to(labels.device), shift[:count].to(labels.device)
    noisy = labels.clone()
    noisy[chosen] = (labels[chosen] + shift) % num_classes
    return noisy


# ---------------------------------------------------------------- sources by name


class Source(Protocol):
    """A data set at a place, with its options."""

    def facts(self) -> DataFacts:
        """Return shape and size, decoding at most one image."""
        ...

    def read(self) -> Splits[Images]:
        """Return its splits, with validation images if it has its own."""
        ...


def check_streaming(image_size: int, stream: bool, workers: int | None) -> None:
    """Refuse options of streaming that do not go together."""
    check_integer("image_size", image_size, low=0)
    if stream and not image_size:
        raise ValueError("image_size must be at least 1 for images that are streamed, got 0")
    if workers is not None and not stream:
        raise ValueError(f"workers must be left out for images that are not streamed, got {workers}")


class DataOption(NamedTuple):
    """A keyword that some loaders take; derived from their signatures and docstrings.

    Args:
        type: annotation.
        default: the value that means "not given".
        meaning: its entry in the loader's docstring.
        data_sets: names of the data sets that read it.

    Example:
        >>> from dotkd.data import data_options
        >>> option = data_options()["label_column"]
        >>> option.default, option.meaning, option.data_sets
        ('label', 'column with the classes.', ('hub',))
    """

    type: Any
    default: Any
    meaning: str
    data_sets: tuple[str, ...]


class _Entry(NamedTuple):
    load: Callable[..., Splits[Images]]
    root: str  # description of the root; empty where the loader needs none
    facts: DataFacts
    opens: Callable[..., Source] | None  # for data sets that only their files describe


_SOURCES: dict[str, _Entry] = {}
_COMMON = frozenset(SplitOptions.__annotations__)
_Loader = TypeVar("_Loader", bound=Callable[..., Splits[Images]])


def source(
    name: str, *, root: str, facts: DataFacts, opens: Callable[..., Source] | None = None
) -> Callable[[_Loader], _Loader]:
    """Register a loader as a data set; its keywords become options of :func:`load_data` and of recipes.

    Args:
        name: name of the data set.
        root: description of the folder or name it is loaded from; empty where it needs none.
        facts: shape and size; 0 for what only its files know.
        opens: makes the source that knows the rest, from the root and all options of the loader.

    Returns:
        The decorator, which returns the loader unchanged.
    """

    def register(load: _Loader) -> _Loader:
        _SOURCES[name] = _Entry(load, root, facts, opens)
        return load

    return register


def data_sets() -> tuple[str, ...]:
    """Return the names of all data sets, sorted."""
    return tuple(sorted(_SOURCES))


def data_options() -> dict[str, DataOption]:
    """List the options that only some data sets read, from the signatures of their loaders.

    Returns:
        Name to option. An option of several loaders has the default of the one registered first.

    Example:
        >>> data_options()["image_size"].data_sets
        ('folder', 'hub', 'imagenet')
    """
    found: dict[str, DataOption] = {}
    for name, entry in _SOURCES.items():
        meanings = _arguments(entry.load)
        for key, parameter in _keywords(entry.load).items():
            known = found.get(key, DataOption(parameter.annotation, parameter.default, meanings[key], ()))
            found[key] = known._replace(data_sets=tuple(sorted((*known.data_sets, name))))
    return found


def data_facts(name: str, root: str | Path = "", **options: Any) -> DataFacts:
    """Describe a data set without loading it.

    ``"folder"`` and ``"hub"`` are described by their files only: with ``root``, their files are
    listed and, without ``image_size``, the first image is decoded (a data set of the hub is
    downloaded). Without ``root``, only the channels and ``image_size`` are known, and the other
    facts are 0. Splits that are loaded know their facts: :attr:`dotkd.data.Splits.facts`.

    Args:
        name: one of ``DATA_SETS``.
        root: the files of ``"folder"`` and ``"hub"``; the others need none.
        **options: see :func:`dotkd.data.data_options`.

    Returns:
        Its facts.

    Raises:
        BadInput: if the name is unknown, the data set does not read an option, or ``root`` holds
            no such data set.

    Example:
        >>> data_facts("cifar100").num_classes
        100
        >>> data_facts("imagenet", image_size=160)[:3]
        (3, 160, 160)
    """
    given = _given(name, options)
    entry = _SOURCES[name]
    if str(root) and entry.opens is not None:
        root = _expanded(root)
        defaults = {key: parameter.default for key, parameter in _keywords(entry.load).items()}
        return entry.opens(root, **(defaults | given)).facts()
    size = given.get("image_size")
    return entry.facts._replace(height=size, width=size) if size else entry.facts


def load_data(name: str, *, root: str | Path = "", **options: Any) -> Splits[Images]:
    """Load a data set by its name.

    Args:
        name: one of ``DATA_SETS``.
        root: the files; see :func:`dotkd.data.load_cifar`, :func:`dotkd.data.load_tiny_imagenet`,
            :func:`dotkd.data.load_imagenet`, :func:`dotkd.data.load_folder` and
            :func:`dotkd.data.load_hub`. Empty for ``"digits"``, which ship with the package.
        **options: keywords of that loader, listed by :func:`dotkd.data.data_options`, and how to
            split: ``validation``, ``train_images``, ``label_noise`` and ``seed``, all 0 by default;
            see :class:`dotkd.data.sources.SplitOptions`. ``"digits"`` has no ``train_images``.

    Returns:
        The splits, as the loader of the data set returns them.

    Raises:
        BadInput: if an argument does not suit the data set, or its files are missing or wrong.

    Example:
        >>> load_data("digits", validation=200).train
        ImageData(1200 images of [1, 8, 8], 10 classes)
    """
    given = _given(name, options)
    entry = _SOURCES[name]
    if bool(str(root)) != bool(entry.root):
        right = repr("") if str(root) else entry.root
        raise BadInput(f"root must be {right} for {name}, got {str(root)!r}")
    try:
        return entry.load(_expanded(root), **given)
    except BadInput:
        raise
    except ValueError as error:
        raise BadInput(f"{name}: {error}") from error


def _expanded(root: str | Path) -> str | Path:
    """Put the home folder for ``~``; a name of the hub stays a text, and a path a path."""
    # The method of Path raises for a user that does not exist.
    return os.path.expanduser(root) if str(root).startswith("~") else root  # noqa: PTH111


def _given(name: str, options: dict[str, Any]) -> dict[str, Any]:
    """Refuse options that a data set does not read; return those that differ from their default."""
    if name not in _SOURCES:
        raise BadInput(unknown("data set", name, _SOURCES))
    load, given = _SOURCES[name].load, {}
    accepts = inspect.signature(load).parameters
    splits = _COMMON if "split" in accepts else _COMMON & accepts.keys()
    specific = data_options()
    for key, value in options.items():
        if key not in specific and key not in _COMMON:
            raise BadInput(unknown("option", key, [*specific, *_COMMON]))
        default = specific[key].default if key in specific else 0
        if key in splits:
            given[key] = value
        elif value != default:
            if key not in accepts:
                raise BadInput(f"{key} must be {default!r} for {name}, which does not read it, got {value!r}")
            given[key] = value
    return given


def _keywords(load: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """Return the keyword-only parameters of a loader other than those that draw splits."""
    parameters = inspect.signature(load).parameters.values()
    return {p.name: p for p in parameters if p.kind is p.KEYWORD_ONLY and p.name not in _COMMON}


def _arguments(function: Callable[..., Any]) -> dict[str, str]:
    """Return the entries of the section ``Args`` of a docstring."""
    section = re.search(r"^Args:\n((?: .*\n|\n)*)", inspect.getdoc(function) or "", re.MULTILINE)
    entries = re.findall(r"^    \**(\w+): (.*(?:\n     .*)*)", section[1] if section else "", re.MULTILINE)
    return {name: " ".join(text.split()) for name, text in entries}


# ---------------------------------------------------------------- digits

_TEST_IMAGES = 397


def load_digits(*, validation: int = 200, label_noise: float = 0.0, seed: int = 0) -> Splits[ImageData]:
    """Load the 1,797 handwritten digits that ship with the package.

    Grey images of 8x8 pixels in ten classes, pixel values 0 to 16. The test split is 397 images,
    the same for every seed: within each class, images at even distances along the file. The other
    1,400 are training and validation images, drawn by ``seed`` in the shares of their classes, so
    the default leaves 1,200 to train on. ``Batch.index`` is the position in the file.

    The noise changes training labels only, and its random stream is independent of that of the
    split. The same call with ``label_noise=0`` returns the true labels of the same training images.

    Args:
        validation: images to set aside for validation, from 0 to 1399.
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
        >>> len(splits.validation), len(splits.test), splits.facts.train_images
        (200, 397, 1400)
        >>> int((splits.train.labels != load_digits().train.labels).sum())
        360

    References:
        E. Alpaydin and C. Kaynak (1998), Optical Recognition of Handwritten Digits, UCI Machine
        Learning Repository, https://doi.org/10.24432/C50P49. Licence: CC BY 4.0. Changed: only the
        writer-independent test images of the original, repacked.
    """
    # Read anew each time: callers may write to the tensors.
    with (
        resources.files("dotkd.data").joinpath("digits.npz").open("rb") as file,
        np.load(file, allow_pickle=False) as arrays,
    ):
        images, labels = torch.from_numpy(arrays["images"]), torch.from_numpy(arrays["labels"])
    names = tuple(str(digit) for digit in range(10))
    digits = ImageData(images.unsqueeze(1), labels.to(torch.int64), names, max_value=16)
    test, rest = divide(digits, stratified_sample(digits.labels, _TEST_IMAGES))
    return make_splits(rest, test, validation=validation, label_noise=label_noise, seed=seed)


@source("digits", root="", facts=DataFacts(1, 8, 8, 10, 1_400, _TEST_IMAGES))
def _load_digits(
    _: str | Path, *, validation: int = 0, label_noise: float = 0.0, seed: int = 0
) -> Splits[ImageData]:
    return load_digits(validation=validation, label_noise=label_noise, seed=seed)
