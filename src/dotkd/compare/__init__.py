"""Comparisons: recipes x seeds, sweeps over a key, tuned learning rates."""
