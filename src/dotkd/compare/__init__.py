"""Comparisons: recipes x seeds, sweeps over recipe keys, tuned learning rates."""

from dotkd.compare.run import DEMO, Failure, compare
from dotkd.compare.sweep import SweepAxis, parse_sweep, sweep_arms
from dotkd.compare.tune import TUNE_SEEDS, RateSearch, parse_rates

__all__ = [
    "DEMO",
    "TUNE_SEEDS",
    "Failure",
    "RateSearch",
    "SweepAxis",
    "compare",
    "parse_rates",
    "parse_sweep",
    "sweep_arms",
]
