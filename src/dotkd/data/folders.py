"""Data sets of image files: class folders, ImageNet, Tiny-ImageNet."""

import hashlib
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import cached_property, partial
from itertools import accumulate, chain
from pathlib import Path
from typing import NamedTuple, Unpack

import numpy as np
import torch
from PIL import Image

from dotkd._validate import check_integer
from dotkd.data.decode import Arrays, cached, decode, stack, stack_parts
from dotkd.data.images import DataFacts, ImageData, Images
from dotkd.data.splits import SplitOptions, Splits, from_arrays, load_splits
from dotkd.data.streamed import StreamedImages
from dotkd.errors import BadInput

ClassFiles = dict[str, list[bytes]]  # class -> paths of its images

_ENDINGS = (".bmp", ".jpeg", ".jpg", ".png", ".webp")


class ImageFiles:
    """Images that are files below one folder, in a fixed order; a :class:`dotkd.data.decode.Store`.

    Args:
        root: the folder.
        names: paths below it, with ``/``, as the file system has them.

    Example:
        >>> files = ImageFiles(Path("photos"), [b"ant/1.png", b"bee/1.png"])
        >>> len(files), files.key(1).endswith("photos/bee/1.png")
        (2, True)
    """

    def __init__(self, root: Path, names: Iterable[bytes]) -> None:
        # Another process may have another working folder.
        self._root = os.fsencode(root.absolute().as_posix())
        names = list(names)
        self._names = b"".join(names)
        self._ends = np.fromiter(accumulate(map(len, names)), dtype=np.int64, count=len(names))

    def __len__(self) -> int:
        return len(self._ends)

    def _name(self, number: int) -> bytes:
        return self._names[self._ends[number - 1] if number else 0 : self._ends[number]]

    def key(self, number: int) -> str:
        """Say where an image is.

        Args:
            number: from 0 to ``len(self) - 1``.

        Returns:
            The path of the file.
        """
        return os.fsdecode(self._root + b"/" + self._name(number))

    def title(self, number: int) -> str:
        """Say what messages call an image: its path."""
        return self.key(number)

    @staticmethod
    def read(key: str) -> Image.Image:
        """Decode an image to RGB.

        Args:
            key: its path.

        Returns:
            The image.

        Raises:
            BadInput: if it cannot be decoded; see :func:`dotkd.data.decode.decode`.
        """
        return decode(key, key).image

    def fingerprint(self) -> str:
        """Make a checksum over name, size and time of change of each file, in their order.

        Their bytes are not read: that would take minutes, and is most of the time that a cache of
        decoded images is there to save. A file that is written anew has another time; only one of
        the same size whose time was set back by hand passes unseen. Unpacking an archive keeps the
        times, so a fresh copy of a data set finds what an older one has left.

        It is made once: the files are taken to stay as they are while the list is in use.

        Returns:
            64 hexadecimal digits.

        Raises:
            BadInput: if a file cannot be read.
        """
        return self._fingerprint

    @cached_property
    def _fingerprint(self) -> str:
        digest = hashlib.sha256()
        for number in range(len(self)):
            path = self.key(number)
            try:
                facts = os.stat(path)  # noqa: PTH116 (a Path takes four times as long, of a million files)
            except OSError as error:
                raise BadInput(f"{path} cannot be read: {error.strerror}") from error
            digest.update(b"%b\0%d\0%d\n" % (self._name(number), facts.st_size, facts.st_mtime_ns))
        return digest.hexdigest()


def list_images(folder: Path) -> list[bytes]:
    """List the images of a folder.

    Args:
        folder: where they lie, not in folders below.

    Returns:
        The names of files that end in bmp, jpeg, jpg, png or webp and are not hidden, sorted, at
        least one.

    Raises:
        BadInput: if there is none, or the folder cannot be read.
    """
    try:
        with os.scandir(os.fsencode(folder)) as entries:
            names = sorted(entry.name for entry in entries)
    except OSError as error:
        raise BadInput(f"{folder} cannot be read: {error.strerror}") from error
    endings = tuple(map(os.fsencode, _ENDINGS))
    images = [name for name in names if name.lower().endswith(endings) and not name.startswith(b".")]
    if not images:
        raise BadInput(
            f"{folder} must hold at least one image ({', '.join(_ENDINGS)}), "
            f"holds {some(map(os.fsdecode, names)) or 'nothing'}"
        )
    return images


