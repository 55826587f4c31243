"""Lines and planes through parameter space: exact values, exact ends, and every bit put back."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from dotkd.analysis import filter_normalized_direction, interpolation, loss_surface

DOUBLE = torch.float64


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def bits(tensors) -> list[bytes]:
    return [tensor.detach().reshape(-1).view(torch.uint8).numpy().tobytes() for tensor in tensors]


def convolutional(seed: int) -> nn.Sequential:
    """A net with batch norm whose statistics are its own."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = nn.Sequential(
            nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(),
            nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(16, 3),
        )  # fmt: skip
        norm = net[1]
        norm.running_mean.normal_()
        norm.running_var.uniform_(0.2, 2)
        norm.num_batches_tracked.fill_(seed)
    return net.eval()


IMAGES, LABELS = torch.randn(16, 1, 8, 8, generator=seeded(5)), torch.arange(16) % 3


def loss_of(net: nn.Module):
    return lambda: functional.cross_entropy(net(IMAGES), LABELS)


# ---------------------------------------------------------------- directions


@given(
    st.lists(st.lists(st.integers(1, 4), max_size=4), min_size=1, max_size=4),
    st.sampled_from([torch.float32, DOUBLE]),
    st.integers(0, 2**32 - 1),
)
@settings(deadline=None, max_examples=50)
def test_filters_have_the_norms_of_the_weights(shapes, dtype, seed: int) -> None:
    params = [torch.randn(shape, dtype=dtype, generator=seeded(seed)) for shape in shapes]
    before = bits(params)
    found = filter_normalized_direction(params, generator=seeded(seed))
    assert bits(params) == before
    generator = seeded(seed)
    for param, direction in zip(params, found, strict=True):
        assert (direction.shape, direction.dtype) == (param.shape, dtype)
        if param.ndim < 2:
            assert not direction.any()
            continue
        drawn = torch.randn(param.shape, dtype=DOUBLE, generator=generator).numpy()
        for ours, noise, weights in zip(direction.numpy(), drawn, param.numpy(), strict=True):
            scale = np.linalg.norm(weights.astype(float)) / np.linalg.norm(noise)
            np.testing.assert_allclose(ours, noise * scale, rtol=1e-6)


def test_the_direction_is_random_and_the_same_for_each_dtype() -> None:
    weight = torch.randn(50, 20, generator=seeded(0))
    one, again, other = (filter_normalized_direction([weight], generator=seeded(s))[0] for s in (1, 1, 2))
    assert torch.equal(one, again)
    assert not torch.equal(one, other)
    (wide,) = filter_normalized_direction([weight.double()], generator=seeded(1))
    torch.testing.assert_close(one, wide.float())
    (half,) = filter_normalized_direction([weight.half()], generator=seeded(1))
    assert half.dtype == torch.float16
    torch.testing.assert_close(one, half.float(), rtol=2e-3, atol=1e-3)
    # Of Gaussian origin: the signs are even, and nothing of the weights is in it but their size.
    assert abs(float((one > 0).double().mean()) - 0.5) < 4 * 0.5 / math.sqrt(1000)
    assert abs(float(functional.cosine_similarity(one.flatten(), weight.flatten(), dim=0))) < 4 / math.sqrt(
        1000
    )


def test_a_filter_of_zeros_stays_where_it_is() -> None:
    weight = torch.tensor([[0.0, 0.0], [1e-30, 0.0]], requires_grad=True)
    (found,) = filter_normalized_direction([weight], generator=seeded(0))
    assert not found[0].any()
    assert float(found[1].double().norm()) == pytest.approx(1e-30)
    assert not found.requires_grad


# ---------------------------------------------------------------- surfaces


