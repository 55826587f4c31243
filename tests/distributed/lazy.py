"""The held task gradient with several processes: they hold the same, and take the same step."""

import copy
from functools import partial

import torch
import torch.distributed as dist

from .common import Net, assert_replicas_identical, assert_same, batches, check, dot, raises, shard, train
from .local import Uneven, assert_parameters_identical, run

lazy = partial(dot, task_every=3, weight_decay=0.05)


@check(2, 4)
def lazy_equals_one_process(group):
    for options in ({}, {"micro": 2}, {"clip": "joint"}, {"clip": "each", "micro": 2}):
        opt, norms = train(lazy, Net(), group, **options)
        expected, expected_norms = train(lazy, Net(), **options)
        assert_same(opt, expected)
        torch.testing.assert_close(norms, expected_norms, rtol=1e-10, atol=1e-10)


@check(2)
def lazy_with_uneven_reach(group):
    """In a step of one pass a gradient that one process lacks is zero, and what is held counts whole."""
    weights = [torch.nn.Parameter(torch.ones(2, dtype=torch.float64)) for _ in range(2)]
    opt = lazy(weights, process_group=group, weight_decay=0.0)
    shared, side = weights
    opt.backward(task=(2 * shared + side).sum(), distill=(3 * shared + 5 * side).sum())
    opt.step()
    opt.zero_grad()
    task, distill = 2 * shared.sum(), 3 * shared.sum()
    if dist.get_rank(group) == 0:
        task, distill = task + 9 * side.sum(), distill + 9 * side.sum()
    opt.backward(task=task, distill=distill)
    opt.step()
    buffers = opt.state[side]
    ones = torch.ones_like(side)
    torch.testing.assert_close(buffers["task_momentum_buffer"], (0.7 * 1 + 1) * ones)
    torch.testing.assert_close(buffers["distill_momentum_buffer"], (0.9 * 5 + 9 - 1) * ones)
    assert_replicas_identical(opt, group)


@check(2, 4)
def lazy_and_a_loss_that_is_none_on_one_process(group):
    """There the step is exact; the others count as having had the held gradient, and all refresh next."""
    rank, world = dist.get_rank(group), dist.get_world_size(group)
    for keep in (False, True):
        (weight,) = (torch.nn.Parameter(torch.ones(2, dtype=torch.float64)),)
        opt = dot([weight], task_every=5, process_group=group, local_buffers=keep)
        # 2, 4 and so on: the mean is world + 1, that of all but the first one world + 2.
        opt.backward(task=(2 + 2 * rank) * weight.sum(), distill=3 * weight.sum())
        opt.step()
        opt.zero_grad()
        task = None if rank == 0 else 4 * weight.sum()
        opt.backward(task=task, distill=6 * weight.sum())
        opt.step()
        opt.zero_grad()
        assert opt.param_groups[0]["task_age"] == 0
        opt.consolidate()
        others = (world - 1) / world
        held = others * (world + 2 if keep else world + 1)
        ones = torch.ones_like(weight)
        buffers = opt.state[weight]
        torch.testing.assert_close(buffers["task_momentum_buffer"], (0.7 * (world + 1) + held) * ones)
        torch.testing.assert_close(
            buffers["distill_momentum_buffer"], (0.9 * 3 + 6 + others * 4 - held) * ones
        )
        assert_replicas_identical(opt, group)
        opt.backward(task=weight.sum(), distill=weight.sum())
        assert weight.grad is not None  # the task gradient alone: two passes
        opt.step()
        assert opt.param_groups[0]["task_age"] == 1
        opt.consolidate()
        assert_replicas_identical(opt, group)


@check(2)
def lazy_and_a_process_without_gradients(group):
    for keep in (False, True):
        (weight,) = (torch.nn.Parameter(torch.ones(2, dtype=torch.float64)),)
        opt = dot([weight], task_every=5, process_group=group, local_buffers=keep)
        for step in range(3):
            if step == 0 or dist.get_rank(group) == 0:
                opt.backward(task=2 * weight.sum(), distill=3 * weight.sum())
            opt.step()
            opt.zero_grad()
            assert opt.param_groups[0]["task_age"] == (1, 0, 1)[step]
        opt.consolidate()
        ones = torch.ones_like(weight)
        torch.testing.assert_close(opt.state[weight]["task_momentum_buffer"], (0.49 * 2 + 0.7 + 1) * ones)
        torch.testing.assert_close(opt.state[weight]["held_task_gradient"], ones)
        assert_replicas_identical(opt, group)


@check(2)
def lazy_resumes_on_all_from_the_state_of_one(group):
    model = Net()
    opt, _ = train(lazy, model, group, steps=5)
    box = [(copy.deepcopy(model.state_dict()), copy.deepcopy(opt.state_dict()))]
    dist.broadcast_object_list(box, src=0, group=group)
    twin = Net()
    twin.load_state_dict(box[0][0])
    resumed = lazy(twin.parameters(), process_group=group)
    resumed.load_state_dict(box[0][1])
    for each_model, each in ((model, opt), (twin, resumed)):
        for batch in batches(4):
            each.backward(**each_model.losses(*shard(batch, group)))
            each.step()
            each.zero_grad()
    assert_same(resumed, opt, tolerance=0.0)
    assert_replicas_identical(resumed, group)


@check(2, 4)
def lazy_with_local_buffers(group):
    for options in ({}, {"nesterov": True}, {"normalize": True}):
        _, averaged = run(partial(lazy, **options), group)
        model, opt = run(partial(lazy, local_buffers=True, **options), group, steps=11)
        with raises(RuntimeError, "call opt.consolidate()"):
            opt.state_dict()
        opt.consolidate()  # in the middle of three steps
        assert_replicas_identical(opt, group)
        twin = Uneven()
        twin.load_state_dict(model.state_dict())
        resumed = lazy(twin.parameters(), process_group=group, local_buffers=True, **options)
        resumed.load_state_dict(copy.deepcopy(opt.state_dict()))
        for each_model, each in ((model, opt), (twin, resumed)):
            run(None, group, start=11, steps=9, model=each_model, opt=each)
            each.consolidate()
            assert_same(each, averaged, tolerance=1e-12)


@check(2)
def lazy_overflow_on_one_process_in_a_step_of_one_pass(group):
    for keep in (False, True):
        model, scaler = Net(), torch.amp.GradScaler("cpu", init_scale=1024.0)
        opt = lazy(model.parameters(), process_group=group, local_buffers=keep)
        for step, batch in enumerate(batches(5)):
            losses = model.losses(*shard(batch, group))
            if step == 1 and dist.get_rank(group) == 1:
                losses["task"] = losses["task"] * float("inf")
            before = model.conv.weight.detach().clone()
            opt.backward(**losses, scaler=scaler)
            scaler.step(opt)
            scaler.update()
            opt.zero_grad()
            assert torch.equal(model.conv.weight, before) == (step == 1), step
            assert opt.param_groups[0]["task_age"] == (1, 1, 2, 3, 1)[step]
            assert_parameters_identical(opt, group)
