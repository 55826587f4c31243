"""The tables ``[student]`` and ``[teacher]``: which networks, their weights, and what they see."""

from typing import Annotated, Self

from pydantic import Field, field_validator, model_validator

from dotkd.locate import KINDS, MANY
from dotkd.models.base import check_normalisation
from dotkd.models.external_names import PRETRAINED, is_external
from dotkd.models.registry import check_model_name
from dotkd.recipe.table import Numbers, Table, Words


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
