"""``evaluate``: how good a network is, one that a run wrote or any other whose recipe is given."""

from pathlib import Path

from dotkd.build import build_data, build_device
from dotkd.networks import lay_out, load_student
from dotkd.recipe import Recipe
from dotkd.train.evaluate import Quality, evaluate


def evaluate_student(
    path: Path, recipe: Recipe | None = None, *, root: str = "", device: str = "auto"
) -> tuple[Quality, int, Recipe]:
    """Measure a network on the test images of the data set that it was trained for.

    Args:
        path: A student, run folder or checkpoint of a run; with ``recipe`` also a published ``.pth``.
        recipe: The recipe whose student it is; None where the file or its run knows.
        root: Where the data are; empty: where the recipe says.
        device: As in ``run.device``.

    Returns:
        The numbers, the number of test images, and the recipe.

    Raises:
        BadInput: The file or the data are missing or broken, or do not fit.
    """
    student, recipe = load_student(path, recipe)
    lay_out(student, channels_last=recipe.run.channels_last)  # as in the run: the same numbers
    data = recipe.data.model_copy(update={"root": root}) if root else recipe.data
    where = build_device(device)
    test = build_data(data).test.to(where)
    return evaluate(student.to(where), test, precision=recipe.run.precision), len(test), recipe
