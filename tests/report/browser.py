"""Open a page in headless Chromium and say what a reader's browser saw.

The browser cannot reach any host: a page that asks for something is noticed, and gets nothing.
"""

import json
import os
import re
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome")
REQUIRE = "DOTKD_REQUIRE_BROWSER"
CONSOLE = re.compile(r"^\[[^\]]*:CONSOLE[:(]\d+\)?\] (.*)$", re.MULTILINE)
FLAGS = [
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars"),
    *("--disable-background-networking", "--disable-component-update", "--disable-default-apps"),
    *("--no-first-run", "--disable-sync", "--enable-logging=stderr", "--v=0", "--dump-dom"),
    "--host-resolver-rules=MAP * ~NOTFOUND",
]


@dataclass(frozen=True)
class Visit:
    """What the console said, which addresses the page asked for, the DOM at the end, and a picture."""

    console: list[str]
    requests: list[str]
    dom: str
    screenshot: Path


def browser() -> str:
    """Path of the browser; without one the test is skipped, or fails where a browser is required."""
    found = next(filter(None, map(shutil.which, NAMES)), None)
    if found is None:
        reason = f"no browser: none of {', '.join(NAMES)} is installed"
        if os.environ.get(REQUIRE) == "1":
            pytest.fail(f"{reason}, but {REQUIRE}=1")
        pytest.skip(reason)
    return found


def open_page(
    path: Path, tmp_path: Path, *, dark: bool = False, width: int = 1000, height: int = 3000
) -> Visit:
    """Open a file in a browser of its own; ``dark`` is what ``prefers-color-scheme`` answers."""
    home = Path(tempfile.mkdtemp(prefix="visit-", dir=tmp_path))
    log, picture = home / "net.json", home / "page.png"
    command = [
        *(browser(), *FLAGS),
        f"--user-data-dir={home / 'profile'}",
        f"--log-net-log={log}",
        f"--screenshot={picture}",
        f"--window-size={width},{height}",
        f"--blink-settings=preferredColorScheme={0 if dark else 1}",
        path.resolve().as_uri(),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    return Visit(CONSOLE.findall(done.stderr), _requests(log), done.stdout, picture)


def _requests(log: Path) -> list[str]:
    """Addresses that the page asked for; what the browser asks on its own account has no origin."""
    content = json.loads(log.read_text(encoding="utf-8"))
    start = content["constants"]["logEventTypes"]["URL_REQUEST_START_JOB"]
    found = [event["params"] for event in content["events"] if event["type"] == start and "params" in event]
    return [
        params["url"]
        for params in found
        if params.get("initiator") != "not an origin" and re.match(r"(https?|wss?):", params.get("url", ""))
    ]
