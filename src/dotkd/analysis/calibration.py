"""Whether confidence can be believed: of the predictions made with 80 %, are 80 % right?"""

from typing import NamedTuple

import torch
from torch import Tensor

from dotkd.analysis._checks import checked_predictions
from dotkd.losses._checks import check_count


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
