"""What others do to ``.grad`` between the backward passes and the step is seen: used, dropped or refused."""

import copy

import pytest
import torch
from torch import nn
from torch.amp import GradScaler

from dotkd.optim import DOT, DOTAdamW, MultiMomentumSGD

from .common import OPTIONS, Student, batches, bits, equal, feed, losses, reference, same

REFUSED = r"\.grad was edited or replaced.*opt\.clip_grad_norm_\(\).*opt\.gradients\(\)"


@pytest.fixture
def student():
    torch.manual_seed(0)
    return Student().double()


def two_streams():
    weights = [nn.Parameter(torch.ones(3)), nn.Parameter(torch.full((2,), 2.0))]
    return weights, DOT(weights, lr=0.1)


def sums(weights, task=2.0, distill=3.0):
    total = sum(weight.sum() for weight in weights)
    return task * total, distill * total


# -------------------------------------------------------------------- edits that are refused


def orthogonal(params):
    """As OrthoGrad: every gradient made orthogonal to its weight, in place."""
    for p in params:
        if p.grad is not None:
            p.grad.sub_(p.detach() * (p.grad * p).sum() / (p * p).sum())


def replaced(params):
    """As LARC: every gradient replaced by another tensor."""
    for p in params:
        if p.grad is not None:
            p.grad = p.grad * 0.5


def cancelled(params):
    """As DINO cancels the gradients of its last layer."""
    params[0].grad = None


EDITS = {
    "clip_grad_norm_": lambda params: nn.utils.clip_grad_norm_(params, 1e-3),
    "clip_grad_norm_ without effect": lambda params: nn.utils.clip_grad_norm_(params, 1e9),
    "clip_grad_norm_, foreach": lambda params: nn.utils.clip_grad_norm_(params, 1e-3, foreach=True),
    "clip_grad_value_": lambda params: nn.utils.clip_grad_value_(params, 1e-6),
    "orthogonal": orthogonal,
    "replaced": replaced,
    "cancelled": cancelled,
    "one tensor": lambda params: params[1].grad.mul_(2.0),
}


@torch.no_grad()
def edit(how, student):
    EDITS[how](list(student.parameters()))


@pytest.mark.parametrize("how", EDITS)
@pytest.mark.parametrize("path", ["backward", "capture"])
@pytest.mark.parametrize("scaled", [False, True])
def test_a_step_refuses_gradients_that_somebody_edited(student, path, how, scaled):
    student.float()
    scaler = GradScaler("cpu", init_scale=4.0) if scaled else None
    opt = DOT(student.parameters(), **OPTIONS)
    first, second = batches(2, dtype=torch.float32)
    feed(opt, path, [losses(student, first)], scaler)
    before = bits(student.parameters())
    if scaled:
        scaler.unscale_(opt)
    edit(how, student)
    with pytest.raises(RuntimeError, match=REFUSED):
        opt.step()
    assert equal(student.parameters(), before)
    assert not opt.state
    opt.zero_grad()
    feed(opt, path, [losses(student, second)], None)
    opt.step()


@pytest.mark.parametrize("call", ["clip_grad_norm_", "synchronize", "gradients", "backward", "capture_task"])
@pytest.mark.parametrize("path", ["backward", "capture"])
def test_every_call_refuses_them(student, path, call):
    opt = DOT(student.parameters(), **OPTIONS)
    (batch,) = batches(1)
    feed(opt, path, [losses(student, batch)])
    edit("one tensor", student)
    task, distill = losses(student, batch)
    arguments = {
        "clip_grad_norm_": ((1.0,), {}),
        "backward": ((), {"task": task, "distill": distill}),
    }.get(call, ((), {}))
    with pytest.raises(RuntimeError, match=REFUSED):
        getattr(opt, call)(*arguments[0], **arguments[1])


@pytest.mark.parametrize("path", ["backward", "capture"])
@pytest.mark.parametrize("how", ["clip_grad_norm_", "replaced"])
def test_edits_after_our_own_clipping_are_refused(student, path, how):
    opt = DOT(student.parameters(), **OPTIONS)
    feed(opt, path, [losses(student, batches(1)[0])])
    opt.clip_grad_norm_(1e-2)
    edit(how, student)
    with pytest.raises(RuntimeError, match=REFUSED):
        opt.step()


def test_a_gradient_that_came_from_elsewhere_is_refused(student):
    opt = DOT(student.parameters(), **OPTIONS)
    feed(opt, "backward", [losses(student, batches(1)[0])])
    weight = student.project.weight  # distillation alone reaches it
    assert weight.grad is None
    weight.grad = torch.ones_like(weight)
    with pytest.raises(RuntimeError, match=REFUSED):
        opt.step()