@given(st.integers(0, 2**32 - 1), st.lists(st.floats(-5, 5), min_size=1, max_size=4))
@settings(deadline=None, max_examples=30)
def test_surface_of_a_quadratic(seed: int, steps: list[float]) -> None:
    draw = seeded(seed)
    params = [torch.randn(shape, dtype=DOUBLE, generator=draw) for shape in ((2, 3), (4,))]
    directions = [[torch.randn(p.shape, dtype=DOUBLE, generator=draw) for p in params] for _ in range(2)]
    flat, first, second = (torch.cat([t.reshape(-1) for t in each]) for each in (params, *directions))
    matrix = torch.randn(10, 10, dtype=DOUBLE, generator=draw)

    def value(point):
        return point @ matrix @ point

    def loss():
        return value(torch.cat([param.reshape(-1) for param in params]))

    line = loss_surface(loss, params, directions[:1], steps)
    plane = loss_surface(loss, params, directions, steps)
    assert line.dtype == plane.dtype == DOUBLE
    expected = torch.stack([value(flat + a * first) for a in steps])
    torch.testing.assert_close(line, expected)
    expected = torch.stack(
        [torch.stack([value(flat + a * first + b * second) for b in steps]) for a in steps]
    )
    torch.testing.assert_close(plane, expected)


def test_the_middle_is_the_loss_itself() -> None:
    net = convolutional(0)
    params = list(net.parameters())
    directions = [filter_normalized_direction(params, generator=seeded(seed)) for seed in (1, 2)]
    steps = torch.linspace(-1, 1, 5)
    expected = loss_of(net)().item()
    line, plane = (loss_surface(loss_of(net), params, directions[:n], steps) for n in (1, 2))
    assert line.shape == (5,)
    assert plane.shape == (5, 5)
    assert float(line[2]) == float(plane[2, 2]) == expected
    assert torch.equal(plane[:, 2], line)
    other = loss_surface(loss_of(net), params, directions[1:], steps)
    assert torch.equal(plane[2], other)
    assert len(set(line.tolist())) == 5


def test_untouched_means_the_sign_of_a_zero_too() -> None:
    weight = torch.tensor([-0.0, 0.0])
    seen = []
    loss_surface(lambda: seen.append(bits([weight])) or 1.0, [weight], [[torch.ones(2)]], [0.0, -0.0])
    assert len(set(map(str, seen))) == 1


def test_several_losses_from_one_pass() -> None:
    weight, calls = torch.tensor([1.0, 2.0]), []

    def losses():
        calls.append(1)
        task, distill = weight[0].square(), weight.prod()
        return {"task": task, "distill": distill, "total": float(task + 2 * distill)}

    direction = [torch.tensor([1.0, 0.0])]
    found = loss_surface(losses, [weight], [direction], [0, 1, 2])
    assert list(found) == ["task", "distill", "total"]
    assert len(calls) == 3 + 2
    assert {name: surface.tolist() for name, surface in found.items()} == {
        "task": [1, 4, 9],
        "distill": [2, 4, 6],
        "total": [5, 12, 21],
    }
    plane = loss_surface(losses, [weight], [direction, direction], [0, 1])
    assert plane["task"].tolist() == [[1, 4], [4, 9]]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, DOUBLE])
@pytest.mark.parametrize("fails", [False, True])
def test_every_bit_comes_back(dtype: torch.dtype, fails: bool) -> None:
    params = [
        torch.randn(4, 3, generator=seeded(0)).to(dtype).T,
        torch.tensor([-0.0, 1e-4, 3.0], dtype=dtype),
    ]
    params[0].requires_grad_()
    params[0].grad = torch.full_like(params[0], 7)
    before, calls = bits(params), []

    def loss():
        assert not torch.is_grad_enabled()
        calls.append(bits(params))
        if fails and len(calls) == 4:
            raise KeyboardInterrupt
        return sum(param.float().square().sum() for param in params)

    directions = [[torch.randn(p.shape, generator=seeded(seed)) for p in params] for seed in (1, 2)]
    if fails:
        with pytest.raises(KeyboardInterrupt):
            loss_surface(loss, params, directions, [-0.3, 0.7])
    else:
        loss_surface(loss, params, directions, [-0.3, 0.7])
        assert len(calls) == 4 + 2
    assert calls[0] == calls[1] == before
    assert before not in calls[2:]
    assert bits(params) == before
    assert params[0].requires_grad
    assert (params[0].grad == 7).all()


def test_points_are_rounded_once() -> None:
    """In float32, 1 + 3e-8 is 1, and a second 3e-8 would be lost too."""
    weight = torch.ones(1)
    tiny = [torch.full((1,), 1.0)]
    plane = loss_surface(lambda: weight.double().sum(), [weight], [tiny, tiny], [0, 3.5e-8])
    assert plane.tolist() == [[1, 1], [1, 1 + 2**-23]]


