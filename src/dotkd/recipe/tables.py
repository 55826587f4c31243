"""The typed tables of a recipe; docs/recipe.md is generated from them.

A key is added here, with its type, range, default and description, and nowhere else.
"""

import inspect
import re
from functools import cache
from typing import Annotated, Any, ClassVar, Literal, Self, get_args, get_origin

import torch
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
from dotkd.errors import BadInput, unknown
from dotkd.features import KINDS, LIST_KINDS
from dotkd.methods import create_method, has_teacher, method_options
from dotkd.models.base import check_normalisation
from dotkd.models.external import PRETRAINED, brings_weights, is_external
from dotkd.models.registry import check_model_name
from dotkd.optim import DOTAdamW, deepkd_momenta, matched_gains
from dotkd.recipe._messages import lines

Rate = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Numbers = Annotated[tuple[float, ...], Strict(False)]
Words = Annotated[tuple[str, ...], Strict(False)]
Epochs = Annotated[tuple[Annotated[int, Field(ge=1)], ...], Strict(False)]


class Table(BaseModel):
    """A table of the file: strict about types, without unknown keys, immutable."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


# ---------------------------------------------------------------- data


class Data(Table):
    """Images and labels, the same for all arms of a comparison."""

    name: Annotated[str, Field(description=f"Data set: {', '.join(DATA_SETS)}.")]
    root: Annotated[
        str,
        Field(
            description="Folder with the files, or name on the hub (`uoft-cs/cifar100`); digits have none."
        ),
    ] = ""
    validation: Annotated[
        int,
        Field(
            ge=0,
            description="Training images set aside to choose on; 0: none, and no best epoch, but for data "
            "with validation images of their own.",
        ),
    ]
    train_images: Annotated[int, Field(ge=0, description="Training images to keep; 0: all.")] = 0
    label_noise: Annotated[
        float, Field(ge=0, le=1, description="Share of training labels replaced by a wrong class.")
    ] = 0.0
    augment: Annotated[
        Words,
        Field(
            description="Augmentation of the training images: a list of the steps below. One step may stand "
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
        Field(
            description="`true` leaves the images of a `folder` or `hub` in files, as those of `imagenet`."
        ),
    ] = None
    workers: Annotated[
        int | None,
        Field(ge=0, description="Processes that decode streamed images; none: one per CPU, at most 8."),
    ] = None
    image_column: Annotated[
        str | None, Field(description="Column of a `hub` data set with the images; none: `image`.")
    ] = None
    label_column: Annotated[
        str | None, Field(description="Column of a `hub` data set with the classes; none: `label`.")
    ] = None
    train_split: Annotated[
        str | None,
        Field(
            description="Split of a `hub` data set to train on, or a slice of one such as `train[:80%]`; "
            "none: `train`, less what the slices of the other two take."
        ),
    ] = None
    test_split: Annotated[
        str | None, Field(description="Split of a `hub` data set to test on, or a slice; none: `test`.")
    ] = None
    validation_split: Annotated[
        str | None,
        Field(
            description="Split of a `hub` data set to choose on, or a slice; none: `validation` images of "
            "`train_split`."
        ),
    ] = None
    test_share: Annotated[
        float | None,
        Field(
            gt=0,
            lt=1,
            description="Share of each class to set aside as the test split of a `folder` or `hub` that has "
            "none, the same images whatever the seed.",
        ),
    ] = None
    unlabelled: Annotated[
        str | None,
        Field(
            description="Name of a folder in the root of a `folder`, with images to train on that have no "
            "class."
        ),
    ] = None
    config: Annotated[
        str | None, Field(description="Configuration of a `hub` data set, where it has several.")
    ] = None
    max_image_pixels: Annotated[
        int | None,
        Field(ge=1, description="Limit on width x height of an image file; none: Pillow's, 178,956,970."),
    ] = None
    seed: Annotated[int, Field(ge=0, description="Draws the splits and the label noise.")] = 0

    @field_validator("augment", mode="before")
    @classmethod
    def _as_list(cls, augment: Any) -> Any:
        if isinstance(augment, str):
            return [] if augment == "none" else [augment]
        return augment

    @field_validator("augment")
    @classmethod
    def _steps(cls, augment: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(map(str, Augmentation(augment).steps))

    @field_validator("name")
    @classmethod
    def _known_name(cls, name: str) -> str:
        if name not in DATA_SETS:
            raise BadInput(unknown("data set", name, DATA_SETS))
        return name

    @model_validator(mode="after")
    def _reads_all_keys(self) -> Self:
        self.named_facts()
        return self

    def source(self) -> dict[str, Any]:
        """The arguments of :func:`dotkd.data.load_data`, without those of the splits."""
        return {"name": self.name, "root": self.root, **self._given(*IMAGE_KEYS)}

    def named_facts(self) -> DataFacts:
        """The facts that the name of the data set tells; 0 for those that only its files tell.

        Returns:
            The facts.

        Raises:
            BadInput: The data set does not read a key that is given.
        """
        return _named_facts(self.name, tuple(self._form().items()))

    def facts(self) -> DataFacts:
        """The facts of the images; files are opened where the name does not tell.

        Returns:
            The facts.

        Raises:
            BadInput: The files are missing or wrong.
        """
        known = self.named_facts()
        return known if known.num_classes else data_facts(self.name, self.root, **self._form())

    def _form(self) -> dict[str, Any]:
        return self._given(*(key for key in IMAGE_KEYS if key not in ("stream", "workers")))

    def _given(self, *keys: str) -> dict[str, Any]:
        values = {key: getattr(self, key) for key in keys}
        return {key: value for key, value in values.items() if value is not None}


_ANY_DATA = ("name", "root", "validation", "train_images", "label_noise", "augment", "batch_size", "seed")
IMAGE_KEYS = tuple(key for key in Data.model_fields if key not in _ANY_DATA)
"""Keys of ``[data]`` that only some data sets read: how their images are stored and decoded."""


@cache
def _named_facts(name: str, form: tuple[tuple[str, Any], ...]) -> DataFacts:
    return data_facts(name, **dict(form))


# ---------------------------------------------------------------- networks


class Network(Table):
    """Normalisation of a network's input, and the feature paths that methods read."""

    mean: Annotated[Numbers, Field(description="Mean of each input channel; empty: 0.")] = ()
    std: Annotated[Numbers, Field(description="Standard deviation of each input channel; empty: 1.")] = ()
    stages: Annotated[
        Words | None, Field(description="Dotted paths of its stages, for methods that read `stages`.")
    ] = None
    preacts: Annotated[
        Words | None,
        Field(
            description="Dotted paths of the stages before their last ReLU, for methods that read `preacts`."
        ),
    ] = None
    last: Annotated[
        str | None, Field(description="Dotted path of the last feature map, for methods that read `last`.")
    ] = None
    pooled: Annotated[
        str | None,
        Field(
            description="Dotted path of the pooled feature vector, for methods that read `pooled`; "
            "`fc:input` is the input of the module `fc`."
        ),
    ] = None

    checkpoint_key: Annotated[
        str | None,
        Field(
            description="Which weights of `checkpoint` to take where it holds several, such as `ema`; none: "
            "those that fit, plain ones before an average."
        ),
    ] = None
    new_head: Annotated[
        bool,
        Field(
            description="`true` leaves the classifier out of `checkpoint`, which is for other classes, and "
            "draws a new one."
        ),
    ] = False

    @model_validator(mode="after")
    def _normalisation(self) -> Self:
        check_normalisation(self.mean, self.std)
        if self.new_head and getattr(self, "checkpoint", None) is None:
            raise ValueError("new_head goes with 'checkpoint': it is about the classifier there")
        if self.checkpoint_key is not None and getattr(self, "checkpoint", None) is None:
            raise ValueError("checkpoint_key goes with 'checkpoint': it names the weights to take there")
        return self

    def paths(self) -> dict[str, str]:
        """The given feature paths of the kinds that are one feature."""
        return {kind: path for kind, path in self.features().items() if isinstance(path, str)}

    def features(self) -> dict[str, str | list[str]]:
        """The given feature paths by kind."""
        found = {kind: getattr(self, kind) for kind in KINDS}
        return {kind: list(path) if kind in LIST_KINDS else path for kind, path in found.items() if path}


