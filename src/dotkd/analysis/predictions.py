"""Quality of predictions: accuracy, proper scores, calibration, agreement with a teacher, robustness."""

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

# ---------------------------------------------------------------- accuracy


def top_k_accuracy(logits: Tensor, target: Tensor, *, k: int = 1) -> float:
    """Top-k accuracy: share of the samples whose class has one of the k highest logits.

    Args:
        logits: ``[B, C]``, floating point, B >= 1, C >= 2.
        target: ``[B]``, int64 class numbers in [0, C).
        k: From 1 to C; 1 is plain accuracy.

    Returns:
        A number in [0, 1].

    Raises:
        ValueError: Shapes, dtypes or class numbers do not match, or ``k`` is out of range.

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


class ClassAccuracies(NamedTuple):
    """Accuracy and number of samples of each class.

    Attributes:
        accuracy: ``[num_classes]``, float64, on the CPU: share of the samples of a class that are predicted
            as this class (recall); NaN for a class without samples.
        samples: ``[num_classes]``, int64, on the CPU: number of samples of a class.

    Example:
        >>> accuracy, samples = per_class_accuracy(torch.eye(2), torch.tensor([0, 0]), 2)
        >>> samples
        tensor([2, 0])
    """

    accuracy: Tensor
    samples: Tensor


def per_class_accuracy(logits: Tensor, target: Tensor, num_classes: int) -> ClassAccuracies:
    """Per-class accuracy (recall).

    Args:
        logits: ``[B, C]``, floating point, B >= 1, C >= 2. C may exceed the number of classes of the data;
            predictions of the extra outputs are wrong.
        target: ``[B]``, int64 class numbers in [0, num_classes).
        num_classes: Number of classes of the data, from 1 to C.

    Returns:
        Accuracy and number of samples of each class.

    Raises:
        ValueError: Shapes, dtypes or class numbers do not match, or ``num_classes`` is out of range.

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


class ClassAccuracy(NamedTuple):
    """Accuracy and number of samples of one class.

    Attributes:
        label: The class number.
        accuracy: Share of its samples that are predicted as this class, in [0, 1].
        samples: Number of its samples, >= 1.

    Example:
        >>> worst_classes(torch.eye(2), torch.tensor([0, 0]), 2, k=1)
        [ClassAccuracy(label=0, accuracy=0.5, samples=2)]
    """

    label: int
    accuracy: float
    samples: int


def worst_classes(logits: Tensor, target: Tensor, num_classes: int, *, k: int = 5) -> list[ClassAccuracy]:
    """Worst classes: those with the lowest accuracy.

    Args:
        logits: ``[B, C]``, floating point, B >= 1, C >= 2.
        target: ``[B]``, int64 class numbers in [0, num_classes).
        num_classes: Number of classes of the data, from 1 to C.
        k: Number of classes to return, >= 1.

    Returns:
        Lowest accuracy first, ties in the order of class numbers. Classes without samples are left out, so
        there may be fewer than ``k``.

    Raises:
        ValueError: Shapes, dtypes or class numbers do not match, or ``num_classes`` or ``k`` is out of
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


# ---------------------------------------------------------------- proper scores


def negative_log_likelihood(logits: Tensor, target: Tensor) -> float:
    r"""Negative log-likelihood of the true classes, mean over the samples.

    .. math::
        \mathrm{NLL} = -\frac{1}{B} \sum_{b=1}^{B} \log p_{b, y_b}, \qquad p_b = \mathrm{softmax}(z_b)

    with :math:`z` = ``logits`` and :math:`y` = ``target``, in nats.

    Args:
        logits: ``[B, C]``, floating point, B >= 1, C >= 2.
        target: ``[B]``, int64 class numbers in [0, C).

    Returns:
        A number >= 0; log(C) for equal logits.

    Raises:
        ValueError: Shapes, dtypes or class numbers do not match.

    Example:
        >>> logits = torch.tensor([[0.5, 0.5], [0.25, 0.75]]).log()
        >>> round(negative_log_likelihood(logits, torch.tensor([0, 0])), 4)  # (log 2 + log 4) / 2
        1.0397
    """
    logits = checked_predictions(logits, target)
    return functional.cross_entropy(logits.double(), target).item()


def brier_score(logits: Tensor, target: Tensor) -> float:
    r"""Brier score: mean squared distance between predicted distribution and one-hot class.

    .. math::
        \mathrm{BS} = \frac{1}{B} \sum_{b=1}^{B} \sum_{c=1}^{C} \big(p_{bc} - [c = y_b]\big)^2,
        \qquad p_b = \mathrm{softmax}(z_b)

    with :math:`z` = ``logits`` and :math:`y` = ``target``: the sum over all classes, which is Brier's own
    definition. For two classes it is twice the score of one class.

    Args:
        logits: ``[B, C]``, floating point, B >= 1, C >= 2.
        target: ``[B]``, int64 class numbers in [0, C).

    Returns:
        A number in [0, 2]; 1 - 1/C for equal logits.

    Raises:
        ValueError: Shapes, dtypes or class numbers do not match.

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


