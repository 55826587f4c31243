"""What DOT costs over KD as batch, width and the number of processes grow; one thread for each process.

``batch`` and ``width``: a training step of dotkd under DOT over one under SGD on the summed loss, by the
process's CPU time, medians of turns. ``processes``: the update alone, of a student's random gradients on two
processes under gloo, which share what cores there are: CPU milliseconds of one process, and the numbers that
a step reduces. SGD averages one gradient set in one flat message, DOT two.

    python benchmarks/scaling.py [--quick] [--json FILE]
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch
import torch.distributed as dist
from measuring import arguments, medians, take_turns, write
from torch import Tensor, nn
from trainers import KD, Ours, Setting

from dotkd.models import create_model
from dotkd.optim import DOT

BATCHES, WIDTHS = (16, 64, 128), (8, 16, 32, 64)
PROCESSES = 2
SGD_OPTIONS: dict[str, Any] = {"lr": 1e-4, "momentum": 0.9, "weight_decay": 5e-4}

Row = dict[str, float]


def steps(setting: Setting, rounds: int) -> Row:
    """Return the CPU milliseconds of a step under KD and DOT, and their ratio."""
    made = {"kd": Ours(setting, optimizer=KD), "dot": Ours(setting)}
    found = medians(take_turns({name: trainer.epoch for name, trainer in made.items()}, rounds))
    return {
        "kd_ms": 1e3 * found["kd"],
        "dot_ms": 1e3 * found["dot"],
        "ratio": found["dot"] / found["kd"],
    }


# ---------------------------------------------------------------- several processes


def updates(student: str) -> dict[str, Callable[[], None]]:
    """Return one update of each optimizer, by name; without a process group those of one process."""
    group = dist.group.WORLD if dist.is_initialized() else None

    sgd_params, dot_params = (list(create_model(student, 100).parameters()) for _ in range(2))
    task, distill = ([torch.randn_like(param) for param in dot_params] for _ in range(2))
    optimizer = DOT(dot_params, process_group=group, **SGD_OPTIONS)

    def dot() -> None:
        _fill(dot_params, distill)
        optimizer.capture_distill()
        _fill(dot_params, task)
        optimizer.step()
        optimizer.zero_grad()

    return {"SGD": _averaged_sgd(sgd_params), "DOT": dot}


def _averaged_sgd(params: list[nn.Parameter]) -> Callable[[], None]:
    """Return an update by SGD with gradients averaged over the processes in one message."""
    grads = [torch.randn_like(param) for param in params]
    optimizer = torch.optim.SGD(params, fused=True, **SGD_OPTIONS)

    def update() -> None:
        if dist.is_initialized():
            flat = torch.cat([grad.flatten() for grad in grads])
            dist.all_reduce(flat)
            flat /= dist.get_world_size()
            sizes = [grad.numel() for grad in grads]
            parts = torch.split(flat, sizes)
            averaged = [part.view_as(grad) for part, grad in zip(parts, grads, strict=True)]
        else:
            averaged = grads
        _fill(params, averaged)
        optimizer.step()
        optimizer.zero_grad()

    return update


def _fill(params: Sequence[nn.Parameter], grads: Sequence[Tensor]) -> None:
    for param, grad in zip(params, grads, strict=True):
        param.grad = grad


@contextmanager
def counted() -> Iterator[list[int]]:
    """Collect the bytes of each all_reduce."""
    sizes: list[int] = []
    original = dist.all_reduce

    def counting(tensor: Tensor, *args: Any, **options: Any) -> Any:
        sizes.append(tensor.numel() * tensor.element_size())
        return original(tensor, *args, **options)

    with mock.patch.object(dist, "all_reduce", counting):
        yield sizes


def worker(student: str, rounds: int) -> dict[str, Row]:
    """Measure the updates as one of the processes, or alone."""
    torch.manual_seed(0)
    variants, reduced = updates(student), {}
    for name, update in variants.items():
        update()
        with counted() as sizes:
            update()
        reduced[name] = sum(sizes)
    cpu = medians(take_turns(variants, rounds))
    wall = medians(take_turns(variants, rounds, clock=time.perf_counter))
    return {
        name: {"cpu_ms": 1e3 * cpu[name], "wall_ms": 1e3 * wall[name], "reduced_bytes": reduced[name]}
        for name in variants
    }


def on_processes(student: str, rounds: int, processes: int) -> dict[str, Row]:
    """Measure the updates on several processes; return what the first one found."""
    if processes == 1:
        return worker(student, rounds)
    launch = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    command = [sys.executable, *launch, __file__, "--worker", str(rounds), "--student", student]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    output = subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout
    found: dict[str, Row] = json.loads(output)
    return found


def run_worker(student: str, rounds: int) -> int:
    """Be one of the processes."""
    updates(student)["DOT"]()  # an optimizer imports parts of torch that would keep the group to the very end
    dist.init_process_group("gloo")
    found = worker(student, rounds)
    if dist.get_rank() == 0:
        print(json.dumps(found))
    dist.destroy_process_group()
    return 0


def options_of(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = arguments(__doc__)
    parser.add_argument("--teacher", default="resnet20", help="another network")
    parser.add_argument("--student", default="resnet8x4", help="another network")
    parser.add_argument("--batches", type=int, nargs="*", default=BATCHES, help="sizes of a batch")
    parser.add_argument("--widths", type=int, nargs="*", default=WIDTHS, help="of small/cnn")
    parser.add_argument("--worker", type=int, metavar="ROUNDS", help=argparse.SUPPRESS)
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print a table, and write it as JSON where asked."""
    options = options_of(argv)
    torch.set_num_threads(1)
    if options.worker:
        return run_worker(options.student, options.worker)
    teacher, student = options.teacher, options.student
    rounds = 3 if options.quick else 7
    results: dict[str, dict[str, Any]] = {
        "batch": {str(n): steps(Setting(teacher, student, n, n), rounds) for n in options.batches},
        "width": {str(n): steps(Setting(teacher, f"small/cnn{n}"), rounds) for n in options.widths},
    }
    print(f"{'':6} {'':>5} {'KD ms':>8} {'DOT ms':>8} {'ratio':>6}")
    for kind, rows in results.items():
        for number, row in rows.items():
            print(f"{kind:6} {number:>5} {row['kd_ms']:8.1f} {row['dot_ms']:8.1f} {row['ratio']:6.2f}")
    results["processes"] = {str(n): on_processes(student, 10 * rounds, n) for n in (1, PROCESSES)}
    print(f"{'update':26} {'CPU ms':>7} {'wall ms':>8} {'KiB reduced':>12}")
    for number, rows in results["processes"].items():
        for name, row in rows.items():
            label = f"{number} process{'es' if number != '1' else ''}, {name}"
            reduced = row["reduced_bytes"] / 1024
            print(f"{label:26} {row['cpu_ms']:7.2f} {row['wall_ms']:8.2f} {reduced:12,.0f}")
    write(options.json, {"pair": [teacher, student], "rounds": rounds, "results": results})
    return 0


if __name__ == "__main__":
    sys.exit(main())
