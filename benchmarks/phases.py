"""Where the time of a training step goes, in dotkd and in the published trainer: resnet32x4 -> resnet8x4.

Both train as they always do; a stopwatch is wrapped around the functions of each phase. They take turns in
one process; the table shows medians of the process's CPU time on one thread, and the share of the step.
``rest`` is what no phase holds: the loop, the learning rate, what is read for the log, and, as an epoch has
one step here, all that dotkd does once in an epoch.

    python benchmarks/phases.py [--quick] [--json FILE]
"""

import argparse
import statistics
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any
from unittest import mock

import torch
from measuring import arguments, take_turns, write
from published import PublishedTrainer
from stopwatch import Stopwatch
from trainers import Ours, Setting, Trainer, add_pair, pair_of, published

from dotkd.data import ImageData

PHASES = ("data", "teacher", "student", "losses", "backward_distill", "backward_task", "optimizer", "rest")


def watch_published(trainer: PublishedTrainer, watch: Stopwatch) -> None:
    """Put a stopwatch around the phases of the published trainer."""
    batches, optimizer = trainer.batches, trainer.optimizer
    _set(trainer, "batches", lambda: watch.each("data", batches()))
    _wrap(trainer, watch, ask_teacher="teacher", ask_student="student", losses="losses")
    _wrap(optimizer, watch, step_distill="optimizer", step="optimizer", zero_grad="optimizer")


def watch_ours(trainer: Ours, watch: Stopwatch) -> None:
    """Put a stopwatch around the phases of a run of dotkd."""
    distiller, optimizer = trainer.session.distiller, trainer.session.optimizer
    _wrap(distiller, watch, teach="teacher", forward="losses")
    _wrap(distiller.student, watch, forward="student")
    _wrap(optimizer, watch, backward="optimizer", step="optimizer", zero_grad="optimizer")


def _wrap(owner: Any, watch: Stopwatch, **phases: str) -> None:
    for name, phase in phases.items():
        _set(owner, name, watch.timed(phase, getattr(owner, name)))


def _set(owner: Any, name: str, function: Callable[..., Any]) -> None:
    owner.__dict__[name] = function  # before the class's own, and past what modules make of an attribute


@contextmanager
def watched(watch: Stopwatch) -> Iterator[None]:
    """Time, for as long as this lasts, what belongs to classes of others: batches and backward passes."""
    backward, batches = torch.autograd.backward, ImageData.batches

    def timed_backward(
        tensors: Any, grad_tensors: Any = None, retain_graph: bool | None = None, *args: Any, **options: Any
    ) -> None:
        # Both trainers differentiate the distillation loss first and keep the graph for the other.
        with watch.phase("backward_distill" if retain_graph else "backward_task"):
            backward(tensors, grad_tensors, retain_graph, *args, **options)

    def timed_batches(data: ImageData, *args: Any, **options: Any) -> Iterator[Any]:
        return watch.each("data", batches(data, *args, **options))

    with (
        mock.patch.object(torch.autograd, "backward", timed_backward),
        mock.patch.object(ImageData, "batches", timed_batches),
    ):
        yield


def measure(setting: Setting, rounds: int) -> dict[str, dict[str, float]]:
    """Return the median seconds of each phase of a step, for each implementation."""
    watch = Stopwatch()
    theirs, ours = published(setting), Ours(setting)
    watch_published(theirs, watch)
    watch_ours(ours, watch)
    trainers: dict[str, Trainer] = {"published": theirs, "dotkd": ours}
    readings: dict[str, list[dict[str, float]]] = {name: [] for name in trainers}

    def epoch(name: str) -> None:
        watch.reset()
        with watched(watch), watch.phase("rest"):
            trainers[name].epoch()
        readings[name].append(dict(watch.seconds))

    warmup = 1
    take_turns({name: partial(epoch, name) for name in trainers}, rounds, warmup=warmup)
    return {
        name: {phase: statistics.median(row.get(phase, 0.0) for row in rows[warmup:]) for phase in PHASES}
        for name, rows in readings.items()
    }


def options_of(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = arguments(__doc__)
    add_pair(parser)
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print a table, and write it as JSON where asked."""
    options = options_of(argv)
    torch.set_num_threads(1)
    setting = pair_of(options)
    rounds = 3 if options.quick else 7
    results = measure(setting, rounds)
    totals = {name: sum(phases.values()) for name, phases in results.items()}
    print(f"{'CPU ms':18}" + "".join(f"{name:>12} {'':>5}" for name in results))
    for phase in (*PHASES, "all"):
        cells = [
            (seconds := totals[name] if phase == "all" else phases[phase], seconds / totals[name])
            for name, phases in results.items()
        ]
        print(f"{phase:18}" + "".join(f"{1e3 * cell:12.1f} {share:5.1%}" for cell, share in cells))
    write(
        options.json,
        {
            "pair": [setting.teacher, setting.student],
            "batch": setting.batch,
            "rounds": rounds,
            "results": results,
        },
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
