"""The files of a report: page, Markdown file, tables and figures, each whole or not at all."""

from pathlib import Path

from dotkd.errors import BadInput
from dotkd.report.document import TABLES, compose
from dotkd.report.figures.files import to_file
from dotkd.report.inputs import read_extras
from dotkd.report.markdown import to_markdown_file
from dotkd.report.page import to_page
from dotkd.report.tables.write import to_csv
from dotkd.runs import find_runs, write_text

PAGE, MARKDOWN, FOLDER, FIGURES = "report.html", "report.md", "tables", "figures"


def write_report(folder: Path) -> Path:
    """Write the report of all finished runs in a folder.

    Beside the page go ``report.md`` and ``tables/NAME.csv``, with the same numbers, and ``figures/NAME.svg``,
    for papers; a table or figure of an older report that this one does not have is removed.

    Args:
        folder: where the runs are, in it or below it.

    Returns:
        Path of the page, ``report.html`` in the folder; an older one is replaced in one move.

    Raises:
        BadInput: if there is no finished run, no report can be made of those there are, or a file beside
            them is broken.
    """
    folder = Path(folder)
    runs = find_runs(folder)
    if not runs:
        raise BadInput(f"{folder}: no finished run in this folder or below it")
    extras = read_extras(folder, runs)
    try:
        document = compose(runs, extras)
        page, markdown = to_page(document, runs), to_markdown_file(document)
    except BadInput as error:
        raise BadInput(f"{folder}: {error}") from None
    tables = {table.name: to_csv(table) for table in document.tables}
    for name in TABLES:
        path = folder / FOLDER / f"{name}.csv"
        if name in tables:
            write_text(path, tables[name])
        else:
            path.unlink(missing_ok=True)
    figures = {chart.key: to_file(chart) for chart in document.charts}
    for path in (folder / FIGURES).glob("*.svg"):
        if path.stem not in figures:
            path.unlink()
    for name, text in figures.items():
        write_text(folder / FIGURES / f"{name}.svg", text)
    write_text(folder / MARKDOWN, markdown)
    write_text(folder / PAGE, page)
    return folder / PAGE
