"""MultiMomentumSGD and DOT: which tensors torch's kernels may update, momenta and groups, DeepKD's preset."""

import copy

import pytest
import torch
from torch import nn

from dotkd.optim import DOT, DOTAdamW, MultiMomentumSGD, ReferenceDOT, base, deepkd_momenta, sgd

LOOP = {"foreach": False, "fused": False}
LAST = torch.channels_last


def normal(*shape, dtype=torch.float32, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def walk(param, grads, **options):
    """Step once per pair of gradients, each with its own memory layout, and return what is left."""
    opt = DOT([param], lr=0.1, weight_decay=0.1, **options)
    for task, distill in grads:
        param.grad = distill
        opt.capture_distill()
        param.grad = task
        opt.step()
        opt.zero_grad()
    state = opt.state[param]
    return param.detach(), state["task_momentum_buffer"], state["distill_momentum_buffer"]


def plain_walk(param, grads):
    """The same in the paper's plain steps, on a plain copy of its own."""
    param = param.detach().clone(memory_format=torch.contiguous_format)
    reference = ReferenceDOT([param], lr=0.1, weight_decay=0.1)
    for task, distill in grads:
        reference.step([task.contiguous()], [distill.contiguous()])
    return param, reference.task_buffers[0], reference.distill_buffers[0]


def assert_all_close(actual, expected, **tolerance):
    for mine, theirs in zip(actual, expected, strict=True):
        torch.testing.assert_close(mine, theirs, **tolerance)


# ------------------------------------------------------------------------------------------ the hazards

DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
TIGHT = {
    torch.float32: {"rtol": 1e-6, "atol": 1e-6},
    torch.float64: {"rtol": 1e-14, "atol": 1e-14},
}
LAYOUTS = {
    "contiguous gradients": (LAST, torch.contiguous_format, torch.contiguous_format),
    "one contiguous gradient": (LAST, LAST, torch.contiguous_format),
    "gradients of changing layout": (LAST, "alternate", LAST),
    "contiguous parameter": (torch.contiguous_format, LAST, LAST),
    "contiguous but for the distillation": (torch.contiguous_format, torch.contiguous_format, LAST),
    "contiguous but for the first gradient": (torch.contiguous_format, "alternate", torch.contiguous_format),
    "channels_last throughout": (LAST, LAST, LAST),
}


def laid_out(layouts, dtype, steps=4):
    of_param, of_task, of_distill = layouts
    param = torch.nn.Parameter(normal(4, 3, 5, 2, dtype=dtype).contiguous(memory_format=of_param))
    grads = []
    for step in range(steps):
        task, distill = (normal(4, 3, 5, 2, dtype=dtype, seed=10 * step + s) for s in (1, 2))
        now = (LAST, torch.contiguous_format)[step % 2] if of_task == "alternate" else of_task
        grads.append((task.contiguous(memory_format=now), distill.contiguous(memory_format=of_distill)))
    return param, grads


@DTYPES
@pytest.mark.parametrize("layouts", LAYOUTS.values(), ids=LAYOUTS)
def test_layouts_that_differ_are_no_matter(layouts, dtype):
    expected = plain_walk(*laid_out(layouts, dtype))
    assert_all_close(walk(*laid_out(layouts, dtype)), expected, **TIGHT[dtype])
    assert_all_close(walk(*laid_out(layouts, dtype), **LOOP), expected, **TIGHT[dtype])


VIEWS = {
    "every second column": lambda base: base[:, ::2],
    "columns with a gap": lambda base: base[:, :3],
    "transposed": lambda base: base[:, :3].t(),
}


@DTYPES
@pytest.mark.parametrize("view", VIEWS.values(), ids=VIEWS)
def test_the_neighbours_of_a_view_stay_untouched(view, dtype):
    base = normal(5, 8, dtype=dtype)
    before = base.clone()
    param = torch.nn.Parameter(view(base))
    assert param.data_ptr() == base.data_ptr()
    grads = [tuple(normal(*param.shape, dtype=dtype, seed=9 * k + s) for s in (1, 2)) for k in range(4)]
    expected = plain_walk(param, grads)
    assert_all_close(walk(param, grads), expected, **TIGHT[dtype])

    neighbour = torch.ones_like(base, dtype=torch.bool)
    view(neighbour)[:] = False
    assert torch.equal(base[neighbour], before[neighbour])
    assert not torch.isclose(base[~neighbour], before[~neighbour]).any()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bfloat16", "float16"])
@pytest.mark.parametrize("numel", [15, 16, 64, 100])
def test_half_precision_goes_by_the_loop(dtype, numel):
    grads = [tuple(normal(numel, dtype=dtype, seed=9 * k + s) for s in (1, 2)) for k in range(4)]
    param = normal(numel, dtype=dtype)
    chosen, looped = (walk(torch.nn.Parameter(param.clone()), grads, **options) for options in ({}, LOOP))
    assert all(map(torch.equal, chosen, looped))

    exact = plain_walk(param.double(), [(task.double(), distill.double()) for task, distill in grads])
    eps = torch.finfo(dtype).eps
    assert_all_close([t.double() for t in chosen], exact, rtol=4 * eps, atol=4 * eps)


def test_a_complex_parameter_is_its_two_real_parts(kernel):
    param = torch.nn.Parameter(torch.view_as_complex(normal(6, 2, dtype=torch.float64)))
    grads = [tuple(normal(6, 2, dtype=torch.float64, seed=9 * k + s) for s in (1, 2)) for k in range(4)]
    expected = plain_walk(torch.view_as_real(param), grads)
    given_grads = [tuple(map(torch.view_as_complex, pair)) for pair in grads]
    if kernel.get("fused"):
        with pytest.raises(RuntimeError, match=r"cannot update a parameter of dtype torch\.complex128"):
            walk(param, given_grads, **kernel)
        return
    actual = map(torch.view_as_real, walk(param, given_grads, **kernel))
    assert_all_close(actual, expected, **TIGHT[torch.float64])


class Subclass(torch.Tensor):
    """Not a plain tensor."""


IMPOSSIBLE = {
    "layouts": (
        lambda: normal(4, 3, 5, 2).contiguous(memory_format=LAST),
        ".*same memory format",
    ),
    "strides": (
        lambda: normal(5, 8)[:, ::2],
        r"with strides \(8, 2\): only contiguous or channels_last ones",
    ),
    "bfloat16": (lambda: normal(64, dtype=torch.bfloat16), "of dtype torch.bfloat16 on 'cpu'"),
    "float16": (lambda: normal(64, dtype=torch.float16), "of dtype torch.float16 on 'cpu'"),
    "complex": (lambda: normal(4, dtype=torch.complex64), "of dtype torch.complex64 on 'cpu'"),
    "subclass": (lambda: normal(4).as_subclass(Subclass), "of type Subclass: only plain tensors"),
}


@pytest.mark.parametrize(("tensor", "text"), IMPOSSIBLE.values(), ids=IMPOSSIBLE)
def test_fused_on_demand_refuses_what_torch_gets_wrong(tensor, text):
    param = tensor().requires_grad_()
    before = param.detach().clone()
    grad = torch.ones(param.shape, dtype=param.dtype)
    with pytest.raises(RuntimeError, match=f"fused=True cannot update a parameter {text}"):
        walk(param, [(grad, grad)], fused=True)
    assert torch.equal(param.detach(), before)


def test_fused_on_demand_accepts_channels_last_step_after_step():
    layouts = LAYOUTS["channels_last throughout"]
    fused = walk(*laid_out(layouts, torch.float64), fused=True)
    assert_all_close(fused, walk(*laid_out(layouts, torch.float64), **LOOP), **TIGHT[torch.float64])
    assert all(tensor.is_contiguous(memory_format=LAST) for tensor in fused)


def test_fused_on_demand_overlooks_the_stride_of_a_dimension_of_one():
    """A 1x1 convolution is contiguous and channels_last at once; cuDNN's gradients have other strides."""
    param = nn.Parameter(normal(4, 3, 1, 1))
    grads = [normal(4, 3, 1, 1, seed=seed).to(memory_format=LAST) for seed in (1, 2)]
    assert grads[0].stride() != param.stride()
    copies = [param.detach().clone().requires_grad_() for _ in range(2)]
    fused, loop = (walk(p, [grads] * 2, **k) for p, k in zip(copies, ({"fused": True}, LOOP), strict=True))
    assert_all_close(fused, loop, rtol=1e-6, atol=1e-6)


def test_several_runs_in_one_step_are_one_update(kernel):
    sizes = [base._CACHED - 3, 7, 1, base._CACHED + 5, 2]
    params = [torch.nn.Parameter(normal(size, seed=i)) for i, size in enumerate(sizes)]
    copies = [p.detach().clone() for p in params]
    opt, reference = DOT(params, lr=0.1, **kernel), ReferenceDOT(copies, lr=0.1)
    for step in range(2):
        task, distill = ([normal(n, seed=90 * step + 9 * s + n % 7) for n in sizes] for s in (1, 2))
        for tensors in (distill, task):
            for param, grad in zip(params, tensors, strict=True):
                param.grad = grad
            if tensors is distill:
                opt.capture_distill()
        opt.step()
        opt.zero_grad()
        reference.step(task, distill)
    assert_all_close([p.detach() for p in params], copies, rtol=1e-6, atol=1e-6)


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
        o.step()
    torch.testing.assert_close(laid_out.contiguous(), plain)


@pytest.mark.parametrize(
    ("spoil", "text"),
    [
        (lambda buffer: buffer[:2], "same memory format"),
        (lambda buffer: buffer[None], "same memory format"),
        (lambda buffer: buffer.t().contiguous().t(), "same memory format"),
        (lambda buffer: buffer.double(), "of dtype torch.float32: .*same dtype"),
    ],
)
def test_fused_refuses_a_buffer_of_another_shape_layout_or_dtype(spoil, text):
    fine, odd = (nn.Parameter(torch.ones(4, 3)) for _ in range(2))
    opt = DOT([{"params": [fine]}, {"params": [odd]}], lr=0.1, fused=True)
    for step in range(2):
        opt.backward(task=(fine + odd).sum(), distill=(fine * odd).sum())
        if step:
            before = fine.detach().clone(), odd.detach().clone()
            opt.state[odd]["distill_momentum_buffer"] = spoil(opt.state[odd]["distill_momentum_buffer"])
            with pytest.raises(RuntimeError, match=f"fused=True cannot update a parameter .*{text}"):
                opt.step()
            assert torch.equal(fine, before[0])
            assert torch.equal(odd, before[1])
        else:
            opt.step()
            opt.zero_grad()


def test_without_a_choice_torch_chooses(monkeypatch):
    """``foreach`` and ``fused`` reach ``torch.optim.sgd.sgd`` as they are."""
    seen = []
    monkeypatch.setattr(sgd, "sgd", lambda *_, **options: seen.append((options["foreach"], options["fused"])))
    for options in ({}, {"foreach": True}, {"foreach": False}, {"fused": True}, {"fused": False}):
        weight = nn.Parameter(torch.ones(2))
        opt = DOT([weight], lr=0.1, **options)
        opt.backward(task=weight.sum(), distill=weight.sum())
        opt.step()
        assert seen == [(options.get("foreach"), options.get("fused"))] * 2
        seen.clear()


def test_types_are_never_mixed_in_one_call(monkeypatch):
    params = [normal(4), normal(4).as_subclass(Subclass), normal(4)]
    opt, calls = DOT([p.requires_grad_() for p in params], lr=0.1), []
    monkeypatch.setattr(sgd, "sgd", lambda given, *_, **__: calls.append([type(p) for p in given]))
    loss = sum((p * p).sum() for p in params)
    opt.backward(task=loss, distill=loss)
    opt.step()
    assert calls == [[torch.Tensor] * 2] * 2 + [[Subclass]] * 2


# -------------------------------------------------------------------- streams and momenta


def test_streams_and_momenta_of_each_optimizer():
    weights = [nn.Parameter(torch.ones(1)) for _ in range(2)]
    rows = [{"params": [w]} for w in weights]
    dot = DOT([rows[0], {**rows[1], "momentum": 0.5, "delta": -0.25}], lr=0.1)
    assert dot.streams == ("task", "distill")
    assert dot.momenta() == pytest.approx({"task": 0.825, "distill": 0.975})
    assert dot.momenta(dot.param_groups[1]) == {"task": 0.75, "distill": 0.25}
    own = {"momenta": {"a": 0.1, "b": 0.2, "c": 0.3}}
    multi = MultiMomentumSGD([rows[0], {**rows[1], **own}], 0.1, {"a": 0.9, "b": 0.5, "c": 0.0})
    assert multi.streams == ("a", "b", "c")
    assert multi.momenta() == {"a": 0.9, "b": 0.5, "c": 0.0}
    assert multi.momenta(multi.param_groups[1]) == own["momenta"]
    multi.momenta()["a"] = 0.0  # a copy
    assert multi.momenta()["a"] == 0.9
    adamw = DOTAdamW(weights, betas=(0.5, 0.9), delta=0.25)
    assert adamw.streams == ("task", "distill")
    assert adamw.momenta() == {"task": 0.25, "distill": 0.75}
    for opt in (dot, multi, adamw):
        twin = copy.deepcopy(opt)
        assert (twin.streams, twin.momenta()) == (opt.streams, opt.momenta())


# -------------------------------------------------------------------- DeepKD

STEPS, LR, DECAY = 6, 0.05, 0.1
STREAMS = ("task", "target", "others")


def draw(seed):
    """A start and the gradients of each stream in each step, in float64."""
    generator = torch.Generator().manual_seed(seed)
    start, *gradients = torch.randn(1 + 3 * STEPS, 2, 3, generator=generator, dtype=torch.float64)
    return start, [dict(zip(STREAMS, gradients[3 * i : 3 * i + 3], strict=True)) for i in range(STEPS)]


def in_plain_steps(start, gradients, momenta, decayed):
    """The update as it is written: a buffer per stream, the decay in one of them."""
    weight, buffers = start.clone(), dict.fromkeys(STREAMS, 0.0)
    for grads in gradients:
        for name in STREAMS:
            grad = grads[name] + (DECAY * weight if name == decayed else 0)
            buffers[name] = momenta[name] * buffers[name] + grad
        weight = weight - LR * sum(buffers.values())
        yield weight


def with_the_optimizer(start, gradients, linear_loss, momenta, **options):
    weight = torch.nn.Parameter(start.clone())
    opt = MultiMomentumSGD([weight], LR, momenta, momentum=0.9, weight_decay=DECAY, **options)
    for grads in gradients:
        opt.backward(**{name: linear_loss([weight], [grad]) for name, grad in grads.items()})
        opt.step()
        opt.zero_grad()
        yield weight.detach().clone()


def test_the_papers_momenta():
    momenta = deepkd_momenta()
    assert tuple(momenta) == STREAMS  # the task stream is the primary one
    assert momenta == pytest.approx({"task": 0.975, "target": 0.825, "others": 0.975})
    assert deepkd_momenta(0.5, 0.25) == {"task": 0.75, "target": 0.25, "others": 0.75}


def test_the_released_codes_momenta():
    momenta = deepkd_momenta(as_released=True)
    assert tuple(momenta) == STREAMS
    assert momenta == pytest.approx({"task": 0.825, "target": 0.825, "others": 0.975})


@pytest.mark.parametrize("as_released", [False, True])
@pytest.mark.parametrize(("momentum", "delta"), [(0.9, 0.1), (0.05, 0.075), (0.9, -0.2), (float("nan"), 0.0)])
def test_every_momentum_lies_in_its_range(momentum, delta, as_released):
    message = r"momentum - delta and momentum \+ delta must both lie in \[0, 1\), got momentum="
    with pytest.raises(ValueError, match=message):
        deepkd_momenta(momentum, delta, as_released=as_released)


def test_the_optimizer_walks_the_papers_trajectory(kernel, linear_loss):
    start, gradients = draw(0)
    mine = with_the_optimizer(start, gradients, linear_loss, deepkd_momenta(), **kernel)
    momenta = {"task": 0.9 + 0.075, "target": 0.9 - 0.075, "others": 0.9 + 0.075}
    for weight, expected in zip(mine, in_plain_steps(start, gradients, momenta, "task"), strict=True):
        torch.testing.assert_close(weight, expected, rtol=1e-12, atol=1e-12)


def test_the_released_update_is_reached_with_the_decay_in_another_stream(linear_loss):
    start, gradients = draw(1)
    mine = with_the_optimizer(start, gradients, linear_loss, deepkd_momenta(as_released=True))
    momenta = {"task": 0.9 - 0.075, "target": 0.9 - 0.075, "others": 0.9 + 0.075}
    for weight, expected in zip(mine, in_plain_steps(start, gradients, momenta, "target"), strict=True):
        torch.testing.assert_close(weight, expected, rtol=1e-12, atol=1e-12)


def test_paper_and_code_part_in_the_second_step(linear_loss):
    start, gradients = draw(2)
    paper = with_the_optimizer(start, gradients, linear_loss, deepkd_momenta())
    code = with_the_optimizer(start, gradients, linear_loss, deepkd_momenta(as_released=True))
    gaps = [(p - c).abs().max().item() for p, c in zip(paper, code, strict=True)]
    assert gaps[0] == 0
    # One momentum is 0.15 larger, on a buffer that holds the first gradient and decay.
    first = gradients[0]["task"] + DECAY * start
    assert gaps[1] == pytest.approx(LR * 0.15 * first.abs().max().item(), rel=1e-9)


def test_a_parameter_that_one_loss_reaches_has_plain_momentum():
    alone, both = (torch.nn.Parameter(torch.ones(3, dtype=torch.float64)) for _ in range(2))
    plain = torch.nn.Parameter(torch.ones(3, dtype=torch.float64))
    opt = MultiMomentumSGD([alone, both], LR, deepkd_momenta(), momentum=0.9, weight_decay=DECAY)
    sgd = torch.optim.SGD([plain], LR, momentum=0.9, weight_decay=DECAY)
    for step in range(4):
        opt.backward(
            task=both.sum(), target=(2 * both).sum(), others=((step - 1.5) * alone + both * both).sum()
        )
        plain.grad = torch.full_like(plain, step - 1.5)
        opt.step()
        sgd.step()
        opt.zero_grad()
    torch.testing.assert_close(alone.detach(), plain.detach(), rtol=1e-12, atol=0)


def test_without_a_delta_it_is_sgd_on_the_sum(linear_loss):
    start, gradients = draw(3)
    plain = torch.nn.Parameter(start.clone())
    sgd = torch.optim.SGD([plain], LR, momentum=0.9, weight_decay=DECAY)
    mine = with_the_optimizer(start, gradients, linear_loss, deepkd_momenta(delta=0.0))
    for weight, grads in zip(mine, gradients, strict=True):
        plain.grad = sum(grads.values())
        sgd.step()
        torch.testing.assert_close(weight, plain.detach(), rtol=1e-12, atol=1e-12)
