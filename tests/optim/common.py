"""A student of two losses, its data, and comparisons, for several files of tests."""

import copy

import torch
from torch import nn
from torch.nn import functional

from dotkd.optim import ReferenceDOT

OPTIONS = {"lr": 0.05, "momentum": 0.9, "delta": 0.075, "weight_decay": 0.01}


class Student(nn.Module):
    """``body``: both losses reach it. ``head``: the task alone. ``project``: distillation alone."""

    def __init__(self):
        super().__init__()
        self.body, self.head, self.project = nn.Linear(5, 4), nn.Linear(4, 3), nn.Linear(4, 2)

    def forward(self, images):
        hidden = torch.tanh(self.body(images))
        return self.head(hidden), self.project(hidden)


def batches(count, size=6, seed=1, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return [
        (
            torch.randn(size, 5, generator=generator, dtype=dtype),
            torch.randint(3, (size,), generator=generator),
            torch.randn(size, 2, generator=generator, dtype=dtype),
        )
        for _ in range(count)
    ]


def losses(student, batch):
    images, labels, target = batch
    logits, features = student(images)
    return functional.cross_entropy(logits, labels), functional.mse_loss(features, target)


def pairs(student, batch):
    """Return both gradients of every parameter by autograd.grad, which touches no .grad."""
    params = list(student.parameters())
    task, distill = losses(student, batch)
    return (
        torch.autograd.grad(task, params, retain_graph=True, allow_unused=True),
        torch.autograd.grad(distill, params, allow_unused=True),
    )


def reference(student, steps, **options):
    """Return a copy of the student after the paper's update on each batch."""
    student = copy.deepcopy(student)
    dot = ReferenceDOT(list(student.parameters()), **{**OPTIONS, **options})
    for batch in steps:
        dot.step(*pairs(student, batch))
    return student


def feed(opt, path, micro_losses, scaler=None):
    """Bring the losses of micro-batches to an optimizer: by ``backward``, or by ``capture``."""
    scale = (lambda loss: loss) if scaler is None else scaler.scale
    for i, (task, distill) in enumerate(micro_losses):
        if path == "backward":
            opt.backward(task=task, distill=distill, scaler=scaler)
            continue
        if i:
            opt.capture_task()
        scale(distill).backward(retain_graph=True)
        opt.capture_distill(scaler=scaler)
        scale(task).backward()


def same(left, right, tolerance=1e-12):
    for (name, a), b in zip(left.named_parameters(), right.parameters(), strict=True):
        assert torch.allclose(a, b, rtol=tolerance, atol=tolerance), name


def bits(tensors):
    return [tensor.detach().clone() for tensor in tensors]


def equal(left, right):
    return all(torch.equal(a, b) for a, b in zip(left, right, strict=True))
