"""From image files to arrays: decoding, resizing, and the cache of decoded arrays."""

import io
import math
import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from dotkd._validate import check_share, describe
from dotkd.data.images import Augment
from dotkd.errors import BadInput

Arrays = dict[str, NDArray[Any]]


def cached(key: str, make: Callable[[], Arrays]) -> Arrays:
    """Read arrays from the cache, or make them and keep them there.

    The folder is the one that the environment variable ``DOTKD_CACHE`` names, else
    ``~/.cache/dotkd``. A file is written under a name of its own and then renamed, so that two
    processes at once never see half a file.

    Args:
        key: what the arrays depend on, as the name of a file without its ending; another key
            for other contents.
        make: makes the arrays, where the cache does not have them.

    Returns:
        The arrays by name, as ``make`` gave them.

    Example:
        >>> calls = []
        >>> def make():
        ...     calls.append("made")
        ...     return {"squares": np.arange(3) ** 2}
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     before = os.environ.get("DOTKD_CACHE")
        ...     os.environ["DOTKD_CACHE"] = folder
        ...     twice = [cached("squares-v1", make)["squares"].tolist() for _ in range(2)]
        ...     _ = os.environ.pop("DOTKD_CACHE")
        ...     os.environ.update({} if before is None else {"DOTKD_CACHE": before})
        >>> twice, calls
        ([[0, 1, 4], [0, 1, 4]], ['made'])
    """
    path = Path(os.environ.get("DOTKD_CACHE") or "~/.cache/dotkd", f"{key}.npz")
    arrays = _read(path)
    if arrays is None:
        arrays = make()
        _write(path, arrays)
    return arrays


