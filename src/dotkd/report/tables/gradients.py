"""The tables of the gradients: how they lie after the last epoch, and layer by layer."""

from collections.abc import Mapping, Sequence

import numpy as np

from dotkd.report.between import finite
from dotkd.report.layers import MEASURES, Layers
from dotkd.report.statistics import at_end, estimate, over_seeds
from dotkd.report.sweep import Series
from dotkd.report.tables.table import (
    ARM,
    EMPTY,
    Cell,
    Column,
    Group,
    Table,
    by_arm,
    number_cell,
    number_column,
    percent_cell,
    percent_column,
    trimmed,
)
from dotkd.runs import RunRecord

_SHARE = "gradient_sign_disagreement"
COLUMNS = {
    "gradient_cosine": "Cosine between the gradients",
    "gradient_norm_ratio": "Norm ratio, task to distillation",
    _SHARE: "Opposite signs",
    "task_total_cosine": "Cosine, task and sum",
    "distill_total_cosine": "Cosine, distillation and sum",
    "task_update_cosine": "Cosine, task and last step",
    "distill_update_cosine": "Cosine, distillation and last step",
}


def gradients(groups: Mapping[str, Sequence[RunRecord]], series: Sequence[Series]) -> Table | None:
    """Make the table of how the gradients lie to each other after the last epoch.

    Args:
        groups: name of an arm -> its runs.
        series: the arms of a sweep.

    Returns:
        The table, nothing if none was measured.
    """
    rows = {}
    for name, runs in groups.items():
        found = {column: over_seeds(runs, at_end(column)) for column in COLUMNS}
        cells = {key: percent_cell(one) if key == _SHARE else number_cell(one) for key, one in found.items()}
        if any(cell.text for cell in cells.values()):
            rows[name] = tuple(cells.values())
    heads = (
        percent_column(title, key) if key == _SHARE else number_column(title, key)
        for key, title in COLUMNS.items()
    )
    caption = (
        "On the probe batch after the last epoch; the cosines with the last step are of each loss's "
        "direction of descent where this step ended. Means over seeds ± standard error."
    )
    table = Table("gradients", "Gradients", caption, (ARM, *heads), by_arm(rows, series))
    return trimmed(table)


def layers(found: Mapping[str, Layers], labels: Mapping[str, str]) -> Table | None:
    """Make the table of the gradients in each layer.

    Args:
        found: name of an arm -> its layers.
        labels: name of an arm -> what it is called where there is little room.

    Returns:
        The table, folded; nothing if no run has such numbers.
    """
    heads = [Column("Layer", ("arm", "layer", "place"))]
    heads += [
        number_column(f"Cosine, {when} epoch", f"cosine_{when}") for when in ("first", "middle", "last")
    ]
    heads += [
        number_column("Norm ratio, last epoch", "norm_ratio_last"),
        percent_column("Opposite signs, last epoch", "sign_disagreement_last"),
    ]
    groups = []
    for name, one in found.items():
        rows = tuple(_row(name, one, place) for place in range(len(one.names)))
        groups.append(Group(labels.get(name, name), rows))
    caption = (
        "Weights of two or more dimensions in the order of the network, on the probe batch. Means over seeds "
        "± standard error."
    )
    folded = "The gradients in each layer, in numbers"
    return trimmed(Table("layers", "Gradients by layer", caption, tuple(heads), tuple(groups), folded))


def _row(arm: str, found: Layers, place: int) -> tuple[Cell, ...]:
    middle = (len(found.epochs) - 1) // 2
    cosines = (_cell(found, "cosine", place, epoch) for epoch in (0, middle, -1))
    others = (_cell(found, measure, place, -1) for measure in MEASURES if measure != "cosine")
    return (Cell(found.names[place], (), (arm, found.names[place], place + 1)), *cosines, *others)


def _cell(found: Layers, measure: str, place: int, epoch: int) -> Cell:
    known = finite(np.asarray(found.values[measure][:, place, epoch]))
    if not known:
        return EMPTY
    return (percent_cell if measure == "sign_disagreement" else number_cell)(estimate(known))
