"""Help is quick, complete, and its examples work."""

import importlib.metadata
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import typer.main

from dotkd.cli import app
from dotkd.recipe import load_recipe, recipe_names

ROOT = typer.main.get_command(app)
HEAVY = ["torch", "numpy", "pydantic", "scipy", "matplotlib", "safetensors", "tomli_w"]
HEAVY_FOR_A_VERB = [name for name in HEAVY if name != "pydantic"]  # with which typer reads the options


def verbs(group=ROOT, above: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """The words of every command, with those of its subcommands."""
    found = []
    for name, command in sorted(group.commands.items()):
        found.append((*above, name))
        if hasattr(command, "commands"):
            found += verbs(command, (*above, name))
    return found


def command_of(words):
    command = ROOT
    while words and hasattr(command, "commands") and words[0] in command.commands:
        command, words = command.commands[words[0]], words[1:]
    return command, list(words)


def test_the_verbs() -> None:
    assert {words[0] for words in verbs()} == {
        "demo",
        "train",
        "analyze",
        "compare",
        "report",
        "evaluate",
        "export",
        "recipes",
    }
    assert ("recipes", "show") in verbs()


@pytest.mark.parametrize("words", verbs(), ids=" ".join)
@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_help_has_an_example_that_parses(dotkd, monkeypatch, words, flag) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    code, out, err = dotkd(*words, flag)
    assert (code, err) == (0, "")
    example = re.search(r"Example: +(.+)", out)
    assert example, out
    start, *given = shlex.split(example[1])
    assert start == "dotkd"
    command, rest = command_of(given)
    if words != ("recipes",):  # whose example is that of its subcommand
        assert command is command_of(words)[0]
    context = command.make_context("dotkd", rest, resilient_parsing=False)  # raises what the user would see
    names = [context.params[key] for key in ("recipe", "recipes") if key in context.params]
    overrides = context.params.get("overrides") or []
    for name in (each for value in names if value for each in ([value] if isinstance(value, str) else value)):
        assert name in recipe_names()
        load_recipe(name, overrides)


def test_every_option_says_what_it_does(dotkd) -> None:
    for words in verbs():
        for parameter in command_of(words)[0].params:
            if parameter.param_type_name == "option":
                assert parameter.help, (words, parameter.name)
        assert command_of(words)[0].help


def test_help_of_the_whole_lists_every_verb(dotkd) -> None:
    code, out, err = dotkd("--help")
    assert (code, err) == (0, "")
    assert all(words[0] in out for words in verbs())


def test_no_words_show_the_help(dotkd) -> None:
    code, out, err = dotkd()
    assert code in (0, 2)
    assert "Usage" in out + err
    assert "train" in out + err


SCRIPT = (
    "import sys\n"
    "from dotkd.cli import main\n"
    "sys.argv = ['dotkd', *{words!r}]\n"
    "try:\n    main()\nexcept SystemExit:\n    pass\n"
    "print('loaded:', *sorted(name for name in {heavy!r} if name in sys.modules))\n"
)


@pytest.mark.parametrize(
    ("words", "heavy"),
    [(["--help"], HEAVY), (["train", "--help"], HEAVY_FOR_A_VERB), (["nonsense"], HEAVY_FOR_A_VERB)],
    ids=["--help", "train --help", "nonsense"],
)
def test_help_loads_nothing_heavy(words: list[str], heavy: list[str]) -> None:
    script = SCRIPT.format(words=words, heavy=heavy)
    ended = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60
    )
    assert ended.stdout.splitlines()[-1] == "loaded:"


@pytest.mark.slow
def test_listing_the_recipes_shows_each(dotkd, monkeypatch) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    code, out, err = dotkd("recipes")
    assert (code, err) == (0, "")
    assert all(name in out for name in recipe_names()), "a name that is cut cannot be copied"


def test_listing_some_recipes_shows_their_pairs_and_published_numbers(dotkd) -> None:
    code, out, err = dotkd("recipes", "--only", "cifar100/resnet32x4-resnet8x4")
    assert (code, err) == (0, "")
    rows = [line.split() for line in out.splitlines()]
    pair = ["resnet32x4", "->", "resnet8x4"]
    wanted = ["cifar100/resnet32x4-resnet8x4/kd-dot", "cifar100", *pair, "kd", "dot", "75.12", "%"]
    assert wanted in rows
    assert len(rows) == 6
    code, out, err = dotkd("recipes", "--only", "cifar1000")
    assert (code, out) == (2, "")
    assert "unknown recipe 'cifar1000'; nearest: 'cifar100/" in err


def test_the_command_is_declared() -> None:
    project = Path(__file__).parents[2] / "pyproject.toml"
    assert tomllib.loads(project.read_text(encoding="utf-8"))["project"]["scripts"] == {
        "dotkd": "dotkd.cli:main"
    }


def test_the_version_is_the_installed_one() -> None:
    shown = subprocess.run(
        [sys.executable, "-m", "dotkd", "--version"], capture_output=True, text=True, check=True
    )
    assert shown.stdout.strip() == importlib.metadata.version("dotkd")
