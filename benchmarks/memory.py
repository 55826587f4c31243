"""Peak memory of training, each trainer in fresh processes: resnet32x4 -> resnet8x4, batch 64, one thread.

The figure is the most memory that the process ever held (``ru_maxrss``) after a few steps, the median of
several processes that take turns, and its distance to the published trainer's. ``gradients`` is the size of
one gradient set of the student, which is what DOT may cost more. ``imports`` is a process without training.

    python benchmarks/memory.py [--quick] [--json FILE]
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import Any

import torch
from measuring import arguments, write
from step_cost import has_bf16
from trainers import KD, Ours, Setting, add_pair, pair_of, published

Epoch = Callable[[], None]

STEPS = 2
# The memory of a tensor goes back to the system when it is freed; else some 100 MiB of a peak are chance.
MALLOC = {"MALLOC_MMAP_THRESHOLD_": "65536"}
TRAINERS: dict[str, Callable[[Setting], Any] | None] = {
    "imports": None,
    "published": published,
    "exact": Ours,
    "cached": lambda setting: Ours(setting, run={"teacher_cache": "run"}, replay=True),
    "bf16": lambda setting: Ours(setting, run={"precision": "bf16"}),
    "kd": lambda setting: Ours(setting, optimizer=KD),
}


def peak(name: str, setting: Setting) -> dict[str, float]:
    """Train in this process, and return the peak and the size of a gradient set, both in MiB."""
    make, gradients = TRAINERS[name], 0
    # The published optimizer is one of torch's: the first of these in a process imports tens of MiB of code.
    torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)
    if make is not None:
        trainer = make(setting)
        gradients = sum(4 * parameter.numel() for parameter in setting.networks[1].parameters())
        del setting.__dict__["networks"]  # the trainer has its own
        for _ in range(STEPS):
            trainer.epoch()
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    unit = 1 if sys.platform == "darwin" else 1024  # bytes there, KiB elsewhere
    return {"peak": used * unit / 2**20, "gradients": gradients / 2**20}


def measure(names: Sequence[str], rounds: int, setting: Setting) -> dict[str, list[dict[str, float]]]:
    """Return what each process found, by trainer."""
    found: dict[str, list[dict[str, float]]] = {name: [] for name in names}
    # A process inherits the peak of the one that starts it. This one trains nothing, and so stays below.
    environment = {**os.environ, **MALLOC}
    where = ["--teacher", setting.teacher, "--student", setting.student, "--batch", str(setting.batch)]
    for _ in range(rounds):
        for name in names:
            command = [sys.executable, __file__, "--run", name, *where]
            ran = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
            output = ran.stdout
            found[name].append(json.loads(output))
    return found


def options_of(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = arguments(__doc__)
    parser.add_argument("--only", nargs="+", choices=TRAINERS, default=list(TRAINERS), help="these alone")
    parser.add_argument("--run", choices=TRAINERS, help=argparse.SUPPRESS)
    add_pair(parser)
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print a table, and write it as JSON where asked."""
    options = options_of(argv)
    torch.set_num_threads(1)
    setting = pair_of(options)
    if options.run:
        print(json.dumps(peak(options.run, setting)))
        return 0
    names = [name for name in options.only if name != "bf16" or has_bf16()]
    rounds = 1 if options.quick else 3
    found = measure(names, rounds, setting)
    peaks = {name: statistics.median(row["peak"] for row in rows) for name, rows in found.items()}
    gradients = max(row["gradients"] for rows in found.values() for row in rows)
    print(f"{'MiB':10} {'peak':>7} {'to published':>13}   gradients {gradients:.1f}")
    for name, value in peaks.items():
        beside = f"{value - peaks['published']:+13.1f}" if "published" in peaks else ""
        print(f"{name:10} {value:7.1f} {beside}")
    write(
        options.json,
        {
            "pair": [setting.teacher, setting.student],
            "batch": setting.batch,
            "steps": STEPS,
            "rounds": rounds,
            "malloc_of_processes": MALLOC,
            "gradients": gradients,
            "peaks": peaks,
            "readings": {name: [row["peak"] for row in rows] for name, rows in found.items()},
        },
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
