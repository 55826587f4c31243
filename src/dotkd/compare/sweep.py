"""The arms of a comparison: their names and folders, the teachers they share, and sweeps over a key.

Here belongs what is decided about a set of recipes before any of them is trained.
"""

import hashlib
import re
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from dotkd.errors import BadInput
from dotkd.recipe import Recipe, recipe_text
from dotkd.recipe.load import make_recipe
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
from dotkd.train.teacher import check_recipe, teacher_recipe

_TAKEN = (*TEACHERS, TRIALS, RESULTS, SWEEP, TUNING, PAGE, MARKDOWN, TABLES, FIGURES)


class Sweep(NamedTuple):
    """Values to try for a key, or for several keys that change together.

    Attributes:
        keys: ``table.key``, one or more.
        values: What they take on, one tuple for each point of the sweep.
    """

    keys: tuple[str, ...]
    values: tuple[tuple[Any, ...], ...]


class SweptArm(NamedTuple):
    """A point of a sweep: one arm of the comparison.

    Attributes:
        name: What the arm is called.
        base: The name of the recipe that it was made of.
        values: What the keys are in it.
    """

    name: str
    base: str
    values: tuple[Any, ...]


def parse_sweep(text: str) -> Sweep:
    """Read a sweep as the command line has it.

    Args:
        text: ``table.key=VALUE,VALUE``; several keys and their values are joined by colons.

    Returns:
        The sweep.

    Raises:
        BadInput: It has another form.

    Example:
        >>> parse_sweep("optimizer.delta=0,0.05").values
        ((0,), (0.05,))
        >>> parse_sweep("method.task_weight:method.distill_weight=0.1:0.9,0.5:0.5").values
        ((0.1, 0.9), (0.5, 0.5))
    """
    left, equals, right = text.partition("=")
    keys = tuple(key.strip() for key in left.split(":"))
    points = [tuple(map(_value, point.split(":"))) for point in right.split(",")] if right else []
    if not equals or not all(re.fullmatch(r"\w+\.\w+", key) for key in keys) or not points:
        raise BadInput(
            f"{text!r} is no sweep: write table.key=VALUE,VALUE, such as optimizer.delta=0,0.05,0.09"
        )
    if any(len(point) != len(keys) for point in points):
        raise BadInput(
            f"{text!r} is no sweep: {len(keys)} keys need {len(keys)} values at each point, joined by ':'"
        )
    if len(set(keys)) < len(keys):
        raise BadInput(f"{text!r}: a key of the sweep is there twice")
    if any(point in points[:place] for place, point in enumerate(points)):
        raise BadInput(f"{text!r}: a value of the sweep is there twice")
    return Sweep(keys, tuple(points))


def swept(recipes: Sequence[Recipe], sweep: Sweep) -> tuple[list[Recipe], list[SweptArm]]:
    """Make an arm for each point of a sweep out of each recipe that has its keys; the others stay one arm.

    Args:
        recipes: The recipes.
        sweep: What to vary.

    Returns:
        All arms, and which of them are points of the sweep.

    Raises:
        BadInput: No recipe has the keys, or one does not take a value.
    """
    arms: list[Recipe] = []
    points: list[SweptArm] = []
    for recipe in recipes:
        raw = recipe.model_dump(exclude_none=True)
        places = [key.split(".") for key in sweep.keys]
        if _values(raw, sweep) is None:
            arms.append(recipe)
            continue
        for values in sweep.values:
            said = ", ".join(f"{inner} {value}" for (_, inner), value in zip(places, values, strict=True))
            name = f"{recipe.name}, {said}"
            changed = {**raw, "name": name}
            for (table, inner), value in zip(places, values, strict=True):
                changed[table] = {**changed[table], inner: _like(raw[table][inner], value)}
            changed.pop("published", None)
            arms.append(make_recipe(changed, name))
            points.append(SweptArm(name, recipe.name, values))
    if not points:
        raise BadInput(f"no recipe has {' and '.join(sweep.keys)}: nothing to sweep")
    return arms, points


