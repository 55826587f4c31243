"""From encoded images to arrays: decoding, the centre view, and data sets that are still encoded."""

import io
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, Protocol, Self

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from dotkd._validate import UNLABELLED
from dotkd.data.images import Arrays, DataFacts
from dotkd.errors import BadInput

MAX_PIXELS = 178_956_970  # of an image that Pillow opens


class Accepted(NamedTuple):
    """Image files to accept, and whether to turn them as their EXIF orientation says.

    Formats and modes have Pillow's names; ``size`` is width and height, None for any.
    """

    formats: tuple[str, ...]
    modes: tuple[str, ...]
    size: tuple[int, int] | None = None
    upright: bool = False
    max_pixels: int = MAX_PIXELS


# The modes are those that Pillow converts to eight bits a channel without clipping.
ANY_IMAGE = Accepted(
    ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "PPM"),
    ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr"),
)
_TITLES = {"WEBP": "WebP"}


def decode(content: str | Path | bytes, title: str, accepted: Accepted = ANY_IMAGE) -> Image.Image:
    """Decode an image file to RGB.

    The format is read from the content, not from the name. Grey, palette, CMYK and black-and-white
    images become RGB; transparency is dropped, and the colour below it stays. The EXIF orientation is
    applied if ``accepted`` says so. Of a file with several pages the first one is read.

    Args:
        content: path of a file, or its bytes.
        title: name of the image in messages.
        accepted: what to accept.

    Returns:
        The image.

    Raises:
        BadInput: if the file cannot be read or is no complete image that is accepted.

    Example:
        >>> file = io.BytesIO()
        >>> Image.new("L", (4, 3), 200).save(file, "PNG")
        >>> image = decode(file.getvalue(), "my image")
        >>> image.mode, image.size, image.getpixel((0, 0))
        ('RGB', (4, 3), (200, 200, 200))
    """
    try:
        with _without_warnings():
            return _decode(content, accepted)
    except _Unreadable as error:
        raise BadInput(f"{title} {error}") from error


@contextmanager
def _without_warnings() -> Iterator[None]:
    """Silence Pillow on broken EXIF blocks and transparency in palettes, and lift its limit of pixels."""
    limit = Image.MAX_IMAGE_PIXELS
    Image.MAX_IMAGE_PIXELS = None  # `Accepted` has its own
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            yield
    finally:
        Image.MAX_IMAGE_PIXELS = limit


class _Unreadable(Exception):
    """The end of a message that begins with the title of an image."""


def _decode(content: str | Path | bytes, accepted: Accepted) -> Image.Image:
    try:
        source = io.BytesIO(content) if isinstance(content, bytes) else content
        with Image.open(source, formats=accepted.formats) as file:
            mode, (width, height) = file.mode, file.size
            if width * height > accepted.max_pixels:
                raise _Unreadable(
                    f"has {width} x {height} = {width * height} pixels, above the limit of "
                    f"{accepted.max_pixels}: max_image_pixels={width * height} raises it"
                )
            if mode in accepted.modes:
                return (_upright(file) if accepted.upright else file).convert("RGB")
    except _Unreadable:
        raise
    except Exception as error:  # Pillow raises many types on broken bytes
        if isinstance(error, OSError) and error.strerror:  # from the file system
            raise _Unreadable(f"cannot be read: {error.strerror}") from error
        *names, last = (_TITLES.get(name, name) for name in accepted.formats)
        raise _Unreadable(f"is no image that can be decoded ({', '.join(names)} or {last})") from error
    allowed = (
        "8 bits a channel" if accepted.modes == ANY_IMAGE.modes else f"the mode {' or '.join(accepted.modes)}"
    )
    raise _Unreadable(f"must have {allowed}, has the mode {mode}")


def _upright(file: Image.Image) -> Image.Image:
    file.load()
    try:
        return ImageOps.exif_transpose(file)
    except Exception:  # Pillow raises many types on broken EXIF blocks
        return file


Numbers = NDArray[np.float64]
_LONGEST = 16  # times the shorter side


def centre_view(image: Image.Image, size: int, numbers: Numbers | None = None) -> Image.Image:  # noqa: ARG001
    """Resize an image and cut out its middle: the view to evaluate on.

    The shorter side becomes ``round(size * 256 / 224)`` pixels (the usual 256 for 224), the longer
    one follows in proportion, rounded down. The filter is Pillow's antialiased bilinear one. An image
    more than 16 times as long as it is wide is cut to that shape first.

    Args:
        image: of any size.
        size: height and width of the view.
        numbers: ignored; views have one signature.

    Returns:
        The view, [size, size].

    Example:
        >>> centre_view(Image.new("RGB", (500, 375), (1, 2, 3)), 224).size
        (224, 224)
    """
    width, height = image.size
    longest = _LONGEST * min(width, height)
    if max(width, height) > longest:  # or a line of pixels would be resized to gigabytes
        image = _cut(image, min(width, longest), min(height, longest))
        width, height = image.size
    short = round(size * 256 / 224)
    if width <= height:
        resized = image.resize((short, int(short * height / width)), Image.Resampling.BILINEAR)
    else:
        resized = image.resize((int(short * width / height), short), Image.Resampling.BILINEAR)
    return _cut(resized, size, size)


