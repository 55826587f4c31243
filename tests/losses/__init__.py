"""Tests of the losses, and ``common.py`` with their published numbers."""
