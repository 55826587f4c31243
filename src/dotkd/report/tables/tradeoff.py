"""The table of the trade-off: DOT's end points beside the front that reweighting reaches."""

from collections.abc import Sequence

from dotkd.report.tables.table import Cell, Column, Group, Table, trimmed
from dotkd.report.tradeoff import AgainstFront


def against_fronts(found: Sequence[AgainstFront]) -> Table | None:
    """Make the table of counts.

    Args:
        found: the counts, a row each.

    Returns:
        The table; nothing if there are none.
    """
    columns = (
        Column("Arm", ("arm", "front_of", "arms_of_the_front")),
        Column("Seeds", ("seeds",)),
        Column("Not dominated", ("not_dominated",)),
        Column("Below the front", ("below",)),
        Column("Past an end of it", ("beyond",)),
    )
    rows = tuple(
        (
            Cell(one.arm, (f"beside {one.base}",), (one.arm, one.base, one.arms)),
            *(
                Cell(str(count), (), (count,))
                for count in (len(one.seeds), one.not_dominated, one.below, one.beyond)
            ),
        )
        for one in found
    )
    caption = (
        "Numbers of seeds. An arm is dominated if another weighting is as low in both losses and lower in "
        "one, with the same seed; the front is the line through the weightings that are not dominated."
    )
    return trimmed(Table("tradeoff", "Beside the front", caption, columns, (Group("", rows),)))
