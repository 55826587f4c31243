"""Gradient accumulation, clipping and parameter groups with DOT.

``opt.backward`` adds to both gradient sets until ``opt.step()``, so a batch may come in micro-batches, each
weighted by its share. ``opt.clip_grad_norm_`` then looks at the norm of the sum of both sets and scales
them by one factor. The result is that of the whole batch at once. Biases and norms are not decayed.
"""

import copy

import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.nn.utils import parameters_to_vector

from dotkd.losses import kd_loss
from dotkd.optim import DOT

STEPS, BATCH, MAX_NORM = 10, 96, 0.5


def network(width: int, generator: torch.Generator) -> nn.Module:
    """Make a network with LayerNorm: BatchNorm's statistics of a micro-batch are not the batch's."""
    net = nn.Sequential(nn.Linear(20, width), nn.LayerNorm(width), nn.ReLU(), nn.Linear(width, 5))
    for parameter in net.parameters():
        nn.init.normal_(parameter, std=0.3, generator=generator)
    return net.double()


def optimizer(model: nn.Module) -> DOT:
    """Make two parameter groups: weight matrices are decayed, biases and norms are not."""
    decayed = [parameter for parameter in model.parameters() if parameter.ndim > 1]
    biases_and_norms = [parameter for parameter in model.parameters() if parameter.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": 5e-3}, {"params": biases_and_norms, "weight_decay": 0.0}]
    return DOT(groups, lr=0.05, momentum=0.9, delta=0.075)


def main() -> None:
    """Train a student on whole batches and its twin on micro-batches."""
    generator = torch.Generator().manual_seed(0)
    teacher, whole = network(64, generator), network(16, generator)
    in_parts = copy.deepcopy(whole)

    def train(student: nn.Module, sizes: list[int]) -> int:
        opt, data, clipped = optimizer(student), torch.Generator().manual_seed(1), 0
        for _ in range(STEPS):
            inputs = torch.randn(BATCH, 20, generator=data, dtype=torch.float64)
            labels = torch.randint(5, (BATCH,), generator=data)
            for x, y in zip(torch.split(inputs, sizes), torch.split(labels, sizes), strict=True):
                logits, share = student(x), len(x) / BATCH
                distill = kd_loss(logits, teacher(x).detach(), temperature=2.0)
                opt.backward(task=share * cross_entropy(logits, y), distill=share * distill)
            clipped += bool(opt.clip_grad_norm_(MAX_NORM, mode="joint")["joint"] > MAX_NORM)
            opt.step()
            opt.zero_grad()
        return clipped

    start = parameters_to_vector(whole.parameters()).detach()
    clipped = train(whole, [BATCH])
    train(in_parts, [40, 40, 16])  # unequal on purpose: the shares take care of it
    end, other = (parameters_to_vector(model.parameters()).detach() for model in (whole, in_parts))
    moved, apart = float((end - start).abs().max()), float((end - other).abs().max())
    print(f"{clipped} of {STEPS} steps clipped, parameters moved by {moved:.2f}, differ by {apart:.1e}")
    assert apart < 1e-6 < 1e-2 < moved
    assert 0 < clipped < STEPS


if __name__ == "__main__":
    main()
