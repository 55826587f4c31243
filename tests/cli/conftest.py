"""The command as a user calls it, in this process: words in; code, output and messages out."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from dotkd.cli import main
from dotkd.recipe import load_recipe
from dotkd.train.loop import train

TINY = ["student.model=small/mlp16", "schedule.epochs=1"]


class Ended(NamedTuple):
    """How a command ended."""

    code: int
    out: str
    err: str


@pytest.fixture
def dotkd(monkeypatch, capsys) -> Callable[..., Ended]:
    def run(*words: object) -> Ended:
        monkeypatch.setenv("DOTKD_DEBUG", "")
        monkeypatch.setattr(sys, "argv", ["dotkd", *map(str, words)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        return Ended(int(ended.value.code or 0), *capsys.readouterr())

    return run


@pytest.fixture(scope="session")
def finished(tmp_path_factory) -> Path:
    """A finished run of one epoch; not to be changed."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    train(load_recipe("quick/digits-plain", TINY), folder)
    return folder


@pytest.fixture
def content() -> Callable[[Path], dict[str, bytes | None]]:
    """What is in a folder or file, byte for byte."""

    def read(path: Path) -> dict[str, bytes | None]:
        inside = [path, *sorted(path.rglob("*"))]
        return {
            str(p.relative_to(path)): p.read_bytes() if p.is_file() else None for p in inside if p.exists()
        }

    return read
