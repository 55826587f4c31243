"""How a command ends: 0 all went well, 1 it failed, 2 what the user gave is wrong."""

import errno
import functools
import os
import sys
from collections.abc import Callable
from typing import ParamSpec

import typer

from dotkd.errors import BadInput, RunFailed

FAILED, BAD_INPUT = 1, 2
# Paths that the user gave and that cannot be what they are wanted for; a full disk is none of these.
_USERS = (
    errno.EACCES,
    errno.EEXIST,
    errno.EISDIR,
    errno.ENAMETOOLONG,
    errno.ENOENT,
    errno.ENOTDIR,
    errno.EPERM,
    errno.EROFS,
)
DEBUG = "DOTKD_DEBUG"

_P = ParamSpec("_P")


def ends_well(command: Callable[_P, None]) -> Callable[_P, None]:
    """Decorator of a command: an error becomes its message and an exit code, without a traceback.

    With ``--debug`` the error goes through as it is.

    Args:
        command: The command.

    Returns:
        The same command, ending well.
    """

    @functools.wraps(command)
    def run(*args: _P.args, **kwargs: _P.kwargs) -> None:
        try:
            command(*args, **kwargs)
        except (typer.Exit, typer.Abort):
            raise
        except BaseException as error:
            if os.environ.get(DEBUG):
                raise
            code = _report(error)
            if code is None:
                raise
            raise typer.Exit(code) from None

    return run


def _report(error: BaseException) -> int | None:
    """Say what went wrong; return the exit code, or None for what is nobody's error here."""
    if isinstance(error, BadInput):
        return _say(str(error), BAD_INPUT)
    if isinstance(error, RunFailed):
        return _say(str(error), FAILED)
    if isinstance(error, KeyboardInterrupt):
        return _say("stopped; a run goes on with the same command (train wants --resume)", FAILED)
    if isinstance(error, OSError) and error.filename is not None and error.errno in _USERS:
        return _say(f"{error.filename}: {error.strerror}", BAD_INPUT)
    if isinstance(error, Exception):
        return _say(f"{type(error).__name__}: {error}\n(dotkd --debug shows where)", FAILED)
    return None


def _say(text: str, code: int) -> int:
    print(f"dotkd: {text}", file=sys.stderr)
    return code
