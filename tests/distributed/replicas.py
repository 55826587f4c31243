"""Several processes on shards equal one process on whole batches."""

import copy
import pickle
from functools import partial

import torch
import torch.distributed as dist
from torch import nn

from dotkd.optim import DOTAdamW, MultiMomentumSGD

from .common import (
    Net,
    assert_replicas_identical,
    assert_same,
    batches,
    check,
    counted_all_reduce,
    dot,
    independent,
    params_of,
    raises,
    shard,
    train,
)

adamw = partial(DOTAdamW, lr=0.01, betas=(0.8, 0.95), delta=0.1)


def equals_one_process(make, group, *, prepare=None, tolerance=1e-10, **options):
    models = Net(), Net()
    for model in models:
        if prepare is not None:
            prepare(model)
    opt, norms = train(make, models[0], group, **options)
    expected, expected_norms = train(make, models[1], **options)
    assert_same(opt, expected, tolerance)
    torch.testing.assert_close(norms, expected_norms, rtol=tolerance, atol=tolerance)
    assert not torch.allclose(models[0].conv.weight.double(), Net().conv.weight, atol=1e-3)
    return opt


def channels_last(model):
    model.to(memory_format=torch.channels_last)


def half_bfloat16(model):
    model.float()
    model.conv.bfloat16()
    model.gain.data = model.gain.data.bfloat16()


@check(2, 4)
def dot_equals_one_process(group):
    opt = equals_one_process(dot, group)
    # What the model says of reach holds: nothing below compares empty states.
    states = [len(opt.state.get(param, {})) for param in params_of(opt)]
    assert states == [2, 2, 0, 0, 2, 2, 2], states


@check(2, 4)
def adamw_equals_one_process(group):
    equals_one_process(adamw, group)


@check(2)
def three_streams_equal_one_process(group):
    momenta = {"task": 0.7, "hint": 0.9, "relation": 0.5}
    models, opts = (Net(), Net()), []
    for model, processes in zip(models, (group, None), strict=True):
        opt = MultiMomentumSGD(model.parameters(), 0.1, momenta, process_group=independent(processes))
        for batch in batches():
            losses = model.losses(*shard(batch, processes))
            opt.backward(
                task=losses["task"], hint=losses["distill"], relation=model.conv.weight.square().sum()
            )
            opt.step()
            opt.zero_grad()
        opts.append(opt)
    assert_same(*opts)
    assert_replicas_identical(opts[0], group)


@check(2, 4)
def dot_with_weight_decay(group):
    equals_one_process(partial(dot, weight_decay=0.05, nesterov=True), group)


@check(2)
def adamw_with_weight_decay(group):
    equals_one_process(partial(adamw, weight_decay=0.5), group)


@check(2, 4)
def dot_clipped_joint(group):
    equals_one_process(dot, group, clip="joint")


@check(2)
def dot_clipped_each(group):
    equals_one_process(dot, group, clip="each")


@check(2)
def adamw_clipped_joint(group):
    equals_one_process(adamw, group, clip="joint")


@check(2, 4)
def adamw_clipped_each(group):
    equals_one_process(adamw, group, clip="each")


@check(2, 4)
def dot_accumulating(group):
    equals_one_process(dot, group, micro=2, clip="joint")


@check(2)
def adamw_accumulating(group):
    equals_one_process(adamw, group, micro=4)


@check(2, 4)
def dot_channels_last(group):
    opt = equals_one_process(dot, group, prepare=channels_last)
    (conv,) = (param for param in params_of(opt) if param.ndim == 4)
    for tensor in (conv, *opt.state[conv].values()):
        assert tensor.is_contiguous(memory_format=torch.channels_last)


@check(2)
def adamw_channels_last(group):
    equals_one_process(adamw, group, prepare=channels_last)


@check(2, 4)
def dot_mixed_precision_parameters(group):
    # Parameters of 8 significant bits, moved six times by 0.1 x something of order 1.
    opt = equals_one_process(dot, group, prepare=half_bfloat16, tolerance=2e-2)
    for param in params_of(opt):
        assert all(buffer.dtype == param.dtype for buffer in opt.state.get(param, {}).values())


@check(2)
def adamw_mixed_precision_parameters(group):
    equals_one_process(adamw, group, prepare=half_bfloat16, tolerance=5e-2)


@check(2)
def one_all_reduce_in_a_step(group):
    model = Net()
    opt = dot(model.parameters(), process_group=group)
    parts = list(batches(3))
    with counted_all_reduce() as calls:
        for part in parts:
            opt.backward(**model.losses(*shard(part, group)))
        assert calls == []
        opt.clip_grad_norm_(1.0)
        opt.step()
    params = params_of(opt)
    # Both sets, a flag for each parameter in each, a consent for each.
    assert calls == [2 * (sum(param.numel() for param in params) + len(params) + 1)], calls


@check(2)
def no_all_reduce_without_a_group(group):
    model = Net()
    opt = dot(model.parameters(), process_group=False)
    with counted_all_reduce() as calls:
        opt.backward(**model.losses(*next(batches())))
        opt.synchronize()
        opt.step()
    assert calls == []


