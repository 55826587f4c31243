"""Two and four real processes: every check of this folder as a test of its own.

Starting processes is what costs here, so each world is started once and runs all of its checks.
"""

import subprocess
import sys
import time
from pathlib import Path

import pytest

from .worker import checks_for

pytestmark = pytest.mark.processes

SECONDS = 120  # for all checks of a world; a hang is a failure


def run_world(world, folder):
    """Run all checks of a world; return what each process printed."""
    tests = Path(__file__).parents[1]
    logs = [folder / f"log-{rank}" for rank in range(world)]
    processes = []
    try:
        for rank, log in enumerate(logs):
            command = [sys.executable, "-m", "distributed.worker", str(rank), str(world), str(folder)]
            with log.open("w") as file:
                processes.append(subprocess.Popen(command, cwd=tests, stdout=file, stderr=file))
        deadline = time.monotonic() + SECONDS
        for process in processes:
            try:
                process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                break
    finally:
        for process in processes:
            process.kill()
            process.wait()
    return "\n".join(f"rank {rank}:\n{log.read_text()}" for rank, log in enumerate(logs))


def report(world, folder, logs, check):
    problems = []
    for rank in range(world):
        result = folder / f"{check}-{rank}"
        text = result.read_text() if result.exists() else f"did not finish in {SECONDS} s, or died\n{logs}"
        if text:
            problems.append(f"rank {rank}: {text}")
    if problems:
        pytest.fail("\n".join(problems), pytrace=False)


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    folder = tmp_path_factory.mktemp("two")
    return 2, folder, run_world(2, folder)


@pytest.fixture(scope="module")
def four(tmp_path_factory):
    folder = tmp_path_factory.mktemp("four")
    return 4, folder, run_world(4, folder)


@pytest.mark.parametrize("check", checks_for(2))
def test_two_processes(check, two):
    report(*two, check)


@pytest.mark.parametrize("check", checks_for(4))
def test_four_processes(check, four):
    report(*four, check)
