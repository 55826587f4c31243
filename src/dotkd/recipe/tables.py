"""The typed tables of a recipe."""

import inspect
import re
from typing import Annotated, Any, Literal, Self, get_args, get_origin

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    Strict,
    ValidationError,
    create_model,
    field_validator,
    model_validator,
)

from dotkd.data import DATA_SETS, DataFacts, data_facts
from dotkd.data.augment import Augmentation
from dotkd.errors import BadInput
from dotkd.features.paths import KINDS, MANY
from dotkd.methods import create_method, has_teacher, method_options
from dotkd.models.base import check_normalisation
from dotkd.models.registry import check_model_name
from dotkd.models.wrap import PRETRAINED, is_external
from dotkd.optim import deepkd_momenta
from dotkd.optim._checks import check_window
from dotkd.recipe._messages import lines

Rate = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Numbers = Annotated[tuple[float, ...], Strict(False)]
Words = Annotated[tuple[str, ...], Strict(False)]
Epochs = Annotated[tuple[Annotated[int, Field(ge=1)], ...], Strict(False)]


class Table(BaseModel):
    """A table of the file: strict about types, without unknown keys, not to be changed."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


_FORM = ("image_size", "image_column", "label_column", "train_split", "test_split", "config")
PLACE_AND_FORM = ("stream", "workers", *_FORM)
"""Keys that say how the images are read, beside where they are."""


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
        Words,
        Field(
            description="What training images go through: a list of the steps below; one alone may stand "
            'without a list, and `"none"` for the empty list.'
        ),
    ] = ()
    batch_size: Annotated[int, Field(ge=1, description="Images in a step.")]
    image_size: Annotated[
        int | None,
        Field(
            ge=1, description="Side of the images of a `folder` or `hub` (none: as they are) or `imagenet`."
        ),
    ] = None
    stream: Annotated[
        bool | None,
        Field(description="`true` leaves a `folder`'s or `hub`'s images in files, as `imagenet`'s."),
    ] = None
    workers: Annotated[
        int | None, Field(ge=0, description="Processes that decode such images; none: one a CPU, at most 8.")
    ] = None
    image_column: Annotated[
        str | None, Field(description="Column of a `hub` data set with the images; none: `image`.")
    ] = None
    label_column: Annotated[str | None, Field(description="Its column with the classes; none: `label`.")] = (
        None
    )
    train_split: Annotated[str | None, Field(description="Its split to train on; none: `train`.")] = None
    test_split: Annotated[str | None, Field(description="Its split to test on; none: `test`.")] = None
    config: Annotated[str | None, Field(description="Its configuration, where it has several.")] = None
    seed: Annotated[int, Field(ge=0, description="Draws the splits and the label noise.")] = 0

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

    @field_validator("name")
    @classmethod
    def _known(cls, name: str) -> str:
        data_facts(name)
        return name

    @model_validator(mode="after")
    def _reads_what_is_given(self) -> Self:
        self.facts(look=False)
        return self

    def source(self) -> dict[str, Any]:
        """Return what :func:`dotkd.data.load_data` is to read, without the splits."""
        return {"name": self.name, "root": self.root, **self._given(*PLACE_AND_FORM)}

    def facts(self, *, look: bool = True) -> DataFacts:
        """Say what the images are like.

        Args:
            look: Whether to open files where the name alone does not say it.

        Returns:
            The facts.

        Raises:
            BadInput: There is no such data set, or it does not read a key that is given.
        """
        return data_facts(self.name, self.root if look else "", **self._given(*_FORM))

    def _given(self, *keys: str) -> dict[str, Any]:
        values = {key: getattr(self, key) for key in keys}
        return {key: value for key, value in values.items() if value is not None}


class Network(Table):
    """What a network does with images before anything else, and where methods read its features."""

    mean: Annotated[Numbers, Field(description="Mean of each channel by which it normalises; empty: 0.")] = ()
    std: Annotated[Numbers, Field(description="Standard deviation of each channel; empty: 1.")] = ()
    stages: Annotated[
        Words | None, Field(description="Dotted paths of its stages, for methods that read `stages`.")
    ] = None
    preacts: Annotated[
        Words | None,
        Field(description="The same before the last ReLU of each, for those that read `preacts`."),
    ] = None
    last: Annotated[str | None, Field(description="Of its last map, for methods that read `last`.")] = None
    pooled: Annotated[
        str | None,
        Field(description="Of the vector that is classified; `fc:input` is what the module `fc` gets."),
    ] = None

    @model_validator(mode="after")
    def _normalisation(self) -> Self:
        check_normalisation(self.mean, self.std)
        return self

    def paths(self) -> dict[str, str]:
        """Return where its features are, for the kinds that are one and for which the recipe says so."""
        return {kind: where for kind, where in self.features().items() if isinstance(where, str)}

    def features(self) -> dict[str, str | list[str]]:
        """Return where features are to be read, for the kinds for which the recipe says so."""
        found = {kind: getattr(self, kind) for kind in KINDS}
        return {kind: list(where) if kind in MANY else where for kind, where in found.items() if where}


class Student(Network):
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


class Teacher(Network):
    """The frozen network to learn from: a `recipe`, a `checkpoint`, or a `model` that brings its weights."""

    recipe: Annotated[
        str | None,
        Field(description="Recipe that trains it first, into OUTPUT/teacher; reused where it is unchanged."),
    ] = None
    checkpoint: Annotated[
        str | None,
        Field(description="A `student.safetensors`, or a published `.pth` together with `model`."),
    ] = None
    model: Annotated[
        str | None,
        Field(
            description="Network of a `.pth`; alone, `timm:NAME@pretrained`. Students of runs know theirs."
        ),
    ] = None

    @field_validator("model")
    @classmethod
    def _known(cls, model: str | None) -> str | None:
        return None if model is None else check_model_name(model)

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        brings = self.model is not None and is_external(self.model) and self.model.endswith(PRETRAINED)
        if (self.recipe is None) == (self.checkpoint is None) and not (brings and self.recipe is None):
            raise ValueError(
                "exactly one of the keys 'recipe' and 'checkpoint' must be given; a model "
                f"'timm:NAME{PRETRAINED}' or 'hf:NAME{PRETRAINED}' needs neither"
            )
        if self.model is None and (self.mean or self.std):
            raise ValueError("mean and std go with 'model'; other teachers know their own")
        if self.model is not None and self.recipe is not None:
            raise ValueError("model goes with 'checkpoint'; a recipe names its own")
        return self


def complete_method(table: dict[str, Any]) -> dict[str, Any]:
    """Check a method's name, option names, types and ranges, and fill in the defaults.

    Args:
        table: ``name`` and options, as the file has them.

    Returns:
        ``name`` and all options.

    Raises:
        BadInput: Something is wrong with them.

    Example:
        >>> complete_method({"name": "kd", "temperature": 2.0})["task_weight"]
        0.1
    """
    options = {key: value for key, value in table.items() if key != "name"}
    name = table.get("name")
    if not isinstance(name, str):
        raise BadInput("method.name: a method's name is missing, such as 'kd'")
    try:
        known = method_options(name)
    except ValueError as error:
        raise BadInput(f"method.name: {error}") from None
    fields: dict[str, Any] = {
        option: (
            _type(parameter),
            ... if parameter.default is parameter.empty else parameter.default,
        )
        for option, parameter in known.items()
    }
    config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)
    try:
        full = create_model(f"method {name!r}", __config__=config, **fields)(**options).model_dump()
        create_method(name, **full)
    except ValidationError as error:
        raise BadInput("\n".join(lines(error, {(): list(known)}, ("method",)))) from None
    except ValueError as error:
        raise BadInput(f"method: {error}") from None
    return {"name": name, **full}


def _type(parameter: inspect.Parameter) -> Any:
    """The type of an option, or of its default; a list of the file may become a tuple, all else is strict."""
    annotation = parameter.annotation
    if annotation is parameter.empty:
        annotation = Any if parameter.default in (parameter.empty, None) else type(parameter.default)
    return Annotated[annotation, Strict(False)] if get_origin(annotation) is tuple else annotation


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


class PairTable(SGDTable):
    """What the optimizers that tell two gradients apart have in common."""

    name: Any
    delta: Annotated[
        float,
        Field(description="Task momentum `momentum - delta`, distillation momentum `momentum + delta`."),
    ]

    @model_validator(mode="after")
    def _window(self) -> Self:
        check_window("momentum", self.momentum, self.delta)
        return self


class DOTTable(PairTable):
    """A momentum for each gradient: the distillation-oriented trainer."""

    name: Literal["dot"]


class ControlTable(PairTable):
    """One momentum for both, with the steady-state weights that `delta` would give DOT."""

    name: Literal["control"]


class DeepKDTable(PairTable):
    """Three momenta, for a method with two distillation losses: DeepKD's trainer."""

    name: Literal["deepkd"]
    as_released: Annotated[
        bool,
        Field(
            description="Task momentum `momentum - delta` as in the released code, not plus as in the paper."
        ),
    ] = False


