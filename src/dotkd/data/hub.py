"""The hub of Hugging Face and its library ``datasets``, an extra: how they are asked, and what they hold.

Here belongs what every source needs that reads from there, and the store of the images they keep.
"""

import hashlib
import importlib
import re
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from dotkd.data.decode import decode
from dotkd.errors import BadInput, missing_extra

_NAME = re.compile(r"\w[\w.-]*/\w[\w.-]*")
_SAMPLE = 1000  # images whose bytes are in a fingerprint


def library(name: str, what: str) -> Any:
    """Import a library of the extra ``hub``.

    By its name, since the extra is optional, for the type checker too.

    Args:
        name: of the module.
        what: what needs it.

    Returns:
        The module.

    Raises:
        BadInput: if it is not installed.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        absent = missing_extra(what, "hub")
        raise absent from error


def is_hub_name(root: str | Path) -> bool:
    """Say whether something is a name of the hub, ``"owner/name"``, rather than a path.

    Args:
        root: what the caller passed in.

    Returns:
        Whether it is. Where the first half is a folder here, a path was meant.
    """
    return isinstance(root, str) and bool(_NAME.fullmatch(root)) and not Path(root).parent.exists()


def download(name: str, what: str, *config: str) -> Any:
    """Fetch a data set of the hub, or find it where it was put before.

    Args:
        name: ``"owner/name"``.
        what: what needs the library.
        *config: which of several configurations, where it has several.

    Returns:
        The library's dictionary of splits.

    Raises:
        BadInput: if the library is missing, there is no such data set, or no way to the hub.
    """
    datasets = library("datasets", what)
    try:
        return datasets.load_dataset(name, *config)
    except Exception as error:  # of the network, of the hub, of its cache: each has types of its own
        raise BadInput(
            f"root {name!r} is no folder here, and as a data set of the hub it cannot be loaded: "
            f"{first_line(error)}"
        ) from error


def first_line(error: BaseException) -> str:
    """Return what an error says, in one line.

    Args:
        error: of the library, which writes the configurations that there are into a second line,
            and the reason why a file is wrong into another error.

    Returns:
        Its first line, with the configurations.
    """
    if "generating the dataset" in str(error) and error.__cause__ is not None:
        error = error.__cause__
    first, *rest = str(error).splitlines() or [type(error).__name__]
    return " ".join([first, *(line for line in rest if "available configs" in line)])


class HubImages:
    """Images in a column of Arrow files, as the library keeps them; a :class:`dotkd.data.store.Store`.

    Args:
        files: the Arrow files, in order.
        column: the name of the column: bytes of image files, alone or with a ``path`` beside.
        what: what messages call the whole.
    """

    def __init__(self, files: list[str], column: str, what: str) -> None:
        self._files, self._column, self._what = files, column, what
        self._cells: Any = None

    def __getstate__(self) -> dict[str, Any]:
        # Another process maps the files anew.
        return {**self.__dict__, "_cells": None}

    def __len__(self) -> int:
        return len(self._opened())

    def key(self, number: int) -> int:
        """Say where an image is: its row."""
        return number

    def title(self, number: int) -> str:
        """Say what messages call an image."""
        return f"{self._what}, row {number}: {self._column}"

    def read(self, key: int) -> Image.Image:
        """Decode an image to RGB.

        Args:
            key: its row.

        Returns:
            The image.

        Raises:
            BadInput: if it cannot be decoded; see :func:`dotkd.data.decode.decode`.
        """
        return decode(self._content(key), self.title(key)).image

    def fingerprint(self, sample: int = _SAMPLE) -> str:
        """Make a checksum over the sizes of all images and the bytes of some, at even distances.

        Args:
            sample: how many are read.

        Returns:
            64 hexadecimal digits.
        """
        compute, cells = library("pyarrow.compute", self._what), self._opened()
        encoded = compute.struct_field(cells, "bytes") if cells.type.num_fields else cells
        sizes = compute.fill_null(compute.binary_length(encoded), -1).to_numpy()
        digest = hashlib.sha256(sizes.astype(np.int64).data)
        for number in np.linspace(0, len(cells) - 1, min(sample, len(cells)), dtype=int).tolist():
            digest.update(self._content(number))
        return digest.hexdigest()

    def _content(self, number: int) -> bytes:
        cell = self._opened()[number].as_py()
        content = cell.get("bytes") if isinstance(cell, dict) else cell
        path = cell.get("path") if isinstance(cell, dict) else None
        if content is None and path is not None and Path(path).is_file():  # folders of images
            content = Path(path).read_bytes()
        if not isinstance(content, bytes):
            raise BadInput(f"{self.title(number)} must hold the bytes of an image file, has none")
        return content

    def _opened(self) -> Any:
        if self._cells is None:
            arrow = library("pyarrow", self._what)
            tables = [arrow.ipc.open_stream(arrow.memory_map(file)).read_all() for file in self._files]
            self._cells = arrow.concat_tables(tables).column(self._column)
        return self._cells