def _read(path: Path) -> Arrays | None:
    # The archive has a checksum for each array: what comes back is what was written.
    try:
        with path.expanduser().open("rb") as file, np.load(file, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except Exception:  # numpy and zipfile raise a dozen types on broken bytes; all mean "not there"
        return None


def _write(path: Path, arrays: Arrays) -> None:
    unfinished: Path | None = None
    try:
        path = path.expanduser()
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_name(f"{path.stem}-{os.getpid()}.part")
        with unfinished.open("wb") as file:
            np.savez(file, **arrays)  # type: ignore[arg-type]
        unfinished.replace(path)
    except (OSError, RuntimeError):  # full, read-only, a file in the way, or no home folder
        pass
    finally:
        if unfinished is not None:
            unfinished.unlink(missing_ok=True)


FORMATS = ("PNG", "JPEG", "WEBP", "BMP")
# What Pillow turns into eight bits a channel without clipping.
_MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr")


class Decoded(NamedTuple):
    """An image as it was found.

    Args:
        image: in RGB, eight bits a channel.
        mode: Pillow's name of what the file holds, such as ``"L"`` or ``"CMYK"``.
    """

    image: Image.Image
    mode: str


def decode(source: str | Path | bytes, what: str, *, formats: tuple[str, ...] = FORMATS) -> Decoded:
    """Decode an image file to RGB.

    The format is read from the content, not from the name: a PNG that is called ``.JPEG`` is a PNG.
    Grey, palette, CMYK and black-and-white images become RGB; transparency is dropped, and the colour
    below it stays. The orientation that a camera has noted (EXIF) is not applied: pixels stay where
    the file has them, as in the pipelines that published numbers come from.

    Args:
        source: the path of a file, or its bytes.
        what: what messages call the image.
        formats: Pillow's names of the formats that may come.

    Returns:
        The image and the mode in which it was stored.

    Raises:
        BadInput: if the file cannot be read, is no whole image of these formats, or has more than
            eight bits a channel.

    Example:
        >>> file = io.BytesIO()
        >>> Image.new("L", (4, 3), 200).save(file, "PNG")
        >>> found = decode(file.getvalue(), "my image")
        >>> found.image.mode, found.image.size, found.image.getpixel((0, 0)), found.mode
        ('RGB', (4, 3), (200, 200, 200), 'L')
    """
    try:
        # Pillow warns of broken EXIF blocks and of transparency in palettes; neither matters here.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            content = io.BytesIO(source) if isinstance(source, bytes) else source
            with Image.open(content, formats=formats) as file:
                mode = file.mode
                image = file.convert("RGB") if mode in _MODES else None
    except Exception as error:  # Pillow raises many types on broken bytes
        if isinstance(error, OSError) and error.strerror:  # the file system's own
            raise BadInput(f"{what} cannot be read: {error.strerror}") from error
        raise BadInput(f"{what} is no image that can be decoded (PNG, JPEG, WebP or BMP)") from error
    if image is None:
        raise BadInput(f"{what} must have 8 bits a channel, has the mode {mode}")
    return Decoded(image, mode)


Numbers = NDArray[np.float64]
# Image, size and random numbers -> view; must be known by name to another process.
View = Callable[[Image.Image, int, Numbers], Image.Image]

_TRIES = 10
_LONGEST = 16  # times the shorter side


def centre_view(image: Image.Image, size: int, numbers: Numbers | None = None) -> Image.Image:  # noqa: ARG001
    """Resize an image and cut out its middle, as it is judged.

    The shorter side becomes ``round(size * 256 / 224)`` pixels (the usual 256 for 224), the longer
    one follows in proportion, rounded down; the middle ``size`` x ``size`` is the view. The filter is
    bilinear and antialiased: Pillow's, over as many pixels as the image shrinks. An image more than
    16 times as long as it is wide gives its middle part of that shape.

    Args:
        image: of any size.
        size: height and width of the view.
        numbers: not looked at; there is nothing to draw.

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


@dataclass(frozen=True)
class RandomResizedCrop:
    """A random box of each image, resized to the size of the data set: the usual training view.

    The box has the share ``a`` of the image's area and the aspect ratio ``r`` = width / height,

        width = sqrt(a * r * W * H),    height = sqrt(a / r * W * H),

    each rounded, with ``a`` uniform in ``scale``, log ``r`` uniform in log ``ratio`` and the place
    uniform among those where it fits. Of ten draws the first that fits counts; if none does, the
    largest box in the middle with a ratio inside ``ratio``. The view is the box, cut out and resized
    (bilinear, antialiased), then mirrored left to right with probability ``flip``.

    It goes where a function of pixels would go as the ``augment`` of
    :meth:`dotkd.data.StreamedImages.batches`. The box is cut from the whole image before anything is
    resized, which a function of pixels cannot do; ``then`` is applied to the batch of views after
    it. There are too many views to number them: ``Batch.view`` is None.

    Args:
        generator: where the random numbers come from. It moves on by one number for each epoch, when
            ``batches`` is called; that number starts a stream of its own for the epoch, so nothing
            depends on how far ahead the images are read.
        scale: least and largest share of the area, in (0, 1].
        ratio: least and largest aspect ratio, above 0.
        flip: the probability of a mirror image, in [0, 1].
        then: a function of pixels as :func:`dotkd.data.crop_flip`, on the device of the data set.

    Raises:
        ValueError: if an argument lies outside its range.

    Example:
        >>> crop = RandomResizedCrop(torch.Generator().manual_seed(0))
        >>> numbers = crop.draw(2, crop.epoch())
        >>> numbers.shape
        torch.Size([2, 23])
        >>> crop.view(Image.new("RGB", (500, 375)), 224, numbers[0].numpy()).size
        (224, 224)

    References:
        C. Szegedy et al. (2015), Going Deeper with Convolutions, arXiv 1409.4842, section 6; boxes
        and fallback as in torchvision's ``RandomResizedCrop``.
    """

    generator: torch.Generator
    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    flip: float = 0.5
    then: Augment | None = None

    def __post_init__(self) -> None:
        for name, pair, high in (("scale", self.scale, 1.0), ("ratio", self.ratio, math.inf)):
            if not _is_range(pair, high):
                limit = " and at most 1" if high == 1 else ""
                raise ValueError(f"{name} must be two rising numbers above 0{limit}, got {describe(pair)}")
        check_share("flip", self.flip)

    @property
    def view(self) -> View:
        """The function from image, size and numbers to view, for worker processes."""
        return partial(resized_crop, ratio=self.ratio)

    def epoch(self) -> torch.Generator:
        """Start the stream of one epoch.

        Returns:
            A generator, started from the next number of :attr:`generator`.
        """
        high = 2**63 - 1
        seed = torch.randint(high, (), generator=self.generator, device=self.generator.device)
        return torch.Generator().manual_seed(int(seed))

    def draw(self, count: int, stream: torch.Generator) -> Tensor:
        """Draw what the views of some images depend on, whatever the size of the images.

        Args:
            count: how many images.
            stream: from :meth:`epoch`; it moves on.

        Returns:
            [count, 23], float64: ten shares of the area, ten aspect ratios, how far down and how
            far right in [0, 1), and 1 for a mirror image, else 0.
        """
        numbers = torch.rand(count, 2 * _TRIES + 3, generator=stream, dtype=torch.float64)
        areas, ratios = numbers[:, :_TRIES], numbers[:, _TRIES : 2 * _TRIES]
        areas.mul_(self.scale[1] - self.scale[0]).add_(self.scale[0])
        low, high = map(math.log, self.ratio)
        ratios.mul_(high - low).add_(low).exp_()
        numbers[:, -1] = (numbers[:, -1] < self.flip).double()
        return numbers


def resized_crop(
    image: Image.Image, size: int, numbers: Numbers, *, ratio: tuple[float, float]
) -> Image.Image:
    """Make one view of :class:`RandomResizedCrop`.

    Args:
        image: of any size.
        size: height and width of the view.
        numbers: [23], a row of :meth:`RandomResizedCrop.draw`.
        ratio: least and largest aspect ratio, for an image in which no box fits.

    Returns:
        The view, [size, size].
    """
    box = _box(image.width, image.height, numbers, ratio)
    # Cut first: with the box as an argument of resize, pixels from outside would be mixed into its edges.
    view = image.crop(box).resize((size, size), Image.Resampling.BILINEAR)
    return view.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if numbers[-1] else view


def _box(width: int, height: int, numbers: Numbers, ratio: tuple[float, float]) -> tuple[int, int, int, int]:
    row = numbers.tolist()
    down, right = row[2 * _TRIES], row[2 * _TRIES + 1]
    for share, aspect in zip(row[:_TRIES], row[_TRIES : 2 * _TRIES], strict=True):
        area = share * width * height
        wide, high = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < wide <= width and 0 < high <= height:
            left, top = int(right * (width - wide + 1)), int(down * (height - high + 1))
            return left, top, left + wide, top + high
    wide, high = width, height
    if width < ratio[0] * height:
        high = round(width / ratio[0])
    elif width > ratio[1] * height:
        wide = round(height * ratio[1])
    left, top = (width - wide) // 2, (height - high) // 2
    return left, top, left + wide, top + high


def _is_range(pair: Any, high: float) -> bool:
    if not isinstance(pair, tuple) or len(pair) != 2:
        return False
    numbers = all(isinstance(n, float | int) and not isinstance(n, bool) and math.isfinite(n) for n in pair)
    return numbers and 0 < pair[0] <= pair[1] <= high


class Store(Protocol):
    """Encoded images, numbered from 0.

    A worker process gets :meth:`read` and keys, not the whole list.
    """

    def __len__(self) -> int:
        """Say how many images there are."""
        ...

    def key(self, number: int) -> Any:
        """Say what :meth:`read` needs to find an image, small and picklable."""
        ...

    def title(self, number: int) -> str:
        """Say what messages call an image."""
        ...

    def read(self, key: Any) -> Image.Image:
        """Decode an image to RGB, or raise BadInput."""
        ...

    def fingerprint(self) -> str:
        """Tell these images from others, without reading them all."""
        ...


def stack(store: Store, size: tuple[int, int], *, resize: bool = False, why: str = "") -> NDArray[np.uint8]:
    """Decode all images into one array.

    Args:
        store: the images.
        size: width and height of each.
        resize: whether to make images of any size so large, which must then be a square; see
            :func:`dotkd.data.decode.centre_view`.
        why: where the size comes from, for the message.

    Returns:
        [N, 3, H, W].

    Raises:
        BadInput: if an image cannot be decoded or, without ``resize``, has another size.
    """
    width, height = size
    pixels = np.empty((len(store), 3, height, width), dtype=np.uint8)
    for number in range(len(store)):
        image = store.read(store.key(number))
        if resize:
            image = centre_view(image, width)
        if image.size != size:
            raise BadInput(
                f"{store.title(number)} must be {width}x{height}{why}, got {image.width}x{image.height}"
            )
        pixels[number] = to_planes(image)
    return pixels


def stack_parts(rest: Store, test: Store, size: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Decode the images of both parts of a data set.

    Args:
        rest: all images that are not for the test.
        test: those for the test.
        size: height and width to give all images; 0 leaves them as they are, which must be of one
            size then.

    Returns:
        The pixels of the parts, each [N, 3, H, W].

    Raises:
        BadInput: if an image cannot be decoded, or has another size than the first one.
    """
    if size:
        return stack(rest, (size, size), resize=True), stack(test, (size, size), resize=True)
    first = rest.read(rest.key(0)).size
    why = f", the size of {rest.title(0)} (or give an image_size)"
    return stack(rest, first, why=why), stack(test, first, why=why)


def to_planes(image: Image.Image) -> NDArray[np.uint8]:
    """Turn an RGB image into [3, H, W]."""
    return np.asarray(image).transpose(2, 0, 1)