def test_far_out_a_loss_may_be_infinite() -> None:
    weight = torch.tensor([1.0])
    found = loss_surface(lambda: weight.log().sum(), [weight], [[torch.ones(1)]], [-2, -1, 0])
    assert found.isnan().tolist() == [True, False, False]
    assert found.tolist()[1:] == [-math.inf, 0]


def test_the_casts_of_autocast_follow_the_parameters() -> None:
    weight, image = torch.ones(4, 4, requires_grad=True), torch.ones(4, 4)
    with torch.autocast("cpu", torch.bfloat16):
        found = loss_surface(
            lambda: (image @ weight).float().mean(), [weight], [[torch.ones(4, 4)]], [0, 1, 2]
        )
        assert (image @ weight).float().mean().tolist() == 4
    assert found.tolist() == [4, 8, 12]


# ---------------------------------------------------------------- between two students


def test_both_ends_are_the_students_where_the_statistics_go_along() -> None:
    a, b = convolutional(0), convolutional(1)
    before = bits([*a.state_dict().values(), *b.state_dict().values()])
    expected = [loss_of(net)().item() for net in (a, b)]
    assert expected[0] != expected[1]
    lists = [list(a.parameters()), list(b.parameters())]
    found = interpolation(
        loss_of(a), *lists, [0, 0.5, 1], buffers_a=list(a.buffers()), buffers_b=list(b.buffers())
    )
    assert found.dtype == DOUBLE
    assert [float(found[0]), float(found[2])] == expected
    # Halfway, against a student made by hand.
    middle = convolutional(0)
    mixed = {
        name: (value.double() + b.state_dict()[name].double()).div(2).to(value)
        for name, value in a.state_dict().items()
    }
    middle.load_state_dict(mixed)
    assert float(found[1]) == pytest.approx(loss_of(middle)().item(), rel=1e-6)
    # With the statistics of the first student the second end is another network.
    without = interpolation(loss_of(a), *lists, [0, 1])
    assert float(without[0]) == expected[0]
    assert float(without[1]) != pytest.approx(expected[1], rel=1e-3)
    assert bits([*a.state_dict().values(), *b.state_dict().values()]) == before


@pytest.mark.parametrize(("step", "nearer"), [(-1, 0), (0, 0), (0.4, 0), (0.6, 1), (1, 1), (2, 1)])
def test_counters_are_those_of_the_nearer_end(step: float, nearer: int) -> None:
    weight, counter = torch.tensor([0.0]), torch.tensor([3])
    found = interpolation(
        lambda: {"weight": weight.sum(), "counter": counter.sum()},
        [weight],
        [torch.tensor([10.0])],
        [step],
        buffers_a=[counter],
        buffers_b=[torch.tensor([8])],
    )
    assert found["weight"].tolist() == pytest.approx([10 * step])
    assert found["counter"].tolist() == [[3, 8][nearer]]
    assert (weight.item(), counter.item()) == (0, 3)


def test_statistics_may_be_estimated_anew_at_each_point() -> None:
    a, b = convolutional(0), convolutional(1)

    def recalibrated(net):
        def loss():
            norm = net[1]
            norm.reset_running_stats()
            norm.momentum = None  # the plain mean over the passes
            net.train()
            net(IMAGES)
            net.eval()
            return loss_of(net)()

        return loss

    before = bits(a.state_dict().values())
    found = interpolation(
        recalibrated(a), list(a.parameters()), list(b.parameters()), [0, 1], buffers_a=list(a.buffers())
    )
    assert bits(a.state_dict().values()) == before
    with torch.no_grad():
        assert found.tolist() == [float(recalibrated(net)()) for net in (a, b)]


def test_ends_are_exact_for_numbers_that_do_not_add_up() -> None:
    """a + (b - a) is not b for these; and no infinity meets a zero."""
    a, b = torch.tensor([1e30, -0.0, 1.0]), torch.tensor([1.0, 0.0, math.inf])
    ends = bits([a]), bits([b])
    seen = []
    interpolation(lambda: seen.append(bits([a])) or 1.0, [a], [b], [0, 1])
    assert tuple(seen[2:]) == ends


