"""DeepKD's two distillation losses, and the schedule of its mask.

The parts of :func:`dotkd.losses.dkd_loss`, returned apart so that an optimizer can keep their gradients
apart, and the other classes cut down to those that the teacher ranks highest. Log space throughout.
"""

from torch import Tensor
from torch.nn import functional

from dotkd.losses._checks import check_count, check_positive, check_target, checked_logit_pair
from dotkd.losses._numerics import other_classes
from dotkd.losses.logit import _decoupled, _divergence

# One class alone is its whole distribution: there would be nothing to rank.
_FEWEST = 2


def deepkd_losses(
    student_logits: Tensor,
    teacher_logits: Tensor,
    target: Tensor,
    *,
    temperature: float = 4.0,
    top_k: int | None = None,
) -> tuple[Tensor, Tensor]:
    r"""Decoupled distillation in two losses: the target class, and the top k of the other classes.

    .. math::
        L_{target} = \frac{T^2}{B} \sum_{b=1}^{B}
            \mathrm{KL}\big((q_t, 1 - q_t) \,\|\, (p_t, 1 - p_t)\big), \qquad
        L_{others} = \frac{T^2}{B} \sum_{b=1}^{B} \mathrm{KL}(\hat q \,\|\, \hat p)

    with p and q the softmax of ``student_logits`` and ``teacher_logits`` at T = ``temperature`` over all C
    classes, t the class in ``target``, and :math:`\hat p, \hat q` the softmax over the k = ``top_k`` classes
    beside t to which the teacher gives most, each summing to 1. Without a mask
    ``alpha * target + beta * others`` is :func:`dotkd.losses.dkd_loss`.

    The paper filters the logits of both models; its released code does so with one mask, before the softmax,
    by the teacher's ranking and for the second loss only, and so does this. Two things are not as there: k
    counts classes beside the target (the code takes the k highest of all classes and removes the target, so
    that k or k - 1 are left), and a class that is cut off is left out (the code lowers its logit by 1000,
    which at k = 1 can leave no class higher than another).

    Gradients flow to the logits of both models, as in :func:`dotkd.losses.kd_loss`; through which classes
    are kept there is none.

    Args:
        student_logits: ``[B, C]``, floating point, C >= 2.
        teacher_logits: ``[B, C]``, floating point.
        target: ``[B]``, int64 class numbers in [0, C), of which ``torch.gather`` enforces the range.
        temperature: T > 0.
        top_k: Number of other classes that are kept, from 1, where the second loss is zero, to C; C - 1 and
            C are all of them, as is None. Among equal logits ``torch.topk`` chooses.

    Returns:
        The two losses, scalars of at least float32, unweighted.

    Raises:
        ValueError: If shapes or dtypes do not fit, the temperature is not positive, or ``top_k`` is no
            integer in [1, C].

    Example:
        >>> import torch
        >>> student = torch.tensor([[0.25, 0.25, 0.25, 0.25]]).log()
        >>> teacher = torch.tensor([[0.25, 0.50, 0.125, 0.125]]).log()
        >>> label = torch.tensor([0])
        >>> losses = deepkd_losses(student, teacher, label, temperature=1.0, top_k=2)
        >>> [round(loss.item(), 4) for loss in losses]  # the second: (4/5, 1/5) against (1/2, 1/2)
        [0.0, 0.1927]

    Reference:
        Huang, Song, Zhang and Ren, "DeepKD: A Deeply Decoupled and Denoised Knowledge Distillation
        Trainer", NeurIPS 2025, arXiv 2505.15133, section 3.
    """
    check_positive("temperature", temperature)
    student, teacher = checked_logit_pair(student_logits, teacher_logits)
    check_target(target, student)
    num_classes = student.shape[1]
    if top_k is not None:
        check_count("top_k", top_k)
        if top_k > num_classes:
            raise ValueError(f"top_k must be at most the number of classes, {num_classes}, got {top_k}")

    others = other_classes(target, num_classes)
    ours, theirs = student / temperature, teacher / temperature
    student_pair, student_others = _decoupled(ours, target, others)
    teacher_pair, teacher_others = _decoupled(theirs, target, others)
    if top_k is not None and top_k < num_classes - 1:
        kept = others.gather(1, teacher.gather(1, others).topk(top_k, dim=1).indices)
        student_others = functional.log_softmax(ours.gather(1, kept), dim=1)
        teacher_others = functional.log_softmax(theirs.gather(1, kept), dim=1)
    target_loss = _divergence(student_pair, teacher_pair) * temperature**2
    others_loss = _divergence(student_others, teacher_others) * temperature**2
    return target_loss, others_loss


