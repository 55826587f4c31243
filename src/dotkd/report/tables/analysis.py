"""The tables of the analyses: sharpness, quality, agreement, robustness, weak classes and cost."""

from collections.abc import Callable, Iterator, Mapping, Sequence

from dotkd.report.inputs import Attack, MeasuredOn
from dotkd.report.measured import Measured, corruptions, over, strengths, titled, weak_classes
from dotkd.report.statistics import Summary, estimate
from dotkd.report.sweep import Series
from dotkd.report.tables.table import (
    ARM,
    EMPTY,
    Cell,
    Column,
    Table,
    by_arm,
    number_cell,
    number_column,
    percent_cell,
    percent_column,
    trimmed,
)
from dotkd.report.text import large, percent, seconds

Found = Mapping[str, Sequence[Measured]]
Read = Callable[[Measured], float | None]

LOSSES = {"task": "Task loss", "distill": "Distillation loss"}
WORST = 5
_MEANS = "Means over seeds ± standard error."


def where(found: Found, parts: Sequence[str]) -> Iterator[str]:
    """Say which images some parts of the analyses were measured on.

    Args:
        found: name of an arm -> its analysed runs.
        parts: the parts.

    Yields:
        A sentence, and a warning if a part was not measured on the same images in all runs; nothing if no
        run has any of the parts.
    """
    analyses = [run.analysis for runs in found.values() for run in runs]
    on: dict[str, dict[str, None]] = {}
    for part in parts:
        for one in analyses:
            if getattr(one, part) is not None:
                on.setdefault(_images(one.on(part)), {})[part] = None
    if not on:
        return
    alike = len(on) == 1
    said = " and ".join(text if alike else f"{text} ({', '.join(whose)})" for text, whose in on.items())
    epochs = " / ".join(map(str, sorted({one.epoch for one in analyses if one.epoch is not None})))
    having = [
        sum(any(getattr(run.analysis, part) for part in parts) for run in runs) for runs in found.values()
    ]
    low, high = min(filter(None, having)), max(having)
    runs_of = f"{low} to {high} runs" if low < high else f"{low} run{'s' * (low > 1)}"
    yield (
        f"Measured on {said}{f', after epoch {epochs}' * bool(epochs)}, for {runs_of} of each arm"
        f"{': one run has no error, and says little of another one' * (high == 1)}."
    )
    if unlike := [part for part in parts if sum(part in whose for whose in on.values()) > 1]:
        yield f"Not on the same images in all runs, so that arms may not compare: {', '.join(unlike)}."


def _images(on: MeasuredOn) -> str:
    count = "" if on.images is None else f"{on.images:,}"
    split = {"train": "training"}.get(on.split, on.split) if on.split else ""
    return " ".join(word for word in (count, split, "images") if word)


def sharpness(found: Found, series: Sequence[Series]) -> Table | None:
    """Make the table of the curvature of the losses at the students.

    Args:
        found: name of an arm -> its analysed runs.
        series: the arms of a sweep.

    Returns:
        The table, nothing if none was measured; so for all tables here.
    """
    columns = [ARM]
    rows: dict[str, tuple[Cell, ...]] = dict.fromkeys(found, ())
    for loss, title in LOSSES.items():
        columns += [
            number_column(f"{title}: largest eigenvalue", f"{loss}_eigenvalue"),
            number_column(f"{title}: trace", f"{loss}_trace"),
            number_column(
                f"{title}: \N{GREEK SMALL LETTER EPSILON}\N{NON-BREAKING HYPHEN}sharpness",
                f"{loss}_epsilon_sharpness",
            ),
        ]
        for name, runs in found.items():
            error = over(runs, _curvature(loss, "trace_error"))
            small = (f"each ± {error.mean:.3g}",) if error else ()
            rows[name] += (
                number_cell(over(runs, _eigenvalue(loss))),
                number_cell(over(runs, _curvature(loss, "trace")), *small),
                number_cell(over(runs, _curvature(loss, "epsilon_sharpness"))),
            )
    caption = (
        "Hessian of the raw losses at the end of training: its largest eigenvalue and its trace, each of "
        "which is an estimate with its own error; and the rise of the loss within "
        f"{_distance(found)}. {_MEANS}"
    )
    return trimmed(Table("sharpness", "Sharpness", caption, tuple(columns), by_arm(rows, series)))


