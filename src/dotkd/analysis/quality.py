"""How good predictions are: accuracy, over all samples and class by class, and two proper scores.

Here belong numbers that logits and labels alone decide. All are read from the device once, sums run in
float64.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from dotkd.analysis._checks import checked_predictions
from dotkd.losses._checks import check_count


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
