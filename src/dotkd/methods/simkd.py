"""SimKD: the student learns to feed the teacher's classifier; the only method that deploys learned parts."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from dotkd.features import Taps, as_map, as_vector, feature_paths
from dotkd.losses import hint_loss
from dotkd.losses._numerics import pooled_to_the_smaller
from dotkd.methods.base import Method, Outputs, Setting
from dotkd.methods.registry import register

# ruff: noqa: ARG002  (a method need not read all of its inputs)

_FACTOR = 2  # by which the projector's inner layers are narrower than the teacher


@register("simkd")
class SimKD(Method):
    r"""SimKD: the teacher's classifier on a learned projection of the student's last map.

    .. math::
        L = \frac{1}{n} \| P(s) - t \|^2, \qquad z = W \, \mathrm{pool}(P(s)) + b

    with s and t the last maps of student and teacher, P the projector (1x1, 3x3 and 1x1 convolutions, each
    with batch norm and ReLU, at half the teacher's width), n the number of elements, and W, b the teacher's
    classifier, which does not learn. The task loss, not used by default, is the cross entropy of the logits
    z. The deployed module is the student up to its last map, P, and the classifier.

    Where the teacher's classifier does not read the mean of its last map, the pooled vectors take the place
    of the maps, as maps of 1x1, and all three convolutions are 1x1.

    Args:
        task_weight: Weight of the cross entropy, >= 0.
        distill_weight: Weight of the distillation loss, >= 0.
        warmup: Share of the run over which ``distill_weight`` rises from zero.

    Raises:
        ValueError: If an option is out of range.

    Example:
        >>> SimKD().task_weight
        0.0

    Reference:
        Chen et al., CVPR 2022, arXiv 2203.14001.
    """

    needs = ("last", "pooled")
    learns = True
    projector: nn.Sequential
    classifier: nn.Linear

    def __init__(self, task_weight: float = 0.0, distill_weight: float = 1.0, warmup: float = 0.0) -> None:
        super().__init__(task_weight=task_weight, distill_weight=distill_weight, warmup=warmup)
        self._kind = "last"
        self._path = ""

    @property
    def reads_classifier(self) -> bool:
        """True: its weights are copied."""
        return True

    def prepare(self, setting: Setting) -> None:
        """Copy the teacher's classifier, a linear layer on its pooled vector, and make the projector."""
        ours, theirs = setting.student_outputs, setting.teacher_outputs
        self.classifier = _copied_classifier(setting.teacher, theirs)
        mean, pooled = as_vector(theirs.features["last"]), as_vector(theirs.features["pooled"])
        reads_mean = mean.shape == pooled.shape and torch.allclose(mean, pooled, rtol=1e-3, atol=1e-4)
        self._kind = "last" if reads_mean else "pooled"
        self._path = setting.student_paths[self._kind]
        widths = [as_map(outputs.features[self._kind]).shape[1] for outputs in (ours, theirs)]
        hidden, kernel = max(1, widths[1] // _FACTOR), 3 if reads_mean else 1
        self.projector = _projector(widths[0], hidden, widths[1], kernel)

    def task_logits(self, student: Outputs) -> Tensor:
        """The logits ``[B, C]`` of the teacher's classifier on the projected student."""
        logits: Tensor = self.classifier(as_vector(self._projected(student)))
        return logits

    def forward(self, student: Outputs, teacher: Outputs, target: Tensor, **_: Any) -> Tensor:
        """The raw loss, see :meth:`dotkd.methods.Method.forward`."""
        ours, theirs = self._projected(student), as_map(teacher.features[self._kind])
        return hint_loss(*pooled_to_the_smaller(ours, theirs))

    def deployable(self, student: nn.Module) -> nn.Module:
        """The student up to its last map, the projector and the classifier, with the weights in training."""
        return _SimKDStudent(student, self._path, self.projector, self.classifier)

    def deployable_like(
        self, student: nn.Module, weights: Mapping[str, Tensor], paths: Mapping[str, str]
    ) -> nn.Module:
        """Make an untrained module, see :meth:`dotkd.methods.Method.deployable_like`."""
        try:
            middle, last = weights["projector.3.weight"], weights["projector.6.weight"]
            first, linear = weights["projector.0.weight"], weights["classifier.weight"]
        except KeyError as error:
            raise ValueError(
                f"weights must be those of SimKD's deployed module, got none named {error.args[0]!r}"
            ) from None
        kind = "last" if middle.shape[-1] > 1 else "pooled"
        path = paths.get(kind) or feature_paths(student, kind)[0]
        projector = _projector(first.shape[1], first.shape[0], last.shape[0], middle.shape[-1])
        return _SimKDStudent(student, path, projector, nn.Linear(linear.shape[1], linear.shape[0]))

    def _projected(self, student: Outputs) -> Tensor:
        projected: Tensor = self.projector(as_map(student.features[self._kind]))
        return projected


class _SimKDStudent(nn.Module):
    """The deployed module: a student without its classifier, a projector, the teacher's classifier."""

    def __init__(
        self, student: nn.Module, path: str, projector: nn.Sequential, classifier: nn.Linear
    ) -> None:
        super().__init__()
        self.student = student
        self.path = path
        self.projector = projector
        self.classifier = classifier

    def forward(self, images: Tensor) -> Tensor:
        _, features = Taps(self.student, {"last": self.path})(images)
        logits: Tensor = self.classifier(as_vector(self.projector(as_map(features["last"]))))
        return logits


def _projector(student: int, hidden: int, teacher: int, kernel: int) -> nn.Sequential:
    def block(inside: int, outside: int, size: int) -> list[nn.Module]:
        conv = nn.Conv2d(inside, outside, size, padding=size // 2, bias=False)
        return [conv, nn.BatchNorm2d(outside), nn.ReLU()]

    return nn.Sequential(
        *block(student, hidden, 1), *block(hidden, hidden, kernel), *block(hidden, teacher, 1)
    )


def _copied_classifier(teacher: nn.Module, outputs: Outputs) -> nn.Linear:
    """A frozen copy of the teacher's classifier, checked to map its pooled vector to its logits."""
    path = getattr(teacher, "classifier_path", "")
    found = teacher.get_submodule(path) if path else None
    if not isinstance(found, nn.Linear | nn.Conv2d):
        raise ValueError(
            f"SimKD reuses the teacher's classifier, but {type(teacher).__name__} does not name one "
            "linear layer in classifier_path"
        )
    weight = found.weight.detach().flatten(1)
    linear = nn.Linear(weight.shape[1], weight.shape[0]).to(weight)
    linear.weight.data.copy_(weight)
    linear.bias.data.copy_(torch.zeros(len(weight)) if found.bias is None else found.bias.detach())
    pooled = as_vector(outputs.features["pooled"])
    fits = pooled.shape[1] == linear.in_features
    if not fits or not torch.allclose(
        linear(pooled.to(weight)), outputs.logits.to(weight), rtol=1e-3, atol=1e-3
    ):
        raise ValueError(
            f"SimKD: the logits of {type(teacher).__name__} are not its layer {path!r} on its pooled vector"
        )
    return linear.requires_grad_(False)
