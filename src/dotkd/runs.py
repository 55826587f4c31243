"""The run folder: the names of its files, how they are written, and how they are read back.

Everything that a report shows is read from here. Each file is written beside its place and renamed, so that
a killed process leaves the old file or the new one, never half of one; the metrics grow by a line an epoch.

A run folder holds ``recipe.toml`` (resolved), ``environment.json``, ``metrics.jsonl``, ``gradients.jsonl``
(layer by layer, where there are two losses), ``checkpoints/{last,best}.pt``, and at the end
``student.safetensors`` and ``results.json``.
"""

import json
import math
import os
import tomllib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dotkd.errors import BadInput

RECIPE, ENVIRONMENT, METRICS, RESULTS = "recipe.toml", "environment.json", "metrics.jsonl", "results.json"
GRADIENTS = "gradients.jsonl"
STUDENT, LAST, BEST = "student.safetensors", "checkpoints/last.pt", "checkpoints/best.pt"
SWEEP, TUNING, ANALYSIS = "sweep.json", "tuning.json", "analysis.json"
_PART = ".part"  # what is not yet whole
TEACHERS = ("teacher", "teachers")
"""Folders, inside the folder of a run or a comparison, whose runs are teachers."""
TRIALS = "tuning"
"""The folder, inside that of a comparison, whose runs chose a learning rate: no report is about them."""


@dataclass(frozen=True)
class RunRecord:
    """A finished run, as its folder tells it.

    Attributes:
        path: The folder.
        name: The recipe's name: the arm of a comparison.
        seed: The seed of the run.
        is_teacher: Whether it was trained to teach others of the same comparison.
        recipe: The resolved recipe, parsed.
        recipe_text: Its text.
        metrics: A dict for each epoch.
        results: What came out.
        environment: Versions and hardware.
    """

    path: Path
    name: str
    seed: int
    is_teacher: bool
    recipe: dict[str, Any]
    recipe_text: str
    metrics: list[dict[str, Any]]
    results: dict[str, Any]
    environment: dict[str, Any]


def write_atomically(path: Path, write: Callable[[Path], None]) -> None:
    """Make a file whole or not at all.

    Args:
        path: The file; its folder is made.
        write: Writes to the path that it is given, in the same folder.
    """
    missing = [parent for parent in path.parents if not parent.exists()]
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}{_PART}")
    try:
        write(beside)
        with beside.open("rb") as file:
            os.fsync(file.fileno())  # or a power cut could leave the new name with nothing in it
        beside.replace(path)
    except BaseException:
        beside.unlink(missing_ok=True)
        for parent in missing:
            with suppress(OSError):  # something else is in it
                parent.rmdir()
        raise


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep other processes from running in the same folder while the block does.

    Args:
        folder: The run folder; it is made.

    Yields:
        Nothing.

    Raises:
        BadInput: Another process is running there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    try:
        import fcntl
    except ImportError:  # no such locks on this system
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BadInput(f"{folder}: another process is running here") from None
        yield
    finally:
        os.close(handle)


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON file that holds a table.

    Args:
        path: The file.

    Returns:
        The table.

    Raises:
        BadInput: It is missing or broken.
    """
    return _table(path, _read(path, json.loads))


def remove_parts(folder: Path) -> None:
    """Remove what a killed process was writing."""
    for path in folder.rglob(f".*{_PART}"):
        path.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file, whole or not at all."""

    def write(beside: Path) -> None:
        beside.write_text(text, encoding="utf-8")

    write_atomically(path, write)


def write_json(path: Path, content: Any) -> None:
    """Write a JSON file, whole or not at all; numbers that are not finite are an error."""
    write_text(path, json.dumps(content, indent=2, allow_nan=False) + "\n")


def append_line(path: Path, line: dict[str, Any]) -> None:
    """Add an epoch to a file that has a line for each; numbers that are not finite are an error."""
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(line, allow_nan=False) + "\n")


