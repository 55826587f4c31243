"""Recipes from files and overrides, and back to TOML."""

import os
import re
import tomllib
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import tomli_w
from pydantic import ValidationError

from dotkd.errors import BadInput
from dotkd.features import KINDS
from dotkd.models.external import absolute_name, brings_weights, is_external
from dotkd.recipe._messages import lines
from dotkd.recipe.tables import NO_FOLDERS, Recipe, Teacher, tables


def recipe_folder() -> Path:
    """The folder of the shipped recipes: in the installed package, or beside ``src`` in a checkout."""
    installed = Path(__file__).parents[1] / "recipes"
    return installed if installed.is_dir() else Path(__file__).parents[3] / "recipes"


def recipe_names() -> list[str]:
    """List the shipped recipes.

    Returns:
        Their names, sorted. Files that start with an underscore are parts of others and not listed.

    Example:
        >>> "quick/digits-kd" in recipe_names()
        True
    """
    folder = recipe_folder()
    files = [path for path in folder.rglob("*.toml") if not path.name.startswith("_")]
    return sorted(path.relative_to(folder).with_suffix("").as_posix() for path in files)


def shipped_name(path: Path) -> str | None:
    """The name of a shipped recipe's file; None for any other file."""
    folder, path = recipe_folder().resolve(), path.resolve()
    if path.suffix != ".toml" or not path.is_relative_to(folder):
        return None
    return path.relative_to(folder).with_suffix("").as_posix()


def find_recipe(recipe: str | Path, folder: Path | None = None) -> Path:
    """Find the file of a recipe.

    Args:
        recipe: A path, or the name of a shipped recipe.
        folder: Base of a relative path; None: the working directory.

    Returns:
        The absolute path.

    Raises:
        BadInput: There is no such recipe; the message names the nearest shipped one.
    """
    path = _expanded(str(recipe)) if folder is None else folder / _expanded(str(recipe))
    if (path / "recipe.toml").is_file():
        raise BadInput(f"{recipe} is the folder of a run: its recipe is {path / 'recipe.toml'}")
    if path.is_file():
        return path.resolve()
    name = str(recipe).removeprefix("recipes/").removesuffix(".toml")
    names = recipe_names()
    if name in names:
        return (recipe_folder() / f"{name}.toml").resolve()
    # "digits-kd" is near to "quick/digits-kd" for a reader.
    tails = {known.rpartition("/")[2]: known for known in names} | {known: known for known in names}
    close = get_close_matches(name, tails, n=1)
    hint = f"did you mean {tails[close[0]]!r}?" if close else "`dotkd recipes` lists those"
    raise BadInput(f"no recipe {str(recipe)!r}: neither a file nor a shipped recipe; {hint}")


_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")  # owner/name
_MACHINE = {"data.root", "data.workers", "run.device", "run.threads", "run.teacher_cache"}
# Changes of these leave a recipe the one of which a number was published.
_FREE_TABLES, _FREE_DATA_KEYS = ("run", "teacher", "published"), {"root", "workers"}
_PATHS = (
    ("data", "root"),
    ("teacher", "recipe"),
    ("teacher", "checkpoint"),
    ("student", "checkpoint"),
    ("teacher", "model"),
    ("student", "model"),
    ("run", "teacher_cache"),
)