@pytest.mark.parametrize("path", ["backward", "capture", "capture, task aside"])
@pytest.mark.parametrize("how", ["clip_grad_norm_", "clip_grad_value_"])
def test_edits_are_seen_where_grad_holds_no_gradient(student, path, how):
    """The distillation gradient alone, or everything put aside: nothing of it would be clipped."""
    opt = DOT(student.parameters(), **OPTIONS)
    task, distill = losses(student, batches(1)[0])
    if path == "backward":
        opt.backward(task=None, distill=distill)
    else:
        feed(opt, "capture", [(task, distill)])
        opt.capture_task()
    edit(how, student)
    with pytest.raises(RuntimeError, match=REFUSED):
        opt.step()


def test_the_other_optimizers_refuse_them_too():
    for make in (
        lambda params: DOTAdamW(params, lr=0.1),
        lambda params: MultiMomentumSGD(params, 0.1, {"task": 0.9, "distill": 0.5}),
    ):
        weights, _ = two_streams()
        opt = make(weights)
        task, distill = sums(weights)
        opt.backward(task=task, distill=distill)
        nn.utils.clip_grad_norm_(weights, 1e-3)
        with pytest.raises(RuntimeError, match=REFUSED):
            opt.step()


# -------------------------------------------------------------------- edits that are meant


def test_a_single_stream_has_nothing_to_edit_along(student):
    twin = copy.deepcopy(student)
    opt = MultiMomentumSGD(student.parameters(), 0.1, {"task": 0.9})
    plain = torch.optim.SGD(twin.parameters(), 0.1, momentum=0.9)
    for batch in batches(2):
        opt.backward(task=losses(student, batch)[0])
        losses(twin, batch)[0].backward()
        for each, net in ((opt, student), (plain, twin)):
            nn.utils.clip_grad_norm_(net.parameters(), 1e-2)
            each.step()
            each.zero_grad()
    same(student, twin)


@pytest.mark.parametrize("path", ["backward", "capture"])
@pytest.mark.parametrize("parts", [1, 2])
def test_edits_of_all_sets_through_gradients_are_used(student, path, parts):
    steps = batches(3, size=8)
    want = reference(student, steps)
    opt = DOT(student.parameters(), **OPTIONS)
    for batch in steps:
        micro = zip(*(tensor.chunk(parts) for tensor in batch), strict=True)
        feed(opt, path, ([loss * 2 / parts for loss in losses(student, part)] for part in micro))
        for _, *both in opt.gradients():
            for grad in both:
                if grad is not None:
                    grad.mul_(0.5)
        opt.step()
        opt.zero_grad()
    same(student, want)


def test_the_sets_are_handed_over_for_one_step_only(student):
    opt = DOT(student.parameters(), **OPTIONS)
    for hand_over in (True, False):
        feed(opt, "backward", [losses(student, batches(1)[0])])
        if hand_over:
            opt.gradients()
        edit("clip_grad_norm_", student)
        if hand_over:
            opt.step()
            opt.zero_grad()
        else:
            with pytest.raises(RuntimeError, match=REFUSED):
                opt.step()


def test_a_replaced_gradient_is_refused_even_when_handed_over(student):
    opt = DOT(student.parameters(), **OPTIONS)
    feed(opt, "backward", [losses(student, batches(1)[0])])
    list(opt.gradients())
    edit("replaced", student)
    with pytest.raises(RuntimeError, match=REFUSED):
        opt.step()


@pytest.mark.parametrize("scaled", [False, True])
def test_plain_autograd_may_add_to_the_task_gradient_after_a_capture(student, scaled):
    student.float()
    (batch,) = batches(1, dtype=torch.float32)
    scaler = GradScaler("cpu", init_scale=4.0, enabled=scaled)
    want = reference(student, [batch])
    opt = DOT(student.parameters(), **OPTIONS)
    task, distill = losses(student, batch)
    scaler.scale(distill).backward(retain_graph=True)
    opt.capture_distill(scaler=scaler)
    scaler.scale(task * 0.25).backward(retain_graph=True)
    scaler.scale(task * 0.75).backward()
    scaler.step(opt)
    same(student, want, 1e-5)


def test_a_second_order_graph_may_be_kept(student):
    (batch,) = batches(1)
    want = reference(student, [batch])
    opt = DOT(student.parameters(), **OPTIONS)
    task, distill = losses(student, batch)
    distill.backward(retain_graph=True)
    opt.capture_distill()
    with pytest.warns(UserWarning, match="create_graph=True"):
        task.backward(create_graph=True)  # adds out of place, to the marker too
    opt.step()
    opt.zero_grad()
    same(student, want)


def test_a_task_gradient_may_be_put_into_grad_by_hand():
    weights, opt = two_streams()
    for task, distill in ((2.0, 3.0), (4.0, 5.0)):
        for value, capture in ((distill, opt.capture_distill), (task, lambda: None)):
            for weight in weights:
                weight.grad = torch.full_like(weight, value)
            capture()
        assert [[g.unique().item() for g in row[1:]] for row in opt.gradients()] == [[task, distill]] * 2
        opt.step()
        opt.zero_grad()


