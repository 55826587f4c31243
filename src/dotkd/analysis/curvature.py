"""Curvature of a loss at its parameters: Hessian products, eigenvalues, trace, spectrum; SAM sharpness."""

import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

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

Losses = Callable[[], Tensor] | Sequence[Callable[[], Tensor]]
"""A function that returns a loss, or several whose sum is measured."""

_DENSE = 64  # up to this many parameters the matrix itself is cheaper than iterations, and exact
_WIDTH = 0.01  # default width of a bump, as a share of the spread of the eigenvalues
_MARGIN = 5  # widths between the outermost nodes and the ends of the grid: 6e-7 of a bump lies outside


# ---------------------------------------------------------------- products


def hessian_vector_product(
    loss: Callable[[], Tensor], params: Sequence[Tensor], vectors: Sequence[Tensor]
) -> list[Tensor]:
    r"""Hessian-vector product of a loss, without the Hessian itself.

    .. math::
        (H v)_i = \sum_j \frac{\partial^2 L}{\partial w_i \, \partial w_j} v_j
                = \frac{\partial}{\partial w_i} \langle \nabla L(w), v \rangle

    with L the ``loss``, w all ``params`` together and v the ``vectors``. Costs about two gradients; ``.grad``
    is not touched. A parameter that the loss does not reach counts as zero. Attention runs in its unfused
    kernel; a compiled network has no second derivative. The loss is evaluated once, so a random loss is
    measured at one draw.

    Args:
        loss: Returns a scalar that depends on the parameters; evaluated with gradients enabled, also under
            ``no_grad``.
        params: Tensors to differentiate by, real floating point, of any shapes, dtypes and devices.
        vectors: One tensor for each parameter, of its shape.

    Returns:
        One tensor for each parameter, of its shape, dtype and device, without a graph.

    Raises:
        ValueError: The lists do not match, a parameter requires no gradient, or the loss is not a scalar with
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


class _Hessian:
    """The Hessian of a loss or of a sum of losses, in units of a scale, as a map of flat float64 vectors.

    One loss keeps the graph of its gradient; of several, one graph at a time is built and dropped.
    """

    def __init__(self, loss: Losses, params: Sequence[Tensor], scale: Sequence[Tensor] | None = None) -> None:
        check_params("params", params, differentiable=True)
        self._losses = loss if isinstance(loss, Sequence) else [loss]
        if not self._losses:
            raise ValueError("loss must be a function, or a list of at least one, got an empty list")
        self._params = params
        self._sizes = [param.numel() for param in params]
        self.size = sum(self._sizes)
        devices = {param.device for param in params}
        self.device = devices.pop() if len(devices) == 1 else torch.device("cpu")
        self._scale: Tensor | None = None
        if scale is not None:
            check_alike("scale", scale, "params", params)
            self._scale = self._flat([part.detach() for part in scale])
        self._kept: list[Tensor] = []
        with with_graph():
            for one in self._losses:
                _, slopes = gradient(one, params, create_graph=len(self._losses) == 1)
                self._kept = slopes

    def _flat(self, tensors: Sequence[Tensor]) -> Tensor:
        return torch.cat([tensor.reshape(-1).to(self.device, torch.float64) for tensor in tensors])

    def maps(self) -> Iterator[Callable[[Tensor], Tensor]]:
        """Yield the map of each loss, vector ``[n]`` of any device to ``[n]`` on ``self.device``."""
        for one in self._losses:
            slopes = self._kept
            if len(self._losses) > 1:
                with with_graph():
                    slopes = first_derivative(one(), self._params, create_graph=True)
            yield partial(self._product, slopes)

    def _product(self, slopes: Sequence[Tensor], vector: Tensor) -> Tensor:
        vector = vector.to(self.device)
        parts = torch.split(vector if self._scale is None else self._scale * vector, self._sizes)
        vectors = [part.view_as(param) for part, param in zip(parts, self._params, strict=True)]
        with with_graph():
            flat = self._flat(_second_derivative(slopes, self._params, vectors, keep=True))
        if not flat.isfinite().all():
            raise ValueError("loss must have a finite second derivative at the given parameters")
        return flat if self._scale is None else self._scale * flat

    def __matmul__(self, vector: Tensor) -> Tensor:
        """Product ``[n]`` with a vector ``[n]`` of any device, float64, on ``self.device``."""
        total = torch.zeros(self.size, dtype=torch.float64, device=self.device)
        for product in self.maps():
            total += product(vector)
        return total

    def matrix(self) -> Tensor:
        """The matrix ``[n, n]`` from n products, symmetric, float64, on the CPU."""
        identity = torch.eye(self.size, dtype=torch.float64)
        rows = torch.stack([(self @ row).cpu() for row in identity])
        return (rows + rows.T) / 2


def _second_derivative(
    gradients: Sequence[Tensor], params: Sequence[Tensor], vectors: Sequence[Tensor], *, keep: bool
) -> list[Tensor]:
    # A constant gradient has no graph.
    pairs = [
        (slope, vector.detach().to(slope))
        for slope, vector in zip(gradients, vectors, strict=True)
        if slope.requires_grad
    ]
    if not pairs:
        return [torch.zeros_like(param, requires_grad=False) for param in params]
    slopes, directions = zip(*pairs, strict=True)
    return list(torch.autograd.grad(slopes, params, directions, retain_graph=keep, materialize_grads=True))


# ---------------------------------------------------------------- eigenvalues


def top_eigenvalues(
    loss: Losses,
    params: Sequence[Tensor],
    k: int = 1,
    *,
    scale: Sequence[Tensor] | None = None,
    tolerance: float = 1e-5,
    max_iterations: int = 300,
) -> Tensor:
    r"""Largest eigenvalues of the Hessian by absolute value, with their signs.

    .. math::
        H u_i = \lambda_i u_i, \qquad |\lambda_1| \geq |\lambda_2| \geq \dots \geq |\lambda_k|

    with H the Hessian of ``loss`` by all ``params`` together. At a minimum no eigenvalue is negative, and the
    first is the curvature along the sharpest direction; a negative one belongs to a direction along which
    the loss curves downward. Implicitly restarted Lanczos method, from a fixed first vector. For up to 64
    parameters, or for all n eigenvalues, the matrix is built instead.

    With a ``scale`` s, H is :math:`D H D` with D = diag(s), the curvature for steps of size s. In front of a
    batch norm larger weights compute the same and have smaller eigenvalues;
    :func:`~dotkd.analysis.filter_norms` as the scale takes that out.

    Products have the precision of the parameters: eigenvalues near their rounding (about 1e-7 of the largest
    in float32) are noise and may not converge. Memory: the graph of the gradient, and 2 k + 4 float64 vectors
    of length n on the CPU.

    Args:
        loss: Returns a scalar that depends on the parameters, the same at each call; evaluated twice. A list
            of such functions, say one for each batch, stands for their sum: it takes the memory of one, and
            evaluates each once more for each product.
        params: Tensors to differentiate by, real floating point, of any shapes, dtypes and devices.
        k: Number of eigenvalues, from 1 to the number n of scalar parameters.
        scale: One tensor for each parameter, of its shape: the unit of its entries. None is 1.
        tolerance: Largest relative residual of an eigenvalue, ``|H u - λ u| / |λ|`` with ``|u| = 1``, > 0;
            it bounds the relative error of the eigenvalue, which is usually nearer to its square.
        max_iterations: Largest number of restarts, >= 1; each takes about k + 4 products.

    Returns:
        ``[k]``, float64, on the CPU.

    Raises:
        ValueError: An argument is out of range, the lists do not match, the loss has no graph, is not finite
            or differs between two passes, or a product is not finite.
        RuntimeError: The eigenvalues did not converge.

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
    hessian = _Hessian(loss, params, scale)
    if k > hessian.size:
        raise ValueError(f"k must be at most the number of single parameters, {hessian.size}, got {k}")
    if hessian.size <= _DENSE or k == hessian.size:
        values = torch.linalg.eigvalsh(hessian.matrix())
    else:
        values = _arpack(hessian, k, tolerance, max_iterations)
    order = values.abs().argsort(descending=True)
    top: Tensor = values[order[:k]]
    return top


