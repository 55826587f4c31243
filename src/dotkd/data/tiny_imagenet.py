"""Tiny-ImageNet as it is distributed.

Here belongs the way from its folder to splits: which file shows what, and the names of classes.
"""

import hashlib
from collections import Counter
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from dotkd.data.cache import Arrays, cached
from dotkd.data.folders import fingerprint, image_files, read_images
from dotkd.data.splits import Splits, check_split, from_arrays, make_splits
from dotkd.errors import BadInput

_FOLDER = "tiny-imagenet-200"
_CLASSES = 200
_SIZE = 64
_NEEDED = ("wnids.txt", "words.txt", "train", "val/images", "val/val_annotations.txt")


class _Files(NamedTuple):
    paths: list[Path]
    labels: list[int]


def load_tiny_imagenet(
    root: str | Path,
    *,
    validation: int = 0,
    label_noise: float = 0.0,
    train_images: int = 0,
    seed: int = 0,
) -> Splits:
    """Load Tiny-ImageNet: 64x64 colour images in 200 classes, 100,000 to train and 10,000 to test.

    ``root`` is the folder ``tiny-imagenet-200`` or the one above. Its ``val`` part is the test
    split, as in the literature, since the labels of its ``test`` part are not public; validation
    images come from the training images. Classes are numbered in the order of their sorted WordNet
    numbers and named by ``words.txt``. Training images follow in the order of classes and file
    names, test images in that of ``val_annotations.txt``. Grey images become RGB.

    The images are decoded once and kept in a cache, keyed by the two lists and by names, sizes and
    times of the images; see :func:`dotkd.data.folders.fingerprint`.

    Args:
        root: the folder.
        validation: how many training images to set aside for validation.
        label_noise: share of the training labels to replace by a wrong class, in [0, 1]; see
            :func:`dotkd.data.add_label_noise`.
        train_images: how many of the other images to train on; 0 for all of them.
        seed: draws validation, training images and noise; at least 0.

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
    check_split(validation=validation, label_noise=label_noise, train_images=train_images, seed=seed)
    folder = _find(Path(root))
    wnids = _wnids(folder / "wnids.txt")
    names = _names(folder / "words.txt", wnids)
    parts = {"train": _train(folder, wnids), "test": _val(folder, wnids)}
    digest = hashlib.sha256()
    for part in parts.values():
        digest.update(fingerprint(folder, part.paths).encode())
        digest.update(repr(part.labels).encode())
    digest.update(repr(names).encode())
    key = f"tiny-imagenet-v1-{digest.hexdigest()}"
    rest, test = from_arrays(cached(key, partial(_decode, parts, names)))
    return make_splits(
        rest, test, validation=validation, label_noise=label_noise, train_images=train_images, seed=seed
    )


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
    paths: list[Path] = []
    labels: list[int] = []
    for label, wnid in enumerate(wnids):
        files = image_files(folder / "train" / wnid / "images")
        paths += files
        labels += [label] * len(files)
    return _Files(paths, labels)


def _val(folder: Path, wnids: list[str]) -> _Files:
    listing, numbers = folder / "val" / "val_annotations.txt", {wnid: n for n, wnid in enumerate(wnids)}
    present = {path.name for path in image_files(folder / "val" / "images")}
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
    return _Files([folder / "val" / "images" / name for name in labels], list(labels.values()))


def _decode(parts: dict[str, _Files], names: list[str]) -> Arrays:
    arrays: Arrays = {"classes": np.array(names)}
    for split, part in parts.items():
        arrays[f"{split}_pixels"] = read_images(part.paths, size=_SIZE)
        arrays[f"{split}_labels"] = np.array(part.labels, dtype=np.int64)
    return arrays
