"""Buffers that stay on their process: the update is that of averaged gradients, for half the message."""

import copy
import io
import pickle
from functools import partial
from itertools import count

import torch
import torch.distributed as dist
from torch import nn

from dotkd.optim import MultiMomentumSGD

from .common import (
    Net,
    assert_same,
    batches,
    check,
    counted_all_reduce,
    dot,
    params_of,
    raises,
    shard,
)

STEPS = 20
local = partial(dot, local_buffers=True, weight_decay=0.05)


class Uneven(Net):
    """A network of which each process sees a part: who reaches what differs, and changes with the steps."""

    def losses_of(self, batch, step, rank):
        losses = self.losses(*batch)
        if rank == 0:  # one loss, on one process, reaches it; on the other nothing does
            losses["distill"] = losses["distill"] + step % 3 * self.unused.square().sum()
        elif step % 2:  # both losses, each on its own process
            losses["task"] = losses["task"] + (self.gain * self.gain).sum()
        return losses


def run(make, group, *, steps=STEPS, start=0, model=None, opt=None, scaler=None, prepare=None):
    """Train for some steps; every process has its own losses."""
    model = model or Uneven()
    if prepare is not None and opt is None:
        prepare(model)
    opt = opt or make(model.parameters(), process_group=group)
    for step, batch in list(enumerate(batches(start + steps)))[start:]:
        losses = model.losses_of(shard(batch, group), step, dist.get_rank(group))
        opt.backward(**losses, scaler=scaler)
        if scaler is None:
            opt.step()
        else:
            scaler.step(opt)
            scaler.update()
        opt.zero_grad()
        assert_parameters_identical(opt, group)
    return model, opt


def assert_parameters_identical(opt, group):
    ours = torch.cat([param.detach().reshape(-1).double() for param in params_of(opt)])
    everywhere = [torch.empty_like(ours) for _ in range(dist.get_world_size(group))]
    dist.all_gather(everywhere, ours, group=group)
    assert all(torch.equal(ours, other) for other in everywhere)


def buffers_differ(opt, group):
    ours = torch.cat([value.reshape(-1) for s in opt.state.values() for value in s.values()])
    everywhere = [torch.empty_like(ours) for _ in range(dist.get_world_size(group))]
    dist.all_gather(everywhere, ours, group=group)
    return not all(torch.equal(ours, other) for other in everywhere)


def equals_averaging(group, *, tolerance=1e-12, prepare=None, make=local, **options):
    _, averaged = run(partial(make, **options, local_buffers=False), group, prepare=prepare)
    _, opt = run(partial(make, **options), group, prepare=prepare)
    assert buffers_differ(opt, group)
    opt.consolidate()
    assert not buffers_differ(opt, group)
    assert_same(opt, averaged, tolerance)
    return opt


@check(2, 4)
def local_equals_averaged(group):
    opt = equals_averaging(group)
    # Reach is what the model says: the frozen parameter alone has no state.
    assert [len(opt.state.get(param, {})) for param in params_of(opt)] == [2, 2, 2, 0, 2, 2, 2]


@check(2)
def local_equals_averaged_with_every_option(group):
    for options in (
        {"nesterov": True},
        {"nesterov": True, "foreach": True, "maximize": True, "lr": 1e-3},
        {"dampening": 0.25, "maximize": True, "lr": 1e-3},
        {"normalize": True, "fused": True},
        {"delta": 0.0, "task_gain": 0.6, "distill_gain": 2.0},
        {"foreach": True, "momentum": 0.1, "delta": 0.1, "weight_decay": 0.3},
        {"foreach": False, "fused": False, "lr": torch.tensor(0.1, dtype=torch.float64)},
        {"foreach": False, "fused": False, "lr": torch.tensor([0.1])},
    ):
        equals_averaging(group, **options)


@check(2)
def local_in_other_layouts_and_precisions(group):
    def channels_last(model):
        model.to(memory_format=torch.channels_last)

    opt = equals_averaging(group, prepare=channels_last)
    (conv,) = (param for param in params_of(opt) if param.ndim == 4)
    for tensor in (conv, *opt.state[conv].values()):
        assert tensor.is_contiguous(memory_format=torch.channels_last)

    def half(model):
        model.float()
        model.conv.bfloat16()

    # Buffers and steps of 8 significant bits.
    equals_averaging(group, prepare=half, tolerance=0.1)


