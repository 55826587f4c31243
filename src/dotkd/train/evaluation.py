"""``evaluate``: a trained network, from a run or any file with its recipe, measured on the test images."""

from pathlib import Path
from typing import NamedTuple

from dotkd.errors import BadInput
from dotkd.models.classes import order_classes
from dotkd.recipe import Recipe
from dotkd.train.build import build_data, build_device
from dotkd.train.networks import load_student, set_memory_format
from dotkd.train.scores import Scores, score


class Evaluation(NamedTuple):
    """Result of :func:`evaluate`: the scores, the number of test images, and the recipe of the network."""

    scores: Scores
    images: int
    recipe: Recipe


def evaluate(
    source: str | Path, recipe: Recipe | None = None, *, root: str = "", device: str = "auto"
) -> Evaluation:
    """Measure a network on the test images of the data set that it was trained for.

    Args:
        source: A student file, run folder or checkpoint of a run; with ``recipe`` also a published ``.pth``.
        recipe: The recipe of the network; None: the one in the file or beside it.
        root: Folder of the data; empty: the recipe's.
        device: As ``run.device``.

    Returns:
        The scores, the number of test images, and the recipe.

    Raises:
        BadInput: The file or the data are missing or broken or do not fit, or have other class names.

    Example:
        >>> from dotkd.recipe import load_recipe
        >>> from dotkd.train import train
        >>> results = train(load_recipe("quick/digits-plain", ["schedule.epochs=1"]), "run")
        >>> evaluate("run").scores.accuracy == results.last.test_accuracy
        True
    """
    student, recipe = load_student(source, recipe)
    set_memory_format(student, channels_last=recipe.run.channels_last)  # as in the run: the same numbers
    data = recipe.data.model_copy(update={"root": root}) if root else recipe.data
    chosen = build_device(device)
    test = build_data(data).test.to(chosen)
    try:
        order_classes(student, test.classes, test.image_shape)
    except BadInput as error:
        raise BadInput(f"{source}: {error}") from None
    return Evaluation(score(student.to(chosen), test, precision=recipe.run.precision), len(test), recipe)