class Student(Network):
    """The network to train."""

    model: Annotated[str, Field(description="Name of the network, such as `cifar100/resnet8x4`.")]
    checkpoint: Annotated[
        str | None,
        Field(description="Weights to start from: `student.safetensors`, `.pth`; none: random ones."),
    ] = None

    @field_validator("model")
    @classmethod
    def _known_model(cls, model: str) -> str:
        return check_model_name(model)

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        _refuse_two_sources(self.model, self.checkpoint)
        return self


class Teacher(Network):
    """The frozen network to learn from: a `recipe`, a `checkpoint`, or a `model` that brings its weights."""

    recipe: Annotated[
        str | None,
        Field(description="Recipe that trains it first, into OUTPUT/teacher; reused while it is unchanged."),
    ] = None
    checkpoint: Annotated[
        str | None,
        Field(description="A `student.safetensors`, or a published `.pth` together with `model`."),
    ] = None
    model: Annotated[
        str | None,
        Field(
            description="Network of a `.pth`, or alone `timm:NAME@pretrained`; students of runs name theirs."
        ),
    ] = None
    image_size: Annotated[
        int | None,
        Field(
            ge=1,
            description="Side of the images that it gets; none: that of its training where its file or its "
            "library tells it, else that of the data.",
        ),
    ] = None
    verify: Annotated[
        bool,
        Field(
            description="Whether to stop where its accuracy before the training is not clearly above chance, "
            "or its class names are not those of the data; `false` goes on all the same."
        ),
    ] = True

    @field_validator("model")
    @classmethod
    def _known_model(cls, model: str | None) -> str | None:
        return None if model is None else check_model_name(model)

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        brings = self.model is not None and brings_weights(self.model)
        if (self.recipe is None) == (self.checkpoint is None) and not (brings and self.recipe is None):
            raise ValueError(
                "exactly one of the keys 'recipe' and 'checkpoint' must be given; a model "
                f"'timm:NAME{PRETRAINED}' or 'hf:NAME{PRETRAINED}' needs neither"
            )
        _refuse_two_sources(self.model, self.checkpoint)
        if self.model is None and (self.mean or self.std):
            raise ValueError("mean and std go with 'model'; other teachers know their own")
        if self.model is not None and self.recipe is not None:
            raise ValueError("model goes with 'checkpoint'; a recipe names its own")
        if self.image_size is not None and self.recipe is not None:
            raise ValueError(
                "image_size goes with 'checkpoint' or 'model'; a recipe trains on the data's size"
            )
        if self.checkpoint_key is not None and self.model is None:
            raise ValueError("checkpoint_key goes with 'model': a student's file has one set of weights")
        if self.new_head and self.model is None:
            raise ValueError("new_head goes with 'model': a student's file names a network with its head")
        return self


