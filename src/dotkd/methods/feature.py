"""Methods on feature maps and pooled vectors."""

from typing import Any

import torch
from torch import Tensor, nn

from dotkd.features.shapes import Aligner, as_map, as_vector, make_aligner
from dotkd.losses.contrast import ContrastMemory
from dotkd.losses.feature import (
    attention_transfer_loss,
    hierarchical_context_loss,
    hint_loss,
    kdsvd_loss,
    nst_loss,
)
from dotkd.losses.learned import (
    OverhaulConnectors,
    ReviewFusion,
    VariationalRegressor,
    margin_from_batch_norm,
)
from dotkd.losses.relation import pkt_loss, rkd_loss, similarity_loss
from dotkd.methods.base import Method, Outputs, Setting
from dotkd.methods.registry import register

# ruff: noqa: ARG001  (a method need not read all that it is given)


def maps(outputs: Outputs, kind: str) -> list[Tensor]:
    """Return the features of a kind as maps, from the images to the logits."""
    return [as_map(feature) for feature in outputs.group(kind)]


@register("at", needs=("stages",), distill_weight=1000.0)
def attention_transfer(student: Outputs, teacher: Outputs, target: Tensor, *, p: float = 2.0) -> Tensor:
    """Attention transfer between all stages, see :func:`dotkd.losses.attention_transfer_loss`.

    Args:
        student: The student's outputs.
        teacher: The teacher's.
        target: Not read.
        p: Power of the activations, > 0.

    Returns:
        A scalar.

    Reference:
        Zagoruyko and Komodakis, ICLR 2017, arXiv 1612.03928; the weight 1000 is that of the published code.
    """
    return attention_transfer_loss(maps(student, "stages"), maps(teacher, "stages"), p=p)


@register("nst", needs=("stages",), distill_weight=50.0)
def neuron_selectivity(student: Outputs, teacher: Outputs, target: Tensor) -> Tensor:
    """Neuron selectivity transfer between all stages, see :func:`dotkd.losses.nst_loss`.

    Args:
        student: The student's outputs.
        teacher: The teacher's.
        target: Not read.

    Returns:
        A scalar.

    Reference:
        Huang and Wang, 2017, arXiv 1707.01219; the weight 50 is that of the published code.
    """
    return nst_loss(maps(student, "stages"), maps(teacher, "stages"))


@register("kdsvd", needs=("stages",))
def singular_vectors(student: Outputs, teacher: Outputs, target: Tensor, *, k: int = 1) -> Tensor:
    """Singular vectors of neighbouring stages, see :func:`dotkd.losses.kdsvd_loss`.

    Args:
        student: The student's outputs.
        teacher: The teacher's.
        target: Not read.
        k: How many singular vectors, >= 1.

    Returns:
        A scalar.

    Reference:
        Lee, Kim and Song, ECCV 2018, arXiv 1807.06819.
    """
    return kdsvd_loss(maps(student, "stages"), maps(teacher, "stages"), k=k)


@register("sp", needs=("last",), distill_weight=3000.0)
def similarity_preserving(student: Outputs, teacher: Outputs, target: Tensor) -> Tensor:
    """Which images of the batch are alike, by the last stage, see :func:`dotkd.losses.similarity_loss`.

    Args:
        student: The student's outputs.
        teacher: The teacher's.
        target: Not read.

    Returns:
        A scalar.

    Reference:
        Tung and Mori, ICCV 2019, arXiv 1907.09682; the weight 3000 is that of the published code.
    """
    return similarity_loss([student.features["last"]], [teacher.features["last"]])


# ruff: noqa: ARG001  (a method need not read all that it is given)


@register("pkt", needs=("pooled",), distill_weight=30000.0)
def probabilistic_transfer(
    student: Outputs, teacher: Outputs, target: Tensor, *, eps: float = 1e-7
) -> Tensor:
    """Probabilistic knowledge transfer of the pooled vectors, see :func:`dotkd.losses.pkt_loss`.

    Args:
        student: The student's outputs.
        teacher: The teacher's.
        target: Not read.
        eps: Keeps divisions and logarithms finite, > 0.

    Returns:
        A scalar.

    Reference:
        Passalis and Tefas, ECCV 2018, arXiv 1803.10837; the weight 30000 is that of the published code.
    """
    ours, theirs = as_vector(student.features["pooled"]), as_vector(teacher.features["pooled"])
    return pkt_loss(ours, theirs, eps=eps)


