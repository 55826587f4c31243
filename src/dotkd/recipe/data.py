"""The table ``[data]``: images and labels."""

from typing import Annotated, Any

from pydantic import Field, field_validator

from dotkd.data import DATA_SETS, data_facts
from dotkd.data.augmentation import Augmentation
from dotkd.recipe.table import Table, Words


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