Optimizer = Annotated[SGDTable | DOTTable | ControlTable | DeepKDTable, Field(discriminator="name")]


NO_FOLDERS = ("off", "run")
"""What ``run.teacher_cache`` may be instead of a folder."""


class Run(Table):
    """How to run; the seed draws weights, order, augmentation and dropout, each from a stream of its own."""

    seed: Annotated[int, Field(ge=0, description="Seed of the run; arms of one seed are paired.")] = 0
    device: Annotated[
        str, Field(description="`auto` (CUDA where there is one), `cpu`, `cuda` or `cuda:N`.")
    ] = "auto"
    precision: Annotated[
        Literal["fp32", "bf16", "bf16-teacher"],
        Field(
            description="`bf16`: both networks in bfloat16 where autocast allows it, `bf16-teacher`: the "
            "teacher alone; losses are in float32."
        ),
    ] = "fp32"
    channels_last: Annotated[
        bool,
        Field(
            description="Weights of 2-D convolutions with the channels innermost in memory, which is faster."
        ),
    ] = True
    teacher_cache: Annotated[
        str,
        Field(
            min_length=1,
            description="The teacher is asked once for each view of an image: `run` remembers its outputs in "
            "memory, a folder keeps them for other runs too; `off`. Without a teacher of no effect.",
        ),
    ] = "off"
    compile: Annotated[
        Literal["none", "parts", "step"],
        Field(
            description="What `torch.compile` gets, before the first epoch: `parts`, the networks; `step`, "
            "also the losses and their backward passes, in one graph. Needs a C++ compiler; a smaller last "
            "batch is not compiled."
        ),
    ] = "none"
    threads: Annotated[int, Field(ge=0, le=1024, description="CPU threads; 0: torch's choice.")] = 0

    @field_validator("device")
    @classmethod
    def _known(cls, device: str) -> str:
        return check_device(device)


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
        self._check_method()
        self._check_optimizer()
        channels = self.data.facts(look=False).channels
        if len(self.student.mean) not in (0, channels):
            raise ValueError(
                f"student.mean must have one number for each channel, and {self.data.name} has {channels}, "
                f"got {list(self.student.mean)}"
            )
        return self

    def _check_method(self) -> None:
        named = self.teacher.model if self.teacher else None
        if self.teacher and named and not is_external(named) and self.student.mean and not self.teacher.mean:
            raise ValueError(
                "teacher.mean and teacher.std are missing: with which was it trained? the student's are "
                f"{list(self.student.mean)} and {list(self.student.std)}; 0 and 1 for each channel are none"
            )
        if self.teacher is not None and self.method is None:
            raise ValueError("[teacher] needs a [method]: distillation has both, a plain student neither")
        if self.distils and self.teacher is None:
            raise ValueError("[method] needs a [teacher]: distillation has both, a plain student neither")
        if self.method and not self.distils and self.teacher is not None:
            raise ValueError(f"method {self.method['name']!r} has no teacher: leave [teacher] out")
        if not self.distils and self.student.features():
            key = next(iter(self.student.features()))
            raise ValueError(f"student.{key} is read by methods with a teacher only: leave it out")

    def _check_optimizer(self) -> None:
        if not isinstance(self.optimizer, PairTable):
            return
        name = self.optimizer.name
        if not self.distils:
            why = (
                f"method {self.method['name']!r} has one"
                if self.method
                else "there is no [teacher] and no [method]"
            )
            hint = "" if self.method else ", or add both"
            raise ValueError(f"optimizer {name!r} needs two losses, but {why}: use 'sgd'{hint}")
        streams = getattr(create_method(**(self.method or {})), "streams", ())
        if isinstance(self.optimizer, DeepKDTable) and ("task", *streams) != tuple(deepkd_momenta()):
            raise ValueError(
                "optimizer 'deepkd' is for the three losses of method 'deepkd': use it, or 'dot'"
            )

    @property
    def distils(self) -> bool:
        """Whether there is a method that has a teacher."""
        return self.method is not None and has_teacher(self.method["name"])


def tables() -> dict[tuple[str, ...], type[Table]]:
    """List all tables of a recipe by their place; the variants of a table follow it by name.

    Returns:
        Place -> class: ``()`` is the file itself, ``("optimizer", "dot")`` one of its optimizers.

    Example:
        >>> [place for place in tables() if place[:1] == ("optimizer",)]
        [('optimizer', 'sgd'), ('optimizer', 'dot'), ('optimizer', 'control'), ('optimizer', 'deepkd')]
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
