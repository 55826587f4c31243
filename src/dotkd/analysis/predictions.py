"""Accuracy, proper scores, calibration, agreement and robustness of predictions."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from dotkd._validate import (
    check_count,
    check_images,
    check_labels,
    check_non_negative,
    check_target,
    checked_logit_pair,
    checked_predictions,
)
from dotkd.errors import unknown
from dotkd.losses import kd_loss


class ClassAccuracies(NamedTuple):
    """The accuracy of each class.

    Attributes:
        accuracy: ``[num_classes]``, float64, on the CPU: share of the samples of this class that are
            predicted as this class, its recall; NaN for a class without samples.
        samples: ``[num_classes]``, int64, on the CPU: how many there are of this class.

    Example:
        >>> accuracy, samples = per_class_accuracy(torch.eye(2), torch.tensor([0, 0]), 2)
        >>> samples
        tensor([2, 0])
    """

    accuracy: Tensor
    samples: Tensor


class ClassAccuracy(NamedTuple):
    """One class.

    Attributes:
        label: Its number.
        accuracy: Share of its samples that are predicted as this class.
        samples: How many there are, at least 1.

    Example:
        >>> worst_classes(torch.eye(2), torch.tensor([0, 0]), 2, k=1)
        [ClassAccuracy(label=0, accuracy=0.5, samples=2)]
    """

    label: int
    accuracy: float
    samples: int


def top_k_accuracy(logits: Tensor, target: Tensor, *, k: int = 1) -> float:
    """Share of the samples whose class is among the k with the highest logits; k = 1 is plain accuracy.

    Args:
        logits: ``[B, C]``, floating point, B >= 1, C >= 2.
        target: ``[B]``, int64 class numbers in [0, C).
        k: From 1 to C.

    Returns:
        A number in [0, 1].

    Raises:
        ValueError: If shapes, dtypes or class numbers do not fit, or ``k`` is out of range.

    Example:
        >>> logits = torch.tensor([[3.0, 2.0, 1.0], [3.0, 1.0, 2.0]])
        >>> target = torch.tensor([0, 2])
        >>> top_k_accuracy(logits, target), top_k_accuracy(logits, target, k=2)
        (0.5, 1.0)
    """
    logits = checked_predictions(logits, target)
    check_count("k", k)
    if k > logits.shape[1]:
        raise ValueError(f"k must be at most the number of classes, {logits.shape[1]}, got {k}")
    hits = (logits.topk(k, dim=1).indices == target[:, None]).any(dim=1)
    return hits.double().mean().item()


def negative_log_likelihood(logits: Tensor, target: Tensor) -> float:
    r"""Mean negative log-likelihood of the true classes.

    .. math::
        \mathrm{NLL} = -\frac{1}{B} \sum_{b=1}^{B} \log p_{b, y_b}, \qquad p_b = \mathrm{softmax}(z_b)

    with :math:`z` = ``logits`` and :math:`y` = ``target``: a proper score, in nats.

    Args:
        logits: ``[B, C]``, floating point, B >= 1, C >= 2.
        target: ``[B]``, int64 class numbers in [0, C).

    Returns:
        A number >= 0; log(C) for equal logits.

    Raises:
        ValueError: If shapes, dtypes or class numbers do not fit.

    Example:
        >>> logits = torch.tensor([[0.5, 0.5], [0.25, 0.75]]).log()
        >>> round(negative_log_likelihood(logits, torch.tensor([0, 0])), 4)  # (log 2 + log 4) / 2
        1.0397
    """
    logits = checked_predictions(logits, target)
    return functional.cross_entropy(logits.double(), target).item()


def brier_score(logits: Tensor, target: Tensor) -> float:
    r"""Mean squared distance between the predicted distribution and the true class.

    .. math::
        \mathrm{BS} = \frac{1}{B} \sum_{b=1}^{B} \sum_{c=1}^{C} \big(p_{bc} - [c = y_b]\big)^2,
        \qquad p_b = \mathrm{softmax}(z_b)

    with :math:`z` = ``logits`` and :math:`y` = ``target``: the sum over all classes, the mean over the
    samples. It is Brier's own definition; for two classes it is twice the score that looks at one class.

    Args:
        logits: ``[B, C]``, floating point, B >= 1, C >= 2.
        target: ``[B]``, int64 class numbers in [0, C).

    Returns:
        A number in [0, 2]; 1 - 1/C for equal logits.

    Raises:
        ValueError: If shapes, dtypes or class numbers do not fit.

    Example:
        >>> logits = torch.tensor([[0.5, 0.5], [0.25, 0.75]]).log()
        >>> round(brier_score(logits, torch.tensor([0, 0])), 4)  # (2 / 4 + 2 * 9 / 16) / 2
        0.8125

    Reference:
        Brier, "Verification of Forecasts Expressed in Terms of Probability", Monthly Weather Review 78,
        1950.
    """
    probabilities = checked_predictions(logits, target).double().softmax(dim=1)
    truth = functional.one_hot(target, logits.shape[1])
    return (probabilities - truth).square().sum(dim=1).mean().item()


def per_class_accuracy(logits: Tensor, target: Tensor, num_classes: int) -> ClassAccuracies:
    """Accuracy of each class.

    Args:
        logits: ``[B, C]``, floating point, B >= 1, C >= 2. The C outputs may be more than the classes
            of the data: to predict one of the others is wrong like any other mistake.
        target: ``[B]``, int64 class numbers in [0, num_classes).
        num_classes: Number of classes of the data, from 1 to C.

    Returns:
        Accuracy and number of samples of each class.

    Raises:
        ValueError: If shapes, dtypes or class numbers do not fit, or ``num_classes`` is out of range.

    Example:
        >>> logits = torch.tensor([[1.0, 0.0, 0.0], [1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
        >>> per_class_accuracy(logits, torch.tensor([0, 1, 1]), 3).accuracy
        tensor([1.0000, 0.5000,    nan], dtype=torch.float64)
    """
    check_count("num_classes", num_classes)
    logits = checked_predictions(logits, target, num_classes=num_classes)
    if num_classes > logits.shape[1]:
        raise ValueError(f"num_classes must be at most the {logits.shape[1]} outputs, got {num_classes}")
    correct = logits.argmax(dim=1) == target
    rows = torch.stack([correct, torch.ones_like(correct)], dim=1).long()
    right, samples = rows.new_zeros(num_classes, 2).index_add_(0, target, rows).cpu().unbind(dim=1)
    return ClassAccuracies(right.double() / samples, samples)


def worst_classes(logits: Tensor, target: Tensor, num_classes: int, *, k: int = 5) -> list[ClassAccuracy]:
    """The classes with the lowest accuracy.

    Args:
        logits: ``[B, C]``, floating point, B >= 1, C >= 2.
        target: ``[B]``, int64 class numbers in [0, num_classes).
        num_classes: Number of classes of the data, from 1 to C.
        k: How many, at least 1.

    Returns:
        The lowest first, equal ones in the order of their numbers; classes without samples are left out,
        so that there may be fewer than ``k``.

    Raises:
        ValueError: If shapes, dtypes or class numbers do not fit, or ``num_classes`` or ``k`` is out of
            range.

    Example:
        >>> logits = torch.tensor([[1.0, 0.0, 0.0], [1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
        >>> worst_classes(logits, torch.tensor([0, 1, 1]), 3, k=1)
        [ClassAccuracy(label=1, accuracy=0.5, samples=2)]
    """
    check_count("k", k)
    found = per_class_accuracy(logits, target, num_classes)
    table = zip(found.accuracy.tolist(), found.samples.tolist(), strict=True)
    present = [ClassAccuracy(label, *row) for label, row in enumerate(table) if row[1]]
    return sorted(present, key=lambda one: one.accuracy)[:k]


class ReliabilityDiagram(NamedTuple):
    """Confidence and accuracy, bin by bin; all tensors are on the CPU.

    Attributes:
        edges: ``[bins + 1]``, float64: bin i holds the confidences in [edges[i], edges[i + 1]), the last
            one those of exactly 1 as well.
        samples: ``[bins]``, int64: how many are in each bin.
        confidence: ``[bins]``, float64: their mean confidence; NaN where there are none.
        accuracy: ``[bins]``, float64: the share of them that is right; NaN where there are none.

    Example:
        >>> logits, target = torch.tensor([[4.0, 0.0], [0.0, 0.0]]), torch.tensor([0, 0])
        >>> edges, samples, confidence, accuracy = reliability_diagram(logits, target, bins=2)
        >>> samples
        tensor([0, 2])
    """

    edges: Tensor
    samples: Tensor
    confidence: Tensor
    accuracy: Tensor


def expected_calibration_error(logits: Tensor, target: Tensor, *, bins: int = 15) -> float:
    r"""Expected calibration error: how far confidence is from accuracy, on average.

    .. math::
        \mathrm{ECE} = \sum_i \frac{n_i}{B} \, \big| \mathrm{accuracy}_i - \mathrm{confidence}_i \big|

    A sample's confidence is the highest entry of softmax(``logits``). The samples are put into ``bins``
    bins of equal width by their confidence; :math:`n_i` of the B samples are in bin i, with that mean
    confidence and that share of right predictions. The value depends on the number of bins: compare only
    values with the same one.

    It is what torchmetrics calls ``MulticlassCalibrationError(norm="l1")``, down to this detail: a
    confidence of exactly 1, which is what rounding makes of one within 6e-8 of 1 in float32, belongs to no
    bin but to one of its own.

    Args:
        logits: ``[B, C]``, floating point, B >= 1, C >= 2. Logits, not probabilities.
        target: ``[B]``, int64 class numbers in [0, C).
        bins: Number of bins, at least 1.

    Returns:
        A number in [0, 1].

    Raises:
        ValueError: If shapes, dtypes or class numbers do not fit, or ``bins`` is not a positive integer.

    Example:
        >>> logits = torch.tensor([[0.8, 0.2], [0.8, 0.2], [0.1, 0.9]]).log()
        >>> target = torch.tensor([0, 1, 1])  # one of two right at 0.8, one of one at 0.9
        >>> round(expected_calibration_error(logits, target), 4)  # 2/3 * 0.3 + 1/3 * 0.1
        0.2333

    Reference:
        Guo, Pleiss, Sun and Weinberger, "On Calibration of Modern Neural Networks", ICML 2017,
        arXiv 1706.04599, equation 3.
    """
    _, confidence, correct = _sums(logits, target, bins).unbind(dim=1)
    return (correct - confidence).abs().sum().item() / len(target)


def reliability_diagram(logits: Tensor, target: Tensor, *, bins: int = 15) -> ReliabilityDiagram:
    """Mean confidence and accuracy of the samples in each bin of confidence.

    The bins are those of :func:`expected_calibration_error`, but for a confidence of exactly 1, which
    counts in the last bin.

    Args:
        logits: ``[B, C]``, floating point, B >= 1, C >= 2. Logits, not probabilities.
        target: ``[B]``, int64 class numbers in [0, C).
        bins: Number of bins of equal width, at least 1.

    Returns:
        The bins: edges, samples, confidence and accuracy.

    Raises:
        ValueError: If shapes, dtypes or class numbers do not fit, or ``bins`` is not a positive integer.

    Example:
        >>> logits = torch.tensor([[0.8, 0.2], [0.8, 0.2], [0.1, 0.9]]).log()
        >>> diagram = reliability_diagram(logits, torch.tensor([0, 1, 1]), bins=4)
        >>> diagram.samples, diagram.accuracy[3]
        (tensor([0, 0, 0, 3]), tensor(0.6667, dtype=torch.float64))
    """
    table = _sums(logits, target, bins)
    table[bins - 1] += table[bins]
    samples, confidence, correct = table[:bins].unbind(dim=1)
    edges = torch.linspace(0, 1, bins + 1, dtype=torch.float64)
    return ReliabilityDiagram(edges, samples.long(), confidence / samples, correct / samples)


def _sums(logits: Tensor, target: Tensor, bins: int) -> Tensor:
    """Sum up (1, confidence, right or not) over each bin and, in a last row, over the confidences of 1."""
    check_count("bins", bins)
    probabilities = checked_predictions(logits, target).softmax(dim=1)
    confidence, predicted = probabilities.max(dim=1)
    edges = torch.linspace(0, 1, bins + 1, dtype=confidence.dtype, device=confidence.device)
    place = torch.bucketize(confidence, edges, right=True) - 1
    rows = torch.stack([torch.ones_like(confidence), confidence, predicted == target], dim=1).double()
    return rows.new_zeros(bins + 1, 3).index_add_(0, place, rows).cpu()


class Agreement(NamedTuple):
    """What :func:`agreement` found.

    Attributes:
        top1: Share of the samples for which both predict the same class.
        kl: Mean of KL(teacher || student) over the samples, temperature 1, in nats.
        differing: Number of samples for which they predict different classes.
        student_right: Share of the differing samples where the student is right; NaN where none differ.
        teacher_right: Share of them where the teacher is right, likewise.
        neither_right: Share of them where both are wrong, likewise. The three add up to 1.

    Example:
        >>> logits = torch.tensor([[2.0, 0.0]])
        >>> agreement(logits, -logits, torch.tensor([0])).student_right
        1.0
    """

    top1: float
    kl: float
    differing: int
    student_right: float
    teacher_right: float
    neither_right: float


def agreement(student_logits: Tensor, teacher_logits: Tensor, target: Tensor) -> Agreement:
    r"""Compare the predictions of a student with those of its teacher.

    .. math::
        \mathrm{top1} = \frac{1}{B} \sum_{b=1}^{B} [\arg\max z^S_b = \arg\max z^T_b], \qquad
        \mathrm{kl} = \frac{1}{B} \sum_{b=1}^{B} \mathrm{KL}\big(\mathrm{softmax}(z^T_b) \,\|\,
        \mathrm{softmax}(z^S_b)\big)

    with :math:`z^S` = ``student_logits`` and :math:`z^T` = ``teacher_logits``. A student may be right
    where its teacher is not: agreement, also called fidelity, is not accuracy. Sums run in float64.

    Args:
        student_logits: ``[B, C]``, floating point, B >= 1, C >= 2.
        teacher_logits: ``[B, C]``, floating point, for the same samples.
        target: ``[B]``, int64 class numbers in [0, C).

    Returns:
        Agreement, divergence, and who is right where the two differ.

    Raises:
        ValueError: If shapes, dtypes or class numbers do not fit.

    Example:
        >>> student = torch.tensor([[2.0, 0.0], [2.0, 0.0], [0.0, 2.0], [2.0, 0.0]])
        >>> teacher = torch.tensor([[2.0, 0.0], [0.0, 2.0], [2.0, 0.0], [0.0, 2.0]])
        >>> found = agreement(student, teacher, torch.tensor([0, 0, 1, 1]))
        >>> found.top1, found.differing, round(found.student_right, 3), round(found.teacher_right, 3)
        (0.25, 3, 0.667, 0.333)

    Reference:
        Stanton, Izmailov, Kirichenko, Alemi and Wilson, "Does Knowledge Distillation Really Work?",
        NeurIPS 2021, arXiv 2106.05945, section 3.
    """
    student, teacher = checked_logit_pair(student_logits.detach(), teacher_logits.detach())
    check_target(target, student)
    check_labels(target, student.shape[1])
    kl = kd_loss(student.double(), teacher.double(), temperature=1.0)
    ours, theirs = student.argmax(dim=1), teacher.argmax(dim=1)
    differ = ours != theirs
    counts = [differ, differ & (ours == target), differ & (theirs == target)]
    divergence, *sums = torch.stack([kl, *(count.sum().double() for count in counts)]).tolist()
    differing, student_right, teacher_right = map(int, sums)
    share = 1 / differing if differing else float("nan")
    return Agreement(
        top1=1 - differing / len(target),
        kl=divergence,
        differing=differing,
        student_right=student_right * share,
        teacher_right=teacher_right * share,
        neither_right=(differing - student_right - teacher_right) * share,
    )


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
