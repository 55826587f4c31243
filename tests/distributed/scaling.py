"""A GradScaler over several processes: all of them skip a step, or none."""

import torch
import torch.distributed as dist

from .common import (
    Net,
    assert_replicas_identical,
    assert_same,
    batches,
    check,
    counted_all_reduce,
    dot,
    raises,
    shard,
)

SCALE = 1024.0
BAD_STEP = 2


def new_scaler():
    return torch.amp.GradScaler("cpu", init_scale=SCALE, growth_interval=1000)


def overflow(losses, stream, step, group, rank=1):
    """Make the gradient of one loss infinite, on one process, in one step."""
    if step == BAD_STEP and dist.get_rank(group) == rank:
        return {**losses, stream: losses[stream] * float("inf")}
    return losses


def without_the_bad_step(clip=None):
    """One process, no scaler, whole batches: what is left when that step is skipped."""
    model = Net()
    opt = dot(model.parameters(), process_group=False)
    for step, batch in enumerate(batches()):
        if step != BAD_STEP:
            opt.backward(**model.losses(*batch))
            if clip is not None:
                opt.clip_grad_norm_(0.2, mode=clip)
            opt.step()
            opt.zero_grad()
    return opt


def all_skip(group, run, clip=None):
    model, scaler = Net(), new_scaler()
    opt = dot(model.parameters(), process_group=group)
    for step, batch in enumerate(batches()):
        before = [param.detach().clone() for param in model.parameters()]
        run(opt, scaler, model, shard(batch, group), step)
        if clip is not None:
            scaler.unscale_(opt)
            opt.clip_grad_norm_(0.2, mode=clip)
        scaler.step(opt)
        scaler.update()
        opt.zero_grad()
        moved = any(not torch.equal(*pair) for pair in zip(before, model.parameters(), strict=True))
        assert moved == (step != BAD_STEP), step
        assert scaler.get_scale() == (SCALE if step < BAD_STEP else SCALE / 2), step
        assert_replicas_identical(opt, group)
    assert_same(opt, without_the_bad_step(clip))


def with_backward(group, stream, clip=None):
    def run(opt, scaler, model, part, step):
        losses = overflow(model.losses(*part), stream, step, group)
        opt.backward(**losses, scaler=scaler)

    all_skip(group, run, clip)


def with_capture(group, stream, clip=None):
    def run(opt, scaler, model, part, step):
        losses = overflow(model.losses(*part), stream, step, group)
        scaler.scale(losses["distill"]).backward(retain_graph=True)
        opt.capture_distill(scaler=scaler)
        scaler.scale(losses["task"]).backward()
        opt.synchronize()

    all_skip(group, run, clip)


@check(2, 4)
def overflow_of_task_on_one_process(group):
    with_backward(group, "task")


@check(2, 4)
def overflow_of_distillation_on_one_process(group):
    with_backward(group, "distill")


@check(2)
def overflow_of_task_with_clipping(group):
    with_backward(group, "task", clip="joint")


@check(2)
def overflow_of_distillation_with_clipping(group):
    with_backward(group, "distill", clip="each")


@check(2)
def overflow_in_the_first_micro_batch(group):
    def run(opt, scaler, model, part, step):
        for i, micro in enumerate(zip(*(tensor.chunk(2) for tensor in part), strict=True)):
            losses = {name: loss / 2 for name, loss in model.losses(*micro).items()}
            opt.backward(**(overflow(losses, "distill", step, group) if i == 0 else losses), scaler=scaler)

    all_skip(group, run)


@check(2)
def captured_overflow_of_task_on_one_process(group):
    with_capture(group, "task")


@check(2, 4)
def captured_overflow_of_distillation_on_one_process(group):
    with_capture(group, "distill")


@check(2)
def captured_overflow_with_clipping(group):
    with_capture(group, "task", clip="joint")


@check(2)
def switched_off_scaler_costs_nothing(group):
    model, scaler = Net(), torch.amp.GradScaler("cpu", enabled=False)
    opt = dot(model.parameters(), process_group=group)
    with counted_all_reduce() as calls:
        opt.backward(**model.losses(*shard(next(batches()), group)), scaler=scaler)
        scaler.step(opt)
    assert len(calls) == 1, calls


@check(2, 4)
def captured_without_synchronize_raises_on_all(group):
    for how in ("step", "clip"):
        model, scaler = Net(), new_scaler()
        opt = dot(model.parameters(), process_group=group)
        losses = model.losses(*shard(next(batches()), group))
        scaler.scale(losses["distill"]).backward(retain_graph=True)
        opt.capture_distill(scaler=scaler)
        scaler.scale(losses["task"]).backward()
        before = model.conv.weight.detach().clone()
        with raises(RuntimeError, "with a GradScaler and several processes call opt.synchronize() before"):
            if how == "clip":
                scaler.unscale_(opt)
                opt.clip_grad_norm_(1.0)
            else:
                scaler.step(opt)
        assert torch.equal(model.conv.weight, before)
