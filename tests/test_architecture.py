"""The house keeps its shape: imports point downward, never in a circle, and the optimizer stands alone.

A *unit* is a module or package directly under ``dotkd``; a new one gets its place in ORDER.
"""

import ast
import sys
from collections.abc import Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import NamedTuple

import pytest

import dotkd

PACKAGE = "dotkd"
# From the ground up: a unit may import those that stand before it.
ORDER = (
    *("errors", "_validate", "processes", "seeding", "optim", "losses", "features", "data", "models"),
    *("methods", "distiller", "analysis", "recipe", "records", "runs", "train"),
    *("export", "analyze", "report", "compare", "console", "cli", "__main__"),
)
# Packages that must work without the rest of the house -> what they may import beside the standard library.
ALONE = {"optim": {"torch"}}


class Import(NamedTuple):
    """One import statement, resolved: ``module`` is absolute, whatever the source spelled."""

    module: str
    line: int
    relative: bool
    typing_only: bool


def sources(root: Path) -> dict[str, Path]:
    """Module name -> file, for every module of the package at ``root``."""
    found = {}
    for path in sorted(root.rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        found[".".join((PACKAGE, *parts)).removesuffix(".__init__")] = path
    return found


def imports(module: str, path: Path, known: Mapping[str, Path]) -> Iterator[Import]:
    """Every import of a file, at whatever depth: in functions and under TYPE_CHECKING too."""
    tree = ast.parse(path.read_text(encoding="utf-8"), str(path))
    typing_only = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")
        for statement in node.body
        for inner in ast.walk(statement)
    }
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    for node in ast.walk(tree):
        names: list[str] = []
        relative = False
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            relative = node.level > 0
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if relative else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            # "from dotkd import taps" means the module dotkd.features.taps, not dotkd.
            inner = [f"{base}.{alias.name}" for alias in node.names]
            names = [name if name in known or base == PACKAGE else base for name in inner]
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
            names = [str(arg.value) for arg in node.args[:1] if isinstance(arg, ast.Constant)]
        for name in dict.fromkeys(names):
            yield Import(name, node.lineno, relative, id(node) in typing_only)


def unit_of(module: str) -> str:
    """Name of the unit that a module belongs to; empty for the package's own ``__init__``."""
    return module.split(".")[1] if "." in module else ""


def problems(root: Path) -> list[str]:
    """What is wrong with the package at ``root``, one line each."""
    known = sources(root)
    found: list[str] = []
    modules: dict[str, set[str]] = {}
    for module, path in known.items():
        unit, where = unit_of(module), path.relative_to(root)
        if unit and unit not in ORDER:
            found.append(f"{where}: {_no_place(unit)}")
            continue
        for item in imports(module, path, known):
            wrong = _wrong(unit, item)
            if wrong:
                found.append(f"{where}:{item.line}: {wrong}")
            elif unit and item.module in known:
                modules.setdefault(module, set()).add(item.module)
    return found + _circle(modules)


def _wrong(unit: str, item: Import) -> str:
    """Say what is wrong with an import in a unit, or nothing."""
    top, target = item.module.partition(".")[0], unit_of(item.module)
    if unit in ALONE and not (
        (item.relative and target == unit) or top in ALONE[unit] or top in sys.stdlib_module_names
    ):
        how = "with an absolute name, which a copy of the folder lacks" if target == unit else "at all"
        return f"{unit} stands alone and must not import {item.module} {how}"
    if top != PACKAGE or item.module == f"{PACKAGE}.__version__":
        return ""
    if not unit:  # the public names: for the type checker, and for everybody else on first use
        return "" if item.typing_only else f"{PACKAGE}/__init__.py must load {item.module} on first use"
    if target not in ORDER:
        return f"{_no_place(target)}, or import from the module that defines the name"
    if ORDER.index(target) > ORDER.index(unit):
        return f"{unit} imports upward from {target}"
    return ""


def _no_place(unit: str) -> str:
    return f"unit {unit!r} has no place: add it to ORDER in {Path(__file__).name}"


def _circle(graph: Mapping[str, set[str]]) -> list[str]:
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return [f"imports in a circle: {' <- '.join(error.args[1])}"]
    return []


def test_house_keeps_its_shape() -> None:
    assert problems(Path(dotkd.__path__[0])) == []


# ---------------------------------------------------------------- the public names


