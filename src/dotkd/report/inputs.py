"""What a report reads beside the runs: sweep and tuning of a comparison, analysis and gradients of each run.

Here belong the forms of these files and nothing that is computed from them. All are optional, and so is
every part of an analysis; a number that is not finite counts as absent.
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Self, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from dotkd.errors import BadInput
from dotkd.runs import ANALYSIS, GRADIENTS, SWEEP, TUNING, RunRecord

_SHOWN = 3  # mistakes that a message lists


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


Number = Annotated[float | None, BeforeValidator(_finite)]
Surface = tuple[tuple[Number, ...], ...]


class _Form(BaseModel):
    """A table of a file; keys that no report reads may be in it."""

    model_config = ConfigDict(strict=True, frozen=True, extra="ignore")


# ---------------------------------------------------------------- of a comparison


class SweptArm(_Form):
    """An arm of a sweep: ``values`` are those of the keys, in their order."""

    name: str
    base: str
    values: tuple[Any, ...]


class Sweep(_Form):
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


class TunedArm(_Form):
    """The rate chosen for an arm, and what each rate, written as text, came to, a number for each seed."""

    chosen: float
    validation_accuracy: dict[str, tuple[Number, ...]]

    def at(self, rate: float) -> tuple[float, ...] | None:
        """Give the accuracies at a rate, empty if no run came to its end; nothing if it was not tried."""
        for key in (f"{rate:g}", str(rate)):
            if key in self.validation_accuracy:
                return tuple(value for value in self.validation_accuracy[key] if value is not None)
        return None


class Tuning(_Form):
    """The learning rates that were tried for each arm, on seeds of their own."""

    rates: Annotated[tuple[float, ...], Field(min_length=1)]
    seeds: tuple[int, ...]
    arms: dict[str, TunedArm]


# ---------------------------------------------------------------- of a run


class Landscape(_Form):
    """Losses around the student, at ``steps`` along two directions: rows are steps along the first."""

    steps: Annotated[tuple[float, ...], Field(min_length=2)]
    task: Surface | None = None
    distill: Surface | None = None

    @model_validator(mode="after")
    def _square(self) -> Self:
        size = len(self.steps)
        if any(after <= before for before, after in itertools.pairwise(self.steps)):
            raise ValueError("its steps do not rise")
        for name, surface in (("task", self.task), ("distill", self.distill)):
            if surface is not None and [len(row) for row in surface] != [size] * size:
                raise ValueError(f"{name} is not a table of {size} x {size} numbers")
        return self


class Spectrum(_Form):
    """Where the eigenvalues of a Hessian lie: ``nodes``, and what share of them each stands for."""

    nodes: Annotated[tuple[float, ...], Field(min_length=1)]
    weights: tuple[Annotated[float, Field(ge=0)], ...]

    @model_validator(mode="after")
    def _even(self) -> Self:
        if len(self.nodes) != len(self.weights):
            raise ValueError("nodes and weights have different lengths")
        if not all(map(math.isfinite, (*self.nodes, *self.weights))):
            raise ValueError("a node or a weight is not finite")
        return self


class Sharpness(_Form):
    """Curvature of a loss at the student; ``epsilon_sharpness`` is its rise within a distance of ``rho``."""

    eigenvalues: tuple[Number, ...] = ()
    trace: Number = None
    trace_error: Number = None
    epsilon_sharpness: Number = None
    rho: Number = None
    spectrum: Spectrum | None = None


class Reliability(_Form):
    """Bins of confidence: their mean confidence, share of right predictions, and number of images."""

    confidence: tuple[Number, ...]
    accuracy: tuple[Number, ...]
    count: tuple[Annotated[int, Field(ge=0)], ...]

    @model_validator(mode="after")
    def _even(self) -> Self:
        if not len(self.confidence) == len(self.accuracy) == len(self.count):
            raise ValueError("confidence, accuracy and count have different lengths")
        return self


class Agreement(_Form):
    """How often student and teacher predict the same, and who is right where they do not."""

    top1: Number = None
    kl: Number = None
    student_right: Number = None
    teacher_right: Number = None
    neither: Number = None


class WorstClass(_Form):
    """A class and the share of its images that is recognised."""

    name: Annotated[str, Field(alias="class")]
    accuracy: Number = None
    count: int | None = None


class Attack(_Form):
    """Accuracy under an attack that changes each pixel by at most ``epsilon``."""

    epsilon: Number = None
    accuracy: Number = None


class Quality(_Form):
    """How good the predictions are beyond their accuracy."""

    ece: Number = None
    nll: Number = None
    brier: Number = None
    reliability: Reliability | None = None
    agreement: Agreement | None = None
    worst_classes: tuple[WorstClass, ...] = ()
    robustness: dict[str, Attack | tuple[Number, ...]] | None = None


class Cost(_Form):
    """What one image costs: FLOPs, and seconds and joules of a forward pass."""

    parameters: int | None = None
    flops: Number = None
    latency_seconds: Number = None
    joules: Number = None


class Interpolation(_Form):
    """Losses and accuracy on the line from the student of another run, at 0, to this one's, at 1.

    ``reason`` says why there is no such line.
    """

    arm: str
    seed: int
    reason: str = ""
    steps: tuple[float, ...] = ()
    task: tuple[Number, ...] | None = None
    distill: tuple[Number, ...] | None = None
    accuracy: tuple[Number, ...] | None = None

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if any(after <= before for before, after in itertools.pairwise(self.steps)):
            raise ValueError("its steps do not rise")
        for name in ("task", "distill", "accuracy"):
            values = getattr(self, name)
            if values is not None and len(values) != len(self.steps):
                raise ValueError(f"{name} has {len(values)} numbers for {len(self.steps)} steps")
        return self


class MeasuredOn(_Form):
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


class LayerGradients(_Form):
    """The two gradients of a weight, compared."""

    cosine: Number = None
    norm_ratio: Number = None
    sign_disagreement: Number = None


class EpochGradients(_Form):
    """An epoch, and the gradients of each layer after it, in the order of the network."""

    epoch: Annotated[int, Field(ge=1)]
    layers: dict[str, LayerGradients]


# ---------------------------------------------------------------- reading


@dataclass(frozen=True)
class Extras:
    """All of it; ``analyses`` and ``gradients`` have the folders of the runs that have such a file."""

    sweep: Sweep | None = None
    tuning: Tuning | None = None
    analyses: Mapping[Path, Analysis] = field(default_factory=dict)
    gradients: Mapping[Path, tuple[EpochGradients, ...]] = field(default_factory=dict)


_Read = TypeVar("_Read", bound=_Form)


def read_extras(folder: Path, runs: Sequence[RunRecord]) -> Extras:
    """Read what there is beside the runs.

    Args:
        folder: the folder of the comparison, or of a run.
        runs: the runs in it.

    Returns:
        What was found; all of it may be absent.

    Raises:
        BadInput: if a file is broken; the message names it.
    """
    students = [run.path for run in runs if not run.is_teacher]
    analyses = {path: _read(path / ANALYSIS, Analysis) for path in students}
    gradients = {path: _read_lines(path / GRADIENTS, EpochGradients) for path in students}
    return Extras(
        sweep=_read(folder / SWEEP, Sweep),
        tuning=_read(folder / TUNING, Tuning),
        analyses={path: analysis for path, analysis in analyses.items() if analysis is not None},
        gradients={path: lines for path, lines in gradients.items() if lines},
    )


def _read(path: Path, form: type[_Read]) -> _Read | None:
    content = _content(path)
    return None if content is None else _parsed(content, form, str(path))


def _read_lines(path: Path, form: type[_Read]) -> tuple[_Read, ...]:
    lines = (_content(path) or b"").splitlines()
    return tuple(_parsed(line, form, f"{path}, line {n}") for n, line in enumerate(lines, start=1))


def _content(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise BadInput(f"{path}: cannot be read: {error.strerror}") from None


def _parsed(content: bytes, form: type[_Read], where: str) -> _Read:
    try:
        return form.model_validate_json(content)
    except ValidationError as error:
        raise BadInput(f"{where}: broken: {_mistakes(error)}") from None


def _mistakes(error: ValidationError) -> str:
    found = []
    for detail in error.errors():
        place = ".".join(map(str, detail["loc"]))
        what = detail["msg"].removeprefix("Value error, ").replace("Input should", "must")
        found.append(f"{place}: {what}" if place else what)
    more = f"; and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
    return "; ".join(found[:_SHOWN]) + more
