"""What the files of runs and comparisons hold: typed records, used by those who write and those who read.

A record is a table of a JSON file or a line of a JSON-lines file; :mod:`dotkd.runs` knows which file holds
which. Numbers that are not finite are stored as null and read as None.
"""

import itertools
import math
from typing import Annotated, Any, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


Number = Annotated[float | None, BeforeValidator(_finite)]
Surface = tuple[tuple[Number, ...], ...]


class Record(BaseModel):
    """Base of all records: strict types, unknown keys ignored, immutable."""

    model_config = ConfigDict(strict=True, frozen=True, extra="ignore")


# ---------------------------------------------------------------- a run while it trains


class EpochMetrics(Record):
    """One line of ``metrics.jsonl``: an epoch of training and what was measured after it.

    Losses are means over the images of the epoch, in training mode: as the method defines them, and
    ``weighted`` as they were differentiated. The gradients are those of one fixed batch after the epoch.
    What does not exist, such as a distillation loss without a teacher, is None.
    """

    epoch: Annotated[int, Field(ge=1)]
    lr: float
    train_task_loss: Number = None
    train_distill_loss: Number = None
    train_weighted_task_loss: Number = None
    train_weighted_distill_loss: Number = None
    train_accuracy: Number = None
    validation_accuracy: Number = None
    validation_loss: Number = None
    validation_distill_loss: Number = None
    task_momentum: Number = None
    distill_momentum: float | tuple[float, ...] | None = None
    gradient_cosine: Number = None
    gradient_norm_ratio: Number = None
    gradient_sign_disagreement: Number = None
    task_total_cosine: Number = None
    distill_total_cosine: Number = None
    task_update_cosine: Number = None
    distill_update_cosine: Number = None
    seconds: float = 0.0
    compile_seconds: Number = None
    teacher_cache_hit_rate: Number = None


class LayerGradients(Record):
    """The two gradients of a weight, compared."""

    cosine: Number = None
    norm_ratio: Number = None
    sign_disagreement: Number = None


class EpochGradients(Record):
    """An epoch, and the gradients of each layer after it, in the order of the network."""

    epoch: Annotated[int, Field(ge=1)]
    layers: dict[str, LayerGradients]


class Evaluation(Record):
    """A student after an epoch, measured on validation and test images; None where a split was not read."""

    epoch: Annotated[int, Field(ge=1)]
    validation_accuracy: Number = None
    validation_loss: Number = None
    test_accuracy: Number = None
    test_top5: Number = None
    test_loss: Number = None


class Results(Record):
    """``results.json`` of a run: the last epoch, and the best one by validation accuracy if there is one."""

    name: str
    seed: int
    parameters: int
    seconds: float
    compile_seconds: Number = None
    last: Evaluation
    best: Evaluation | None = None


# ---------------------------------------------------------------- a comparison


class SweptArm(Record):
    """An arm of a sweep: ``values`` are those of the keys, in their order."""

    name: str
    base: str
    values: tuple[Any, ...]


class Sweep(Record):
    """Arms that differ from a base in the values of some keys of the recipe.

    ``unswept`` maps a base to the values that its recipe had before it was swept.
    """

    keys: Annotated[tuple[str, ...], Field(min_length=1)]
    arms: tuple[SweptArm, ...]
    unswept: dict[str, tuple[Any, ...]] = {}

    @model_validator(mode="after")
    def _whole(self) -> Self:
        names = [arm.name for arm in self.arms]
        if twice := next((name for name in names if names.count(name) > 1), None):
            raise ValueError(f"arm {twice!r} is in it twice")
        for arm in self.arms:
            if len(arm.values) != len(self.keys):
                raise ValueError(f"arm {arm.name!r} has {len(arm.values)} values for {len(self.keys)} keys")
        return self


class TunedArm(Record):
    """The rate chosen for an arm, and what each rate, written as text, came to, a number for each seed."""

    chosen: float
    validation_accuracy: dict[str, tuple[Number, ...]]

    def at(self, rate: float) -> tuple[float, ...] | None:
        """Give the accuracies at a rate, empty if no run came to its end; nothing if it was not tried."""
        for key in (f"{rate:g}", str(rate)):
            if key in self.validation_accuracy:
                return tuple(value for value in self.validation_accuracy[key] if value is not None)
        return None


class Tuning(Record):
    """The learning rates that were tried for each arm, on seeds of their own."""

    rates: Annotated[tuple[float, ...], Field(min_length=1)]
    seeds: tuple[int, ...]
    arms: dict[str, TunedArm]


# ---------------------------------------------------------------- a finished run, analysed


