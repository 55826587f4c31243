"""The fast form of a frozen teacher: folded batch norms, memory format, precision."""

import torch

from dotkd.distiller import Distiller
from dotkd.models.fold import fold_batch_norm
from dotkd.recipe import Recipe
from dotkd.train.networks import set_memory_format


def settle_teacher(distiller: Distiller, recipe: Recipe) -> None:
    """Bring a teacher into the form with the fastest forward pass, in place.

    Its batch norms are folded where that changes no feature that the method reads; layout and precision are
    those of ``[run]``. The method has seen the teacher as it was: what it reads of a batch norm it has read.
    Weights stay in float32: to round them to bfloat16 once, instead of in each step, saves nothing that can
    be measured.

    Args:
        distiller: With a teacher that is the run's own.
        recipe: The recipe.
    """
    teacher = distiller.teacher
    assert teacher is not None
    fold_batch_norm(teacher, keep=distiller.teacher_paths.values())
    set_memory_format(teacher, channels_last=recipe.run.channels_last)
    if recipe.run.precision == "bf16-teacher":  # "bf16" is autocast around both
        distiller.teacher_dtype = torch.bfloat16


def teacher_form(recipe: Recipe) -> str:
    """Name the form of a run's teacher: outputs of different forms differ in their last bits.

    Args:
        recipe: The recipe.

    Returns:
        Such as ``"folded, channels_last, fp32"``.

    Example:
        >>> from dotkd.recipe import load_recipe
        >>> teacher_form(load_recipe("quick/digits-kd", ["run.precision=bf16-teacher"]))
        'folded, channels_last, bf16'
    """
    layout = "channels_last" if recipe.run.channels_last else "contiguous"
    return f"folded, {layout}, {'fp32' if recipe.run.precision == 'fp32' else 'bf16'}"
