"""Tiny-ImageNet as it is distributed.

Here belongs the way from its folder to splits: which file shows what, and the names of classes.
"""

import hashlib
import os
from collections import Counter
from functools import partial
from pathlib import Path
from typing import NamedTuple, Unpack

import numpy as np

from dotkd.data.cache import Arrays, cached
from dotkd.data.files import ImageFiles, list_images
from dotkd.data.images import ImageData
from dotkd.data.splits import SplitOptions, Splits, from_arrays, load_splits
from dotkd.data.store import stack
from dotkd.errors import BadInput

_FOLDER = "tiny-imagenet-200"
_CLASSES = 200
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
    times of the images; see :meth:`dotkd.data.files.ImageFiles.fingerprint`.

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
    return load_splits(lambda: _load(_find(Path(root))), **split)


def _load(folder: Path) -> tuple[ImageData, ImageData]:
    wnids = _wnids(folder / "wnids.txt")
    names = _names(folder / "words.txt", wnids)
    parts = {"train": _train(folder, wnids), "test": _val(folder, wnids)}
    digest = hashlib.sha256()
    for part in parts.values():
        digest.update(part.images.fingerprint().encode())
        digest.update(repr(part.labels).encode())
    digest.update(repr(names).encode())
    key = f"tiny-imagenet-v1-{digest.hexdigest()}"
    return from_arrays(cached(key, partial(_decode, parts, names)))


def _find(root: Path) -> Path:
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
    if len(wnids) != _CLASSES:
        raise BadInput(f"{path} must name {_CLASSES} different classes, one a line, got {len(wnids)}")
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


def _decode(parts: dict[str, _Files], names: list[str]) -> Arrays:
    arrays: Arrays = {"classes": np.array(names)}
    for split, part in parts.items():
        arrays[f"{split}_pixels"] = stack(part.images, (_SIZE, _SIZE))
        arrays[f"{split}_labels"] = np.array(part.labels, dtype=np.int64)
    return arrays