def top_k_schedule(
    progress: float,
    num_classes: int,
    *,
    k_start: float = 0.05,
    k_plateau: float = 0.5,
    rise_end: float = 1 / 3,
    hold_end: float = 2 / 3,
    full_from: float = 1.0,
) -> int:
    r"""How many classes DeepKD's mask keeps at a point of the run: few at first, all in the end.

    Three phases: k rises linearly from the share ``k_start`` of the classes to a plateau, stays there, and
    rises linearly to all of them,

    .. math::
        k = \mathrm{round}(s \, C), \qquad
        s = \begin{cases}
            s_0 + (s_1 - s_0) \, \tau / r & \tau < r \\
            s_1 & r \le \tau < h \\
            s_1 + (1 - s_1) \, (\tau - h) / (f - h) & h \le \tau < f \\
            1 & f \le \tau
        \end{cases}

    with :math:`\tau` = ``progress``, C = ``num_classes``, :math:`s_0` = ``k_start``, :math:`s_1 = s_0 +
    (1 - s_0) \,` ``k_plateau``, r = ``rise_end``, h = ``hold_end`` and f = ``full_from``. At least two
    classes are kept, since one alone has nothing to teach.

    From the paper: linear growth, from 5 % of the classes to all of them, in three phases. Not taken from it,
    but chosen here: that the second phase is a plateau, its height, and the thirds of the run. The released
    code has no schedule; it has one k for the whole run, which all its recipes leave off, and ``k_start=1``
    is that. ``k_plateau=0`` waits at the start and then rises once.

    Args:
        progress: How much of the run is over, in [0, 1].
        num_classes: C, >= 1.
        k_start: Share of the classes at the start, in (0, 1].
        k_plateau: How far up the plateau is from the start to all classes, in [0, 1].
        rise_end: Where the first phase ends, as a share of the run; 0 begins on the plateau.
        hold_end: Where the second phase ends, at ``rise_end`` or later.
        full_from: From where on all classes are kept, at ``hold_end`` or later, at most 1.

    Returns:
        k, from 2 (or C if that is less) to C: ``top_k`` of :func:`deepkd_losses`.

    Raises:
        ValueError: If a number lies outside its range, or the three ends are not in order.

    Example:
        >>> [top_k_schedule(progress, 100) for progress in (0.0, 0.2, 0.5, 0.75, 1.0)]
        [5, 34, 52, 64, 100]

    Reference:
        Huang, Song, Zhang and Ren, 2025, arXiv 2505.15133, section 3.3.
    """
    check_count("num_classes", num_classes)
    if not 0 <= progress <= 1:
        raise ValueError(f"progress must be the share of the run that is over, in [0, 1], got {progress}")
    if not 0 < k_start <= 1:
        raise ValueError(f"k_start must be a share of the classes in (0, 1], got {k_start}")
    if not 0 <= k_plateau <= 1:
        raise ValueError(f"k_plateau must lie in [0, 1], got {k_plateau}")
    if not 0 <= rise_end <= hold_end <= full_from <= 1:
        raise ValueError(
            "rise_end, hold_end and full_from must be shares of the run in [0, 1] and in this order, "
            f"got {rise_end}, {hold_end} and {full_from}"
        )
    plateau = k_start + (1 - k_start) * k_plateau
    if progress >= full_from:
        share = 1.0
    elif progress >= hold_end:
        share = plateau + (1 - plateau) * (progress - hold_end) / (full_from - hold_end)
    elif progress >= rise_end:
        share = plateau
    else:
        share = k_start + (plateau - k_start) * progress / rise_end
    return max(min(_FEWEST, num_classes), round(share * num_classes))
