"""A figure as one SVG file for papers and pages: its legend above its panels, dark on white."""

import html
import re

from dotkd.report.figures.svg import Chart

_INK = "#1f2328"
_GAP, _ROW, _LETTER = 12.0, 16.0, 5.4  # points: between things, a line of the legend, a wide letter of 9
_SIZE = re.compile(r'width="([\d.]+)pt" height="([\d.]+)pt"')


def to_file(chart: Chart) -> str:
    """Put a figure together.

    Args:
        chart: The figure; every panel says how large it is.

    Returns:
        An SVG file, whose description is the caption and what each panel shows.
    """
    panels = [panel.svg for panel in chart.panels] + ([chart.scale.svg] if chart.scale else [])
    columns = min(len(chart.panels), 4 if chart.small else 2)
    rows = [panels[start : start + columns] for start in range(0, len(panels), columns)]
    width = max(sum(_size(svg)[0] + _GAP for svg in row) for row in rows) + _GAP
    parts, height = _legend(chart, width)
    for row in rows:
        left = _GAP
        for svg in row:
            parts.append(_placed(svg, left, height))
            left += _size(svg)[0] + _GAP
        height += max(_size(svg)[1] for svg in row) + _GAP
    said = " ".join([chart.caption, *(panel.label for panel in chart.panels)])
    space = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
    size = f'width="{width:g}pt" height="{height:g}pt" viewBox="0 0 {width:g} {height:g}"'
    look = f'color="{_INK}" fill="{_INK}" font-family="sans-serif" font-size="9"'
    return "\n".join(
        [
            '<?xml version="1.0" encoding="UTF-8"?>',
            f"<svg {space} {size} {look}>",
            f"<desc>{html.escape(said)}</desc>",
            '<rect width="100%" height="100%" fill="#ffffff"/>',
            *parts,
            "</svg>\n",
        ]
    )


def _legend(chart: Chart, width: float) -> tuple[list[str], float]:
    """Set the names in lines; return them and where the panels may begin."""
    parts, left, top = [], _GAP, _GAP
    for sample, name in chart.legend:
        wide, tall = _size(sample)
        whole = wide + 4 + _LETTER * len(name) + _GAP
        if left > _GAP and left + whole > width:
            left, top = _GAP, top + _ROW
        parts.append(_placed(sample, left, top + (_ROW - tall) / 2))
        parts.append(f'<text x="{left + wide + 4:g}" y="{top + 11:g}">{html.escape(name)}</text>')
        left += whole
    return parts, top + (_ROW + _GAP if chart.legend else 0.0)


def _size(svg: str) -> tuple[float, float]:
    found = _SIZE.search(svg)
    assert found is not None
    return float(found[1]), float(found[2])


def _placed(svg: str, left: float, top: float) -> str:
    wide, tall = _size(svg)
    place = f'x="{left:g}" y="{top:g}" width="{wide:g}" height="{tall:g}"'
    return _SIZE.sub(place, svg, count=1).replace("currentColor", _INK)