@register("rkd", needs=("pooled",))
def relational(
    student: Outputs,
    teacher: Outputs,
    target: Tensor,
    *,
    distance_weight: float = 25.0,
    angle_weight: float = 50.0,
) -> Tensor:
    """Distances and angles between the pooled vectors, see :func:`dotkd.losses.rkd_loss`.

    Args:
        student: The student's outputs.
        teacher: The teacher's.
        target: Not read.
        distance_weight: Weight of the distances, >= 0.
        angle_weight: Weight of the angles, >= 0.

    Returns:
        A scalar.

    Reference:
        Park, Kim, Lu and Cho, CVPR 2019, arXiv 1904.05068.
    """
    ours, theirs = as_vector(student.features["pooled"]), as_vector(teacher.features["pooled"])
    return rkd_loss(ours, theirs, distance_weight=distance_weight, angle_weight=angle_weight)


# ruff: noqa: ARG002  (a method need not read all that it is given)


@register("fitnet")
class FitNet(Method):
    """A hint for one stage, see :func:`dotkd.losses.hint_loss`.

    The student's stage goes through a regressor to the teacher's shape; the regressor learns with the
    student, from the distillation loss alone. (FitNets train with the hint first; as is usual by now, both
    losses are taken from the first step on.)

    Args:
        stage: Which stage behind the stem, from 1; the published recipe takes the second.
        task_weight: Weight of the cross entropy, >= 0.
        distill_weight: Weight of the distillation loss, >= 0.
        warmup: Share of the run over which ``distill_weight`` rises from zero.

    Raises:
        ValueError: If an option is out of range.

    Example:
        >>> FitNet(stage=1).needs
        ('stages',)

    Reference:
        Romero et al., ICLR 2015, arXiv 1412.6550; the weight 100 is that of the published code.
    """

    needs = ("stages",)
    learns = True
    regressor: Aligner

    def __init__(
        self, stage: int = 2, task_weight: float = 1.0, distill_weight: float = 100.0, warmup: float = 0.0
    ) -> None:
        super().__init__(task_weight=task_weight, distill_weight=distill_weight, warmup=warmup)
        if stage < 1:
            raise ValueError(f"stage must be at least 1, got {stage}")
        self.stage = stage

    def prepare(self, setting: Setting) -> None:
        """Make the regressor.

        Args:
            setting: What both models return for one batch.

        Raises:
            ValueError: There are not so many stages.
        """
        student, teacher = setting.student_outputs.group("stages"), setting.teacher_outputs.group("stages")
        if len(student) < self.stage:
            raise ValueError(
                f"stage must be at most {len(student)}, the stages of these models, got {self.stage}"
            )
        self.regressor = make_aligner(student[self.stage - 1], teacher[self.stage - 1])

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
        ours, theirs = (outputs.group("stages")[self.stage - 1] for outputs in (student, teacher))
        return hint_loss(self.regressor(ours), self.regressor.target(theirs))


# ruff: noqa: ARG002  (a method need not read all that it is given)


@register("ofd")
class OFD(Method):
    """The overhaul of feature distillation, see :func:`dotkd.losses.ofd_loss`.

    The margins come from the batch norms that the teacher names in ``norm_paths``, one for each stage, as the
    zoo does where the published code has them; elsewhere they are measured on the teacher's features in the
    first batch. A model without ``preacts`` gives its ``stages``. (The published code fails for MobileNetV2.)

    Args:
        task_weight: Weight of the cross entropy, >= 0.
        distill_weight: Weight of the distillation loss, >= 0.
        warmup: Share of the run over which ``distill_weight`` rises from zero.

    Raises:
        ValueError: If an option is out of range.

    Example:
        >>> OFD().distill_weight
        0.001

    Reference:
        Heo et al., ICCV 2019, arXiv 1904.01866; the weight 0.001 is that of the published code.
    """

    needs = ("preacts",)
    learns = True
    connectors: OverhaulConnectors

    def __init__(self, task_weight: float = 1.0, distill_weight: float = 1e-3, warmup: float = 0.0) -> None:
        super().__init__(task_weight=task_weight, distill_weight=distill_weight, warmup=warmup)

    def prepare(self, setting: Setting) -> None:
        """Make a connector for each stage.

        Args:
            setting: What both models return for one batch.
        """
        ours, theirs = maps(setting.student_outputs, "preacts"), maps(setting.teacher_outputs, "preacts")
        preacts = getattr(setting.teacher, "preact_paths", ())[1:]  # the first is the stem's
        norms = dict(zip(preacts, getattr(setting.teacher, "norm_paths", ()), strict=False))
        paths = [path for name, path in setting.teacher_paths.items() if name.startswith("preacts.")]
        margins = [
            _margin(setting.teacher, norms.get(path), each) for path, each in zip(paths, theirs, strict=True)
        ]
        widths = [[feature.shape[1] for feature in features] for features in (ours, theirs)]
        self.connectors = OverhaulConnectors(widths[0], widths[1], margins)

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
        loss: Tensor = self.connectors(maps(student, "preacts"), maps(teacher, "preacts"))
        return loss


