"""Data sets of image files: class folders, ImageNet and Tiny-ImageNet."""

import hashlib
import os
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import accumulate
from pathlib import Path
from typing import Unpack

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dotkd._validate import UNLABELLED, check_integer
from dotkd.data.decode import ANY_IMAGE, MAX_PIXELS, Accepted, Encoded, Part, decode
from dotkd.data.images import DataFacts, ImageData, Images, Splits, cached_images
from dotkd.data.sources import SplitOptions, check_streaming, check_test_share, draw_test, load_splits, source
from dotkd.data.streamed import StreamedImages, stream_parts
from dotkd.errors import BadInput

# ---------------------------------------------------------------- files and folders

ClassFiles = dict[str, list[bytes]]  # class -> paths of its images below the root

_ENDINGS = (".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
_VALIDATION = ("val", "valid", "validation")  # usual names of its folder


class ImageFiles:
    """Image files below one folder, in a fixed order; the store of :class:`dotkd.data.StreamedImages`.

    A million paths take some 50 MB: they are kept as one string of bytes.

    Args:
        root: the folder.
        names: paths below it, with ``/``, encoded as the file system has them.
        accepted: what to accept.

    Example:
        >>> from pathlib import Path
        >>> files = ImageFiles(Path("photos"), [b"ant/1.png", b"bee/1.png"])
        >>> len(files), files.key(1).endswith("photos/bee/1.png")
        (2, True)
    """

    def __init__(self, root: Path, names: Iterable[bytes], accepted: Accepted = ANY_IMAGE) -> None:
        # Absolute, since another process may have another working folder.
        self._folder, self._accepted = root.absolute(), accepted
        self._root = os.fsencode(self._folder.as_posix())
        # No method, for a worker gets it with all that it is bound to.
        self.read = partial(_read, accepted=accepted)
        names = list(names)
        self._names = b"".join(names)
        self._ends = np.fromiter(accumulate(map(len, names)), dtype=np.int64, count=len(names))

    def __len__(self) -> int:
        return len(self._ends)

    def _name(self, number: int) -> bytes:
        return self._names[self._ends[number - 1] if number else 0 : self._ends[number]]

    def key(self, number: int) -> str:
        """Return the path of an image, from 0 to ``len(self) - 1``."""
        return os.fsdecode(self._root + b"/" + self._name(number))

    def title(self, number: int) -> str:
        """Return the path of an image, its name in messages."""
        return self.key(number)

    def pick(self, numbers: NDArray[np.int64]) -> "ImageFiles":
        """Return the files of some numbers."""
        return ImageFiles(self._folder, map(self._name, numbers.tolist()), self._accepted)

    def contents(self) -> Iterator[list[str]]:
        """Return all paths, a thousand at a time."""
        for start in range(0, len(self), 1000):
            yield [self.key(number) for number in range(start, min(start + 1000, len(self)))]

    def fingerprint(self) -> str:
        """Identify the files by name, size and time of change, in their order.

        Their bytes are not read: that would take minutes, most of the time that the cache of decoded
        images saves. Only a change that keeps the size and sets back the time goes unnoticed.
        Unpacking an archive keeps the times, so a fresh copy of a data set finds the cache of an older
        one. Computed once: the files must not change while the list is in use.

        Returns:
            64 hexadecimal digits.

        Raises:
            BadInput: if a file is missing.
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


def _read(path: str, accepted: Accepted) -> Image.Image:
    """Decode the image of a path to RGB, or raise BadInput."""
    return decode(path, path, accepted)


def _list_images(folder: Path, passed: list[Path]) -> list[bytes]:
    """List the image files of a folder, sorted; at least one. What else is not hidden is ``passed``."""
    try:
        with os.scandir(os.fsencode(folder)) as entries:
            names = sorted(entry.name for entry in entries)
    except OSError as error:
        raise BadInput(f"{folder} cannot be read: {error.strerror}") from error
    endings = tuple(map(os.fsencode, _ENDINGS))
    shown = [name for name in names if not name.startswith(b".")]
    images = [name for name in shown if name.lower().endswith(endings)]
    passed += [folder / os.fsdecode(name) for name in shown if not name.lower().endswith(endings)]
    if not images:
        raise BadInput(
            f"{folder} must hold at least one image ({', '.join(_ENDINGS)}), "
            f"holds {_some(map(os.fsdecode, names)) or 'nothing'}"
        )
    return images


def _list_classes(folder: Path, passed: list[Path], *, count: int | None, besides: str) -> ClassFiles:
    """List the class folders of a folder, hidden ones left out: ``count`` of them, or at least two."""
    with os.scandir(folder) as entries:
        shown = {entry.name: entry.is_dir() for entry in entries if not entry.name.startswith(".")}
    names = sorted(name for name, is_folder in shown.items() if is_folder and name != besides)
    passed += sorted(folder / name for name, is_folder in shown.items() if not is_folder)
    for name in names:
        if os.fsencode(name) != name.encode(errors="replace"):
            raise BadInput(f"{folder}: the name of the folder {name!r} is no UTF-8: rename it")
    if len(names) != count if count else len(names) < 2:
        wanted = f"{count} folders" if count else "at least two folders"
        have = f"has {len(names)}" if count else f"has {_some(names) or 'none'}"
        raise BadInput(f"{folder} must hold {wanted}, one for each class; it {have}")
    return {name: _list_images(folder / name, passed) for name in names}


def _encoded(
    root: Path,
    train: str,
    others: Mapping[str, str],
    accepted: Accepted = ANY_IMAGE,
    *,
    count: int | None = None,
    unlabelled: str = "",
) -> tuple[Sequence[str], dict[str, Part]]:
    """List the class folders of all parts, ``others`` by the name of their split."""
    passed: list[Path] = []
    found = {
        name: _list_classes(root / folder, passed, count=count, besides=unlabelled)
        for name, folder in {"train": train, **others}.items()
    }
    classes = found["train"].keys()
    for name, folder in others.items():
        missing, besides = classes - found[name].keys(), found[name].keys() - classes
        if missing or besides:
            lacks = f" lacks {_some(missing)}" if missing else ""
            has = f" has also {_some(besides)}" if besides else ""
            raise BadInput(
                f"{root / folder} must have the same class folders as {root / train}; it"
                f"{lacks}{' and' if lacks and has else ''}{has}"
            )
    parts = {}
    for name, folder in {"train": train, **others}.items():
        names = [
            os.fsencode(Path(folder, kind).as_posix()) + b"/" + file
            for kind, files in found[name].items()
            for file in files
        ]
        labels = np.repeat(np.arange(len(classes), dtype=np.int64), list(map(len, found[name].values())))
        if unlabelled and name == "train":
            files = _list_images(root / unlabelled, passed)
            names += [os.fsencode(f"{unlabelled}/") + file for file in files]
            labels = np.append(labels, np.full(len(files), UNLABELLED, dtype=np.int64))
        parts[name] = Part(ImageFiles(root, names, accepted), labels)
    if passed:
        entries = "1 entry is" if len(passed) == 1 else f"{len(passed)} entries are"
        warnings.warn(
            f"{root}: {entries} passed over, such as {passed[0].relative_to(root)}: files of a class folder "
            f"are read if their names end in {', '.join(_ENDINGS)}",
            stacklevel=2,
        )
    return tuple(classes), parts


def _some(names: Iterable[str]) -> str:
    """List the first five names in one line."""
    ordered: Sequence[str] = sorted(names)
    return ", ".join(ordered[:5]) + (", ..." if len(ordered) > 5 else "")


# ---------------------------------------------------------------- class folders


@dataclass(frozen=True)
class _ClassFolders:
    """See :func:`load_folder` for the options."""

    root: str | Path
    image_size: int
    test_share: float
    unlabelled: str
    stream: bool
    workers: int | None
    max_image_pixels: int

    def __post_init__(self) -> None:
        check_streaming(self.image_size, self.stream, self.workers)
        check_test_share(self.test_share)
        check_integer("max_image_pixels", self.max_image_pixels, low=1)

    def facts(self) -> DataFacts:
        return self._open().facts(self.image_size)

    def read(self) -> Splits[Images]:
        encoded, size = self._open(), self.image_size
        if self.stream:
            return stream_parts(encoded, size, self.workers)
        digest = hashlib.sha256(repr(encoded.classes).encode())
        for part in encoded.parts().values():
            digest.update(part.images.fingerprint().encode())
        # The number goes up whenever the cached arrays change their form.
        key = f"folder-v2-{digest.hexdigest()}" + (f"-{size}" if size else "")
        return cached_images(key, lambda: encoded.decode(size))

    def _open(self) -> Encoded:
        root = Path(self.root)
        train, others = self._layout(root)
        accepted = ANY_IMAGE._replace(upright=True, max_pixels=self.max_image_pixels)
        classes, parts = _encoded(root, train, others, accepted, unlabelled=self.unlabelled)
        if self.test_share:
            parts["train"], parts["test"] = draw_test(parts["train"], self.test_share)
        return Encoded(classes, parts["train"], parts["test"], accepted, parts.get("validation"))

    def _layout(self, root: Path) -> tuple[str, dict[str, str]]:
        """Return the folder of the training images, and those of the other splits."""
        there = [name for name in ("train", "test", *_VALIDATION) if (root / name).is_dir()]
        own = [name for name in there if name in _VALIDATION]
        if len(own) > 1:
            raise BadInput(f"root must hold one folder of validation images; {root} holds {', '.join(own)}")
        if self.test_share:
            if "test" in there:
                raise BadInput(f"test_share must be left out for a root with test/, which {root} has")
            if "train" in there or (root.is_dir() and not there):
                # Without a train/ the classes lie in the root itself.
                return "train" if there else "", dict(zip(("validation",), own, strict=False))
        elif "train" in there and len(there) > 1:
            others = ["test", *own] if "test" in there else own
            return "train", dict(zip(("test", "validation"), others, strict=False))
        held = _some(path.name for path in root.iterdir()) if root.is_dir() else ""
        raise BadInput(
            "root must hold train/ and test/ (or val/), each with one folder for each class, or with "
            "test_share, such as 0.2, either train/ or the class folders themselves; "
            f"{root} {'holds ' + (held or 'nothing') if root.is_dir() else 'is no folder'}"
        )


@source(
    "folder",
    root="a folder with train/ and test/ (or val/), each with one folder for each class",
    facts=DataFacts(3, 0, 0, 0, 0, 0),
    opens=_ClassFolders,
)
def load_folder(
    root: str | Path,
    *,
    image_size: int = 0,
    test_share: float = 0.0,
    unlabelled: str = "",
    stream: bool = False,
    workers: int | None = None,
    max_image_pixels: int = MAX_PIXELS,
    **split: Unpack[SplitOptions],
) -> Splits[Images]:
    """Load images from class folders.

    ``root`` holds ``train/<class>/`` and ``test/<class>/``; ``val/<class>/`` (or ``valid/``,
    ``validation/``) beside them is the validation split, and without a ``test/`` the test split. With
    ``test_share``, ``root`` holds ``train/<class>/`` or ``<class>/`` alone, and the test split is drawn.

    Files end in png, jpg, jpeg, webp, bmp, tif, tiff, ppm or pgm, in small or capital letters. Others are
    passed over, with a warning that counts them; hidden ones are ignored. Classes are the folder names,
    sorted, the same in all parts; images follow in the order of classes and file names. Every image
    becomes RGB with eight bits a channel: grey, palette and CMYK images are converted, transparency is
    dropped, and the EXIF orientation is applied.

    Without ``image_size`` all images must have one size. With it, each becomes a square: the shorter
    side is resized to ``image_size * 256 / 224`` and the middle is cut out. Images are decoded once,
    cached by the names, sizes and times of the files, and kept in memory, with 3 bytes a pixel. With
    ``stream`` they stay in their files, in any number, and training may see random boxes of the whole
    images (:class:`dotkd.data.RandomResizedCrop`).

    Args:
        root: the folder.
        image_size: height and width to resize all images to; 0 keeps their size.
        test_share: share of each class to set aside as the test split, in (0, 1), the same images
            whatever the seed; 0 for data with a test split of their own.
        unlabelled: name of a folder in ``root`` with images to train on that have no class; empty for
            none.
        stream: whether to decode each image when it is needed, in worker processes.
        workers: number of worker processes with ``stream``; None for one per CPU, at most 8.
        max_image_pixels: limit on width times height of an image file; by default Pillow's.
        **split: see :class:`dotkd.data.sources.SplitOptions`.

    Returns:
        The splits, of ImageData or StreamedImages; ``validation`` is None where it is 0 images.

    Raises:
        BadInput: if a folder is missing or empty, the classes differ, or a file is no image of
            the size of the first one.
        ValueError: if another argument lies outside its range, or needs ``stream``.

    Example:
        >>> load_folder("flowers", validation=500).train  # doctest: +SKIP
        ImageData(4500 images of [3, 64, 64], 17 classes)
        >>> load_folder("birds", image_size=224, stream=True).train  # doctest: +SKIP
        StreamedImages(5994 images of [3, 224, 224], 200 classes)
    """
    folders = _ClassFolders(root, image_size, test_share, unlabelled, stream, workers, max_image_pixels)
    return load_splits(folders.read, **split)


# ---------------------------------------------------------------- ImageNet

_IMAGENET_CLASSES = 1000


@source(
    "imagenet",
    root="the folder that holds train/ and val/ of ImageNet",
    facts=DataFacts(3, 224, 224, _IMAGENET_CLASSES, 1_281_167, 50_000),
)
def load_imagenet(
    root: str | Path,
    *,
    image_size: int = 224,
    workers: int | None = None,
    max_image_pixels: int = MAX_PIXELS,
    **split: Unpack[SplitOptions],
) -> Splits[StreamedImages]:
    """Load ImageNet (ILSVRC 2012): 1,281,167 images to train and 50,000 to test, in 1,000 classes.

    ``root`` holds ``train/<wnid>/`` and ``val/<wnid>/``, 1,000 folders each, the layout of the
    field's training pipelines. (The archive of ``val`` has all images in one folder; the usual script
    moves each to its class.) Classes are named by their WordNet numbers and numbered in that order.
    ``val`` is the test split, as in the literature; validation images come from the training images.

    Images are streamed from their files; see :class:`dotkd.data.StreamedImages`. They are converted as
    by :func:`load_folder`, whatever format their names say, but the EXIF orientation is not applied, as
    in the published pipelines. A part of the images is enough, if no class is empty.

    Args:
        root: the folder.
        image_size: height and width of the views.
        workers: number of worker processes; None for one per CPU, at most 8.
        max_image_pixels: limit on width times height of an image file; by default Pillow's.
        **split: see :class:`dotkd.data.sources.SplitOptions`.

    Returns:
        The splits; ``validation`` is None where it is 0 images.

    Raises:
        BadInput: if a folder is missing or empty.
        ValueError: if another argument lies outside its range.

    Example:
        >>> load_imagenet("imagenet", validation=50_000).train  # doctest: +SKIP
        StreamedImages(1231167 images of [3, 224, 224], 1000 classes)

    References:
        O. Russakovsky et al. (2015), ImageNet Large Scale Visual Recognition Challenge,
        arXiv 1409.0575.
    """
    check_integer("image_size", image_size, low=1)
    accepted = ANY_IMAGE._replace(max_pixels=check_integer("max_image_pixels", max_image_pixels, low=1))
    return load_splits(lambda: _read_imagenet(Path(root), image_size, workers, accepted), **split)


def _read_imagenet(root: Path, size: int, workers: int | None, accepted: Accepted) -> Splits[StreamedImages]:
    missing = [f"{part}/" for part in ("train", "val") if not (root / part).is_dir()]
    if missing:
        lacks = f"lacks {' and '.join(missing)}" if root.is_dir() else "is no folder"
        raise BadInput(
            f"root must hold train/ and val/, each with {_IMAGENET_CLASSES} folders, one for each class; "
            f"{root} {lacks}"
        )
    classes, parts = _encoded(root, "train", {"test": "val"}, accepted, count=_IMAGENET_CLASSES)
    return stream_parts(Encoded(classes, parts["train"], parts["test"], accepted), size, workers)


# ---------------------------------------------------------------- Tiny-ImageNet

_TINY_FOLDER = "tiny-imagenet-200"
_TINY_CLASSES = 200
_TINY_IMAGES = ANY_IMAGE._replace(size=(64, 64))
_TINY_FILES = ("wnids.txt", "words.txt", "train", "val/images", "val/val_annotations.txt")


@source(
    "tiny_imagenet",
    root="the folder tiny-imagenet-200 or the one above",
    facts=DataFacts(3, 64, 64, _TINY_CLASSES, 100_000, 10_000),
)
def load_tiny_imagenet(root: str | Path, **split: Unpack[SplitOptions]) -> Splits[ImageData]:
    """Load Tiny-ImageNet: 64x64 colour images in 200 classes, 100,000 to train and 10,000 to test.

    ``root`` is the folder ``tiny-imagenet-200`` or the one above. Its ``val`` part is the test
    split, as in the literature, since the labels of its ``test`` part are not public; validation
    images come from the training images. Classes are numbered in the order of their sorted WordNet
    numbers and named by ``words.txt``. Training images follow in the order of classes and file
    names, test images in that of ``val_annotations.txt``. Grey images become RGB.

    Images are decoded once and cached by the two lists and by names, sizes and times of the files.

    Args:
        root: the folder.
        **split: see :class:`dotkd.data.sources.SplitOptions`.

    Returns:
        The splits; ``validation`` is None where it is 0 images.

    Raises:
        BadInput: if a file is missing or wrong.

    Example:
        >>> load_tiny_imagenet("tiny-imagenet-200").test  # doctest: +SKIP
        ImageData(10000 images of [3, 64, 64], 200 classes)

    References:
        Y. Le and X. Yang (2015), Tiny ImageNet Visual Recognition Challenge, report of the course
        CS 231N, Stanford University.
    """
    return load_splits(lambda: _read_tiny(Path(root)), **split)


def _read_tiny(root: Path) -> Splits[ImageData]:
    folder = root / _TINY_FOLDER if (root / _TINY_FOLDER).is_dir() else root
    missing = [name for name in _TINY_FILES if not (folder / name).exists()]
    if missing:
        raise BadInput(
            f"root must be {_TINY_FOLDER} as it is distributed, or the folder above, with "
            f"{', '.join(_TINY_FILES)}; {folder} "
            f"{'lacks ' + ', '.join(missing) if folder.is_dir() else 'is no folder'}"
        )
    wnids = _tiny_wnids(folder / "wnids.txt")
    names = _tiny_names(folder / "words.txt", wnids)
    encoded = Encoded(names, _tiny_train(folder, wnids), _tiny_val(folder, wnids), _TINY_IMAGES)
    digest = hashlib.sha256(repr(names).encode())
    for part in (encoded.train, encoded.test):
        digest.update(part.images.fingerprint().encode())
        digest.update(part.labels.data)
    return cached_images(f"tiny-imagenet-v1-{digest.hexdigest()}", encoded.decode)


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"{path} cannot be read as text: {error}") from error


def _tiny_wnids(path: Path) -> list[str]:
    wnids = sorted({line.strip() for line in _lines(path)} - {""})
    if len(wnids) != _TINY_CLASSES:
        raise BadInput(f"{path} must name {_TINY_CLASSES} different classes, one a line, got {len(wnids)}")
    return wnids


def _tiny_names(path: Path, wnids: list[str]) -> list[str]:
    words = dict(line.split("\t", 1) for line in _lines(path) if "\t" in line)
    names = [words.get(wnid, wnid).strip() or wnid for wnid in wnids]
    uses = Counter(names)
    return [name if uses[name] == 1 else f"{name} ({wnid})" for name, wnid in zip(names, wnids, strict=True)]


def _tiny_train(folder: Path, wnids: list[str]) -> Part:
    names: list[bytes] = []
    labels: list[int] = []
    for label, wnid in enumerate(wnids):
        files = _list_images(folder / "train" / wnid / "images", [])
        names += [os.fsencode(f"train/{wnid}/images/") + file for file in files]
        labels += [label] * len(files)
    return Part(ImageFiles(folder, names), np.array(labels, dtype=np.int64))


def _tiny_val(folder: Path, wnids: list[str]) -> Part:
    listing, numbers = folder / "val" / "val_annotations.txt", {wnid: n for n, wnid in enumerate(wnids)}
    present = set(map(os.fsdecode, _list_images(folder / "val" / "images", [])))
    labels: dict[str, int] = {}
    for row, line in enumerate(_lines(listing), start=1):
        if not line.strip():
            continue
        name, _, rest = line.partition("\t")
        wnid = rest.partition("\t")[0].strip()
        if wnid not in numbers:
            raise BadInput(f"{listing}, line {row}: must name a file and a class of wnids.txt, got {line!r}")
        if name not in present or name in labels:
            found = "is listed twice" if name in labels else f"is no file in {folder / 'val' / 'images'}"
            raise BadInput(f"{listing}, line {row}: {name} {found}")
        labels[name] = numbers[wnid]
    unlisted = sorted(present - labels.keys())
    if unlisted:
        raise BadInput(f"{folder / 'val' / 'images' / unlisted[0]} must have a line in {listing}, has none")
    names = [os.fsencode(f"val/images/{name}") for name in labels]
    return Part(ImageFiles(folder, names), np.array(list(labels.values()), dtype=np.int64))
