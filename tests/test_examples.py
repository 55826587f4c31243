"""Every example runs as a script, and its assertions hold."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow
EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
# Starts processes; test_example_two_processes.py tests it.
ELSEWHERE = {"two_processes.py"}


@pytest.mark.parametrize("name", sorted({path.name for path in EXAMPLES.glob("*.py")} - ELSEWHERE))
def test_example_runs(name: str, tmp_path: Path) -> None:
    result = subprocess.run(
        [sys.executable, "-W", "error", EXAMPLES / name],
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip()
    assert not list(tmp_path.iterdir()), "an example left files behind"


def test_there_are_examples() -> None:
    assert {"own_loop.py", "mixed_precision.py", "accumulate_and_clip.py"} <= {
        path.name for path in EXAMPLES.glob("*.py")
    }
