"""Methods on feature maps and pooled vectors; SimKD, which deploys learned parts, has a file of its own."""

from typing import Any

import torch
from torch import Tensor, nn

from dotkd.features import Aligner, as_map, as_vector, make_aligner
from dotkd.losses import (
    ContrastMemory,
    OverhaulConnectors,
    ReviewFusion,
    VariationalRegressor,
    attention_transfer_loss,
    hierarchical_context_loss,
    hint_loss,
    kdsvd_loss,
    margin_from_batch_norm,
    nst_loss,
    pkt_loss,
    rkd_loss,
    similarity_loss,
)
from dotkd.methods.base import Method, Outputs, Setting
from dotkd.methods.registry import register

# ruff: noqa: ARG001, ARG002  (a method need not read all of its inputs)


def _maps(outputs: Outputs, kind: str) -> list[Tensor]:
    """The features of a kind as maps, from images to logits."""
    return [as_map(feature) for feature in outputs.group(kind)]


def _pooled(outputs: Outputs) -> Tensor:
    return as_vector(outputs.features["pooled"])


# ---------------------------------------------------------------- feature maps


@register("at", needs=("stages",), distill_weight=1000.0)
def attention_transfer(student: Outputs, teacher: Outputs, target: Tensor, *, p: float = 2.0) -> Tensor:
    """Attention transfer between all stages, see :func:`dotkd.losses.attention_transfer_loss`.

    Args:
        student: The student's outputs.
        teacher: The teacher's.
        target: Not read.
        p: Exponent of the activations, >= 1.

    Returns:
        A scalar.

    Reference:
        Zagoruyko and Komodakis, ICLR 2017, arXiv 1612.03928; the weight 1000 is that of the published code.
    """
    return attention_transfer_loss(_maps(student, "stages"), _maps(teacher, "stages"), p=p)


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
    return nst_loss(_maps(student, "stages"), _maps(teacher, "stages"))


@register("kdsvd", needs=("stages",))
def singular_vectors(student: Outputs, teacher: Outputs, target: Tensor, *, k: int = 1) -> Tensor:
    """KD-SVD: singular vectors of neighbouring stages, see :func:`dotkd.losses.kdsvd_loss`.

    Args:
        student: The student's outputs.
        teacher: The teacher's.
        target: Not read.
        k: Number of singular vectors, >= 1.

    Returns:
        A scalar.

    Reference:
        Lee, Kim and Song, ECCV 2018, arXiv 1807.06819.
    """
    return kdsvd_loss(_maps(student, "stages"), _maps(teacher, "stages"), k=k)


@register("fitnet")
class FitNet(Method):
    """FitNets: a hint for one stage, see :func:`dotkd.losses.hint_loss`.

    A regressor brings the student's stage to the teacher's shape; it learns with the student, from the
    distillation loss alone. (FitNets train with the hint first; here, as is usual by now, both losses are
    taken from the first step on.)

    Args:
        stage: Number of the stage behind the stem, from 1; the published recipe takes the second.
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
        """Make the regressor; there must be that many stages."""
        student, teacher = setting.student_outputs.group("stages"), setting.teacher_outputs.group("stages")
        if len(student) < self.stage:
            raise ValueError(
                f"stage must be at most {len(student)}, the stages of these models, got {self.stage}"
            )
        self.regressor = make_aligner(student[self.stage - 1], teacher[self.stage - 1])

    def forward(self, student: Outputs, teacher: Outputs, target: Tensor, **_: Any) -> Tensor:
        """The raw loss, see :meth:`dotkd.methods.Method.forward`."""
        ours, theirs = (outputs.group("stages")[self.stage - 1] for outputs in (student, teacher))
        return hint_loss(self.regressor(ours), self.regressor.target(theirs))


@register("vid")
class VID(Method):
    """Variational information distillation of all stages, see :func:`dotkd.losses.vid_loss`.

    Each stage has a regressor and a learned variance for each channel. (The published code leaves the
    variances out of the optimizer, so that they stay at the start.)

    Args:
        initial_variance: Variance of all channels at the start, > ``eps``.
        eps: The smallest variance, > 0.
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
        self.initial_variance = initial_variance
        self.eps = eps
        self._regressor(1, 1)  # refuses an option out of range

    def prepare(self, setting: Setting) -> None:
        """Make a regressor for each stage."""
        ours, theirs = _maps(setting.student_outputs, "stages"), _maps(setting.teacher_outputs, "stages")
        self.regressors = nn.ModuleList(
            self._regressor(first.shape[1], second.shape[1])
            for first, second in zip(ours, theirs, strict=True)
        )

    def forward(self, student: Outputs, teacher: Outputs, target: Tensor, **_: Any) -> Tensor:
        """The raw loss, see :meth:`dotkd.methods.Method.forward`."""
        pairs = zip(_maps(student, "stages"), _maps(teacher, "stages"), strict=True)
        losses = [regressor(*pair) for regressor, pair in zip(self.regressors, pairs, strict=True)]
        return torch.stack(losses).sum()

    def _regressor(self, student: int, teacher: int) -> VariationalRegressor:
        return VariationalRegressor(student, teacher, initial_variance=self.initial_variance, eps=self.eps)


