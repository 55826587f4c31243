"""Run folders: the names of their files, atomic writes, locks, and reading finished runs.

A run folder holds ``recipe.toml`` (resolved), ``environment.json``, ``metrics.jsonl`` and ``gradients.jsonl``
(a line an epoch), ``checkpoints/{last,best}.pt``, and at the end ``student.safetensors`` and
``results.json``; ``analysis.json`` comes with ``dotkd analyze``. Each file is written beside its place and
renamed, so a killed process leaves the old file or the new one, never half of one. The schema of the JSON
files is :mod:`dotkd.records`.
"""

import json
import os
import tomllib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from dotkd.errors import BadInput
from dotkd.records import Analysis, EpochGradients, EpochMetrics, Record, Results

RECIPE, ENVIRONMENT, METRICS, RESULTS = "recipe.toml", "environment.json", "metrics.jsonl", "results.json"
GRADIENTS, ANALYSIS = "gradients.jsonl", "analysis.json"
STUDENT, LAST, BEST = "student.safetensors", "checkpoints/last.pt", "checkpoints/best.pt"
SWEEP, TUNING = "sweep.json", "tuning.json"
"""Files of a comparison."""
PAGE, MARKDOWN, TABLES, FIGURES = "report.html", "report.md", "tables", "figures"
"""Files and folders of a report."""
TEACHERS = ("teacher", "teachers")
"""Folders inside a run or a comparison that hold the runs of teachers."""
TRIALS = "tuning"
"""Folder inside a comparison that holds the runs that chose a learning rate; reports leave them out."""
_PART = ".part"  # suffix of a file that is not complete yet
_SHOWN = 3  # mistakes that a message lists

_Record = TypeVar("_Record", bound=Record)


@dataclass(frozen=True)
class RunRecord:
    """A finished run, read from its folder.

    Attributes:
        path: The folder.
        name: The recipe's name: the arm of a comparison.
        seed: The seed of the run.
        is_teacher: Whether the run is a teacher of the same comparison.
        recipe: The resolved recipe, parsed.
        recipe_text: The text of the recipe.
        environment: Versions and hardware.
        metrics: Epoch by epoch, at least one.
        results: Final numbers.
        gradients: Layer by layer after each epoch; empty without two losses.
        analysis: None if the run was not analysed.
    """

    path: Path
    name: str
    seed: int
    is_teacher: bool
    recipe: dict[str, Any]
    recipe_text: str
    environment: dict[str, Any]
    metrics: tuple[EpochMetrics, ...]
    results: Results
    gradients: tuple[EpochGradients, ...] = ()
    analysis: Analysis | None = None


# ---------------------------------------------------------------- writing