def _cut(image: Image.Image, width: int, height: int) -> Image.Image:
    left, top = round((image.width - width) / 2), round((image.height - height) / 2)
    return image.crop((left, top, left + width, top + height))


def to_planes(image: Image.Image) -> NDArray[np.uint8]:
    """Return an RGB image as [3, H, W]."""
    return np.asarray(image).transpose(2, 0, 1)


class Store(Protocol):
    """Encoded images, numbered from 0; worker processes get :meth:`read` and keys, not the whole list."""

    def __len__(self) -> int:
        """Return the number of images."""
        ...

    def key(self, number: int) -> Any:
        """Return a small picklable address of an image, for :meth:`read`."""
        ...

    def title(self, number: int) -> str:
        """Return the name of an image in messages."""
        ...

    def read(self, key: Any) -> Image.Image:
        """Decode an image to RGB, or raise BadInput."""
        ...

    def contents(self) -> Iterator[Sequence[str | bytes]]:
        """Return all images in order, in chunks: paths of files, or their bytes."""
        ...

    def fingerprint(self) -> str:
        """Identify the images without reading all of them."""
        ...

    def pick(self, numbers: NDArray[np.int64]) -> Self:
        """Return the images of some numbers, in ascending order, numbered anew."""
        ...


class Part(NamedTuple):
    """Encoded images with their class numbers [N], int64."""

    images: Store
    labels: NDArray[np.int64]

    def pick(self, numbers: NDArray[np.int64]) -> "Part":
        """Return the images of some numbers, in ascending order."""
        return Part(self.images.pick(numbers), self.labels[numbers])


class Encoded(NamedTuple):
    """A data set whose files are known and whose images are not decoded yet."""

    classes: Sequence[str]
    train: Part
    test: Part
    accepted: Accepted = ANY_IMAGE
    validation: Part | None = None

    def parts(self) -> dict[str, Part]:
        """Return the parts by the name of their split."""
        own = {} if self.validation is None else {"validation": self.validation}
        return {"train": self.train, "test": self.test, **own}

    def facts(self, size: int = 0) -> DataFacts:
        """Return shape and size; the first image is decoded where nothing else says how large it is."""
        width, height = (size, size) if size else self._native_size()
        # Images to measure on count if they have a label.
        counts = {name: int((part.labels != UNLABELLED).sum()) for name, part in self.parts().items()}
        train = len(self.train.labels) + counts.get("validation", 0)
        return DataFacts(3, height, width, len(self.classes), train, counts["test"])

    def decode(self, size: int = 0) -> Arrays:
        """Decode all images, resized to squares where a size is given; else all must have one size."""
        arrays: Arrays = {"classes": np.array(self.classes)}
        for name, part in self.parts().items():
            arrays[f"{name}_pixels"] = self._pixels(part, size)
            arrays[f"{name}_labels"] = part.labels
        return arrays

    def _native_size(self) -> tuple[int, int]:
        if self.accepted.size:
            return self.accepted.size
        images = self.train.images
        content = next(content for chunk in images.contents() for content in chunk)
        return decode(content, images.title(0), self.accepted).size

    def _pixels(self, part: Part, size: int) -> NDArray[np.uint8]:
        # One loop in one file: calls between files for each of a million images would take longer.
        width, height = (size, size) if size else self._native_size()
        pixels = np.empty((len(part.labels), 3, height, width), dtype=np.uint8)
        number = 0
        try:
            with _without_warnings():
                for chunk in part.images.contents():
                    for content in chunk:
                        image = _decode(content, self.accepted)
                        if size:
                            image = centre_view(image, size)
                        elif image.size != (width, height):
                            raise _Unreadable(self._another_size(image.size, (width, height)))
                        pixels[number] = to_planes(image)
                        number += 1
        except _Unreadable as error:
            raise BadInput(f"{part.images.title(number)} {error}") from error
        return pixels

    def _another_size(self, size: tuple[int, int], wanted: tuple[int, int]) -> str:
        first = f", the size of {self.train.images.title(0)} (or give an image_size)"
        why = "" if self.accepted.size else first
        return "must be {}x{}{why}, got {}x{}".format(*wanted, *size, why=why)
