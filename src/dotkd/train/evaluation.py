"""``evaluate``: a trained network, from a run or any file with its recipe, measured on the test images."""

from pathlib import Path
from typing import NamedTuple

from dotkd.errors import BadInput
from dotkd.models.classes import class_names, order_classes
from dotkd.recipe import Recipe
from dotkd.train.build import build_data, build_device
from dotkd.train.networks import load_student, set_memory_format
from dotkd.train.scores import Scores, score


class Evaluation(NamedTuple):
    """Result of :func:`evaluate`.

    Attributes:
        scores: The scores.
        images: Number of test images.
        recipe: The recipe of the network.
        warning: Where the network has other class names than the data, what they are; else empty.
    """

    scores: Scores
    images: int
    recipe: Recipe
    warning: str = ""


def evaluate(
    source: str | Path, recipe: Recipe | None = None, *, root: str = "", device: str = "auto"
) -> Evaluation:
    """Measure a network on the test images of the data set that it was trained for.

    Outputs are put in the order of the data's classes by name. As many other names are taken in the order of
    the network, with a warning.

    Args:
        source: A student file, run folder or checkpoint of a run; with ``recipe`` also a published ``.pth``.
        recipe: The recipe of the network; None: the one in the file or beside it.
        root: Folder of the data; empty: the recipe's.
        device: As ``run.device``.

    Returns:
        The scores, the number of test images, the recipe, and a warning about other class names.

    Raises:
        BadInput: The file or the data are missing or broken or do not fit, or have another number of classes.

    Example:
        >>> from dotkd.recipe import load_recipe
        >>> from dotkd.train import train
        >>> results = train(load_recipe("quick/digits-plain", ["schedule.epochs=1"]), "run")
        >>> evaluate("run").scores.accuracy == results.last.test_accuracy
        True
    """
    student, recipe = load_student(source, recipe)
    set_memory_format(student, channels_last=recipe.run.channels_last)  # as in the run: the same numbers
    # Only the test images are read, so that other validation images than those of the training do no harm.
    data = recipe.data.model_copy(update={"root": root or recipe.data.root, "validation": 0})
    chosen = build_device(device)
    test = build_data(data).test.to(chosen)
    warning = ""
    try:
        order_classes(student, test.classes, test.image_shape)
    except BadInput as error:
        if len(class_names(student)) != len(test.classes):
            raise BadInput(f"{source}: {error}") from None
        warning = f"{error}: check that they mean the same, in the same order"
    scores = score(student.to(chosen), test, precision=recipe.run.precision)
    return Evaluation(scores, len(test), recipe, warning)
