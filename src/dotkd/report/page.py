"""The page of a report: one HTML file that needs no network, no script and no other file.

Here belongs what turns a document into HTML. Whatever comes from a run is escaped.
"""

from collections.abc import Iterator, Mapping, Sequence
from html import escape
from importlib.resources import files
from itertools import count
from string import Template
from typing import Any

from dotkd.report.conditions import without_seed
from dotkd.report.document import Document, Section, compose
from dotkd.report.figures import Chart, Panel
from dotkd.report.inputs import Extras
from dotkd.report.tables.table import Table
from dotkd.report.tables.write import to_html
from dotkd.report.text import reading
from dotkd.runs import RunRecord

_MANY_NOTES = 6  # more of them are folded


def render(runs: Sequence[RunRecord], extras: Extras | None = None) -> str:
    """Make the page.

    Args:
        runs: finished runs, teachers too.
        extras: what was found beside them.

    Returns:
        An HTML document, complete in itself.

    Raises:
        BadInput: if no run is a student's, an arm has a seed twice, or analyses do not fit together.
    """
    return to_page(compose(runs, extras or Extras()), runs)


def to_page(document: Document, runs: Sequence[RunRecord]) -> str:
    """Write a document as HTML, with the recipes and the environment of its runs.

    Args:
        document: the report.
        runs: the runs that it is about.

    Returns:
        The page.
    """
    home = files("dotkd.report")
    numbers = count(1)
    links = [(section.key, section.title) for section in document.sections]
    links += [("recipes", "Recipes"), ("environment", "Environment")]
    return Template(home.joinpath("page.html").read_text(encoding="utf-8")).substitute(
        title=escape(document.title),
        style=home.joinpath("page.css").read_text(encoding="utf-8"),
        facts=escape(document.facts),
        links="\n".join(f'<li><a href="#{key}">{escape(title)}</a></li>' for key, title in links),
        summary=_paragraphs(document.lead),
        notes=_notes(document.notes),
        sections="\n".join(_section(one, numbers, noisy=document.noisy) for one in document.sections),
        recipes="\n".join(_recipes(runs)),
        environment=_environment(runs),
    )


def _paragraphs(sentences: Sequence[str]) -> str:
    return "\n".join(f"<p>{escape(sentence)}</p>" for sentence in sentences)


def _notes(notes: Sequence[str]) -> str:
    if not notes:
        return ""
    items = "".join(f"<li>{escape(note)}</li>" for note in notes)
    text = f'<ul class="notes" aria-label="Notes">{items}</ul>'
    if len(notes) > _MANY_NOTES:
        return f"<details><summary>{len(notes)} notes on unequal conditions</summary>{text}</details>"
    return text


def _section(section: Section, numbers: Iterator[int], *, noisy: bool) -> str:
    parts = [
        to_html(part) if isinstance(part, Table) else _figure(next(numbers), part, noisy=noisy)
        for part in section.parts
    ]
    said = f'<div class="said">{_paragraphs(section.sentences)}</div>' if section.sentences else ""
    return (
        f'<section aria-labelledby="{section.key}"><h2 id="{section.key}">{escape(section.title)}</h2>\n'
        + "\n".join([said, *parts])
        + "</section>"
    )


def _figure(place: int, chart: Chart, *, noisy: bool) -> str:
    legend = "".join(
        f'<li><span aria-hidden="true">{sample}</span>{escape(name)}</li>' for sample, name in chart.legend
    )
    if legend:
        legend = f'<ul class="legend">{legend}</ul>'
    scale = f'<div class="scale">{_panel(chart.scale)}</div>' if chart.scale else ""
    panels = "".join(map(_panel, chart.panels))
    return (
        f'<figure id="figure-{chart.key}">{legend}{scale}'
        f'<div class="panels{" small" * chart.small}">{panels}</div>'
        f"<figcaption><strong>Figure {place}.</strong> {escape(chart.caption)} "
        f"{escape(reading(chart.key, noisy=noisy and chart.of_training))}</figcaption></figure>"
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
            f'<pre tabindex="0"><code>{escape(members[0].recipe_text.strip())}</code></pre></details>'
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