@check(2)
def local_groups_with_rates_of_their_own(group):
    def make(params, **options):
        rows = list(params)
        return local([{"params": rows[:2], "lr": 0.02}, {"params": rows[2:], "momentum": 0.7}], **options)

    equals_averaging(group, make=make)


@check(2)
def local_with_three_streams(group):
    momenta = {"task": 0.7, "hint": 0.9, "relation": 0.0}
    opts = []
    for keep in (False, True):
        model = Net()
        opt = MultiMomentumSGD(
            model.parameters(), 0.1, momenta, weight_decay=0.1, process_group=group, local_buffers=keep
        )
        for batch in batches(STEPS):
            losses = model.losses(*shard(batch, group))
            relation = model.conv.weight.square().sum()
            opt.backward(task=losses["task"], hint=losses["distill"], relation=relation)
            opt.step()
            opt.zero_grad()
        opt.consolidate()
        opts.append(opt)
    assert_same(*opts, tolerance=1e-12)


@check(2)
def local_reduces_half_the_bytes(group):
    sent = {}
    for keep in (False, True):
        model = Net()
        opt = dot(model.parameters(), process_group=group, local_buffers=keep)
        with counted_all_reduce() as calls:
            opt.backward(**model.losses(*shard(next(batches()), group)))
            opt.step()
        sent[keep] = list(calls)
    params = params_of(opt)
    reached = sum(param.numel() for param in params if param in opt.state)
    # A flag for each parameter and stream and a consent for each stream; then one number for each moved.
    assert sent[True] == [2 * len(params) + 2, reached], sent
    assert sent[False] == [2 * (sum(param.numel() for param in params) + len(params) + 1)], sent


@check(2)
def local_flags_are_four_bytes_each(group):
    model = Net()
    opt = dot(model.parameters(), process_group=group, local_buffers=True)
    original, sizes = dist.all_reduce, []

    def weighing(tensor, *args, **kwargs):
        sizes.append((tensor.numel() * tensor.element_size(), tensor.dtype))
        return original(tensor, *args, **kwargs)

    dist.all_reduce = weighing
    try:
        opt.backward(**model.losses(*shard(next(batches()), group)))
        opt.step()
    finally:
        dist.all_reduce = original
    params = params_of(opt)
    moved = sum(param.numel() for param in params if param in opt.state)
    assert sizes == [(4 * (2 * len(params) + 2), torch.int32), (8 * moved, torch.float64)], sizes


@check(2, 4)
def local_state_is_saved_after_consolidation(group):
    model, opt = run(local, group, steps=7)
    with raises(RuntimeError, "call opt.consolidate() on all of them before state_dict()"):
        opt.state_dict()
    copies = [copy.deepcopy((model, opt)), pickle.loads(pickle.dumps((model, opt)))]
    for _, clone in copies:
        with raises(RuntimeError, "call opt.consolidate()"):
            clone.state_dict()
    copies[1][1].process_group = group
    opt.consolidate()
    with counted_all_reduce() as calls:
        opt.consolidate()  # the same everywhere already
    assert calls == []
    file = io.BytesIO()
    torch.save((model.state_dict(), opt.state_dict()), file)
    # What rank 0 has saved is enough for all.
    box = [file.getvalue()]
    dist.broadcast_object_list(box, src=0, group=group)
    weights, state = torch.load(io.BytesIO(box[0]), weights_only=True)
    twin = Uneven()
    twin.load_state_dict(weights)
    resumed = local(twin.parameters(), process_group=group)
    resumed.load_state_dict(state)
    assert resumed.state_dict()["state"].keys() == state["state"].keys()
    _, whole = run(partial(local, local_buffers=False), group, steps=STEPS)
    for each_model, each in ((model, opt), (twin, resumed), *copies):
        run(local, group, start=7, steps=STEPS - 7, model=each_model, opt=each)
        with raises(RuntimeError, "call opt.consolidate()"):
            each.state_dict()
        each.consolidate()
        assert_same(each, whole, tolerance=1e-12)
    assert_same(resumed, opt, tolerance=0.0)