@register("ofd")
class OFD(Method):
    """Overhaul of feature distillation, see :func:`dotkd.losses.ofd_loss`.

    The margins come from the batch norms that the teacher names in ``norm_paths``, one for each stage, as
    the zoo does where the published code has them; elsewhere they are measured on the teacher's features in
    the first batch. A model without ``preacts`` gives its ``stages``. (The published code fails for
    MobileNetV2.)

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
        """Make a connector for each stage."""
        ours, theirs = _maps(setting.student_outputs, "preacts"), _maps(setting.teacher_outputs, "preacts")
        preacts = getattr(setting.teacher, "preact_paths", ())[1:]  # the first is the stem's
        norms = dict(zip(preacts, getattr(setting.teacher, "norm_paths", ()), strict=False))
        paths = [path for name, path in setting.teacher_paths.items() if name.startswith("preacts.")]
        margins = [
            _margin(setting.teacher, norms.get(path), each) for path, each in zip(paths, theirs, strict=True)
        ]
        widths = [[feature.shape[1] for feature in features] for features in (ours, theirs)]
        self.connectors = OverhaulConnectors(widths[0], widths[1], margins)

    def forward(self, student: Outputs, teacher: Outputs, target: Tensor, **_: Any) -> Tensor:
        """The raw loss, see :meth:`dotkd.methods.Method.forward`."""
        loss: Tensor = self.connectors(_maps(student, "preacts"), _maps(teacher, "preacts"))
        return loss


def _margin(teacher: nn.Module, path: str | None, feature: Tensor) -> Tensor | None:
    """The margin of a batch norm; None where none is named, or none of the feature's width."""
    norm = None if path is None else teacher.get_submodule(path)
    if not isinstance(norm, nn.BatchNorm2d) or not norm.affine or norm.num_features != feature.shape[1]:
        return None
    return margin_from_batch_norm(norm.weight.detach().cpu(), norm.bias.detach().cpu())


