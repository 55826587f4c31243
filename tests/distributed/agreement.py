"""Processes that see different things take the same step or raise the same error."""

import torch
import torch.distributed as dist
from torch import nn

from .common import (
    Net,
    assert_replicas_identical,
    assert_same,
    batches,
    check,
    dot,
    independent,
    raises,
    shard,
)

MISSING_DISTILL = "step() has task gradients but no distillation gradient: call opt.backward("
MISSING_TASK = "step() has distillation gradients but no task gradient: call opt.backward("


def two_weights():
    return [nn.Parameter(torch.ones(2, dtype=torch.float64)) for _ in range(2)]


@check(2, 4)
def reach_is_the_union_and_absent_counts_as_zero(group):
    world, rank = dist.get_world_size(group), dist.get_rank(group)
    shared, side = two_weights()
    opt = dot([shared, side], weight_decay=0.25, process_group=group)
    task, distill = 2 * shared.sum(), 3 * shared.sum()
    if rank == world - 1:  # reached on this process only, by this loss only
        distill = distill + 8 * side.sum()
    opt.backward(task=task, distill=distill)
    assert side.grad is None
    assert (rank == world - 1) == (list(opt.gradients())[1][2] is not None)
    opt.step()
    ones = torch.ones_like(side)
    # Plain momentum, with the decay in the one stream that there is.
    gradient = 8 / world + 0.25
    torch.testing.assert_close(opt.state[side]["distill_momentum_buffer"], gradient * ones)
    assert not opt.state[side]["task_momentum_buffer"].any()
    torch.testing.assert_close(side.detach(), (1 - 0.1 * gradient) * ones)
    torch.testing.assert_close(opt.state[shared]["task_momentum_buffer"], 2.25 * ones)
    torch.testing.assert_close(opt.state[shared]["distill_momentum_buffer"], 3 * ones)
    assert_replicas_identical(opt, group)


@check(2, 4)
def each_loss_reaches_a_parameter_on_another_process(group):
    world, rank = dist.get_world_size(group), dist.get_rank(group)
    shared, side = two_weights()
    opt = dot([shared, side], process_group=group)
    for _ in range(2):
        task, distill = 2 * shared.sum(), 3 * shared.sum()
        if rank == 0:
            task = task + 4 * side.sum()
        if rank == 1:
            distill = distill + 8 * side.sum()
        opt.backward(task=task, distill=distill)
        opt.step()
        opt.zero_grad()
    ones = torch.ones_like(side)
    # Reached by both, somewhere: the two momenta, 0.7 and 0.9.
    torch.testing.assert_close(opt.state[side]["task_momentum_buffer"], 1.7 * 4 / world * ones)
    torch.testing.assert_close(opt.state[side]["distill_momentum_buffer"], 1.9 * 8 / world * ones)
    assert_replicas_identical(opt, group)


@check(2, 4)
def missing_distillation_gradient_raises_on_all(group):
    (weight, _) = two_weights()
    opt = dot([weight], process_group=group)
    weight.sum().backward()
    with raises(RuntimeError, MISSING_DISTILL):
        opt.step()
    assert torch.equal(weight, torch.ones_like(weight))
    # All of them can go on from there.
    opt.zero_grad()
    opt.backward(task=weight.sum(), distill=weight.sum())
    opt.step()
    assert_replicas_identical(opt, group)


@check(2)
def missing_task_gradient_raises_on_all(group):
    (weight, _) = two_weights()
    opt = dot([weight], process_group=group)
    weight.sum().backward()
    opt.capture_distill()
    with raises(RuntimeError, MISSING_TASK):
        opt.step()


