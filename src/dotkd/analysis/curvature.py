"""Hessian products, eigenvalues, trace and spectrum; SAM sharpness."""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from dotkd._validate import check_count, check_positive
from dotkd.analysis._loss import (
    check_alike,
    check_params,
    checked_scalar,
    first_derivative,
    gradient,
    place,
    restored,
    with_graph,
)

# Up to this many parameters the matrix itself is cheaper than iterations, and exact.
_TINY = 64


def hessian_vector_product(
    loss: Callable[[], Tensor], params: Sequence[Tensor], vectors: Sequence[Tensor]
) -> list[Tensor]:
    r"""Multiply the Hessian of a loss with a vector, without making the Hessian.

    .. math::
        (H v)_i = \sum_j \frac{\partial^2 L}{\partial w_i \, \partial w_j} v_j
                = \frac{\partial}{\partial w_i} \langle \nabla L(w), v \rangle

    with L the ``loss``, w all ``params`` taken together and v the ``vectors``: a derivative of a derivative,
    about as expensive as two gradients. ``.grad`` is not touched. A parameter that the loss does not reach
    counts as zero. Attention is computed by its plain kernel; a compiled network has no second derivative.

    The loss is evaluated once, so random numbers in it are drawn once: the product is that of this draw.

    Args:
        loss: Returns a scalar that depends on the parameters; evaluated with gradients on, even where the
            caller has turned them off.
        params: The tensors to differentiate by, real floating point, of any shapes, dtypes and devices.
        vectors: One tensor for each parameter, of its shape.

    Returns:
        One tensor for each parameter, of its shape, dtype and device, without a graph.

    Raises:
        ValueError: If the lists do not fit, a parameter requires no gradient, or the loss is no scalar with
            a graph.

    Example:
        >>> weight = torch.tensor([1.0, 2.0], requires_grad=True)
        >>> hessian_vector_product(lambda: weight[0] ** 2 * weight[1], [weight], [torch.tensor([1.0, 0.0])])
        [tensor([4., 2.])]

    Reference:
        Pearlmutter, "Fast Exact Multiplication by the Hessian", Neural Computation 6(1), 1994.
    """
    check_params("params", params, differentiable=True)
    check_alike("vectors", vectors, "params", params)
    with with_graph():
        gradients = first_derivative(loss(), params, create_graph=True)
        return _second_derivative(gradients, params, vectors, keep=False)


def top_eigenvalues(
    loss: Callable[[], Tensor],
    params: Sequence[Tensor],
    k: int = 1,
    *,
    tolerance: float = 1e-5,
    max_iterations: int = 300,
) -> Tensor:
    r"""The eigenvalues of the Hessian that are largest in absolute value, with their signs.

    .. math::
        H u_i = \lambda_i u_i, \qquad |\lambda_1| \geq |\lambda_2| \geq \dots \geq |\lambda_k|

    with H the Hessian of ``loss`` by all ``params`` together. At a minimum none is negative, and the
    first is the curvature along the sharpest direction; a negative one belongs to a direction along which
    the loss curves downward. Found by the implicitly restarted Lanczos method from products with H and a
    first vector that is always the same. Up to 64 parameters, or for all n eigenvalues, the matrix is made.

    The products have the precision of the parameters, and eigenvalues near their rounding (of the largest
    one: about 1e-7 in float32) are noise and may not converge. Memory: the graph of the gradient, and
    max(20, 2 k + 1) vectors of n float64 numbers on the CPU.

    Args:
        loss: Returns a scalar that depends on the parameters, the same at each call; evaluated twice.
        params: The tensors to differentiate by, real floating point, of any shapes, dtypes and devices.
        k: How many, from 1 to the number n of single parameters.
        tolerance: How large the residual of an eigenvalue may be, ``|H u - λ u| / |λ|`` with ``|u| = 1``. The
            relative error of the eigenvalue is at most that, and mostly nearer to its square.
        max_iterations: After how many restarts to give up; each takes about 20 products, more for large k.

    Returns:
        ``[k]``, float64, on the CPU.

    Raises:
        ValueError: If an argument is out of range, the lists do not fit, the loss has no graph, is not finite
            or differs between two passes, or a product is not finite.
        RuntimeError: If the eigenvalues did not converge.

    Example:
        >>> weight = torch.tensor([1.0, 1.0, 1.0], requires_grad=True)
        >>> curvature = torch.tensor([2.0, -5.0, 1.0])
        >>> top_eigenvalues(lambda: (curvature * weight**2).sum() / 2, [weight], k=2)
        tensor([-5.,  2.], dtype=torch.float64)

    Reference:
        Lehoucq, Sorensen and Yang, "ARPACK Users' Guide", SIAM 1998.
    """
    check_count("k", k)
    check_positive("tolerance", tolerance)
    check_count("max_iterations", max_iterations)
    hessian = Hessian(loss, params)
    if k > hessian.size:
        raise ValueError(f"k must be at most the number of single parameters, {hessian.size}, got {k}")
    if hessian.size <= _TINY or k == hessian.size:
        values = torch.linalg.eigvalsh(hessian.matrix())
    else:
        values = _lanczos_values(hessian, k, tolerance, max_iterations)
    order = values.abs().argsort(descending=True)
    top: Tensor = values[order[:k]]
    return top


