"""The two ways in which a command ends badly: what the user gave is wrong, or the run itself failed.

Both carry a message that a user can act on, one line or a few; no traceback is needed to understand it.
"""


class BadInput(ValueError):
    """Something that the user gave is wrong: the command line ends with exit code 2 and writes nothing."""


class RunFailed(RuntimeError):
    """A run could not go on: the command line ends with exit code 1, the last good checkpoint stays."""
