"""What the documentation shows runs: the examples in docstrings, and the Python blocks of the pages.

A public name without an example is an error too.
"""

import doctest
import importlib
import inspect
import pkgutil
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

import dotkd

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
MODULES = ["dotkd", *(module.name for module in pkgutil.walk_packages(dotkd.__path__, "dotkd."))]
# Where the public names live: what __all__ lists, or else what the module defines without an underscore.
PUBLIC = [
    "dotkd.optim",
    "dotkd.losses",
    "dotkd.methods",
    "dotkd.data",
    "dotkd.distiller",
    "dotkd.features",
]
PUBLIC += ["dotkd.analysis", "dotkd.models", "dotkd.recipe", "dotkd.report", "dotkd.train"]
# Nobody makes one of these by hand; what makes them has the example.
SHOWN_ELSEWHERE = {
    "dotkd.methods.Setting": "dotkd.methods.Method",
    "dotkd.analysis.Conflict": "dotkd.analysis.gradient_conflict",
    "dotkd.recipe.Recipe": "dotkd.recipe.load_recipe",
    "dotkd.data.Splits": "dotkd.data.load_digits",
    "dotkd.train.Evaluation": "dotkd.train.evaluate",
    "dotkd.report.Comparison": "dotkd.report.read_comparison",
    "dotkd.report.Summary": "dotkd.report.summarize",
    "dotkd.train.RunState": "dotkd.train.build_run",
    "dotkd.train.Scores": "dotkd.train.score",
    "dotkd.optim.StreamOptimizer": "dotkd.optim.MultiMomentumSGD",
}
BLOCK = re.compile(r"^```python[^\n]*\n(.*?)^```[ \t]*$", re.MULTILINE | re.DOTALL)


@pytest.fixture(autouse=True)
def world_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Examples may draw random numbers, register methods and write files; nothing of it stays."""
    from dotkd.methods import registry

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(registry, "_ENTRIES", dict(registry._ENTRIES))
    with torch.random.fork_rng(devices=[]):
        torch.random.default_generator.manual_seed(0)
        yield


# ---------------------------------------------------------------- docstrings


@pytest.mark.parametrize("name", MODULES)
def test_docstrings_run(name: str) -> None:
    assert doctest.testmod(importlib.import_module(name)).failed == 0


def test_docstrings_are_found() -> None:
    assert {"dotkd.optim.sgd", "dotkd.losses.logit", "dotkd.distiller", "dotkd.features.taps"} <= set(MODULES)
    assert doctest.testmod(importlib.import_module("dotkd.optim.sgd")).attempted > 5


def public() -> dict[str, Callable[..., Any]]:
    places = [importlib.import_module(place) for place in PUBLIC]
    named = {f"{place.__name__}.{name}": getattr(place, name) for place in places for name in names(place)}
    curated = {f"dotkd.{name}": getattr(dotkd, name) for name in dotkd.__all__}
    # A curated name is another way to a name above, or else it needs an example of its own.
    alone = {
        name: value for name, value in curated.items() if not any(value is other for other in named.values())
    }
    return {name: value for name, value in {**named, **alone}.items() if callable(value)}


def names(module: ModuleType) -> list[str]:
    if hasattr(module, "__all__"):
        return list(module.__all__)
    own = {
        name for name, value in vars(module).items() if getattr(value, "__module__", "") == module.__name__
    }
    return sorted(name for name in own if not name.startswith("_"))


def has_example(value: Callable[..., Any]) -> bool:
    docstring = inspect.cleandoc(value.__doc__ or "")
    return "\nExample:\n" in docstring and bool(doctest.DocTestParser().get_examples(docstring))


@pytest.mark.parametrize("name", sorted(public()))
def test_public_name_has_an_example(name: str) -> None:
    value = public()[name]
    assert value.__doc__, f"{name} has no docstring"
    if name in SHOWN_ELSEWHERE:
        assert not has_example(value), f"{name} has an example by now: take it off SHOWN_ELSEWHERE"
        name = SHOWN_ELSEWHERE[name]
    assert has_example(public()[name]), f"{name} has no 'Example:' with a >>> line in its own docstring"


def test_exceptions_are_public_names() -> None:
    assert set(SHOWN_ELSEWHERE) <= set(public())


# ---------------------------------------------------------------- pages


def run_page(text: str, where: str) -> None:
    """Run a page's blocks in order in one namespace, as somebody would who types them."""
    namespace: dict[str, Any] = {"__name__": "__page__"}
    for block in BLOCK.finditer(text):
        # Empty lines in front, so that a traceback has the line numbers of the page.
        above = "\n" * text.count("\n", 0, block.start(1))
        exec(compile(above + block[1], where, "exec"), namespace)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_page_runs(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    run_page(text, str(page))
    assert len(BLOCK.findall(text)) == len(re.findall(r"^\s*(?:```|~~~) ?python\b", text, re.MULTILINE)), (
        "a Python block is indented, fenced in another way or not closed, and would not be run"
    )


def test_page_runner_shares_names_and_tells_the_line() -> None:
    page = (
        "# Title\n\n```python\nx = 1\n```\n\n```console\nnot python\n```\n\n```python\nassert x == 2\n```\n"
    )
    with pytest.raises(AssertionError) as caught:
        run_page(page, "page.md")
    assert caught.traceback[-1].lineno + 1 == 12
