"""Curvature against the explicit Hessian of a small net and known losses; SAM sharpness; input checks."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.func import functional_call
from torch.nn import functional

from dotkd.analysis import (
    filter_norms,
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


def quadratic(matrix: torch.Tensor):
    """A quadratic with this Hessian, over parameters of two shapes."""
    n = len(matrix)
    first, rest = torch.ones(2, 1, dtype=DOUBLE, requires_grad=True), torch.ones(n - 2, dtype=DOUBLE)
    params = [first, rest.requires_grad_()]

    def loss():
        flat = torch.cat([param.reshape(-1) for param in params])
        return flat @ matrix @ flat / 2

    return loss, params


def symmetric(n: int, seed: int) -> torch.Tensor:
    matrix = torch.randn(n, n, dtype=DOUBLE, generator=seeded(seed))
    return matrix + matrix.T


@pytest.fixture(scope="module")
def net():
    """Loss, parameters and explicit Hessian [99, 99] of a net that is at no minimum."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = nn.Sequential(
            nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 4), nn.Tanh(), nn.Linear(4, 3)
        ).double()
        images, labels = torch.randn(12, 6, dtype=DOUBLE), torch.randint(3, (12,))
    params = dict(module.named_parameters())

    def of_flat(flat: torch.Tensor) -> torch.Tensor:
        parts = flat.split([param.numel() for param in params.values()])
        given = {name: part.view_as(params[name]) for name, part in zip(params, parts, strict=True)}
        return functional.cross_entropy(functional_call(module, given, (images,)), labels)

    flat = torch.cat([param.detach().reshape(-1) for param in params.values()])
    matrix = torch.autograd.functional.hessian(of_flat, flat)
    return lambda: functional.cross_entropy(module(images), labels), list(params.values()), matrix


# ---------------------------------------------------------------- products


def test_products_are_those_of_the_explicit_hessian(net) -> None:
    loss, params, matrix = net
    for seed in range(3):
        vectors = [torch.randn(param.shape, dtype=DOUBLE, generator=seeded(seed)) for param in params]
        found = hessian_vector_product(loss, params, vectors)
        assert [part.shape for part in found] == [param.shape for param in params]
        assert not any(part.requires_grad for part in found)
        flat, expected = (torch.cat([part.reshape(-1) for part in parts]) for parts in (found, vectors))
        torch.testing.assert_close(flat, matrix @ expected, rtol=1e-12, atol=1e-14)


@given(st.integers(3, 12), st.integers(0, 2**32 - 1))
@settings(max_examples=25, deadline=None)
def test_products_of_a_quadratic(n: int, seed: int) -> None:
    matrix = symmetric(n, seed)
    loss, params = quadratic(matrix)
    vector = torch.randn(n, dtype=DOUBLE, generator=seeded(seed))
    found = hessian_vector_product(loss, params, [vector[:2].view(2, 1), vector[2:]])
    torch.testing.assert_close(torch.cat([part.reshape(-1) for part in found]), matrix @ vector)


def test_a_product_is_linear_and_symmetric(net) -> None:
    loss, params, _ = net
    u, v = ([torch.randn(p.shape, dtype=DOUBLE, generator=seeded(seed)) for p in params] for seed in (1, 2))
    h_u, h_v = (hessian_vector_product(loss, params, vector) for vector in (u, v))
    both = hessian_vector_product(loss, params, [2 * a - b for a, b in zip(u, v, strict=True)])
    for a, b, sum_ in zip(h_u, h_v, both, strict=True):
        torch.testing.assert_close(sum_, 2 * a - b)
    products = [sum((a * b).sum() for a, b in zip(*pair, strict=True)) for pair in ((u, h_v), (v, h_u))]
    torch.testing.assert_close(*products)


def test_parameters_that_do_not_matter_count_as_zero() -> None:
    used, linear, unused = leaf(1.0, 2.0), leaf(3.0), leaf(4.0)
    params = [unused, used, linear]
    ones = [torch.ones_like(param) for param in params]
    found = hessian_vector_product(lambda: used.pow(3).sum() + 5 * linear.sum(), params, ones)
    assert [part.tolist() for part in found] == [[0], [6, 12], [0]]
    only_linear = hessian_vector_product(lambda: linear.sum(), [linear, unused], [ones[2], ones[0]])
    assert [part.tolist() for part in only_linear] == [[0], [0]]
    assert top_eigenvalues(lambda: used.pow(3).sum() + linear.sum(), params, 4).tolist() == [12, 6, 0, 0]


