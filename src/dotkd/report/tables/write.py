"""Tables as HTML, Markdown and CSV. Whatever comes from a run is escaped, in the way of each."""

import csv
import io
import re
from collections.abc import Iterable
from html import escape

from dotkd.report.tables.table import Cell, Table

NONE = '<td class="none">&ndash;</td>'
DASH = "\N{EN DASH}"


def to_html(table: Table) -> str:
    """Write a table in a region that scrolls, folded if it says so."""
    head = "".join(f'<th scope="col">{escape(column.title)}</th>' for column in table.columns)
    body = []
    for group in table.groups:
        rows = "".join(_row(row) for row in group.rows)
        heading = ""
        if group.heading:
            span = len(table.columns)
            heading = f'<tr><th scope="rowgroup" colspan="{span}">{escape(group.heading)}</th></tr>'
        body.append(f"<tbody>{heading}{rows}</tbody>")
    text = (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(table.title)}"><table>'
        f"<caption><strong>{escape(table.title)}.</strong> {escape(table.caption)}</caption>"
        f"<thead><tr>{head}</tr></thead>{''.join(body)}</table></div>"
    )
    if table.folded:
        return f"<details><summary>{escape(table.folded)}</summary>{text}</details>"
    return text


def _row(cells: tuple[Cell, ...]) -> str:
    first, *others = cells
    return f'<tr><th scope="row">{_text(first)}</th>{"".join(map(_cell, others))}</tr>'


def _cell(cell: Cell) -> str:
    if not cell.text:
        return NONE
    return f'<td class="marked">{_text(cell)}</td>' if cell.marked else f"<td>{_text(cell)}</td>"


def _text(cell: Cell) -> str:
    return escape(cell.text) + "".join(f" <small>{escape(line)}</small>" for line in cell.small)


def to_markdown(table: Table) -> str:
    """Write a table as GitHub's Markdown has it, with its title above and its caption below."""
    lines = [
        f"### {plain(table.title)}",
        "",
        _line(plain(column.title) for column in table.columns),
        _line(["---", *["---:"] * (len(table.columns) - 1)]),
    ]
    for group in table.groups:
        if group.heading:
            lines.append(_line([f"**{plain(group.heading)}**", *[""] * (len(table.columns) - 1)]))
        lines += [_line(_said(cell) for cell in row) for row in group.rows]
    return "\n".join([*lines, "", plain(table.caption)])


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _said(cell: Cell) -> str:
    if not cell.text:
        return DASH
    text = f"**{plain(cell.text)}**" if cell.marked else plain(cell.text)
    return f"{text} ({'; '.join(map(plain, cell.small))})" if cell.small else text


def plain(text: str) -> str:
    r"""Make a line of Markdown that shows a text as it is, whatever is in it.

    Args:
        text: any text.

    Returns:
        The text with a backslash before each sign that Markdown would read.

    Example:
        >>> print(plain("<b> a_b | *c*"))
        &lt;b&gt; a\_b \| \*c\*
    """
    line = escape(" ".join(text.split()), quote=False)
    return re.sub(r"([\\`*_\[\]|~$#])", r"\\\1", line)


def to_csv(table: Table) -> str:
    """Write a table with a column for each field; numbers are not rounded, what is unknown is empty."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow([field for column in table.columns for field in column.fields])
    for row in table.rows:
        cells = zip(table.columns, row, strict=True)
        writer.writerow(
            [value for column, cell in cells for value in cell.values or [None] * len(column.fields)]
        )
    return stream.getvalue()
