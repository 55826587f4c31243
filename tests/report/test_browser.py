"""The page in a real browser: it asks for nothing, says nothing, and shows itself in light and dark."""

import pytest
from PIL import Image

from dotkd.report import write_report

from . import browser
from .browser import open_page
from .folders import write_example


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    return write_report(write_example(tmp_path_factory.mktemp("example"), seeds=3, epochs=8))


def picture(visit):
    with Image.open(visit.screenshot) as image:
        return image.convert("RGB")


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [1000, 390])
def test_page_is_quiet_and_shows_itself(page, tmp_path, dark, width):
    visit = open_page(page, tmp_path, dark=dark, width=width)
    assert visit.console == []
    assert visit.requests == []
    assert visit.dom.count("<figure") == 3
    assert visit.dom.count('<svg role="img"') == 5
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
    # The page itself has no script; a copy of it measures. A window is never narrower than 500: use a frame.
    script = "<script>console.log(document.documentElement.scrollWidth + ' of ' + innerWidth)</script>"
    text = page.read_text(encoding="utf-8").replace("</body>", f"{script}</body>")
    (tmp_path / "measured.html").write_text(text, encoding="utf-8")
    frame = tmp_path / "frame.html"
    style = f"border: 0; width: {width}px; height: 2000px"
    frame.write_text(
        f'<!doctype html><iframe src="measured.html" style="{style}"></iframe>', encoding="utf-8"
    )
    (line,) = open_page(frame, tmp_path).console
    assert line.startswith(f'"{width} of {width}"')


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
