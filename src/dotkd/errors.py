"""The two ways in which a command ends badly: what the user gave is wrong, or the run itself failed.

Both carry a message that a user can act on, one line or a few; no traceback is needed to understand it.
"""

from collections.abc import Iterable
from difflib import get_close_matches


class BadInput(ValueError):
    """Something that the user gave is wrong: the command line ends with exit code 2 and writes nothing."""


def missing_extra(what: str, extra: str) -> BadInput:
    """Return the error of something that needs a library which is not installed.

    Args:
        what: What needs it.
        extra: The extra of this package that brings it.

    Returns:
        The error, which says what to install.

    Example:
        >>> print(missing_extra("format 'onnx'", "onnx"))
        format 'onnx' needs the extra 'onnx': pip install 'dotkd[onnx]'
    """
    return BadInput(f"{what} needs the extra {extra!r}: pip install 'dotkd[{extra}]'")


class RunFailed(RuntimeError):
    """A run could not go on: the command line ends with exit code 1, the last good checkpoint stays."""


class Diverged(RunFailed):
    """A run has left the finite numbers."""


def unknown(kind: str, word: str, known: Iterable[str]) -> str:
    """The message for a word that is not on a list.

    Args:
        kind: What the word was meant to be.
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
