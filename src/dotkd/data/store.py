"""Where encoded images are found by number, and the way from there to one array in memory.

Here belongs what image files in folders and images of a hub have in common.
"""

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dotkd.data.views import centre_view
from dotkd.errors import BadInput


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
            :func:`dotkd.data.views.centre_view`.
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
