"""Exceptions for users, wrong input and failed runs, and the messages that several packages share.

An exception of this file carries a message that a user can act on without a traceback.
"""

from collections.abc import Iterable
from difflib import get_close_matches


class BadInput(ValueError):
    """Wrong input of the user: the command line ends with exit code 2 and writes nothing."""


def missing_extra(what: str, extra: str) -> BadInput:
    """Return the error for a missing optional library.

    Args:
        what: The feature that needs the library.
        extra: The extra of dotkd that installs it.

    Returns:
        The error; its message has the command that installs the extra.

    Example:
        >>> print(missing_extra("format 'onnx'", "onnx"))
        format 'onnx' needs the extra 'onnx': pip install 'dotkd[onnx]'
    """
    return BadInput(f"{what} needs the extra {extra!r}: pip install 'dotkd[{extra}]'")


class RunFailed(RuntimeError):
    """A run failed: the command line ends with exit code 1, and the last good checkpoint stays."""


class Diverged(RunFailed):
    """A loss or a weight of a run is not finite."""


def first_line(error: BaseException) -> str:
    r"""Return the first line of the message of an error, at most 200 characters; its type if it has none.

    Args:
        error: The error.

    Returns:
        One line.

    Example:
        >>> first_line(RuntimeError("out of memory\nTried to allocate ..."))
        'out of memory'
    """
    return str(error).strip().partition("\n")[0][:200] or type(error).__name__


def unknown(kind: str, word: str, known: Iterable[str]) -> str:
    """Return the message for a word that is not on a list.

    Args:
        kind: Noun for the words on the list, such as "method".
        word: The word.
        known: The words on the list.

    Returns:
        One sentence that names the nearest word and lists all.

    Example:
        >>> unknown("method", "dk", ["dkd", "rkd"])
        "unknown method 'dk'; nearest: 'dkd' (known: dkd, rkd)"
    """
    names = sorted(known)
    if not names:
        return f"unknown {kind} {word!r}; there is none"
    nearest = get_close_matches(word.lower(), names, n=1, cutoff=0.0)
    return f"unknown {kind} {word!r}; nearest: {nearest[0]!r} (known: {', '.join(names)})"
