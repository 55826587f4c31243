"""The report as files: one HTML page, a Markdown file, tables as CSV and figures as SVG.

The order of the sections is decided here. A section shows its sentences, its first table, its figures, and
its other tables.
"""

import csv
import io
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from html import escape
from pathlib import Path

import jinja2

from dotkd.records import TeacherAccuracy
from dotkd.report.evidence import Evidence
from dotkd.report.figures import Drawn, Scene, draw
from dotkd.report.findings import findings_of, opening
from dotkd.report.read import Comparison, read_comparison, without_seed
from dotkd.report.tables import DASH, TABLES, Cell, Table, tables_of
from dotkd.runs import FIGURES, MARKDOWN, PAGE, RunRecord, write_text
from dotkd.runs import TABLES as FOLDER

SECTIONS = {
    "results": "Results",
    "sweep": "Sweep",
    "losses": "Losses",
    "gradients": "Gradients",
    "minima": "Minima",
    "quality": "Predictions",
    "cost": "Cost",
    "tuning": "Tuning",
}
"""Key of a section -> its title, in the order of a report."""


@dataclass(frozen=True)
class Section:
    """A part of a report under a title."""

    key: str
    title: str
    sentences: tuple[str, ...]
    tables: tuple[Table, ...]
    figures: tuple[Drawn, ...]

    @property
    def parts(self) -> tuple[Table | Drawn, ...]:
        """Tables and figures in the order of the page."""
        return (*self.tables[:1], *self.figures, *self.tables[1:])


@dataclass(frozen=True)
class RecipeText:
    """The text of a recipe, and the runs that share it apart from their seeds."""

    name: str
    runs: str
    text: str


@dataclass(frozen=True)
class Report:
    """The content of a report."""

    title: str
    facts: str
    lead: tuple[str, ...]
    notes: tuple[str, ...]
    sections: tuple[Section, ...]
    recipes: tuple[RecipeText, ...]
    environment: Mapping[str, Sequence[str]]

    @property
    def tables(self) -> dict[str, Table]:
        """All tables by name."""
        return {table.name: table for section in self.sections for table in section.tables}

    @property
    def figures(self) -> dict[str, Drawn]:
        """All figures by key."""
        return {figure.key: figure for section in self.sections for figure in section.figures}


def write_report(folder: Path | str) -> Path:
    """Write the report of all finished runs in a folder.

    Beside the page go ``report.md`` and ``tables/NAME.csv`` with the same numbers, and ``figures/NAME.svg``;
    tables and figures of an older report that this one lacks are removed.

    Args:
        folder: Where the runs are, in it or below it.

    Returns:
        Path of the page, ``report.html`` in the folder.

    Raises:
        BadInput: No run of a student is finished, an arm has a seed twice, or a file is broken.

    Example:
        >>> from dotkd.recipe import load_recipe
        >>> from dotkd.train import train
        >>> _ = train(load_recipe("quick/digits-plain", ["schedule.epochs=1"]), Path("compared/plain"))
        >>> write_report("compared").name
        'report.html'
    """
    folder = Path(folder)
    report = compose(read_comparison(folder))
    page, tables, figures = _to_html(report), report.tables, report.figures
    for name in TABLES:
        if name not in tables:
            (folder / FOLDER / f"{name}.csv").unlink(missing_ok=True)
    for path in (folder / FIGURES).glob("*.svg"):
        if path.stem not in figures:
            path.unlink()
    texts = {
        **{folder / FOLDER / f"{name}.csv": to_csv(table) for name, table in tables.items()},
        **{folder / FIGURES / f"{key}.svg": figure.svg for key, figure in figures.items()},
        folder / MARKDOWN: _to_markdown(report),
        folder / PAGE: page,
    }
    for path, text in texts.items():
        write_text(path, text)
    return folder / PAGE


def render(comparison: Comparison) -> str:
    """Render the page.

    Args:
        comparison: Finished runs, from :func:`~dotkd.report.read_comparison`.

    Returns:
        An HTML document that needs no network, no script and no other file.

    Raises:
        BadInput: Analyses do not fit together; the message names the file.

    Example:
        >>> from dotkd.recipe import load_recipe
        >>> from dotkd.train import train
        >>> _ = train(load_recipe("quick/digits-plain", ["schedule.epochs=1"]), Path("runs/plain"))
        >>> render(read_comparison(Path("runs")))[:15]
        '<!doctype html>'
    """
    return _to_html(compose(comparison))


def compose(comparison: Comparison) -> Report:
    """Make the content of a report: numbers, sentences, tables and figures."""
    evidence = Evidence(comparison)
    scene = Scene(evidence)
    sections = []
    for key, title in SECTIONS.items():
        tables, figures = tuple(tables_of(key, evidence)), tuple(draw(scene, key))
        if tables or figures or (key == "sweep" and comparison.sweep):
            sections.append(Section(key, title, findings_of(key, evidence), tables, figures))
    data, student = _common(comparison, "data", "name"), _common(comparison, "student", "model")
    return Report(
        title=f"Distillation report: {data}, {student}",
        facts=_facts(evidence),
        lead=opening(evidence),
        notes=evidence.summary.notes,
        sections=tuple(sections),
        recipes=_recipes([*comparison.runs, *comparison.teachers]),
        environment=_environment([*comparison.runs, *comparison.teachers]),
    )