def load_recipe(recipe: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read, complete and check a recipe.

    Args:
        recipe: A TOML file, or the name of a shipped recipe such as ``quick/digits-kd``.
        overrides: ``table.key=value`` strings, checked like the file. A value that is not TOML is a string.

    Returns:
        The recipe, complete.

    Raises:
        BadInput: The file is missing or not TOML, or a key or value in it is wrong.

    Example:
        >>> load_recipe("quick/digits-kd-dot", ["optimizer.delta=0.05"]).optimizer.delta
        0.05
    """
    path = find_recipe(recipe)
    given: dict[str, Any] = {}
    for override in overrides:
        given = _merged(given, _parse(override))
    below = _read(path)
    if not all(_keeps_published(*change) for change in given.items()):
        below.pop("published", None)
    return make_recipe(_overlaid(below, given), str(recipe))


def _keeps_published(table: str, given: Any) -> bool:
    return table in _FREE_TABLES or (
        table == "data" and isinstance(given, dict) and given.keys() <= _FREE_DATA_KEYS
    )


def make_recipe(raw: dict[str, Any], source: str) -> Recipe:
    """Check the content of a recipe.

    Args:
        raw: Tables, as ``tomllib`` reads them.
        source: Name of the file in error texts.

    Returns:
        The recipe, complete.

    Raises:
        BadInput: A key or value is wrong.
    """
    try:
        return Recipe.model_validate(raw)
    except ValidationError as error:
        known = {place: list(table.model_fields) for place, table in tables().items()}
        # One entry may hold several lines, those of a method.
        found = "\n".join(lines(error, known)).splitlines()
        raise BadInput("\n".join(f"{source}: {line}" for line in found)) from None


def parse_recipe(text: str, source: str) -> Recipe:
    """Read a resolved recipe, as :func:`recipe_text` wrote it.

    Args:
        text: TOML.
        source: Name of the file in error texts.

    Returns:
        The recipe.

    Raises:
        BadInput: The text is not TOML, or not a recipe.

    Example:
        >>> recipe = load_recipe("quick/digits-plain")
        >>> parse_recipe(recipe_text(recipe), "a copy") == recipe
        True
    """
    try:
        raw = tomllib.loads(text)
    except ValueError as error:
        raise BadInput(f"{source}: not valid TOML: {error}") from None
    return make_recipe(raw, source)


def recipe_text(recipe: Recipe) -> str:
    """Write a recipe with all its defaults.

    Args:
        recipe: The recipe.

    Returns:
        TOML that :func:`parse_recipe` reads.

    Example:
        >>> print(recipe_text(load_recipe("quick/digits-plain"))[:14])
        name = "plain"
    """
    return tomli_w.dumps(recipe.model_dump(exclude_none=True))


def is_override(word: str) -> bool:
    """Whether a word of the command line has the form ``table.key=value``.

    Args:
        word: The word.

    Returns:
        True for a dotted name, an equals sign and a value.

    Example:
        >>> is_override("optimizer.lr=0.1"), is_override("quick/digits-kd")
        (True, False)
    """
    return re.match(r"[\w.-]+=", word) is not None


def differing_keys(one: str, other: str) -> list[str]:
    """Compare two resolved recipes.

    Args:
        one: TOML.
        other: TOML.

    Returns:
        The keys, as ``table.key``, with different values; a missing key has its default. Keys of the machine
        (folders, device, threads) are left out.

    Example:
        >>> kd, hot = (load_recipe("quick/digits-kd", [f"method.temperature={t}"]) for t in (4, 8))
        >>> differing_keys(recipe_text(kd), recipe_text(hot))
        ['method.temperature']
    """
    flat = [_flat(_complete(tomllib.loads(text))) for text in (one, other)]
    keys = {**flat[0], **flat[1]}.keys() - _MACHINE
    return sorted(key for key in keys if flat[0].get(key) != flat[1].get(key))


def _complete(raw: dict[str, Any]) -> dict[str, Any]:
    """Add the defaults of keys that are younger than the file; text that is not a recipe stays."""
    try:
        return tomllib.loads(recipe_text(make_recipe(raw, "")))
    except BadInput:
        return raw


def _flat(recipe: dict[str, Any]) -> dict[str, Any]:
    tables = {key: value for key, value in recipe.items() if isinstance(value, dict)}
    inner = {f"{table}.{key}": value for table, keys in tables.items() for key, value in keys.items()}
    return {**{key: value for key, value in recipe.items() if key not in tables}, **inner}


def _read(path: Path, above: tuple[Path, ...] = ()) -> dict[str, Any]:
    """Read a file and those that it extends, with absolute paths."""
    if path in above:
        raise BadInput(f"{path}: extends itself, by way of {' -> '.join(p.name for p in above)}")
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except ValueError as error:  # of TOML, of UTF-8, of a number with thousands of digits
        raise BadInput(f"{path}: not valid TOML: {error}") from None
    except OSError as error:
        raise BadInput(f"{path}: cannot be read: {error.strerror}") from None
    base = raw.pop("extends", None)
    for table, key in _PATHS:
        if isinstance(raw.get(table), dict) and key in raw[table]:
            raw[table][key] = _anchored((table, key), raw[table][key], path.parent)
    if base is None:
        return raw
    if not isinstance(base, str):
        raise BadInput(f"{path}: extends must be the path of one other recipe, got {base!r}")
    below = _read(find_recipe(base, path.parent), (*above, path))
    below.pop("published", None)  # the number is for that recipe, not for one that extends it
    return _overlaid(below, raw)


def _overlaid(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """Overlay one recipe on another; a new variant keeps the keys that it has too, a new method none."""
    kept = dict(below)
    for key in below.keys() & above.keys():
        old, new = below[key], above[key]
        if isinstance(old, dict) and isinstance(new, dict):
            gone: set[str] = set()
            brings = brings_weights(str(new.get("model", "")))
            if key == "teacher" and (brings or new.keys() & {"recipe", "checkpoint"}):
                gone = set(Teacher.model_fields)
            elif key == "student" and new.get("model") != old.get("model") and "model" in new:
                gone = {"checkpoint", "checkpoint_key", "new_head", *KINDS}  # of the other network
                if is_external(str(new["model"])):
                    gone |= {"mean", "std"}  # external models have their own
            elif key == "student" and "checkpoint" in new:
                gone = {"checkpoint_key"}  # of the other file
            elif isinstance(new.get("name"), str) and new["name"] != old.get("name"):
                gone = old.keys() - _keys_of(key, new["name"])
            kept[key] = {k: v for k, v in old.items() if k not in gone}
    return _merged(kept, above)


def _merged(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    merged = dict(below)
    for key, value in above.items():
        both = isinstance(value, dict) and isinstance(below.get(key), dict)
        merged[key] = {**below[key], **value} if both else value
    return merged


def _keys_of(table: str, name: str) -> set[str]:
    """The keys that a table may keep when its name changes to this one."""
    if table == "method":
        return {"name"}  # weights of one method mean nothing to another
    known = tables()
    cls = known.get((table, name)) or known.get((table,))
    return set(cls.model_fields) if cls else {"name"}


def _expanded(path: str) -> Path:
    # The method of Path raises for a user that does not exist.
    return Path(os.path.expanduser(path))  # noqa: PTH111


def _anchored(place: tuple[str, ...], value: Any, folder: Path) -> Any:
    """Make a path absolute; the name of a recipe or of a data set on the hub stays."""
    if not isinstance(value, str) or not value:
        return value
    if place[1:] == ("model",):
        return absolute_name(value, folder)
    path = (folder / _expanded(value)).resolve()
    if place == ("teacher", "recipe"):
        name = value.removesuffix(".toml")
        if path.exists():
            return shipped_name(path) or str(path)
        return name if name in recipe_names() or name == value else str(path)
    if place == ("run", "teacher_cache") and value in NO_FOLDERS:
        return value
    if place == ("data", "root") and not path.exists() and _HUB_NAME.fullmatch(value):
        return value
    return str(path)


def _parse(override: str) -> dict[str, Any]:
    key, equals, text = override.partition("=")
    *table, last = key.strip().split(".")
    if not equals or len(table) > 1 or not all((*table, last)):
        raise BadInput(f"{override!r} is no override: write table.key=value, such as optimizer.lr=0.1")
    try:
        found = tomllib.loads(f"value = {text}")
    except ValueError:
        found = {"value": text}
    if found.keys() != {"value"}:
        raise BadInput(f"{override!r} is no override: one key and one value, on one line")
    value = (
        _anchored((*table, last), found["value"], Path.cwd()) if (*table, last) in _PATHS else found["value"]
    )
    return {table[0]: {last: value}} if table else {last: value}
