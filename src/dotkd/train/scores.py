"""Accuracy and loss of a network on a data set, with the contexts in which a network is measured."""

from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from dotkd._validate import UNLABELLED
from dotkd.data import Images


class Scores(NamedTuple):
    """Accuracy and loss of a classifier.

    Attributes:
        accuracy: Share of images whose class has the highest logit.
        top5: Share of images whose class is among the five highest; 1 with fewer than five classes.
        loss: Mean cross entropy with the true class, in nats: the negative log-likelihood.
    """

    accuracy: float
    top5: float
    loss: float


@torch.no_grad()
def score(model: nn.Module, data: Images, *, batch_size: int = 512, precision: str = "fp32") -> Scores:
    """Measure a classifier, in evaluation mode.

    Args:
        model: Maps images to logits; its modes are restored.
        data: Images and true labels, on the device of the model; those without a label do not count.
        batch_size: Images in a forward pass.
        precision: ``"fp32"``, or ``"bf16"`` for autocast.

    Returns:
        The scores; the device is read once, at the end.

    Example:
        >>> from dotkd.data import ImageData
        >>> digits = ImageData(torch.zeros(4, 1, 2, 2, dtype=torch.uint8), torch.arange(4), tuple("abcd"))
        >>> score(nn.Sequential(nn.Flatten(), nn.Linear(4, 4)), digits).accuracy
        0.25
    """
    device = data.device
    sums = torch.zeros(3, dtype=torch.float64, device=device)
    with in_evaluation_mode(model):
        for batch in data.batches(batch_size):
            with autocast(device, precision):
                logits = model(batch.images)
            logits = logits.float()
            highest = logits.topk(min(5, logits.shape[1])).indices == batch.labels[:, None]
            loss = cross_entropy(logits, batch.labels, reduction="sum", ignore_index=UNLABELLED)
            sums += torch.stack([highest[:, 0].sum().double(), highest.sum().double(), loss.double()])
    accuracy, top5, loss = (sums / (data.labels != UNLABELLED).sum().clamp(min=1)).tolist()
    return Scores(accuracy, top5, loss)


class in_evaluation_mode:  # noqa: N801 (a context manager reads like a phrase)
    """Puts a module into evaluation mode; at the end each of its modules has its earlier mode again."""

    def __init__(self, module: nn.Module) -> None:
        self._modes = [(part, part.training) for part in module.modules()]

    def __enter__(self) -> None:
        for part, _ in self._modes:
            part.training = False

    def __exit__(self, *_: object) -> None:
        for part, training in self._modes:
            part.training = training


def autocast(device: torch.device, precision: str) -> AbstractContextManager[object]:
    """bfloat16 autocast, or no context."""
    return torch.autocast(device.type, dtype=torch.bfloat16) if precision == "bf16" else nullcontext()
