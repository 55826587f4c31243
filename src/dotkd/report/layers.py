"""The gradients layer by layer: means over the seeds of an arm of what was compared after each epoch."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from dotkd.report.inputs import EpochGradients, LayerGradients
from dotkd.runs import RunRecord

Numbers = npt.NDArray[np.float64]
MEASURES = tuple(LayerGradients.model_fields)


@dataclass(frozen=True)
class Layers:
    """An arm: its layers in the order of the network, its epochs, and the seeds that have both.

    ``values`` maps a measure to ``[seeds, layers, epochs]``, NaN where there is no number.
    """

    names: tuple[str, ...]
    epochs: tuple[int, ...]
    seeds: tuple[int, ...]
    values: Mapping[str, Numbers]

    def mean(self, measure: str) -> Numbers:
        """Give means over the seeds that have a number, ``[layers, epochs]``."""
        table = self.values[measure]
        known = np.isfinite(table)
        count = known.sum(axis=0)
        total = np.where(known, table, 0.0).sum(axis=0)
        return np.where(count > 0, total / np.maximum(count, 1), math.nan)


def layers_of(
    groups: Mapping[str, Sequence[RunRecord]], gradients: Mapping[Path, Sequence[EpochGradients]]
) -> dict[str, Layers]:
    """Put the layers of the runs of each arm together.

    Args:
        groups: name of an arm -> its runs.
        gradients: folder of a run -> what it knows of each epoch.

    Returns:
        Name of an arm -> its layers. Runs whose layers are not those of the arm's first run are left out, as
        are epochs that not every other run has; so are arms of which nothing remains.
    """
    found = {}
    for name, runs in groups.items():
        having = [(run.seed, gradients[run.path]) for run in runs if run.path in gradients]
        if not having or not having[0][1][0].layers:
            continue
        layers = tuple(having[0][1][0].layers)
        alike = [
            (seed, lines) for seed, lines in having if all(tuple(line.layers) == layers for line in lines)
        ]
        tables = [{line.epoch: line.layers for line in lines} for _, lines in alike]
        epochs = sorted(set.intersection(*(set(table) for table in tables))) if tables else []
        if epochs:
            seeds = tuple(seed for seed, _ in alike)
            values = {measure: _values(tables, layers, epochs, measure) for measure in MEASURES}
            found[name] = Layers(layers, tuple(epochs), seeds, values)
    return found


def _values(
    tables: Sequence[Mapping[int, Mapping[str, LayerGradients]]],
    layers: Sequence[str],
    epochs: Sequence[int],
    measure: str,
) -> Numbers:
    rows = [
        [[getattr(table[epoch][layer], measure) for epoch in epochs] for layer in layers] for table in tables
    ]
    return np.array(rows, dtype=float)  # None becomes NaN
