"""Two and four real processes: every check of this folder as a test of its own.

Starting processes is what costs here, so all checks run in the same few; see ``worker.py``.
"""

import subprocess
import sys
from pathlib import Path

import pytest

from .worker import SECONDS, WORLDS, checks_for

pytestmark = [pytest.mark.processes, pytest.mark.slow]


@pytest.fixture(scope="module")
def outcome(tmp_path_factory):
    """The folder of results, and what the processes printed."""
    folder = tmp_path_factory.mktemp("worlds")
    run = subprocess.run(
        [sys.executable, "-m", "distributed.worker", str(folder), *map(str, WORLDS)],
        cwd=Path(__file__).parents[1],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=60 + len(WORLDS) * SECONDS,
        check=False,
    )
    return folder, run.stdout


@pytest.mark.parametrize(
    ("check", "world"), [(check, world) for world in WORLDS for check in checks_for(world)]
)
def test_processes(check, world, outcome):
    folder, printed = outcome
    problems = []
    for rank in range(world):
        result = folder / f"{check}-{world}-{rank}"
        text = result.read_text() if result.exists() else f"did not end, or died\n{printed}"
        if text:
            problems.append(f"rank {rank}: {text}")
    if problems:
        pytest.fail("\n".join(problems), pytrace=False)
