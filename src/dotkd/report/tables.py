"""The tables of a report, and how their numbers are written.

To add a table, write a function here under ``@table(NAME, SECTION)``. A cell has text for readers and
unrounded numbers for the CSV file, both from the same estimate. Text is plain: ``page`` escapes it.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from dotkd.report.evidence import (
    WORSE,
    Evidence,
    Layers,
    against_fronts,
    attacks,
    corruptions,
    dominance,
    part,
    strengths,
    worst_classes_of,
)
from dotkd.report.statistics import (
    BEST_TEST,
    VALIDATION,
    Arm,
    Difference,
    Estimate,
    difference,
    estimate,
)

Value = str | int | float | None
DASH, MINUS = "\N{EN DASH}", "\N{MINUS SIGN}"
_FOLD_FROM = 13  # paired differences from which on the table is folded
_WORST = 5  # classes in the table of the worst classes
_MEANS = "Means over seeds ± standard error."


@dataclass(frozen=True)
class Column:
    """``title`` is the head on the page, ``fields`` are the heads in the CSV file."""

    title: str
    fields: tuple[str, ...]


@dataclass(frozen=True)
class Cell:
    """Text, quieter lines below it, a value for each field of the column, and an emphasis."""

    text: str = ""
    small: tuple[str, ...] = ()
    values: tuple[Value, ...] = ()
    marked: bool = False


EMPTY = Cell()
Row = tuple[Cell, ...]


@dataclass(frozen=True)
class Group:
    """Rows under a heading, which may be empty; the first cell of a row names the row."""

    heading: str
    rows: tuple[Row, ...]


@dataclass(frozen=True)
class Table:
    """A table; ``name`` names its CSV file, ``folded`` is the summary of a table that the page folds."""

    name: str
    title: str
    caption: str
    columns: tuple[Column, ...]
    groups: tuple[Group, ...]
    folded: str = ""

    @property
    def rows(self) -> tuple[Row, ...]:
        """The rows of all groups."""
        return tuple(row for group in self.groups for row in group.rows)


Make = Callable[[Evidence], Table | None]
TABLES: dict[str, tuple[str, Make]] = {}
"""Name of a table -> its section and its function, in the order of a report."""


def table(name: str, section: str) -> Callable[[Make], Make]:
    """Register a function that makes a table, or None if there is nothing to show."""

    def register(make: Make) -> Make:
        TABLES[name] = section, make
        return make

    return register


def tables_of(section: str, evidence: Evidence) -> list[Table]:
    """Make the tables of a section, without empty rows and columns."""
    made = [make(evidence) for place, make in TABLES.values() if place == section]
    trimmed = [trim(one) for one in made if one is not None]
    return [one for one in trimmed if one is not None]


def trim(table: Table) -> Table | None:
    """Remove rows and columns without text; None if nothing is left."""
    full = [row for row in table.rows if any(cell.text for cell in row[1:])]
    if not full:
        return None
    kept = [0] + [place for place in range(1, len(table.columns)) if any(row[place].text for row in full)]
    groups = [
        replace(group, rows=tuple(tuple(row[place] for place in kept) for row in group.rows if row in full))
        for group in table.groups
    ]
    columns = tuple(table.columns[place] for place in kept)
    return replace(table, columns=columns, groups=tuple(group for group in groups if group.rows))


# ---------------------------------------------------------------- numbers as text


def points(fraction: float) -> str:
    """Write a difference of accuracies in percentage points, with its sign even where it rounds to 0."""
    sign = "+" if fraction > 0 else MINUS if fraction < 0 else ""
    return f"{sign}{100 * abs(fraction):.2f}"


def interval(difference: Difference) -> str:
    """Write the interval of a difference; empty without one."""
    if difference.low is None or difference.high is None:
        return ""
    return f"{points(difference.low)} to {points(difference.high)}"


def percent(estimate: Estimate) -> str:
    """Write an accuracy in percent, with its standard error if it has one."""
    return f"{100 * estimate.mean:.2f}" + ("" if estimate.error is None else f" ± {100 * estimate.error:.2f}")


def number(estimate: Estimate) -> str:
    """Write an estimate, with its standard error if it has one, to as many digits as both need."""
    error = estimate.error or 0.0
    if error < 1e-9 * abs(estimate.mean):  # rounding of equal values
        error = 0.0
    digits = max(_decimals(estimate.mean) + 2, _decimals(error) if error else 0)
    mean = f"{estimate.mean:.{digits}f}".replace("-", MINUS)
    return mean if estimate.error is None else f"{mean} ± {error:.{digits}f}"


def _decimals(value: float) -> int:
    """Return the decimals that show the first digit of a number, at most 6."""
    return min(6, max(0, -math.floor(math.log10(abs(value))))) if value else 0


def large(count: float) -> str:
    """Write a large count with three digits and a prefix, such as 41.3 M."""
    for size, prefix in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if count >= size:
            return f"{count / size:.3g} {prefix}"
    return f"{count:.0f}"


# ---------------------------------------------------------------- columns and cells

Filled = tuple[Column, Mapping[str, Cell]]  # a column, and its cell in the row of each arm


def _by_arm(evidence: Evidence, filled: Iterable[Filled]) -> tuple[tuple[Column, ...], tuple[Group, ...]]:
    """Put columns together: a row for each arm; arms of a sweep stand under their base."""
    columns, cells = zip(*filled, strict=True)
    comparison = evidence.comparison
    names = [name for name in comparison.arms if any(name in column for column in cells)]

    def row(name: str, label: str) -> Row:
        return (Cell(label, (), (name,)), *(column.get(name, EMPTY) for column in cells))

    swept = {name for series in comparison.series for name in series.names}
    groups = [Group("", tuple(row(name, name) for name in names if name not in swept))]
    for series in comparison.series:
        rows = tuple(row(point.name, point.label) for point in series.points if point.name in names)
        groups.append(Group(f"{series.base}, by {' and '.join(series.keys)}", rows))
    return (Column("Arm", ("arm",)), *columns), tuple(groups)


def _percent_column(title: str, field: str) -> Column:
    return Column(f"{title} (%)", tuple(f"{field}_{what}" for what in ("percent", "sd", "se", "n")))


def _number_column(title: str, field: str) -> Column:
    return Column(title, tuple(f"{field}_{what}" for what in ("mean", "sd", "se", "n")))


def _percent_cell(found: Estimate | None, *small: str) -> Cell:
    return EMPTY if found is None else Cell(small=small, values=_values(found, 100.0), text=percent(found))


def _number_cell(found: Estimate | None, *small: str) -> Cell:
    return EMPTY if found is None else Cell(small=small, values=_values(found, 1.0), text=number(found))


def _values(found: Estimate, factor: float) -> tuple[Value, ...]:
    spread = (None if value is None else factor * value for value in (found.deviation, found.error))
    return (factor * found.mean, *spread, found.n)


def _percents(title: str, field: str, found: Mapping[str, Estimate | None]) -> Filled:
    return _percent_column(title, field), {name: _percent_cell(one) for name, one in found.items()}


def _numbers(title: str, field: str, found: Mapping[str, Estimate | None]) -> Filled:
    return _number_column(title, field), {name: _number_cell(one) for name, one in found.items()}


def _difference_column(title: str, field: str) -> Column:
    return Column(f"{title} (points)", tuple(f"{field}_{what}" for what in ("points", "low", "high", "n")))


def _difference_cell(found: Difference | None) -> Cell:
    if found is None or found.mean is None:
        return EMPTY
    values = (None if value is None else 100 * value for value in (found.mean, found.low, found.high))
    small = () if found.low is None else (interval(found),)
    return Cell(points(found.mean), small, (*values, len(found.seeds)))


def _effect_cell(found: Difference | None) -> Cell:
    if found is None or found.effect is None:
        return EMPTY
    return Cell(f"{found.effect:+.2f}".replace("-", MINUS), (), (found.effect,))


def _seconds_cell(value: float) -> Cell:
    return Cell(f"{value:,.0f}" if value >= 10 else f"{value:.1f}", (), (value,))


# ---------------------------------------------------------------- results


@table("results", "results")
def _results(evidence: Evidence) -> Table:
    summary, alone = evidence.summary, len(evidence.summary.arms) == 1
    to_baseline = {one.arm: _difference_cell(one) for one in summary.to_baseline}
    to_baseline[summary.baseline] = EMPTY if alone else Cell("baseline")
    filled: list[Filled] = [
        (
            Column("Seeds", ("seeds",)),
            {arm.name: Cell(str(arm.test.n), (), (arm.test.n,)) for arm in summary.arms},
        ),
        (
            _percent_column("Test accuracy, last epoch", "test_last"),
            {arm.name: _accuracy_cell(arm.test, arm.epochs) for arm in summary.arms},
        ),
        (
            _percent_column("Test accuracy, best epoch", "test_best"),
            {arm.name: _accuracy_cell(arm.best, arm.best_epochs) for arm in summary.arms},
        ),
        (_difference_column(f"Difference to {summary.baseline}", "difference_last"), to_baseline),
        (
            Column("Effect size", ("effect_last_dz",)),
            {one.arm: _effect_cell(one) for one in summary.to_baseline},
        ),
        (Column("Seconds", ("seconds",)), {arm.name: _seconds_cell(arm.seconds) for arm in summary.arms}),
    ]
    columns, groups = _by_arm(evidence, filled)
    heading = "Teachers" if evidence.comparison.series and summary.teachers else ""
    teachers = tuple(
        (
            Cell(one.name, () if "teacher" in one.name.lower() else ("teacher",), (one.name,)),
            Cell("1", (), (1,)),
            Cell(f"{100 * one.test_accuracy:.2f}", (), (100 * one.test_accuracy, None, None, 1)),
            *[EMPTY] * (len(columns) - 3),
        )
        for one in summary.teachers
    )
    caption = "Means over seeds ± standard error, with the standard deviation (SD), on the test set."
    if any(arm.best for arm in summary.arms):
        caption += " The best epoch is chosen on validation images."
    if not alone:
        caption += (
            " Differences: last epoch, paired by seed, with 95 % interval; the effect size is Cohen's d_z, "
            "their mean over their standard deviation."
        )
    return Table("results", "Results", caption, columns, (*groups, Group(heading, teachers)))


def _accuracy_cell(found: Estimate | None, epochs: Sequence[int]) -> Cell:
    if found is None:
        return EMPTY
    low, high = min(epochs, default=0), max(epochs, default=0)
    said = f"epoch {low}" if low == high else f"epochs {low}{DASH}{high}"
    if found.deviation is not None:
        said = f"SD {100 * found.deviation:.2f}, {said}"
    return _percent_cell(found, said)


@table("differences", "results")
def _differences(evidence: Evidence) -> Table:
    summary, arms = evidence.summary, evidence.comparison.arms
    once: dict[frozenset[str], Difference] = {}
    for one in (*summary.to_sgd, *summary.to_control, *summary.to_plain, *summary.to_baseline):
        once.setdefault(frozenset((one.arm, one.against)), one)
    rows = []
    for one in once.values():
        best = difference(arms[one.arm], arms[one.against], BEST_TEST)
        rows.append(
            (
                Cell(one.arm, (f"minus {one.against}",), (one.arm, one.against)),
                _difference_cell(one),
                _effect_cell(one),
                Cell(one.verdict, (), (one.verdict,)),
                _difference_cell(best),
                _effect_cell(best),
            )
        )
    columns = (
        Column("Arms", ("arm", "against")),
        _difference_column("Last epoch", "last"),
        Column("Effect size", ("last_dz",)),
        Column("Verdict", ("last_verdict",)),
        _difference_column("Best epoch", "best"),
        Column("Effect size, best epoch", ("best_dz",)),
    )
    caption = (
        "Test accuracy of the first arm minus that of the second, paired by seed, each with its own 95 % "
        "interval: of many intervals some exclude 0 by chance. The verdict is for the last epoch."
    )
    folded = f"All {len(rows)} paired differences" if len(rows) >= _FOLD_FROM else ""
    groups = (Group("", tuple(rows)),)
    return Table("differences", "Paired differences", caption, columns, groups, folded)


# ---------------------------------------------------------------- losses


def _metrics(evidence: Evidence, titles: Mapping[str, str]) -> list[Filled]:
    """Return a column for each metric of the last epoch; shares are in percent."""
    shares, found = (
        (VALIDATION, "gradient_sign_disagreement"),
        {name: evidence.metric(name) for name in titles},
    )
    return [
        (_percents if name in shares else _numbers)(title, name, found[name])
        for name, title in titles.items()
    ]


@table("losses", "losses")
def _losses(evidence: Evidence) -> Table:
    titles = {
        VALIDATION: "Validation accuracy",
        "train_task_loss": "Task loss, train",
        "validation_loss": "Task loss, validation",
        "train_distill_loss": "Distillation loss, train",
        "validation_distill_loss": "Distillation loss, validation",
    }
    caption = f"Last epoch; raw losses, before any weight. {_MEANS}"
    return Table("losses", "Losses", caption, *_by_arm(evidence, _metrics(evidence, titles)))


@table("dominance", "losses")
def _dominance(evidence: Evidence) -> Table:
    labels = evidence.comparison.labels
    found = [row for plane in evidence.planes for row in dominance(plane)]

    def names(arms: Sequence[str], of: int) -> Cell:
        return Cell(f"{len(arms)} of {of}", tuple(labels[arm] for arm in arms), ("; ".join(arms),))

    filled: tuple[Filled, ...] = (
        (
            Column("Not dominated, seeds", ("not_dominated", "seeds")),
            {one.arm: Cell(f"{one.alone} of {one.seeds}", (), (one.alone, one.seeds)) for one in found},
        ),
        (
            Column("Dominates with every seed", ("dominates",)),
            {one.arm: names(one.over, one.others) for one in found},
        ),
        (
            Column("Dominated with every seed by", ("dominated_by",)),
            {one.arm: names(one.under, one.others) for one in found},
        ),
    )
    splits = " / ".join(dict.fromkeys(plane.split for plane in evidence.planes))
    caption = (
        f"On {splits} losses after the last epoch: an arm dominates another if it is as low in both losses "
        "and lower in one, with the same seed. Only arms with the same distillation loss are compared. "
        "An arm may be dominated by one arm with some seeds and by another arm with the others."
    )
    return Table("dominance", "Dominance", caption, *_by_arm(evidence, filled))


@table("tradeoff", "losses")
def _tradeoff(evidence: Evidence) -> Table:
    found = [row for plane in evidence.planes for row in against_fronts(plane, evidence.comparison)]
    columns = (
        Column("Arm", ("arm", "front_of", "arms_of_the_front")),
        Column("Seeds", ("seeds",)),
        Column("Not dominated", ("not_dominated",)),
        Column("Below the front", ("below",)),
        Column("Past an end of the front", ("beyond",)),
    )
    rows = tuple(
        (
            Cell(one.arm, (f"against {one.base}",), (one.arm, one.base, one.arms)),
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
    return Table("tradeoff", "Against the front", caption, columns, (Group("", rows),))


# ---------------------------------------------------------------- gradients


@table("gradients", "gradients")
def _gradients(evidence: Evidence) -> Table:
    titles = {
        "gradient_cosine": "Cosine between the gradients",
        "gradient_norm_ratio": "Norm ratio, task to distillation",
        "gradient_sign_disagreement": "Opposite signs",
        "task_total_cosine": "Cosine, task and sum",
        "distill_total_cosine": "Cosine, distillation and sum",
        "task_update_cosine": "Cosine, task and last step",
        "distill_update_cosine": "Cosine, distillation and last step",
    }
    caption = (
        "Probe batch after the last epoch. The cosines with the last step compare it with the negative "
        f"gradient of each loss at its end. {_MEANS}"
    )
    return Table("gradients", "Gradients", caption, *_by_arm(evidence, _metrics(evidence, titles)))


@table("layers", "gradients")
def _layers(evidence: Evidence) -> Table:
    columns = (
        Column("Layer", ("arm", "layer", "place")),
        *(_number_column(f"Cosine, {when} epoch", f"cosine_{when}") for when in ("first", "middle", "last")),
        _number_column("Norm ratio, last epoch", "norm_ratio_last"),
        _percent_column("Opposite signs, last epoch", "sign_disagreement_last"),
    )
    labels = evidence.comparison.labels
    groups = tuple(
        Group(labels[arm], tuple(_layer(arm, layers, place) for place in range(len(layers.names))))
        for arm, layers in evidence.layers.items()
    )
    caption = f"Weights of two or more dimensions in the order of the network, on the probe batch. {_MEANS}"
    folded = "The gradients of each layer, in numbers"
    return Table("layers", "Gradients by layer", caption, columns, groups, folded)


def _layer(arm: str, layers: Layers, place: int) -> Row:
    name, last = layers.names[place], len(layers.epochs) - 1
    found = [estimate(layers.values["cosine"][:, place, epoch]) for epoch in (0, last // 2, last)]
    found.append(estimate(layers.values["norm_ratio"][:, place, last]))
    opposite = estimate(layers.values["sign_disagreement"][:, place, last])
    return (Cell(name, (), (arm, name, place + 1)), *map(_number_cell, found), _percent_cell(opposite))


# ---------------------------------------------------------------- minima


@table("sharpness", "minima")
def _sharpness(evidence: Evidence) -> Table | None:
    if not evidence.analysed:
        return None
    filled: list[Filled] = []
    for loss, title in (("task", "Task loss"), ("distill", "Distillation loss")):
        for key, form in (("", ""), ("filter_normalized.", ", filter\N{NON-BREAKING HYPHEN}normalised")):
            name = f"{loss}_{key.replace('.', '_')}"
            eigenvalue = "eigenvalue" if key else "eigenvalues"
            largest, trace, error = (
                evidence.analysis(f"sharpness.{loss}.{key}{value}")
                for value in (eigenvalue, "trace", "trace_error")
            )
            small = {arm: (f"each ± {one.mean:.3g}",) if one else () for arm, one in error.items()}
            traces = {arm: _number_cell(one, *small[arm]) for arm, one in trace.items()}
            filled += [
                _numbers(f"{title}: largest eigenvalue{form}", f"{name}eigenvalue", largest),
                (_number_column(f"{title}: trace{form}", f"{name}trace"), traces),
            ]
        epsilon = f"{title}: \N{GREEK SMALL LETTER EPSILON}\N{NON-BREAKING HYPHEN}sharpness"
        rise = evidence.analysis(f"sharpness.{loss}.epsilon_sharpness")
        filled.append(_numbers(epsilon, f"{loss}_epsilon_sharpness", rise))
    # The same for both losses; a method may use one of them.
    norms = [evidence.analysis(f"sharpness.{loss}.weight_norm") for loss in ("distill", "task")]
    filled.append(_numbers("Norm of the weights", "weight_norm", norms[0] | norms[1]))
    every = [one for run in evidence.analysed_runs for one in (part(run, "sharpness") or {}).values()]
    sizes = {one.rho for one in every}
    size = sizes.pop() if len(sizes) == 1 else None
    within = "a small distance" if size is None else f"a Euclidean distance of {size:g} between parameters"
    caption = (
        "Hessian of the raw losses at the end of training: largest eigenvalue and trace, both estimated. "
        "Larger weights in front of batch norm lower both and change nothing else; the filter-normalised "
        "ones, in units of the norm of each filter, are free of that. "
        f"\N{GREEK SMALL LETTER EPSILON}-sharpness is the rise of the loss within {within}. {_MEANS}"
    )
    return Table("sharpness", "Sharpness", caption, *_by_arm(evidence, filled))


@table("interpolation", "minima")
def _interpolation(evidence: Evidence) -> Table:
    labels = evidence.comparison.labels
    columns = (
        Column("Arm", ("arm", "from", "same_seed")),
        Column("Lines", ("lines",)),
        _number_column("Task loss: barrier", "task_barrier"),
        _number_column("Distillation loss: barrier", "distill_barrier"),
        Column("Accuracy: barrier (points)", _percent_column("", "accuracy_barrier").fields),
    )
    groups: dict[tuple[str, str], list[Row]] = {}
    for line in evidence.lines:
        count = max((len(values) for values in line.values.values()), default=0)
        barriers = {name: estimate(line.barriers(name)) for name in WORSE}
        groups.setdefault((line.start, line.seeds), []).append(
            (
                Cell(labels.get(line.arm, line.arm), (), (line.arm, line.start, line.paired)),
                Cell(str(count), (), (count,)),
                _number_cell(barriers["task"]),
                _number_cell(barriers["distill"]),
                _percent_cell(barriers["accuracy"]),
            )
        )
    caption = (
        "The barrier is the largest rise of a measure on the line between two students above the straight "
        "line between its ends; 0 means none. Means over lines ± standard error."
    )
    headed = tuple(
        Group(f"From {labels.get(start, start)}, to arms {seeds}", tuple(rows))
        for (start, seeds), rows in groups.items()
    )
    return Table("interpolation", "Between students", caption, columns, headed)


# ---------------------------------------------------------------- predictions and cost


@table("calibration", "quality")
def _calibration(evidence: Evidence) -> Table | None:
    if not evidence.analysed:
        return None
    titles = {"ece": "Calibration error (ECE)", "nll": "Negative log-likelihood", "brier": "Brier score"}
    filled = [_numbers(title, key, evidence.analysis(f"quality.{key}")) for key, title in titles.items()]
    diagrams = [part(run, "quality.reliability") for run in evidence.analysed_runs]
    bins = {len(one.count) for one in diagrams if one is not None}
    sized = f"ECE with {bins.pop()} bins of equal width. " if len(bins) == 1 else ""
    caption = f"Lower is better. {sized}{_MEANS}"
    return Table("calibration", "Calibration", caption, *_by_arm(evidence, filled))


@table("agreement", "quality")
def _agreement(evidence: Evidence) -> Table | None:
    if not evidence.analysed:
        return None
    shares = {
        "top1": "Same class as the teacher",
        "student_right": "Student right where they differ",
        "teacher_right": "Teacher right where they differ",
        "neither": "Neither right where they differ",
    }
    filled = [
        *(
            _percents(title, key, evidence.analysis(f"quality.agreement.{key}"))
            for key, title in shares.items()
        ),
        _numbers("KL(teacher, student)", "kl", evidence.analysis("quality.agreement.kl")),
    ]
    caption = (
        "Agreement with the teacher is not accuracy. The last three shares are of the images on which the "
        f"two differ. {_MEANS}"
    )
    return Table("agreement", "Agreement with the teacher", caption, *_by_arm(evidence, filled))


@table("robustness", "quality")
def _robustness(evidence: Evidence) -> Table | None:
    analysed = evidence.analysed
    filled = []
    for kind in corruptions(analysed):
        tables = {arm: strengths(runs, kind) for arm, runs in analysed.items()}
        means = {arm: estimate(one.mean(axis=1)) for arm, one in tables.items() if one.size}
        filled.append(_percents(kind.replace("_", " ").capitalize(), f"corrupted_{kind}", means))
    attacked = {arm: attacks(runs) for arm, runs in analysed.items()}
    for kind, size in dict.fromkeys(key for found in attacked.values() for key in found):
        estimates = {arm: found.get((kind, size)) for arm, found in attacked.items()}
        filled.append(_percents(f"{kind.upper()}, {size}", f"attacked_{kind}_{size}", estimates))
    if not filled:
        return None
    caption = f"Accuracy under corruption, mean over all strengths, and under attack. {_MEANS}"
    return Table("robustness", "Robustness", caption, *_by_arm(evidence, filled))


@table("worst_classes", "quality")
def _worst_classes(evidence: Evidence) -> Table | None:
    if not evidence.analysed:
        return None
    found = {arm: worst_classes_of(runs, _WORST) for arm, runs in evidence.analysed.items()}
    counts = {
        arm: sum(bool(part(run, "quality.worst_classes")) for run in runs)
        for arm, runs in evidence.analysed.items()
    }
    filled = []
    for place in range(_WORST):
        n = place + 1
        column = Column(
            f"Worst {n}" if place else "Worst class", (f"class_{n}", f"percent_{n}", f"seeds_{n}")
        )
        ranked = {arm: classes[place] for arm, classes in found.items() if place < len(classes)}
        cells = {
            arm: Cell(
                one.name,
                (f"{percent(one.accuracy)} %", f"{one.seeds} of {counts[arm]} seeds"),
                (one.name, 100 * one.accuracy.mean, one.seeds),
            )
            for arm, one in ranked.items()
        }
        filled.append((column, cells))
    caption = (
        "The classes that most seeds list among their worst, with their accuracy for these seeds; ties are "
        "broken by lower accuracy, then by the order of the data set, so classes outside the list may be as "
        f"weak. {_MEANS}"
    )
    return Table("worst_classes", "Worst classes", caption, *_by_arm(evidence, filled))


@table("cost", "cost")
def _cost(evidence: Evidence) -> Table:
    arms = evidence.summary.arms
    parameters, flops = (evidence.analysis(f"cost.{key}") for key in ("parameters", "flops"))
    latency = evidence.analysis("cost.latency_seconds", 1000.0)
    counts = {arm.name: _count(arm, parameters.get(arm.name)) for arm in arms}
    filled: tuple[Filled, ...] = (
        (
            Column("Parameters", ("parameters",)),
            {arm: Cell(f"{count:,.0f}", (), (count,)) for arm, count in counts.items()},
        ),
        (
            Column("FLOPs for an image", ("flops",)),
            {arm: Cell(large(one.mean), (), (one.mean,)) for arm, one in flops.items() if one},
        ),
        _numbers("Latency for an image (ms)", "latency_ms", latency),
        (
            Column("Training (s)", ("training_seconds",)),
            {arm.name: _seconds_cell(arm.seconds) for arm in arms},
        ),
    )
    caption = (
        "The student as deployed; a multiply-add counts as two FLOPs. Training time excludes teachers and "
        "evaluation. Timings include other load on the machine; networks of equal cost show how much."
    )
    return Table("cost", "Cost", caption, *_by_arm(evidence, filled))


def _count(arm: Arm, measured: Estimate | None) -> int:
    return arm.parameters if measured is None else round(measured.mean)


# ---------------------------------------------------------------- tuning


@table("tuning", "tuning")
def _tuning(evidence: Evidence) -> Table | None:
    tuning = evidence.comparison.tuning
    if tuning is None:
        return None
    seeds = len(tuning.seeds)
    columns = (
        Column("Arm", ("arm",)),
        *(_percent_column(f"lr {rate:g}", f"lr_{rate:g}") for rate in tuning.rates),
        Column("Chosen", ("chosen",)),
    )
    rows = tuple(
        (
            Cell(name, (), (name,)),
            *(_rate(arm.accuracies(rate), seeds, chosen=rate == arm.chosen) for rate in tuning.rates),
            Cell(f"{arm.chosen:g}", (), (arm.chosen,)),
        )
        for name, arm in tuning.arms.items()
    )
    caption = (
        f"Validation accuracy after the last epoch, mean over {seeds} seeds ± standard error; the chosen "
        "rate of each arm is marked. These seeds are not those of the results."
    )
    folded = f"Learning rates: {len(tuning.rates)} rates for {len(tuning.arms)} arms"
    return Table("tuning", "Learning rates", caption, columns, (Group("", rows),), folded)


def _rate(accuracies: Sequence[float] | None, seeds: int, *, chosen: bool) -> Cell:
    if accuracies is None:
        return EMPTY
    missing = seeds - len(accuracies)
    small = (f"{missing} of {seeds} diverged",) if missing > 0 else ()
    found = estimate(accuracies)
    if found is None:
        return Cell(DASH, small, (None, None, None, 0))
    cell = _percent_cell(found, *small, *(["chosen"] if chosen else []))
    return replace(cell, marked=chosen)
