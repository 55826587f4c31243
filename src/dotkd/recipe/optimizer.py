"""The table ``[optimizer]``: what turns gradients into updates."""

from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from dotkd.optim.checks import check_window
from dotkd.recipe.table import Rate, Table


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


class TwoStreamTable(PairTable):
    """What DOT and its control have in common."""

    name: Any
    task_every: Annotated[
        int,
        Field(
            ge=1,
            description="One step in this many computes the task gradient, the others hold it and save a "
            "backward pass: an approximation, where it is much smaller than the distillation gradient.",
        ),
    ] = 1


class DOTTable(TwoStreamTable):
    """A momentum for each gradient: the distillation-oriented trainer."""

    name: Literal["dot"]


class ControlTable(TwoStreamTable):
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
