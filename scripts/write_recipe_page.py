"""Write the tables of docs/recipe.md from the types of the recipe; ``python scripts/write_recipe_page.py``.

The text between the two marks of the page is generated; the prose around it is written by hand.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

from dotkd.data.augment import STEPS, Step
from dotkd.methods import method_names, method_options
from dotkd.models import model_names
from dotkd.recipe.tables import Table, tables

PAGE = Path(__file__).parents[1] / "docs" / "recipe.md"
BEGIN, END = "<!-- from the types -->", "<!-- end -->"


def page() -> str:
    """The text of the page with its tables generated anew."""
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    after = rest.partition(END)[2]
    parts = ["\n".join(_table(place, table)) for place, table in tables().items()]
    parts.append("\n".join(_steps()))
    parts.append("\n".join(_methods()))
    parts.append(f"### Models\n\n{', '.join(f'`{name}`' for name in model_names())}.\n")
    return "\n".join([before + BEGIN, "", *parts, END + after])


def _table(place: tuple[str, ...], table: type[Table]) -> Iterator[str]:
    name = f"[{place[0]}]" if place else "At the top"
    variant = f', `name = "{place[1]}"`' if len(place) > 1 else ""
    yield f"### {name}{variant}\n"
    yield f"{(table.__doc__ or '').strip()}\n"
    yield "| key | type | default | meaning |\n|---|---|---|---|"
    for key, field in table.model_fields.items():
        if field.description is not None and key != "method":
            default = "required" if field.is_required() else _value(field.default)
            kind = _type(field.annotation) + _range(field.metadata)
            yield f"| `{key}` | {kind} | {default} | {field.description} |"
    yield ""


def _steps() -> Iterator[str]:
    yield "### Steps of `data.augment`\n"
    yield (
        "Written `name`, or `name:N` for another number than the default; drawn for each image, on the "
        "device of the images.\n"
    )
    yield "| step | what happens to an image |\n|---|---|"
    for name, kind in STEPS.items():
        yield f"| `{Step(name, kind.number)}` | {kind.meaning} |"
    yield ""


def _methods() -> Iterator[str]:
    yield "### [method]\n"
    yield "`name` is the method, the other keys are its options.\n"
    yield "| name | options with their defaults |\n|---|---|"
    for name in method_names():
        options = (
            f"`{option}`" if p.default is p.empty else f"`{option} = {_plain(p.default)}`"
            for option, p in method_options(name).items()
        )
        yield f"| `{name}` | {', '.join(options)} |"
    yield ""


def _value(default: Any) -> str:
    return "none" if default is None else f"`{_plain(default)}`"


def _plain(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return f'"{value}"' if isinstance(value, str) else str(list(value) if isinstance(value, tuple) else value)


def _type(annotation: Any) -> str:
    if isinstance(annotation, type) and not get_args(annotation):
        return {"str": "string", "int": "integer", "float": "number", "bool": "boolean"}[annotation.__name__]
    words = get_args(annotation)
    if words and all(isinstance(word, str) for word in words):
        return ", ".join(f'`"{word}"`' for word in words)
    if type(None) in words:
        return _type(words[0])
    inner = words[0]
    return f"list of {_type(get_args(inner)[0] if get_args(inner) else inner)}s"


def _range(metadata: list[Any]) -> str:
    signs = {"ge": ">=", "gt": ">", "le": "<=", "lt": "<"}
    bounds = [
        f"{sign} {getattr(item, name):g}"
        for item in metadata
        for name, sign in signs.items()
        if getattr(item, name, None) is not None
    ]
    return f", {' and '.join(bounds)}" if bounds else ""


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
