"""Image files in class folders: a data set of one's own.

Here belongs the way from such folders to splits, in memory or streamed.
"""

from functools import partial
from itertools import chain
from pathlib import Path
from typing import Unpack

import numpy as np
import torch

from dotkd.data._checks import check_integer
from dotkd.data.base import DataFacts, Images
from dotkd.data.cache import Arrays, cached
from dotkd.data.files import ClassFiles, ImageFiles, check_same_classes, list_classes, some
from dotkd.data.splits import SplitOptions, Splits, from_arrays, load_splits
from dotkd.data.store import stack_parts
from dotkd.data.stream import StreamedImages
from dotkd.errors import BadInput


def load_folder(
    root: str | Path,
    *,
    image_size: int = 0,
    stream: bool = False,
    workers: int | None = None,
    **split: Unpack[SplitOptions],
) -> Splits[Images]:
    """Load images of any kind from class folders.

    ``root`` holds ``train/<class>/`` and ``test/<class>/``, or ``val/<class>/`` where there is no
    ``test/``, with files that end in png, jpg, jpeg, webp or bmp, in small or capital letters;
    other files and hidden ones are passed over. Classes are the folder names, sorted, the same in
    both parts; images follow in the order of classes and file names. Everything becomes RGB with
    eight bits a channel; see :func:`dotkd.data.decode.decode`.

    Without ``image_size`` all images must be of one size. With it, each becomes a square: its
    middle, resized as :func:`dotkd.data.views.centre_view` does. Either way they are decoded once,
    kept in a cache (see :meth:`dotkd.data.files.ImageFiles.fingerprint`), and lie in memory, with 3
    bytes a pixel. With ``stream`` they stay in their files: memory holds any number of them, and
    training may see random boxes of the whole images (:class:`dotkd.data.RandomResizedCrop`).

    Args:
        root: the folder.
        image_size: height and width to give all images; 0 leaves them as they are.
        stream: whether to decode each image when it is needed, in worker processes.
        workers: how many, with ``stream``; None for one on each CPU, at most 8.
        **split: see :class:`dotkd.data.splits.SplitOptions`.

    Returns:
        The splits, of ImageData or StreamedImages; ``validation`` is None where it is 0 images.

    Raises:
        BadInput: if a folder is missing or empty, the classes differ, or a file is no image of
            the size of the first one.
        ValueError: if another argument lies outside its range, or goes with ``stream`` only.

    Example:
        >>> load_folder("flowers", validation=500).train  # doctest: +SKIP
        ImageData(4500 images of [3, 64, 64], 17 classes)
        >>> load_folder("birds", image_size=224, stream=True).train  # doctest: +SKIP
        StreamedImages(5994 images of [3, 224, 224], 200 classes)
    """
    check_streaming(image_size, stream, workers)
    return load_splits(lambda: _load(Path(root), image_size, stream, workers), **split)


def check_streaming(image_size: int, stream: bool, workers: int | None) -> None:
    """Refuse a size, or options of streaming, that do not go together.

    Args:
        image_size: 0 or the size of the views.
        stream: whether images are streamed.
        workers: how many processes decode them, or None.

    Raises:
        ValueError: if they do not.
    """
    check_integer("image_size", image_size, low=0)
    if stream and not image_size:
        raise ValueError("image_size must be at least 1 for images that are streamed, got 0")
    if workers is not None and not stream:
        raise ValueError(f"workers must be left out where images are not streamed, got {workers}")


def folder_facts(root: str | Path, *, image_size: int = 0) -> DataFacts:
    """Look at the names in a folder and, without ``image_size``, at the first image.

    Args:
        root: as for :func:`load_folder`.
        image_size: height and width of all images, or 0.

    Returns:
        Its facts; whether all images are alike is not looked at.
    """
    parts = _find(Path(root))
    files = _files(Path(root), parts["train"])
    width, height = (image_size, image_size) if image_size else files.read(files.key(0)).size
    train, test = (sum(map(len, part.values())) for part in parts.values())
    return DataFacts(3, height, width, len(parts["train"]), train, test)


def stream_parts(
    root: Path, parts: dict[str, ClassFiles], size: int, workers: int | None
) -> tuple[StreamedImages, StreamedImages]:
    """Make the two parts of a source whose class folders are known.

    Args:
        root: the folder that the paths are below.
        parts: ``train`` and ``test``, each class -> paths.
        size: of the views.
        workers: how many processes decode.

    Returns:
        All images that are not for the test, and the test split.
    """

    def streamed(part: ClassFiles) -> StreamedImages:
        labels = torch.from_numpy(_labels(part))
        return StreamedImages(_files(root, part), labels, tuple(part), size, workers=workers)

    return streamed(parts["train"]), streamed(parts["test"])


def _load(root: Path, size: int, stream: bool, workers: int | None) -> tuple[Images, Images]:
    parts = _find(root)
    if stream:
        return stream_parts(root, parts, size, workers)
    names = (files for part in parts.values() for files in part.values())
    everything = ImageFiles(root, chain.from_iterable(names))
    key = f"folder-v1-{everything.fingerprint()}" + (f"-{size}" if size else "")
    return from_arrays(cached(key, partial(_decode, root, parts, size)))


def _find(root: Path) -> dict[str, ClassFiles]:
    other = "test" if (root / "test").is_dir() else "val"
    if not (root / "train").is_dir() or not (root / other).is_dir():
        held = some(path.name for path in root.iterdir()) if root.is_dir() else ""
        there = f"holds {held or 'nothing'}" if root.is_dir() else "is no folder"
        raise BadInput(
            f"root must hold train/ and test/ (or val/), each with one folder for each class; {root} {there}"
        )
    parts = {"train": list_classes(root, "train"), "test": list_classes(root, other)}
    check_same_classes(root / "train", root / other, *parts.values())
    return parts


def _files(root: Path, part: ClassFiles) -> ImageFiles:
    return ImageFiles(root, chain.from_iterable(part.values()))


def _labels(part: ClassFiles) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    return np.repeat(np.arange(len(part), dtype=np.int64), [len(names) for names in part.values()])


def _decode(root: Path, parts: dict[str, ClassFiles], size: int) -> Arrays:
    train, test = stack_parts(_files(root, parts["train"]), _files(root, parts["test"]), size)
    return {
        "classes": np.array(list(parts["train"])),
        "train_pixels": train,
        "train_labels": _labels(parts["train"]),
        "test_pixels": test,
        "test_labels": _labels(parts["test"]),
    }
