"""Losses on logits: whole distributions, target class apart from the others, and labels without a teacher.

A logit of -inf masks a class: its probability is 0. Terms that have probability 0 or weight 0 as a factor are
0, and so are their gradients. Where the teacher gives a class a probability and the student masks it, a
divergence is infinite.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from dotkd._validate import (
    check_below_one,
    check_count,
    check_integer,
    check_non_negative,
    check_positive,
    check_share,
    check_target,
    checked_logit_pair,
    checked_logits,
)
from dotkd.losses._numerics import in_full_precision, of_labelled, other_classes, rounding_noise

# Published constants against division by zero: of a z-score, and of a correlation.
_STANDARDIZE_EPS = 1e-7
_CORRELATION_EPS = 1e-8


# ---------------------------------------------------------------- whole distributions


@in_full_precision
def kd_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    *,
    temperature: float = 4.0,
    standardize: bool = False,
) -> Tensor:
    r"""Knowledge distillation: the student's softened distribution follows the teacher's.

    .. math::
        L = \frac{T^2}{B} \sum_{b=1}^{B} \mathrm{KL}(q_b \,\|\, p_b), \qquad
        p = \mathrm{softmax}(z^S / T), \quad q = \mathrm{softmax}(z^T / T)

    with :math:`z^S` = ``student_logits``, :math:`z^T` = ``teacher_logits``, T = ``temperature`` and B the
    batch size. The factor :math:`T^2` keeps the size of the gradient when T changes.

    With ``standardize`` each row of logits is replaced by its z-score over the classes, ``(z - mean) / (std
    + 1e-7)`` with the unbiased standard deviation: the student learns the shape of the teacher's
    distribution, not its sharpness. A row whose classes agree to rounding has z-score zero and passes no
    gradient.

    Gradients flow to both arguments. Detach the teacher, or compute it under ``torch.no_grad``, when only the
    student learns; :class:`dotkd.Distiller` does the latter.

    Args:
        student_logits: ``[B, C]``, floating point, C >= 2.
        teacher_logits: ``[B, C]``, floating point.
        temperature: T > 0; higher is softer.
        standardize: Use z-scores of the logits.

    Returns:
        A scalar, at least float32: float16 and bfloat16 logits are computed in float32.

    Raises:
        ValueError: If shapes or dtypes do not fit, or the temperature is not positive.

    Example:
        >>> student = torch.tensor([[0.50, 0.25, 0.25]]).log()
        >>> teacher = torch.tensor([[0.25, 0.25, 0.50]]).log()
        >>> round(kd_loss(student, teacher, temperature=1.0).item(), 4)  # log(2) / 4
        0.1733

    Reference:
        Hinton, Vinyals and Dean, "Distilling the Knowledge in a Neural Network", 2015, arXiv 1503.02531,
        section 2. Standardization: Sun et al., "Logit Standardization in Knowledge Distillation", CVPR 2024,
        arXiv 2403.01427.
    """
    check_positive("temperature", temperature)
    student, teacher = checked_logit_pair(student_logits, teacher_logits)
    if standardize:
        student, teacher = _standardized(student), _standardized(teacher)
    divergence = _divergence(
        functional.log_softmax(student / temperature, dim=1),
        functional.log_softmax(teacher / temperature, dim=1),
    )
    return divergence * temperature**2


@in_full_precision
def multi_level_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    *,
    temperatures: Sequence[float] = (2.0, 3.0, 4.0, 5.0, 6.0),
    instance_weight: float = 1.0,
    batch_weight: float = 1.0,
    class_weight: float = 1.0,
) -> Tensor:
    r"""Multi-level logit distillation: predictions agree by sample, across samples and across classes.

    .. math::
        L = \sum_{T} \left[ w_i \, L_{\mathrm{KD}}(T)
            + \frac{w_b}{B} \big\| P_T P_T^{\mathsf T} - Q_T Q_T^{\mathsf T} \big\|_F^2
            + \frac{w_c}{C} \big\| P_T^{\mathsf T} P_T - Q_T^{\mathsf T} Q_T \big\|_F^2 \right]

    with T running over ``temperatures`` (the paper's prediction augmentation), :math:`P_T` and :math:`Q_T`
    the ``[B, C]`` softmax of ``student_logits`` and ``teacher_logits`` at T, and :math:`L_{\mathrm{KD}}`
    the :func:`kd_loss` with its :math:`T^2`. The levels are the instance (``instance_weight``), the batch
    (``batch_weight``: which samples are predicted alike) and the class (``class_weight``: which classes are
    predicted together).

    This is the paper's loss for one view of the images. The published training draws a weak and a strong
    view and takes all three levels on the weak one, the instance level on the strong one (``batch_weight=0,
    class_weight=0``). The published code also masks unsure samples and classes; its masks multiply a loss
    that is already a scalar, so they only scale it by about one half, and are left out.

    Gradients flow to both arguments.

    Args:
        student_logits: ``[B, C]``, floating point, C >= 2.
        teacher_logits: ``[B, C]``, floating point.
        temperatures: At least one number > 0; the terms are summed.
        instance_weight: Weight of the instance level, >= 0.
        batch_weight: Weight of the batch level, >= 0.
        class_weight: Weight of the class level, >= 0.

    Returns:
        A scalar, at least float32. Takes memory for B^2 and C^2 numbers per temperature.

    Raises:
        ValueError: If shapes or dtypes do not fit, a temperature is not positive or none is given, or a
            weight is negative.

    Example:
        >>> student = torch.tensor([[0.5, 0.5]]).log()
        >>> teacher = torch.tensor([[1.0, 0.0]]).log().clamp(min=-1e4)
        >>> loss = multi_level_loss(student, teacher, temperatures=[1.0], instance_weight=0.0)
        >>> round(loss.item(), 4)  # (1/2 - 1)^2 + (9/16 + 3/16) / 2
        0.625

    Reference:
        Jin, Wang and Lin, "Multi-Level Logit Distillation", CVPR 2023, section 3.
    """
    if not isinstance(temperatures, Sequence) or not temperatures:
        raise ValueError(f"temperatures must be a list of at least one number > 0, got {temperatures!r}")
    for number, temperature in enumerate(temperatures):
        check_positive(f"temperatures[{number}]", temperature)
    check_non_negative("instance_weight", instance_weight)
    check_non_negative("batch_weight", batch_weight)
    check_non_negative("class_weight", class_weight)
    student, teacher = checked_logit_pair(student_logits, teacher_logits)
    losses = []
    for temperature in temperatures:
        instance = kd_loss(student, teacher, temperature=temperature) if instance_weight else 0.0
        ours, theirs = (functional.softmax(logits / temperature, dim=1) for logits in (student, teacher))
        batch = (ours @ ours.T - theirs @ theirs.T).square().sum() / student.shape[0]
        classes = (ours.T @ ours - theirs.T @ theirs).square().sum() / student.shape[1]
        losses.append(instance_weight * instance + batch_weight * batch + class_weight * classes)
    return torch.stack(losses).sum()


@in_full_precision
def dist_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    *,
    beta: float = 1.0,
    gamma: float = 1.0,
    temperature: float = 1.0,
) -> Tensor:
    r"""DIST: the student's predictions correlate with the teacher's, by sample and by class.

    .. math::
        L = T^2 \left[ \frac{\beta}{B} \sum_{b=1}^{B} \big(1 - \rho(p_{b \cdot}, q_{b \cdot})\big)
            + \frac{\gamma}{C} \sum_{c=1}^{C} \big(1 - \rho(p_{\cdot c}, q_{\cdot c})\big) \right],
        \qquad \rho(x, y) = \frac{\tilde x \cdot \tilde y}{\|\tilde x\|_2 \, \|\tilde y\|_2 + 10^{-8}}

    with p and q the softmax of ``student_logits`` and ``teacher_logits`` at T = ``temperature``, B samples,
    C classes and :math:`\tilde x` = x less its mean, so that :math:`\rho` is Pearson's correlation. The
    first term (``beta``) is the inter-class relation: how a sample's probabilities rank the classes. The
    second (``gamma``) is the intra-class relation: how a class's probabilities rank the samples of the
    batch. Scaling or shifting a model's probabilities, by row in the first and by column in the second,
    changes nothing (but for the 1e-8): the student need not be as sure as the teacher.

    A vector that is constant to rounding has :math:`\rho = 0` and passes no gradient: a row of a head that
    starts at zero, or any column of a batch of one sample. Otherwise gradients flow to both arguments.

    Args:
        student_logits: ``[B, C]``, floating point, C >= 2.
        teacher_logits: ``[B, C]``, floating point.
        beta: Weight of the inter-class term, >= 0.
        gamma: Weight of the intra-class term, >= 0.
        temperature: T > 0.

    Returns:
        A scalar, at least float32.

    Raises:
        ValueError: If shapes or dtypes do not fit, the temperature is not positive, or a weight is negative.

    Example:
        >>> student = torch.tensor([[0.50, 0.25, 0.25]]).log()
        >>> teacher = torch.tensor([[0.25, 0.25, 0.50]]).log()
        >>> round(dist_loss(student, teacher, gamma=0.0).item(), 4)  # correlation -1/2
        1.5

    Reference:
        Huang, You, Wang, Qian and Xu, "Knowledge Distillation from A Stronger Teacher", NeurIPS 2022,
        arXiv 2205.10536, section 3; the factor T^2 and the constant as in the published code.
    """
    check_positive("temperature", temperature)
    check_non_negative("beta", beta)
    check_non_negative("gamma", gamma)
    student, teacher = checked_logit_pair(student_logits, teacher_logits)
    ours, theirs = (functional.softmax(logits / temperature, dim=1) for logits in (student, teacher))
    inter = 1 - _correlations(ours, theirs).mean()
    intra = 1 - _correlations(ours.T, theirs.T).mean()
    return (beta * inter + gamma * intra) * temperature**2


# ---------------------------------------------------------------- target class and other classes


@in_full_precision
def dkd_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    target: Tensor,
    *,
    alpha: float = 1.0,
    beta: float = 8.0,
    temperature: float = 4.0,
) -> Tensor:
    r"""Decoupled knowledge distillation: the target class and the other classes, apart.

    .. math::
        L = \frac{T^2}{B} \sum_{b=1}^{B}
            \alpha \, \mathrm{KL}\big((q_t, 1 - q_t) \,\|\, (p_t, 1 - p_t)\big)
            + \beta \, \mathrm{KL}(\hat q \,\|\, \hat p)

    with p and q the student's and the teacher's softmax at T = ``temperature``, t the class in ``target``,
    and :math:`\hat p, \hat q` the softmax over the C - 1 other classes alone. The first term (weight
    ``alpha``) teaches how sure the teacher is of the label, the second (``beta``) how it ranks the rest.
    :func:`kd_loss` is, sample by sample, ``alpha = 1`` and ``beta = 1 - q_t``: it hardly teaches the rest
    where the teacher is sure.

    The pair :math:`(p_t, 1 - p_t)` is the softmax of two logits, :math:`z_t / T` and the logsumexp of the
    others, so that neither its logarithms nor their gradients overflow. Gradients flow to both arguments.

    Args:
        student_logits: ``[B, C]``, floating point, C >= 2.
        teacher_logits: ``[B, C]``, floating point.
        target: ``[B]``, int64 class numbers in [0, C). ``torch.gather`` enforces the range: reading the
            values here would wait for the device. Rows of -100 have no label and do not count.
        alpha: Weight of the target-class term, >= 0.
        beta: Weight of the other classes' term, >= 0.
        temperature: T > 0.

    Returns:
        A scalar, at least float32: float16 and bfloat16 logits are computed in float32.

    Raises:
        ValueError: If shapes or dtypes do not fit, the temperature is not positive, or a weight is negative.

    Example:
        >>> student = torch.tensor([[0.50, 0.25, 0.25]]).log()
        >>> teacher = torch.tensor([[0.25, 0.25, 0.50]]).log()
        >>> label = torch.tensor([0])
        >>> round(dkd_loss(student, teacher, label, beta=0.0, temperature=1.0).item(), 4)
        0.1308

    Reference:
        Zhao, Cui, Song, Qiu and Liang, "Decoupled Knowledge Distillation", CVPR 2022, arXiv 2203.08679,
        section 3.
    """
    check_positive("temperature", temperature)
    check_non_negative("alpha", alpha)
    check_non_negative("beta", beta)
    student, teacher = checked_logit_pair(student_logits, teacher_logits)
    check_target(target, student)
    target_term, others_term = _decoupled(student, teacher, target, temperature)
    return (_weighted(alpha, target_term) + _weighted(beta, others_term)) * temperature**2


@in_full_precision
def nkd_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    target: Tensor,
    *,
    gamma: float = 1.5,
    temperature: float = 1.0,
) -> Tensor:
    r"""Normalized knowledge distillation: the label weighted by the teacher, the other classes normalized.

    .. math::
        L = -\frac{1}{B} \sum_{b=1}^{B} \Big[ q_t \log p_t
            + \gamma \, T^2 \sum_{k \neq t} \hat q_k \log \hat p_k \Big]

    with t the class in ``target``, p and q the softmax of ``student_logits`` and ``teacher_logits`` at
    temperature 1, and :math:`\hat p, \hat q` the softmax at T = ``temperature`` over the C - 1 other
    classes alone, each summing to 1. The cross entropy with the label, which the method adds in training,
    is not in it.

    Both terms are cross entropies, not divergences: the loss of equal logits is not zero. The second term
    is least where :math:`\hat p = \hat q`; the first always pulls towards the label. Gradients flow to both
    arguments, also through :math:`q_t` and :math:`\hat q`, which the method holds constant: detach the
    teacher when only the student learns.

    Args:
        student_logits: ``[B, C]``, floating point, C >= 2.
        teacher_logits: ``[B, C]``, floating point.
        target: ``[B]``, int64 class numbers in [0, C); ``torch.gather`` enforces the range. Rows
            of -100 have no label and do not count.
        gamma: Weight of the other classes' term, >= 0.
        temperature: T > 0.

    Returns:
        A scalar, at least float32.

    Raises:
        ValueError: If shapes or dtypes do not fit, the temperature is not positive, or gamma is negative.

    Example:
        >>> student = torch.tensor([[0.50, 0.25, 0.25]]).log()
        >>> teacher = torch.tensor([[0.25, 0.25, 0.50]]).log()
        >>> label = torch.tensor([0])
        >>> round(nkd_loss(student, teacher, label).item(), 4)  # (1/4 + 3/2) log(2)
        1.213

    Reference:
        Yang, Zeng, Li, Zhang, Yuan and Li, "From Knowledge Distillation to Self-Knowledge Distillation: A
        Unified Approach with Normalized Loss and Customized Soft Labels", ICCV 2023, arXiv 2303.13005,
        section 3.1; the factor T^2 as in the published code.
    """
    check_positive("temperature", temperature)
    check_non_negative("gamma", gamma)
    student, teacher = checked_logit_pair(student_logits, teacher_logits)
    check_target(target, student)

    weights, target, (student, teacher) = of_labelled(target, student, teacher)
    label = target.unsqueeze(1)
    confidence = functional.softmax(teacher, dim=1).gather(1, label)
    target_term = _cross_entropy(
        weights * confidence, functional.log_softmax(student, dim=1).gather(1, label)
    )

    others = other_classes(target, student.shape[1])
    ours, theirs = (_log_softmax(logits.gather(1, others) / temperature) for logits in (student, teacher))
    return target_term + _weighted(gamma * temperature**2, _cross_entropy(weights * theirs.exp(), ours))


@in_full_precision
def deepkd_losses(
    student_logits: Tensor,
    teacher_logits: Tensor,
    target: Tensor,
    *,
    temperature: float = 4.0,
    top_k: int | None = None,
) -> tuple[Tensor, Tensor]:
    r"""DeepKD: two losses, of the target class and of the top k other classes.

    .. math::
        L_{target} = \frac{T^2}{B} \sum_{b=1}^{B}
            \mathrm{KL}\big((q_t, 1 - q_t) \,\|\, (p_t, 1 - p_t)\big), \qquad
        L_{others} = \frac{T^2}{B} \sum_{b=1}^{B} \mathrm{KL}(\hat q \,\|\, \hat p)

    with p and q the softmax of ``student_logits`` and ``teacher_logits`` at T = ``temperature`` over all C
    classes, t the class in ``target``, and :math:`\hat p, \hat q` the softmax over the k = ``top_k`` classes
    beside t to which the teacher gives most, each summing to 1. Without a mask
    ``alpha * target + beta * others`` is :func:`dkd_loss`.

    The paper masks the logits of both models. Its released code uses one mask, before the softmax, by the
    teacher's ranking and for the second loss only, and so does this function. Two details differ: k counts
    classes beside the target (the code takes the k highest of all classes and removes the target, which
    leaves k or k - 1), and a masked class is left out (the code lowers its logit by 1000, which at k = 1
    can leave all classes equal).

    Gradients flow to both arguments, but not through the choice of the classes.

    Args:
        student_logits: ``[B, C]``, floating point, C >= 2.
        teacher_logits: ``[B, C]``, floating point.
        target: ``[B]``, int64 class numbers in [0, C); ``torch.gather`` enforces the range. Rows
            of -100 have no label and do not count.
        temperature: T > 0.
        top_k: Number of other classes to keep, from 1, where the second loss is zero, to C; C - 1, C and None
            keep all. Among equal logits ``torch.topk`` chooses.

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
        Huang, Song, Zhang and Ren, "DeepKD: A Deeply Decoupled and Denoised Knowledge Distillation Trainer",
        NeurIPS 2025, arXiv 2505.15133, section 3.
    """
    check_positive("temperature", temperature)
    student, teacher = checked_logit_pair(student_logits, teacher_logits)
    check_target(target, student)
    if top_k is not None:
        check_integer("top_k", top_k, low=1, high=student.shape[1])
    target_loss, others_loss = _decoupled(student, teacher, target, temperature, top_k)
    return target_loss * temperature**2, others_loss * temperature**2


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
    r"""Number of classes that DeepKD's mask keeps: few at the start of the run, all at its end.

    k rises linearly from the share ``k_start`` of the classes to a plateau, stays, and rises linearly to all,

    .. math::
        k = \mathrm{round}(s \, C), \qquad
        s = \begin{cases}
            s_0 + (s_1 - s_0) \, \tau / r & \tau < r \\
            s_1 & r \le \tau < h \\
            s_1 + (1 - s_1) \, (\tau - h) / (f - h) & h \le \tau < f \\
            1 & f \le \tau
        \end{cases}

    with :math:`\tau` = ``progress``, C = ``num_classes``, :math:`s_0` = ``k_start``, :math:`s_1 = s_0 + (1
    - s_0) \,` ``k_plateau``, r = ``rise_end``, h = ``hold_end`` and f = ``full_from``. At least two classes
    are
    kept: one class alone teaches nothing.

    From the paper: linear growth from 5 % of the classes to all of them, in three phases. Chosen here: that
    the second phase is a plateau, its height, and the thirds of the run. The released code has no schedule
    but one k for the whole run, which all its recipes leave off; ``k_start=1`` is that. ``k_plateau=0``
    stays at the start and then rises once.

    Args:
        progress: Share of the run that is over, in [0, 1].
        num_classes: C, >= 1.
        k_start: Share of the classes at the start, in (0, 1].
        k_plateau: Height of the plateau between the start and all classes, in [0, 1].
        rise_end: End of the first phase, as a share of the run; 0 begins on the plateau.
        hold_end: End of the second phase, >= ``rise_end``.
        full_from: Point from which all classes are kept, >= ``hold_end``, at most 1.

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
    check_share("progress", progress)
    check_share("k_plateau", k_plateau)
    if not 0 < k_start <= 1:
        raise ValueError(f"k_start must be a share of the classes in (0, 1], got {k_start}")
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
    return max(min(2, num_classes), round(share * num_classes))


# ---------------------------------------------------------------- labels without a teacher


@in_full_precision
def label_smoothing_loss(logits: Tensor, target: Tensor, *, smoothing: float = 0.1) -> Tensor:
    r"""Cross entropy with smoothed labels: the baseline of a teacher that does not tell the classes apart.

    .. math::
        L = -\frac{1}{B} \sum_{b=1}^{B} \Big[ (1 - \epsilon) \log p_t
            + \frac{\epsilon}{C} \sum_{k=1}^{C} \log p_k \Big]

    with p the softmax of ``logits``, t the class in ``target`` and :math:`\epsilon` = ``smoothing``, which is
    shared by all classes, the label's included.

    Args:
        logits: ``[B, C]``, floating point, C >= 2.
        target: ``[B]``, int64 class numbers in [0, C); ``torch.gather`` enforces the range. Rows
            of -100 have no label and do not count.
        smoothing: In [0, 1); 0 is plain cross entropy.

    Returns:
        A scalar, at least float32.

    Raises:
        ValueError: If shapes or dtypes do not fit, or ``smoothing`` lies outside [0, 1).

    Example:
        >>> logits = torch.tensor([[0.50, 0.25, 0.25]]).log()
        >>> loss = label_smoothing_loss(logits, torch.tensor([0]), smoothing=0.3)
        >>> round(loss.item(), 4)  # (0.8 + 0.1 * 2 + 0.1 * 2) log(2)
        0.8318

    Reference:
        Szegedy, Vanhoucke, Ioffe, Shlens and Wojna, "Rethinking the Inception Architecture for Computer
        Vision", CVPR 2016, arXiv 1512.00567, section 7.
    """
    check_below_one("smoothing", smoothing)
    logits = checked_logits("logits", logits)
    check_target(target, logits)
    weights, target, (logits,) = of_labelled(target, logits)
    log_probabilities = weights * functional.log_softmax(logits, dim=1)
    label_term = log_probabilities.gather(1, target.unsqueeze(1)).mean()
    return -(1 - smoothing) * label_term - _weighted(smoothing, log_probabilities.mean())


@in_full_precision
def teacher_free_kd_loss(
    logits: Tensor, target: Tensor, *, correct_probability: float = 0.99, temperature: float = 20.0
) -> Tensor:
    r"""Teacher-free distillation: a virtual teacher that is right about every label.

    .. math::
        L = \frac{1}{B} \sum_{b=1}^{B} \mathrm{KL}(q_b \,\|\, p_b), \qquad
        q = \mathrm{softmax}(u / T), \qquad
        u_k = \begin{cases} a & k = t \\ (1 - a) / (C - 1) & k \neq t \end{cases}

    with p the softmax of ``logits``, t the class in ``target``, a = ``correct_probability`` and T =
    ``temperature``. The virtual teacher's output u is softened, the student's is not.

    Args:
        logits: ``[B, C]``, floating point, C >= 2.
        target: ``[B]``, int64 class numbers in [0, C); ``torch.scatter`` enforces the range. Rows
            of -100 have no label and do not count.
        correct_probability: a, above 1 / C and at most 1; the paper takes 0.9 and more.
        temperature: T > 0; the paper takes 20 and more.

    Returns:
        A scalar, at least float32.

    Raises:
        ValueError: If shapes or dtypes do not fit, or an option is out of range.

    Example:
        >>> logits = torch.tensor([[0.5, 0.5]]).log()
        >>> unit_step = dict(correct_probability=1.0, temperature=1.0)  # q = (e, 1) / (e + 1)
        >>> round(teacher_free_kd_loss(logits, torch.tensor([0]), **unit_step).item(), 4)
        0.1109

    Reference:
        Yuan, Tay, Li, Wang and Feng, "Revisiting Knowledge Distillation via Label Smoothing Regularization",
        CVPR 2020, arXiv 1909.11723, section 4, the variant Tf-KD_reg. Where the published code and equation 9
        differ (the equation softens the student too), this is the code; the code averages over the classes as
        well, so its multiplier of 100 on CIFAR-100 is 1 here.
    """
    check_positive("temperature", temperature)
    logits = checked_logits("logits", logits)
    check_target(target, logits)
    num_classes = logits.shape[1]
    if not 1 / num_classes < correct_probability <= 1:
        raise ValueError(
            f"correct_probability must lie above 1 / C = {1 / num_classes:g} and be at most 1, "
            f"got {correct_probability}"
        )
    weights, target, (logits,) = of_labelled(target, logits)
    rest = (1 - correct_probability) / (num_classes - 1)
    taught = torch.full_like(logits, rest).scatter(1, target.unsqueeze(1), correct_probability)
    return _divergence(
        functional.log_softmax(logits, dim=1), functional.log_softmax(taught / temperature, dim=1), weights
    )


# ---------------------------------------------------------------- shared arithmetic


def _divergence(student: Tensor, teacher: Tensor, weights: Tensor | None = None) -> Tensor:
    """KL(teacher || student) of log-probabilities ``[B, K]``: sum over classes, mean over the batch."""
    absent = teacher.exp() == 0
    student, teacher = (torch.where(absent, 0.0, logarithms) for logarithms in (student, teacher))
    terms = functional.kl_div(student, teacher, reduction="none", log_target=True)
    return (terms if weights is None else weights * terms).sum() / student.shape[0]


def _cross_entropy(teacher: Tensor, student: Tensor) -> Tensor:
    """Of probabilities and log-probabilities ``[B, K]``: sum over classes, mean over the batch."""
    return -(teacher * torch.where(teacher == 0, 0.0, student)).sum(dim=1).mean()


def _log_softmax(logits: Tensor) -> Tensor:
    """Log-probabilities of some of the classes; -inf where all of them are masked."""
    return torch.where(_all_masked(logits), -torch.inf, functional.log_softmax(_safe(logits), dim=1))


def _log_sum_exp(logits: Tensor) -> Tensor:
    """Logarithm of the sum over some of the classes, ``[B, 1]``; -inf where all of them are masked."""
    return torch.where(_all_masked(logits), -torch.inf, _safe(logits).logsumexp(dim=1, keepdim=True))


def _safe(logits: Tensor) -> Tensor:
    """Zeros in rows of which the softmax, or its gradient, would be NaN."""
    return torch.where(_all_masked(logits), 0.0, logits)


def _all_masked(logits: Tensor) -> Tensor:
    return (logits == -torch.inf).all(dim=1, keepdim=True)


def _weighted(weight: float, loss: Tensor) -> Tensor:
    """The weighted loss; an infinite loss of weight 0 is 0."""
    return weight * (loss if weight else torch.where(loss.isfinite(), loss, 0.0))


def _decoupled(
    student: Tensor, teacher: Tensor, target: Tensor, temperature: float, top_k: int | None = None
) -> tuple[Tensor, Tensor]:
    """Divergences of (target, all others) and among the teacher's top k others, without the factor T^2."""
    weights, target, (student, teacher) = of_labelled(target, student, teacher)
    others = other_classes(target, student.shape[1])
    pairs, rest = [], []
    for logits in (student / temperature, teacher / temperature):
        other_logits = logits.gather(1, others)
        label_logit = logits.gather(1, target.unsqueeze(1))
        pairs.append(torch.cat([label_logit, _log_sum_exp(other_logits)], dim=1))
        rest.append(other_logits)
    if top_k is not None and top_k < others.shape[1]:
        kept = teacher.gather(1, others).topk(top_k, dim=1).indices
        rest = [other_logits.gather(1, kept) for other_logits in rest]
    ours, theirs = (functional.log_softmax(pair, dim=1) for pair in pairs)
    target_term = _divergence(ours, theirs, weights)
    ours, theirs = map(_log_softmax, rest)
    others_term = _divergence(ours, theirs, weights)
    return target_term, others_term


def _standardized(logits: Tensor) -> Tensor:
    """Z-scores among the classes of a row that are not masked; zeros for rows constant to rounding."""
    masked = logits == -torch.inf
    logits = torch.where(masked, 0.0, logits)
    count = (~masked).sum(dim=1, keepdim=True)
    centred = torch.where(masked, 0.0, logits - logits.sum(dim=1, keepdim=True) / count)
    variance = centred.square().sum(dim=1, keepdim=True) / (count - 1).clamp(min=1)
    # A head that starts at zero gives constant rows, of which the published gradient, of order 1 / 1e-7, is
    # amplified rounding noise.
    constant = variance.detach().sqrt() <= rounding_noise(logits, 1)
    deviation = torch.where(constant, 1.0, variance).sqrt()
    scores = torch.where(constant, 0.0, centred / (deviation + _STANDARDIZE_EPS))
    return torch.where(masked, -torch.inf, scores)


def _correlations(ours: Tensor, theirs: Tensor) -> Tensor:
    """Pearson's correlation of each row with the same row of the other tensor, ``[rows]``."""
    (x, x_constant), (y, y_constant) = _centred(ours), _centred(theirs)
    norms = torch.linalg.vector_norm(x, dim=1) * torch.linalg.vector_norm(y, dim=1)
    correlations = (x * y).sum(dim=1) / (norms + _CORRELATION_EPS)
    # The published gradient of a constant row, of order 1e8, is amplified rounding noise.
    return torch.where(x_constant | y_constant, 0.0, correlations)


def _centred(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Rows less their means, and which of them are constant to rounding."""
    centred = rows - rows.mean(dim=1, keepdim=True)
    largest = centred.detach().abs().amax(dim=1)
    return centred, largest <= rounding_noise(rows, 1).squeeze(1)