def list_classes(root: Path, part: str, *, count: int | None = None) -> ClassFiles:
    """List the images of class folders.

    Args:
        root: the folder above.
        part: the folder in it that holds one folder for each class.
        count: how many classes there must be; None for two or more.

    Returns:
        Class -> paths below ``root``; classes and paths sorted, hidden folders passed over.

    Raises:
        BadInput: if there are other folders, or a class has no image.
    """
    folder = root / part
    with os.scandir(folder) as entries:
        names = sorted(entry.name for entry in entries if entry.is_dir() and not entry.name.startswith("."))
    if len(names) != count if count else len(names) < 2:
        wanted = f"{count} folders" if count else "at least two folders"
        have = f"has {len(names)}" if count else f"has {some(names) or 'none'}"
        raise BadInput(f"{folder} must hold {wanted}, one for each class; it {have}")
    found: ClassFiles = {}
    for name in names:
        above = os.fsencode(f"{part}/{name}/")
        found[name] = [above + file for file in list_images(folder / name)]
    return found


def check_same_classes(one: Path, other: Path, classes: Iterable[str], others: Iterable[str]) -> None:
    """Refuse two parts with different classes.

    Args:
        one: the folder that is right.
        other: the folder to compare with it.
        classes: of ``one``.
        others: of ``other``.

    Raises:
        BadInput: if they are not the same.
    """
    missing, besides = set(classes) - set(others), set(others) - set(classes)
    if missing or besides:
        lacks = f" lacks {some(missing)}" if missing else ""
        has = f" has also {some(besides)}" if besides else ""
        raise BadInput(
            f"{other} must have the same class folders as {one}; it"
            f"{lacks}{' and' if lacks and has else ''}{has}"
        )


def some(names: Iterable[str]) -> str:
    """Write the first five of some names in one line."""
    ordered: Sequence[str] = sorted(names)
    return ", ".join(ordered[:5]) + (", ..." if len(ordered) > 5 else "")


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
    middle, resized as :func:`dotkd.data.decode.centre_view` does. Either way they are decoded once,
    kept in a cache (see :meth:`dotkd.data.folders.ImageFiles.fingerprint`), and lie in memory, with 3
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
    return load_splits(lambda: _load_imagenet(Path(root), image_size, workers), **split)


def _load_imagenet(root: Path, size: int, workers: int | None) -> tuple[StreamedImages, StreamedImages]:
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


_FOLDER = "tiny-imagenet-200"
_CLASSES_tiny_imagenet = 200
_SIZE = 64
_NEEDED = ("wnids.txt", "words.txt", "train", "val/images", "val/val_annotations.txt")


class _Files(NamedTuple):
    images: ImageFiles
    labels: list[int]


def load_tiny_imagenet(root: str | Path, **split: Unpack[SplitOptions]) -> Splits[ImageData]:
    """Load Tiny-ImageNet: 64x64 colour images in 200 classes, 100,000 to train and 10,000 to test.

    ``root`` is the folder ``tiny-imagenet-200`` or the one above. Its ``val`` part is the test
    split, as in the literature, since the labels of its ``test`` part are not public; validation
    images come from the training images. Classes are numbered in the order of their sorted WordNet
    numbers and named by ``words.txt``. Training images follow in the order of classes and file
    names, test images in that of ``val_annotations.txt``. Grey images become RGB.

    The images are decoded once and kept in a cache, keyed by the two lists and by names, sizes and
    times of the images; see :meth:`dotkd.data.folders.ImageFiles.fingerprint`.

    Args:
        root: the folder.
        **split: see :class:`dotkd.data.splits.SplitOptions`.

    Returns:
        The splits; ``validation`` is None where it is 0 images.

    Raises:
        BadInput: if a file is missing or holds something else.

    Example:
        >>> load_tiny_imagenet("tiny-imagenet-200").test  # doctest: +SKIP
        ImageData(10000 images of [3, 64, 64], 200 classes)

    References:
        Y. Le and X. Yang (2015), Tiny ImageNet Visual Recognition Challenge, report of the course
        CS 231N, Stanford University.
    """
    return load_splits(lambda: _load_tiny_imagenet(_find_tiny_imagenet(Path(root))), **split)


