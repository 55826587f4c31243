"""What becomes of gradients that no step used: skipped steps, failed passes, late parameters."""

import gc
import weakref

import pytest
import torch
from torch import nn
from torch.amp import GradScaler

from dotkd.optim import DOT, DOTAdamW, MultiMomentumSGD


def pair():
    weights = [nn.Parameter(torch.ones(3)), nn.Parameter(torch.full((2,), 2.0))]
    return weights, DOT(weights, lr=0.1)


def losses(weights, task=2.0, distill=3.0):
    return {"task": task * sum(w.sum() for w in weights), "distill": distill * sum(w.sum() for w in weights)}


def seen(opt):
    return [
        tuple(None if g is None else g.unique().tolist() for g in row[1:]) for row in list(opt.gradients())
    ]


@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize("to_none", [False, True])
def test_a_skipped_step_and_model_zero_grad_drop_the_distillation_set(to_none, scaled):
    weights, opt = pair()
    scaler = GradScaler("cpu", init_scale=4.0) if scaled else None
    opt.backward(**losses(weights, distill=100.0), scaler=scaler)
    nn.ParameterList(weights).zero_grad(set_to_none=to_none)
    opt.backward(**losses(weights), scaler=scaler)
    assert seen(opt) == [([8.0 if scaled else 2.0], [3.0])] * 2


def test_an_overflow_is_forgotten_with_the_gradients_that_had_it():
    weights, opt = pair()
    scaler = GradScaler("cpu", init_scale=2.0)
    opt.backward(**losses(weights, distill=float("inf")), scaler=scaler)
    scaler.step(opt)
    scaler.update()
    nn.ParameterList(weights).zero_grad(set_to_none=False)
    opt.backward(**losses(weights), scaler=scaler)
    scaler.step(opt)
    assert weights[0].tolist() == pytest.approx([0.5] * 3)


def test_model_zero_grad_to_zeros_after_a_step_is_enough_and_leaves_no_gradient_behind():
    weights, opt = pair()
    for _ in range(2):
        opt.backward(**losses(weights))
        opt.step()
        nn.ParameterList(weights).zero_grad(set_to_none=False)
    opt.backward(task=None, distill=losses(weights)["distill"])
    assert seen(opt) == [(None, [3.0])] * 2


@pytest.mark.parametrize("fails", ["task", "distill"])
@pytest.mark.parametrize("scaled", [False, True])
def test_a_failed_pass_leaves_everything_as_it_was(fails, scaled):
    class Fails(torch.autograd.Function):
        @staticmethod
        def forward(_ctx, x):
            return x.clone()

        @staticmethod
        def backward(_ctx, _grad):
            raise MemoryError("no room for this batch")

    weights, opt = pair()
    scaler = GradScaler("cpu", init_scale=4.0) if scaled else None
    opt.backward(**losses(weights), scaler=scaler)
    before = seen(opt)
    worse = losses(weights)
    worse[fails] = worse[fails] + Fails.apply(weights[0]).sum()
    with pytest.raises(MemoryError, match="no room"):
        opt.backward(**worse, scaler=scaler)
    assert seen(opt) == before
    opt.backward(**losses(weights), scaler=scaler)
    assert seen(opt) == [([4.0 * (4 if scaled else 1)], [6.0])] * 2


def test_a_failed_first_call_leaves_nothing():
    weights, opt = pair()
    freed = weights[0].square().sum()
    freed.backward()
    weights[0].grad = None
    with pytest.raises(RuntimeError, match="backward through the graph a second time"):
        opt.backward(task=freed, distill=losses(weights)["distill"])
    assert all(w.grad is None for w in weights)
    assert seen(opt) == [(None, None)] * 2


def test_a_replaced_gradient_between_micro_batches_keeps_the_distillation_set():
    weights, opt = pair()
    scaler = GradScaler("cpu", init_scale=4.0)
    opt.backward(**losses(weights), scaler=scaler)
    for weight in weights:
        weight.grad = weight.grad * 0.5
    opt.backward(**losses(weights), scaler=scaler)
    assert seen(opt) == [([12.0], [6.0])] * 2


