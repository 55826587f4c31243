"""The command line: ``dotkd VERB``. It parses, calls one function, and prints; nothing is computed here."""

from dotkd.cli.app import main

__all__ = ["main"]