def _lanczos_values(hessian: "Hessian", k: int, tolerance: float, max_iterations: int) -> Tensor:
    from scipy.sparse import linalg  # type: ignore[import-untyped]  # slow to load

    start = torch.randn(hessian.size, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    # A random vector that is mapped to zero means a Hessian of zeros, from which nothing can start.
    if not (hessian @ start).any():
        return torch.zeros(k, dtype=torch.float64)
    operator = linalg.LinearOperator(
        (hessian.size, hessian.size),
        matvec=lambda vector: (hessian @ torch.tensor(vector.ravel())).numpy(force=True),
        dtype=start.numpy().dtype,
    )
    try:
        values = linalg.eigsh(
            operator,
            k,
            which="LM",
            v0=start.numpy(),
            tol=tolerance,
            maxiter=max_iterations,
            return_eigenvectors=False,
        )
    except linalg.ArpackNoConvergence as error:
        raise RuntimeError(
            f"{len(error.eigenvalues)} of k={k} eigenvalues converged to tolerance={tolerance:g} within "
            f"max_iterations={max_iterations}: raise one of the two, ask for fewer, or measure in float64"
        ) from error
    return torch.tensor(values)


class Hessian:
    """The Hessian of a loss at its present parameters, as a linear map of flat float64 vectors.

    The loss is evaluated twice, here; the graph of its gradient is kept for the products.

    Args:
        loss: Returns a scalar that depends on the parameters.
        params: The tensors to differentiate by.

    Attributes:
        size: The number n of single parameters.
        device: Where products lie: the device of the parameters, or the CPU if they have several.
    """

    def __init__(self, loss: Callable[[], Tensor], params: Sequence[Tensor]) -> None:
        check_params("params", params, differentiable=True)
        self._params = params
        self._sizes = [param.numel() for param in params]
        self.size = sum(self._sizes)
        devices = {param.device for param in params}
        self.device = devices.pop() if len(devices) == 1 else torch.device("cpu")
        with with_graph():
            _, self._gradients = gradient(loss, params, create_graph=True)

    def __matmul__(self, vector: Tensor) -> Tensor:
        """Multiply with a vector ``[n]`` of any device.

        Returns:
            ``[n]``, float64, on the device.

        Raises:
            ValueError: If the product is not finite.
        """
        parts = torch.split(vector, self._sizes)
        vectors = [part.view_as(param) for part, param in zip(parts, self._params, strict=True)]
        with with_graph():
            products = _second_derivative(self._gradients, self._params, vectors, keep=True)
        flat = torch.cat([product.reshape(-1).to(self.device, torch.float64) for product in products])
        if not flat.isfinite().all():
            raise ValueError("loss must have a finite second derivative at the given parameters")
        return flat

    def matrix(self) -> Tensor:
        """Make the matrix, by n products.

        Returns:
            ``[n, n]``, float64, on the CPU, symmetric.
        """
        identity = torch.eye(self.size, dtype=torch.float64)
        rows = torch.stack([(self @ row).cpu() for row in identity])
        return (rows + rows.T) / 2


# What is constant has no graph, and no second derivative.
def _second_derivative(
    gradients: Sequence[Tensor], params: Sequence[Tensor], vectors: Sequence[Tensor], *, keep: bool
) -> list[Tensor]:
    pairs = [
        (slope, vector.detach().to(slope))
        for slope, vector in zip(gradients, vectors, strict=True)
        if slope.requires_grad
    ]
    if not pairs:
        return [torch.zeros_like(param, requires_grad=False) for param in params]
    slopes, directions = zip(*pairs, strict=True)
    return list(torch.autograd.grad(slopes, params, directions, retain_graph=keep, materialize_grads=True))


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


def sam_sharpness(
    loss: Callable[[], Tensor], params: Sequence[Tensor], *, rho: float = 0.05, adaptive: bool = False
) -> float:
    r"""How much the loss rises after a step of fixed length up its gradient.

    .. math::
        S = L(w + \epsilon) - L(w), \qquad
        \epsilon = \rho \, \frac{T^2 \, \nabla L(w)}{\| T \, \nabla L(w) \|_2}

    with L the ``loss``, w all ``params`` together, :math:`\rho` ``rho`` and T the identity: to first order
    the largest rise within the distance :math:`\rho`. With ``adaptive``, T is diagonal and holds
    :math:`|w|`, so each parameter moves in proportion to its size, and S no longer depends on how a network
    of rectifiers spreads its scale over its layers. Sums run in float64.

    A gradient of zero gives 0. The parameters come back bit for bit, also when the loss raises; ``.grad`` is
    not touched. The step is rounded to the dtype of the parameters, and in half precision parts of it are
    lost.

    Args:
        loss: Returns a scalar that depends on the parameters, the same at each call; evaluated three times,
            with gradients on, even where the caller has turned them off.
        params: The tensors to move, real floating point, of any shapes, dtypes and devices. One that the
            loss does not reach stays where it is.
        rho: Length of the step, > 0.
        adaptive: Whether to measure the step in units of the parameters.

    Returns:
        The rise; it can be negative where the loss curves downward.

    Raises:
        ValueError: If rho is not positive, the list does not fit, a parameter requires no gradient, or the
            loss has no graph, is not finite or differs between two passes, or its gradient is not finite.

    Example:
        >>> import torch
        >>> weight = torch.tensor([3.0, 4.0], dtype=torch.float64, requires_grad=True)
        >>> round(sam_sharpness(lambda: weight.square().sum(), [weight], rho=0.5), 6)  # 5.5**2 - 5**2
        5.25

    Reference:
        Foret, Kleiner, Mobahi and Neyshabur, "Sharpness-Aware Minimization for Efficiently Improving
        Generalization", ICLR 2021, arXiv 2010.01412, equation 2. Adaptive: Kwon, Kim, Park and Choi, "ASAM:
        Adaptive Sharpness-Aware Minimization for Scale-Invariant Learning of Deep Neural Networks", ICML
        2021, arXiv 2102.11600 (their experiments add 0.01 to :math:`|w|`; here nothing is added).
    """
    check_positive("rho", rho)
    check_params("params", params, differentiable=True)
    with with_graph():
        before, slopes = gradient(loss, params)
        scales = [param.detach().double().abs() if adaptive else 1.0 for param in params]
        scaled = [slope.double() * scale for slope, scale in zip(slopes, scales, strict=True)]
        norm = math.sqrt(sum(float(part.square().sum()) for part in scaled))
        if norm == 0:
            return 0.0
        if not math.isfinite(norm):
            raise ValueError(f"loss must have a finite gradient at the given parameters, got norm {norm}")
        upward = [part * scale for part, scale in zip(scaled, scales, strict=True)]
        with restored(params) as saved:
            place(params, [(1.0, saved), (rho / norm, upward)])
            return checked_scalar("loss", loss()) - before