def test_reading_the_gradients_between_micro_batches_changes_nothing():
    weights, opt = pair()
    for _ in range(2):
        for name, park in (("distill", opt.capture_distill), ("task", opt.capture_task)):
            losses(weights)[name].backward()
            park()
            list(opt.gradients())
    assert seen(opt) == [([4.0], [6.0])] * 2
    opt.step()
    assert weights[0].tolist() == pytest.approx([0.0] * 3, abs=1e-6)


def test_clipping_between_micro_batches_and_a_forgotten_capture_task_is_an_error():
    weights, opt = pair()
    losses(weights)["distill"].backward()
    opt.capture_distill()
    losses(weights)["task"].backward()
    opt.capture_task()
    opt.clip_grad_norm_(1e6)
    losses(weights)["distill"].backward()
    with pytest.raises(RuntimeError, match="call capture_task"):
        opt.capture_distill()


def test_clipping_scaled_gradients_that_are_parked_is_an_error():
    weights, opt = pair()
    scaler = GradScaler("cpu", init_scale=4.0)
    scaler.scale(losses(weights)["distill"]).backward()
    opt.capture_distill(scaler=scaler)
    scaler.scale(losses(weights)["task"]).backward()
    opt.capture_task()
    with pytest.raises(RuntimeError, match="leave the last one in"):
        opt.clip_grad_norm_(1.0)


def test_parameters_added_between_backward_and_step_have_no_gradient_yet():
    weights, opt = pair()
    opt.backward(**losses(weights))
    late = nn.Parameter(torch.ones(1))
    opt.add_param_group({"params": [late]})
    assert seen(opt) == [([2.0], [3.0])] * 2 + [(None, None)]
    opt.clip_grad_norm_(1e6)
    opt.backward(**losses([*weights, late]))
    assert seen(opt) == [([4.0], [6.0])] * 2 + [([2.0], [3.0])]
    opt.step()
    assert late.item() == pytest.approx(0.5)


def test_loading_a_state_remembers_which_zeros_are_no_gradient():
    weights, opt = pair()
    opt.backward(**losses(weights))
    opt.step()
    opt.zero_grad(set_to_none=False)
    opt.load_state_dict(opt.state_dict())
    opt.backward(task=None, distill=losses(weights)["distill"])
    assert seen(opt) == [(None, [3.0])] * 2


def test_a_contiguous_checkpoint_loads_into_a_channels_last_model_under_the_fused_kernel():
    plain = nn.Parameter(torch.randn(4, 3, 3, 3))
    trained = DOT([plain], lr=0.1)
    trained.backward(task=plain.sum(), distill=plain.square().sum())
    trained.step()
    laid_out = nn.Parameter(plain.detach().to(memory_format=torch.channels_last))
    opt = DOT([laid_out], lr=0.1, fused=True)
    opt.load_state_dict(trained.state_dict())
    for o, p in ((trained, plain), (opt, laid_out)):
        o.zero_grad()
        o.backward(task=p.sum(), distill=p.square().sum())
        p.grad = torch.empty_like(p).copy_(p.grad)
        o.step()
    torch.testing.assert_close(laid_out.contiguous(), plain)


@pytest.mark.parametrize("bad", [float("nan"), -0.1])
def test_a_bad_learning_rate_from_a_schedule_is_seen_at_the_step(bad):
    weights, opt = pair()
    opt.backward(**losses(weights))
    opt.param_groups[0]["lr"] = bad
    with pytest.raises(ValueError, match="lr must be a finite number >= 0"):
        opt.step()
    assert weights[0].tolist() == [1.0] * 3


def test_notes_in_a_group_that_contain_a_known_key_are_no_slip():
    opt = DOT([{"params": [nn.Parameter(torch.ones(1))], "no_weight_decay": True}], lr=0.1)
    assert opt.param_groups[0]["no_weight_decay"] is True


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
