"""What a report says and in which order, before it is a page or a Markdown file.

Here belongs the choice of sections, sentences, tables and figures; how each looks belongs to its neighbours.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from dotkd.report import findings
from dotkd.report.between import lines_of
from dotkd.report.figures import Chart, charts
from dotkd.report.inputs import Extras
from dotkd.report.layers import layers_of
from dotkd.report.measured import measured
from dotkd.report.statistics import Summary, by_arm, summarize
from dotkd.report.sweep import Choice, Series, choices, make_series, not_run, spoken_of
from dotkd.report.tables import analysis, results
from dotkd.report.tables import gradients as gradient_tables
from dotkd.report.tables.interpolation import interpolation as interpolation_table
from dotkd.report.tables.table import Table
from dotkd.report.tables.tradeoff import against_fronts as front_table
from dotkd.report.tables.tradeoff import dominance as dominance_table
from dotkd.report.tables.tuning import tuning as tuning_table
from dotkd.report.text import sentences
from dotkd.report.tradeoff import against_fronts, both_lower, dominance, fronts, planes
from dotkd.runs import RunRecord

TABLES = (
    *("results", "differences", "dominance", "tradeoff", "losses", "gradients", "layers", "sharpness"),
    *("interpolation", "calibration", "agreement", "robustness", "worst_classes", "cost", "tuning"),
)
"""Names of all tables that a report can have: those of their CSV files."""


@dataclass(frozen=True)
class Section:
    """A part of a report under a title: sentences first, then tables and figures as they are read."""

    key: str
    title: str
    sentences: tuple[str, ...]
    parts: tuple[Table | Chart, ...]


@dataclass(frozen=True)
class Document:
    """A report."""

    title: str
    facts: str
    lead: tuple[str, ...]
    notes: tuple[str, ...]
    sections: tuple[Section, ...]
    noisy: bool

    @property
    def tables(self) -> tuple[Table, ...]:
        """All tables, in their order."""
        return tuple(part for section in self.sections for part in section.parts if isinstance(part, Table))

    @property
    def charts(self) -> tuple[Chart, ...]:
        """All figures, in their order."""
        return tuple(part for section in self.sections for part in section.parts if isinstance(part, Chart))


@dataclass(frozen=True)
class _Numbers:
    """What all sections are made of; ``spoken`` are the arms that the text speaks of."""

    groups: dict[str, list[RunRecord]]
    summary: Summary
    extras: Extras
    series: tuple[Series, ...]
    best_of: tuple[Choice, ...]
    spoken: tuple[str, ...]

    @property
    def labels(self) -> dict[str, str]:
        """Of each swept arm its base and its values."""
        return {point.name: f"{one.base}: {point.label}" for one in self.series for point in one.points}


def compose(runs: Sequence[RunRecord], extras: Extras) -> Document:
    """Put a report together.

    Args:
        runs: finished runs, teachers too.
        extras: what was found beside them.

    Returns:
        The report.

    Raises:
        BadInput: if no run is a student's, an arm has a seed twice, or analyses do not fit together.
    """
    numbers = _make_numbers(runs, extras)
    summary = numbers.summary
    figures = {chart.key: chart for chart in charts(runs, summary, extras)}
    found = [section for section in _sections(numbers, figures) if section.parts or section.sentences]
    noise = _noise(runs)
    return Document(
        title=f"Distillation report: {_common(runs, 'data', 'name')}, {_common(runs, 'student', 'model')}",
        facts=_facts(runs, summary, noise),
        lead=tuple(_lead(numbers)),
        notes=summary.notes,
        sections=tuple(found),
        noisy=any(noise),
    )


def lead(runs: Sequence[RunRecord], extras: Extras) -> tuple[str, ...]:
    """Say what a report says first, without drawing any of it.

    Args:
        runs: finished runs, teachers too.
        extras: what was found beside them.

    Returns:
        Sentences. Of a swept arm they speak of the value that is best on validation images.

    Raises:
        BadInput: if no run is a student's, or an arm has a seed twice.
    """
    return tuple(_lead(_make_numbers(runs, extras)))


def _make_numbers(runs: Sequence[RunRecord], extras: Extras) -> _Numbers:
    summary, groups = summarize(runs, extras.sweep), by_arm(runs)
    series = make_series(extras.sweep, groups)
    best_of = choices(series, groups, summary.baseline)
    spoken = spoken_of(groups, series, best_of)
    return _Numbers(groups, summary, extras, series, best_of, spoken)


def _lead(numbers: _Numbers) -> Iterator[str]:
    yield from sentences(numbers.summary, numbers.spoken)
    if len(numbers.spoken) < len(numbers.groups):
        yield (
            "Of each swept arm this summary speaks of the value that is best on validation images; the "
            "others are in the tables."
        )


def _sections(numbers: _Numbers, figures: dict[str, Chart]) -> Iterator[Section]:
    summary, extras, series = numbers.summary, numbers.extras, numbers.series
    found = measured(numbers.groups, extras)

    def section(key: str, title: str, said: Sequence[str], *parts: Table | Chart | None) -> Section:
        return Section(key, title, tuple(said), tuple(part for part in parts if part is not None))

    yield section(
        "results",
        "Results",
        (),
        results.results(summary, series),
        figures.get("accuracy"),
        results.differences(summary, numbers.groups),
    )
    if extras.sweep:
        said = findings.chosen(numbers.best_of, series, not_run(extras.sweep, numbers.groups))
        yield section("sweep", "Sweep", tuple(said), figures.get("sweep"))
    counts, *beside = _tradeoff(numbers)
    losses = [figures.get(key) for key in ("tradeoff", "losses", "task-loss")]
    yield section(
        "losses", "Losses", counts, losses[0], *beside, *losses[1:], results.losses(summary, series)
    )
    spoken = {name: numbers.groups[name] for name in numbers.spoken}
    layers = layers_of(numbers.groups, extras.gradients)
    gradients = (
        figures.get("gradients"),
        gradient_tables.gradients(numbers.groups, series),
        figures.get("layers"),
        gradient_tables.layers(layers, numbers.labels),
    )
    if any(gradients):
        yield section("gradients", "Gradients", tuple(findings.steps(spoken)), *gradients)
    lines = lines_of(found)
    minima = (
        figures.get("landscape-task"),
        figures.get("landscape-distill"),
        figures.get("spectrum"),
        analysis.sharpness(found, series),
        *(figure for key, figure in figures.items() if key.startswith("interpolation")),
        interpolation_table(lines, numbers.labels),
    )
    if any(minima):
        between = findings.between([line for line in lines if line.arm in spoken])
        on = analysis.where(found, ("landscape", "sharpness", "interpolation"))
        yield section("minima", "Minima", (*on, *between), *minima)
    quality = (
        analysis.calibration(found, series),
        figures.get("reliability"),
        analysis.agreement(found, series),
        analysis.robustness(found, series),
        figures.get("robustness"),
        analysis.worst(found, series),
    )
    if any(quality):
        yield section("quality", "Predictions", tuple(analysis.where(found, ("quality",))), *quality)
    yield section("cost", "Cost", (), analysis.cost(found, summary, series))
    if extras.tuning:
        yield section("tuning", "Tuning", tuple(findings.budget(extras.tuning)), tuning_table(extras.tuning))


def _tradeoff(numbers: _Numbers) -> tuple[list[str], Table | None, Table | None]:
    """Sentences about the trade-off, who dominates whom, and the counts of all DOT arms."""
    summary, said, rows = numbers.summary, [], []
    dots = [arm.name for arm in summary.arms if arm.kind == "dot" and arm.name in numbers.spoken]
    pairs = [(d.arm, d.against) for d in (*summary.to_sgd, *summary.to_control) if d.arm in dots]
    measured_front, every = False, planes(numbers.groups)
    for plane in every:
        on_front = fronts(plane, numbers.extras.sweep, numbers.series, summary)
        counted = against_fronts(plane, on_front, summary)
        measured_front |= bool(on_front)
        said += [*findings.both(both_lower(plane, pairs), plane.split)]
        said += [*findings.beside_front(counted, dots, plane.split)]
        rows += counted
    if dots and not measured_front:
        said.append(findings.no_front(dots))
    dominant = [row for plane in every for row in dominance(plane)]
    splits = " / ".join(dict.fromkeys(plane.split for plane in every))
    return said, dominance_table(dominant, numbers.series, numbers.labels, splits), front_table(rows)


# ---------------------------------------------------------------- the head


def _common(runs: Sequence[RunRecord], table: str, key: str) -> str:
    found = dict.fromkeys(str(run.recipe.get(table, {}).get(key, "?")) for run in runs if not run.is_teacher)
    return " / ".join(found)


def _facts(runs: Sequence[RunRecord], summary: Summary, noise: Sequence[float]) -> str:
    students = [run for run in runs if not run.is_teacher]
    epochs = sorted({len(run.metrics) for run in students})
    facts = [
        _count(len(summary.arms), "arm"),
        _count(len(students), "run"),
        f"{' / '.join(map(str, epochs))} epoch" + ("" if epochs == [1] else "s"),
        f"{' / '.join(sorted({f'{arm.parameters:,}' for arm in summary.arms}))} parameters",
    ]
    if any(noise):
        shares = " / ".join(f"{100 * share:g}" for share in noise)
        facts.append(f"{shares} % of the training labels are wrong")
    return " · ".join(facts)


def _noise(runs: Sequence[RunRecord]) -> list[float]:
    return sorted({run.recipe["data"].get("label_noise", 0.0) for run in runs if not run.is_teacher})


def _count(number: int, what: str) -> str:
    return f"{number} {what}" + ("" if number == 1 else "s")