def _margin(teacher: nn.Module, path: str | None, feature: Tensor) -> Tensor | None:
    """The margin of a batch norm; None where none is named, or none of the feature's width."""
    norm = None if path is None else teacher.get_submodule(path)
    if not isinstance(norm, nn.BatchNorm2d) or not norm.affine or norm.num_features != feature.shape[1]:
        return None
    return margin_from_batch_norm(norm.weight.detach().cpu(), norm.bias.detach().cpu())


# ruff: noqa: ARG002  (a method need not read all that it is given)


@register("reviewkd")
class ReviewKD(Method):
    """Knowledge review, see :func:`dotkd.losses.hierarchical_context_loss`.

    All stages and the pooled vector of the student go through a pyramid of attention-based fusions
    (:class:`dotkd.losses.ReviewFusion`), which learns from the distillation loss alone, and are compared with
    the teacher's, whose stages are taken in front of their last ReLU. The published CIFAR-100 recipe ramps
    the weight over the first 20 of 240 epochs, ``warmup=20/240``, and chooses it for each pair of models.

    Args:
        student_preacts: Take the student's stages in front of their last ReLU, too.
        task_weight: Weight of the cross entropy, >= 0.
        distill_weight: Weight of the distillation loss, >= 0.
        warmup: Share of the run over which ``distill_weight`` rises from zero.

    Raises:
        ValueError: If an option is out of range.

    Example:
        >>> ReviewKD(distill_weight=5.0, warmup=20 / 240).ramp(0.0)
        0.0

    Reference:
        Chen, Liu, Zhao and Jia, CVPR 2021, arXiv 2104.09044.
    """

    needs = ("stages", "preacts", "pooled")
    learns = True
    fusion: ReviewFusion

    def __init__(
        self,
        student_preacts: bool = False,
        task_weight: float = 1.0,
        distill_weight: float = 1.0,
        warmup: float = 0.0,
    ) -> None:
        super().__init__(task_weight=task_weight, distill_weight=distill_weight, warmup=warmup)
        self.student_preacts = student_preacts

    def prepare(self, setting: Setting) -> None:
        """Make the pyramid.

        Args:
            setting: What both models return for one batch.
        """
        ours, theirs = self._ours(setting.student_outputs), _levels(setting.teacher_outputs, "preacts")
        self.fusion = ReviewFusion(
            [feature.shape[1] for feature in ours],
            [feature.shape[1] for feature in theirs],
            [(feature.shape[2], feature.shape[3]) for feature in theirs],
        )

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
        return hierarchical_context_loss(self.fusion(self._ours(student)), _levels(teacher, "preacts"))

    def _ours(self, student: Outputs) -> list[Tensor]:
        return _levels(student, "preacts" if self.student_preacts else "stages")


def _levels(outputs: Outputs, kind: str) -> list[Tensor]:
    return [*maps(outputs, kind), as_map(outputs.features["pooled"])]


# ruff: noqa: ARG002  (a method need not read all that it is given)


