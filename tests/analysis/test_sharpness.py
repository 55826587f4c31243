"""The rise of a loss up its gradient, and what holds for every measurement that differentiates a loss."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional

from dotkd.analysis import (
    hessian_trace,
    hessian_vector_product,
    sam_sharpness,
    spectral_density,
    top_eigenvalues,
)

DOUBLE = torch.float64


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def leaf(*values: float, dtype=DOUBLE) -> torch.Tensor:
    return torch.tensor(values, dtype=dtype, requires_grad=True)


def diagonal(curvatures, dtype=DOUBLE):
    """A quadratic whose Hessian is diagonal, and its parameter."""
    curvature = torch.as_tensor(curvatures, dtype=dtype)
    weight = torch.linspace(-1, 2, len(curvature), dtype=dtype, requires_grad=True)
    return lambda: (curvature * weight.square()).sum() / 2, [weight]


def symmetric(n: int, seed: int) -> torch.Tensor:
    matrix = torch.randn(n, n, dtype=DOUBLE, generator=seeded(seed))
    return matrix + matrix.T


# ---------------------------------------------------------------- sharpness


def test_sharpness_of_a_quadratic() -> None:
    matrix, weight = symmetric(5, 0), leaf(1.0, -2.0, 0.5, 3.0, 0.1)
    slope = matrix @ weight.detach()
    found = sam_sharpness(lambda: weight @ matrix @ weight / 2, [weight], rho=0.3)
    # L(w + e) - L(w) = g e + e H e / 2 with e = rho g / |g|.
    step = 0.3 * slope / slope.norm()
    assert found == pytest.approx(float(slope @ step + step @ matrix @ step / 2), rel=1e-12)
    scaled = weight.detach().abs() * slope
    step = 0.3 * weight.detach().abs() * scaled / scaled.norm()
    found = sam_sharpness(lambda: weight @ matrix @ weight / 2, [weight], rho=0.3, adaptive=True)
    assert found == pytest.approx(float(slope @ step + step @ matrix @ step / 2), rel=1e-12)


@pytest.mark.parametrize("adaptive", [False, True])
def test_adaptive_sharpness_knows_no_scale(adaptive: bool) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 1)).double()
        images, target = torch.randn(9, 4, dtype=DOUBLE), torch.randn(9, 1, dtype=DOUBLE)

    def measure():
        return sam_sharpness(
            lambda: functional.mse_loss(net(images), target),
            list(net.parameters()),
            rho=0.2,
            adaptive=adaptive,
        )

    before = measure()
    with torch.no_grad():
        for param, factor in zip(net.parameters(), (10, 10, 0.1, 1), strict=True):
            param.mul_(factor)
    assert before > 0
    assert (measure() == pytest.approx(before)) is adaptive


def test_small_steps_rise_by_the_gradient_norm() -> None:
    weight = leaf(0.3, -0.7, 1.1)
    norm = float(weight.detach().exp().norm())
    assert sam_sharpness(lambda: weight.exp().sum(), [weight], rho=1e-6) == pytest.approx(
        1e-6 * norm, rel=1e-4
    )


def test_no_gradient_no_rise() -> None:
    weight = leaf(0.0, -0.0)
    assert sam_sharpness(lambda: weight.square().sum(), [weight]) == 0
    with pytest.raises(ValueError, match="finite gradient"):
        sam_sharpness(lambda: weight.abs().sqrt().sum(), [weight])


def bits(tensors) -> list[list[int]]:
    views = {
        torch.float16: torch.int16,
        torch.bfloat16: torch.int16,
        torch.float32: torch.int32,
        DOUBLE: torch.int64,
    }
    return [tensor.detach().contiguous().view(views[tensor.dtype]).reshape(-1).tolist() for tensor in tensors]


def test_dtypes_may_be_mixed() -> None:
    narrow, wide = leaf(3.0, dtype=torch.float32), leaf(4.0)
    found = sam_sharpness(
        lambda: narrow.double().square().sum() + wide.square().sum(), [narrow, wide], rho=0.5
    )
    assert found == pytest.approx(5.5**2 - 5**2, rel=1e-6)


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, DOUBLE])
def test_sharpness_puts_every_bit_back(dtype: torch.dtype, fails: bool) -> None:
    weight = leaf(-0.0, 1e-3, 1.1, 3.0, dtype=dtype)
    other = torch.ones(3, 2, dtype=dtype).T.requires_grad_()
    before, calls = bits([weight, other]), []

    def loss():
        calls.append(bits([weight, other]))
        if fails and len(calls) == 3:
            raise KeyboardInterrupt
        return (weight.sum() * other.sum()).square()

    if fails:
        with pytest.raises(KeyboardInterrupt):
            sam_sharpness(loss, [weight, other], rho=0.5)
    else:
        sam_sharpness(loss, [weight, other], rho=0.5)
    assert calls[0] == calls[1] == before
    assert len(calls) == 3
    assert calls[2] != before
    assert bits([weight, other]) == before


# ---------------------------------------------------------------- all of them

MEASURES = {
    "product": lambda loss, params: hessian_vector_product(
        loss, params, [torch.ones_like(p) for p in params]
    ),
    "eigenvalues": top_eigenvalues,
    "trace": lambda loss, params: hessian_trace(loss, params, num_samples=2, generator=seeded(0)),
    "density": lambda loss, params: spectral_density(
        loss, params, num_samples=1, steps=2, generator=seeded(0)
    ),
    "sharpness": sam_sharpness,
}
each_measure = pytest.mark.parametrize("measure", MEASURES.values(), ids=MEASURES)


@each_measure
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_nothing_is_left_behind_and_gradients_may_be_off(measure, mode) -> None:
    weight, frozen = leaf(1.0, 2.0), leaf(3.0, 4.0)
    weight.grad = torch.full_like(weight, 7.0)
    before = bits([weight, frozen])

    def loss():
        assert torch.is_grad_enabled()
        return (weight.square() * frozen).sum()

    with mode():
        measure(loss, [weight])
        assert not torch.is_grad_enabled()
    assert weight.grad.tolist() == [7, 7]
    assert frozen.grad is None
    assert bits([weight, frozen]) == before


@pytest.mark.parametrize("measure", [m for n, m in MEASURES.items() if n != "product"])
@pytest.mark.parametrize("source", ["dropout", "augmentation", "small"])
def test_a_loss_that_changes_is_refused(measure, source: str) -> None:
    weight, calls = torch.ones(50, dtype=DOUBLE, requires_grad=True), []

    def loss():
        calls.append(1)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(len(calls))
            if source == "dropout":
                return functional.dropout(weight, 0.5).square().sum()
            if source == "augmentation":
                return (weight * torch.randn(50)).square().sum()
        return weight.square().sum() * (1 + 1e-5 * len(calls))

    with pytest.raises(
        ValueError, match=r"same value on each pass, got .* evaluation mode .*dropout.*batch norm.*aug"
    ):
        measure(loss, [weight])


def test_rounding_on_a_device_is_no_change() -> None:
    weight, calls = leaf(1.0), []

    def loss():
        calls.append(1)
        return weight.square().sum() * (1 + 1e-7 * len(calls))

    assert sam_sharpness(loss, [weight], rho=1.0) == pytest.approx(3, rel=1e-5)


@each_measure
def test_what_is_no_list_of_parameters_is_refused(measure) -> None:
    weight = leaf(1.0, 2.0)
    frozen = torch.ones(2, dtype=DOUBLE)
    for params, message in (
        ([], "at least one tensor"),
        ((weight for _ in range(1)), "list of at least one tensor, got generator"),
        ([weight, frozen], r"params\[1\] must require a gradient"),
        ([weight, weight], r"\[0\] and \[1\] are the same"),
        (
            [torch.ones(2, dtype=torch.complex64, requires_grad=True)],
            "real floating point, got torch.complex64",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            measure(
                lambda: weight.square().sum(), list(params) if message == "at least one tensor" else params
            )


@each_measure
def test_what_is_no_loss_is_refused(measure) -> None:
    weight = leaf(1.0, 2.0)
    for loss, message in (
        (lambda: weight.square(), r"one real number, got shape \[2\]"),
        (lambda: "no number", "one real number, got str"),
        (lambda: weight.detach().sum(), "graph"),
        (lambda: 3.0, "graph"),
    ):
        with pytest.raises(ValueError, match=message):
            measure(loss, [weight])


@pytest.mark.parametrize("measure", [m for n, m in MEASURES.items() if n != "product"])
def test_a_loss_that_is_not_finite_is_refused(measure) -> None:
    weight = leaf(-1.0, 2.0)
    with pytest.raises(ValueError, match="finite at the given parameters, got nan"):
        measure(lambda: weight.log().sum(), [weight])


@pytest.mark.parametrize("name", ["eigenvalues", "trace", "density"])
@pytest.mark.parametrize("n", [2, 100])
def test_a_second_derivative_that_is_not_finite_is_refused(name: str, n: int) -> None:
    weight = torch.zeros(n, dtype=DOUBLE, requires_grad=True)
    with pytest.raises(ValueError, match="finite second derivative"):
        MEASURES[name](lambda: weight.abs().pow(1.5).sum(), [weight])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda f, p: top_eigenvalues(f, p, 0), "k must be an integer >= 1, got 0"),
        (lambda f, p: top_eigenvalues(f, p, 3), "number of single parameters, 2, got 3"),
        (lambda f, p: top_eigenvalues(f, p, tolerance=0.0), "tolerance must be"),
        (lambda f, p: top_eigenvalues(f, p, max_iterations=0), "max_iterations must be"),
        (lambda f, p: hessian_trace(f, p, num_samples=1, generator=seeded(0)), "num_samples must be .*>= 2"),
        (lambda f, p: hessian_trace(f, p, num_samples=2.5, generator=seeded(0)), "num_samples must be"),
        (lambda f, p: hessian_vector_product(f, p, []), r"vectors must be a list of 1 tensors.*got 0"),
        (lambda f, p: hessian_vector_product(f, p, [torch.ones(1)]), r"vectors\[0\] .*\[2\], got \[1\]"),
        (lambda f, p: hessian_vector_product(f, p, [2.0]), r"vectors\[0\] must be a tensor, got float"),
        (lambda f, p: sam_sharpness(f, p, rho=0.0), "rho must be a finite number > 0, got 0.0"),
        (lambda f, p: density(f, p, num_samples=0), "num_samples must be"),
        (lambda f, p: density(f, p, steps=0), "steps must be"),
        (lambda f, p: density(f, p, width=-1.0), "width must be"),
        (lambda f, p: density(f, p, points=1), "points must be an integer >= 2, got 1"),
        (lambda f, p: density(f, p, width=1e-6), r"points must be at least \d+ for width=1e-06"),
        (lambda f, p: density(f, p, points=20), r"points must be at least \d+ for width=0.02"),
    ],
)
def test_what_is_out_of_range_is_refused(call, message: str) -> None:
    loss, params = diagonal([1.0, 3.0])
    with pytest.raises(ValueError, match=message):
        call(loss, params)


def density(loss, params, **options):
    return spectral_density(loss, params, **{"num_samples": 1, "steps": 2, "generator": seeded(0), **options})


def test_a_convolutional_net_in_float32_agrees_with_float64() -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = nn.Sequential(
            nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(),
            nn.Conv2d(4, 8, 3, stride=2), nn.BatchNorm2d(8), nn.ReLU(),
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5),
        )  # fmt: skip
        images, labels = torch.randn(32, 1, 8, 8), torch.randint(5, (32,))
        net(images)
    net.eval()
    statistics = [buffer.clone() for buffer in net.buffers()]
    rows = []
    for dtype in (torch.float32, DOUBLE):
        net.to(dtype)
        params = list(net.parameters())

        def loss(dtype=dtype):
            return functional.cross_entropy(net(images.to(dtype)), labels)

        found = spectral_density(loss, params, num_samples=2, steps=8, generator=seeded(0))
        rows.append(
            [
                *top_eigenvalues(loss, params, 3).tolist(),
                *hessian_trace(loss, params, num_samples=4, generator=seeded(0)),
                sam_sharpness(loss, params),
                sam_sharpness(loss, params, adaptive=True),
                float(found.nodes.max()),
                float((found.weights * found.nodes).sum()),
            ]
        )
    assert all(map(math.isfinite, rows[0]))
    assert rows[0] == pytest.approx(rows[1], rel=2e-3)
    assert all(torch.equal(a.double(), b.double()) for a, b in zip(statistics, net.buffers(), strict=True))


def test_the_casts_of_autocast_follow_the_parameters() -> None:
    weight, image = torch.ones(4, 4, requires_grad=True), torch.ones(4, 4)

    def loss():
        return (image @ weight).float().mean()

    with torch.autocast("cpu", torch.bfloat16):
        assert sam_sharpness(loss, [weight], rho=1.0) == pytest.approx(1, rel=0.02)
