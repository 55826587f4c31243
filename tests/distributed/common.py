"""What the checks share: their register, a small model, its data, a training run, comparisons."""

import contextlib
from collections.abc import Callable

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.functional import cross_entropy, mse_loss

from dotkd.optim import DOT

CHECKS: dict[str, tuple[Callable, tuple[int, ...]]] = {}

STEPS, BATCH = 6, 16


def check(*worlds):
    """Register a function of a process group for these numbers of processes."""

    def register(function):
        name = function.__name__
        assert name not in CHECKS, name
        CHECKS[name] = (function, worlds)
        return function

    return register


class Net(nn.Module):
    """Parameters that both losses reach, one of them, none, and a frozen one; all of odd sizes."""

    def __init__(self, dtype=torch.float64):
        super().__init__()
        # One number, reached by distillation only: where a GradScaler's signal is put.
        self.gain = nn.Parameter(torch.ones(1))
        self.conv = nn.Conv2d(3, 5, 3, bias=False)
        self.head = nn.Linear(5, 4)
        self.task_bias = nn.Parameter(torch.zeros(4))
        self.unused = nn.Parameter(torch.ones(3))
        self.frozen = nn.Parameter(torch.ones(2), requires_grad=False)
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for parameter in (*self.conv.parameters(), *self.head.parameters()):
                parameter.copy_(torch.randn(parameter.shape, generator=generator) / 3)
        self.to(dtype)

    def losses(self, images, labels, targets):
        hidden = self.conv(images.to(self.conv.weight.dtype)).relu().mean((2, 3))
        logits = self.head(hidden.to(self.head.weight.dtype))
        task = cross_entropy(logits + self.task_bias, labels)
        distill = mse_loss(self.gain * logits, targets.to(logits.dtype))
        return {"task": task, "distill": distill}


def batches(steps=STEPS):
    generator = torch.Generator().manual_seed(1)
    for _ in range(steps):
        yield (
            torch.randn(BATCH, 3, 5, 5, generator=generator, dtype=torch.float64),
            torch.randint(4, (BATCH,), generator=generator),
            torch.randn(BATCH, 4, generator=generator, dtype=torch.float64),
        )


def shard(batch, group):
    """Return this process's part of a batch, the whole of it without a group."""
    if group is None:
        return batch
    rank, world = dist.get_rank(group), dist.get_world_size(group)
    return tuple(part[rank::world] for part in batch)


def independent(group):
    """Return the ``process_group`` of an optimizer: this group, or False for a process by itself."""
    return False if group is None else group


def dot(params, **options):
    return DOT(params, **{"lr": 0.1, "momentum": 0.8, "delta": 0.1, **options})


def train(make, model, group=None, *, micro=1, clip=None, steps=STEPS):
    """Train on each process's shards, or on whole batches without a group.

    Returns:
        The optimizer and the norms that clipping returned.
    """
    opt = make(model.parameters(), process_group=independent(group))
    norms = []
    for batch in batches(steps):
        for part in zip(*(tensor.chunk(micro) for tensor in shard(batch, group)), strict=True):
            losses = model.losses(*part)
            opt.backward(**{name: loss / micro for name, loss in losses.items()})
        if clip is not None:
            norms.append(opt.clip_grad_norm_(0.2, mode=clip))
        opt.step()
        opt.zero_grad()
        if group is not None:
            assert_replicas_identical(opt, group)
    return opt, norms


def params_of(opt):
    return [param for group in opt.param_groups for param in group["params"]]


def assert_replicas_identical(opt, group):
    """All processes hold the same bits in parameters and state, in the same places."""
    tensors, places = [], []
    for param in params_of(opt):
        state = opt.state.get(param, {})
        places.append(sorted(state))
        tensors += [param, *(torch.as_tensor(state[key]) for key in sorted(state))]
    ours = [tensor.detach().contiguous().view(-1).view(torch.uint8) for tensor in tensors]
    everywhere = [None] * dist.get_world_size(group)
    dist.all_gather_object(everywhere, (places, torch.cat(ours).numpy().tobytes()), group=group)
    assert all(other == everywhere[0] for other in everywhere)


def assert_same(opt, expected, tolerance=1e-10):
    """Two optimizers hold equal parameters and states."""
    for i, (param, other) in enumerate(zip(params_of(opt), params_of(expected), strict=True)):
        state, other_state = opt.state.get(param, {}), expected.state.get(other, {})
        assert set(state) == set(other_state), f"parameter {i}: {sorted(state)}, {sorted(other_state)}"
        pairs = {"parameter": (param, other), **{key: (state[key], other_state[key]) for key in state}}
        for name, (a, b) in pairs.items():
            a, b = torch.as_tensor(a).detach(), torch.as_tensor(b).detach()
            torch.testing.assert_close(
                a, b, rtol=tolerance, atol=tolerance, msg=lambda text, i=i, n=name: f"{i} {n}: {text}"
            )


@contextlib.contextmanager
def counted_all_reduce():
    """Collect one entry for each call of ``torch.distributed.all_reduce``."""
    calls, original = [], dist.all_reduce

    def counting(tensor, *args, **kwargs):
        calls.append(tensor.numel())
        return original(tensor, *args, **kwargs)

    dist.all_reduce = counting
    try:
        yield calls
    finally:
        dist.all_reduce = original


@contextlib.contextmanager
def raises(kind, text):
    """Like pytest.raises with a substring: the workers do without pytest."""
    raised = None
    try:
        yield
    except kind as error:
        raised = error
    assert raised is not None, f"no {kind.__name__} was raised"
    assert text in str(raised), f"{text!r} is not in {str(raised)!r}"
