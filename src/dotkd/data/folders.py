"""Image files in class folders: a data set of one's own.

Here belongs the way from such folders to splits, and what any source of many small image files
needs: decoding to RGB of one size, and the key under which the result is kept.
"""

import hashlib
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from dotkd.data.cache import Arrays, cached
from dotkd.data.splits import Splits, check_split, from_arrays, make_splits
from dotkd.errors import BadInput

_FORMATS = ("PNG", "JPEG", "WEBP", "BMP")
_ENDINGS = (".bmp", ".jpeg", ".jpg", ".png", ".webp")
# What Pillow turns into eight bits a channel without clipping.
_MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr")

_Parts = dict[str, dict[str, list[Path]]]


class FolderShape(NamedTuple):
    """What is seen of a folder without decoding it.

    Args:
        height: of the first image.
        width: of the first image.
        classes: how many class folders there are.
        train_images: how many image files there are in ``train/``.
        test_images: how many there are in ``test/`` or ``val/``.
    """

    height: int
    width: int
    classes: int
    train_images: int
    test_images: int


def load_folder(
    root: str | Path,
    *,
    validation: int = 0,
    label_noise: float = 0.0,
    train_images: int = 0,
    seed: int = 0,
) -> Splits:
    """Load images of any kind from class folders, all of one size.

    ``root`` holds ``train/<class>/`` and ``test/<class>/``, or ``val/<class>/`` where there is no
    ``test/``, with files that end in png, jpg, jpeg, webp or bmp, in small or capital letters;
    other files and hidden ones are passed over. Classes are the folder names, sorted, the same in
    both parts; images follow in the order of classes and file names. Everything becomes RGB with
    eight bits a channel; transparency is dropped. Nothing is resized. All images lie in memory.

    The images are decoded once and kept in a cache; see :func:`fingerprint`.

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
        BadInput: if a folder is missing or empty, the classes differ, or a file is no image of
            the size of the first one.

    Example:
        >>> load_folder("flowers", validation=500).train  # doctest: +SKIP
        ImageData(4500 images of [3, 64, 64], 17 classes)
    """
    check_split(validation=validation, label_noise=label_noise, train_images=train_images, seed=seed)
    parts = _find(Path(root))
    key = fingerprint(
        Path(root), (path for part in parts.values() for files in part.values() for path in files)
    )
    rest, test = from_arrays(cached(f"folder-v1-{key}", partial(_decode, parts)))
    return make_splits(
        rest, test, validation=validation, label_noise=label_noise, train_images=train_images, seed=seed
    )


def folder_shape(root: str | Path) -> FolderShape:
    """Look at the names in a folder and at the head of the first image.

    Args:
        root: as for :func:`load_folder`.

    Returns:
        What is known then; whether the other images are alike is not looked at.
    """
    parts = _find(Path(root))
    first = next(iter(parts["train"].values()))[0]
    height, width = _read_image(first).shape[:2]
    train, test = (sum(map(len, part.values())) for part in parts.values())
    return FolderShape(height, width, len(parts["train"]), train, test)


def _find(root: Path) -> _Parts:
    other = "test" if (root / "test").is_dir() else "val"
    if not (root / "train").is_dir() or not (root / other).is_dir():
        there = "is no folder" if not root.is_dir() else f"holds {_listing(root)}"
        raise BadInput(
            f"root must hold train/ and test/ (or val/), each with one folder for each class; {root} {there}"
        )
    parts = {"train": _classes(root / "train"), "test": _classes(root / other)}
    missing, besides = parts["train"].keys() - parts["test"], parts["test"].keys() - parts["train"]
    if missing or besides:
        lacks = f" lacks {_some(missing)}" if missing else ""
        has = f" has also {_some(besides)}" if besides else ""
        raise BadInput(
            f"{root / other} must have the same class folders as {root / 'train'}; it"
            f"{lacks}{' and' if lacks and has else ''}{has}"
        )
    return parts


def _classes(folder: Path) -> dict[str, list[Path]]:
    names = sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    if len(names) < 2:
        raise BadInput(
            f"{folder} must hold at least two folders, one for each class; it has {_some(names) or 'none'}"
        )
    return {name: image_files(folder / name) for name in names}


