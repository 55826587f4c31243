"""The teacher of a run: found by its file, or trained first and used again where its recipe is unchanged."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from dotkd import runs
from dotkd.build import build_data, build_device
from dotkd.data import Images
from dotkd.distiller import Distiller
from dotkd.errors import BadInput
from dotkd.networks import build_student, build_teacher
from dotkd.recipe import Recipe, load_recipe
from dotkd.recipe.tables import PLACE_AND_FORM
from dotkd.train.epoch import OnStep
from dotkd.train.evaluate import in_evaluation_mode
from dotkd.train.loop import OnEpoch, check_folder, train
from dotkd.train.session import build_objective


def teacher_recipe(recipe: Recipe) -> Recipe | None:
    """Read the recipe that trains the teacher of another one.

    Where the data are, the device and the threads follow the student's recipe, for they belong to the
    machine; so do the images set aside for validation, which no teacher may have seen.

    Args:
        recipe: The student's recipe.

    Returns:
        The teacher's recipe, or None where the teacher is a file or there is none.

    Raises:
        BadInput: It is missing or wrong, or its data set is another one.
    """
    if recipe.teacher is None or recipe.teacher.recipe is None:
        return None
    teacher = load_recipe(recipe.teacher.recipe)
    if teacher.teacher is not None:
        raise BadInput(f"teacher.recipe: {recipe.teacher.recipe} has a teacher itself")
    if teacher.data.name != recipe.data.name:
        raise BadInput(
            f"teacher.recipe: {recipe.teacher.recipe} is for {teacher.data.name}, the student's data is "
            f"{recipe.data.name}"
        )
    own = {key: getattr(recipe.data, key) for key in ("root", "validation", "seed", *PLACE_AND_FORM)}
    data = teacher.data.model_copy(update=own)
    run = teacher.run.model_copy(update={"device": recipe.run.device, "threads": recipe.run.threads})
    return teacher.model_copy(update={"data": data, "run": run})


def check_recipe(recipe: Recipe) -> None:
    """Find out what is wrong with a recipe, or with its teacher's, before anything is written.

    Args:
        recipe: The recipe.

    Raises:
        BadInput: There is no such device, data or checkpoint, or they do not fit together.
    """
    teacher = teacher_recipe(recipe)
    if teacher is not None:
        check_recipe(teacher)
    build_device(recipe.run.device)
    stand_in = _stand_in(recipe, teacher)
    data = build_data(recipe.data).train
    objective = build_objective(recipe, stand_in, data, torch.device("cpu"))
    _try(objective, data)
    images = len(data)
    norms = any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in objective.modules())
    if norms and images % recipe.data.batch_size == 1:
        raise BadInput(
            f"data.batch_size: {recipe.data.batch_size} leaves one of {images} images for the last batch, "
            "and batch norm needs two: take another size"
        )


def _stand_in(recipe: Recipe, teacher: Recipe | None) -> nn.Module | None:
    """Return the teacher, or, where it is yet to be trained, a network of its shape."""
    if teacher is not None:
        return build_student(teacher).eval()
    return None if recipe.teacher is None else build_teacher(recipe, _file(recipe))


def _file(recipe: Recipe) -> Path | None:
    """Return the file with a teacher's weights; None where its name brings them, or a recipe trains it."""
    checkpoint = recipe.teacher.checkpoint if recipe.teacher else None
    return None if checkpoint is None else Path(checkpoint)


def _try(objective: Distiller, data: Images) -> None:
    """Compute the losses of a few images: options out of range and shapes that do not fit show now."""
    batch = data.batch(torch.arange(min(4, len(data)), device=data.device))
    try:
        with torch.no_grad(), in_evaluation_mode(objective):
            objective(batch.images.cpu(), batch.labels.cpu(), index=batch.index.cpu(), progress=1.0)
    except ValueError as error:
        raise BadInput(f"method: {error}") from None


def provide_teacher(
    recipe: Recipe,
    folder: Path,
    *,
    on_epoch: Sequence[OnEpoch] = (),
    on_step: OnStep | None = None,
) -> Path | None:
    """Return the file of a recipe's teacher, training it first where that has not been done.

    Args:
        recipe: The student's recipe.
        folder: Where a teacher that is trained goes. A finished one of the same recipe is used again, an
            unfinished one goes on.
        on_epoch: As for :func:`~dotkd.train.loop.train`.
        on_step: Likewise.

    Returns:
        The file with the teacher's weights; None where there is no teacher, or its name brings them.

    Raises:
        BadInput: The folder holds a teacher of another recipe.
    """
    teacher = teacher_recipe(recipe)
    if teacher is None:
        return _file(recipe)
    check_folder(teacher, folder, resume=True)
    train(teacher, folder, resume=True, on_epoch=on_epoch, on_step=on_step)
    return folder / runs.STUDENT
