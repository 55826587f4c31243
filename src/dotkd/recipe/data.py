"""The table ``[data]``: images and labels."""

from typing import Annotated, Any, Self

from pydantic import Field, field_validator, model_validator

from dotkd.data import DATA_SETS, DataFacts, data_facts
from dotkd.data.augmentation import Augmentation
from dotkd.recipe.table import Table, Words

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