@check(2)
def local_consolidation_in_every_step_changes_nothing(group):
    model, opt = run(local, group, steps=1)
    for step in range(1, STEPS):
        opt.consolidate()
        run(local, group, steps=1, start=step, model=model, opt=opt)
    opt.consolidate()
    _, expected = run(partial(local, local_buffers=False), group)
    assert_same(opt, expected, tolerance=1e-12)


@check(2)
def local_rate_may_change_between_consolidation_and_step(group):
    def make(params, **options):
        opt, steps = local(params, nesterov=True, **options), count(1)

        def before(opt, *_):
            opt.consolidate()
            step = next(steps)
            for row in opt.param_groups:
                row["lr"] = 0.1 / step

        opt.register_step_pre_hook(before)
        return opt

    equals_averaging(group, make=make)


@check(2)
def local_has_no_clipping(group):
    model = Net()
    opt = local(model.parameters(), process_group=group)
    opt.backward(**model.losses(*shard(next(batches()), group)))
    with raises(RuntimeError, "clip_grad_norm_ needs the norm of the averaged gradients"):
        opt.clip_grad_norm_(1.0)
    opt.step()


@check(2)
def local_missing_and_absent_losses(group):
    rank = dist.get_rank(group)
    weight = nn.Parameter(torch.ones(2, dtype=torch.float64))
    opt = dot([weight], process_group=group, local_buffers=True)
    weight.sum().backward()
    with raises(RuntimeError, "step() has task gradients but no distillation gradient"):
        opt.step()
    assert torch.equal(weight, torch.ones_like(weight))
    opt.zero_grad()
    # One speaks for all, and one takes part that has no gradient at all.
    if rank == 0:
        opt.backward(task=4 * weight.sum(), distill=None)
    opt.step()
    torch.testing.assert_close(weight.detach(), torch.full_like(weight, 1 - 0.1 * 2))
    assert (rank == 0) == bool(opt.state[weight]["task_momentum_buffer"].any())
    opt.zero_grad()
    # By hand, the distillation gradient on one process alone.
    if rank == 1:
        (3 * weight.sum()).backward()
        opt.capture_distill()
    (2 * weight.sum()).backward()
    opt.step()
    opt.consolidate()
    ones = torch.ones_like(weight)
    torch.testing.assert_close(opt.state[weight]["task_momentum_buffer"], (0.7 * 2 + 2) * ones)
    torch.testing.assert_close(opt.state[weight]["distill_momentum_buffer"], 1.5 * ones)
    assert_parameters_identical(opt, group)


@check(2, 4)
def local_overflow_on_one_process_skips_on_all(group):
    for stream in ("task", "distill"):
        for by_hand in (False, True):
            model, scaler = Net(), torch.amp.GradScaler("cpu", init_scale=1024.0, growth_interval=1000)
            opt = local(model.parameters(), process_group=group)
            for step, batch in enumerate(batches(4)):
                losses = model.losses(*shard(batch, group))
                if step == 2 and dist.get_rank(group) == 1:
                    losses[stream] = losses[stream] * float("inf")
                before = model.conv.weight.detach().clone()
                if by_hand:
                    scaler.scale(losses["distill"]).backward(retain_graph=True)
                    opt.capture_distill(scaler=scaler)
                    scaler.scale(losses["task"]).backward()
                    opt.synchronize()
                else:
                    opt.backward(**losses, scaler=scaler)
                scaler.step(opt)
                scaler.update()
                opt.zero_grad()
                assert torch.equal(model.conv.weight, before) == (step == 2), step
                assert scaler.get_scale() == (1024.0 if step < 2 else 512.0), step
                assert_parameters_identical(opt, group)
            opt.consolidate()
            assert all(value.isfinite().all() for s in opt.state.values() for value in s.values())


@check(2)
def local_equals_averaged_under_a_scaler(group):
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, growth_interval=5)
    _, opt = run(local, group, scaler=scaler)
    opt.consolidate()
    _, expected = run(partial(local, local_buffers=False), group)
    assert_same(opt, expected, tolerance=1e-12)