def test_a_weight_that_is_used_twice_is_one_parameter() -> None:
    shared = torch.tensor([[2.0]], dtype=DOUBLE, requires_grad=True)
    twice = nn.Sequential(nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False)).double()
    twice[0].weight = twice[1].weight = nn.Parameter(shared)
    params = list(twice.parameters())
    assert len(params) == 1
    assert top_eigenvalues(lambda: twice(torch.ones(1, 1, dtype=DOUBLE)).sum(), params).tolist() == [2]


def test_dtypes_may_be_mixed() -> None:
    narrow, wide = leaf(1.0, 2.0, dtype=torch.float32), leaf(3.0)

    def loss():
        return narrow.double().square().sum() * wide.sum()

    ones = [torch.ones(2, dtype=DOUBLE), torch.ones(1, dtype=torch.float32)]
    found = hessian_vector_product(loss, [narrow, wide], ones)
    assert [part.dtype for part in found] == [torch.float32, DOUBLE]
    assert [part.tolist() for part in found] == [[8, 10], [6]]
    expected = torch.linalg.eigvalsh(torch.tensor([[6.0, 0, 2], [0, 6, 4], [2, 4, 0]], dtype=DOUBLE))
    torch.testing.assert_close(
        top_eigenvalues(loss, [narrow, wide], 3).sort().values, expected, rtol=1e-6, atol=1e-6
    )


def test_attention_has_a_second_derivative() -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        query = torch.randn(1, 2, 5, 8, requires_grad=True)

    def loss():
        return functional.scaled_dot_product_attention(query, query, query).square().sum()

    step = 1e-2 * torch.ones_like(query)
    (found,) = hessian_vector_product(loss, [query], [step])
    gradients = []
    for sign in (1, -1):
        moved = (query.detach() + sign * step / 2).requires_grad_()
        out = functional.scaled_dot_product_attention(moved, moved, moved).square().sum()
        gradients.append(torch.autograd.grad(out, moved)[0])
    torch.testing.assert_close(found, gradients[0] - gradients[1], rtol=1e-2, atol=1e-4)


# ---------------------------------------------------------------- eigenvalues


def by_magnitude(values: torch.Tensor) -> torch.Tensor:
    return values[values.abs().argsort(descending=True)]


@pytest.mark.parametrize("k", [1, 2, 7, 98, 99])
def test_eigenvalues_are_those_of_the_explicit_hessian(net, k: int) -> None:
    loss, params, matrix = net
    found = top_eigenvalues(loss, params, k, tolerance=1e-9)
    assert found.shape == (k,)
    assert found.dtype == DOUBLE
    expected = by_magnitude(torch.linalg.eigvalsh(matrix))[:k]
    assert (expected < 0).any() or k < 7  # signs are at stake
    torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-12)


@given(st.integers(3, 90), st.integers(0, 2**32 - 1), st.data())
@settings(max_examples=25, deadline=None)
def test_eigenvalues_of_a_quadratic(n: int, seed: int, data) -> None:
    """Below and above the size up to which the matrix is made."""
    k = data.draw(st.integers(1, min(n, 5)))
    matrix = symmetric(n, seed)
    loss, params = quadratic(matrix)
    found = top_eigenvalues(loss, params, k)
    expected = by_magnitude(torch.linalg.eigvalsh(matrix))[:k]
    torch.testing.assert_close(found.abs(), expected.abs(), rtol=1e-6, atol=1e-8)
    assert found.abs().diff().le(1e-9).all()


def in_halves(net):
    """The loss of the net as a sum of two losses that are not alike."""
    loss, params, _ = net
    return [
        lambda: loss() * 0.25 + params[0].square().sum(),
        lambda: loss() * 0.75 - params[0].square().sum(),
    ]