def _arpack(hessian: _Hessian, k: int, tolerance: float, max_iterations: int) -> Tensor:
    from scipy.sparse import linalg  # type: ignore[import-untyped]  # slow to load

    start = torch.randn(hessian.size, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    products = 0

    def product(vector: Any) -> Any:
        nonlocal products
        products += 1
        return (hessian @ torch.tensor(vector.ravel())).numpy(force=True)

    shape = (hessian.size, hessian.size)
    operator = linalg.LinearOperator(shape, matvec=product, dtype=start.numpy().dtype)
    try:
        values = linalg.eigsh(
            operator,
            k,
            which="LM",
            v0=start.numpy(),
            ncv=min(
                2 * k + 4, hessian.size
            ),  # half of scipy's 20 at k = 1: outliers converge in few products
            tol=tolerance,
            maxiter=max_iterations,
            return_eigenvectors=False,
        )
    except linalg.ArpackNoConvergence as error:
        raise RuntimeError(
            f"{len(error.eigenvalues)} of k={k} eigenvalues converged to tolerance={tolerance:g} within "
            f"max_iterations={max_iterations}: raise one of the two, ask for fewer, or measure in float64"
        ) from error
    except linalg.ArpackError:
        # A random vector is mapped to zero only by a Hessian of zeros, where ARPACK cannot start.
        if products == 1 and not (hessian @ start).any():
            return torch.zeros(k, dtype=torch.float64)
        raise
    return torch.tensor(values)


# ---------------------------------------------------------------- trace


class TraceEstimate(NamedTuple):
    """Hutchinson trace estimate with its standard error.

    Attributes:
        trace: Mean over the samples.
        standard_error: Standard deviation of the samples (n - 1 in the denominator) over the root of n.

    Example:
        >>> trace, standard_error = TraceEstimate(trace=5.0, standard_error=0.1)
        >>> trace
        5.0
    """

    trace: float
    standard_error: float


def hessian_trace(
    loss: Losses,
    params: Sequence[Tensor],
    *,
    num_samples: int,
    generator: torch.Generator,
    scale: Sequence[Tensor] | None = None,
) -> TraceEstimate:
    r"""Hutchinson trace estimate: the sum of the Hessian's eigenvalues, from products with random signs.

    .. math::
        \operatorname{tr} H \approx \frac1N \sum_{i=1}^{N} z_i^\top H z_i,
        \qquad z_{ij} = \pm 1 \text{ with equal probability}

    with H the Hessian of ``loss`` by all ``params`` together and N ``num_samples``. Each term is unbiased,
    with variance :math:`2 \sum_{i \neq j} H_{ij}^2`: zero for a diagonal Hessian. Each of several losses
    gets signs of its own, which lowers the error of their sum. With a ``scale`` s, H is :math:`D H D` with
    D = diag(s), as in :func:`top_eigenvalues`.

    Args:
        loss: Returns a scalar that depends on the parameters, the same at each call; evaluated twice. A list
            of such functions, say one for each batch, stands for their sum: it takes the memory of one, and
            evaluates each once more for each product.
        params: Tensors to differentiate by, real floating point, of any shapes, dtypes and devices.
        num_samples: Number of random vectors, >= 2.
        generator: Source of the signs; it advances.
        scale: One tensor for each parameter, of its shape: the unit of its entries. None is 1.

    Returns:
        Mean and standard error, as a named tuple.

    Raises:
        ValueError: ``num_samples`` is below 2, the lists do not match, the loss has no graph, is not finite
            or differs between two passes, or a product is not finite.

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
        raise ValueError(f"num_samples must be an integer >= 2 (for a standard error), got {num_samples}")
    hessian = _Hessian(loss, params, scale)
    traces, variances = [], []
    for product in hessian.maps():
        signs = [_signs(hessian, generator) for _ in range(num_samples)]
        terms = torch.stack([torch.dot(each, product(each)) for each in signs])
        traces.append(float(terms.mean()))
        variances.append(float(terms.var()) / num_samples)
    return TraceEstimate(math.fsum(traces), math.sqrt(math.fsum(variances)))


def _signs(hessian: _Hessian, generator: torch.Generator) -> Tensor:
    """Random signs ``[n]``, the same ones for each device and dtype of the parameters."""
    drawn = torch.empty(hessian.size, device=generator.device).bernoulli_(0.5, generator=generator)
    return drawn.to(hessian.device, torch.float64).mul_(2).sub_(1)


# ---------------------------------------------------------------- spectrum


class SpectralDensity(NamedTuple):
    """Eigenvalue density of a Hessian, with its quadrature; float64 tensors on the CPU.

    Attributes:
        grid: ``[points]``, equally spaced, rising.
        density: ``[points]``, the density on the grid, >= 0, with integral 1.
        nodes: ``[m]``, nodes of the quadrature, m <= num_samples * steps.
        weights: ``[m]``, weights of the nodes, >= 0, with sum 1: the sum of weights * f(nodes) estimates the
            mean of f over the eigenvalues.

    Example:
        >>> one = torch.ones(1, dtype=torch.float64)
        >>> SpectralDensity(grid=one, density=one, nodes=2 * one, weights=one).nodes
        tensor([2.], dtype=torch.float64)
    """

    grid: Tensor
    density: Tensor
    nodes: Tensor
    weights: Tensor


def spectral_density(
    loss: Losses,
    params: Sequence[Tensor],
    *,
    num_samples: int,
    steps: int,
    generator: torch.Generator,
    width: float | None = None,
    points: int = 1000,
) -> SpectralDensity:
    r"""Stochastic Lanczos quadrature of the Hessian's eigenvalue density.

    .. math::
        \phi(t) = \frac1n \sum_{i=1}^{n} g_\sigma(t - \lambda_i)
            \approx \frac1N \sum_{s=1}^{N} \sum_{j=1}^{m} \omega_{sj} \, g_\sigma(t - \theta_{sj}),
        \qquad g_\sigma(x) = \frac{e^{-x^2 / 2 \sigma^2}}{\sigma \sqrt{2 \pi}}

    with :math:`\lambda_i` the n eigenvalues of the Hessian of ``loss`` by all ``params``, N ``num_samples``,
    m ``steps`` and :math:`\sigma` the ``width``. Run s starts from a random vector of signs; m Lanczos steps
    with full orthogonalisation give a tridiagonal matrix. Its eigenvalues are the nodes :math:`\theta_{sj}`;
    the squared first components of its eigenvectors are the weights :math:`\omega_{sj}`. A run is exact for
    polynomials up to degree 2 m - 1 of its own random vector. The outermost nodes converge to eigenvalues
    within few steps; a single small eigenvalue in a crowd is not resolved.

    Memory: the graph of the gradient, and ``steps`` float64 vectors of length n on the parameters' device.

    Args:
        loss: Returns a scalar that depends on the parameters, the same at each call; evaluated twice. A list
            of such functions, say one for each batch, stands for their sum: it takes the memory of one, and
            evaluates each once more for each product.
        params: Tensors to differentiate by, real floating point, of any shapes, dtypes and devices.
        num_samples: Number of runs, >= 1.
        steps: Lanczos steps in a run, >= 1; a run ends earlier when its Krylov space is exhausted.
        generator: Source of the random signs; it advances.
        width: Standard deviation of the Gaussian bumps, in the unit of the eigenvalues, > 0; None is 1 % of
            the spread of the nodes.
        points: Number of grid points, >= 2 and no further apart than the width.

    Returns:
        Grid and density, with the nodes and weights behind them.

    Raises:
        ValueError: An argument is out of range, the grid is too coarse for the width, the lists do not match,
            the loss has no graph, is not finite or differs between two passes, or a product is not finite.

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
    hessian = _Hessian(loss, params)
    runs = [_quadrature(hessian, _signs(hessian, generator), steps) for _ in range(num_samples)]
    nodes = torch.cat([values for values, _ in runs])
    weights = torch.cat([shares for _, shares in runs]) / num_samples
    if width is None:
        spread, largest = float(nodes.max() - nodes.min()), float(nodes.abs().max())
        # Nodes that differ by rounding only still need a bump wider than the rounding.
        width = _WIDTH * (max(spread, 1e-6 * largest) or 1.0)
    return SpectralDensity(*_smoothed(nodes, weights, width, points), nodes, weights)


def _quadrature(hessian: _Hessian, start: Tensor, steps: int) -> tuple[Tensor, Tensor]:
    """Nodes and weights from one random vector ``[n]``, on the CPU."""
    diagonal, off_diagonal = _lanczos(hessian, start, min(steps, hessian.size))
    tridiagonal = torch.diag(diagonal) + torch.diag(off_diagonal, 1) + torch.diag(off_diagonal, -1)
    nodes, vectors = torch.linalg.eigh(tridiagonal)
    return nodes, vectors[0].square()


def _lanczos(hessian: _Hessian, start: Tensor, steps: int) -> tuple[Tensor, Tensor]:
    """Diagonal ``[m]`` and off-diagonal ``[m - 1]`` of the Hessian in the Krylov basis of a vector."""
    basis = start.new_empty(steps, len(start))
    basis[0] = start / start.norm()
    diagonal: list[float] = []
    off_diagonal: list[float] = []
    largest = 0.0
    for step in range(steps):
        product = hessian @ basis[step]
        diagonal.append(float(torch.dot(product, basis[step])))
        so_far = basis[: step + 1]
        for _ in range(2):  # the second pass removes what rounding left
            product = product - so_far.T @ (so_far @ product)
        rest = float(product.norm())
        largest = max(largest, abs(diagonal[-1]), rest)
        # The Krylov space is exhausted.
        if step + 1 == steps or rest <= 10 * torch.finfo(torch.float64).eps * largest:
            break
        off_diagonal.append(rest)
        basis[step + 1] = product / rest
    return torch.tensor(diagonal, dtype=torch.float64), torch.tensor(off_diagonal, dtype=torch.float64)


def _smoothed(nodes: Tensor, weights: Tensor, width: float, points: int) -> tuple[Tensor, Tensor]:
    """Grid, and the sum of Gaussian bumps at the nodes on it."""
    low, high = float(nodes.min()) - _MARGIN * width, float(nodes.max()) + _MARGIN * width
    needed = int((high - low) / width) + 2
    if points < needed:
        raise ValueError(
            f"points must be at least {needed} for width={width:g}, or the grid misses bumps, got {points}"
        )
    grid = torch.linspace(low, high, points, dtype=torch.float64)
    bumps = torch.exp(-((grid[:, None] - nodes) / width).square() / 2) / (width * (2 * torch.pi) ** 0.5)
    return grid, bumps @ weights


# ---------------------------------------------------------------- sharpness


def sam_sharpness(
    loss: Callable[[], Tensor], params: Sequence[Tensor], *, rho: float = 0.05, adaptive: bool = False
) -> float:
    r"""SAM sharpness: rise of the loss after a step of length ``rho`` up its gradient.

    .. math::
        S = L(w + \epsilon) - L(w), \qquad
        \epsilon = \rho \, \frac{T^2 \, \nabla L(w)}{\| T \, \nabla L(w) \|_2}

    with L the ``loss``, w all ``params`` together, :math:`\rho` ``rho`` and T the identity: to first order
    the largest rise within distance :math:`\rho`. With ``adaptive``, T is diagonal and holds :math:`|w|`:
    each parameter moves in proportion to its size, and S does not depend on how a ReLU network spreads its
    scale over the layers. Sums run in float64.

    A zero gradient gives 0. The parameters come back bit for bit, also when the loss raises; ``.grad`` is not
    touched. The step is rounded to the dtype of the parameters; half precision loses part of it.

    Args:
        loss: Returns a scalar that depends on the parameters, the same at each call; evaluated three times,
            with gradients enabled, also under ``no_grad``.
        params: Tensors to move, real floating point, of any shapes, dtypes and devices. A parameter that the
            loss does not reach stays in place.
        rho: Length of the step, > 0.
        adaptive: Whether the step is measured in units of the parameters.

    Returns:
        The rise; it can be negative where the loss curves downward.

    Raises:
        ValueError: ``rho`` is not positive, the list does not match, a parameter requires no gradient, the
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
