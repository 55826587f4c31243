"""Measure the curvature of the task loss at the students of seed 0, raw and filter-normalised.

    python studies/cifar100-h200/curvature.py --data FOLDER --students FOLDER --json FILE

``--data`` holds the parquet files of CIFAR-100, ``--students`` for each arm a file
``student-resnet8x4-ARM-seed0.safetensors``. The loss is the mean cross-entropy of the first training images,
without augmentation, in evaluation mode. FILE keeps what it has. 2,048 images take 10 GiB, and an hour on two
cores.
"""

import argparse
import copy
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.functional import cross_entropy

from dotkd.analysis import filter_norms, hessian_trace, top_eigenvalues
from dotkd.data import Batch, load_cifar100
from dotkd.models import create_model
from dotkd.models.fold import fold_batch_norm

PART = 128  # images: in the trace, each part has random signs of its own


def folded(student: nn.Module) -> Callable[[Tensor], Tensor]:
    """The same function of the same parameters, without batch norms: a third less work."""
    convolutions = [(name, one) for name, one in student.named_modules() if isinstance(one, nn.Conv2d)]
    norms = [one for one in student.modules() if isinstance(one, nn.BatchNorm2d)]
    without = copy.deepcopy(student)
    assert fold_batch_norm(without) == len(norms) == len(convolutions)

    def forward(images: Tensor) -> Tensor:
        state = {}
        for (name, convolution), norm in zip(convolutions, norms, strict=True):
            gain = norm.weight * (norm.running_var + norm.eps).rsqrt()
            state[f"{name}.weight"] = convolution.weight * gain[:, None, None, None]
            state[f"{name}.bias"] = norm.bias - norm.running_mean * gain
        names = dict(without.named_parameters())  # those of the batch norms are gone
        state |= {
            name: one for name, one in student.named_parameters() if name in names and name not in state
        }
        return functional_call(without, state, images)

    return forward


def measurements(
    student: nn.Module, data: Batch, samples: int, tolerance: float
) -> dict[str, Callable[[], Any]]:
    """Name each number and how to get it."""
    params, forward, count = list(student.parameters()), folded(student), len(data)
    torch.testing.assert_close(forward(data.images[:PART]), student(data.images[:PART]), rtol=1e-4, atol=1e-4)

    def loss(begin: int, end: int) -> Tensor:
        return cross_entropy(forward(data.images[begin:end]), data.labels[begin:end], reduction="sum") / count

    parts = [partial(loss, begin, min(begin + PART, count)) for begin in range(0, count, PART)]

    def trace(scale: list[Tensor] | None) -> dict[str, float]:
        signs = torch.Generator().manual_seed(0)
        return hessian_trace(parts, params, num_samples=samples, scale=scale, generator=signs)._asdict()

    def eigenvalue(scale: list[Tensor] | None) -> float:
        return top_eigenvalues(partial(loss, 0, count), params, scale=scale, tolerance=tolerance).item()

    return {
        "task_loss": lambda: sum(part().item() for part in parts),
        "squared_norm_of_convolutions": lambda: sum(
            param.detach().double().square().sum().item() for param in params if param.ndim == 4
        ),
        "trace": lambda: trace(None),
        "largest_eigenvalue": lambda: eigenvalue(None),
        "trace_filter_normalized": lambda: trace(filter_norms(params)),
        "largest_eigenvalue_filter_normalized": lambda: eigenvalue(filter_norms(params)),
    }


def main() -> None:
    """Measure every arm; write after each number."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", required=True)
    parser.add_argument("--students", type=Path, required=True)
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--arms", nargs="+", default=["kd", "dot", "control"])
    parser.add_argument("--images", type=int, default=2048)
    parser.add_argument("--samples", type=int, default=2)
    parser.add_argument("--tolerance", type=float, default=0.03)
    given = parser.parse_args()
    data = load_cifar100(root=given.data).train.batch(range(given.images))
    found: dict[str, Any] = json.loads(given.json.read_text()) if given.json.exists() else {}
    found |= {
        "made_by": "studies/cifar100-h200/curvature.py: dotkd.analysis on a CPU, float32",
        "torch": torch.__version__,
        "loss": "cross-entropy of the first training images, evaluation mode, no augmentation, seed 0",
        "images": given.images,
        "trace_samples": given.samples,
        "images_of_a_trace_part": PART,
        "eigenvalue_tolerance": given.tolerance,
    }
    for arm in given.arms:
        student = create_model("cifar100/resnet8x4", num_classes=100).eval()
        student.load_state_dict(load_file(given.students / f"student-resnet8x4-{arm}-seed0.safetensors"))
        numbers = found.setdefault("arms", {}).setdefault(arm, {})
        for name, measure in measurements(student, data, given.samples, given.tolerance).items():
            if name not in numbers:
                numbers[name] = measure()
                print(arm, name, numbers[name], flush=True)
                given.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
