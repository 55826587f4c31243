"""DeepKD's momenta: three streams, task, target class and other classes, for MultiMomentumSGD."""

from .checks import check_window


def deepkd_momenta(
    momentum: float = 0.9, delta: float = 0.075, *, as_released: bool = False
) -> dict[str, float]:
    r"""Return the momentum of each of DeepKD's three streams.

    For a parameter :math:`p` that all three losses reach, :class:`MultiMomentumSGD` with these momenta is

    .. math::
        v_{task} &\leftarrow (\mu + \Delta) \, v_{task} + g_{task} + \lambda p \\
        v_{target} &\leftarrow (\mu - \Delta) \, v_{target} + g_{target} \\
        v_{others} &\leftarrow (\mu + \Delta) \, v_{others} + g_{others} \\
        p &\leftarrow p - \gamma \, (v_{task} + v_{target} + v_{others})

    with :math:`\mu` = ``momentum`` and :math:`\Delta` = ``delta``; :math:`g_{task}` is the gradient of the
    task loss, :math:`g_{target}` that of the divergence between (label, not label) of the two models and
    :math:`g_{others}` that of the divergence among the other classes. The paper's reason: the first and the
    last have a high signal-to-noise ratio and gain from a long memory, the middle one has a low ratio.

    **The paper and its released code differ.** The code computes three momenta as the paper has them and
    then updates the task buffer with the one of the target class: with ``as_released`` the task momentum is
    :math:`\mu - \Delta`, on the side where DOT has it. The code also adds the weight decay to the target
    gradient; as both buffers then have one momentum, only their sum moves the parameter, and the sum is the
    same. The released recipes choose a :math:`\Delta` for each stream and pair of models, 0.075 or 0.1 for
    the target class and 0 to 0.085 for the others: :class:`MultiMomentumSGD` takes any three momenta.

    A parameter that one loss reaches alone has plain momentum if the optimizer is told: ``momentum=0.9``
    there, as below. (The released code takes the mean of its three momenta.)

    Args:
        momentum: Mean of the smaller and the larger momentum.
        delta: Half their distance; ``momentum - delta`` and ``momentum + delta`` must lie in [0, 1).
        as_released: Follow the released code, not the paper.

    Returns:
        ``{"task": ..., "target": ..., "others": ...}``, in this order: the task stream is the primary one.

    Raises:
        ValueError: A momentum lies outside [0, 1).

    Example:
        >>> import torch
        >>> from dotkd.optim import MultiMomentumSGD
        >>> {name: round(value, 3) for name, value in deepkd_momenta().items()}
        {'task': 0.975, 'target': 0.825, 'others': 0.975}
        >>> round(deepkd_momenta(as_released=True)["task"], 3)
        0.825
        >>> weight = torch.nn.Parameter(torch.ones(3))
        >>> opt = MultiMomentumSGD([weight], lr=0.05, momenta=deepkd_momenta(), momentum=0.9)
        >>> opt.streams
        ('task', 'target', 'others')

    Reference:
        Huang, Song, Zhang and Ren, "DeepKD: A Deeply Decoupled and Denoised Knowledge Distillation
        Trainer", NeurIPS 2025, arXiv 2505.15133, section 3.2, equation 7.
    """
    check_window("momentum", momentum, delta)
    short, long = momentum - delta, momentum + delta
    return {"task": short if as_released else long, "target": short, "others": long}
