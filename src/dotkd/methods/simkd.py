"""SimKD: the teacher's classifier is used again, and the student learns to feed it."""

# ruff: noqa: ARG002  (a method need not read all that it is given)

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

from dotkd.features.paths import feature_paths
from dotkd.features.shapes import as_map, as_vector
from dotkd.features.taps import Taps
from dotkd.losses.feature import hint_loss
from dotkd.methods.base import Method, Outputs, Setting
from dotkd.methods.registry import register

_FACTOR = 2


@register("simkd")
class SimKD(Method):
    r"""The student's last map, through a learned projector, is to be the teacher's, whose classifier follows.

    .. math::
        L = \frac{1}{n} \| P(s) - t \|^2, \qquad z = W \, \mathrm{pool}(P(s)) + b

    with s and t the last maps of student and teacher, P the projector (1x1, 3x3 and 1x1 convolutions, each
    with batch norm and ReLU, at half the teacher's width), n the number of elements, and W, b the teacher's
    classifier, which stays as it is. The task loss, by default not used, is the cross entropy of the logits
    z. What is deployed is the student up to its last map, P, and the classifier.

    Where the teacher does not classify the mean of its last map, the pooled vectors take its place, as maps
    of 1x1, and all three convolutions are 1x1.

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
        Chen et al., "Knowledge Distillation with the Reused Teacher Classifier", CVPR 2022, arXiv 2203.14001.
    """

    needs = ("last", "pooled")
    learns = True
    projector: nn.Sequential
    classifier: nn.Linear

    def __init__(self, task_weight: float = 0.0, distill_weight: float = 1.0, warmup: float = 0.0) -> None:
        super().__init__(task_weight=task_weight, distill_weight=distill_weight, warmup=warmup)
        self._kind = "last"
        self._path = ""

    def prepare(self, setting: Setting) -> None:
        """Copy the teacher's classifier and make the projector.

        Args:
            setting: Both models, and what they return for one batch.

        Raises:
            ValueError: The teacher has no classifier that is one linear map of its pooled vector.
        """
        ours, theirs = setting.student_outputs, setting.teacher_outputs
        self.classifier = _classifier(setting.teacher, theirs)
        last, pooled = theirs.features["last"], as_vector(theirs.features["pooled"])
        mean = as_vector(last)
        whole = mean.shape == pooled.shape and torch.allclose(mean, pooled, rtol=1e-3, atol=1e-4)
        self._kind = "last" if whole else "pooled"
        self._path = setting.student_paths[self._kind]
        widths = [as_map(outputs.features[self._kind]).shape[1] for outputs in (ours, theirs)]
        self.projector = _projector(widths[0], max(1, widths[1] // _FACTOR), widths[1], 3 if whole else 1)

    def task_logits(self, student: Outputs) -> Tensor:
        """The logits of the teacher's classifier.

        Returns:
            ``[B, C]``.
        """
        logits: Tensor = self.classifier(as_vector(self._projected(student)))
        return logits

    def forward(
        self,
        student: Outputs,
        teacher: Outputs,
        target: Tensor,
        *,
        index: Tensor | None = None,
        progress: float = 1.0,
    ) -> Tensor:
        """The raw loss, see :meth:`dotkd.methods.Method.forward`.

        Returns:
            A scalar.
        """
        ours, theirs = self._projected(student), as_map(teacher.features[self._kind])
        size = (min(ours.shape[2], theirs.shape[2]), min(ours.shape[3], theirs.shape[3]))
        return hint_loss(
            functional.adaptive_avg_pool2d(ours, size), functional.adaptive_avg_pool2d(theirs, size)
        )

    def deployable(self, student: nn.Module) -> nn.Module:
        """The student up to its last map, the projector and the teacher's classifier.

        Returns:
            A :class:`SimKDStudent` that shares all its weights with the ones in training.
        """
        return SimKDStudent(student, self._path, self.projector, self.classifier)

    def deployable_like(
        self, student: nn.Module, weights: Mapping[str, Tensor], paths: Mapping[str, str]
    ) -> nn.Module:
        """An untrained module of the same shape, see :meth:`dotkd.methods.Method.deployable_like`.

        Returns:
            A :class:`SimKDStudent`.

        Raises:
            ValueError: The weights are not those of such a module.
        """
        try:
            middle, last = weights["projector.3.weight"], weights["projector.6.weight"]
            first, linear = weights["projector.0.weight"], weights["classifier.weight"]
        except KeyError as error:
            raise ValueError(f"not what SimKD deploys: there is no {error.args[0]!r}") from None
        kind = "last" if middle.shape[-1] > 1 else "pooled"
        path = paths.get(kind) or feature_paths(student, kind)[0]
        projector = _projector(first.shape[1], first.shape[0], last.shape[0], middle.shape[-1])
        return SimKDStudent(student, path, projector, nn.Linear(linear.shape[1], linear.shape[0]))

    def _projected(self, student: Outputs) -> Tensor:
        projected: Tensor = self.projector(as_map(student.features[self._kind]))
        return projected


class SimKDStudent(nn.Module):
    """What SimKD deploys: a student without its classifier, a projector, a teacher's classifier.

    Args:
        student: The student.
        path: Where its last map is.
        projector: From that map to the teacher's width.
        classifier: From the mean of it to logits.
    """

    def __init__(
        self, student: nn.Module, path: str, projector: nn.Sequential, classifier: nn.Linear
    ) -> None:
        super().__init__()
        self.student = student
        self.path = path
        self.projector = projector
        self.classifier = classifier

    def forward(self, images: Tensor) -> Tensor:
        """Compute logits [B, C] of images [B, C, H, W]."""
        _, features = Taps(self.student, {"last": self.path})(images)
        logits: Tensor = self.classifier(as_vector(self.projector(as_map(features["last"]))))
        return logits


def _projector(student: int, middle: int, teacher: int, kernel: int) -> nn.Sequential:
    def block(inside: int, outside: int, size: int) -> list[nn.Module]:
        conv = nn.Conv2d(inside, outside, size, padding=size // 2, bias=False)
        return [conv, nn.BatchNorm2d(outside), nn.ReLU()]

    return nn.Sequential(
        *block(student, middle, 1), *block(middle, middle, kernel), *block(middle, teacher, 1)
    )


def _classifier(teacher: nn.Module, outputs: Outputs) -> nn.Linear:
    """Copy the linear map from the teacher's pooled vector to its logits, and see that it is that."""
    path = getattr(teacher, "classifier_path", "")
    found = teacher.get_submodule(path) if path else None
    if not isinstance(found, nn.Linear | nn.Conv2d):
        raise ValueError(
            f"SimKD uses the teacher's classifier again, and {type(teacher).__name__} does not name one "
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
