"""The learning rate over the run, as plain arithmetic of the time."""

import math

from dotkd.recipe.tables import Constant, Cosine, Step


def lr_factor(schedule: Constant | Step | Cosine, time: float) -> float:
    """Return what the learning rate is multiplied by.

    During ``warmup`` epochs it is ``time / warmup``. After that it is 1 (constant), ``gamma`` to the number
    of milestones passed (step), or ``(1 + cos(pi s)) / 2`` with ``s`` the share of the epochs after warm-up
    that is over (cosine).

    Args:
        schedule: The table of the recipe.
        time: Epochs done, with the fraction of the current one; at the middle of a step rather than at its
            start, so that warm-up does not begin with a step of rate zero.

    Returns:
        A factor in [0, 1].

    Example:
        >>> step = Step(name="step", epochs=240, milestones=(150, 180, 210))
        >>> [round(lr_factor(step, epoch), 4) for epoch in (149.9, 150.1, 180.1, 239.9)]
        [1.0, 0.1, 0.01, 0.001]
    """
    if time < schedule.warmup:
        return time / schedule.warmup
    if isinstance(schedule, Step):
        return schedule.gamma ** sum(time >= milestone for milestone in schedule.milestones)
    if isinstance(schedule, Cosine):
        return (1 + math.cos(math.pi * (time - schedule.warmup) / (schedule.epochs - schedule.warmup))) / 2
    return 1.0
