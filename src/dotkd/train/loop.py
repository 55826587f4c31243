"""The loop: from a recipe to a finished run folder, in plain steps, stopped and resumed at any epoch.

The same loop trains teachers, plain students and students under any optimizer. What it writes is in
:mod:`dotkd.runs`; what changes from step to step is in :mod:`dotkd.train.session`.
"""

import math
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch

from dotkd import runs
from dotkd.analysis.cost import energy
from dotkd.errors import BadInput
from dotkd.networks import build_teacher, save_student
from dotkd.recipe import Recipe, differing_keys, recipe_text
from dotkd.train.environment import changes, environment, file_checksum
from dotkd.train.epoch import OnStep, compile_step, stop_diverged, train_epoch
from dotkd.train.evaluate import evaluate
from dotkd.train.judge import judge_epoch
from dotkd.train.session import Session, read_checkpoint, restore, save, start

_TESTED = ("test_accuracy", "test_top5", "test_loss")

OnEpoch = Callable[[dict[str, Any]], None]


def train(
    recipe: Recipe,
    folder: Path,
    *,
    teacher: Path | None = None,
    resume: bool = False,
    test: bool = True,
    on_epoch: Sequence[OnEpoch] = (),
    on_step: OnStep | None = None,
) -> dict[str, Any]:
    """Train the student of a recipe.

    Args:
        recipe: The recipe.
        folder: The run folder; must not hold a run yet.
        teacher: The teacher's ``student.safetensors``; None: the recipe's ``teacher.checkpoint``, or no
            teacher at all.
        resume: Go on where an earlier run of the same recipe in this folder stopped; a finished run is
            left as it is, and an empty folder starts a new run.
        test: Whether the test images are read at the end; not where the run is there to choose something.
        on_epoch: Called with the metrics of each epoch, after they were written.
        on_step: Called after each step with the steps done and the steps of the run.

    Returns:
        What ``results.json`` holds: ``last`` and ``best`` with test and validation numbers, ``parameters``
        and ``seconds``.

    Raises:
        BadInput: The folder holds a run already, or another recipe's.
        RunFailed: A loss was not finite; the last good checkpoint stays.
    """
    check_folder(recipe, folder, resume=resume)
    if resume and runs.is_finished(folder):
        return _finished(folder, teacher)
    threads = torch.get_num_threads()
    with torch.random.fork_rng():
        try:
            torch.set_num_threads(recipe.run.threads or threads)
            return _train(recipe, folder, teacher, on_epoch, on_step, test=test)
        finally:
            torch.set_num_threads(threads)


def _finished(folder: Path, teacher: Path | None) -> dict[str, Any]:
    record = runs.read_run(folder)
    if teacher is not None and file_checksum(teacher) != record.environment.get("teacher_checksum"):
        raise BadInput(
            f"{folder} holds a finished run with another teacher than {teacher}: give another --output"
        )
    return record.results.model_dump()


def check_folder(recipe: Recipe, folder: Path, *, resume: bool) -> None:
    """Refuse to write a run over another one.

    Args:
        recipe: What is to be trained.
        folder: Where.
        resume: Whether an earlier run of the same recipe is welcome.

    Raises:
        BadInput: The folder is a file, or holds a run that is not welcome.
    """
    stored = folder / runs.RECIPE
    for path in (folder, *folder.parents):
        if path.exists() and not path.is_dir():
            raise BadInput(f"{path} is a file, and a folder is wanted")
    if not stored.exists():
        return
    if not resume:
        raise BadInput(f"{folder} holds a run already: give another --output, or --resume to go on with it")
    keys = differing_keys(stored.read_text(encoding="utf-8"), recipe_text(recipe))
    if keys:
        raise BadInput(
            f"{folder} holds a run of another recipe, which differs in {', '.join(keys)}: give another "
            "--output"
        )


def _train(
    recipe: Recipe,
    folder: Path,
    teacher: Path | None,
    on_epoch: Sequence[OnEpoch],
    on_step: OnStep | None,
    *,
    test: bool,
) -> dict[str, Any]:
    table = recipe.teacher
    if teacher is None and table is not None:
        if table.recipe is not None:
            raise BadInput(f"recipe {recipe.name!r} has a teacher that is to be trained first: pass its file")
        teacher = None if table.checkpoint is None else Path(table.checkpoint)
    session = start(recipe, None if table is None else build_teacher(recipe, teacher))
    started = recipe.student.checkpoint
    files = {"teacher": teacher, "start": None if started is None else Path(started)}
    now = environment(session.device, session.data, {name: path for name, path in files.items() if path})
    if session.teacher_cache is not None:
        now["teacher_cache"] = session.teacher_cache.key
    with runs.locked(folder):
        _begin(session, folder, now)
        _epochs(session, folder, on_epoch, on_step)
        return _finish(session, folder, test=test)


