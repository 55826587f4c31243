"""The table of a tuning: what each learning rate came to for each arm."""

from dotkd.report.inputs import TunedArm, Tuning
from dotkd.report.statistics import estimate
from dotkd.report.tables.table import (
    ARM,
    EMPTY,
    Cell,
    Column,
    Group,
    Table,
    percent_cell,
    percent_column,
    trimmed,
)


def tuning(found: Tuning) -> Table | None:
    """Make the table of rates and arms.

    Args:
        found: what was tried.

    Returns:
        The table, with the chosen rate of each arm marked.
    """
    columns = (
        ARM,
        *(percent_column(f"lr {rate:g}", f"lr_{rate:g}") for rate in found.rates),
        Column("Chosen", ("chosen",)),
    )
    rows = tuple(
        (
            Cell(name, (), (name,)),
            *(_cell(arm, rate, len(found.seeds)) for rate in found.rates),
            Cell(f"{arm.chosen:g}", (), (arm.chosen,)),
        )
        for name, arm in found.arms.items()
    )
    caption = (
        f"Validation accuracy after the last epoch, mean over {len(found.seeds)} seeds ± standard error; the "
        "rate that was chosen for an arm is marked. These seeds are not those of the results."
    )
    folded = f"Learning rates: {len(found.rates)} rates for {len(found.arms)} arms"
    return trimmed(Table("tuning", "Learning rates", caption, columns, (Group("", rows),), folded))


def _cell(arm: TunedArm, rate: float, seeds: int) -> Cell:
    accuracies = arm.at(rate)
    if accuracies is None:
        return EMPTY
    missing = f"{seeds - len(accuracies)} of {seeds} diverged"
    small = (missing,) if len(accuracies) < seeds else ()
    if not accuracies:
        return Cell("\N{EN DASH}", small, (None, None, None, 0))
    chosen = rate == arm.chosen
    cell = percent_cell(estimate(accuracies), *small, *(["chosen"] if chosen else []))
    return Cell(cell.text, cell.small, cell.values, chosen)
