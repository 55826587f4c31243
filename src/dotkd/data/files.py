"""Image files by the thousand or the million: where they are, and what tells them from others.

Here belongs the way from folders to a list of files, and the list itself, kept as bytes: a million
paths as objects would be 150 MB.
"""

import hashlib
import os
from collections.abc import Iterable, Sequence
from functools import cached_property
from itertools import accumulate
from pathlib import Path

import numpy as np
from PIL import Image

from dotkd.data.decode import decode
from dotkd.errors import BadInput

ClassFiles = dict[str, list[bytes]]  # class -> paths of its images

_ENDINGS = (".bmp", ".jpeg", ".jpg", ".png", ".webp")


class ImageFiles:
    """Images that are files below one folder, in a fixed order; a :class:`dotkd.data.store.Store`.

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
