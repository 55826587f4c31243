"""CIFAR as its authors distribute it for Python: dictionaries with arrays, pickled.

Here belongs the way from such files to arrays. A pickle is a program; here it is read as data: of
what it may name, only what these files need is there, as a stand-in that calls nothing.
"""

import math
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dotkd.data.cache import Arrays
from dotkd.errors import BadInput


class _Layout(NamedTuple):
    folder: str
    train: tuple[str, ...]
    test: str
    meta: str
    labels: str
    names: str


_LAYOUTS = {
    10: _Layout(
        "cifar-10-batches-py",
        tuple(f"data_batch_{number}" for number in range(1, 6)),
        "test_batch",
        "batches.meta",
        "labels",
        "label_names",
    ),
    100: _Layout("cifar-100-python", ("train",), "test", "meta", "fine_labels", "fine_label_names"),
}


def find_batches(root: Path, classes: int) -> Path | None:
    """Look for the folder with the batches.

    Args:
        root: that folder or the one above.
        classes: 10 or 100.

    Returns:
        The folder, or None where there is nothing of the kind.

    Raises:
        BadInput: if the folder is there and lacks a file.
    """
    layout = _LAYOUTS[classes]
    wanted = (*layout.train, layout.test, layout.meta)
    for folder in (root / layout.folder, root):
        missing = [name for name in wanted if not (folder / name).is_file()]
        if not missing:
            return folder
        if folder.is_dir() and folder.name == layout.folder:
            raise BadInput(f"{folder} must hold {', '.join(wanted)}; it lacks {', '.join(missing)}")
    return None


def read_batches(folder: Path, classes: int) -> Arrays:
    """Read all batches of a folder.

    Args:
        folder: what :func:`find_batches` has found.
        classes: 10 or 100.

    Returns:
        ``classes``, the names, and for ``train`` and ``test`` each ``_pixels``, uint8
        [N, 3, 32, 32], and ``_labels``, int64 [N].

    Raises:
        BadInput: if a file is broken, or holds anything else than its part of CIFAR.
    """
    layout = _LAYOUTS[classes]
    arrays: Arrays = {"classes": np.array(_names(folder / layout.meta, layout.names, classes))}
    for split, files in (("train", layout.train), ("test", (layout.test,))):
        parts = [_batch(folder / name, layout.labels, classes) for name in files]
        arrays[f"{split}_pixels"] = np.concatenate([pixels for pixels, _ in parts])
        arrays[f"{split}_labels"] = np.concatenate([labels for _, labels in parts])
        if len(arrays[f"{split}_labels"]) == 0:
            raise BadInput(f"{folder / files[0]} must have at least one image, got none")
    return arrays


def _names(path: Path, key: str, classes: int) -> list[str]:
    names = _entry(path, _read(path), key)
    texts = [_text(name) for name in names] if isinstance(names, list) else []
    if len({text for text in texts if isinstance(text, str)}) != classes or len(texts) != classes:
        raise BadInput(f"{path} must have {classes} different class names in {key}, got {len(texts)} entries")
    return [str(text) for text in texts]


def _batch(path: Path, key: str, classes: int) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    whole = _read(path)
    data, labels = _entry(path, whole, "data"), _entry(path, whole, key)
    pixels = data.pixels() if isinstance(data, _Array) else None
    if pixels is None or pixels.shape[1] != 3072:
        raise BadInput(f"{path}: data must be an array of uint8 [N, 3072]")
    if not isinstance(labels, list) or len(labels) != len(pixels):
        count = len(labels) if isinstance(labels, list) else "no list"
        raise BadInput(
            f"{path}: {key} must be a list of {len(pixels)} numbers as data has images, got {count}"
        )
    for row, label in enumerate(labels):
        if type(label) is not int or not 0 <= label < classes:
            raise BadInput(
                f"{path}, row {row}: {key} must be an integer from 0 to {classes - 1}, got {label!r}"
            )
    # A row is the red plane, then the green, then the blue one.
    return pixels.reshape(-1, 3, 32, 32), np.array(labels, dtype=np.int64)


def _entry(path: Path, whole: dict[str, Any], key: str) -> Any:
    if key not in whole:
        raise BadInput(f"{path} must have an entry {key!r}, has only {', '.join(sorted(whole)) or 'none'}")
    return whole[key]


# ---------------------------------------------------------------- pickles as data


class _Refused(Exception):
    """A pickle names what it must not."""


class _Array:
    """Stands for a numpy array: keeps what the pickle says of it, and believes nothing."""

    __slots__ = ("state",)

    def __init__(self) -> None:
        self.state: Any = None

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def pixels(self) -> NDArray[np.uint8] | None:
        """Make the array, where it is one of uint8 and two dimensions; otherwise None."""
        state = self.state
        if type(state) is not tuple or len(state) != 5:
            return None
        _, shape, dtype, by_columns, content = state
        sound = (
            type(shape) is tuple
            and len(shape) == 2
            and all(type(length) is int and length >= 0 for length in shape)
            and isinstance(dtype, _Dtype)
            and _text(dtype.name) in {"u1", "|u1", "uint8"}
            and type(content) is bytes
            and len(content) == math.prod(shape)
        )
        if not sound:
            return None
        array = np.frombuffer(content, dtype=np.uint8).reshape(shape, order="F" if by_columns else "C")
        return np.array(array, order="C")


class _Dtype:
    """Stands for a numpy dtype."""

    __slots__ = ("name",)

    def __init__(self, name: Any) -> None:
        self.name = name

    def __setstate__(self, state: Any) -> None:
        """Byte order and the like: one byte has none."""


class _Call:
    """Stands for a function. No class and no function itself, so that a pickle cannot change one."""

    __slots__ = ("_function",)

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function

    def __call__(self, *args: Any) -> Any:
        return self._function(*args)

    def __setstate__(self, state: Any) -> None:
        raise _Refused("a change of a function")


def _encode(text: Any, codec: Any) -> bytes:
    # How Python 3 writes bytes for Python 2: with this codec and no other.
    if not isinstance(text, str) or _text(codec) not in {"latin1", "latin-1"}:
        raise _Refused(f"_codecs.encode to {codec!r}")
    return text.encode("latin-1")


_KNOWN = {
    ("numpy", "ndarray"): _Call(lambda *_: _Array()),
    ("numpy", "dtype"): _Call(lambda name, *_: _Dtype(name)),
    ("numpy.core.multiarray", "_reconstruct"): _Call(lambda *_: _Array()),
    ("numpy._core.multiarray", "_reconstruct"): _Call(lambda *_: _Array()),
    ("_codecs", "encode"): _Call(_encode),
    ("__builtin__", "bytes"): _Call(lambda: b""),  # how Python 3 writes no bytes for Python 2
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _KNOWN:
            raise _Refused(f"{module}.{name}")
        return _KNOWN[module, name]


def _read(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            whole = _Unpickler(file, encoding="bytes").load()
    except _Refused as error:
        raise BadInput(
            f"{path} must hold nothing but lists, texts, numbers and arrays; it asks for {error}, "
            "which was not run"
        ) from None
    except Exception as error:  # broken pickles raise many types
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise BadInput(f"{path} is broken or no batch of CIFAR: {reason}") from error
    if type(whole) is not dict:
        raise BadInput(f"{path} must hold a dictionary, got {type(whole).__name__}")
    return {str(_text(key)): value for key, value in whole.items()}


def _text(value: Any) -> Any:
    # Python 2 wrote texts as bytes.
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value
