"""The table ``[run]``: the seed, and what is run on."""

import re
from typing import Annotated, Literal

from pydantic import Field, field_validator

from dotkd.errors import BadInput
from dotkd.recipe.table import Table

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
