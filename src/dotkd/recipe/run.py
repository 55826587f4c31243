"""The table ``[run]``: the seed, and what is run on."""

import re
from typing import Annotated, Literal

from pydantic import Field, field_validator

from dotkd.errors import BadInput
from dotkd.recipe.table import Table


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
