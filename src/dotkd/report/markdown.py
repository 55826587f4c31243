"""The report as Markdown: the same sentences and tables as on the page, for wherever a page is too much."""

from dotkd.report.document import Document, Section
from dotkd.report.tables.table import Table
from dotkd.report.tables.write import plain, to_markdown


def to_markdown_file(document: Document) -> str:
    """Write a document as Markdown; the figures are on the page only.

    Args:
        document: the report.

    Returns:
        The text of the file.
    """
    blocks = [f"# {plain(document.title)}", plain(document.facts), *map(plain, document.lead)]
    if document.notes:
        blocks.append("\n".join(f"- {plain(note)}" for note in document.notes))
    for section in document.sections:
        blocks += _section(section)
    return "\n\n".join([*blocks, "Figures, recipes and environment: `report.html`."]) + "\n"


def _section(section: Section) -> list[str]:
    tables = [part for part in section.parts if isinstance(part, Table)]
    if not tables and not section.sentences:
        return []
    return [
        f"## {plain(section.title)}",
        *map(plain, section.sentences),
        *map(to_markdown, tables),
    ]
