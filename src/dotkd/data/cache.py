"""Arrays kept between runs, so that slow decoding is done once.

Here belongs the folder and the way in and out of it; what a key stands for is the caller's
business. A cache never fails: what cannot be read is made anew, what cannot be written is not kept.
"""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

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
