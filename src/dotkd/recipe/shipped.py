"""Where the recipes are that come with the package, and how a name finds its file."""

from difflib import get_close_matches
from pathlib import Path

from dotkd.errors import BadInput


def recipe_folder() -> Path:
    """Return the folder of the shipped recipes: in the installed package, or beside ``src`` in a checkout."""
    installed = Path(__file__).parents[1] / "recipes"
    return installed if installed.is_dir() else Path(__file__).parents[3] / "recipes"


def recipe_names() -> list[str]:
    """List the shipped recipes.

    Returns:
        Their names, sorted; a file whose name starts with an underscore is a part of others.

    Example:
        >>> "quick/digits-kd" in recipe_names()
        True
    """
    folder = recipe_folder()
    files = [path for path in folder.rglob("*.toml") if not path.name.startswith("_")]
    return sorted(path.relative_to(folder).with_suffix("").as_posix() for path in files)


def shipped_name(path: Path) -> str | None:
    """Return the name of a shipped recipe's file, or None for any other file."""
    folder, path = recipe_folder().resolve(), path.resolve()
    if path.suffix != ".toml" or not path.is_relative_to(folder):
        return None
    return path.relative_to(folder).with_suffix("").as_posix()


def find_recipe(recipe: str | Path, folder: Path | None = None) -> Path:
    """Find the file of a recipe.

    Args:
        recipe: A path, or the name of a shipped recipe.
        folder: What a relative path is relative to; None: the working directory.

    Returns:
        The file, absolute.

    Raises:
        BadInput: There is none; the message names the nearest shipped recipe.
    """
    path = Path(recipe) if folder is None else folder / recipe
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
