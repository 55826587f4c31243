"""The table of the lines between students."""

from collections.abc import Mapping, Sequence

from dotkd.report.between import WORSE, Lines, finite
from dotkd.report.statistics import estimate
from dotkd.report.tables.table import (
    EMPTY,
    Cell,
    Column,
    Group,
    Table,
    number_cell,
    number_column,
    percent_cell,
    percent_column,
    trimmed,
)


def interpolation(found: Sequence[Lines], labels: Mapping[str, str]) -> Table | None:
    """Make the table of how much worse it gets between two students.

    Args:
        found: the lines.
        labels: name of an arm -> what it is called where there is little room.

    Returns:
        The table; nothing if there are no lines.
    """
    columns = (
        Column("Arm", ("arm", "from", "same_seed")),
        Column("Lines", ("lines",)),
        number_column("Task loss: barrier", "task_barrier"),
        number_column("Distillation loss: barrier", "distill_barrier"),
        Column("Accuracy: barrier (points)", percent_column("", "accuracy_barrier").fields),
    )
    groups = []
    for start, whose in dict.fromkeys((line.start, line.whose) for line in found):
        rows = tuple(_row(line, labels) for line in found if (line.start, line.whose) == (start, whose))
        groups.append(Group(f"From {labels.get(start, start)}, to arms {whose}", rows))
    caption = (
        "The barrier is how far the line between two students gets worse than a straight line between its "
        "ends, at its worst place; 0 means nowhere. Means over lines ± standard error."
    )
    return trimmed(Table("interpolation", "Between students", caption, columns, tuple(groups)))


def _row(line: Lines, labels: Mapping[str, str]) -> tuple[Cell, ...]:
    count = max(len(values) for values in line.values.values()) if line.values else 0
    cells = [_cell(line, measure) for measure in WORSE]
    return (
        Cell(labels.get(line.arm, line.arm), (), (line.arm, line.start, line.paired)),
        Cell(str(count), (), (count,)),
        *cells,
    )


def _cell(line: Lines, measure: str) -> Cell:
    known = finite(line.barriers(measure)) if measure in line.values else []
    if not known:
        return EMPTY
    return (percent_cell if measure == "accuracy" else number_cell)(estimate(known))