def _begin(session: Session, folder: Path, now: dict[str, Any]) -> None:
    """Write what a run folder begins with, or take up what is there."""
    runs.remove_parts(folder)
    if (folder / runs.LAST).exists():
        before = runs.read_json(folder / runs.ENVIRONMENT)
        different = changes(before, now)
        restore(session, folder)
        runs.truncate_lines(folder / runs.METRICS, session.epoch)
        if (folder / runs.GRADIENTS).exists():
            runs.truncate_lines(folder / runs.GRADIENTS, session.epoch)
        if different:
            resumed = [*before.get("resumed", []), {"epoch": session.epoch, **different}]
            runs.write_json(folder / runs.ENVIRONMENT, {**before, "resumed": resumed})
    else:
        runs.write_text(folder / runs.RECIPE, recipe_text(session.recipe))
        runs.write_json(folder / runs.ENVIRONMENT, now)
        runs.write_text(folder / runs.METRICS, "")
        (folder / runs.GRADIENTS).unlink(missing_ok=True)


def _epochs(session: Session, folder: Path, on_epoch: Sequence[OnEpoch], on_step: OnStep | None) -> None:
    left = session.epoch < session.recipe.schedule.epochs
    compile_seconds = compile_step(session) if left else None
    while session.epoch < session.recipe.schedule.epochs:
        before = time.perf_counter()
        with energy(session.device) as used:
            metrics = train_epoch(session, on_step)
        seconds = time.perf_counter() - before  # of learning: arms are not judged alike
        spent = {"seconds": seconds, "joules": used.joules, "compile_seconds": compile_seconds}
        found = judge_epoch(session)
        metrics = {"epoch": session.epoch + 1, **metrics, **found.numbers, **spent}
        session.epoch += 1
        compile_seconds = None if compile_seconds is None else 0.0  # once in each process
        accuracy = metrics["validation_accuracy"]
        is_best = accuracy is not None and (
            session.best is None or accuracy > session.best["validation_accuracy"]
        )
        if is_best:
            session.best = {key: metrics[key] for key in ("epoch", "validation_accuracy", "validation_loss")}
        runs.append_line(folder / runs.METRICS, metrics)
        if found.layers is not None:
            runs.append_line(folder / runs.GRADIENTS, {"epoch": session.epoch, "layers": found.layers})
        save(session, folder, is_best=is_best)
        for call in on_epoch:
            call(metrics)


def _finish(session: Session, folder: Path, *, test: bool) -> dict[str, Any]:
    """Read the test images, once for the last epoch and once for the best; write what is to be deployed."""
    recipe = session.recipe
    metrics = runs.read_lines(folder / runs.METRICS)
    last = {key: metrics[-1][key] for key in ("epoch", "validation_accuracy", "validation_loss")}
    last |= _test(session) if test else dict.fromkeys(_TESTED)
    runs.write_atomically(folder / runs.STUDENT, lambda path: save_student(session.deployable, recipe, path))
    best = None
    if session.best is not None and test:
        session.objective.load_state_dict(read_checkpoint(folder / runs.BEST)["objective"])
        best = session.best | _test(session)
    results = {
        "name": recipe.name,
        "seed": recipe.run.seed,
        "parameters": sum(p.numel() for p in session.deployable.parameters()),
        "seconds": sum(line["seconds"] for line in metrics),
        "joules": _sum(line["joules"] for line in metrics),
        "compile_seconds": _sum(line.get("compile_seconds") for line in metrics),
        "last": last,
        "best": best,
    }
    runs.write_json(folder / runs.RESULTS, results)
    return results


def _sum(values: Iterable[float | None]) -> float | None:
    """Add what was measured in every epoch; nothing where one is missing."""
    known = list(values)
    return None if None in known else math.fsum(value for value in known if value is not None)


def _test(session: Session) -> dict[str, float]:
    quality = evaluate(session.deployable, session.data.test, precision=session.recipe.run.precision)
    if not math.isfinite(quality.loss):
        stop_diverged(session, f"epoch {session.epoch}: test loss {quality.loss:.4g}")
    return dict(zip(_TESTED, (quality.accuracy, quality.top5, quality.loss), strict=True))
