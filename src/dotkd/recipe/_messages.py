"""Error texts of a wrong recipe: one line for each mistake, with the nearest valid word."""

from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

Known = Mapping[tuple[str, ...], Iterable[str]]
"""Valid keys of each table, by its place: ``("optimizer", "dot")`` for a variant, ``()`` for the file."""

_TEXTS = {
    "int_type": "must be an integer",
    "int_from_float": "must be an integer",
    "float_type": "must be a number",
    "finite_number": "must be a finite number",
    "string_type": "must be a string",
    "bool_type": "must be true or false",
    "tuple_type": "must be a list",
    "list_type": "must be a list",
    "string_too_short": "must not be empty",
    **dict.fromkeys(("model_type", "model_attributes_type", "dict_type"), "must be a table"),
}


def lines(error: ValidationError, known: Known, prefix: tuple[str, ...] = ()) -> list[str]:
    """Turn pydantic's errors into lines.

    Args:
        error: The validation error.
        known: The valid keys of each validated table.
        prefix: Place of the outermost of these tables in the file.

    Returns:
        A line for each mistake: ``table.key: problem, valid values``.
    """
    return [_line(detail, known, prefix) for detail in error.errors()]


def _line(detail: ErrorDetails, known: Known, prefix: tuple[str, ...]) -> str:
    place = tuple(str(part) for part in detail["loc"])
    variant = place[1] if place[:2] in known and len(place) > 1 else ""  # pydantic names the chosen variant
    where = ".".join([*prefix, *(part for i, part in enumerate(place) if not (variant and i == 1))])
    kind, given, context = detail["type"], detail["input"], detail.get("ctx", {})
    if kind == "extra_forbidden":
        of = f" of {place[0]} {variant!r}" if variant else ""
        return f"{where}: unknown key{of}{_choice(place[-1], known[place[:-1]])}"
    if kind == "missing":
        return f"{where}: missing, and it has no default"
    if kind == "union_tag_not_found":
        return f"{where}.name: missing{_choice('', _tags(known, place[0]))}"
    if kind == "union_tag_invalid":
        hint = _choice(context["tag"], _tags(known, place[0]))
        return f"{where}.name: unknown {where} {context['tag']!r}{hint}"
    if kind == "literal_error":
        words = [word.strip().strip("'") for word in context["expected"].replace(" or ", ",").split(",")]
        return f"{where}: unknown value {_toml(given)}{_choice(str(given), words)}"
    if kind == "value_error":
        text = str(context["error"])
        return text if text.startswith(where) else f"{where}: {text}"
    return f"{where}: {_TEXTS.get(kind) or detail['msg'].replace('Input should', 'must')}, got {_toml(given)}"


def _toml(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else repr(value)


def _tags(known: Known, union: str) -> list[str]:
    return [place[1] for place in known if len(place) > 1 and place[0] == union]


def _choice(word: str, valid: Iterable[str]) -> str:
    names = list(valid)
    close = get_close_matches(word, names, n=1)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    return f"{hint} (known: {', '.join(names)})"
