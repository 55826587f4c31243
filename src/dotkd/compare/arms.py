"""Arms of a comparison: their checks, folder names, seeds and shared teachers."""

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path

from dotkd.errors import BadInput
from dotkd.recipe import Recipe, recipe_text
from dotkd.runs import (
    FIGURES,
    MARKDOWN,
    PAGE,
    RESULTS,
    SWEEP,
    TABLES,
    TEACHERS,
    TRIALS,
    TUNING,
    find_runs,
)
from dotkd.train.build import check_recipe
from dotkd.train.environment import file_checksum
from dotkd.train.teacher import ask_teacher, teacher_recipe

_RESERVED = (*TEACHERS, TRIALS, RESULTS, SWEEP, TUNING, PAGE, MARKDOWN, TABLES, FIGURES)


def check_arms(recipes: Sequence[Recipe], *, tuned: bool = False) -> dict[str, Recipe]:
    """Check the recipes of a comparison before anything is written.

    Args:
        recipes: The arms.
        tuned: Whether learning rates are to be chosen on validation images.

    Returns:
        Folder name of each arm -> its recipe.

    Raises:
        BadInput: There is no recipe, two share a folder, a recipe is wrong, or it lacks validation images.
    """
    if not recipes:
        raise BadInput("no recipe is given: name at least one, such as quick/digits-kd")
    arms: dict[str, Recipe] = {}
    for recipe in recipes:
        arm = slug(recipe.name)
        if arm in arms:
            both = f"{arms[arm].name!r} and {recipe.name!r}"
            raise BadInput(f"{both} would share the folder {arm!r}: give each arm its own name")
        if recipe.run.seed:
            raise BadInput(
                f"run.seed = {recipe.run.seed} in {recipe.name!r}: must be 0 (--seeds sets the seeds)"
            )
        if arm in _RESERVED:
            raise BadInput(f"name {recipe.name!r}: the folder {arm!r} is reserved, choose another name")
        arms[arm] = recipe
    asked: set[tuple[object, ...]] = set()
    for recipe in recipes:
        prepared = check_recipe(recipe)
        if tuned and prepared.data.validation is None:
            raise BadInput(f"{recipe.name}: --tune-lr needs data.validation > 0, got 0")
        if recipe.teacher is None or prepared.untrained is not None:
            continue
        file = prepared.files.get("teacher")
        reads = getattr(prepared.distiller.method, "reads_classifier", False)
        teacher = recipe.teacher.model if file is None else file_checksum(file)
        question = (teacher, recipe.teacher.verify, reads, recipe.data.model_dump_json())
        if question not in asked:
            asked.add(question)
            ask_teacher(recipe, prepared.distiller, prepared.data)
    return arms


def check_unclaimed(folder: Path, planned: dict[tuple[str, int], Path]) -> None:
    """Refuse a folder that holds a planned run, by name and seed, at another path.

    Args:
        folder: The folder of the comparison.
        planned: (name, seed) of each planned run -> its folder.

    Raises:
        BadInput: There is such a run.
    """
    for run in find_runs(folder) if folder.is_dir() else []:
        if not run.is_teacher and planned.get((run.name, run.seed), run.path) != run.path:
            raise BadInput(f"{run.path} already holds {run.name!r}, seed {run.seed}: give another --output")


def teacher_folder(recipe: Recipe, folder: Path) -> Path | None:
    """Return the folder in which an arm's teacher is trained; equal teacher recipes share it."""
    teacher = teacher_recipe(recipe)
    if teacher is None:
        return None
    checksum = hashlib.sha256(recipe_text(teacher).encode()).hexdigest()[:8]
    return folder / "teachers" / f"{slug(teacher.name)}-{checksum}"


def with_seed(recipe: Recipe, seed: int) -> Recipe:
    """Return the recipe with another ``run.seed``."""
    return recipe.model_copy(update={"run": recipe.run.model_copy(update={"seed": seed})})


def slug(name: str) -> str:
    """Turn a name into a folder name; the point and the sign of numbers stay."""
    return re.sub(r"[^\w.]+|_+", "-", name.lower()).strip("-.") or "arm"
