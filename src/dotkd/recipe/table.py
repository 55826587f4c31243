"""What all tables of a recipe share: strict types, no unknown keys, nothing to be changed."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, Strict

Rate = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Numbers = Annotated[tuple[float, ...], Strict(False)]
Words = Annotated[tuple[str, ...], Strict(False)]
Epochs = Annotated[tuple[Annotated[int, Field(ge=1)], ...], Strict(False)]


class Table(BaseModel):
    """A table of the file: strict about types, without unknown keys, not to be changed."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)
