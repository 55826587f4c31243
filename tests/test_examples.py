"""Every example runs as its reader would run it, and what it asserts holds."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
# Starts processes of its own, and has its test in tests/distributed.
ELSEWHERE = {"two_processes.py"}


@pytest.mark.parametrize("name", sorted({path.name for path in EXAMPLES.glob("*.py")} - ELSEWHERE))
def test_example_runs(name: str, tmp_path: Path) -> None:
    # One thread: the networks are small, and on a busy machine threads wait for each other.
    result = subprocess.run(
        [sys.executable, "-W", "error", EXAMPLES / name],
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip()
    assert not list(tmp_path.iterdir()), "an example left files behind"


def test_there_are_examples() -> None:
    assert {"own_loop.py", "mixed_precision.py", "accumulate_and_clip.py"} <= {
        path.name for path in EXAMPLES.glob("*.py")
    }
