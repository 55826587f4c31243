"""Recipes: one TOML file is one training run, typed, complete and strict."""

from dotkd.recipe.load import differing_keys, is_override, load_recipe, parse_recipe, recipe_text
from dotkd.recipe.shipped import recipe_names
from dotkd.recipe.types import Recipe

__all__ = [
    "Recipe",
    "differing_keys",
    "is_override",
    "load_recipe",
    "parse_recipe",
    "recipe_names",
    "recipe_text",
]
