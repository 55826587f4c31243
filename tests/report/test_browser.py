"""The page in a real browser: it asks for nothing, says nothing, and shows itself in light and dark."""

import pytest
from PIL import Image

from dotkd.report import write_report
from dotkd.report.figures import FIGURES

from . import browser
from .browser import open_page
from .folders import WEIGHTS, end_run, write_analyses, write_example, write_sweep, write_tuning

LONG = "averylongnamewithoutanyspace" * 8
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """Everything that a report can have, and a name that does not fit anywhere."""
    root = write_example(tmp_path_factory.mktemp("example"), arms=("plain", "KD"), seeds=2, epochs=4)
    keys = ["method.task_weight", "method.distill_weight"]
    write_sweep(root, keys, WEIGHTS[::2], bases=("KD", "KD + DOT"), seeds=2, epochs=4)
    end_run(root / "runs", "long", 0, (1.0, 1.0), change=('"long"', f'"{LONG}"'))
    write_analyses(root)
    write_tuning(root, arms=(LONG, "KD"))
    return write_report(root)


def measured(page, tmp_path, script, width):
    """What a script says in a copy of the page, in a frame: a window is at least 500 wide."""
    text = page.read_text(encoding="utf-8").replace("</body>", f"<script>{script}</script></body>")
    (tmp_path / "measured.html").write_text(text, encoding="utf-8")
    frame = tmp_path / "frame.html"
    style = f"border: 0; width: {width}px; height: 2000px"
    frame.write_text(
        f'<!doctype html><iframe src="measured.html" style="{style}"></iframe>', encoding="utf-8"
    )
    (line,) = open_page(frame, tmp_path).console
    return line[1 : line.index('"', 1)]


def picture(visit):
    with Image.open(visit.screenshot) as image:
        return image.convert("RGB")


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [1000, 390])
def test_page_is_quiet_and_shows_itself(page, tmp_path, dark, width):
    visit = open_page(page, tmp_path, dark=dark, width=width)
    assert visit.console == []
    assert visit.requests == []
    assert visit.dom.count("<figure") == len(FIGURES)
    image = picture(visit)
    assert image.size == (width, 3000)
    assert len(image.getcolors(image.width * image.height)) > 300
    # Paper at the edge, and ink that stands out from it.
    paper = sum(image.getpixel((2, 2)))
    assert (paper < 150) if dark else (paper > 700)
    darkest, lightest = image.convert("L").getextrema()
    assert lightest - darkest > 150


@pytest.mark.parametrize("width", [1000, 390])
def test_page_is_not_wider_than_the_window(page, tmp_path, width):
    script = (
        "document.querySelectorAll('details').forEach(one => one.open = true);"
        "console.log(document.documentElement.scrollWidth + ' of ' + innerWidth)"
    )
    assert measured(page, tmp_path, script, width) == f"{width} of {width}"


def test_everything_that_scrolls_or_opens_has_a_visible_focus(page, tmp_path):
    script = """
        let count = 0, seen = 0
        for (const one of document.querySelectorAll('a, summary, .scroll, pre')) {
            if (one.closest('details:not([open])') && one.tagName !== 'SUMMARY') continue
            one.focus({focusVisible: true})
            count += 1
            const style = getComputedStyle(one)
            seen += document.activeElement === one && style.outlineStyle === 'solid' && one.tabIndex === 0
        }
        console.log(seen + ' of ' + count)"""
    seen, count = measured(page, tmp_path, script, 1000).split(" of ")
    assert seen == count
    assert int(count) > 20


def test_helper_notices_errors_and_requests(tmp_path):
    page = tmp_path / "bad.html"
    page.write_text(
        '<!doctype html><link rel="stylesheet" href="http://127.0.0.1:9/style.css">'
        '<img src="https://example.invalid/x.png"><p>text</p>'
        "<script>console.error('something is off'); new WebSocket('ws://127.0.0.1:9/talk');</script>"
        "<script>throw new Error('boom')</script>",
        encoding="utf-8",
    )
    visit = open_page(page, tmp_path)
    assert any("something is off" in line for line in visit.console)
    assert any("Uncaught Error: boom" in line for line in visit.console)
    expected = {"http://127.0.0.1:9/style.css", "https://example.invalid/x.png", "ws://127.0.0.1:9/talk"}
    assert set(visit.requests) == expected


def test_helper_notices_a_blank_page(tmp_path):
    page = tmp_path / "blank.html"
    page.write_text("<!doctype html><title>blank</title>", encoding="utf-8")
    image = picture(open_page(page, tmp_path, width=500, height=300))
    assert len(image.getcolors(500 * 300)) == 1


@pytest.mark.parametrize(("required", "outcome"), [("", pytest.skip.Exception), ("1", pytest.fail.Exception)])
def test_without_a_browser(monkeypatch, required, outcome):
    monkeypatch.setattr(browser.shutil, "which", lambda _: None)
    monkeypatch.setenv(browser.REQUIRE, required)
    with pytest.raises(outcome, match="no browser: none of chromium, chromium-browser, google-chrome"):
        browser.browser()