def test_lazy_names_are_the_public_names() -> None:
    assert {*dotkd._HOME, "__version__"} == set(dotkd.__all__)
    assert len(set(dotkd.__all__)) == len(dotkd.__all__)
    assert dir(dotkd) == sorted(dotkd.__all__)


@pytest.mark.parametrize("name", dotkd.__all__)
def test_lazy_name_resolves(name: str) -> None:
    value = getattr(dotkd, name)
    if name != "__version__":
        assert value is getattr(sys.modules[dotkd._HOME[name]], name)


def test_type_checker_sees_the_same_names() -> None:
    tree = ast.parse(Path(dotkd.__path__[0], "__init__.py").read_text(encoding="utf-8"))
    (block,) = (node for node in tree.body if isinstance(node, ast.If))
    seen = {
        alias.asname or alias.name: node.module
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert seen == dotkd._HOME


def test_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'DTO'"):
        dotkd.DTO  # noqa: B018


# ---------------------------------------------------------------- the checker itself


def tree(root: Path, files: Mapping[str, str]) -> Path:
    for name, text in {"__init__.py": "", **files}.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return root


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("losses/logit.py", "from dotkd.methods import KD"),
        ("losses/logit.py", "import dotkd.methods.base as base"),
        ("losses/logit.py", "from ..methods.base import Method"),
        ("losses/logit.py", "from .. import methods"),
        ("losses/__init__.py", "from ..methods import KD"),
        ("losses/logit.py", "from dotkd import methods"),
        ("losses/logit.py", "def late():\n    from dotkd.methods import KD"),
        (
            "losses/logit.py",
            "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from dotkd.methods import KD",
        ),
        ("losses/logit.py", "import importlib\nimportlib.import_module('dotkd.methods')"),
        ("seeding.py", "from .methods import KD"),
        ("seeding.py", "from . import methods"),
    ],
)
def test_upward_import_is_caught(tmp_path: Path, name: str, text: str) -> None:
    root = tree(tmp_path, {"methods/__init__.py": "", "methods/base.py": "", name: text})
    (problem,) = problems(root)
    assert f"{name}:{len(text.splitlines())}: " in problem
    assert "imports upward from methods" in problem


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"novelty.py": ""}, "novelty.py: unit 'novelty' has no place: add it to ORDER"),
        ({"cli.py": "from dotkd.novelty import x"}, "cli.py:1: unit 'novelty' has no place"),
        ({"cli.py": "from dotkd import DOT"}, "or import from the module that defines the name"),
        ({"cli.py": "import dotkd"}, "or import from the module that defines the name"),
        ({"__init__.py": "from dotkd.optim import DOT"}, "must load dotkd.optim on first use"),
        ({"__init__.py": "from .optim import DOT"}, "must load dotkd.optim on first use"),
        ({"optim/dot.py": "import numpy as np"}, "optim stands alone and must not import numpy"),
        ({"optim/dot.py": "def f():\n    import scipy.linalg"}, "must not import scipy.linalg"),
        ({"optim/dot.py": "from dotkd.losses import kd_loss"}, "must not import dotkd.losses"),
        ({"optim/dot.py": "from ..losses import kd_loss"}, "must not import dotkd.losses"),
        ({"optim/dot.py": "from dotkd.optim.pair import x", "optim/pair.py": ""}, "with an absolute name"),
        (
            {"data/__init__.py": "from dotkd.data.a import x", "data/a.py": "from dotkd.data import y"},
            "imports in a circle: dotkd.data",
        ),
    ],
)
def test_other_slips_are_caught(tmp_path: Path, files: dict[str, str], expected: str) -> None:
    found = problems(tree(tmp_path, files))
    assert found
    assert expected in found[0]


def test_a_sound_house_passes(tmp_path: Path) -> None:
    files = {
        "__init__.py": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from dotkd.optim import DOT",
        "optim/__init__.py": "from .dot import DOT",
        "optim/dot.py": "import math\nimport torch\nfrom torch import Tensor\nfrom . import checks",
        "optim/checks.py": "from collections.abc import Mapping",
        "losses/__init__.py": "",
        "methods/__init__.py": "from dotkd.methods.base import Method",
        "methods/base.py": "import numpy as np\nfrom ..losses import kd_loss",
        "distiller.py": "from dotkd.methods import Method\nfrom . import methods",
        "runs.py": "from dotkd import __version__",
        "cli.py": "def main():\n    from dotkd.distiller import Distiller",
    }
    assert problems(tree(tmp_path, files)) == []