@check(2, 4)
def plain_parameters_want_a_group(group):
    """Replicas would drift apart in silence; False says that they may."""
    text = "processes, and with process_group=None none averages the gradients of a plain parameter of shape"
    makers = (dot, adamw, partial(MultiMomentumSGD, lr=0.1, momenta={"task": 0.7, "distill": 0.9}))
    for make in makers:
        model = Net()
        opt = make(model.parameters())
        for _ in range(2):  # at the first step and at every other
            opt.backward(**model.losses(*shard(next(batches()), group)))
            before = [param.detach().clone() for param in model.parameters()]
            with raises(RuntimeError, f"{dist.get_world_size()} {text} (1,): pass process_group="):
                opt.step()
            assert all(map(torch.equal, before, model.parameters()))
            opt.zero_grad()
        for choice in (False, group):
            opt.process_group = choice
            opt.backward(**model.losses(*shard(next(batches()), group)))
            opt.step()
            opt.zero_grad()
        for clone in (copy.deepcopy(opt), pickle.loads(pickle.dumps(opt))):
            clone.process_group = False
            assert pickle.loads(pickle.dumps(clone)).process_group is False


@check(2)
def independent_processes_part_ways(group):
    model = Net()
    opt = dot(model.parameters(), process_group=False)
    with counted_all_reduce() as calls:
        for batch in batches(2):
            opt.backward(**model.losses(*shard(batch, group)))
            opt.clip_grad_norm_(1.0)
            opt.step()
            opt.zero_grad()
    assert calls == []
    weights = [torch.empty_like(model.conv.weight) for _ in range(2)]
    dist.all_gather(weights, model.conv.weight.detach().contiguous(), group=group)
    assert not torch.equal(*weights)


@check(2)
def edits_after_the_average_are_refused(group):
    model = Net()
    opt = dot(model.parameters(), process_group=group)
    opt.backward(**model.losses(*shard(next(batches()), group)))
    opt.synchronize()
    nn.utils.clip_grad_norm_(model.parameters(), 1e-3)
    with raises(RuntimeError, "To clip, call opt.clip_grad_norm_()"):
        opt.step()


@check(2)
def synchronize_is_idempotent(group):
    model = Net()
    opt = dot(model.parameters(), process_group=group)
    opt.backward(**model.losses(*shard(next(batches()), group)))
    with counted_all_reduce() as calls:
        opt.synchronize()
        first = [[grad if grad is None else grad.clone() for grad in row[1:]] for row in opt.gradients()]
        opt.synchronize()
        opt.clip_grad_norm_(1e9)
        opt.step()
        assert len(calls) == 1, calls
    whole = Net()
    expected = dot(whole.parameters(), process_group=False)
    expected.backward(**whole.losses(*next(batches())))
    for ours, row in zip(first, expected.gradients(), strict=True):
        torch.testing.assert_close(ours, list(row[1:]), rtol=1e-10, atol=1e-10)


@check(2)
def gradients_after_synchronize_are_averaged_again(group):
    opts = []
    for processes in (group, None):
        model = Net()
        opt = dot(model.parameters(), process_group=independent(processes))
        for batch in batches(4):
            opt.backward(**model.losses(*shard(batch, processes)))
            opt.synchronize()
        opt.step()
        opts.append(opt)
    assert_same(*opts)


@check(2)
def deep_copy_keeps_the_group(group):
    model = Net()
    opt, _ = train(dot, model, group, steps=2)
    model_copy, copied = copy.deepcopy((model, opt))
    assert copied.process_group is group
    for each_model, each in ((model, opt), (model_copy, copied)):
        for batch in batches(3):
            each.backward(**each_model.losses(*shard(batch, group)))
            each.step()
            each.zero_grad()
    assert_same(copied, opt, tolerance=0.0)
    assert_replicas_identical(copied, group)


@check(2)
def pickled_optimizer_asks_for_the_group(group):
    model = Net()
    opt, _ = train(dot, model, group, steps=2)
    model_copy, loaded = pickle.loads(pickle.dumps((model, opt)))
    loaded.backward(**model_copy.losses(*shard(next(batches()), group)))
    with raises(RuntimeError, "set opt.process_group again"):
        loaded.step()
    loaded.process_group = group
    loaded.step()
    opt.backward(**model.losses(*shard(next(batches()), group)))
    opt.step()
    assert_same(loaded, opt, tolerance=0.0)


@check(4)
def average_over_part_of_the_processes(group):
    ranks = ([0, 1], [2, 3])
    pairs = [dist.new_group(pair) for pair in ranks]
    mine = dist.get_rank() // 2
    model, whole = Net(), Net()
    # Another half of the data for each pair, so that the pairs part ways.
    opt = dot(model.parameters(), process_group=pairs[mine])
    expected = dot(whole.parameters(), process_group=False)
    for batch in batches():
        half = tuple(part.chunk(2)[mine] for part in batch)
        for each, net, part in ((opt, model, shard(half, pairs[mine])), (expected, whole, half)):
            each.backward(**net.losses(*part))
            each.step()
            each.zero_grad()
    assert_same(opt, expected)
    assert_replicas_identical(opt, pairs[mine])
    weights = [torch.empty_like(model.conv.weight) for _ in range(4)]
    dist.all_gather(weights, model.conv.weight.detach(), group=group)
    assert not torch.equal(weights[0], weights[2])