def _common(comparison: Comparison, table: str, key: str) -> str:
    return " / ".join(dict.fromkeys(str(run.recipe.get(table, {}).get(key, "?")) for run in comparison.runs))


def _facts(evidence: Evidence) -> str:
    """Return the line below the title."""
    runs, arms = evidence.comparison.runs, evidence.summary.arms
    epochs = sorted({len(run.metrics) for run in runs})
    noise = sorted({run.recipe["data"].get("label_noise", 0.0) for run in runs})
    facts = [
        f"{len(arms)} arm{'s' * (len(arms) > 1)}",
        f"{len(runs)} run{'s' * (len(runs) > 1)}",
        f"{' / '.join(map(str, epochs))} epoch{'s' * (epochs != [1])}",
        f"{' / '.join(sorted({f'{arm.parameters:,}' for arm in arms}))} parameters",
    ]
    if any(noise):
        facts.append(
            f"{' / '.join(f'{100 * share:g}' for share in noise)} % of the training labels are wrong"
        )
    return " · ".join(facts)


def _recipes(runs: Sequence[RunRecord]) -> tuple[RecipeText, ...]:
    """Group the runs whose recipes differ in seeds only."""
    groups: list[list[RunRecord]] = []
    for run in sorted(runs, key=lambda run: (run.is_teacher, run.name, run.seed)):
        same = (
            members
            for members in groups
            if members[0].is_teacher == run.is_teacher and without_seed(members[0]) == without_seed(run)
        )
        members = next(same, None)
        if members is None:
            groups.append([run])
        else:
            members.append(run)
    found = []
    for first, *others in groups:
        seeds = ", ".join(str(run.seed) for run in (first, *others))
        said = f"{'teacher, ' * first.is_teacher}seed{'s' * bool(others)} {seeds}"
        shown = f"; shown: seed {first.seed}" if others else ""
        found.append(RecipeText(first.name, said + shown, first.recipe_text.strip()))
    return tuple(found)


def _environment(runs: Sequence[RunRecord]) -> dict[str, list[str]]:
    # What a student is made for may be a thousand names of classes.
    keys = dict.fromkeys(str(key) for run in runs for key in run.environment if key != "made_for")
    return {key: list(dict.fromkeys(_entry(run, key) for run in runs)) for key in keys}


def _entry(run: RunRecord, key: str) -> str:
    value = run.environment.get(key, "unknown")
    return str(TeacherAccuracy.model_validate(value) if key == "teacher" and value != "unknown" else value)


# ---------------------------------------------------------------- HTML, Markdown and CSV


@cache
def _templates() -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.PackageLoader("dotkd.report"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )


def _to_html(report: Report) -> str:
    return _templates().get_template("page.html").render(report=report).lstrip()


def _to_markdown(report: Report) -> str:
    blocks = [f"# {plain(report.title)}", plain(report.facts), *map(plain, report.lead)]
    if report.notes:
        blocks.append("\n".join(f"- {plain(note)}" for note in report.notes))
    for section in report.sections:
        if section.tables or section.sentences:
            blocks += [f"## {plain(section.title)}", *map(plain, section.sentences)]
            blocks += map(to_markdown, section.tables)
    return "\n\n".join([*blocks, f"Figures, recipes and environment: `{PAGE}`."]) + "\n"


def to_markdown(table: Table) -> str:
    """Write a table in GitHub's Markdown, with its title above and its caption below."""
    lines = [
        f"### {plain(table.title)}",
        "",
        _line(plain(column.title) for column in table.columns),
        _line(["---", *["---:"] * (len(table.columns) - 1)]),
    ]
    for group in table.groups:
        if group.heading:
            lines.append(_line([f"**{plain(group.heading)}**", *[""] * (len(table.columns) - 1)]))
        lines += [_line(_markdown_cell(cell) for cell in row) for row in group.rows]
    return "\n".join([*lines, "", plain(table.caption)])


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _markdown_cell(cell: Cell) -> str:
    if not cell.text:
        return DASH
    text = f"**{plain(cell.text)}**" if cell.marked else plain(cell.text)
    return f"{text} ({'; '.join(map(plain, cell.small))})" if cell.small else text


def plain(text: str) -> str:
    """Escape a text for one line of Markdown."""
    line = escape(" ".join(text.split()), quote=False)
    return re.sub(r"([\\`*_\[\]|~$#])", r"\\\1", line)


def to_csv(table: Table) -> str:
    """Write a table with a column for each field; numbers are not rounded, unknown ones are empty."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow([field for column in table.columns for field in column.fields])
    for row in (row for group in table.groups for row in group.rows):
        cells = zip(table.columns, row, strict=True)
        writer.writerow(
            [value for column, cell in cells for value in cell.values or [None] * len(column.fields)]
        )
    return stream.getvalue()