def _refuse_two_sources(model: str | None, checkpoint: str | None) -> None:
    if model is not None and checkpoint is not None and brings_weights(model):
        raise ValueError(
            f"checkpoint has the weights, and {model!r} would bring others: take "
            f"{model.removesuffix(PRETRAINED)!r}, or leave checkpoint out"
        )


# ---------------------------------------------------------------- method


def complete_method(table: dict[str, Any]) -> dict[str, Any]:
    """Check a method's name and options, and fill in the defaults.

    Args:
        table: ``[method]`` as in the file.

    Returns:
        ``name`` and all options.

    Raises:
        BadInput: A name, type or value is wrong.

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
    """The type of an option, or of its default; strict, but for a list of the file that becomes a tuple."""
    annotation = parameter.annotation
    if annotation is parameter.empty:
        annotation = Any if parameter.default in (parameter.empty, None) else type(parameter.default)
    return Annotated[annotation, Strict(False)] if get_origin(annotation) is tuple else annotation


# ---------------------------------------------------------------- optimizer


class OptimizerTable(Table):
    """Keys of all optimizers."""

    one_loss: ClassVar[str] = ""
    """Name of the optimizer that takes the place of this one where there is one loss; empty: this one."""

    name: Any
    lr: Annotated[Rate, Field(description="Learning rate at the start.")]
    clip_grad_norm: Annotated[
        float | None, Field(gt=0, description="Largest norm of the summed gradient; none: no clipping.")
    ] = None


Delta = Annotated[
    float, Field(description="Task momentum `momentum - delta`, distillation momentum `momentum + delta`.")
]


class SGDTable(OptimizerTable):
    """Plain momentum SGD on the sum of the weighted losses."""

    name: Literal["sgd"]
    momentum: Annotated[float, Field(ge=0, lt=1, description="Momentum.")] = 0.9
    weight_decay: Annotated[Rate, Field(description="L2 penalty.")] = 0.0
    nesterov: Annotated[bool, Field(description="Nesterov momentum.")] = False

    @model_validator(mode="after")
    def _nesterov_has_momentum(self) -> Self:
        if self.nesterov and self.momentum == 0:
            raise ValueError("nesterov = true needs momentum > 0, got 0")
        return self


class TwoMomentaTable(SGDTable):
    """Keys of the optimizers with a momentum for each loss, and of their control."""

    one_loss: ClassVar[str] = "sgd"

    name: Any
    delta: Delta

    @model_validator(mode="after")
    def _window(self) -> Self:
        matched_gains(self.momentum, self.delta)  # raises for a momentum outside [0, 1)
        return self


class DOTTable(TwoMomentaTable):
    """A momentum for each gradient: the distillation-oriented trainer."""

    name: Literal["dot"]


class ControlTable(TwoMomentaTable):
    """One momentum for both gradients, with the steady-state weights that `delta` gives them under DOT."""

    name: Literal["control"]


class DeepKDTable(TwoMomentaTable):
    """Three momenta, for a method with two distillation losses: DeepKD's trainer."""

    name: Literal["deepkd"]
    as_released: Annotated[
        bool,
        Field(
            description="Task momentum `momentum - delta` as in the released code, not plus as in the paper."
        ),
    ] = False


