"""Intermediate features: where a model has them, how they are read, and how their shapes are matched."""
