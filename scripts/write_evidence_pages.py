"""Write tables and figures of docs/evidence.md and docs/delta.md; ``python scripts/write_evidence_pages.py``.

Both come from the runs in studies/results, by the code that writes every report. A page names what it wants
on two lines, between which a table is put, and after which a figure is shown:

    <!-- table STUDY NAME -->        ...  <!-- end -->
    <!-- summary STUDY -->           ...  <!-- end -->
    ![...](images/evidence/STUDY-FIGURE.svg)
"""

import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from dotkd.report.document import Document, compose
from dotkd.report.figures.files import to_file
from dotkd.report.inputs import read_extras
from dotkd.report.tables.write import plain, to_markdown
from dotkd.runs import find_runs

ROOT = Path(__file__).parents[1]
STUDIES = ROOT / "studies" / "results"
DOCS = ROOT / "docs"
PAGES = ("evidence.md", "delta.md")
IMAGES = "images/evidence"
BLOCK = re.compile(r"(<!-- (table|summary) (\S+) ?(\S*) -->\n).*?(<!-- end -->)", re.DOTALL)
FIGURE = re.compile(rf"\({IMAGES}/(\S+?)\.svg\)")


@cache
def document(study: str) -> Document:
    """Compose the report of a study."""
    folder = STUDIES / study
    found = find_runs(folder)
    return compose(found, read_extras(folder, found))


def page(name: str) -> str:
    """Return a page with its tables as they are today."""

    def block(match: re.Match[str]) -> str:
        begin, kind, study, table, end = match.groups()
        found = document(study)
        if kind == "summary":
            return f"{begin}{' '.join(map(plain, found.lead))}\n{end}"
        tables = {one.name: one for one in found.tables}
        return f"{begin}\n{to_markdown(tables[table])}\n\n{end}"

    return BLOCK.sub(block, (DOCS / name).read_text(encoding="utf-8"))


def figures(name: str) -> Iterator[tuple[Path, str]]:
    """Yield path and content of each figure that a page shows."""
    for wanted in dict.fromkeys(FIGURE.findall((DOCS / name).read_text(encoding="utf-8"))):
        study = max((path.name for path in STUDIES.iterdir() if wanted.startswith(path.name)), key=len)
        charts = {chart.key: chart for chart in document(study).charts}
        yield DOCS / IMAGES / f"{wanted}.svg", to_file(charts[wanted.removeprefix(f"{study}-")])


if __name__ == "__main__":
    for name in PAGES:
        (DOCS / name).write_text(page(name), encoding="utf-8")
        for path, text in figures(name):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
