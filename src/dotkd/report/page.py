"""The page of a report: one HTML file that needs no network, no script and no other file.

Here belongs what turns numbers, words and figures into HTML. Whatever comes from a run is escaped.
"""

from collections.abc import Iterator, Mapping, Sequence
from html import escape
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any

from dotkd.errors import BadInput
from dotkd.report.figures import Chart, Panel, charts
from dotkd.report.statistics import Arm, Summary, summarize, without_seed
from dotkd.report.text import interval, number, percent, points, reading, sentences
from dotkd.runs import RunRecord, find_runs, write_text

NAME = "report.html"
NONE = '<td class="none">&ndash;</td>'


def write_report(folder: Path) -> Path:
    """Write the report of all finished runs in a folder.

    Args:
        folder: where the runs are, in it or below it.

    Returns:
        Path of the page, ``report.html`` in the folder; an older one is replaced in one move.

    Raises:
        BadInput: if there is no finished run, or no report can be made of those there are.
    """
    folder = Path(folder)
    runs = find_runs(folder)
    if not runs:
        raise BadInput(f"{folder}: no finished run in this folder or below it")
    try:
        text = render(runs)
    except BadInput as error:
        raise BadInput(f"{folder}: {error}") from None
    write_text(folder / NAME, text)
    return folder / NAME


def render(runs: Sequence[RunRecord]) -> str:
    """Make the page.

    Args:
        runs: finished runs, teachers too.

    Returns:
        An HTML document, complete in itself.

    Raises:
        BadInput: if no run is a student's, or an arm has a seed twice.
    """
    summary = summarize(runs)
    home = files("dotkd.report")
    title = _title(runs)
    return Template(home.joinpath("page.html").read_text(encoding="utf-8")).substitute(
        title=escape(title),
        style=home.joinpath("page.css").read_text(encoding="utf-8"),
        facts=escape(_facts(runs, summary)),
        summary="\n".join(f"<p>{escape(sentence)}</p>" for sentence in sentences(summary)),
        notes=_notes(summary),
        table=_table(summary),
        figures="\n".join(
            _figure(place, chart, noisy=any(_noise(runs)))
            for place, chart in enumerate(charts(runs, summary), 1)
        ),
        recipes="\n".join(_recipes(runs)),
        environment=_environment(runs),
    )


def _title(runs: Sequence[RunRecord]) -> str:
    return f"Distillation report: {_common(runs, 'data', 'name')}, {_common(runs, 'student', 'model')}"


def _common(runs: Sequence[RunRecord], table: str, key: str) -> str:
    found = dict.fromkeys(str(run.recipe.get(table, {}).get(key, "?")) for run in runs if not run.is_teacher)
    return " / ".join(found)


def _facts(runs: Sequence[RunRecord], summary: Summary) -> str:
    students = [run for run in runs if not run.is_teacher]
    epochs = sorted({len(run.metrics) for run in students})
    facts = [
        _count(len(summary.arms), "arm"),
        _count(len(students), "run"),
        f"{' / '.join(map(str, epochs))} epoch" + ("" if epochs == [1] else "s"),
        f"{' / '.join(sorted({f'{arm.parameters:,}' for arm in summary.arms}))} parameters",
    ]
    noise = _noise(students)
    if any(noise):
        shares = " / ".join(f"{100 * share:g}" for share in noise)
        facts.append(f"{shares} % of the training labels are wrong")
    return " · ".join(facts)


def _noise(runs: Sequence[RunRecord]) -> list[float]:
    return sorted({run.recipe["data"].get("label_noise", 0.0) for run in runs if not run.is_teacher})


def _count(number: int, what: str) -> str:
    return f"{number} {what}" + ("" if number == 1 else "s")


def _notes(summary: Summary) -> str:
    if not summary.notes:
        return ""
    items = "".join(f"<li>{escape(note)}</li>" for note in summary.notes)
    return f'<ul class="notes" aria-label="Notes">{items}</ul>'


# ---------------------------------------------------------------- the table