def _distance(found: Found) -> str:
    """Say how far the parameters are moved against the loss."""
    parts = [
        part for runs in found.values() for run in runs for part in (run.analysis.sharpness or {}).values()
    ]
    sizes = {part.rho for part in parts}
    (size,) = sizes if len(sizes) == 1 else (None,)
    return "a small distance" if size is None else f"a distance of {size:g} between parameters (Euclidean)"


def _eigenvalue(loss: str) -> Read:
    def read(run: Measured) -> float | None:
        part = (run.analysis.sharpness or {}).get(loss)
        return max((value for value in part.eigenvalues if value is not None), default=None) if part else None

    return read


def _curvature(loss: str, what: str) -> Read:
    def read(run: Measured) -> float | None:
        value: float | None = getattr((run.analysis.sharpness or {}).get(loss), what, None)
        return value

    return read


def calibration(found: Found, series: Sequence[Series]) -> Table | None:
    """Make the table of calibration and proper scores."""
    titles = {"ece": "Calibration error (ECE)", "nll": "Negative log-likelihood", "brier": "Brier score"}
    reads = {number_column(title, key): _quality(key) for key, title in titles.items()}
    rows = {
        name: tuple(number_cell(over(runs, read)) for read in reads.values()) for name, runs in found.items()
    }
    bins = {
        len(run.quality.reliability.count)
        for runs in found.values()
        for run in runs
        if run.quality.reliability
    }
    sized = f"ECE of {bins.pop()} bins of equal width. " if len(bins) == 1 else ""
    caption = f"Lower is better. {sized}{_MEANS}"
    return trimmed(Table("calibration", "Calibration", caption, (ARM, *reads), by_arm(rows, series)))


def agreement(found: Found, series: Sequence[Series]) -> Table | None:
    """Make the table of how students agree with their teacher."""
    shares = {
        "top1": "Same class as the teacher",
        "student_right": "Student right where they differ",
        "teacher_right": "Teacher right where they differ",
        "neither": "Neither right where they differ",
    }
    rows = {
        name: (
            *(percent_cell(over(runs, _agreement(key))) for key in shares),
            number_cell(over(runs, _agreement("kl"))),
        )
        for name, runs in found.items()
    }
    columns = (
        ARM,
        *(percent_column(title, key) for key, title in shares.items()),
        number_column("KL(teacher, student)", "kl"),
    )
    caption = (
        f"Agreement with the teacher is not accuracy. The last shares are of the differing images. {_MEANS}"
    )
    groups = by_arm(rows, series)
    return trimmed(Table("agreement", "Agreement with the teacher", caption, columns, groups))


def _quality(key: str) -> Read:
    return lambda run: getattr(run.quality, key)


def _agreement(key: str) -> Read:
    return lambda run: getattr(run.quality.agreement, key, None)


def robustness(found: Found, series: Sequence[Series]) -> Table | None:
    """Make the table of accuracies under corruption, over all strengths, and under attack."""
    kinds = corruptions(found)
    attacks = dict.fromkeys(key for runs in found.values() for run in runs for key in _attacks(run))
    rows = {}
    for name, runs in found.items():
        means = [strengths(runs, kind) for kind in kinds]
        cells = [
            percent_cell(estimate(table.mean(axis=1).tolist())) if table.size else EMPTY for table in means
        ]
        attacked = [percent_cell(over(runs, _attacked(key))) for key in attacks]
        rows[name] = (*cells, *attacked)
    columns = (
        ARM,
        *(percent_column(titled(kind), f"corrupted_{kind}") for kind in kinds),
        *(percent_column(f"{kind.upper()}, {size}", f"attacked_{kind}_{size}") for kind, size in attacks),
    )
    caption = f"Accuracy under corruption, mean over all strengths, and under attack. {_MEANS}"
    return trimmed(Table("robustness", "Robustness", caption, columns, by_arm(rows, series)))


