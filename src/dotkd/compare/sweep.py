"""Sweeps: one arm for each value of a recipe key, or of several keys that change together."""

import re
import tomllib
from collections.abc import Sequence
from typing import Any, NamedTuple

from dotkd.errors import BadInput
from dotkd.recipe import Recipe
from dotkd.recipe.load import make_recipe
from dotkd.records import Sweep, SweptArm


class SweepAxis(NamedTuple):
    """Values to try for a recipe key, or for several keys that change together.

    Attributes:
        keys: ``table.key``, one or more.
        points: One tuple of values for each arm, in the order of ``keys``.
    """

    keys: tuple[str, ...]
    points: tuple[tuple[Any, ...], ...]


def parse_sweep(text: str) -> SweepAxis:
    """Parse the ``--sweep`` option.

    Args:
        text: ``table.key=VALUE,VALUE``; several keys, and their values at each point, are joined by colons.

    Returns:
        The keys and their values.

    Raises:
        BadInput: The text has another form, or a key or a point is repeated.

    Example:
        >>> parse_sweep("optimizer.delta=0,0.05").points
        ((0,), (0.05,))
        >>> parse_sweep("method.task_weight:method.distill_weight=0.1:0.9,0.5:0.5").points
        ((0.1, 0.9), (0.5, 0.5))
    """
    left, equals, right = text.partition("=")
    keys = tuple(key.strip() for key in left.split(":"))
    points = [tuple(map(_value, point.split(":"))) for point in right.split(",")] if right else []
    if not equals or not all(re.fullmatch(r"\w+\.\w+", key) for key in keys) or not points:
        raise BadInput(
            f"--sweep {text!r}: must be table.key=VALUE,VALUE, such as optimizer.delta=0,0.05,0.09"
        )
    if any(len(point) != len(keys) for point in points):
        raise BadInput(f"--sweep {text!r}: {len(keys)} keys need {len(keys)} values a point, joined by ':'")
    if len(set(keys)) < len(keys):
        raise BadInput(f"--sweep {text!r}: a key is repeated")
    if any(point in points[:place] for place, point in enumerate(points)):
        raise BadInput(f"--sweep {text!r}: a value is repeated")
    return SweepAxis(keys, tuple(points))


def sweep_arms(recipes: Sequence[Recipe], axis: SweepAxis) -> tuple[list[Recipe], Sweep]:
    """Replace each recipe that has the swept keys by one arm for each point; other recipes stay one arm.

    Args:
        recipes: The recipes.
        axis: Keys and values.

    Returns:
        All arms, and the record of the sweep.

    Raises:
        BadInput: No recipe has the keys, or a recipe refuses a value.
    """
    arms: list[Recipe] = []
    swept: list[SweptArm] = []
    unswept: dict[str, tuple[Any, ...]] = {}
    places = [key.split(".") for key in axis.keys]
    for recipe in recipes:
        tables = recipe.model_dump(exclude_none=True)
        if not all(isinstance(tables.get(table), dict) and key in tables[table] for table, key in places):
            arms.append(recipe)
            continue
        tables.pop("published", None)
        unswept[recipe.name] = tuple(tables[table][key] for table, key in places)
        for values in axis.points:
            named = ", ".join(f"{key} {value}" for (_, key), value in zip(places, values, strict=True))
            arm = f"{recipe.name}, {named}"
            changed = {**tables, "name": arm}
            for (table, key), value in zip(places, values, strict=True):
                changed[table] = {**changed[table], key: _as_type_of(tables[table][key], value)}
            arms.append(make_recipe(changed, arm))
            swept.append(SweptArm(name=arm, base=recipe.name, values=values))
    if not swept:
        raise BadInput(f"--sweep: no recipe has {' and '.join(axis.keys)}")
    return arms, Sweep(keys=axis.keys, arms=tuple(swept), unswept=unswept)


def _value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except ValueError:
        return text


def _as_type_of(old: Any, new: Any) -> Any:
    """Accept an integer where the recipe has a float."""
    return float(new) if isinstance(old, float) and type(new) is int else new
