"""The second derivative of a loss: products with it, and its largest eigenvalues.

No matrix of n x n numbers is ever made, except for tiny problems; n is the number of parameters.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from dotkd.analysis._loss import check_alike, check_params, first_derivative, gradient, with_graph
from dotkd.losses._checks import check_count, check_positive

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
