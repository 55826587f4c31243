"""Which implementation updates a parameter, and what torch's fused one would have done wrongly."""

from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dotkd.optim import DOT, ReferenceDOT
from dotkd.optim import kernels as module
from dotkd.optim.kernels import runs, split_by_kernel

CHOOSE = {"foreach": None, "fused": None}
LOOP = {"foreach": False, "fused": False}
LAST, LAST_3D = torch.channels_last, torch.channels_last_3d


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
        "whose gradients or buffers are laid out otherwise in memory than the parameter itself",
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


# ---------------------------------------------------------------------------------------- split_by_kernel


def split(options, params, *columns):
    """The rows of each implementation, all types together."""
    rows_of = {}
    for kernel, rows in split_by_kernel({**CHOOSE, **options}, params, columns or [params]):
        rows_of.setdefault(kernel, []).extend(rows)
    return {kernel: sorted(rows) for kernel, rows in rows_of.items()}


def test_one_call_serves_the_common_kind():
    params = [torch.ones(3), torch.nn.Parameter(torch.ones(2, 2)), torch.ones((), dtype=torch.float64)]
    assert split({}, params) == {"fused": [0, 1, 2]}
    assert split({"fused": True}, params) == {"fused": [0, 1, 2]}
    assert split({"foreach": True}, params) == {"foreach": [0, 1, 2]}
    assert split({"foreach": False}, params) == {"loop": [0, 1, 2]}
    assert split({"fused": False}, params) == {"loop": [0, 1, 2]}


def test_each_tensor_is_judged_by_itself():
    params = [
        torch.ones(4),
        torch.ones(4, dtype=torch.bfloat16),
        torch.ones(4, 8)[:, ::2],
        torch.ones(2, 3, 4, 5).contiguous(memory_format=LAST),
        torch.ones(2, 3, 4, 5, 6).contiguous(memory_format=LAST_3D),
        torch.ones(4, dtype=torch.complex64),
        torch.ones(4, dtype=torch.float64),
    ]
    assert split({}, params) == {"fused": [0, 3, 4, 6], "loop": [1, 2, 5]}


@pytest.mark.parametrize("column", [0, 1], ids=["gradient", "buffer"])
def test_one_gradient_or_buffer_of_another_layout_is_enough(column):
    param = torch.ones(2, 3, 4, 5).contiguous(memory_format=LAST)
    columns = [[param.clone(), param.clone()] for _ in range(2)]
    assert split({}, [param, param], *columns) == {"fused": [0, 1]}
    columns[column][1] = param.contiguous()
    assert split({}, [param, param], *columns) == {"fused": [0], "loop": [1]}


def test_types_are_never_mixed_in_one_call():
    params = [torch.ones(4), torch.ones(4).as_subclass(Subclass), torch.ones(4)]
    parts = [(kernel, list(rows)) for kernel, rows in split_by_kernel({**CHOOSE, **LOOP}, params, [params])]
    assert parts == [("loop", [0, 2]), ("loop", [1])]


def test_a_gpu_without_fused_takes_foreach():
    param = SimpleNamespace(is_cuda=True)
    assert split({"fused": False}, [param]) == {"foreach": [0]}
    assert split({"fused": False, "foreach": False}, [param]) == {"loop": [0]}


# -------------------------------------------------------------------------------------------------- runs

LIMIT = module._RUN


def of_size(numel):
    return torch.empty(()).expand(numel)  # as many numbers, no memory


@settings(derandomize=True, deadline=None, max_examples=100, database=None)
@given(sizes=st.lists(st.integers(0, LIMIT + 2) | st.sampled_from([0, LIMIT // 2, LIMIT])), data=st.data())
def test_runs_cover_all_rows_in_order_and_end_where_the_next_row_would_not_fit(sizes, data):
    params = [of_size(size) for size in sizes]
    rows = data.draw(st.permutations(range(len(sizes))), label="rows")
    parts = [list(part) for part in runs(params, rows)]
    assert [row for part in parts for row in part] == list(rows)
    totals = [sum(sizes[row] for row in part) for part in parts]
    assert all(total <= LIMIT for total, part in zip(totals, parts, strict=True) if len(part) > 1)
    for total, following in zip(totals[:-1], parts[1:], strict=True):
        assert total + sizes[following[0]] > LIMIT


def test_a_run_is_full_at_the_size_and_not_before():
    params = [of_size(LIMIT - 1), of_size(1), of_size(1), of_size(3 * LIMIT), of_size(1)]
    assert [list(part) for part in runs(params, range(5))] == [[0, 1], [2], [3], [4]]


@pytest.mark.parametrize(
    "tensor",
    [torch.empty(LIMIT, device="meta"), SimpleNamespace(numel=lambda: LIMIT, is_cpu=False)],
    ids=["meta", "stand-in"],
)
def test_a_device_that_is_no_cpu_gets_one_run(tensor):
    assert [list(part) for part in runs([tensor] * 7, [4, 2, 6])] == [[4, 2, 6]]


def test_several_runs_in_one_step_are_one_update(kernel):
    sizes = [LIMIT - 3, 7, 1, LIMIT + 5, 2]
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
