"""``python -m dotkd`` is ``dotkd``."""

from dotkd.cli import main

if __name__ == "__main__":
    main()