@pytest.mark.parametrize("k", [1, 3])
def test_a_scale_measures_in_other_units(net, k: int) -> None:
    loss, params, matrix = net
    norms = filter_norms(params)
    for param, norm in zip(params, norms, strict=True):
        rows = param.detach().flatten(1).norm(dim=1) if param.ndim > 1 else torch.zeros(len(param))
        torch.testing.assert_close(
            norm, rows.to(param.dtype).view(-1, *[1] * (param.ndim - 1)).expand_as(param)
        )
    unit = torch.cat([norm.reshape(-1) for norm in norms]).double()
    expected = unit[:, None] * matrix * unit
    values = torch.linalg.eigvalsh(expected)
    largest = values[values.abs().argsort(descending=True)][:k]
    torch.testing.assert_close(top_eigenvalues(loss, params, k, scale=norms), largest, rtol=1e-6, atol=1e-9)
    found = hessian_trace(loss, params, num_samples=100, generator=seeded(0), scale=norms)
    assert abs(found.trace - expected.trace()) < 4 * found.standard_error


def test_filter_normalised_curvature_knows_no_scale_before_batch_norm() -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = nn.Sequential(nn.Conv2d(2, 3, 3, bias=False), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten())
        net.append(nn.Linear(3 * 16, 4)).double()
        images, labels = torch.randn(20, 2, 6, 6, dtype=DOUBLE), torch.randint(0, 4, (20,))
    net.train()(images)
    net.eval()
    params, raw, normalized, values = list(net.parameters()), [], [], []
    for factor in (1.0, 5.0):
        with torch.no_grad():
            net[0].weight *= factor
            net[1].running_mean *= factor
            net[1].running_var *= factor**2
            net[1].eps *= factor**2

        def loss():
            return functional.cross_entropy(net(images), labels)

        values.append(loss().item())
        raw.append(top_eigenvalues(loss, [net[0].weight]).item())
        normalized.append(top_eigenvalues(loss, params, scale=filter_norms(params)).item())
    assert values[0] == pytest.approx(values[1], rel=1e-12)
    assert raw[0] == pytest.approx(25 * raw[1], rel=1e-6)
    assert normalized[0] == pytest.approx(normalized[1], rel=1e-6)


def test_several_losses_are_their_sum(net) -> None:
    loss, params, matrix = net
    parts = in_halves(net)
    torch.testing.assert_close(top_eigenvalues(parts, params, 2), top_eigenvalues(loss, params, 2))
    found = hessian_trace(parts, params, num_samples=100, generator=seeded(1))
    assert abs(found.trace - matrix.trace()) < 4 * found.standard_error
    density = spectral_density(parts, params, num_samples=1, steps=40, generator=seeded(2))
    assert density.nodes.max() == pytest.approx(torch.linalg.eigvalsh(matrix).max().item(), rel=1e-6)


def test_a_sum_of_equal_losses_has_a_smaller_error() -> None:
    matrix = symmetric(30, 3)
    loss, params = quadratic(matrix)

    def error(n: int) -> float:
        losses = [lambda: loss() / n] * n
        return hessian_trace(losses, params, num_samples=100, generator=seeded(4)).standard_error

    assert error(16) == pytest.approx(error(1) / 4, rel=0.3)


@pytest.mark.parametrize("n", [4, 200])
def test_a_saddle_keeps_its_signs(n: int) -> None:
    loss, params = diagonal([1.0, -7.0, 3.0, -2.0] + [0.0] * (n - 4))
    torch.testing.assert_close(
        top_eigenvalues(loss, params, 4),
        torch.tensor([-7.0, 3.0, -2.0, 1.0], dtype=DOUBLE),
        rtol=1e-9,
        atol=1e-9,
    )


@pytest.mark.parametrize("n", [5, 300])
@pytest.mark.parametrize("dtype", [torch.float32, DOUBLE])
def test_degenerate_spectra(n: int, dtype: torch.dtype) -> None:
    loss, params = diagonal([2.5] * n, dtype)
    torch.testing.assert_close(top_eigenvalues(loss, params, 3), torch.full((3,), 2.5, dtype=DOUBLE))
    loss, params = diagonal([4.0] + [0.0] * (n - 1), dtype)
    torch.testing.assert_close(top_eigenvalues(loss, params, 3), torch.tensor([4.0, 0, 0], dtype=DOUBLE))
    assert top_eigenvalues(lambda: params[0].sum(), params, 3).tolist() == [0, 0, 0]
    assert top_eigenvalues(lambda: 0 * params[0].square().sum(), params, 3).tolist() == [0, 0, 0]


