"""What a network is tested with beyond clean images: common corruptions, and adversarial images.

Here belong functions from images in [0, 1] to changed images in [0, 1].
"""

from collections.abc import Callable

import torch
from torch import Tensor

from dotkd.analysis._checks import check_images
from dotkd.errors import unknown
from dotkd.losses._checks import check_non_negative

CORRUPTIONS: dict[str, tuple[float, float, float, float, float]] = {
    "brightness": (0.1, 0.2, 0.3, 0.4, 0.5),
    "contrast": (0.8, 0.6, 0.45, 0.3, 0.15),
    "gaussian_blur": (0.5, 0.75, 1.0, 1.5, 2.0),
    "gaussian_noise": (0.02, 0.04, 0.08, 0.12, 0.2),
}
"""The number that :func:`corrupt` uses for each kind of corruption at the strengths 1 to 5."""


def corrupt(images: Tensor, kind: str, strength: int, *, generator: torch.Generator) -> Tensor:
    r"""Make images harder to recognise.

    With s the number that :data:`CORRUPTIONS` holds for kind and strength, x an image, every result cut
    to [0, 1]:

    - ``"brightness"``: :math:`x + s`;
    - ``"contrast"``: :math:`\bar x + s (x - \bar x)`, with :math:`\bar x` the image's mean over channels
      and pixels;
    - ``"gaussian_blur"``: x smoothed by a Gaussian with a standard deviation of s pixels of this image,
      mirrored at the edges. On the pixel grid it is :math:`\exp(-\tfrac{s^2}{2} L)` along rows and columns,
      L being the Laplacian of a path: its weights are positive and its variance is :math:`s^2` for small s
      too;
    - ``"gaussian_noise"``: :math:`x + s n`, with n normal, independent for each pixel and channel.

    These are the library's own corruptions and strengths, after four of the kinds in ImageNet-C and
    CIFAR-C: the numbers differ, so results must not be compared with theirs.

    Args:
        images: ``[B, C, H, W]``, floating point, in [0, 1], not empty; not changed.
        kind: A key of :data:`CORRUPTIONS`.
        strength: From 1 to 5.
        generator: Where the noise comes from, on any device; the other kinds draw nothing from it. The
            same state gives the same noise, only longer, at every strength.

    Returns:
        Images of the same shape, dtype and device; float16 and bfloat16 are computed in float32.

    Raises:
        ValueError: If ``images`` is no such batch, or kind or strength is unknown.

    Example:
        >>> generator = torch.Generator().manual_seed(0)
        >>> grey = torch.full((1, 3, 8, 8), 0.5)
        >>> corrupt(grey, "brightness", 2, generator=generator).unique()
        tensor([0.7000])
        >>> corrupt(grey, "gaussian_noise", 3, generator=generator).std() < 0.1
        tensor(True)

    Reference:
        The idea: Hendrycks and Dietterich, "Benchmarking Neural Network Robustness to Common Corruptions
        and Perturbations", ICLR 2019, arXiv 1903.12261. The blur: Lindeberg, "Scale-Space for Discrete
        Signals", IEEE TPAMI 12(3), 1990.
    """
    if kind not in CORRUPTIONS:
        raise ValueError(unknown("corruption", kind, CORRUPTIONS))
    if not isinstance(strength, int) or isinstance(strength, bool) or not 1 <= strength <= 5:
        raise ValueError(f"strength must be an integer from 1 to 5, got {strength!r}")
    check_images(images)
    size = CORRUPTIONS[kind][strength - 1]
    clean = images.detach().to(torch.promote_types(images.dtype, torch.float32))
    if kind == "brightness":
        changed = clean + size
    elif kind == "contrast":
        mean = clean.mean(dim=(1, 2, 3), keepdim=True)
        changed = mean + size * (clean - mean)
    elif kind == "gaussian_blur":
        changed = _blur(clean, size)
    else:
        # Drawn where the generator is, so that one seed gives the same noise on every device.
        noise = torch.randn(clean.shape, generator=generator, device=generator.device)
        changed = clean + size * noise.to(clean)
    return changed.clamp(0, 1).to(images.dtype)


def _blur(images: Tensor, sigma: float) -> Tensor:
    down, across = (_smoothing(length, sigma).to(images) for length in images.shape[2:])
    return down @ images @ across


def _smoothing(length: int, sigma: float) -> Tensor:
    """Return the symmetric matrix [length, length] that smooths a row of pixels."""
    unit = torch.eye(length, dtype=torch.float64)
    steps = unit[1:] - unit[:-1]
    return torch.matrix_exp(-(sigma**2) / 2 * steps.T @ steps)


def fgsm(loss_of_images: Callable[[Tensor], Tensor], images: Tensor, *, epsilon: float) -> Tensor:
    r"""Fast gradient sign method: the step within a box around each image that raises the loss the most.

    .. math::
        x' = \mathrm{clip}_{[0, 1]}\big(x + \epsilon \, \mathrm{sign}(\nabla_x L(x))\big)

    with x = ``images``, L = ``loss_of_images`` and :math:`\epsilon` = ``epsilon``: to first order, no
    other change of at most :math:`\epsilon` in each pixel raises L more. One weak attack: what withstands
    it need not withstand a stronger one.

    The loss is evaluated once. No ``.grad`` is touched; put networks into evaluation mode before, since
    the forward pass is an ordinary one.

    Args:
        loss_of_images: Maps images like ``images`` to a scalar loss. Mean and sum over the batch give the
            same attack as long as samples do not influence each other.
        images: ``[B, C, H, W]``, floating point, in [0, 1], not empty; not changed.
        epsilon: Largest change of a pixel, >= 0, in units of the images: 8/255 is usual.

    Returns:
        Adversarial images of the same shape, dtype and device, detached.

    Raises:
        ValueError: If ``images`` is no such batch, ``epsilon`` is negative, or the loss is no scalar or
            does not depend on the images.

    Example:
        >>> images = torch.full((1, 1, 1, 3), 0.5)
        >>> slope = torch.tensor([2.0, 0.0, -3.0])
        >>> fgsm(lambda images: (images * slope).sum(), images, epsilon=0.25)
        tensor([[[[0.7500, 0.5000, 0.2500]]]])

    Reference:
        Goodfellow, Shlens and Szegedy, "Explaining and Harnessing Adversarial Examples", ICLR 2015,
        arXiv 1412.6572, section 4.
    """
    check_images(images)
    check_non_negative("epsilon", epsilon)
    start = images.detach().clone().requires_grad_()
    with torch.enable_grad():
        loss = loss_of_images(start)
    if loss.ndim:
        raise ValueError(f"loss_of_images must return a scalar, got shape {list(loss.shape)}")
    gradient = torch.autograd.grad(loss, start, allow_unused=True)[0] if loss.requires_grad else None
    if gradient is None:
        raise ValueError(
            "loss_of_images must return a loss that depends on the images, got one that does not"
        )
    return (start.detach() + epsilon * gradient.sign()).clamp(0, 1)
