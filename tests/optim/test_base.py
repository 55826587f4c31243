"""Everything that a training loop does around backward and step."""

import gc
import weakref

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from dotkd.optim import DOT, DOTAdamW, MultiMomentumSGD

from .common import OPTIONS, Student, batches, bits, equal, feed, losses, reference, same


@pytest.fixture
def student():
    torch.manual_seed(0)
    return Student().double()


# -------------------------------------------------------------------- everything else that a loop does


def test_activation_checkpointing(student):
    steps = batches(3)
    want = reference(student, steps)
    opt = DOT(student.parameters(), **OPTIONS)
    body = nn.Sequential(student.body, nn.Tanh())
    calls = []
    student.body.register_forward_hook(lambda *_: calls.append(1))
    for images, labels, target in steps:
        hidden = checkpoint(body, images, use_reentrant=False)
        opt.backward(
            task=functional.cross_entropy(student.head(hidden), labels),
            distill=functional.mse_loss(student.project(hidden), target),
        )
        opt.step()
        opt.zero_grad()
    same(student, want)
    assert len(calls) > len(steps)  # the forward pass was really run again


def test_a_closure(student):
    steps = batches(3)
    want = reference(student, steps)
    opt = DOT(student.parameters(), **OPTIONS)
    seen = []
    for batch in steps:

        def closure(batch=batch):
            opt.zero_grad()
            task, distill = losses(student, batch)
            opt.backward(task=task, distill=distill)
            seen.append(float(task.detach()))
            return seen[-1]

        assert opt.step(closure) == seen[-1]
    assert len(seen) == 3
    same(student, want)


def test_step_hooks(student):
    opt = DOT(student.parameters(), **OPTIONS)
    seen = []
    opt.register_step_pre_hook(lambda o, *_: seen.append(("pre", o is opt, student.body.bias[0].item())))
    opt.register_step_post_hook(lambda o, *_: seen.append(("post", o is opt, student.body.bias[0].item())))
    before = student.body.bias[0].item()
    feed(opt, "backward", [losses(student, batches(1)[0])])
    opt.step()
    after = student.body.bias[0].item()
    assert before != after
    assert seen == [("pre", True, before), ("post", True, after)]


class Failing(torch.autograd.Function):
    @staticmethod
    def forward(_, value):
        return value.clone()

    @staticmethod
    def backward(*_):
        raise MemoryError("out of it")


@pytest.mark.parametrize("where", ["task", "distill"])
@pytest.mark.parametrize("again", [False, True])
def test_after_an_exception_in_backward_zero_grad_recovers(student, where, again):
    first, second = batches(2)
    want = reference(student, [second])
    opt = DOT(student.parameters(), **OPTIONS)
    if again:
        feed(opt, "backward", [losses(student, first)])
    both = dict(zip(("task", "distill"), losses(student, first), strict=True))
    both[where] = Failing.apply(both[where])
    with pytest.raises(MemoryError):
        opt.backward(**both)
    opt.zero_grad()
    assert all(row[1:] == (None, None) for row in opt.gradients())
    feed(opt, "backward", [losses(student, second)])
    opt.step()
    same(student, want)


def test_a_closure_that_raises_changes_nothing(student):
    opt = DOT(student.parameters(), **OPTIONS)
    feed(opt, "backward", [losses(student, batches(1)[0])])
    before = bits(student.parameters())

    def closure():
        raise MemoryError

    with pytest.raises(MemoryError):
        opt.step(closure)
    assert equal(student.parameters(), before)
    assert torch.is_grad_enabled()


def test_an_invalid_group_stops_the_step_before_any_group_moved(student):
    opt = DOT([{"params": student.body.parameters()}, {"params": student.head.parameters()}], **OPTIONS)
    (batch,) = batches(1)
    feed(opt, "backward", [losses(student, batch)])
    opt.param_groups[1]["momentum"] = 0.95
    before = bits(student.parameters())
    with pytest.raises(ValueError, match=r"momentum=0\.95 and delta=0\.075"):
        opt.step()
    assert equal(student.parameters(), before)
    assert not opt.state
    opt.param_groups[1]["momentum"] = 0.9
    opt.step()  # the gradients are still there
    assert not equal(student.parameters(), before)


@pytest.mark.parametrize("groups", [1, 2])
def test_a_kernel_that_does_not_exist_stops_the_step_before_any_parameter_moved(groups):
    fine, odd = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2, dtype=torch.bfloat16))
    opt = DOT([{"params": [fine]}, {"params": [odd]}] if groups == 2 else [fine, odd], lr=0.1, fused=True)
    # Reached by other losses than the first one, so that they are updated in separate calls.
    opt.backward(task=fine.sum(), distill=fine.sum() + odd.float().sum())
    with pytest.raises(RuntimeError, match=r"fused=True cannot update a parameter of dtype torch\.bfloat16"):
        opt.step()
    assert fine.tolist() == [1.0, 1.0]
    assert odd.tolist() == [1.0, 1.0]


@pytest.mark.parametrize(
    "make",
    [
        lambda p: DOT(p, lr=0.1),
        lambda p: DOTAdamW(p),
        lambda p: MultiMomentumSGD(p, 0.1, {"task": 0.9, "distill": 0.9}),
    ],
)
def test_an_optimizer_dies_with_its_last_reference(make):
    """It holds two or three times the model's memory, and perhaps a process group."""
    weight = nn.Parameter(torch.ones(3))
    opt = make([weight])
    opt.backward(task=weight.sum(), distill=weight.sum())
    opt.step()
    gone = weakref.ref(opt)
    gc.disable()
    try:
        del opt
        assert gone() is None
    finally:
        gc.enable()
