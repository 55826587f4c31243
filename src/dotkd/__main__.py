"""``python -m dotkd`` is ``dotkd``."""

from dotkd.cli import main

main()