def _load_tiny_imagenet(folder: Path) -> tuple[ImageData, ImageData]:
    wnids = _wnids(folder / "wnids.txt")
    names = _names(folder / "words.txt", wnids)
    parts = {"train": _train(folder, wnids), "test": _val(folder, wnids)}
    digest = hashlib.sha256()
    for part in parts.values():
        digest.update(part.images.fingerprint().encode())
        digest.update(repr(part.labels).encode())
    digest.update(repr(names).encode())
    key = f"tiny-imagenet-v1-{digest.hexdigest()}"
    return from_arrays(cached(key, partial(_decode_tiny_imagenet, parts, names)))


def _find_tiny_imagenet(root: Path) -> Path:
    folder = root / _FOLDER if (root / _FOLDER).is_dir() else root
    missing = [name for name in _NEEDED if not (folder / name).exists()]
    if missing:
        raise BadInput(
            f"root must be {_FOLDER} as it is distributed, or the folder above, with {', '.join(_NEEDED)}; "
            f"{folder} {'lacks ' + ', '.join(missing) if folder.is_dir() else 'is no folder'}"
        )
    return folder


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"{path} cannot be read as text: {error}") from error


def _wnids(path: Path) -> list[str]:
    wnids = sorted({line.strip() for line in _lines(path)} - {""})
    if len(wnids) != _CLASSES_tiny_imagenet:
        raise BadInput(
            f"{path} must name {_CLASSES_tiny_imagenet} different classes, one a line, got {len(wnids)}"
        )
    return wnids


def _names(path: Path, wnids: list[str]) -> list[str]:
    words = dict(line.split("\t", 1) for line in _lines(path) if "\t" in line)
    names = [words.get(wnid, wnid).strip() or wnid for wnid in wnids]
    uses = Counter(names)
    return [name if uses[name] == 1 else f"{name} ({wnid})" for name, wnid in zip(names, wnids, strict=True)]


def _train(folder: Path, wnids: list[str]) -> _Files:
    names: list[bytes] = []
    labels: list[int] = []
    for label, wnid in enumerate(wnids):
        files = list_images(folder / "train" / wnid / "images")
        names += [os.fsencode(f"train/{wnid}/images/") + file for file in files]
        labels += [label] * len(files)
    return _Files(ImageFiles(folder, names), labels)


def _val(folder: Path, wnids: list[str]) -> _Files:
    listing, numbers = folder / "val" / "val_annotations.txt", {wnid: n for n, wnid in enumerate(wnids)}
    present = set(map(os.fsdecode, list_images(folder / "val" / "images")))
    labels: dict[str, int] = {}
    for row, line in enumerate(_lines(listing), start=1):
        if not line.strip():
            continue
        name, _, rest = line.partition("\t")
        wnid = rest.partition("\t")[0].strip()
        if wnid not in numbers:
            raise BadInput(f"{listing}, line {row}: must name a file and a class of wnids.txt, got {line!r}")
        if name not in present or name in labels:
            found = "is there twice" if name in labels else f"is no file in {folder / 'val' / 'images'}"
            raise BadInput(f"{listing}, line {row}: {name} {found}")
        labels[name] = numbers[wnid]
    unknown = sorted(present - labels.keys())
    if unknown:
        raise BadInput(f"{folder / 'val' / 'images' / unknown[0]} must have a line in {listing}, has none")
    names = [os.fsencode(f"val/images/{name}") for name in labels]
    return _Files(ImageFiles(folder, names), list(labels.values()))


def _decode_tiny_imagenet(parts: dict[str, _Files], names: list[str]) -> Arrays:
    arrays: Arrays = {"classes": np.array(names)}
    for split, part in parts.items():
        arrays[f"{split}_pixels"] = stack(part.images, (_SIZE, _SIZE))
        arrays[f"{split}_labels"] = np.array(part.labels, dtype=np.int64)
    return arrays
