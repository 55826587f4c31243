"""From the bytes of an image file to RGB: the one place where a file is opened as an image.

Here belongs what is true of every image that is read, whoever asks: which formats, which modes, and
what is told of a file that cannot be read.
"""

import io
import warnings
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from dotkd.errors import BadInput

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
