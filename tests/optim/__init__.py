"""Tests of ``dotkd.optim``."""
