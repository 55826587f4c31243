"""The typed recipe: every key of the file, its type, range, default and meaning.

One class is one table of the TOML file; a field's description is what ``docs/recipe.md`` prints. Unknown
keys, wrong types and values out of range are errors, and so are keys that the chosen variant does not read.
"""

import re
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import BaseModel, ConfigDict, Field, Strict, field_validator, model_validator

from dotkd.data import DATA_SETS, data_facts
from dotkd.data.augmentation import Augmentation
from dotkd.errors import BadInput
from dotkd.models.base import check_normalisation
from dotkd.models.registry import check_model_name
from dotkd.optim.checks import check_window
from dotkd.recipe.method import complete_method

Rate = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Numbers = Annotated[tuple[float, ...], Strict(False)]
Epochs = Annotated[tuple[Annotated[int, Field(ge=1)], ...], Strict(False)]


class Table(BaseModel):
    """A table of the file: strict about types, without unknown keys, not to be changed."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class Data(Table):
    """Images and labels, the same for all arms that are to be compared."""

    name: Annotated[str, Field(description=f"Data set: {', '.join(DATA_SETS)}.")]
    root: Annotated[
        str,
        Field(
            description="Folder with the files, or name on the hub (`uoft-cs/cifar100`); digits have none."
        ),
    ] = ""
    validation: Annotated[
        int, Field(ge=0, description="Training images set aside to choose on; 0: none, and no best epoch.")
    ]
    train_images: Annotated[int, Field(ge=0, description="Training images to keep; 0: all.")] = 0
    label_noise: Annotated[
        float, Field(ge=0, le=1, description="Share of training labels replaced by a wrong class.")
    ] = 0.0
    augment: Annotated[
        tuple[str, ...],
        Strict(False),
        Field(
            description="What training images go through: a list of the steps below; one alone may stand "
            'without a list, and `"none"` for the empty list.'
        ),
    ] = ()
    batch_size: Annotated[int, Field(ge=1, description="Images in a step.")]
    seed: Annotated[int, Field(ge=0, description="Draws the splits and the label noise.")] = 0

    @field_validator("name")
    @classmethod
    def _known(cls, name: str) -> str:
        data_facts(name)
        return name

    @field_validator("augment", mode="before")
    @classmethod
    def _alone(cls, augment: Any) -> Any:
        if isinstance(augment, str):
            return [] if augment == "none" else [augment]
        return augment

    @field_validator("augment")
    @classmethod
    def _steps(cls, augment: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(map(str, Augmentation(augment).steps))


class Normalised(Table):
    """What a network does with images before anything else."""

    mean: Annotated[Numbers, Field(description="Mean of each channel by which it normalises; empty: 0.")] = ()
    std: Annotated[Numbers, Field(description="Standard deviation of each channel; empty: 1.")] = ()

    @model_validator(mode="after")
    def _normalisation(self) -> Self:
        check_normalisation(self.mean, self.std)
        return self


class Student(Normalised):
    """The network to train."""

    model: Annotated[str, Field(description="Name of the network, such as `cifar100/resnet8x4`.")]
    checkpoint: Annotated[
        str | None,
        Field(description="Weights to start from: `student.safetensors`, `.pth`; none: random ones."),
    ] = None

    @field_validator("model")
    @classmethod
    def _known(cls, model: str) -> str:
        return check_model_name(model)


class Teacher(Normalised):
    """The frozen network to learn from: one of `recipe` and `checkpoint`."""

    recipe: Annotated[
        str | None,
        Field(description="Recipe that trains it first, into OUTPUT/teacher; reused where it is unchanged."),
    ] = None
    checkpoint: Annotated[
        str | None,
        Field(description="A `student.safetensors`, or a published `.pth` together with `model`."),
    ] = None
    model: Annotated[
        str | None, Field(description="Name of the network of a `.pth`; a student of a run knows its own.")
    ] = None

    @field_validator("model")
    @classmethod
    def _known(cls, model: str | None) -> str | None:
        return None if model is None else check_model_name(model)

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.recipe is None) == (self.checkpoint is None):
            raise ValueError("exactly one of the keys 'recipe' and 'checkpoint' must be given")
        if self.model is None and (self.mean or self.std):
            raise ValueError("mean and std go with 'model'; other teachers know their own")
        if self.model is not None and self.checkpoint is None:
            raise ValueError("model goes with 'checkpoint'; a recipe names its own")
        return self


class SGDTable(Table):
    """Plain momentum SGD on the sum of the weighted losses."""

    name: Literal["sgd"]
    lr: Annotated[Rate, Field(description="Learning rate at the start.")]
    momentum: Annotated[float, Field(ge=0, lt=1, description="Momentum.")] = 0.9
    weight_decay: Annotated[Rate, Field(description="L2 penalty.")] = 0.0
    nesterov: Annotated[bool, Field(description="Nesterov momentum.")] = False
    clip_grad_norm: Annotated[
        float | None, Field(gt=0, description="Largest norm of the summed gradient; none: no clipping.")
    ] = None


class _Pair(SGDTable):
    name: Any
    delta: Annotated[
        float,
        Field(description="Task momentum `momentum - delta`, distillation momentum `momentum + delta`."),
    ]

    @model_validator(mode="after")
    def _window(self) -> Self:
        check_window("momentum", self.momentum, self.delta)
        return self


class DOTTable(_Pair):
    """A momentum for each gradient: the distillation-oriented trainer."""

    name: Literal["dot"]


class ControlTable(_Pair):
    """One momentum for both, with the steady-state weights that `delta` would give DOT."""

    name: Literal["control"]


class Constant(Table):
    """One learning rate to the end."""

    name: Literal["constant"]
    epochs: Annotated[int, Field(ge=1, description="Epochs.")]
    warmup: Annotated[int, Field(ge=0, description="Epochs over which the rate rises from zero.")] = 0

    @model_validator(mode="after")
    def _ends_in_time(self) -> Self:
        if self.warmup >= self.epochs:
            raise ValueError(f"warmup must end before epochs = {self.epochs}, got {self.warmup}")
        return self


class Step(Constant):
    """The learning rate times `gamma` after each milestone."""

    name: Literal["step"]  # type: ignore[assignment]
    milestones: Annotated[Epochs, Field(description="Epochs after which the rate drops, rising.")]
    gamma: Annotated[float, Field(gt=0, le=1, description="Factor of each drop.")] = 0.1

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        rising = list(self.milestones) == sorted(set(self.milestones))
        if not rising or max(self.milestones, default=0) >= self.epochs:
            raise ValueError(
                f"milestones must rise and lie before epochs = {self.epochs}, got {list(self.milestones)}"
            )
        return self


class Cosine(Constant):
    """The learning rate falls to zero along half a cosine."""

    name: Literal["cosine"]  # type: ignore[assignment]


class Run(Table):
    """How to run; the seed draws weights, order, augmentation and dropout, each from a stream of its own."""

    seed: Annotated[int, Field(ge=0, description="Seed of the run; arms of one seed are paired.")] = 0
    device: Annotated[
        str, Field(description="`auto` (CUDA where there is one), `cpu`, `cuda` or `cuda:N`.")
    ] = "auto"
    precision: Annotated[
        Literal["fp32", "bf16"], Field(description="`bf16`: both networks under autocast, losses in float32.")
    ] = "fp32"
    threads: Annotated[int, Field(ge=0, le=1024, description="CPU threads; 0: torch's choice.")] = 0

    @field_validator("device")
    @classmethod
    def _known(cls, device: str) -> str:
        return check_device(device)


Optimizer = Annotated[SGDTable | DOTTable | ControlTable, Field(discriminator="name")]
Schedule = Annotated[Constant | Step | Cosine, Field(discriminator="name")]


class Published(Table):
    """What others report for this recipe; nothing is computed from it."""

    accuracy: Annotated[float, Field(gt=0, le=100, description="Top-1 test accuracy in percent.")]
    source: Annotated[str, Field(min_length=1, description="Who reports it, where, and how.")]


class Recipe(Table):
    """A whole training run."""

    name: Annotated[str, Field(min_length=1, description="What tables and figures call this arm.")]
    data: Data
    student: Student
    teacher: Teacher | None = None
    method: Annotated[dict[str, Any] | None, Field(description="Distillation method.")] = None
    optimizer: Optimizer
    schedule: Schedule
    run: Run = Run()
    published: Published | None = None

    @field_validator("method")
    @classmethod
    def _method(cls, method: dict[str, Any] | None) -> dict[str, Any] | None:
        return None if method is None else complete_method(method)

    @model_validator(mode="after")
    def _together(self) -> Self:
        if (self.teacher is None) != (self.method is None):
            there, missing = ("teacher", "method") if self.method is None else ("method", "teacher")
            raise ValueError(f"[{there}] needs a [{missing}]: distillation has both, a plain student neither")
        if self.teacher is None and isinstance(self.optimizer, DOTTable | ControlTable):
            raise ValueError(
                f"optimizer {self.optimizer.name!r} needs two losses, but there is no [teacher] and no "
                "[method]: use 'sgd', or add both"
            )
        channels = data_facts(self.data.name, self.data.root).channels
        if len(self.student.mean) not in (0, channels):
            raise ValueError(
                f"student.mean must have one number for each channel, and {self.data.name} has {channels}, "
                f"got {list(self.student.mean)}"
            )
        return self


def check_device(device: str) -> str:
    """Refuse what is no device of a run.

    Args:
        device: ``"auto"``, ``"cpu"``, ``"cuda"`` or ``"cuda:N"``.

    Returns:
        The device.

    Raises:
        BadInput: It is something else.
    """
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", device):
        raise BadInput(f"must be 'auto', 'cpu', 'cuda' or 'cuda:N', got {device!r}")
    return device


def tables() -> dict[tuple[str, ...], type[Table]]:
    """List all tables of a recipe by their place; the variants of a table follow it by name.

    Returns:
        Place -> class: ``()`` is the file itself, ``("optimizer", "dot")`` one of its optimizers.

    Example:
        >>> [place for place in tables() if place[:1] == ("optimizer",)]
        [('optimizer', 'sgd'), ('optimizer', 'dot'), ('optimizer', 'control')]
    """
    found: dict[tuple[str, ...], type[Table]] = {(): Recipe}
    for key, field in Recipe.model_fields.items():
        inner = [cls for cls in _classes(field.annotation) if issubclass(cls, Table)]
        for cls in inner:
            variant = get_args(cls.model_fields["name"].annotation) if len(inner) > 1 else ()
            found[key, *variant] = cls
    return found


def _classes(annotation: Any) -> list[type]:
    if isinstance(annotation, type):
        return [annotation]
    return [cls for inner in get_args(annotation) for cls in _classes(inner)]
