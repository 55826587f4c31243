"""The whole training step against the published trainer: resnet32x4 -> resnet8x4, batch 64, one thread.

A step is all of it: images, augmentation, teacher, student, losses, both backward passes, update, log. All
variants take turns in one process; a figure is the median of the process's CPU time over the median of what
it is held against.

exact_live                 dotkd, DOT, float32, the teacher asked in each step / the published trainer
exact_compiled             the same with run.compile = "step"; with --compile alone, which takes minutes
exact_cached               the first with a teacher cache that knows every view / the published trainer
bf16_teacher               the teacher alone in bfloat16 / the published trainer; not with --quick
bf16                       both networks in bfloat16 / the published trainer
convolutions               the convolutions of the first, alone / the published trainer; not with --quick
dot_over_kd                dotkd, DOT / dotkd, the summed loss under SGD; the teacher asked in each step

Random images and weights; nothing in a step depends on their values. With ``--quick`` there is no
warm-up: the median of four readings does not see the first.

On Linux every step pays for memory that malloc hands back to the system and takes again, the published
trainer's too. To see all of them without that (both are needed):

    MALLOC_TRIM_THRESHOLD_=4000000000 MALLOC_MMAP_THRESHOLD_=4000000000 python benchmarks/step_cost.py

    python benchmarks/step_cost.py [--quick] [--json FILE] [--threads N] [--wall] [--compile]
"""

import argparse
import platform
import sys
import time
from collections.abc import Sequence
from typing import Any

import torch
from convolutions import Convolutions
from measuring import arguments, medians, take_turns, write
from trainers import KD, Ours, Setting, Trainer, add_pair, pair_of, published

# The figures wanted, and those aimed at.
TARGETS = {
    "exact_live": (0.82, 0.70),
    "exact_cached": (0.44, 0.38),
    "bf16": (0.29, 0.25),
    "dot_over_kd": (1.30, None),
}
NO_BF16 = "this CPU has no instructions for bfloat16"
QUICK = "left out with --quick"


def trainers(setting: Setting, *, quick: bool, compiled: bool) -> dict[str, Trainer | Convolutions]:
    """Return a trainer for each variant, by name; an epoch of each is a step."""
    made: dict[str, Trainer | Convolutions] = {
        "published": published(setting),
        "live": Ours(setting),
        "cached": Ours(setting, run={"teacher_cache": "run"}, replay=True),
        "kd": Ours(setting, optimizer=KD),
    }
    if has_bf16():
        made["bf16"] = Ours(setting, run={"precision": "bf16"})
        if not quick:
            made["bf16_teacher"] = Ours(setting, run={"precision": "bf16-teacher"})
    if compiled:
        made["compiled"] = Ours(setting, run={"compile": "step"})
    if not quick:
        made["convolutions"] = Convolutions(setting)
    made["cached"].epoch()  # it knows every view from here on
    return made


def has_bf16() -> bool:
    """Say whether the CPU computes in bfloat16 by itself."""
    if platform.machine().lower() in ("x86_64", "amd64"):  # where oneDNN takes any AVX512 and widens
        return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def ratios(seconds: dict[str, list[float]]) -> dict[str, float | None]:
    """Bring the readings to the figures of this page; None for what this CPU cannot do."""
    found = medians(seconds)
    plain, kd = found["published"], found["kd"]
    return {
        "exact_live": found["live"] / plain,
        **({"exact_compiled": found["compiled"] / plain} if "compiled" in found else {}),
        "exact_cached": found["cached"] / plain,
        "bf16_teacher": found["bf16_teacher"] / plain if "bf16_teacher" in found else None,
        "bf16": found["bf16"] / plain if "bf16" in found else None,
        "convolutions": found["convolutions"] / plain if "convolutions" in found else None,
        "dot_over_kd": found["live"] / kd,
    }


def reason(name: str) -> str:
    """Say why there is no such figure."""
    return NO_BF16 if name.startswith("bf16") and not has_bf16() else QUICK


def options_of(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = arguments(__doc__)
    parser.add_argument("--threads", type=int, default=1, help="of torch; CPU time counts all of them")
    parser.add_argument("--wall", action="store_true", help="wall-clock time instead of CPU time")
    parser.add_argument("--compile", action="store_true", help="the compiled step, too")
    parser.add_argument("--rounds", type=int, help="4 with --quick, else 16")
    add_pair(parser)
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print a table, and write it as JSON where asked."""
    options = options_of(argv)
    torch.set_num_threads(options.threads)
    setting = pair_of(options)
    clock = time.perf_counter if options.wall else time.process_time
    rounds = options.rounds or (4 if options.quick else 16)
    made = trainers(setting, quick=options.quick, compiled=options.compile)
    cached = made["cached"]
    assert isinstance(cached, Ours)
    epochs = {name: trainer.epoch for name, trainer in made.items()}
    seconds = take_turns(epochs, rounds, warmup=0 if options.quick else 1, clock=clock)
    found = ratios(seconds)
    print(f"{'':26} {'ratio':>6} {'wanted':>7} {'aim':>5}")
    for name, ratio in found.items():
        columns = [f"{value:.2f}" if value else "-" for value in (ratio, *TARGETS.get(name, (None, None)))]
        print(f"{name:26} {columns[0]:>6} {columns[1]:>7} {columns[2]:>5}")
    numbers: dict[str, Any] = {
        "clock": "wall" if options.wall else "CPU",
        "pair": [setting.teacher, setting.student],
        "batch": setting.batch,
        "rounds": rounds,
        "ratios": found,
        "reasons": {name: reason(name) for name, ratio in found.items() if ratio is None},
        "teacher_cache_hit_rate": cached.metrics["teacher_cache_hit_rate"],
        "seconds": medians(seconds),
        "readings": seconds,
    }
    write(options.json, numbers)
    return 0


if __name__ == "__main__":
    sys.exit(main())
