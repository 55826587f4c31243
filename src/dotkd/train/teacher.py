"""The teacher of a recipe: the recipe that trains it first or the file of its weights, and what it knows."""

from pathlib import Path

import torch

from dotkd._validate import UNLABELLED
from dotkd.data import Images, Splits
from dotkd.data.sources import without_label_noise
from dotkd.distiller import Distiller
from dotkd.errors import BadInput
from dotkd.methods import Method
from dotkd.models import ImageModel
from dotkd.recipe import Recipe, load_recipe
from dotkd.recipe.tables import IMAGE_KEYS
from dotkd.records import TeacherAccuracy
from dotkd.train.scores import autocast

_ASKED, _BATCH = 1000, 256  # images
_LUCK = 0.01  # largest probability with which chance may be as good as the teacher


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


def refuse_new_head(recipe: Recipe, teacher: torch.nn.Module | None, method: object) -> None:
    """Refuse a teacher with a random classifier under a method that reads it.

    Args:
        recipe: The student's recipe.
        teacher: Its teacher.
        method: Its method.

    Raises:
        BadInput: The classifier is random and is read.
    """
    new = isinstance(teacher, ImageModel) and teacher.new_head
    if new and isinstance(method, Method) and method.reads_classifier:
        raise BadInput(
            f"teacher.model: the weights of {recipe.teacher and recipe.teacher.model!r} are for other "
            f"classes, so its new classifier is random, and method {(recipe.method or {})['name']!r} reads "
            "it: train it on these data first and name its student.safetensors as teacher.checkpoint, or "
            "take a method that reads features alone"
        )


@torch.no_grad()
def ask_teacher(recipe: Recipe, distiller: Distiller, data: Splits[Images]) -> TeacherAccuracy | None:
    """Ask a teacher for the classes of images before it teaches; at most 1000 of them, held out if there are.

    Chance is the accuracy of predictions with the same frequencies that are independent of the labels,

        chance = sum_c p_predicted(c) p_true(c).

    A teacher is refused if such predictions would be right as often with a probability above 1 %, unless a
    perfect teacher would be refused too: few images, or nearly all of one class. Methods that do not read its
    classifier take any accuracy. Images without labels are asked only where none has one, for finite outputs;
    labels are those before ``data.label_noise``. Logits of ``-inf`` are probabilities of 0 and finite.

    Args:
        recipe: The student's recipe.
        distiller: With the teacher as it was loaded.
        data: On the teacher's device.

    Returns:
        Its accuracy; None where there is no teacher.

    Raises:
        BadInput: An output is not finite or, unless ``teacher.verify`` is false, the accuracy is near chance.
    """
    from scipy.special import bdtrc  # type: ignore[import-untyped]  # slow to load

    method = distiller.method
    if distiller.teacher is None or not isinstance(method, Method) or recipe.teacher is None:
        return None
    split = "train" if data.validation is None else "validation"
    images = data.validation or data.train
    if split == "train":
        images = without_label_noise(images, recipe.data.label_noise, recipe.data.seed)
    labelled = images.labels != UNLABELLED
    from_these = (labelled if labelled.any() else ~labelled).nonzero().flatten()
    count = min(_ASKED, len(from_these))
    asked = images.subset(from_these[torch.arange(count) * len(from_these) // count])
    predicted: list[torch.Tensor] = []
    classes = len(images.classes)
    for batch in asked.batches(_BATCH):
        with autocast(images.device, recipe.run.precision):
            outputs = distiller.teach(batch.images)
        finite = {"logits": outputs.logits.softmax(dim=1), **outputs.features}
        for name, values in finite.items():
            if not bool(values.isfinite().all()):
                raise BadInput(
                    f"teacher: its {name} are not finite for images of the {split} split: {_USUAL}"
                )
        predicted.append(outputs.logits.argmax(dim=1))
    if outputs.logits.shape[1] != classes or not labelled.any():
        return TeacherAccuracy(accuracy=None, chance=None, split=split, images=count)
    answers = torch.cat(predicted)
    right = int((answers == asked.labels).sum())
    frequencies, true = (each.bincount(minlength=classes) for each in (answers, asked.labels))
    chance, perfect = (int((each * true).sum()) / count**2 for each in (frequencies, true))
    lucky = bdtrc(right - 1, count, chance) > _LUCK >= perfect**count
    if lucky and method.reads_classifier and recipe.teacher.verify:
        raise BadInput(
            f"teacher: right for {100 * right / count:.1f} % of {count} {split} images (chance "
            f"{100 * chance:.1f} %): {_USUAL}; teacher.verify = false goes on all the same"
        )
    return TeacherAccuracy(accuracy=right / count, chance=chance, split=split, images=count)


_USUAL = (
    "usually its classifier is untrained, or the image size (teacher.image_size), the normalisation "
    "(teacher.mean, teacher.std) or the order of its classes is not that of its training"
)