def hooks(params):
    return sum(len(p._post_accumulate_grad_hooks or ()) for p in params)


def test_hooks_on_the_parameters_last_until_the_step(student):
    opt = DOT(student.parameters(), **OPTIONS)
    feed(opt, "backward", [losses(student, batches(1)[0])])
    assert hooks(student.parameters()) == 0
    opt.step()
    opt.zero_grad()
    for end in (opt.step, opt.zero_grad):
        feed(opt, "capture", [losses(student, batches(1)[0])])
        assert hooks(student.parameters()) == 6
        end()
        assert hooks(student.parameters()) == 0
        opt.zero_grad()
    feed(opt, "capture", [losses(student, batches(1)[0])])
    opt.backward(**dict(zip(("task", "distill"), losses(student, batches(1)[0]), strict=True)))
    assert hooks(student.parameters()) == 0
    feed(opt, "capture", [])
    opt.load_state_dict(opt.state_dict())
    assert hooks(student.parameters()) == 0


# -------------------------------------------------------------------- batches that are given up


def emptied(student, to_none):
    student.zero_grad(set_to_none=to_none)


@pytest.mark.parametrize("to_none", [True, False])
@pytest.mark.parametrize("then", ["backward", "capture"])
@pytest.mark.parametrize("parts", [1, 2])
def test_model_zero_grad_drops_an_abandoned_capture(student, then, to_none, parts):
    first, second, third = batches(3)
    want = reference(student, [third])
    opt = DOT(student.parameters(), **OPTIONS)
    if parts == 2:
        feed(opt, "capture", [losses(student, first)])
        opt.capture_task()
    losses(student, second)[1].backward()
    opt.capture_distill()
    emptied(student, to_none)
    assert all(row[1:] == (None, None) for row in opt.gradients())
    feed(opt, then, [losses(student, third)])
    opt.step()
    same(student, want)


def test_an_abandoned_capture_is_dropped_without_a_call_in_between(student):
    first, second = batches(2)
    want = reference(student, [second])
    opt = DOT(student.parameters(), **OPTIONS)
    for give_up in ("after the capture", "after the task"):
        losses(student, first)[1].backward(retain_graph=True)
        opt.capture_distill()
        if give_up == "after the task":
            losses(student, first)[0].backward()
        student.zero_grad()
    feed(opt, "capture", [losses(student, second)])
    opt.step()
    same(student, want)


@pytest.mark.parametrize("to_none", [True, False])
@pytest.mark.parametrize("stream", ["task", "distill"])
def test_model_zero_grad_drops_a_step_of_one_loss(student, stream, to_none):
    first, second = batches(2)
    want = reference(student, [second])
    opt = DOT(student.parameters(), **OPTIONS)
    given = dict(zip(("task", "distill"), losses(student, first), strict=True))
    opt.backward(**{name: loss if name == stream else None for name, loss in given.items()})
    emptied(student, to_none)
    feed(opt, "backward", [losses(student, second)])
    opt.step()
    same(student, want)


def test_a_step_after_model_zero_grad_moves_nothing(student):
    opt = DOT(student.parameters(), **OPTIONS)
    feed(opt, "backward", [losses(student, batches(1)[0])])
    student.zero_grad()
    before = bits(student.parameters())
    opt.step()
    assert equal(student.parameters(), before)
    assert not opt.state


def test_zeros_survive_a_failed_pass():
    """A parameter that only distillation reaches in this step has plain momentum, failure or not."""

    class Fails(torch.autograd.Function):
        @staticmethod
        def forward(_ctx, x):
            return x.clone()

        @staticmethod
        def backward(_ctx, _grad):
            raise MemoryError("no room")

    def run(*, fail):
        a, b = (nn.Parameter(torch.ones(2)) for _ in range(2))
        opt = DOT([a, b], lr=0.1, weight_decay=0.01)
        for step in range(5):
            if fail:
                with pytest.raises(MemoryError):
                    opt.backward(task=Fails.apply(a.sum()), distill=(a + b).sum())
            opt.backward(task=(a + b).sum() if step % 2 == 0 else a.sum(), distill=(a + b).sum())
            opt.step()
            opt.zero_grad(set_to_none=False)
        return [a, b]

    assert equal(run(fail=True), run(fail=False))


def test_loading_a_state_drops_the_task_gradient_too():
    weight = nn.Parameter(torch.ones(1))
    opt = DOT([weight], lr=0.1)
    state = copy.deepcopy(opt.state_dict())
    opt.backward(task=100 * weight.sum(), distill=100 * weight.sum())
    opt.load_state_dict(state)
    opt.backward(task=weight.sum(), distill=weight.sum())
    assert [(task.item(), distill.item()) for _, task, distill in opt.gradients()] == [(1.0, 1.0)]
    opt.step()
    assert weight.item() == pytest.approx(0.8)
