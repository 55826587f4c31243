"""Recipes: one TOML file is one training run, typed, complete and strict."""

from dotkd.recipe.load import (
    differing_keys,
    is_override,
    load_recipe,
    parse_recipe,
    recipe_names,
    recipe_text,
)
from dotkd.recipe.tables import Recipe

__all__ = [
    "Recipe",
    "differing_keys",
    "is_override",
    "load_recipe",
    "parse_recipe",
    "recipe_names",
    "recipe_text",
]