def _listing(folder: Path) -> str:
    return _some(path.name for path in folder.iterdir()) or "nothing"


def _some(names: Iterable[str]) -> str:
    ordered = sorted(names)
    return ", ".join(ordered[:5]) + (", ..." if len(ordered) > 5 else "")


def _decode(parts: _Parts) -> Arrays:
    arrays: Arrays = {"classes": np.array(list(parts["train"]))}
    first = next(iter(parts["train"].values()))[0]
    for split, part in parts.items():
        arrays[f"{split}_pixels"] = read_images([path for files in part.values() for path in files], first)
        arrays[f"{split}_labels"] = np.repeat(np.arange(len(part)), [len(files) for files in part.values()])
    return arrays


# ---------------------------------------------------------------- for any source of image files


def image_files(folder: Path) -> list[Path]:
    """List the images of a folder.

    Args:
        folder: where they lie, not in folders below.

    Returns:
        The files in the order of their names, at least one.

    Raises:
        BadInput: if there is none, or the folder cannot be read.
    """
    try:
        names = sorted(path.name for path in folder.iterdir())
    except OSError as error:
        raise BadInput(f"{folder} cannot be read: {error.strerror}") from error
    files = [folder / name for name in names if name.lower().endswith(_ENDINGS) and not name.startswith(".")]
    if not files:
        raise BadInput(
            f"{folder} must hold at least one image ({', '.join(_ENDINGS)}), "
            f"holds {_some(names) or 'nothing'}"
        )
    return files


def fingerprint(root: Path, files: Iterable[Path]) -> str:
    """Make the key under which the decoded images are kept.

    It is a checksum over name, size and time of change of each file, in the order given. Their
    bytes are not read: that is most of the time that the cache is there to save, and minutes for
    100,000 small files on a network disk. A file that is written anew has another time; only one
    of the same size whose time was set back by hand passes unseen. Unpacking an archive keeps the
    times, so a fresh copy of a data set finds what an older one has left.

    Args:
        root: the folder that the names are relative to.
        files: all files that count.

    Returns:
        64 hexadecimal digits.

    Raises:
        BadInput: if a file cannot be read.
    """
    digest = hashlib.sha256()
    for path in files:
        try:
            facts = path.stat()
        except OSError as error:
            raise BadInput(f"{path} cannot be read: {error.strerror}") from error
        name = path.relative_to(root).as_posix()
        digest.update(f"{name}\0{facts.st_size}\0{facts.st_mtime_ns}\n".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def read_images(paths: Sequence[Path], first: Path | None = None, size: int = 0) -> NDArray[np.uint8]:
    """Decode images of one size.

    Args:
        paths: the files, at least one.
        first: the image whose size is right; None where ``size`` says it.
        size: height and width.

    Returns:
        [N, 3, H, W], uint8.

    Raises:
        BadInput: if a file is no such image.
    """
    height, width = (size, size) if first is None else _read_image(first).shape[:2]
    why = "" if first is None else f", the size of {first}"
    pixels = np.empty((len(paths), 3, height, width), dtype=np.uint8)
    for row, path in enumerate(paths):
        image = _read_image(path)
        if image.shape[:2] != (height, width):
            raise BadInput(
                f"{path} must be {width}x{height}{why}, got {image.shape[1]}x{image.shape[0]}: "
                "resize all images to one size beforehand"
            )
        pixels[row] = image.transpose(2, 0, 1)
    return pixels


def _read_image(path: Path) -> NDArray[np.uint8]:
    from PIL import Image

    try:
        with Image.open(path, formats=_FORMATS) as file:
            mode = file.mode
            # Pillow warns of transparency that a palette loses on the direct way.
            clear = file.convert("RGBA") if mode == "P" and "transparency" in file.info else file
            pixels = np.asarray(clear.convert("RGB")) if mode in _MODES else None
    except Exception as error:  # Pillow raises many types on broken bytes
        raise BadInput(f"{path} is no image that can be decoded (PNG, JPEG, WebP or BMP)") from error
    if pixels is None:
        raise BadInput(f"{path} must have 8 bits a channel, has the mode {mode}")
    return pixels
