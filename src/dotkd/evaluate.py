"""``evaluate``: how good a student is that a run wrote."""

from pathlib import Path

from dotkd.build import build_data, build_device, load_student
from dotkd.recipe import Recipe
from dotkd.train.evaluate import Quality, evaluate


def evaluate_student(path: Path, *, root: str = "", device: str = "auto") -> tuple[Quality, int, Recipe]:
    """Measure a student on the test images of the data set that it was trained for.

    Args:
        path: ``student.safetensors``, or the folder of a finished run.
        root: Where the data are; empty: where they were in training.
        device: As in ``run.device``.

    Returns:
        The numbers, the number of test images, and the recipe.

    Raises:
        BadInput: The file or the data are missing or broken.
    """
    student, recipe = load_student(path)
    data = recipe.data.model_copy(update={"root": root}) if root else recipe.data
    where = build_device(device)
    test = build_data(data).test.to(where)
    return evaluate(student.to(where), test, precision=recipe.run.precision), len(test), recipe
