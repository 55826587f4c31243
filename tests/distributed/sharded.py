"""FSDP2: fully_shard on two processes equals one process; plain parameters beside it are averaged.

torch's modules for it are imported where they are used: they take seconds, in each process that imports them.
"""

import tempfile
from functools import partial
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, mse_loss

from dotkd.optim import DOTAdamW

from .common import batches, check, dot, params_of, raises, shard

adamw = partial(DOTAdamW, lr=0.01, betas=(0.8, 0.95), delta=0.1)


class Layers(nn.Module):
    """Linear layers with odd rows (uneven shards) and one row (an empty shard); one for each loss alone."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(75, 7), nn.Tanh(), nn.Linear(7, 1), nn.Tanh(), nn.Linear(1, 5))
        self.classifier = nn.Linear(5, 4)
        self.projector = nn.Linear(5, 4)
        generator = torch.Generator().manual_seed(0)
        self.double()
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=generator) / 3)

    def forward(self, images, labels, targets):
        hidden = self.body(images.flatten(1))
        task = cross_entropy(self.classifier(hidden), labels)
        return {"task": task, "distill": mse_loss(self.projector(hidden), targets)}


def sharded_layers(model=None):
    from torch.distributed.fsdp import fully_shard
    from torch.distributed.tensor import init_device_mesh

    model = model or Layers()
    mesh = init_device_mesh("cpu", (2,))
    for layer in (model.body, model.classifier, model.projector, model):
        fully_shard(layer, mesh=mesh)
    return model


def go_on(model, opt, data, group, clip=None):
    norms = []
    for batch in data:
        opt.backward(**model(*shard(batch, group)))
        if clip is not None:
            norms.append(opt.clip_grad_norm_(0.2, mode=clip))
        opt.step()
        opt.zero_grad()
    return norms


def full(value):
    return value.full_tensor() if hasattr(value, "full_tensor") else torch.as_tensor(value)


def assert_equal_to_one_process(make, group, clip=None):
    model, whole = sharded_layers(), Layers()
    opt, expected = make(model.parameters()), make(whole.parameters(), process_group=False)
    assert all(type(param).__name__ == "DTensor" for param in params_of(opt))
    norms = go_on(model, opt, batches(), group, clip)
    expected_norms = go_on(whole, expected, batches(), None, clip)
    assert all(type(norm) is Tensor for row in norms for norm in row.values())
    torch.testing.assert_close(norms, expected_norms, rtol=1e-10, atol=1e-10)
    assert_close(opt, expected, 1e-10)


def assert_close(opt, expected, tolerance):
    for param, other in zip(params_of(opt), params_of(expected), strict=True):
        torch.testing.assert_close(full(param), full(other), rtol=tolerance, atol=tolerance)
        assert opt.state[param].keys() == expected.state[other].keys() != set()
        for key, value in opt.state[param].items():
            there = full(expected.state[other][key])
            torch.testing.assert_close(full(value), there, rtol=tolerance, atol=tolerance)


@check(2)
def fsdp_dot_equals_one_process(group):
    assert_equal_to_one_process(dot, group)


@check(2)
def fsdp_dot_with_weight_decay_and_nesterov(group):
    assert_equal_to_one_process(partial(dot, weight_decay=0.05, nesterov=True), group)


@check(2)
def fsdp_dot_clipped_joint(group):
    assert_equal_to_one_process(partial(dot, weight_decay=0.05), group, clip="joint")


@check(2)
def fsdp_dot_clipped_each(group):
    assert_equal_to_one_process(dot, group, clip="each")


@check(2)
def fsdp_adamw_equals_one_process(group):
    assert_equal_to_one_process(partial(adamw, weight_decay=0.1), group, clip="joint")


def capture(model, opt, batch, micro=2):
    for i, part in enumerate(zip(*(tensor.chunk(micro) for tensor in batch), strict=True)):
        losses = model(*part)
        if i:
            opt.capture_task()
        (losses["distill"] / micro).backward(retain_graph=True)
        opt.capture_distill()
        (losses["task"] / micro).backward()


@check(2)
def fsdp_dot_by_captures(group):
    model, whole = sharded_layers(), Layers()
    opt, expected = dot(model.parameters()), dot(whole.parameters(), process_group=False)
    for batch in batches():
        for net, each, part in ((model, opt, shard(batch, group)), (whole, expected, batch)):
            capture(net, each, part)
            each.step()
            each.zero_grad()
    assert_close(opt, expected, 1e-10)


@check(2)
def fsdp_zeroed_gradients_count_as_absent_until_written(group):
    model, whole = sharded_layers(), Layers()
    opt, expected = dot(model.parameters()), dot(whole.parameters(), process_group=False)
    for step, batch in enumerate(batches()):
        for net, each, part in ((model, opt, shard(batch, group)), (whole, expected, batch)):
            losses = net(*part)
            if step % 2:
                capture(net, each, part)
            else:
                each.backward(**losses)
            each.step()
            each.zero_grad(set_to_none=each is expected)
    assert_close(opt, expected, 1e-10)


@check(2)
def fsdp_edits_by_others_are_refused(group):
    for by_hand in (False, True):
        for how in ("clipped", "replaced", "taken away"):
            model = sharded_layers()
            opt = dot(model.parameters())
            part = shard(next(batches()), group)
            if by_hand:
                capture(model, opt, part)
            else:
                opt.backward(**model(*part))
            if how == "clipped":  # by foreach functions it would not be seen
                nn.utils.clip_grad_norm_(model.parameters(), 1e-3, foreach=False)
            weight = model.classifier.weight
            weight.grad = {"replaced": 2 * weight.grad, "clipped": weight.grad}.get(how)
            with raises(RuntimeError, "To clip, call opt.clip_grad_norm_()"):
                opt.step()
            opt.zero_grad()
            opt.backward(**model(*part))
            opt.step()


@check(2)
def fsdp_abandoned_captures_go_with_model_zero_grad(group):
    model, whole = sharded_layers(), Layers()
    opt, expected = dot(model.parameters()), dot(whole.parameters(), process_group=False)
    first, second = batches(2)
    model(*shard(first, group))["distill"].backward()
    opt.capture_distill()
    model.zero_grad()
    capture(model, opt, shard(second, group))
    capture(whole, expected, second)
    opt.step()
    expected.step()
    assert_close(opt, expected, 1e-10)


class WithProjector(nn.Module):
    """A sharded student, and a plain projector that both losses reach; they use other parts of it."""

    def __init__(self, body):
        super().__init__()
        self.body = body
        self.bias = nn.Parameter(torch.zeros(4, dtype=torch.float64))
        self.late = nn.Parameter(torch.full((3,), 0.5, dtype=torch.float64))

    def forward(self, images, labels, targets):
        losses = self.body(images, labels, targets + self.bias)
        losses["task"] = losses["task"] + (self.bias * labels.double().mean()).sum()
        return losses


@check(2)
def plain_parameters_beside_sharded_ones_are_averaged(group):
    for make in (dot, partial(dot, foreach=True, weight_decay=0.05), adamw):
        for clip in (None, "joint", "each"):
            model, whole = WithProjector(sharded_layers()), WithProjector(Layers())
            opt = make(model.parameters(), process_group=group)
            expected = make(whole.parameters(), process_group=False)
            norms = go_on(model, opt, batches(3), group, clip)
            expected_norms = go_on(whole, expected, batches(3), None, clip)
            torch.testing.assert_close(norms, expected_norms, rtol=1e-10, atol=1e-10)
            for param, other in zip(params_of(opt), params_of(expected), strict=True):
                torch.testing.assert_close(full(param), other, rtol=1e-10, atol=1e-10)
    opt = dot(model.parameters())
    opt.backward(**model(*shard(next(batches()), group)))
    with raises(RuntimeError, "a plain parameter of shape (4,): pass process_group="):
        opt.step()


class Overflowing(Layers):
    """The gradient of a one-row parameter, which one process holds, overflows when it is scaled."""

    def __init__(self):
        super().__init__()
        self.row = nn.Parameter(torch.ones(1, 3, dtype=torch.float64))

    def forward(self, *batch, stream=None):
        losses = super().forward(*batch)
        if stream is not None:
            losses[stream] = losses[stream] + 1e306 * self.row.sum()
        return losses


def overflow_in_one_shard(stream):
    model = sharded_layers(Overflowing())
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    opt = dot(model.parameters())
    for step, batch in enumerate(batches(3)):
        before = [full(param).detach().clone() for param in model.parameters()]
        opt.backward(
            **model(*shard(batch, dist.group.WORLD), stream=stream if step == 1 else None), scaler=scaler
        )
        scaler.step(opt)
        scaler.update()
        opt.zero_grad()
        after = [full(param) for param in model.parameters()]
        moved = any(not torch.equal(*pair) for pair in zip(before, after, strict=True))
        assert moved == (step != 1), step
        assert scaler.get_scale() == (1024.0 if step < 1 else 512.0), step


@check(2)
def fsdp_overflow_of_task_in_one_shard(group):
    overflow_in_one_shard("task")


@check(2)
def fsdp_overflow_of_distillation_in_one_shard(group):
    overflow_in_one_shard("distill")


def checkpoint_round_trip(make, group):
    import torch.distributed.checkpoint as dcp
    from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict

    data = list(batches())
    model = sharded_layers()
    opt = make(model.parameters())
    go_on(model, opt, data[:3], group)
    with tempfile.TemporaryDirectory() as own:
        shared = [own]
        dist.broadcast_object_list(shared, src=0, group=group)
        folder = Path(shared[0]) / "checkpoint"
        weights, state = get_state_dict(model, opt)
        dcp.save({"model": weights, "optimizer": state}, checkpoint_id=folder)

        again = sharded_layers()
        with torch.no_grad():
            for param in again.parameters():
                param.fill_(9.0)  # what is loaded must come from the file
        loaded = make(again.parameters(), lr=0.5)
        weights, state = get_state_dict(again, loaded)
        dcp.load({"model": weights, "optimizer": state}, checkpoint_id=folder)
        set_state_dict(again, loaded, model_state_dict=weights, optim_state_dict=state)
        dist.barrier(group=group)
    assert loaded.param_groups[0]["lr"] == opt.param_groups[0]["lr"]
    assert_close(loaded, opt, 0.0)
    for each_model, each in ((model, opt), (again, loaded)):
        go_on(each_model, each, data[3:], group)
    assert_close(loaded, opt, 0.0)


@check(2)
def fsdp_checkpoint_of_dot(group):
    checkpoint_round_trip(partial(dot, weight_decay=0.05), group)


@check(2)
def fsdp_checkpoint_of_adamw(group):
    checkpoint_round_trip(adamw, group)
