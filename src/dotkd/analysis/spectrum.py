"""What random vectors say about all eigenvalues of a Hessian: their sum and their density."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from dotkd.analysis.hessian import Hessian
from dotkd.losses._checks import check_count, check_positive

# The default width of a bump, as a share of the spread of the eigenvalues.
_WIDTH = 0.01
# The grid goes this many widths beyond the outermost nodes: 6e-7 of a bump's mass is left outside.
_MARGIN = 5


class TraceEstimate(NamedTuple):
    """A trace, and how far off the estimate may be.

    Attributes:
        trace: Mean over the samples.
        standard_error: Their standard deviation (n - 1 in the denominator) over the root of their number.

    Example:
        >>> trace, standard_error = TraceEstimate(trace=5.0, standard_error=0.1)
        >>> trace
        5.0
    """

    trace: float
    standard_error: float


class SpectralDensity(NamedTuple):
    """How the eigenvalues of a Hessian are spread; all tensors are float64 and on the CPU.

    Attributes:
        grid: ``[points]``, equally spaced values, rising.
        density: ``[points]``, the density there; its integral is 1.
        nodes: ``[m]``, the points of the quadrature behind it, at most num_samples * steps.
        weights: ``[m]``, their weights, >= 0 and with sum 1: for a function f the sum of weights * f(nodes)
            estimates the mean of f over the eigenvalues, so with f(x) = x**2 that of their squares.

    Example:
        >>> one = torch.ones(1, dtype=torch.float64)
        >>> SpectralDensity(grid=one, density=one, nodes=2 * one, weights=one).nodes
        tensor([2.], dtype=torch.float64)
    """

    grid: Tensor
    density: Tensor
    nodes: Tensor
    weights: Tensor


def hessian_trace(
    loss: Callable[[], Tensor], params: Sequence[Tensor], *, num_samples: int, generator: torch.Generator
) -> TraceEstimate:
    r"""Estimate the trace of the Hessian, the sum of its eigenvalues, from products with random signs.

    .. math::
        \operatorname{tr} H \approx \frac1N \sum_{i=1}^{N} z_i^\top H z_i,
        \qquad z_{ij} = \pm 1 \text{ with equal probability}

    with H the Hessian of ``loss`` by all ``params`` together and N ``num_samples``. Each term is right on
    average; its variance is :math:`2 \sum_{i \neq j} H_{ij}^2`, so a diagonal Hessian has none.

    Args:
        loss: Returns a scalar that depends on the parameters, the same at each call; evaluated twice.
        params: The tensors to differentiate by, real floating point, of any shapes, dtypes and devices.
        num_samples: How many random vectors, at least 2.
        generator: Where the signs come from; moves on.

    Returns:
        Mean and standard error; a pair that can be unpacked.

    Raises:
        ValueError: If num_samples is below 2, the lists do not fit, the loss has no graph, is not finite or
            differs between two passes, or a product is not finite.

    Example:
        >>> weight = torch.tensor([1.0, 1.0, 1.0], requires_grad=True)
        >>> curvature = torch.tensor([2.0, -5.0, 1.0])
        >>> generator = torch.Generator().manual_seed(0)
        >>> def loss():
        ...     return (curvature * weight**2).sum() / 2
        >>> hessian_trace(loss, [weight], num_samples=4, generator=generator)
        TraceEstimate(trace=-2.0, standard_error=0.0)

    Reference:
        Hutchinson, "A Stochastic Estimator of the Trace of the Influence Matrix for Laplacian Smoothing
        Splines", Communications in Statistics 18(3), 1989. The variance: Avron and Toledo, "Randomized
        Algorithms for Estimating the Trace of an Implicit Symmetric Positive Semi-Definite Matrix", Journal
        of the ACM 58(2), 2011.
    """
    check_count("num_samples", num_samples)
    if num_samples < 2:
        raise ValueError(
            f"num_samples must be an integer >= 2, without which there is no error, got {num_samples}"
        )
    hessian = Hessian(loss, params)
    samples = []
    for _ in range(num_samples):
        signs = _signs(hessian, generator)
        samples.append(torch.dot(signs, hessian @ signs))
    terms = torch.stack(samples)
    return TraceEstimate(float(terms.mean()), float(terms.std()) / num_samples**0.5)


def spectral_density(
    loss: Callable[[], Tensor],
    params: Sequence[Tensor],
    *,
    num_samples: int,
    steps: int,
    generator: torch.Generator,
    width: float | None = None,
    points: int = 1000,
) -> SpectralDensity:
    r"""Estimate the density of the Hessian's eigenvalues by stochastic Lanczos quadrature.

    .. math::
        \phi(t) = \frac1n \sum_{i=1}^{n} g_\sigma(t - \lambda_i)
            \approx \frac1N \sum_{s=1}^{N} \sum_{j=1}^{m} \omega_{sj} \, g_\sigma(t - \theta_{sj}),
        \qquad g_\sigma(x) = \frac{e^{-x^2 / 2 \sigma^2}}{\sigma \sqrt{2 \pi}}

    with :math:`\lambda_i` the n eigenvalues of the Hessian of ``loss`` by all ``params``, N ``num_samples``,
    m ``steps`` and :math:`\sigma` the ``width``. Run s starts from a random vector of signs; m steps of the
    Lanczos method, each orthogonalised against all before, give a tridiagonal matrix, whose eigenvalues are
    the nodes :math:`\theta_{sj}` and whose eigenvectors have the squares :math:`\omega_{sj}` of their first
    components. A run is exact for polynomials up to degree 2 m - 1 of its own random vector. Outermost
    nodes are near eigenvalues after few steps; a single small eigenvalue in a crowd is not resolved.

    Memory: the graph of the gradient, and ``steps`` vectors of n float64 numbers on the parameters' device.

    Args:
        loss: Returns a scalar that depends on the parameters, the same at each call; evaluated twice.
        params: The tensors to differentiate by, real floating point, of any shapes, dtypes and devices.
        num_samples: How many runs, at least 1.
        steps: How many products in a run, at least 1; more than n or than H has different eigenvalues are
            not made.
        generator: Where the random signs come from; moves on.
        width: Standard deviation of the bumps, in the unit of the eigenvalues; None is 1 % of the spread of
            the nodes.
        points: How many points the grid has, at least 2 and no further apart than the width.

    Returns:
        Grid and density, with the nodes and weights that they were made from.

    Raises:
        ValueError: If an argument is out of range, the grid is too coarse for the width, the lists do not
            fit, the loss has no graph, is not finite or differs between two passes, or a product is not
            finite.

    Example:
        >>> weight = torch.ones(2, requires_grad=True)
        >>> curvature = torch.tensor([1.0, 3.0])
        >>> found = spectral_density(
        ...     lambda: (curvature * weight**2).sum() / 2, [weight],
        ...     num_samples=1, steps=2, generator=torch.Generator().manual_seed(0),
        ... )
        >>> found.nodes.round(decimals=6), found.weights.round(decimals=6)
        (tensor([1., 3.], dtype=torch.float64), tensor([0.5000, 0.5000], dtype=torch.float64))

    Reference:
        Ubaru, Chen and Saad, "Fast Estimation of tr(f(A)) via Stochastic Lanczos Quadrature", SIAM Journal on
        Matrix Analysis and Applications 38(4), 2017; for networks: Ghorbani, Krishnan and Xiao, "An
        Investigation into Neural Net Optimization via Hessian Eigenvalue Density", ICML 2019,
        arXiv 1901.10159 (there from Gaussian vectors).
    """
    check_count("num_samples", num_samples)
    check_count("steps", steps)
    check_count("points", points)
    if points < 2:
        raise ValueError(f"points must be an integer >= 2, got {points}")
    if width is not None:
        check_positive("width", width)
    hessian = Hessian(loss, params)
    runs = [_quadrature(hessian, _signs(hessian, generator), steps) for _ in range(num_samples)]
    nodes = torch.cat([values for values, _ in runs])
    weights = torch.cat([shares for _, shares in runs]) / num_samples
    if width is None:
        spread, largest = float(nodes.max() - nodes.min()), float(nodes.abs().max())
        # Where all are equal but for rounding, the bump must still be wider than the rounding.
        width = _WIDTH * (max(spread, 1e-6 * largest) or 1.0)
    return SpectralDensity(*_smoothed(nodes, weights, width, points), nodes, weights)


# A vector of random signs [n]; the same ones for each device and dtype of the parameters.
def _signs(hessian: Hessian, generator: torch.Generator) -> Tensor:
    drawn = torch.empty(hessian.size, device=generator.device).bernoulli_(0.5, generator=generator)
    return drawn.to(hessian.device, torch.float64).mul_(2).sub_(1)


# Nodes and weights for one random vector [n], on the CPU.
def _quadrature(hessian: Hessian, start: Tensor, steps: int) -> tuple[Tensor, Tensor]:
    diagonal, beside = _lanczos(hessian, start, min(steps, hessian.size))
    tridiagonal = torch.diag(diagonal) + torch.diag(beside, 1) + torch.diag(beside, -1)
    nodes, vectors = torch.linalg.eigh(tridiagonal)
    return nodes, vectors[0].square()


# The diagonal [m] and the entries beside it [m - 1] of the Hessian in the basis that starts with a vector.
def _lanczos(hessian: Hessian, start: Tensor, steps: int) -> tuple[Tensor, Tensor]:
    basis = start.new_empty(steps, len(start))
    basis[0] = start / start.norm()
    diagonal: list[float] = []
    beside: list[float] = []
    largest = 0.0
    for step in range(steps):
        product = hessian @ basis[step]
        diagonal.append(float(torch.dot(product, basis[step])))
        so_far = basis[: step + 1]
        for _ in range(2):  # the second time takes away what rounding left
            product = product - so_far.T @ (so_far @ product)
        rest = float(product.norm())
        largest = max(largest, abs(diagonal[-1]), rest)
        # The basis spans all that the Hessian reaches from the start.
        if step + 1 == steps or rest <= 10 * torch.finfo(torch.float64).eps * largest:
            break
        beside.append(rest)
        basis[step + 1] = product / rest
    return torch.tensor(diagonal, dtype=torch.float64), torch.tensor(beside, dtype=torch.float64)


# The sum of Gaussian bumps: the grid and the density on it.
def _smoothed(nodes: Tensor, weights: Tensor, width: float, points: int) -> tuple[Tensor, Tensor]:
    low, high = float(nodes.min()) - _MARGIN * width, float(nodes.max()) + _MARGIN * width
    needed = int((high - low) / width) + 2
    if points < needed:
        raise ValueError(
            f"points must be at least {needed} for width={width:g}, or the grid misses bumps, got {points}"
        )
    grid = torch.linspace(low, high, points, dtype=torch.float64)
    bumps = torch.exp(-((grid[:, None] - nodes) / width).square() / 2) / (width * (2 * torch.pi) ** 0.5)
    return grid, bumps @ weights