def test_many_parameters_need_no_matrix() -> None:
    n = 300_000  # whose matrix would take 720 GB
    loss, params = diagonal(torch.cat([torch.tensor([9.0, -8.0]), torch.linspace(-1, 1, n - 2)]))
    torch.testing.assert_close(top_eigenvalues(loss, params, 2), torch.tensor([9.0, -8.0], dtype=DOUBLE))


def test_a_second_call_gives_the_same_bits_and_moves_no_random_stream(net) -> None:
    loss, params, _ = net
    before = torch.random.get_rng_state()
    assert torch.equal(top_eigenvalues(loss, params, 3), top_eigenvalues(loss, params, 3))
    assert torch.equal(torch.random.get_rng_state(), before)


def test_what_does_not_converge_is_said() -> None:
    loss, params = diagonal(torch.linspace(1, 1.001, 2000))
    with pytest.raises(
        RuntimeError, match=r"of k=3 eigenvalues converged to tolerance=1e-12 .*max_iterations=2"
    ):
        top_eigenvalues(loss, params, 3, tolerance=1e-12, max_iterations=2)


# ---------------------------------------------------------------- trace


def test_trace_is_within_its_error(net) -> None:
    loss, params, matrix = net
    exact = float(matrix.trace())
    deviations = []
    for seed in range(40):
        trace, error = hessian_trace(loss, params, num_samples=25, generator=seeded(seed))
        assert 0 < error < abs(exact)
        deviations.append((trace - exact) / error)
    assert max(map(abs, deviations)) < 4
    # Neither biased, nor more or less certain than it says: of 40 normal numbers the mean is below
    # 4 / sqrt(40), and 27.5 +- 2.9 are within one error.
    assert abs(sum(deviations) / 40) < 4 / math.sqrt(40)
    assert 16 <= sum(abs(deviation) < 1 for deviation in deviations) <= 39


def test_standard_error_is_the_theoretical_one(net) -> None:
    loss, params, matrix = net
    variance = 2 * (matrix.square().sum() - matrix.diagonal().square().sum())
    for num_samples in (100, 400):
        _, error = hessian_trace(loss, params, num_samples=num_samples, generator=seeded(0))
        assert error == pytest.approx(float(variance / num_samples) ** 0.5, rel=0.2)


@pytest.mark.parametrize("curvatures", [[2.0, 3.0, 4.0], [0.0, 0.0], [-1.0] * 500])
def test_trace_of_a_diagonal_hessian_is_exact(curvatures) -> None:
    loss, params = diagonal(curvatures)
    found = hessian_trace(loss, params, num_samples=5, generator=seeded(0))
    assert found == pytest.approx((sum(curvatures), 0), abs=1e-9)


def test_the_generator_decides(net) -> None:
    loss, params, _ = net
    one, again, other = (
        hessian_trace(loss, params, num_samples=3, generator=seeded(seed)) for seed in (1, 1, 2)
    )
    assert one == again
    assert one.trace != other.trace
    generator = seeded(1)
    assert hessian_trace(loss, params, num_samples=3, generator=generator) == one
    assert hessian_trace(loss, params, num_samples=3, generator=generator) != one


# ---------------------------------------------------------------- density


def test_all_steps_give_the_explicit_spectrum() -> None:
    n, seed = 9, 3
    matrix = symmetric(n, seed)
    loss, params = quadratic(matrix)
    found = spectral_density(loss, params, num_samples=1, steps=n, generator=seeded(7))
    signs = torch.empty(n).bernoulli_(0.5, generator=seeded(7)).double() * 2 - 1
    values, vectors = torch.linalg.eigh(matrix)
    torch.testing.assert_close(found.nodes, values)
    torch.testing.assert_close(found.weights, (vectors.T @ signs / n**0.5).square())


@pytest.mark.parametrize("steps", [1, 3, 6])
def test_moments_are_exact_up_to_twice_the_steps(net, steps: int) -> None:
    loss, params, matrix = net
    found = spectral_density(loss, params, num_samples=2, steps=steps, generator=seeded(0))
    generator, n = seeded(0), len(matrix)
    starts = [torch.empty(n).bernoulli_(0.5, generator=generator).double() * 2 - 1 for _ in range(2)]
    for power in range(2 * steps):
        expected = sum(start @ torch.linalg.matrix_power(matrix, power) @ start for start in starts) / (2 * n)
        assert float((found.weights * found.nodes**power).sum()) == pytest.approx(float(expected), rel=1e-9)


def test_many_runs_give_the_moments_and_the_density_of_the_explicit_spectrum(net) -> None:
    loss, params, matrix = net
    n = len(matrix)
    found = spectral_density(loss, params, num_samples=30, steps=16, generator=seeded(0), width=0.05)
    values = torch.linalg.eigvalsh(matrix)
    for power in (1, 2, 3):
        exact = matrix.matrix_power(power)
        spread = 2 * (exact.square().sum() - exact.diagonal().square().sum())
        error = float(spread / 30) ** 0.5 / n
        assert float((found.weights * found.nodes**power).sum()) == pytest.approx(
            float(values.pow(power).mean()), abs=4 * error
        )
    bumps = torch.distributions.Normal(values, torch.tensor(0.05, dtype=DOUBLE))
    exact = bumps.log_prob(found.grid[:, None]).exp().mean(dim=1)
    # Total variation: half the integral of the difference.
    assert float(torch.trapezoid((found.density - exact).abs(), found.grid)) / 2 < 0.05


def test_density_is_a_density(net) -> None:
    loss, params, _ = net
    found = spectral_density(loss, params, num_samples=3, steps=10, generator=seeded(0), points=500)
    assert found.grid.shape == found.density.shape == (500,)
    assert found.nodes.shape == found.weights.shape == (30,)
    assert {part.dtype for part in found} == {DOUBLE}
    assert (found.grid.diff() > 0).all()
    assert (found.density >= 0).all()
    assert (found.weights >= 0).all()
    assert float(found.weights.sum()) == pytest.approx(1, abs=1e-12)
    assert float(torch.trapezoid(found.density, found.grid)) == pytest.approx(1, abs=1e-5)
    again = spectral_density(loss, params, num_samples=3, steps=10, generator=seeded(0), points=500)
    assert all(torch.equal(a, b) for a, b in zip(found, again, strict=True))


@pytest.mark.parametrize("dtype", [torch.float32, DOUBLE])
@pytest.mark.parametrize("value", [0.0, 2.5, 1 / 3, -1e-6])
def test_one_repeated_eigenvalue_ends_the_run(value: float, dtype: torch.dtype) -> None:
    loss, params = diagonal([value] * 97, dtype)
    found = spectral_density(loss, params, num_samples=2, steps=30, generator=seeded(0))
    near = (found.nodes - value).abs() <= 1e-6 * abs(value)
    assert float(found.weights[near].sum()) == pytest.approx(1)
    assert float(torch.trapezoid(found.density, found.grid)) == pytest.approx(1, abs=1e-5)


def test_eigenvalues_that_differ_by_rounding_are_one_bump() -> None:
    turned, _ = torch.linalg.qr(symmetric(20, 0))
    loss, params = quadratic(0.3 * turned @ turned.T)
    found = spectral_density(loss, params, num_samples=5, steps=10, generator=seeded(0))
    assert 0 < float(found.nodes.max() - found.nodes.min()) < 1e-12
    assert float(torch.trapezoid(found.density, found.grid)) == pytest.approx(1, abs=1e-5)
    assert float(found.grid[found.density.argmax()]) == pytest.approx(0.3)


def test_long_runs_make_no_copies_of_an_eigenvalue() -> None:
    """Without orthogonalisation against all before, the outer eigenvalue would come many times."""
    loss, params = diagonal(torch.cat([torch.tensor([100.0]), torch.linspace(0, 1, 199)]))
    found = spectral_density(loss, params, num_samples=1, steps=120, generator=seeded(0))
    assert int((found.nodes > 2).sum()) == 1
    assert float(found.weights[-1]) == pytest.approx(1 / 200)


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


def test_sharpness_with_mixed_dtypes() -> None:
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


# ---------------------------------------------------------------- checks of all measurements

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


def test_the_casts_of_autocast_follow_the_step() -> None:
    weight, image = torch.ones(4, 4, requires_grad=True), torch.ones(4, 4)

    def loss():
        return (image @ weight).float().mean()

    with torch.autocast("cpu", torch.bfloat16):
        assert sam_sharpness(loss, [weight], rho=1.0) == pytest.approx(1, rel=0.02)