class AdamWTable(OptimizerTable):
    """AdamW on the sum of the weighted losses."""

    name: Literal["adamw"]
    betas: Annotated[
        Numbers, Field(description="Decay of the first and of the second moment, each in [0, 1).")
    ] = (0.9, 0.999)
    eps: Annotated[Rate, Field(description="Added to the denominator.")] = 1e-8
    weight_decay: Annotated[Rate, Field(description="Decoupled weight decay.")] = 1e-2

    @field_validator("betas")
    @classmethod
    def _two(cls, betas: tuple[float, ...]) -> tuple[float, ...]:
        if len(betas) != 2 or not all(0 <= beta < 1 for beta in betas):
            raise ValueError(f"must be two numbers in [0, 1), got {list(betas)}")
        return betas

    @property
    def two_betas(self) -> tuple[float, float]:
        """``betas``, whose length is checked."""
        first, second = self.betas
        return first, second


class DOTAdamWTable(AdamWTable):
    """AdamW with a first moment for each gradient, decayed by `betas[0] - delta` and `betas[0] + delta`."""

    one_loss: ClassVar[str] = "adamw"

    name: Literal["dot-adamw"]  # type: ignore[assignment]
    delta: Annotated[
        float, Field(description="Task beta `betas[0] - delta`, distillation beta `betas[0] + delta`.")
    ]

    @model_validator(mode="after")
    def _window(self) -> Self:
        DOTAdamW([torch.nn.Parameter(torch.zeros(1))], self.lr, self.two_betas, self.delta)
        return self


Optimizer = Annotated[
    SGDTable | DOTTable | ControlTable | DeepKDTable | AdamWTable | DOTAdamWTable,
    Field(discriminator="name"),
]


# ---------------------------------------------------------------- run and schedule


NO_FOLDERS = ("off", "run")
"""Values of ``run.teacher_cache`` that are no folder."""