def _table(summary: Summary) -> str:
    best, distill = (any(getattr(arm, key) for arm in summary.arms) for key in ("best", "distill_loss"))
    differs = len(summary.arms) > 1
    heads = [
        ("Arm", True),
        ("Seeds", True),
        ("Test accuracy, last epoch (%)", True),
        ("Test accuracy, best epoch (%)", best),
        (f"Difference to {summary.baseline} (points)", differs),
        ("Task loss, train", True),
        ("Distillation loss, train", distill),
        ("Seconds", True),
    ]
    shown = [show for _, show in heads]
    rows = [_row(_cells(arm, summary), shown) for arm in summary.arms]
    rows += [
        _row(
            [
                escape(t.name) + ("" if "teacher" in t.name.lower() else " <small>teacher</small>"),
                "1",
                f"{100 * t.test_accuracy:.2f}",
            ]
            + [""] * 5,
            shown,
        )
        for t in summary.teachers
    ]
    head = "".join(f'<th scope="col">{escape(text)}</th>' for text, show in heads if show)
    caption = (
        "Means over seeds ± standard error; accuracies on the test set, losses raw and of the last epoch."
    )
    if best:
        caption += " The best epoch is the one chosen on validation images."
    if differs:
        caption += " Differences are paired by seed, with their 95 % interval."
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="Results"><table>'
        f"<caption>{escape(caption)}</caption><thead><tr>{head}</tr></thead>"
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def _cells(arm: Arm, summary: Summary) -> list[str]:
    """HTML of an arm's cells in the order of the heads; empty where it has nothing to show."""
    to_baseline = ""
    if arm.name == summary.baseline:
        to_baseline = "<small>baseline</small>"
    for difference in summary.to_baseline:
        if difference.arm == arm.name and difference.mean is not None:
            to_baseline = points(difference.mean)
            if difference.low is not None:
                to_baseline += f" <small>{interval(difference)}</small>"
    return [
        escape(arm.name),
        str(arm.test.n),
        percent(arm.test),
        percent(arm.best) if arm.best else "",
        to_baseline,
        number(arm.task_loss) if arm.task_loss else "",
        number(arm.distill_loss) if arm.distill_loss else "",
        f"{arm.seconds:,.0f}" if arm.seconds >= 10 else f"{arm.seconds:.1f}",
    ]


def _row(cells: Sequence[str], shown: Sequence[bool]) -> str:
    first, *others = (cell for cell, show in zip(cells, shown, strict=True) if show)
    return (
        f'<tr><th scope="row">{first}</th>'
        + "".join(f"<td>{c}</td>" if c else NONE for c in others)
        + "</tr>"
    )


# ---------------------------------------------------------------- figures, recipes, environment


def _figure(place: int, chart: Chart, *, noisy: bool) -> str:
    legend = "".join(
        f'<li><span aria-hidden="true">{sample}</span>{escape(name)}</li>' for sample, name in chart.legend
    )
    panels = "".join(_panel(panel) for panel in chart.panels)
    return (
        f'<figure id="{chart.key}"><ul class="legend">{legend}</ul><div class="panels">{panels}</div>'
        f"<figcaption><strong>Figure {place}.</strong> {escape(chart.caption)} "
        f"{escape(reading(chart.key, noisy=noisy))}</figcaption></figure>"
    )


def _panel(panel: Panel) -> str:
    return panel.svg.replace("<svg", f'<svg role="img" aria-label="{escape(panel.label)}"', 1)


def _recipes(runs: Sequence[RunRecord]) -> Iterator[str]:
    """One folded recipe for all runs whose recipes differ in seeds only."""
    groups: list[tuple[tuple[str, bool, Mapping[str, Any]], list[RunRecord]]] = []
    for run in sorted(runs, key=lambda run: (run.is_teacher, run.name, run.seed)):
        key = (run.name, run.is_teacher, without_seed(run))
        same = next((members for other, members in groups if other == key), None)
        if same is None:
            groups.append((key, [run]))
        else:
            same.append(run)
    for (name, is_teacher, _), members in groups:
        seeds = ", ".join(str(run.seed) for run in members)
        text = (
            f"{escape(name)} <small>{'teacher, ' if is_teacher else ''}seed{'s' * (len(members) > 1)} {seeds}"
        )
        shown = f"; shown: seed {members[0].seed}" if len(members) > 1 else ""
        yield (
            f"<details><summary>{text}{shown}</small></summary>"
            f"<pre><code>{escape(members[0].recipe_text.strip())}</code></pre></details>"
        )


def _environment(runs: Sequence[RunRecord]) -> str:
    keys = dict.fromkeys(key for run in runs for key in run.environment)
    rows = []
    for key in keys:
        values = dict.fromkeys(str(run.environment.get(key, "unknown")) for run in runs)
        shown = "<br>".join(escape(value) for value in values)
        rows.append(f'<tr><th scope="row">{escape(str(key))}</th><td>{shown}</td></tr>')
    return (
        '<div class="scroll" tabindex="0" role="region" aria-label="Environment"><table class="environment">'
        "<caption>As the runs recorded it; several lines where runs differ.</caption>"
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )
