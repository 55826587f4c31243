"""What DOT and its control do in the long run to parameters that both losses reach, or only one of them."""

import pytest
import torch
from torch import nn

from dotkd.distiller import Losses
from dotkd.recipe.tables import ControlTable, DOTTable, SGDTable
from dotkd.train.build import build_optimizer
from dotkd.train.differentiate import differentiate

MU, DELTA, LR, STEPS = 0.9, 0.075, 1e-3, 1500
TABLES = {
    "sgd": SGDTable(name="sgd", lr=LR, momentum=MU),
    "dot": DOTTable(name="dot", lr=LR, momentum=MU, delta=DELTA),
    "control": ControlTable(name="control", lr=LR, momentum=MU, delta=DELTA),
}
# Steady-state weight of the task gradient and of the distillation gradient where both reach a parameter.
SHARED = {
    "sgd": (1 / (1 - MU), 1 / (1 - MU)),
    "dot": (1 / (1 - MU + DELTA), 1 / (1 - MU - DELTA)),
    "control": (1 / (1 - MU + DELTA), 1 / (1 - MU - DELTA)),
}


@pytest.mark.slow
@pytest.mark.parametrize("arm", TABLES)
def test_steady_gains_under_constant_gradients(arm):
    classifier, projector, by_task, by_distill = (
        nn.Parameter(torch.zeros(3, dtype=torch.float64)) for _ in range(4)
    )
    g = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
    none = torch.zeros(3, dtype=torch.float64)
    params = [classifier, projector, by_task, by_distill]
    optimizer = build_optimizer(TABLES[arm], params)
    before = {}
    for step in range(STEPS):
        if step == STEPS - 1:
            before = {id(p): p.detach().clone() for p in params}
        # The last two are shared; each shows the gain of one of its two gradients.
        task = (g * classifier).sum() + (g * by_task).sum() + (none * by_distill).sum()
        distill = (g * projector).sum() + (none * by_task).sum() + (g * by_distill).sum()
        streams = {"task": task, "distill": distill}
        differentiate(optimizer, Losses(streams, {name: loss.detach() for name, loss in streams.items()}, g))
        optimizer.step()
        optimizer.zero_grad()
    gains = [(before[id(p)] - p.detach()) / (LR * g) for p in params]
    wanted = [1 / (1 - MU), 1 / (1 - MU), *SHARED[arm]]
    for gain, number in zip(gains, wanted, strict=True):
        torch.testing.assert_close(gain, torch.full_like(gain, number), rtol=1e-9, atol=0)
