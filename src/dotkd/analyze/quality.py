"""The part ``quality``: calibration, robustness, weak classes and agreement with the teacher."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from dotkd.analysis import (
    CORRUPTIONS,
    agreement,
    brier_score,
    corrupt,
    expected_calibration_error,
    fgsm,
    negative_log_likelihood,
    reliability_diagram,
    worst_classes,
)
from dotkd.analyze.subject import finite, plain
from dotkd.data import Batch, Images
from dotkd.data.randomness import random_stream
from dotkd.distiller import Distiller
from dotkd.train.session import Session

_EPSILON = 2 / 255


def quality(session: Session, data: Images) -> dict[str, Any]:
    """Calibration, proper scores, robustness, weak classes; with a teacher, agreement with it."""
    model, classes = session.deployable.eval(), len(data.classes)
    logits, target = _logits(model, data)
    diagram = reliability_diagram(logits, target)
    found: dict[str, Any] = {
        "ece": expected_calibration_error(logits, target),
        "nll": negative_log_likelihood(logits, target),
        "brier": brier_score(logits, target),
        "reliability": {
            "confidence": plain(diagram.confidence),
            "accuracy": plain(diagram.accuracy),
            "count": diagram.samples.tolist(),
        },
        "worst_classes": [
            {"class": data.classes[row.label], "accuracy": row.accuracy, "count": row.samples}
            for row in worst_classes(logits, target, classes)
        ],
        "robustness": _robustness(model, data),
    }
    if isinstance(session.objective, Distiller):
        teach = session.objective.teach
        theirs, _ = _logits(lambda images: teach(images).logits, data)
        if theirs.shape == logits.shape:
            both = agreement(logits, theirs, target)
            found["agreement"] = {
                "top1": both.top1,
                "kl": both.kl,
                "student_right": finite(both.student_right),
                "teacher_right": finite(both.teacher_right),
                "neither": finite(both.neither_right),
            }
    return found


def _robustness(model: nn.Module, data: Images) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for kind in CORRUPTIONS:
        found[kind] = []
        for strength in range(1, 6):
            noise = random_stream(0, f"analysis.{kind}")
            changed = partial(_corrupted, kind=kind, strength=strength, generator=noise)
            found[kind].append(_accuracy(model, data, changed))

    def attack(batch: Batch) -> Tensor:
        return fgsm(lambda images: cross_entropy(model(images), batch.labels), batch.images, epsilon=_EPSILON)

    found["fgsm"] = {"epsilon": _EPSILON, "accuracy": _accuracy(model, data, attack)}
    return found


def _corrupted(batch: Batch, *, kind: str, strength: int, generator: torch.Generator) -> Tensor:
    return corrupt(batch.images, kind, strength, generator=generator)


def _accuracy(model: nn.Module, data: Images, change: Callable[[Batch], Tensor]) -> float:
    right = torch.zeros((), device=data.device)
    for batch in data.batches(256):
        images = change(batch)
        with torch.no_grad():
            right += (model(images).argmax(dim=1) == batch.labels).sum()
    return float(right) / len(data)


@torch.no_grad()
def _logits(model: Callable[[Tensor], Tensor], data: Images) -> tuple[Tensor, Tensor]:
    pairs = [(model(batch.images).float(), batch.labels) for batch in data.batches(256)]
    logits, labels = (torch.cat(each) for each in zip(*pairs, strict=True))
    return logits, labels