def truncate_lines(path: Path, epochs: int) -> None:
    """Keep the first epochs of such a file: what a killed run wrote after its checkpoint goes.

    Args:
        path: The file.
        epochs: How many lines to keep.

    Raises:
        BadInput: There are fewer.
    """
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    kept = text.splitlines(keepends=True)[:epochs]
    if len(kept) < epochs:
        raise BadInput(f"{path}: {len(kept)} epochs, but the checkpoint was written after {epochs}")
    write_text(path, "".join(kept))


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Read the metrics of a run, or its gradients, finished or not.

    Args:
        path: The file.

    Returns:
        A dict for each epoch.

    Raises:
        BadInput: The file is missing or broken.
    """
    lines = _read(path, lambda text: [json.loads(line) for line in text.splitlines()])
    return [_table(path, line) for line in lines]


def is_finished(folder: Path) -> bool:
    """Say whether a run has come to its end."""
    return (folder / RESULTS).is_file() and (folder / STUDENT).is_file()


def read_run(folder: Path, *, is_teacher: bool = False) -> RunRecord:
    """Read a finished run.

    Args:
        folder: The run folder.
        is_teacher: Whether it was trained to teach others.

    Returns:
        What it holds.

    Raises:
        BadInput: A file is missing or broken; the message names it.
    """
    text = _read(folder / RECIPE, str)
    recipe = _read(folder / RECIPE, tomllib.loads)
    run = recipe.get("run")
    name, seed = recipe.get("name"), run.get("seed") if isinstance(run, dict) else None
    if not isinstance(name, str) or not isinstance(seed, int):
        raise BadInput(f"{folder / RECIPE}: not the recipe of a run: it lacks a name or a seed")
    metrics = [_table(folder / METRICS, line, "epoch") for line in read_lines(folder / METRICS)]
    if not metrics:
        raise BadInput(f"{folder / METRICS}: broken: no epoch is in it")
    if [line["epoch"] for line in metrics] != list(range(1, len(metrics) + 1)):
        raise BadInput(f"{folder / METRICS}: broken: its epochs are not 1, 2, ... in order")
    path = folder / RESULTS
    results = _table(path, read_json(path), "last", "best", "seconds", "parameters")
    ends = [results["last"], results["best"]] if results["best"] is not None else [results["last"]]
    for end in ends:
        tested = _table(path, end, "epoch", "test_accuracy")["test_accuracy"] is not None  # trials are not
        _numbers(path, end, "epoch", *["test_accuracy"] * tested)
    _numbers(path, results, "seconds", "parameters")
    environment = read_json(folder / ENVIRONMENT)
    return RunRecord(folder, name, seed, is_teacher, recipe, text, metrics, results, environment)


def _table(path: Path, content: Any, *keys: str) -> dict[str, Any]:
    """Return what was read from a file if it is a table with these keys."""
    if not isinstance(content, dict):
        raise BadInput(f"{path}: broken: {content!r} is where a table belongs")
    if missing := [key for key in keys if key not in content]:
        raise BadInput(f"{path}: broken: a table lacks {', '.join(missing)}")
    return content


def _numbers(path: Path, table: dict[str, Any], *keys: str) -> None:
    """Refuse what is not a finite number where one belongs."""
    for key in keys:
        value = table[key]
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise BadInput(f"{path}: broken: {key} is {value!r}, and a number belongs there")


def find_runs(folder: Path) -> list[RunRecord]:
    """Read all finished runs in a folder or below it, also those whose weights somebody removed.

    Args:
        folder: A run folder, or the folder of a comparison.

    Returns:
        The runs in the order of their paths, without those that chose learning rates; empty if there is
        none.

    Raises:
        BadInput: The folder does not exist, or a run in it is broken.
    """
    if not folder.is_dir():
        raise BadInput(f"no folder {str(folder)!r}")
    # A comparison has results of its own, and neither a recipe nor a student.
    ends = [path.parent for path in folder.rglob(RESULTS)]
    found = sorted(end for end in ends if any((end / name).is_file() for name in (RECIPE, STUDENT)))
    parts = {path: path.relative_to(folder).parts for path in found}
    return [
        read_run(path, is_teacher=any(part in TEACHERS for part in parts[path]))
        for path in found
        if TRIALS not in parts[path]
    ]


def _read(path: Path, parse: Callable[[str], Any]) -> Any:
    try:
        return parse(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise BadInput(f"{path}: cannot be read: {error.strerror}") from None
    except ValueError as error:  # JSON, TOML and UTF-8 errors are ValueErrors
        raise BadInput(f"{path}: broken: {error}") from None
