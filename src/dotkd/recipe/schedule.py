"""The table ``[schedule]``: how long, and how the learning rate falls."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from dotkd.recipe.table import Epochs, Table


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
