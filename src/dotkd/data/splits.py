"""Splits into training, validation and test images, and label noise."""

from collections.abc import Callable
from typing import Generic, NamedTuple, TypedDict, TypeVar, Unpack

import torch
from torch import Tensor

from dotkd._validate import check_int64_vector, check_integer, check_range, check_share
from dotkd.data.decode import Arrays
from dotkd.data.images import ImageData, Images
from dotkd.seeding import random_stream


def add_label_noise(labels: Tensor, share: float, *, num_classes: int, generator: torch.Generator) -> Tensor:
    """Replace an exact share of the labels by wrong ones (symmetric label noise).

    ``round(share * N)`` labels, chosen without replacement, become

        y' = (y + k) mod num_classes,    k uniform on 1, ..., num_classes - 1,

    so a replaced label is never the one it was, and every other class is equally likely. As many
    random numbers are drawn for every share; the noise is therefore nested: from one state of the
    generator, the labels that are wrong at share 0.2 are wrong in the same way at share 0.4.

    Args:
        labels: [N], int64, class numbers in [0, num_classes); not changed.
        share: how many of the labels become wrong, in [0, 1].
        num_classes: the number of classes, at least 2.
        generator: where the random numbers come from; it moves on.

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
        rethinking generalization, arXiv 1611.03530: partially corrupted labels. There each label
        is drawn anew with a probability and may come out right; here the count is exact and a
        replaced label is wrong.
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


Data = TypeVar("Data", bound=Images)
Part = TypeVar("Part", bound=Images, covariant=True)


class SplitOptions(TypedDict, total=False):
    """What is drawn from a data set once its files are known: the same for every source.

    Args:
        validation: how many training images to set aside for validation; 0 where it is left out.
        label_noise: share of the training labels to replace by a wrong class, in [0, 1]; see
            :func:`dotkd.data.add_label_noise`; 0 where it is left out.
        train_images: how many of the other images to train on; 0, for all of them, where it is left
            out.
        seed: draws validation, training images and noise; at least 0, and 0 where it is left out.
    """

    validation: int
    label_noise: float
    train_images: int
    seed: int


class Splits(NamedTuple, Generic[Part]):
    """The three parts of a data set.

    Hyper-parameters and the best epoch are chosen on ``validation``; ``test`` is read once, at
    the end. Without a validation part there is nothing to choose on, and the type says so: it is
    None, not an empty data set whose accuracy would be 0 / 0.

    Args:
        train: what the student learns from.
        validation: what choices are made on, or None.
        test: what the final number comes from.
    """

    train: Part
    validation: Part | None
    test: Part


def load_splits(read: Callable[[], tuple[Data, Data]], **split: Unpack[SplitOptions]) -> Splits[Data]:
    """Read a source and draw its splits.

    What can be refused without the files is refused before they are read, which may take minutes.

    Args:
        read: gives all images that are not for the test, and the test split.
        **split: for :func:`make_splits`.

    Returns:
        The splits.

    Raises:
        ValueError: if an argument lies outside its range.
    """
    for name in ("validation", "train_images", "seed"):
        check_integer(name, split.get(name, 0), low=0)
    check_share("label_noise", split.get("label_noise", 0.0))
    rest, test = read()
    return make_splits(rest, test, **split)


def make_splits(
    rest: Data,
    test: Data,
    *,
    validation: int = 0,
    label_noise: float = 0.0,
    train_images: int = 0,
    seed: int = 0,
) -> Splits[Data]:
    """Draw the validation and the training images, then the noise on the training labels.

    The validation images come first, then the training images from the rest, both in the shares
    of the classes. Each of the three draws has a random stream of its own: fewer training images
    leave the validation images as they were, and the noise does not depend on the split.

    Args:
        rest: all images that are not for the test.
        test: the test split, which stays as it is.
        validation: how many images to set aside for validation.
        label_noise: share of the training labels to replace by a wrong class, in [0, 1]; see
            :func:`dotkd.data.add_label_noise`.
        train_images: how many of the other images to train on; 0 for all of them.
        seed: draws validation, training images and noise; at least 0.

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
    validation = check_integer("validation", validation, low=0, high=len(rest) - 1)
    train_images = check_integer("train_images", train_images, low=0, high=len(rest) - validation)
    check_share("label_noise", label_noise)
    streams = {name: random_stream(seed, f"data.{name}") for name in ("split", "train_images", "label_noise")}

    train, held_out = rest, None
    if validation:
        chosen = stratified_sample(rest.labels, validation, generator=streams["split"])
        held_out, train = divide(rest, chosen)
    if train_images:
        train = train.subset(stratified_sample(train.labels, train_images, generator=streams["train_images"]))
    labels = add_label_noise(
        train.labels, label_noise, num_classes=len(rest.classes), generator=streams["label_noise"]
    )
    return Splits(train.with_labels(labels), held_out, test)


def divide(data: Data, positions: Tensor) -> tuple[Data, Data]:
    """Cut a data set in two.

    Args:
        data: the whole; not empty on either side of the cut.
        positions: [B], int64, what goes into the first part.

    Returns:
        The images at the positions, and all the others in their order.
    """
    others = torch.ones(len(data), dtype=torch.bool)
    others[positions] = False
    return data.subset(positions), data.subset(others.nonzero().flatten())


def from_arrays(arrays: Arrays) -> tuple[ImageData, ImageData]:
    """Make the two parts that a source has decoded.

    Args:
        arrays: ``classes``, and for ``train`` and ``test`` each ``_pixels`` and ``_labels``, in
            the form in which sources keep them in the cache.

    Returns:
        All images that are not for the test, and the test split.
    """
    names = tuple(arrays["classes"].tolist())
    rest, test = (
        ImageData(
            torch.from_numpy(arrays[f"{split}_pixels"]), torch.from_numpy(arrays[f"{split}_labels"]), names
        )
        for split in ("train", "test")
    )
    return rest, test


def stratified_sample(labels: Tensor, count: int, *, generator: torch.Generator | None = None) -> Tensor:
    """Choose positions so that every class keeps its share.

    Of n_c images of class c among N, the class gives n_c * count / N, rounded down; the places
    that are left go to the largest remainders, on a tie to the lower class number. Within a class
    the images are drawn without replacement, or, without a generator, taken at even distances
    along the data set, which needs no random numbers and so never changes.

    Args:
        labels: [N], int64, class numbers, at least 0.
        count: how many positions, from 0 to N.
        generator: draws within the classes and moves on; None takes even distances.

    Returns:
        [count], int64: positions in ascending order, on the CPU.

    Raises:
        ValueError: if ``labels`` is not such a tensor or ``count`` lies outside its range.

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
