"""The example on two processes runs under torchrun, and its assertions hold."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parents[1] / "examples" / "two_processes.py"


@pytest.mark.slow
@pytest.mark.processes
def test_two_processes_hold_the_student_of_one():
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    # torchrun warns when OMP_NUM_THREADS is not set.
    run = subprocess.run(
        [*launch, str(EXAMPLE)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    assert re.fullmatch(
        r"2 identical students, \S+ \(relative\) from one process on whole batches\n", run.stdout
    )