# ---------------------------------------------------------------- calibration


class ReliabilityDiagram(NamedTuple):
    """Confidence and accuracy of each bin of confidence; tensors on the CPU.

    Attributes:
        edges: ``[bins + 1]``, float64: bin i holds confidences in [edges[i], edges[i + 1]); the last bin
            includes 1.
        samples: ``[bins]``, int64: number of samples.
        confidence: ``[bins]``, float64: mean confidence; NaN for an empty bin.
        accuracy: ``[bins]``, float64: share of right predictions; NaN for an empty bin.

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
    r"""Expected calibration error (ECE): mean gap between confidence and accuracy.

    .. math::
        \mathrm{ECE} = \sum_i \frac{n_i}{B} \, \big| \mathrm{accuracy}_i - \mathrm{confidence}_i \big|

    The confidence of a sample is the highest entry of softmax(``logits``). Samples are put into ``bins`` bins
    of equal width by confidence; bin i holds :math:`n_i` of the B samples, with their mean confidence and
    their share of right predictions. The value depends on ``bins``: compare only values of the same one.

    Equal to torchmetrics' ``MulticlassCalibrationError(norm="l1")``, including one detail: a confidence of
    exactly 1 (in float32: within 6e-8 of 1) has a bin of its own.

    Args:
        logits: ``[B, C]``, floating point, B >= 1, C >= 2. Logits, not probabilities.
        target: ``[B]``, int64 class numbers in [0, C).
        bins: Number of bins of equal width, >= 1.

    Returns:
        A number in [0, 1].

    Raises:
        ValueError: Shapes, dtypes or class numbers do not match, or ``bins`` is not an integer >= 1.

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
    """Reliability diagram: mean confidence and accuracy in each bin of confidence.

    The bins are those of :func:`expected_calibration_error`, except that a confidence of exactly 1 counts in
    the last bin.

    Args:
        logits: ``[B, C]``, floating point, B >= 1, C >= 2. Logits, not probabilities.
        target: ``[B]``, int64 class numbers in [0, C).
        bins: Number of bins of equal width, >= 1.

    Returns:
        Edges, number of samples, confidence and accuracy of the bins.

    Raises:
        ValueError: Shapes, dtypes or class numbers do not match, or ``bins`` is not an integer >= 1.

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
    """Sums of (1, confidence, right) ``[bins + 1, 3]`` over each bin; the last row is confidence 1."""
    check_count("bins", bins)
    probabilities = checked_predictions(logits, target).softmax(dim=1)
    confidence, predicted = probabilities.max(dim=1)
    edges = torch.linspace(0, 1, bins + 1, dtype=confidence.dtype, device=confidence.device)
    place = torch.bucketize(confidence, edges, right=True) - 1
    rows = torch.stack([torch.ones_like(confidence), confidence, predicted == target], dim=1).double()
    return rows.new_zeros(bins + 1, 3).index_add_(0, place, rows).cpu()


# ---------------------------------------------------------------- agreement


class Agreement(NamedTuple):
    """Agreement of a student with its teacher; the result of :func:`agreement`.

    Attributes:
        top1: Share of the samples with the same predicted class.
        kl: Mean of KL(teacher || student) over the samples at temperature 1, in nats.
        differing: Number of samples with different predicted classes.
        student_right: Share of the differing samples where the student is right; NaN if none differ.
        teacher_right: Share of the differing samples where the teacher is right; NaN if none differ.
        neither_right: Share of the differing samples where both are wrong; NaN if none differ.

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
    r"""Agreement (fidelity) of a student's predictions with its teacher's.

    .. math::
        \mathrm{top1} = \frac{1}{B} \sum_{b=1}^{B} [\arg\max z^S_b = \arg\max z^T_b], \qquad
        \mathrm{kl} = \frac{1}{B} \sum_{b=1}^{B} \mathrm{KL}\big(\mathrm{softmax}(z^T_b) \,\|\,
        \mathrm{softmax}(z^S_b)\big)

    with :math:`z^S` = ``student_logits`` and :math:`z^T` = ``teacher_logits``. Agreement is not accuracy: a
    student may be right where its teacher is wrong. Sums run in float64.

    Args:
        student_logits: ``[B, C]``, floating point, B >= 1, C >= 2.
        teacher_logits: ``[B, C]``, floating point, for the same samples.
        target: ``[B]``, int64 class numbers in [0, C).

    Returns:
        Agreement, divergence, and the shares of right predictions where the two differ.

    Raises:
        ValueError: Shapes, dtypes or class numbers do not match.

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


# ---------------------------------------------------------------- robustness


CORRUPTIONS: dict[str, tuple[float, float, float, float, float]] = {
    "brightness": (0.1, 0.2, 0.3, 0.4, 0.5),
    "contrast": (0.8, 0.6, 0.45, 0.3, 0.15),
    "gaussian_blur": (0.5, 0.75, 1.0, 1.5, 2.0),
    "gaussian_noise": (0.02, 0.04, 0.08, 0.12, 0.2),
}
"""Parameter of each kind of corruption of :func:`corrupt` at strengths 1 to 5."""


def corrupt(images: Tensor, kind: str, strength: int, *, generator: torch.Generator) -> Tensor:
    r"""Image corruption of one kind and strength.

    With x an image and s the number in :data:`CORRUPTIONS` for ``kind`` and ``strength``, clipped to [0, 1]:

    - ``"brightness"``: :math:`x + s`;
    - ``"contrast"``: :math:`\bar x + s (x - \bar x)`, with :math:`\bar x` the image's mean over channels
      and pixels;
    - ``"gaussian_blur"``: a Gaussian of standard deviation s pixels, mirrored at the edges. On the pixel grid
      it is :math:`\exp(-\tfrac{s^2}{2} L)` along rows and columns, L being the Laplacian of a path: the
      weights are positive, and the variance is :math:`s^2` for small s too;
    - ``"gaussian_noise"``: :math:`x + s n`, with n normal, independent for each pixel and channel.

    The kinds are four of those in ImageNet-C and CIFAR-C, the strengths are our own: results are not
    comparable with theirs.

    Args:
        images: ``[B, C, H, W]``, floating point, in [0, 1], not empty; not changed.
        kind: A key of :data:`CORRUPTIONS`.
        strength: From 1 to 5.
        generator: Source of the noise, on any device; the other kinds draw nothing. The same state gives the
            same noise, scaled by s, at every strength.

    Returns:
        Images of the same shape, dtype and device; float16 and bfloat16 are computed in float32.

    Raises:
        ValueError: ``images`` is not such a batch, or kind or strength is unknown.

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
        # Drawn on the generator's device: one seed gives the same noise on every device of the images.
        noise = torch.randn(clean.shape, generator=generator, device=generator.device)
        changed = clean + size * noise.to(clean)
    return changed.clamp(0, 1).to(images.dtype)


