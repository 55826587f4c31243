"""What all benchmarks share: variants that take turns, and the facts of the machine beside the numbers.

The machine's speed drifts while a script runs. So variants take turns in one process, each round in an order
of its own, and what counts is the ratio of medians.
"""

import argparse
import json
import os
import platform
import random
import statistics
import time
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch


def take_turns(
    variants: Mapping[str, Callable[[], object]],
    rounds: int,
    *,
    warmup: int = 2,
    clock: Callable[[], float] = time.process_time,
) -> dict[str, list[float]]:
    """Time variants in turns.

    Args:
        variants: What to time, by name; what a call returns is dropped.
        rounds: How often each is timed.
        warmup: Rounds before these, untimed.
        clock: CPU seconds of the process, or ``time.perf_counter``.

    Returns:
        Seconds of each round, by name.
    """
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    order, shuffle = list(variants), random.Random(0).shuffle
    for turn in range(rounds + warmup):
        shuffle(order)
        for name in order:
            start = clock()
            variants[name]()
            if turn >= warmup:
                seconds[name].append(clock() - start)
    return seconds


def medians(seconds: Mapping[str, list[float]]) -> dict[str, float]:
    """Return the median seconds of each variant."""
    return {name: statistics.median(values) for name, values in seconds.items()}


def machine() -> dict[str, Any]:
    """Say on what was measured, and how busy it was."""
    facts: dict[str, Any] = {
        "dotkd": version("dotkd"),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "machine": platform.machine(),
        "processor": _processor(),
        "cpu": torch.backends.cpu.get_cpu_capability(),
        "amx": bool(torch.cpu._is_amx_tile_supported()),
        "cpus": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load": [round(load, 2) for load in os.getloadavg()],  # of the last 1, 5 and 15 minutes
        "malloc": {key: value for key, value in os.environ.items() if key.startswith("MALLOC_")},
    }
    if torch.cuda.is_available():
        facts["gpu"] = torch.cuda.get_device_name()
    return facts


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def arguments(doc: str | None) -> argparse.ArgumentParser:
    """Make the parser of a benchmark: ``--quick`` and ``--json FILE``."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer rounds")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers there")
    return parser


def write(path: Path | None, numbers: Mapping[str, Any]) -> None:
    """Write numbers as JSON, where a file is wanted, with the facts of the machine above them."""
    if path is not None:
        path.write_text(json.dumps({**machine(), **numbers}, indent=2) + "\n")
