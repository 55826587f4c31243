"""ImageNet as everybody keeps it: a folder for each class, in train/ and val/.

Here belongs what tells ImageNet from other class folders; how they are read is in ``folders``.
"""

from pathlib import Path
from typing import Unpack

from dotkd.data._checks import check_integer
from dotkd.data.files import check_same_classes, list_classes
from dotkd.data.folders import stream_parts
from dotkd.data.splits import SplitOptions, Splits, load_splits
from dotkd.data.stream import StreamedImages
from dotkd.errors import BadInput

_CLASSES = 1000


def load_imagenet(
    root: str | Path, *, image_size: int = 224, workers: int | None = None, **split: Unpack[SplitOptions]
) -> Splits[StreamedImages]:
    """Load ImageNet (ILSVRC 2012): 1,281,167 images to train and 50,000 to test, in 1,000 classes.

    ``root`` holds ``train/<wnid>/`` and ``val/<wnid>/``, 1,000 folders each, as the training
    pipelines of the field want it. (The archive of ``val`` has all images in one folder; the
    usual script moves each to its class.) Classes are numbered in the order of their WordNet
    numbers, which are their names. The ``val`` part is the test split, as in the literature;
    validation images come from the training images.

    The images are streamed from their files; see :class:`dotkd.data.StreamedImages`. What is not
    RGB, has another format than its name says or a note on its orientation is read as
    :func:`dotkd.data.decode.decode` says. Part of the images will do: classes must be all there.

    Args:
        root: the folder.
        image_size: height and width of the views.
        workers: how many processes decode; None for one on each CPU, at most 8.
        **split: see :class:`dotkd.data.splits.SplitOptions`.

    Returns:
        The splits; ``validation`` is None where it is 0 images.

    Raises:
        BadInput: if there are no such folders, or one is empty.
        ValueError: if another argument lies outside its range.

    Example:
        >>> load_imagenet("imagenet", validation=50_000).train  # doctest: +SKIP
        StreamedImages(1231167 images of [3, 224, 224], 1000 classes)

    References:
        O. Russakovsky et al. (2015), ImageNet Large Scale Visual Recognition Challenge,
        arXiv 1409.0575.
    """
    check_integer("image_size", image_size, low=1)
    return load_splits(lambda: _load(Path(root), image_size, workers), **split)


def _load(root: Path, size: int, workers: int | None) -> tuple[StreamedImages, StreamedImages]:
    missing = [f"{part}/" for part in ("train", "val") if not (root / part).is_dir()]
    if missing:
        lacks = f"lacks {' and '.join(missing)}" if root.is_dir() else "is no folder"
        raise BadInput(
            f"root must hold train/ and val/, each with {_CLASSES} folders, one for each class; "
            f"{root} {lacks}"
        )
    train, val = (list_classes(root, part, count=_CLASSES) for part in ("train", "val"))
    check_same_classes(root / "train", root / "val", train, val)
    return stream_parts(root, {"train": train, "test": val}, size, workers)
