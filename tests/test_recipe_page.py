"""The page of all keys says what the types say, and the page of methods what these are."""

import importlib.util
from pathlib import Path

import pytest

from dotkd.recipe.types import tables

SCRIPTS = Path(__file__).parents[1] / "scripts"


def script(name):
    spec = importlib.util.spec_from_file_location(name, SCRIPTS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", ["write_recipe_page", "write_methods_page"])
def test_the_page_is_what_the_script_writes(name):
    writer = script(name)
    assert writer.page() == writer.PAGE.read_text(encoding="utf-8"), f"run python scripts/{name}.py"


def test_every_key_is_described():
    found = tables()
    for place, table in found.items():
        for key, field in table.model_fields.items():
            inner = not place and (key == "method" or any(key == other[0] for other in found if other))
            assert inner or key == "name" or field.description, (place, key)