def _blur(images: Tensor, sigma: float) -> Tensor:
    down, across = (_smoothing(length, sigma).to(images) for length in images.shape[2:])
    return down @ images @ across


def _smoothing(length: int, sigma: float) -> Tensor:
    """Symmetric matrix ``[length, length]`` that smooths a row of pixels."""
    unit = torch.eye(length, dtype=torch.float64)
    steps = unit[1:] - unit[:-1]
    return torch.matrix_exp(-(sigma**2) / 2 * steps.T @ steps)


def fgsm(loss_of_images: Callable[[Tensor], Tensor], images: Tensor, *, epsilon: float) -> Tensor:
    r"""Fast gradient sign method (FGSM): the step in a box around each image that raises the loss most.

    .. math::
        x' = \mathrm{clip}_{[0, 1]}\big(x + \epsilon \, \mathrm{sign}(\nabla_x L(x))\big)

    with x = ``images``, L = ``loss_of_images`` and :math:`\epsilon` = ``epsilon``: to first order, no other
    change of at most :math:`\epsilon` in each pixel raises L more. A weak attack: robustness to it does not
    imply robustness to a stronger one. The loss is evaluated once, in an ordinary forward pass (networks
    should be in evaluation mode); ``.grad`` is not touched.

    Args:
        loss_of_images: Maps a batch like ``images`` to a scalar loss. Mean and sum over the batch give the
            same attack as long as samples do not influence each other.
        images: ``[B, C, H, W]``, floating point, in [0, 1], not empty; not changed.
        epsilon: Largest change of a pixel, >= 0, in units of the images: 8/255 is usual.

    Returns:
        Adversarial images of the same shape, dtype and device, detached.

    Raises:
        ValueError: ``images`` is not such a batch, ``epsilon`` is negative, or the loss is not a scalar that
            depends on the images.

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
