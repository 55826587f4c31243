"""The pickled batches that the authors of CIFAR distribute for Python, read as data: no pickle runs code.

:func:`dotkd.data.load_cifar` is in :mod:`dotkd.data.hub`, which reads the parquet files.
"""

import math
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dotkd.data.images import Arrays
from dotkd.errors import BadInput


class _Layout(NamedTuple):
    """Names of the folder, its files and their entries."""

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
    """Return the folder of the batches, ``root`` or one below; None if there is none."""
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
    """Read all batches of a folder that :func:`find_batches` returned."""
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
    """A pickle asks for something that is not on the list."""


class _Array:
    """Stands for a numpy array: keeps the state that the pickle gives it, unchecked."""

    __slots__ = ("state",)

    def __init__(self) -> None:
        self.state: Any = None

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def pixels(self) -> NDArray[np.uint8] | None:
        """Return the array if it has two dimensions of uint8, else None."""
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
        """Ignore the byte order, which one byte does not have."""


class _Call:
    """Stands for a function; a pickle cannot change it, as it could a class or a function."""

    __slots__ = ("_function",)

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function

    def __call__(self, *args: Any) -> Any:
        return self._function(*args)

    def __setstate__(self, state: Any) -> None:
        raise _Refused("a change of a function")


def _encode(text: Any, codec: Any) -> bytes:
    # Python 3 writes bytes for Python 2 with this codec only.
    if not isinstance(text, str) or _text(codec) not in {"latin1", "latin-1"}:
        raise _Refused(f"_codecs.encode to {codec!r}")
    return text.encode("latin-1")


_KNOWN = {
    ("numpy", "ndarray"): _Call(lambda *_: _Array()),
    ("numpy", "dtype"): _Call(lambda name, *_: _Dtype(name)),
    ("numpy.core.multiarray", "_reconstruct"): _Call(lambda *_: _Array()),
    ("numpy._core.multiarray", "_reconstruct"): _Call(lambda *_: _Array()),
    ("_codecs", "encode"): _Call(_encode),
    ("__builtin__", "bytes"): _Call(lambda: b""),  # empty bytes, as Python 3 writes them for Python 2
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