def _attacks(run: Measured) -> Iterator[tuple[str, str]]:
    for kind, values in run.robustness.items():
        if isinstance(values, Attack):
            yield kind, _size(values)


def _size(attack: Attack) -> str:
    if attack.epsilon is None:
        return "epsilon unknown"
    steps = 255 * attack.epsilon
    return f"{steps:.0f}/255" if abs(steps - round(steps)) < 1e-6 else f"{attack.epsilon:.3g}"


def _attacked(key: tuple[str, str]) -> Read:
    def read(run: Measured) -> float | None:
        found = run.robustness.get(key[0])
        return found.accuracy if isinstance(found, Attack) and _size(found) == key[1] else None

    return read


def worst(found: Found, series: Sequence[Series]) -> Table | None:
    """Make the table of the classes that each arm knows least."""
    rows = {}
    for name, runs in found.items():
        classes = weak_classes(runs, WORST)
        of = sum(1 for run in runs if run.quality.worst_classes)
        cells = [
            Cell(
                one.name,
                (f"{percent(one.accuracy)} %", f"{one.seeds} of {of} seeds"),
                (one.name, 100 * one.accuracy.mean, one.seeds),
            )
            for one in classes
        ]
        rows[name] = (*cells, *[EMPTY] * (WORST - len(cells)))
    columns = (
        ARM,
        *(
            Column(f"Worst {n}" if n > 1 else "Worst class", (f"class_{n}", f"percent_{n}", f"seeds_{n}"))
            for n in range(1, WORST + 1)
        ),
    )
    caption = (
        "Classes that most seeds have among their worst, with their accuracy there; where several are as "
        "frequent, the lower accuracy comes first, and of equal ones those that the data set numbers first: "
        f"there may be more. {_MEANS}"
    )
    return trimmed(Table("worst_classes", "Worst classes", caption, columns, by_arm(rows, series)))


def cost(found: Found, summary: Summary, series: Sequence[Series]) -> Table | None:
    """Make the table of what the students cost; training time and parameters are known without analysis."""
    rows = {}
    for arm in summary.arms:
        runs = found.get(arm.name, [])
        flops = over(runs, _cost("flops"))
        parameters = over(runs, _cost("parameters"))
        latency = over(runs, _milliseconds)
        joules = over(runs, _cost("joules"))
        count = arm.parameters if parameters is None else round(parameters.mean)
        rows[arm.name] = (
            Cell(f"{count:,.0f}", (), (count,)),
            Cell(large(flops.mean), (), (flops.mean,)) if flops else EMPTY,
            number_cell(latency),
            Cell(seconds(arm.seconds), (), (arm.seconds,)),
            number_cell(joules) if joules else Cell("\N{EN DASH}", (), (None,) * 4),
        )
    columns = (
        ARM,
        Column("Parameters", ("parameters",)),
        Column("FLOPs for an image", ("flops",)),
        number_column("Latency for an image (ms)", "latency_ms"),
        Column("Training (s)", ("training_seconds",)),
        number_column("Energy for an image (J)", "joules"),
    )
    caption = (
        "Of the student as it is deployed; a multiply-add counts as two FLOPs. Training is the time of "
        "learning, without teachers and tests. Times are of what else the machine did then, too: alike "
        "networks show how much. A dash is what no device could tell."
    )
    return trimmed(Table("cost", "Cost", caption, columns, by_arm(rows, series)))


def _cost(key: str) -> Read:
    return lambda run: getattr(run.analysis.cost, key, None)


def _milliseconds(run: Measured) -> float | None:
    found = _cost("latency_seconds")(run)
    return None if found is None else 1000 * found