def unswept(recipes: Sequence[Recipe], sweep: Sweep) -> dict[str, tuple[Any, ...]]:
    """Say what the swept keys are in the recipes themselves.

    Args:
        recipes: The recipes.
        sweep: What to vary.

    Returns:
        Name of a recipe that has the keys -> their values.
    """
    values = {recipe.name: _values(recipe.model_dump(exclude_none=True), sweep) for recipe in recipes}
    return {name: found for name, found in values.items() if found is not None}


def _values(raw: dict[str, Any], sweep: Sweep) -> tuple[Any, ...] | None:
    """The values of the keys in the tables of a recipe, None where one is lacking."""
    places = [key.split(".") for key in sweep.keys]
    if not all(inner in raw.get(table, {}) for table, inner in places):
        return None
    return tuple(raw[table][inner] for table, inner in places)


def check_arms(recipes: Sequence[Recipe]) -> dict[str, Recipe]:
    """Look at all that could be wrong with a set of recipes.

    Args:
        recipes: The arms.

    Returns:
        Folder of an arm -> recipe.

    Raises:
        BadInput: There is none, two share a name, or one is wrong.
    """
    arms: dict[str, Recipe] = {}
    if not recipes:
        raise BadInput("no recipe is given: name at least one, such as quick/digits-kd")
    for recipe in recipes:
        arm = slug(recipe.name)
        if arm in arms:
            both = f"{arms[arm].name!r} and {recipe.name!r}"
            raise BadInput(f"{both} would share the folder {arm!r}: give each arm a name of its own")
        if recipe.run.seed:
            raise BadInput(
                f"run.seed = {recipe.run.seed} in {recipe.name!r}: a comparison counts its seeds itself"
                " (--seeds)"
            )
        if arm in _TAKEN:
            raise BadInput(f"an arm cannot be named {recipe.name!r}: {arm!r} is for something else there")
        arms[arm] = recipe
    for recipe in recipes:
        check_recipe(recipe)
    return arms


def refuse_strangers(folder: Path, planned: dict[tuple[str, int], Path]) -> None:
    """Refuse a folder in which another run already has the name and seed of a planned one.

    Args:
        folder: The folder of the comparison.
        planned: Name and seed of each run that is to be -> where it goes.

    Raises:
        BadInput: There is such a run.
    """
    for run in find_runs(folder) if folder.is_dir() else []:
        place = planned.get((run.name, run.seed), run.path)
        if not run.is_teacher and place != run.path:
            raise BadInput(
                f"{run.path} is a run of {run.name!r}, seed {run.seed}, already: give another --output"
            )


def teacher_folder(recipe: Recipe, folder: Path) -> Path:
    """Say where the teacher of an arm is trained: one folder for all arms that have the same.

    Args:
        recipe: The arm.
        folder: The folder of the comparison.

    Returns:
        The folder; that of the comparison itself where no teacher is to be trained.
    """
    teacher = teacher_recipe(recipe)
    if teacher is None:
        return folder  # nothing is written there: a checkpoint, or no teacher at all
    mark = hashlib.sha256(recipe_text(teacher).encode()).hexdigest()[:8]
    return folder / "teachers" / f"{slug(teacher.name)}-{mark}"


def with_seed(recipe: Recipe, seed: int) -> Recipe:
    """Give a recipe another seed of the run."""
    return recipe.model_copy(update={"run": recipe.run.model_copy(update={"seed": seed})})


def slug(name: str) -> str:
    """Turn a name into that of a folder; what a number's point and sign say is kept."""
    return re.sub(r"[^\w.]+|_+", "-", name.lower()).strip("-.") or "arm"


def _value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except ValueError:
        return text


def _like(old: Any, new: Any) -> Any:
    """A whole number is as good as a fraction where a fraction was."""
    return (
        float(new) if isinstance(old, float) and isinstance(new, int) and not isinstance(new, bool) else new
    )
