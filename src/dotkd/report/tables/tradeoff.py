"""The tables of the trade-off: which arms dominate others, and DOT beside the front of reweighting."""

from collections.abc import Mapping, Sequence

from dotkd.report.sweep import Series
from dotkd.report.tables.table import ARM, Cell, Column, Group, Table, by_arm, trimmed
from dotkd.report.tradeoff import AgainstFront, Dominance


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


def dominance(
    found: Sequence[Dominance], series: Sequence[Series], labels: Mapping[str, str], split: str
) -> Table | None:
    """Make the table of which arms dominate which others.

    Args:
        found: a row each.
        series: the arms of a sweep.
        labels: name of an arm -> what it is called where there is little room.
        split: whose losses they are.

    Returns:
        The table; nothing if no arm has another one to be compared with.
    """
    columns = (
        ARM,
        Column("Not dominated, seeds", ("not_dominated", "seeds")),
        Column("Dominates with every seed", ("dominates",)),
        Column("Is dominated with every seed by", ("dominated_by",)),
    )
    rows = {
        one.arm: (
            Cell(f"{one.alone} of {one.seeds}", (), (one.alone, one.seeds)),
            *(_names(names, one.others, labels) for names in (one.over, one.under)),
        )
        for one in found
    }
    caption = (
        f"Of {split} losses after the last epoch: an arm dominates another one if it is as low in both "
        "losses and lower in one, with the same seed. Only arms of one distillation loss are compared. "
        "The seeds of an arm may be dominated by different arms, none of which does so with every seed."
    )
    return trimmed(Table("dominance", "Dominance", caption, columns, by_arm(rows, series)))


def _names(names: Sequence[str], of: int, labels: Mapping[str, str]) -> Cell:
    said = tuple(labels.get(name, name) for name in names)
    return Cell(f"{len(names)} of {of}", said, ("; ".join(names),))
