"""Typed records: the one schema of the JSON files that runs, comparisons and analyses write and reports read.

A record is a table of a JSON file or a line of a JSON-lines file; :mod:`dotkd.runs` names the files, writes
and reads them. Add a key here first: a key that no record has is not read back.
"""

import itertools
import math
from typing import Annotated, Any, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator


def _finite_or_none(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


Number = Annotated[float | None, BeforeValidator(_finite_or_none)]
"""A measured number; None where it is missing or not finite."""
Numbers = tuple[Number, ...]
Surface = tuple[Numbers, ...]


class Record(BaseModel):
    """Base of all records: immutable, strictly typed, finite; unknown keys of a file are ignored.

    ``model_dump()`` gives the keys of the file. Keys that older files lack have a default.
    """

    model_config = ConfigDict(
        strict=True,
        frozen=True,
        extra="ignore",
        allow_inf_nan=False,
        serialize_by_alias=True,
        validate_by_name=True,
        validate_by_alias=True,
    )


# ---------------------------------------------------------------- training


class EpochMetrics(Record):
    """One line of ``metrics.jsonl``: an epoch of training and the measurements after it.

    Training losses are means over the images of the epoch, in training mode: raw, as the method defines
    them, and weighted, as they were differentiated. Gradients are those of one fixed probe batch after the
    epoch. A quantity that does not exist, such as a distillation loss without a teacher, is None;
    ``gradient_reason`` says why gradients that exist could not be compared.
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
    gradient_reason: str | None = None
    seconds: float = 0.0
    compile_seconds: Number = None
    teacher_cache_hit_rate: Number = None


class LayerGradients(Record):
    """Task and distillation gradient of one weight, compared."""

    cosine: Number = None
    norm_ratio: Number = None
    sign_disagreement: Number = None


class EpochGradients(Record):
    """One line of ``gradients.jsonl``: the layers in the order of the network."""

    epoch: Annotated[int, Field(ge=1)]
    layers: dict[str, LayerGradients]


class EpochScores(Record):
    """Scores of a student after an epoch; None where a split was not evaluated."""

    epoch: Annotated[int, Field(ge=1)]
    validation_accuracy: float | None = None
    validation_loss: float | None = None
    test_accuracy: float | None = None
    test_top5: float | None = None
    test_loss: float | None = None


class TeacherAccuracy(Record):
    """What a teacher knew before it taught.

    ``chance`` is the accuracy of predictions with the same frequencies that are independent of the labels.
    Both are None where its outputs are not the classes of the data, or no image has a label. An entry of
    ``environment.json``.
    """

    accuracy: float | None
    chance: float | None
    split: str
    images: int

    def __str__(self) -> str:
        asked = f"{self.images} {self.split} images"
        if self.accuracy is None or self.chance is None:
            return f"no accuracy (other classes, or no labels); finite for {asked}"
        return f"right for {100 * self.accuracy:.2f} % of {asked} (chance {100 * self.chance:.2f} %)"


class MadeFor(Record):
    """The images that a network was trained for: shape, number, class names and its normalisation.

    ``configuration`` has the files, name -> text, from which a network of transformers is made. An entry of
    ``environment.json``, and a table in the metadata of a student file. Older files have the shape alone.
    """

    channels: Annotated[int, Field(ge=1)]
    height: Annotated[int, Field(ge=1)]
    width: Annotated[int, Field(ge=1)]
    num_classes: Annotated[int, Field(ge=1)]
    train_images: Annotated[int, Field(ge=1)]
    test_images: Annotated[int, Field(ge=1)]
    classes: tuple[str, ...] = ()
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    configuration: dict[str, str] = {}


class Results(Record):
    """``results.json`` of a run: the last epoch, and the best by validation accuracy; None without one."""

    name: str
    seed: int
    parameters: int
    seconds: float
    compile_seconds: Number = None
    last: EpochScores
    best: EpochScores | None


# ---------------------------------------------------------------- a comparison


class SweptArm(Record):
    """An arm of a sweep; ``values`` are those of the sweep's keys, in their order."""

    name: str
    base: str
    values: tuple[Any, ...]


class Sweep(Record):
    """``sweep.json``: arms that differ from their base recipe in the values of some keys.

    ``unswept`` maps a base to the values that its recipe has for the keys.
    """

    keys: Annotated[tuple[str, ...], Field(min_length=1)]
    arms: tuple[SweptArm, ...]
    unswept: dict[str, tuple[Any, ...]] = {}

    @model_validator(mode="after")
    def _check_arms(self) -> Self:
        names = [arm.name for arm in self.arms]
        if twice := next((name for name in names if names.count(name) > 1), None):
            raise ValueError(f"arm {twice!r} appears twice")
        for arm in self.arms:
            if len(arm.values) != len(self.keys):
                raise ValueError(f"arm {arm.name!r} has {len(arm.values)} values for {len(self.keys)} keys")
        return self


class TunedArm(Record):
    """The learning rate chosen for an arm; ``validation_accuracy`` maps a rate to a number for each seed."""

    chosen: float
    validation_accuracy: dict[str, Numbers]

    def accuracies(self, rate: float) -> tuple[float, ...] | None:
        """Return the known accuracies at a rate; None if the rate was not tried."""
        for key in (f"{rate:g}", str(rate)):
            if key in self.validation_accuracy:
                return tuple(value for value in self.validation_accuracy[key] if value is not None)
        return None


class Tuning(Record):
    """``tuning.json``: the learning rates tried for each arm, on seeds of their own."""

    rates: Annotated[tuple[float, ...], Field(min_length=1)]
    seeds: tuple[int, ...]
    arms: dict[str, TunedArm]


# ---------------------------------------------------------------- the analysis of a run


class Landscape(Record):
    """Losses on a plane around the student; rows are ``steps`` along the first of two directions."""

    steps: Annotated[tuple[float, ...], Field(min_length=2)]
    task: Surface | None = None
    distill: Surface | None = None
    total: Surface | None = None

    @model_validator(mode="after")
    def _check_shape(self) -> Self:
        _check_rising(self.steps)
        size = len(self.steps)
        for name in ("task", "distill", "total"):
            surface = getattr(self, name)
            if surface is not None and [len(row) for row in surface] != [size] * size:
                raise ValueError(f"{name} is not a table of {size} x {size} numbers")
        return self


def _check_rising(steps: tuple[float, ...]) -> None:
    if any(after <= before for before, after in itertools.pairwise(steps)):
        raise ValueError("steps do not rise")


class Spectrum(Record):
    """Spectral density of a Hessian: quadrature nodes with weights, and the smoothed density on a grid."""

    nodes: Annotated[tuple[float, ...], Field(min_length=1)]
    weights: tuple[Annotated[float, Field(ge=0)], ...]
    grid: tuple[float, ...] = ()
    density: tuple[float, ...] = ()

    @model_validator(mode="after")
    def _check_lengths(self) -> Self:
        if len(self.nodes) != len(self.weights):
            raise ValueError("nodes and weights have different lengths")
        return self


class NormalizedCurvature(Record):
    """Largest eigenvalue and trace of a Hessian in units of the norms of filters."""

    eigenvalue: Number = None
    trace: Number = None
    trace_error: Number = None


class Sharpness(Record):
    """Curvature of a loss at the student; ``epsilon_sharpness`` is the rise of the loss within ``rho``.

    ``weight_norm`` is the Euclidean norm of the weights with two or more dimensions. Larger weights in front
    of batch norm lower all of these but ``filter_normalized``.
    """

    eigenvalues: Numbers = ()
    trace: Number = None
    trace_error: Number = None
    filter_normalized: NormalizedCurvature | None = None
    weight_norm: Number = None
    epsilon_sharpness: Number = None
    rho: Number = None
    spectrum: Spectrum | None = None


class Reliability(Record):
    """Reliability diagram: for each bin of confidence its mean confidence, accuracy and image count."""

    confidence: Numbers
    accuracy: Numbers
    count: tuple[Annotated[int, Field(ge=0)], ...]

    @model_validator(mode="after")
    def _check_lengths(self) -> Self:
        if not len(self.confidence) == len(self.accuracy) == len(self.count):
            raise ValueError("confidence, accuracy and count have different lengths")
        return self


class Agreement(Record):
    """Agreement of student and teacher; ``student_right`` and so on are shares of the differing images."""

    top1: Number = None
    kl: Number = None
    student_right: Number = None
    teacher_right: Number = None
    neither: Number = None


class WorstClass(Record):
    """A class with low accuracy."""

    model_config = ConfigDict(populate_by_name=True)

    name: Annotated[str, Field(alias="class")]
    accuracy: Number = None
    count: int | None = None


class Attack(Record):
    """Accuracy under an attack that changes each pixel by at most ``epsilon``."""

    epsilon: Number = None
    accuracy: Number = None


class Quality(Record):
    """Quality of the predictions; ``robustness`` maps a corruption or attack to accuracies."""

    ece: Number = None
    nll: Number = None
    brier: Number = None
    reliability: Reliability | None = None
    agreement: Agreement | None = None
    worst_classes: tuple[WorstClass, ...] = ()
    robustness: dict[str, Attack | Numbers] | None = None


class Cost(Record):
    """Cost of one image: FLOPs, and seconds of a forward pass."""

    parameters: int | None = None
    flops: int | None = None
    latency_seconds: Number = None


class Interpolation(Record):
    """Losses and accuracy on the line from the student of another run (0) to the student of this run (1).

    ``reason`` says why the two students cannot be interpolated.
    """

    arm: str
    seed: int
    reason: str = ""
    steps: tuple[float, ...] = ()
    task: Numbers | None = None
    distill: Numbers | None = None
    total: Numbers | None = None
    accuracy: Numbers | None = None

    @model_validator(mode="after")
    def _check_lengths(self) -> Self:
        _check_rising(self.steps)
        for name in ("task", "distill", "total", "accuracy"):
            values = getattr(self, name)
            if values is not None and len(values) != len(self.steps):
                raise ValueError(f"{name} has {len(values)} numbers for {len(self.steps)} steps")
        return self


class MeasuredOn(Record):
    """The split that a measurement used, and the number of its images."""

    split: str | None = None
    images: int | None = None


class Analysis(MeasuredOn):
    """``analysis.json`` of a run; ``measured_on`` names the images of each part.

    A part missing there, as in older files, was measured on ``images`` of ``split``; losses of a method that
    remembers training images on ``losses_split``. ``reasons`` says why a part, or a number in it such as
    ``quality.robustness.fgsm``, could not be measured.
    """

    epoch: int | None = None
    losses_split: str | None = None
    measured_on: dict[str, MeasuredOn] = {}
    reasons: dict[str, str] = {}
    landscape: Landscape | None = None
    sharpness: dict[str, Sharpness] | None = None
    quality: Quality | None = None
    cost: Cost | None = None
    interpolation: Interpolation | None = None

    def on(self, part: str) -> MeasuredOn:
        """Return the images that a part was measured on."""
        split = self.losses_split if part in ("landscape", "sharpness", "interpolation") else None
        return self.measured_on.get(part) or MeasuredOn(split=split or self.split, images=self.images)
