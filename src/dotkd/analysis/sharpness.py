"""How much a loss rises within reach of its parameters."""

import math
from collections.abc import Callable, Sequence

from torch import Tensor

from dotkd.analysis._loss import check_params, checked_scalar, gradient, place, restored, with_graph
from dotkd.losses._checks import check_positive


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
