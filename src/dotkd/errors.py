"""The two ways in which a command ends badly: what the user gave is wrong, or the run itself failed.

Both carry a message that a user can act on, one line or a few; no traceback is needed to understand it.
"""


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