class Run(Table):
    """How to run. The seed draws weights, order, augmentation and dropout, each in a stream of its own."""

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
            description="Memory format of the weights of 2-D convolutions: `torch.channels_last`, which is "
            "faster, or contiguous."
        ),
    ] = True
    teacher_cache: Annotated[
        str,
        Field(
            min_length=1,
            description="Cache of the teacher's outputs, one forward pass for each view of an image: `run` "
            "keeps them in memory, a folder for other runs too; `off`. No effect without a teacher.",
        ),
    ] = "off"
    compile: Annotated[
        Literal["none", "parts", "step"],
        Field(
            description="Parts of the step for `torch.compile`: `parts`, the networks; `step`, "
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
    """Return the name of a device, or raise BadInput unless it is auto, cpu, cuda or cuda:N."""
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", device):
        raise BadInput(f"must be 'auto', 'cpu', 'cuda' or 'cuda:N', got {device!r}")
    return device


class ConstantSchedule(Table):
    """A constant learning rate."""

    name: Literal["constant"]
    epochs: Annotated[int, Field(ge=1, description="Epochs.")]
    warmup: Annotated[
        int, Field(ge=0, description="Epochs over which the learning rate rises linearly from zero.")
    ] = 0

    @model_validator(mode="after")
    def _ends_in_time(self) -> Self:
        if self.warmup >= self.epochs:
            raise ValueError(f"warmup must end before epochs = {self.epochs}, got {self.warmup}")
        return self


class StepSchedule(ConstantSchedule):
    """The learning rate is multiplied by `gamma` after each milestone."""

    name: Literal["step"]  # type: ignore[assignment]
    milestones: Annotated[
        Epochs, Field(description="Epochs after which the learning rate drops, in rising order.")
    ]
    gamma: Annotated[float, Field(gt=0, le=1, description="Factor of each drop.")] = 0.1

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        rising = list(self.milestones) == sorted(set(self.milestones))
        if not rising or max(self.milestones, default=0) >= self.epochs:
            raise ValueError(
                f"milestones must rise and lie before epochs = {self.epochs}, got {list(self.milestones)}"
            )
        return self


class CosineSchedule(ConstantSchedule):
    """The learning rate falls to zero along half a cosine."""

    name: Literal["cosine"]  # type: ignore[assignment]


Schedule = Annotated[ConstantSchedule | StepSchedule | CosineSchedule, Field(discriminator="name")]


class Published(Table):
    """The published result of this recipe, for display only."""

    accuracy: Annotated[float, Field(gt=0, le=100, description="Top-1 test accuracy in percent.")]
    source: Annotated[str, Field(min_length=1, description="Its publication, and how it was measured.")]


class Recipe(Table):
    """A whole training run."""

    name: Annotated[str, Field(min_length=1, description="Name of this arm in tables and figures.")]
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
        channels = self.data.named_facts().channels
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
        method = self.method or {}
        if self.distils and not (method["task_weight"] or method["distill_weight"]):
            raise ValueError("method.task_weight and method.distill_weight are both 0: one must be > 0")
        if not self.distils and self.student.features():
            key = next(iter(self.student.features()))
            raise ValueError(f"student.{key} is read by methods with a teacher only: leave it out")

    def _check_optimizer(self) -> None:
        if not self.optimizer.one_loss:
            return
        name = self.optimizer.name
        if not self.distils:
            why = (
                f"method {self.method['name']!r} has one"
                if self.method
                else "there is no [teacher] and no [method]"
            )
            hint = "" if self.method else ", or add both"
            raise ValueError(
                f"optimizer {name!r} needs two losses, but {why}: use {self.optimizer.one_loss!r}{hint}"
            )
        streams = getattr(create_method(**(self.method or {})), "streams", ())
        if isinstance(self.optimizer, DeepKDTable) and ("task", *streams) != tuple(deepkd_momenta()):
            raise ValueError(
                "optimizer 'deepkd' is for the three losses of method 'deepkd': use it, or 'dot'"
            )

    @property
    def distils(self) -> bool:
        """Whether the method has a teacher."""
        return self.method is not None and has_teacher(self.method["name"])


def tables() -> dict[tuple[str, ...], type[Table]]:
    """All tables of a recipe by their place in the file.

    Returns:
        Place -> class: ``()`` is the file itself, ``("optimizer", "dot")`` one of its optimizers.

    Example:
        >>> [place[1] for place in tables() if place[:1] == ("optimizer",)]
        ['sgd', 'dot', 'control', 'deepkd', 'adamw', 'dot-adamw']
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