@register("vid")
class VID(Method):
    """Variational information distillation of all stages, see :func:`dotkd.losses.vid_loss`.

    Each stage has a regressor and a variance for each channel, all of them learned. (The published code
    leaves the variances out of the optimizer, so that they stay what they are at the start.)

    Args:
        initial_variance: Of all channels at the start, > 0.
        eps: Added to the variances, > 0.
        task_weight: Weight of the cross entropy, >= 0.
        distill_weight: Weight of the distillation loss, >= 0.
        warmup: Share of the run over which ``distill_weight`` rises from zero.

    Raises:
        ValueError: If an option is out of range.

    Example:
        >>> VID(initial_variance=1.0).distill_weight
        1.0

    Reference:
        Ahn et al., CVPR 2019, arXiv 1904.05835.
    """

    needs = ("stages",)
    learns = True
    regressors: nn.ModuleList

    def __init__(
        self,
        initial_variance: float = 5.0,
        eps: float = 1e-5,
        task_weight: float = 1.0,
        distill_weight: float = 1.0,
        warmup: float = 0.0,
    ) -> None:
        super().__init__(task_weight=task_weight, distill_weight=distill_weight, warmup=warmup)
        VariationalRegressor(1, 1, initial_variance=initial_variance, eps=eps)  # refuses what is out of range
        self.initial_variance = initial_variance
        self.eps = eps

    def prepare(self, setting: Setting) -> None:
        """Make a regressor for each stage.

        Args:
            setting: What both models return for one batch.
        """
        pairs = zip(
            maps(setting.student_outputs, "stages"), maps(setting.teacher_outputs, "stages"), strict=True
        )
        self.regressors = nn.ModuleList(
            VariationalRegressor(
                ours.shape[1], theirs.shape[1], initial_variance=self.initial_variance, eps=self.eps
            )
            for ours, theirs in pairs
        )

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
        pairs = zip(maps(student, "stages"), maps(teacher, "stages"), strict=True)
        losses = [regressor(*pair) for regressor, pair in zip(self.regressors, pairs, strict=True)]
        return torch.stack(losses).sum()


# ruff: noqa: ARG002  (a method need not read all that it is given)


@register("crd")
class CRD(Method):
    """Contrastive representation distillation, see :class:`dotkd.losses.contrast.ContrastMemory`.

    Two memories hold an embedding of every training image; they and the count of batches, from which the
    negatives are drawn, are in ``state_dict``, so that a run goes on to the same bits.

    Args:
        embed_dim: Length of the embeddings, >= 1.
        negatives: Negatives for each image, >= 1.
        temperature: > 0.
        momentum: How much of a remembered embedding stays, in [0, 1).
        task_weight: Weight of the cross entropy, >= 0.
        distill_weight: Weight of the distillation loss, >= 0.
        warmup: Share of the run over which ``distill_weight`` rises from zero.

    Raises:
        ValueError: If an option is out of range.

    Example:
        >>> CRD(negatives=4096).distill_weight
        0.8

    Reference:
        Tian, Krishnan and Isola, ICLR 2020, arXiv 1910.10699; the defaults are those of its code.
    """

    needs = ("pooled", "index")
    learns = True
    memory: ContrastMemory
    labels: Tensor

    def __init__(
        self,
        embed_dim: int = 128,
        negatives: int = 16384,
        temperature: float = 0.07,
        momentum: float = 0.5,
        task_weight: float = 1.0,
        distill_weight: float = 0.8,
        warmup: float = 0.0,
    ) -> None:
        super().__init__(task_weight=task_weight, distill_weight=distill_weight, warmup=warmup)
        self._options: dict[str, Any] = {
            "embed_dim": embed_dim,
            "negatives": negatives,
            "temperature": temperature,
            "momentum": momentum,
        }
        ContrastMemory(1, 1, num_samples=1, **self._options)  # refuses what is out of range

    def prepare(self, setting: Setting) -> None:
        """Make the memories, for as many images as there are labels.

        Args:
            setting: What both models return for one batch, and the labels.

        Raises:
            ValueError: There are no labels.
        """
        if setting.labels is None:
            raise ValueError(
                "CRD draws negatives from other classes: pass labels, the class of each sample number, [N]"
            )
        ours, theirs = (
            as_vector(o.features["pooled"]) for o in (setting.student_outputs, setting.teacher_outputs)
        )
        seed = int(torch.randint(2**31, ()))
        self.memory = ContrastMemory(
            ours.shape[1], theirs.shape[1], num_samples=len(setting.labels), seed=seed, **self._options
        )
        self.register_buffer("labels", setting.labels.cpu(), persistent=False)  # they belong to the data

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

        Raises:
            ValueError: There is no index.
        """
        if index is None:
            raise ValueError("CRD remembers each image by its number: call the distiller with index=")
        ours, theirs = as_vector(student.features["pooled"]), as_vector(teacher.features["pooled"])
        loss: Tensor = self.memory(ours, theirs, index, labels=self.labels)
        return loss