def test_a_line_that_fails_puts_all_back() -> None:
    a, b = convolutional(0), convolutional(1)
    before, calls = bits(a.state_dict().values()), []

    def loss():
        calls.append(1)
        if len(calls) == 4:
            raise RuntimeError("the device is gone")
        return loss_of(a)()

    with pytest.raises(RuntimeError, match="the device is gone"):
        interpolation(loss, list(a.parameters()), list(b.parameters()), [0.5, 1], buffers_a=list(a.buffers()))
    assert bits(a.state_dict().values()) == before


# ---------------------------------------------------------------- what is refused


def test_a_loss_that_changes_is_refused() -> None:
    net = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5))
    params, images = list(net.parameters()), torch.ones(3, 4)
    direction = filter_normalized_direction(params, generator=seeded(0))
    others = [param.detach().clone() for param in params]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        message = "the same value on each pass, got .* evaluation mode"
        with pytest.raises(ValueError, match=f"^loss must have {message}"):
            loss_surface(lambda: net(images).square().mean(), params, [direction], [0, 1])
        with pytest.raises(ValueError, match=f"^loss 'task' must have {message}"):
            interpolation(lambda: {"task": net(images).square().mean()}, params, others, [0, 1])
        net.eval()
        assert loss_surface(lambda: net(images).square().mean(), params, [direction], [0, 1]).isfinite().all()


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (lambda w: w, r"loss must return one real number, got shape \[2\]"),
        (lambda w: {"task": w}, r"loss 'task' must return one real number, got shape \[2\]"),
        (lambda _: {}, "at least one number, got an empty mapping"),
        (lambda _: None, "got NoneType"),
        (lambda w: w.sum() * math.nan, "loss must be finite at the given parameters"),
        (lambda w: {"total": w.sum() * math.inf}, "loss 'total' must be finite"),
    ],
)
def test_what_is_no_loss_is_refused(loss, message: str) -> None:
    weight = torch.ones(2)
    with pytest.raises(ValueError, match=message):
        loss_surface(lambda: loss(weight), [weight], [[torch.ones(2)]], [0])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda _w, _d: direction([]), "at least one tensor, got none"),
        (lambda w, _d: direction(w), "must be a list .* got Tensor"),
        (lambda w, _d: direction([w.long()]), "floating point, got torch.int64"),
        (lambda w, d: surface(w, [d, d, d]), "got a list of 3 list"),
        (lambda w, _d: surface(w, []), "got list"),
        (lambda w, d: surface(w, d), r"must be \[direction\] or \[first, second\], .* list of 1 Tensor"),
        (lambda w, _d: surface(w, torch.ones(2)), "got Tensor"),
        (
            lambda w, d: surface(w, [[*d, *d]]),
            r"directions\[0\] must be a list of 1 tensors, .* got 2 of them",
        ),
        (lambda w, d: surface(w, [d, [torch.ones(3)]]), r"directions\[1\]\[0\] must .* \[2\], got \[3\]"),
        (lambda w, _d: surface(w, [[w]]), r"directions\[0\]\[0\] must not share memory with params"),
        (lambda w, d: surface(w, [d], steps=[]), r"steps must be at least one finite number, got \[\]"),
        (lambda w, d: surface(w, [d], steps=[0, math.inf]), "finite number"),
        (lambda w, _d: line(w, [w.view(2)]), r"params_b\[0\] must not share memory with params_a"),
        (lambda w, _d: line(w, [torch.ones(1)]), r"params_b\[0\] must have the shape of params_a\[0\]"),
        (lambda w, d: line(w, [*d, *d]), "params_b must be a list of 1 tensors"),
        (lambda w, d: line(w, d, buffers_b=[w]), "buffers_b must be a list of 0 tensors, .* got 1"),
        (lambda w, d: line(w, d, buffers_a=d, buffers_b=d), r"buffers_b\[0\] must not share memory"),
        (lambda w, d: line(w, d, steps=[math.nan]), "steps must be"),
    ],
)
def test_what_does_not_fit_is_refused(call, message: str) -> None:
    weight = torch.ones(2)
    with pytest.raises(ValueError, match=message):
        call(weight, [torch.zeros(2)])
    assert weight.tolist() == [1, 1]


def direction(params):
    return filter_normalized_direction(params, generator=seeded(0))


def surface(weight, directions, steps=(0, 1)):
    return loss_surface(lambda: weight.sum(), [weight], directions, steps)


def line(weight, other, steps=(0, 1), **buffers):
    return interpolation(lambda: weight.sum(), [weight], other, steps, **buffers)
