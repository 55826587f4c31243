"""A finished run as something to measure: its session at the end, its images, its losses.

Here belongs what more than one part of an analysis needs.
"""

import math
from pathlib import Path

import torch
from torch import Tensor, nn

from dotkd.data import Images
from dotkd.data.randomness import random_stream
from dotkd.distiller import Distiller
from dotkd.errors import BadInput
from dotkd.networks import build_teacher, refuse_own_code
from dotkd.recipe import Recipe, load_recipe
from dotkd.runs import ENVIRONMENT, RECIPE, STUDENT, read_json
from dotkd.train.environment import file_checksum
from dotkd.train.session import Session, restore, start


def open_session(folder: Path, given: Recipe | None) -> Session:
    """Bring a run to the state at its end, with its teacher.

    Args:
        folder: The run folder.
        given: Its recipe, where its student is a function of one's own; None to read it from the folder.

    Returns:
        The session.

    Raises:
        BadInput: Its teacher is gone, its student is code of one's own, or a file is broken.
    """
    recipe = load_recipe(folder / RECIPE)
    if given is not None:
        run = given.run.model_copy(update={"seed": recipe.run.seed})
        recipe = given.model_copy(update={"run": run})
    else:
        refuse_own_code(recipe, folder)
    teacher = None if recipe.teacher is None else build_teacher(recipe, _teacher(folder))
    session = start(recipe, teacher)
    restore(session, folder)
    return session


def _teacher(folder: Path) -> Path | None:
    """Find the file of a run's teacher by its checksum: where the recipe says, or where runs put it."""
    recipe = load_recipe(folder / RECIPE)
    wanted = read_json(folder / ENVIRONMENT).get("teacher_checksum")
    assert recipe.teacher is not None
    if wanted is None:  # its name brought its weights
        return None
    places = [Path(recipe.teacher.checkpoint)] if recipe.teacher.checkpoint else []
    places.append(folder / "teacher" / STUDENT)
    places += sorted(folder.parent.parent.glob(f"teachers/*/{STUDENT}"))
    for place in places:
        if place.is_file() and file_checksum(place) == wanted:
            return place
    raise BadInput(f"{folder}: its teacher (checksum {wanted}) is in none of {', '.join(map(str, places))}")


def some_of(data: Images, count: int) -> Images:
    """Choose images, the same ones for all runs on these data."""
    order = torch.randperm(len(data), generator=random_stream(0, "analysis.images"))
    return data.subset(order[:count].to(data.device))


# ---------------------------------------------------------------- the losses


def mean_losses(session: Session, data: Images, *, accuracy: bool = False) -> dict[str, Tensor]:
    """Mean losses over a data set, in batches.

    Args:
        session: The run.
        data: The images.
        accuracy: Whether to give the share of right predictions too, of the same forward passes.

    Returns:
        ``task`` and ``distill``, raw, and their sum ``total`` as it is differentiated at the end of the run.
    """
    sums: dict[str, Tensor] = {}
    for batch in data.batches(session.recipe.data.batch_size):
        losses = session.objective(batch.images, batch.labels, index=batch.index, progress=1.0)
        found = {"task": losses.raw_task, "total": losses.task}
        if losses.distill is not None:
            found |= {"distill": losses.raw_distill, "total": losses.task + losses.distill}
        if accuracy:
            found["accuracy"] = (losses.logits.argmax(dim=1) == batch.labels).float().mean()
        for name, value in found.items():
            sums[name] = sums.get(name, value.new_zeros(())) + value * len(batch)
    return {name: value / len(data) for name, value in sums.items()}


def student_params(session: Session) -> list[nn.Parameter]:
    """Give what training moved of the student."""
    return [param for param in session.objective.student.parameters() if param.requires_grad]


def weight_of(session: Session, kind: str) -> float:
    """The factor between a raw loss and the one that is differentiated at the end of the run."""
    if not isinstance(session.objective, Distiller):
        return 1.0
    method = session.objective.method
    return method.task_weight if kind == "task" else method.distill_weight * method.ramp(1.0)


# ---------------------------------------------------------------- numbers for JSON


def plain(values: Tensor) -> list[float | None]:
    """Give the numbers of a vector, None for what is not finite."""
    return [finite(value) for value in values.tolist()]


def finite(value: float) -> float | None:
    """Give a number, None if it is not finite."""
    return value if math.isfinite(value) else None
