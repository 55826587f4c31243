"""The optimizer step alone: DOT against ``torch.optim.SGD``, one thread, one run.

Every variant owns its parameters, gradients and buffers. Variants take turns; the table shows medians and the
ratio to SGD with foreach, for DOTAdamW to AdamW with foreach. torch's default on a CPU is the loop. Each
model has a process of its own.

On Linux the baseline has two speeds. foreach allocates temporaries as large as the model in each step;
whether malloc hands that memory back to the system after each step, and has it cleared page by page in the
next, depends on what else lies in the heap. The fused kernels allocate nothing. To see the baseline at its
best, keep the memory:

    MALLOC_TRIM_THRESHOLD_=4000000000 MALLOC_MMAP_THRESHOLD_=4000000000 python benchmarks/optimizer_step.py

    python benchmarks/optimizer_step.py [--quick] [--json FILE]
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

import torch
from measuring import arguments, write
from torch import nn

from dotkd.optim import DOT, DOTAdamW

Shapes = list[tuple[int, ...]]
Results = dict[str, dict[str, float]]
BASELINES = {"DOTAdamW": "AdamW foreach"}


def conv_norm(width_in: int, width_out: int, kernel: int) -> Shapes:
    """Return the shapes of a convolution without bias and of the batch norm behind it."""
    return [(width_out, width_in, kernel, kernel), (width_out,), (width_out,)]


def resnet8x4() -> Shapes:
    """Return the shapes of the CIFAR ResNet-8x4 with 100 classes: 1.2 M numbers in 32 tensors."""
    shapes = conv_norm(3, 32, 3)
    for width_in, width in ((32, 64), (64, 128), (128, 256)):
        shapes += conv_norm(width_in, width, 3) + conv_norm(width, width, 3) + conv_norm(width_in, width, 1)
    return [*shapes, (100, 256), (100,)]


def resnet50() -> Shapes:
    """Return the shapes of the ImageNet ResNet-50: 25.6 M numbers in 161 tensors."""
    shapes = conv_norm(3, 64, 7)
    width_in = 64
    for width, blocks in ((64, 3), (128, 4), (256, 6), (512, 3)):
        for block in range(blocks):
            shapes += conv_norm(width_in, width, 1) + conv_norm(width, width, 3)
            shapes += conv_norm(width, 4 * width, 1)
            if block == 0:
                shapes += conv_norm(width_in, 4 * width, 1)
            width_in = 4 * width
    return [*shapes, (1000, 2048), (1000,)]


MODELS: dict[str, Callable[[], Shapes]] = {
    "resnet8x4": resnet8x4,
    "resnet50": resnet50,
    "600x64": lambda: [(64,)] * 600,
}


def timed(shapes: Shapes, make: Callable[[list[nn.Parameter]], torch.optim.Optimizer]) -> Callable[[], float]:
    """Return a function that takes one step of an optimizer and returns its seconds.

    The clock runs for ``step()`` alone. Setting ``.grad`` and ``capture_distill`` move references.
    """
    params = [nn.Parameter(torch.randn(shape)) for shape in shapes]
    task = [torch.randn_like(param) for param in params]
    distill = [torch.randn_like(param) for param in params]
    opt = make(params)

    def fill(grads: list[torch.Tensor]) -> None:
        for param, grad in zip(params, grads, strict=True):
            param.grad = grad

    def run() -> float:
        opt.zero_grad()
        if isinstance(opt, DOT | DOTAdamW):
            fill(distill)
            opt.capture_distill()
        fill(task)
        start = time.perf_counter()
        opt.step()
        return time.perf_counter() - start

    return run


def variants(shapes: Shapes) -> dict[str, Callable[[], float]]:
    """Return the timed steps, by name."""
    sgd = {"lr": 1e-4, "momentum": 0.9, "weight_decay": 5e-4}
    return {
        "SGD foreach": timed(shapes, lambda p: torch.optim.SGD(p, foreach=True, **sgd)),  # type: ignore[arg-type]
        "SGD loop": timed(shapes, lambda p: torch.optim.SGD(p, foreach=False, **sgd)),  # type: ignore[arg-type]
        "SGD fused": timed(shapes, lambda p: torch.optim.SGD(p, fused=True, **sgd)),  # type: ignore[arg-type]
        "DOT foreach": timed(shapes, lambda p: DOT(p, foreach=True, **sgd)),  # type: ignore[arg-type]
        "DOT loop": timed(shapes, lambda p: DOT(p, foreach=False, **sgd)),  # type: ignore[arg-type]
        "DOT fused": timed(shapes, lambda p: DOT(p, fused=True, **sgd)),  # type: ignore[arg-type]
        "AdamW foreach": timed(shapes, lambda p: torch.optim.AdamW(p, lr=1e-4, foreach=True)),
        "DOTAdamW": timed(shapes, lambda p: DOTAdamW(p, lr=1e-4)),
    }


def measure(shapes: Shapes, rounds: int) -> Results:
    """Time all variants in turns and return the median milliseconds and the ratio of each."""
    steps = variants(shapes)
    times: dict[str, list[float]] = {name: [] for name in steps}
    for turn in range(rounds + 2):
        for name, step in steps.items():
            seconds = step()
            if turn >= 2:  # buffers are allocated in the first step
                times[name].append(seconds)
    medians = {name: statistics.median(seconds) for name, seconds in times.items()}
    return {
        name: {
            "milliseconds": 1e3 * median,
            "ratio": median / medians[BASELINES.get(name, "SGD foreach")],
        }
        for name, median in medians.items()
    }


def in_fresh_process(model: str, rounds: int) -> Results:
    """Measure one model in a process of its own: what one leaves in the heap would change the next."""
    command = [sys.executable, __file__, "--model", model, "--rounds", str(rounds)]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    results: Results = json.loads(output)
    return results


def main() -> int:
    """Measure, print a table, and write it as JSON where asked."""
    parser = arguments(__doc__)
    parser.add_argument("--model", choices=MODELS, help=argparse.SUPPRESS)
    parser.add_argument("--rounds", type=int, default=0, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(1)
    if options.model:
        print(json.dumps(measure(MODELS[options.model](), options.rounds)))
        return 0
    results = {}
    for model in MODELS:
        results[model] = in_fresh_process(model, rounds=11 if options.quick else 41)
        print(f"{model:16} {'ms':>6} {'ratio':>7}")
        for name, row in results[model].items():
            print(f"  {name:14} {row['milliseconds']:6.2f} {row['ratio']:7.2f}", flush=True)
    write(options.json, {"results": results})
    return 0


if __name__ == "__main__":
    sys.exit(main())
