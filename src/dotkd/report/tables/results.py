"""The tables of a comparison: what each arm came to, and how arms differ seed by seed."""

from collections.abc import Mapping, Sequence

from dotkd.report.statistics import Arm, Difference, Summary, best_test, difference
from dotkd.report.sweep import Series
from dotkd.report.tables.table import (
    ARM,
    EMPTY,
    Cell,
    Column,
    Group,
    Table,
    by_arm,
    difference_cell,
    difference_column,
    effect_cell,
    number_cell,
    number_column,
    percent_cell,
    percent_column,
    trimmed,
)
from dotkd.report.text import seconds
from dotkd.runs import RunRecord

_SHORT = 12  # longer tables of differences are folded


def results(summary: Summary, series: Sequence[Series]) -> Table | None:
    """Make the main table: a row for each arm, those of a sweep under their base, teachers last.

    Args:
        summary: the numbers.
        series: the arms of a sweep.

    Returns:
        The table.
    """
    groups = by_arm({arm.name: _row(arm, summary) for arm in summary.arms}, series)
    teachers = Group("Teachers" if series and summary.teachers else "", _teachers(summary))
    caption = "Means over seeds ± standard error, SD their standard deviation; accuracies on the test set."
    if any(arm.best for arm in summary.arms):
        caption += " The best epoch is the one chosen on validation images."
    if len(summary.arms) > 1:
        caption += (
            " Differences are of the last epoch, paired by seed, with their 95 % interval; the effect size "
            "is Cohen's d_z, their mean over their standard deviation."
        )
    return trimmed(Table("results", "Results", caption, _columns(summary), (*groups, teachers)))


def _columns(summary: Summary) -> tuple[Column, ...]:
    return (
        ARM,
        Column("Seeds", ("seeds",)),
        percent_column("Test accuracy, last epoch", "test_last"),
        percent_column("Test accuracy, best epoch", "test_best"),
        difference_column(f"Difference to {summary.baseline}", "difference_last"),
        Column("Effect size", ("effect_last_dz",)),
        Column("Seconds", ("seconds",)),
    )


def _row(arm: Arm, summary: Summary) -> tuple[Cell, ...]:
    found = next((d for d in summary.to_baseline if d.arm == arm.name), None)
    to_baseline = Cell("baseline", (), ()) if arm.name == summary.baseline else difference_cell(found)
    alone = len(summary.arms) == 1
    return (
        Cell(str(arm.test.n), (), (arm.test.n,)),
        percent_cell(arm.test, _epochs(arm.epochs), deviation=True),
        percent_cell(arm.best, _epochs(arm.best_epochs), deviation=True),
        EMPTY if alone else to_baseline,
        effect_cell(found),
        Cell(seconds(arm.seconds), (), (arm.seconds,)),
    )


def _epochs(epochs: Sequence[int]) -> str:
    low, high = min(epochs, default=0), max(epochs, default=0)
    return f"epoch {low}" if low == high else f"epochs {low}\N{EN DASH}{high}"


def _teachers(summary: Summary) -> tuple[tuple[Cell, ...], ...]:
    rest = (EMPTY,) * (len(_columns(summary)) - 3)
    return tuple(
        (
            Cell(teacher.name, () if "teacher" in teacher.name.lower() else ("teacher",), (teacher.name,)),
            Cell("1", (), (1,)),
            Cell(f"{100 * teacher.test_accuracy:.2f}", (), (100 * teacher.test_accuracy, None, None, 1)),
            *rest,
        )
        for teacher in summary.teachers
    )


# ---------------------------------------------------------------- losses


def losses(summary: Summary, series: Sequence[Series]) -> Table | None:
    """Make the table of what is known of the last epoch beside the test accuracy.

    Args:
        summary: the numbers.
        series: the arms of a sweep.

    Returns:
        The table.
    """
    columns = (
        ARM,
        percent_column("Validation accuracy", "validation_accuracy"),
        number_column("Task loss, train", "train_task_loss"),
        number_column("Task loss, validation", "validation_loss"),
        number_column("Distillation loss, train", "train_distill_loss"),
        number_column("Distillation loss, validation", "validation_distill_loss"),
    )
    rows = {
        arm.name: (
            percent_cell(arm.validation),
            number_cell(arm.task_loss),
            number_cell(arm.validation_loss),
            number_cell(arm.distill_loss),
            number_cell(arm.validation_distill_loss),
        )
        for arm in summary.arms
    }
    caption = "The last epoch, means over seeds ± standard error; losses raw, before any weight."
    return trimmed(Table("losses", "Losses", caption, columns, by_arm(rows, series)))


# ---------------------------------------------------------------- differences


def differences(summary: Summary, groups: Mapping[str, Sequence[RunRecord]]) -> Table | None:
    """Make the table of all paired differences, of the last epoch and of the best.

    Args:
        summary: the differences of the last epoch.
        groups: name of an arm -> its runs.

    Returns:
        The table; nothing if there is one arm only.
    """
    once: dict[frozenset[str], Difference] = {}
    for one in (*summary.to_sgd, *summary.to_control, *summary.to_plain, *summary.to_baseline):
        once.setdefault(frozenset((one.arm, one.against)), one)
    columns = (
        Column("Arms", ("arm", "against")),
        difference_column("Last epoch", "last"),
        Column("Effect size", ("last_dz",)),
        Column("Verdict", ("last_verdict",)),
        difference_column("Best epoch", "best"),
        Column("Effect size, best epoch", ("best_dz",)),
    )
    rows = tuple(_difference(one, groups) for one in once.values())
    caption = (
        "Test accuracy of the first arm minus that of the second, paired by seed, with the 95 % interval of "
        "each difference alone: of many intervals some exclude 0 by chance. The verdict is of the last epoch."
    )
    folded = f"All {len(rows)} paired differences" if len(rows) > _SHORT else ""
    return trimmed(Table("differences", "Paired differences", caption, columns, (Group("", rows),), folded))


def _difference(one: Difference, groups: Mapping[str, Sequence[RunRecord]]) -> tuple[Cell, ...]:
    best = difference(groups[one.arm], groups[one.against], best_test)
    return (
        Cell(one.arm, (f"minus {one.against}",), (one.arm, one.against)),
        difference_cell(one),
        effect_cell(one),
        Cell(one.verdict, (), (one.verdict,)),
        difference_cell(best),
        effect_cell(best),
    )