class Landscape(Record):
    """Losses around the student, at ``steps`` along two directions: rows are steps along the first."""

    steps: Annotated[tuple[float, ...], Field(min_length=2)]
    task: Surface | None = None
    distill: Surface | None = None
    total: Surface | None = None

    @model_validator(mode="after")
    def _square(self) -> Self:
        size = len(self.steps)
        if any(after <= before for before, after in itertools.pairwise(self.steps)):
            raise ValueError("its steps do not rise")
        for name in ("task", "distill", "total"):
            surface = getattr(self, name)
            if surface is not None and [len(row) for row in surface] != [size] * size:
                raise ValueError(f"{name} is not a table of {size} x {size} numbers")
        return self


class Spectrum(Record):
    """Eigenvalue density of a Hessian: quadrature ``nodes`` and ``weights``; ``density`` on a ``grid``."""

    nodes: Annotated[tuple[float, ...], Field(min_length=1)]
    weights: tuple[Annotated[float, Field(ge=0)], ...]
    grid: tuple[float, ...] = ()
    density: tuple[float, ...] = ()

    @model_validator(mode="after")
    def _even(self) -> Self:
        if len(self.nodes) != len(self.weights):
            raise ValueError("nodes and weights have different lengths")
        if not all(map(math.isfinite, (*self.nodes, *self.weights))):
            raise ValueError("a node or a weight is not finite")
        return self


class Sharpness(Record):
    """Curvature of a loss at the student; ``epsilon_sharpness`` is its rise within a distance of ``rho``."""

    eigenvalues: tuple[Number, ...] = ()
    trace: Number = None
    trace_error: Number = None
    epsilon_sharpness: Number = None
    rho: Number = None
    spectrum: Spectrum | None = None


class Reliability(Record):
    """Bins of confidence: their mean confidence, share of right predictions, and number of images."""

    confidence: tuple[Number, ...]
    accuracy: tuple[Number, ...]
    count: tuple[Annotated[int, Field(ge=0)], ...]

    @model_validator(mode="after")
    def _even(self) -> Self:
        if not len(self.confidence) == len(self.accuracy) == len(self.count):
            raise ValueError("confidence, accuracy and count have different lengths")
        return self


class Agreement(Record):
    """How often student and teacher predict the same, and who is right where they do not."""

    top1: Number = None
    kl: Number = None
    student_right: Number = None
    teacher_right: Number = None
    neither: Number = None


class WorstClass(Record):
    """A class and the share of its images that is recognised."""

    model_config = ConfigDict(populate_by_name=True)

    name: Annotated[str, Field(alias="class")]
    accuracy: Number = None
    count: int | None = None


class Attack(Record):
    """Accuracy under an attack that changes each pixel by at most ``epsilon``."""

    epsilon: Number = None
    accuracy: Number = None


class Quality(Record):
    """How good the predictions are beyond their accuracy."""

    ece: Number = None
    nll: Number = None
    brier: Number = None
    reliability: Reliability | None = None
    agreement: Agreement | None = None
    worst_classes: tuple[WorstClass, ...] = ()
    robustness: dict[str, Attack | tuple[Number, ...]] | None = None


class Cost(Record):
    """What one image costs: FLOPs, and seconds of a forward pass."""

    parameters: int | None = None
    flops: int | None = None
    latency_seconds: Number = None


class Interpolation(Record):
    """Losses and accuracy on the line from the student of another run, at 0, to this one's, at 1.

    ``reason`` says why there is no such line.
    """

    arm: str
    seed: int
    reason: str = ""
    steps: tuple[float, ...] = ()
    task: tuple[Number, ...] | None = None
    distill: tuple[Number, ...] | None = None
    total: tuple[Number, ...] | None = None
    accuracy: tuple[Number, ...] | None = None

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if any(after <= before for before, after in itertools.pairwise(self.steps)):
            raise ValueError("its steps do not rise")
        for name in ("task", "distill", "total", "accuracy"):
            values = getattr(self, name)
            if values is not None and len(values) != len(self.steps):
                raise ValueError(f"{name} has {len(values)} numbers for {len(self.steps)} steps")
        return self


class MeasuredOn(Record):
    """Which images: the split, and how many of it."""

    split: str | None = None
    images: int | None = None


class Analysis(MeasuredOn):
    """What was measured on a finished run, each part on the images that ``measured_on`` says.

    A part that is not in it, as in older files, was measured on ``images`` of ``split``; losses of a method
    that remembers training images on those of ``losses_split``.
    """

    epoch: int | None = None
    losses_split: str | None = None
    measured_on: dict[str, MeasuredOn] = {}
    landscape: Landscape | None = None
    sharpness: dict[str, Sharpness] | None = None
    quality: Quality | None = None
    cost: Cost | None = None
    interpolation: Interpolation | None = None

    def on(self, part: str) -> MeasuredOn:
        """Say which images a part was measured on."""
        split = self.losses_split if part in ("landscape", "sharpness", "interpolation") else None
        return self.measured_on.get(part) or MeasuredOn(split=split or self.split, images=self.images)