@register("reviewkd")
class ReviewKD(Method):
    """Knowledge review, see :func:`dotkd.losses.hierarchical_context_loss`.

    All stages and the pooled vector of the student go through a pyramid of attention-based fusions
    (:class:`dotkd.losses.ReviewFusion`), which learns from the distillation loss alone, and are compared
    with the teacher's stages in front of their last ReLU and its pooled vector. The published CIFAR-100
    recipe ramps the weight over the first 20 of 240 epochs, ``warmup=20/240``, and chooses it for each pair
    of models.

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
        """Make the pyramid."""
        ours, theirs = self._levels(setting.student_outputs, setting.teacher_outputs)
        self.fusion = ReviewFusion(
            [feature.shape[1] for feature in ours],
            [feature.shape[1] for feature in theirs],
            [(feature.shape[2], feature.shape[3]) for feature in theirs],
        )

    def forward(self, student: Outputs, teacher: Outputs, target: Tensor, **_: Any) -> Tensor:
        """The raw loss, see :meth:`dotkd.methods.Method.forward`."""
        ours, theirs = self._levels(student, teacher)
        return hierarchical_context_loss(self.fusion(ours), theirs)

    def _levels(self, student: Outputs, teacher: Outputs) -> tuple[list[Tensor], list[Tensor]]:
        kind = "preacts" if self.student_preacts else "stages"
        ours = [*_maps(student, kind), as_map(student.features["pooled"])]
        return ours, [*_maps(teacher, "preacts"), as_map(teacher.features["pooled"])]


# ---------------------------------------------------------------- relations among samples


@register("sp", needs=("last",), distill_weight=3000.0)
def similarity_preserving(student: Outputs, teacher: Outputs, target: Tensor) -> Tensor:
    """Similarity-preserving distillation of the last stage, see :func:`dotkd.losses.similarity_loss`.

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
    return pkt_loss(_pooled(student), _pooled(teacher), eps=eps)


@register("rkd", needs=("pooled",))
def relational(
    student: Outputs,
    teacher: Outputs,
    target: Tensor,
    *,
    distance_weight: float = 25.0,
    angle_weight: float = 50.0,
) -> Tensor:
    """Relational knowledge distillation of the pooled vectors, see :func:`dotkd.losses.rkd_loss`.

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
    options = {"distance_weight": distance_weight, "angle_weight": angle_weight}
    return rkd_loss(_pooled(student), _pooled(teacher), **options)


@register("crd")
class CRD(Method):
    """Contrastive representation distillation, see :class:`dotkd.losses.ContrastMemory`.

    Two memories hold an embedding of every training image. They and the count of batches, from which the
    negatives are drawn, are in ``state_dict``: a resumed run reaches the same bits.

    Args:
        embed_dim: Length of the embeddings, >= 1.
        negatives: Negatives for each image, >= 1.
        temperature: > 0.
        momentum: Share of a remembered embedding that an update keeps, in [0, 1).
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
        self.embed_dim = embed_dim
        self.negatives = negatives
        self.temperature = temperature
        self.momentum = momentum
        self._memory(1, 1, num_samples=1, seed=0)  # refuses an option out of range

    def prepare(self, setting: Setting) -> None:
        """Make the memories, for as many images as there are labels."""
        if setting.labels is None:
            raise ValueError(
                "CRD draws negatives from other classes: pass labels, the class of each sample number, [N]"
            )
        ours, theirs = _pooled(setting.student_outputs), _pooled(setting.teacher_outputs)
        seed = int(torch.randint(2**31, ()))
        self.memory = self._memory(ours.shape[1], theirs.shape[1], len(setting.labels), seed)
        self.register_buffer("labels", setting.labels.cpu(), persistent=False)  # they belong to the data

    def forward(
        self,
        student: Outputs,
        teacher: Outputs,
        target: Tensor,
        *,
        index: Tensor | None = None,
        **_: Any,
    ) -> Tensor:
        """The raw loss, see :meth:`dotkd.methods.Method.forward`; ``index`` is required."""
        if index is None:
            raise ValueError("CRD remembers each image by its number: call the distiller with index=")
        loss: Tensor = self.memory(_pooled(student), _pooled(teacher), index, labels=self.labels)
        return loss

    def _memory(self, student_dim: int, teacher_dim: int, num_samples: int, seed: int) -> ContrastMemory:
        return ContrastMemory(
            student_dim,
            teacher_dim,
            num_samples=num_samples,
            seed=seed,
            embed_dim=self.embed_dim,
            negatives=self.negatives,
            temperature=self.temperature,
            momentum=self.momentum,
        )
