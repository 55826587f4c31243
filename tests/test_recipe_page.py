"""The page of all keys says what the types say."""

import importlib.util
from pathlib import Path

from dotkd.recipe.types import tables

SCRIPT = Path(__file__).parents[1] / "scripts" / "write_recipe_page.py"


def script():
    spec = importlib.util.spec_from_file_location("write_recipe_page", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_is_what_the_script_writes():
    writer = script()
    assert writer.page() == writer.PAGE.read_text(encoding="utf-8"), f"run python scripts/{SCRIPT.name}"


def test_every_key_is_described():
    found = tables()
    for place, table in found.items():
        for key, field in table.model_fields.items():
            inner = not place and (key == "method" or any(key == other[0] for other in found if other))
            assert inner or key == "name" or field.description, (place, key)
