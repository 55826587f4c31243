"""Tests of the report, and ``browser.py``, which opens a page as a reader would."""
