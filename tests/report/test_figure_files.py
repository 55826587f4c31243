"""The figures as files: whole SVG with legend and description, the same panels as the page's."""

import re
from xml.etree import ElementTree

import pytest
from dotkd.report.figures.files import to_file
from dotkd.report.figures.svg import Chart, Panel
from dotkd.report.write import FIGURES, write_report

from .folders import write_example

SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture(scope="module")
def figures(tmp_path_factory):
    folder = write_example(
        tmp_path_factory.mktemp("files"), arms=("plain", "KD", "KD + DOT"), seeds=2, epochs=3
    )
    (folder / FIGURES).mkdir()
    (folder / FIGURES / "of-an-older-report.svg").write_text("<svg/>")
    (folder / FIGURES / "notes.txt").write_text("mine")
    return folder, write_report(folder).read_text()


def test_each_figure_of_the_page_is_a_file(figures):
    folder, page = figures
    names = {path.stem for path in (folder / FIGURES).glob("*.svg")}
    assert {"accuracy", "losses", "tradeoff"} <= names
    assert "of-an-older-report" not in names
    assert (folder / FIGURES / "notes.txt").read_text() == "mine"
    for name in names:
        root = ElementTree.parse(folder / FIGURES / f"{name}.svg").getroot()
        said = root.find(f"{SVG}desc").text
        labels = re.findall(r'<svg role="img" aria-label="([^"]*)"', page)
        assert len(said) > 40
        assert any(label.replace("&#x27;", "'") in said for label in labels), name


def test_a_file_needs_nothing_from_elsewhere_and_keeps_its_panels_apart(figures):
    folder, _ = figures
    for path in (folder / FIGURES).glob("*.svg"):
        text = path.read_text()
        assert "currentColor" not in text
        assert not re.search(r'(href|src)="(?!#|data:)', text)
        root = ElementTree.fromstring(text)
        wide, tall = (float(size) for size in root.get("viewBox").split()[2:])
        boxes = [
            tuple(float(part.get(key)) for key in ("x", "y", "width", "height"))
            for part in root.findall(f"{SVG}svg")
        ]
        assert boxes
        assert all(x >= 0 and y >= 0 and x + w <= wide and y + h <= tall for x, y, w, h in boxes)
        for place, (x, y, w, h) in enumerate(boxes):
            for a, b, c, d in boxes[:place]:
                assert x >= a + c or a >= x + w or y >= b + d or b >= y + h


def test_names_are_text_and_long_legends_break():
    panel = Panel('<svg width="288pt" height="100pt" viewBox="0 0 288 100"></svg>', "a <panel>")
    legend = [
        ('<svg width="30pt" height="11pt"></svg>', f"<b>arm & {number}</b> of a long name")
        for number in range(9)
    ]
    root = ElementTree.fromstring(to_file(Chart("key", "Caption.", (panel,), tuple(legend))))
    texts = root.findall(f"{SVG}text")
    assert [text.text for text in texts] == [name for _, name in legend]
    assert len({text.get("y") for text in texts}) > 3
    assert root.find(f"{SVG}desc").text == "Caption. a <panel>"
