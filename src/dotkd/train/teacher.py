"""The teacher of a recipe: the recipe that trains it first, or the file of its weights."""

from pathlib import Path

from dotkd.errors import BadInput
from dotkd.recipe import Recipe, load_recipe
from dotkd.recipe.tables import IMAGE_KEYS


def teacher_recipe(recipe: Recipe) -> Recipe | None:
    """Read the recipe that trains the teacher of another one.

    The folder of the data, the device and the threads are the student's, for they belong to the machine; so
    are the validation images, which the teacher must not train on.

    Args:
        recipe: The student's recipe.

    Returns:
        The teacher's recipe; None where the teacher is a file or there is none.

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
    own = {key: getattr(recipe.data, key) for key in ("root", "validation", "seed", *IMAGE_KEYS)}
    data = teacher.data.model_copy(update=own)
    run = teacher.run.model_copy(update={"device": recipe.run.device, "threads": recipe.run.threads})
    return teacher.model_copy(update={"data": data, "run": run})


def teacher_file(recipe: Recipe) -> Path | None:
    """The file of ``teacher.checkpoint``; None where there is none."""
    checkpoint = recipe.teacher.checkpoint if recipe.teacher else None
    return None if checkpoint is None else Path(checkpoint)
