"""What a table of a report is, before it is HTML, Markdown or CSV.

A cell has the text that people read and the numbers, unrounded, that go to a CSV file; both are made of the
same estimate. Text is plain: whoever shows it escapes it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from dotkd.report.statistics import Difference, Estimate
from dotkd.report.sweep import Series
from dotkd.report.text import effect, interval, number, percent, points

Value = str | int | float | None


@dataclass(frozen=True)
class Column:
    """``title`` is its head on the page, ``fields`` the heads of its columns in the CSV file."""

    title: str
    fields: tuple[str, ...]


@dataclass(frozen=True)
class Cell:
    """``text``, quieter lines below it, a value for each field, and whether the cell stands out."""

    text: str = ""
    small: tuple[str, ...] = ()
    values: tuple[Value, ...] = ()
    marked: bool = False


EMPTY = Cell()
ARM = Column("Arm", ("arm",))


@dataclass(frozen=True)
class Group:
    """Rows under a heading, which may be empty."""

    heading: str
    rows: tuple[tuple[Cell, ...], ...]


@dataclass(frozen=True)
class Table:
    """A table; ``name`` is that of its CSV file, the first cell of a row names the row.

    ``folded``, where there is one, is the line that a page shows until a reader opens the table.
    """

    name: str
    title: str
    caption: str
    columns: tuple[Column, ...]
    groups: tuple[Group, ...]
    folded: str = ""

    @property
    def rows(self) -> tuple[tuple[Cell, ...], ...]:
        """The rows of all groups."""
        return tuple(row for group in self.groups for row in group.rows)


def by_arm(rows: Mapping[str, tuple[Cell, ...]], series: Sequence[Series]) -> tuple[Group, ...]:
    """Put a cell with the name in front of each arm's row; arms of a sweep stand under their base.

    Args:
        rows: name of an arm -> its cells.
        series: the arms of a sweep.

    Returns:
        Arms that were not swept, then each series in order of its values.
    """
    swept = {name for one in series for name in one.names}
    groups = [
        Group("", tuple(_named(name, name, cells) for name, cells in rows.items() if name not in swept))
    ]
    for one in series:
        found = [point for point in one.points if point.name in rows]
        named = tuple(_named(point.label, point.name, rows[point.name]) for point in found)
        groups.append(Group(f"{one.base}, by {' and '.join(one.keys)}", named))
    return tuple(groups)


def _named(said: str, name: str, cells: tuple[Cell, ...]) -> tuple[Cell, ...]:
    return (Cell(said, (), (name,)), *cells)


def trimmed(table: Table) -> Table | None:
    """Leave out rows and columns in which nothing is; nothing remains of a table without numbers."""
    full = [row for row in table.rows if any(cell.text for cell in row[1:])]
    kept = [0] + [place for place in range(1, len(table.columns)) if any(row[place].text for row in full)]
    if not full:
        return None
    groups = []
    for group in table.groups:
        rows = tuple(tuple(row[place] for place in kept) for row in group.rows if row in full)
        if rows:
            groups.append(replace(group, rows=rows))
    return replace(table, columns=tuple(table.columns[place] for place in kept), groups=tuple(groups))


# ---------------------------------------------------------------- columns and cells of numbers


def percent_column(title: str, field: str) -> Column:
    """Head of a column of accuracies."""
    return Column(f"{title} (%)", tuple(f"{field}_{what}" for what in ("percent", "sd", "se", "n")))


def number_column(title: str, field: str) -> Column:
    """Head of a column of other estimates."""
    return Column(title, tuple(f"{field}_{what}" for what in ("mean", "sd", "se", "n")))


def percent_cell(estimate: Estimate | None, *small: str, deviation: bool = False) -> Cell:
    """Write an accuracy with its standard error, and below it the standard deviation if asked for."""
    if estimate is None:
        return EMPTY
    lines = small
    if deviation and estimate.deviation is not None:
        lines = (", ".join([f"SD {100 * estimate.deviation:.2f}", *small]),)
    return Cell(percent(estimate), lines, _values(estimate, 100.0))


def number_cell(estimate: Estimate | None, *small: str) -> Cell:
    """Write another estimate with its standard error."""
    return EMPTY if estimate is None else Cell(number(estimate), small, _values(estimate, 1.0))


def _values(estimate: Estimate, factor: float) -> tuple[Value, ...]:
    spread = (None if value is None else factor * value for value in (estimate.deviation, estimate.error))
    return (factor * estimate.mean, *spread, estimate.n)


def difference_column(title: str, field: str) -> Column:
    """Head of a column of paired differences."""
    fields = tuple(f"{field}_{what}" for what in ("points", "low", "high", "n"))
    return Column(f"{title} (points)", fields)


def difference_cell(difference: Difference | None) -> Cell:
    """Write a paired difference, and below it its interval."""
    if difference is None or difference.mean is None:
        return EMPTY
    found = (difference.mean, difference.low, difference.high)
    values = tuple(None if value is None else 100 * value for value in found)
    small = (interval(difference),) if difference.low is not None else ()
    return Cell(points(difference.mean), small, (*values, len(difference.seeds)))


def effect_cell(difference: Difference | None) -> Cell:
    """Write the effect size of a paired difference."""
    if difference is None or difference.effect is None:
        return EMPTY
    return Cell(effect(difference.effect), (), (difference.effect,))