@check(2, 4)
def missing_on_one_process_raises_on_none(group):
    world, rank = dist.get_world_size(group), dist.get_rank(group)
    (weight, _) = two_weights()
    opt = dot([weight], process_group=group)
    if rank != 0:
        (3 * weight.sum()).backward()
        opt.capture_distill()
    (2 * weight.sum()).backward()
    opt.step()
    ones = torch.ones_like(weight)
    torch.testing.assert_close(opt.state[weight]["distill_momentum_buffer"], 3 * (world - 1) / world * ones)
    torch.testing.assert_close(opt.state[weight]["task_momentum_buffer"], 2 * ones)
    assert_replicas_identical(opt, group)


@check(2)
def process_without_any_gradient_takes_part(group):
    (weight, _) = two_weights()
    opt = dot([weight], process_group=group)
    if dist.get_rank(group) == 0:
        opt.backward(task=2 * weight.sum(), distill=4 * weight.sum())
    opt.step()
    torch.testing.assert_close(weight.detach(), torch.full_like(weight, 1 - 0.1 * 3))
    assert_replicas_identical(opt, group)


@check(2, 4)
def consent_of_all(group):
    (weight, _) = two_weights()
    opt = dot([weight], process_group=group)
    opt.backward(task=(dist.get_rank(group) + 1) * weight.sum(), distill=None)
    opt.step()
    opt.zero_grad()
    mean = (dist.get_world_size(group) + 1) / 2
    torch.testing.assert_close(weight.detach(), torch.full_like(weight, 1 - 0.1 * mean))
    assert_replicas_identical(opt, group)
    opt.backward(task=None, distill=weight.sum())
    opt.step()
    opt.zero_grad()
    # Consent is for one step.
    weight.sum().backward()
    with raises(RuntimeError, MISSING_DISTILL):
        opt.step()


@check(2)
def consent_of_one_speaks_for_all(group):
    (weight, _) = two_weights()
    opt = dot([weight], process_group=group)
    if dist.get_rank(group) == 0:
        opt.backward(task=weight.sum(), distill=None)
    else:
        weight.sum().backward()
    opt.step()
    torch.testing.assert_close(weight.detach(), torch.full_like(weight, 0.9))


@check(2, 4)
def untouched_zeros_stay_absent(group):
    """zero_grad(set_to_none=False) with several processes is zero_grad() of one."""
    opts = []
    for processes in (group, None):
        model = Net()
        opt = dot(model.parameters(), process_group=independent(processes))
        for step, batch in enumerate(batches()):
            losses = model.losses(*shard(batch, processes))
            task = losses["task"]
            if step in {0, 4}:  # and absent in between
                task = task + model.unused.sum()
            if step % 2:
                opt.backward(task=task, distill=losses["distill"])
            else:
                losses["distill"].backward(retain_graph=True)
                opt.capture_distill()
                task.backward()
            opt.synchronize()
            if processes is not None and step == 2:
                (row,) = (row for row in opt.gradients() if row[0] is model.unused)
                assert row[1:] == (None, None)
            opt.step()
            opt.zero_grad(set_to_none=processes is None)
        opts.append(opt)
    assert_same(*opts)
    assert_replicas_identical(opts[0], group)


@check(2)
def zeros_on_one_process_are_replaced_by_the_average(group):
    rank = dist.get_rank(group)
    shared, side = two_weights()
    opt = dot([shared, side], process_group=group)
    opt.backward(task=(shared + side).sum(), distill=(shared + side).sum())
    opt.step()
    opt.zero_grad(set_to_none=False)
    before = side.detach().clone()
    if rank == 1:
        shared.sum().backward()
        opt.capture_distill()
    (shared + side if rank == 1 else shared).sum().backward()
    assert rank == 1 or not side.grad.any()  # our zeros, untouched
    opt.step()
    # One of two processes saw the gradient 1; alone, so plain momentum 0.8; the other buffer waits.
    torch.testing.assert_close(side.detach(), before - 0.1 * (0.8 * 1 + 0.5))
    torch.testing.assert_close(opt.state[side]["distill_momentum_buffer"], torch.ones_like(side))
    assert_replicas_identical(opt, group)