def write_atomically(path: Path, write: Callable[[Path], None]) -> None:
    """Write a file completely or not at all.

    Args:
        path: The file; its folder is made.
        write: Called with the path to write to, in the same folder.
    """
    missing = [parent for parent in path.parents if not parent.exists()]
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}{_PART}")
    try:
        write(beside)
        with beside.open("r+b") as file:  # Windows flushes what is open for writing only
            os.fsync(file.fileno())  # or a power cut could leave the new name on an empty file
        beside.replace(path)
    except BaseException:
        beside.unlink(missing_ok=True)
        for parent in missing:
            with suppress(OSError):  # not empty
                parent.rmdir()
        raise


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically."""

    def write(beside: Path) -> None:
        beside.write_text(text, encoding="utf-8", newline="\n")

    write_atomically(path, write)


def write_json(path: Path, content: Any) -> None:
    """Write a JSON file atomically; numbers must be finite."""
    write_text(path, json.dumps(content, indent=2, allow_nan=False) + "\n")


def append_line(path: Path, line: Mapping[str, Any]) -> None:
    """Append a line to a JSON-lines file; numbers must be finite."""
    with path.open("a", encoding="utf-8", newline="\n") as file:
        file.write(json.dumps(line, allow_nan=False) + "\n")


def write_record(path: Path, record: Record) -> None:
    """Write a record to a JSON file, atomically."""
    write_json(path, record.model_dump())


def append_record(path: Path, record: Record) -> None:
    """Append a record to a JSON-lines file."""
    append_line(path, record.model_dump())


def truncate_lines(path: Path, epochs: int) -> None:
    """Keep the first lines of a JSON-lines file; drops what a killed run wrote after its checkpoint.

    Args:
        path: The file.
        epochs: Lines to keep.

    Raises:
        BadInput: The file has fewer lines.
    """
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    kept = text.splitlines(keepends=True)[:epochs]
    if len(kept) < epochs:
        raise BadInput(f"{path}: {len(kept)} epochs, but the checkpoint was written after {epochs}")
    write_text(path, "".join(kept))


def remove_parts(folder: Path) -> None:
    """Remove the incomplete files that a killed process left."""
    for path in folder.rglob(f".*{_PART}"):
        path.unlink(missing_ok=True)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep other processes from running in the same folder during the block.

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
    except ImportError:  # this system has no such locks
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


# ---------------------------------------------------------------- reading


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON file that holds a table.

    Args:
        path: The file.

    Returns:
        The table.

    Raises:
        BadInput: The file is missing or broken.
    """
    return _table(path, _read(path, json.loads))


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Read a JSON-lines file of a run, finished or not.

    Args:
        path: The file.

    Returns:
        A dict for each line.

    Raises:
        BadInput: The file is missing or broken.
    """
    lines = _read(path, lambda text: [json.loads(line) for line in text.splitlines()])
    return [_table(path, line) for line in lines]


def read_record(path: Path, kind: type[_Record]) -> _Record:
    """Read a JSON file as a record.

    Args:
        path: The file.
        kind: The record's class.

    Returns:
        The record.

    Raises:
        BadInput: The file is missing or broken; the message names file and key.
    """
    text = _read(path, str)
    try:
        return kind.model_validate_json(text)
    except ValidationError as error:
        raise BadInput(f"{path}: broken: {_mistakes(error)}") from None


def read_records(path: Path, kind: type[_Record]) -> tuple[_Record, ...]:
    """Read a JSON-lines file as records.

    Args:
        path: The file.
        kind: The class of the records.

    Returns:
        A record for each line.

    Raises:
        BadInput: The file is missing or broken; the message names file, line and key.
    """
    text = "[" + ",\n".join(_read(path, str.splitlines)) + "]"
    try:
        found: tuple[_Record, ...] = _lines_of(kind).validate_json(text)
    except ValidationError as error:
        place = error.errors()[0]["loc"]
        where, inside = (f"{path}, line {int(place[0]) + 1}", place[:1]) if place else (str(path), ())
        raise BadInput(f"{where}: broken: {_mistakes(error, inside)}") from None
    return found


@cache
def _lines_of(kind: type[_Record]) -> TypeAdapter[tuple[_Record, ...]]:
    return TypeAdapter(tuple[kind, ...])  # type: ignore[valid-type]


def is_finished(folder: Path) -> bool:
    """Tell whether a run has ended."""
    return (folder / RESULTS).is_file() and (folder / STUDENT).is_file()


def read_run(folder: Path, *, is_teacher: bool = False) -> RunRecord:
    """Read a finished run.

    Args:
        folder: The run folder.
        is_teacher: Whether the run is a teacher.

    Returns:
        The run.

    Raises:
        BadInput: A file is missing or broken; the message names file and key.
    """
    text = _read(folder / RECIPE, str)
    recipe = _read(folder / RECIPE, tomllib.loads)
    run = recipe.get("run")
    name, seed = recipe.get("name"), run.get("seed") if isinstance(run, dict) else None
    if not isinstance(name, str) or not isinstance(seed, int):
        raise BadInput(f"{folder / RECIPE}: not the recipe of a run: it lacks a name or a seed")
    metrics = read_records(folder / METRICS, EpochMetrics)
    if not metrics:
        raise BadInput(f"{folder / METRICS}: broken: it has no epoch")
    if [line.epoch for line in metrics] != list(range(1, len(metrics) + 1)):
        raise BadInput(f"{folder / METRICS}: broken: its epochs are not 1, 2, ... in order")
    gradients, analysis = folder / GRADIENTS, folder / ANALYSIS
    return RunRecord(
        path=folder,
        name=name,
        seed=seed,
        is_teacher=is_teacher,
        recipe=recipe,
        recipe_text=text,
        environment=read_json(folder / ENVIRONMENT),
        metrics=metrics,
        results=read_record(folder / RESULTS, Results),
        gradients=read_records(gradients, EpochGradients) if gradients.exists() else (),
        analysis=read_record(analysis, Analysis) if analysis.exists() else None,
    )


def find_runs(folder: Path) -> list[RunRecord]:
    """Read all finished runs in a folder or below it, with or without their weights.

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
    # A comparison has a results.json of its own, and neither a recipe nor a student.
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


def _table(path: Path, content: Any) -> dict[str, Any]:
    if not isinstance(content, dict):
        raise BadInput(f"{path}: broken: must be an object, got {content!r}")
    return content


def _mistakes(error: ValidationError, inside: tuple[int | str, ...] = ()) -> str:
    """List the first mistakes at a place, by default the whole file."""
    found = []
    for detail in error.errors():
        if detail["loc"][: len(inside)] != inside:
            continue
        key = ".".join(map(str, detail["loc"][len(inside) :]))
        said = detail["msg"].removeprefix("Value error, ").replace("Input should", "must")
        found.append(f"{key}: {said}" if key else said)
    more = f"; and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
    return "; ".join(found[:_SHOWN]) + more
