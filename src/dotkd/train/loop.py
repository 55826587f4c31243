"""The training loop: from a recipe to a finished run folder, stopped and resumed at any epoch.

The same loop trains teachers, plain students and students under any optimizer. The files it writes are
described in :mod:`dotkd.runs` and :mod:`dotkd.records`.
"""

import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from dotkd import runs
from dotkd.errors import BadInput
from dotkd.recipe import Recipe, differing_keys, recipe_text
from dotkd.records import EpochGradients, EpochMetrics, EpochScores, Results, TeacherAccuracy
from dotkd.seeding import random_stream
from dotkd.train.build import check_recipe
from dotkd.train.diagnostics import diagnose
from dotkd.train.environment import changes, environment, file_checksum
from dotkd.train.networks import describe_student, save_student
from dotkd.train.scores import score
from dotkd.train.state import RunState, read_checkpoint, restore, save
from dotkd.train.step import OnStep, compile_step, stop_diverged, train_epoch
from dotkd.train.teacher import ask_teacher, teacher_file, teacher_recipe

OnEpoch = Callable[[EpochMetrics], None]
"""Called with the metrics of each epoch, after they were written."""

_TEACHER = "teacher"  # its folder inside the student's


def train(
    recipe: Recipe,
    folder: str | Path,
    *,
    teacher: Path | None = None,
    resume: bool = False,
    test: bool = True,
    on_run: Callable[[Recipe], None] = lambda _recipe: None,
    on_teacher: Callable[[TeacherAccuracy], None] = lambda _accuracy: None,
    on_epoch: Sequence[OnEpoch] = (),
    on_step: OnStep | None = None,
) -> Results:
    """Train the student of a recipe; before it its teacher, where the recipe names the teacher's recipe.

    All is built and tried on a few images before anything is written. A teacher goes to ``folder/teacher``; a
    finished one of the same recipe is used again.

    Args:
        recipe: The recipe.
        folder: The run folder; must not hold a run yet.
        teacher: The teacher's ``student.safetensors``; None: as the recipe says.
        resume: Go on where an earlier run of the same recipe in this folder stopped; a finished run is
            left as it is, and an empty folder starts a new run.
        test: Whether to read the test images at the end; False for runs that choose a hyper-parameter.
        on_run: Called with the recipe before the teacher's training and before the student's.
        on_teacher: Called with the accuracy of the teacher before it teaches; not where a run goes on.
        on_epoch: Called with the metrics of each epoch of the student, after they were written.
        on_step: Called after each step with the steps done and the steps of the run.

    Returns:
        The content of ``results.json``.

    Raises:
        BadInput: The folder holds a run already, something in the recipe is wrong or missing, or the teacher
            is no better than chance.
        RunFailed: A loss was not finite; the last good checkpoint stays.

    Example:
        >>> from dotkd.recipe import load_recipe
        >>> results = train(load_recipe("quick/digits-plain", ["schedule.epochs=2"]), "run")
        >>> results.last.epoch
        2
    """
    folder = Path(folder)
    check_folder(recipe, folder, resume=resume)
    first = teacher_recipe(recipe) if teacher is None else None
    if first is not None:
        check_folder(first, folder / _TEACHER, resume=True)
        if runs.is_finished(folder / _TEACHER):
            first, teacher = None, folder / _TEACHER / runs.STUDENT
    teacher = teacher or teacher_file(recipe)
    if resume and runs.is_finished(folder):
        return _finished(folder, teacher)
    with _isolated(recipe.run.threads):
        prepared = check_recipe(recipe, first or teacher)
        if prepared.untrained is not None:
            on_run(prepared.untrained.recipe)
            _train(prepared.untrained.start(), folder / _TEACHER, (), on_step, test=True)
            prepared.load_teacher(folder / _TEACHER / runs.STUDENT)
        accuracy = None
        if not (folder / runs.LAST).exists():  # one that goes on has asked
            accuracy = ask_teacher(recipe, prepared.distiller, prepared.data)
        on_run(recipe)
        if accuracy is not None:
            on_teacher(accuracy)
        run = prepared.start()
        run.teacher_accuracy = accuracy
        return _train(run, folder, on_epoch, on_step, test=test)


def provide_teacher(
    recipe: Recipe, folder: Path, *, on_epoch: Sequence[OnEpoch] = (), on_step: OnStep | None = None
) -> Path | None:
    """Return the file of a recipe's teacher; train it first where it does not exist.

    Args:
        recipe: The student's recipe.
        folder: Run folder of a teacher that is trained. A finished one of the same recipe is used again, an
            unfinished one goes on.
        on_epoch: As for :func:`train`.
        on_step: Likewise.

    Returns:
        The file with the teacher's weights; None where there is no teacher, or its name brings them.

    Raises:
        BadInput: The folder holds a teacher of another recipe.
    """
    teacher = teacher_recipe(recipe)
    if teacher is None:
        return teacher_file(recipe)
    train(teacher, folder, resume=True, on_epoch=on_epoch, on_step=on_step)
    return folder / runs.STUDENT


def check_folder(recipe: Recipe, folder: Path, *, resume: bool) -> None:
    """Refuse a folder that holds another run.

    Args:
        recipe: The recipe to train.
        folder: The run folder.
        resume: Whether an earlier run of the same recipe is allowed.

    Raises:
        BadInput: The folder is a file, or holds a run that is not allowed.
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


def _finished(folder: Path, teacher: Path | None) -> Results:
    record = runs.read_run(folder)
    if teacher is not None and file_checksum(teacher) != record.environment.get("teacher_checksum"):
        raise BadInput(
            f"{folder} holds a finished run with another teacher than {teacher}: give another --output"
        )
    return record.results


@contextmanager
def _isolated(threads: int) -> Iterator[None]:
    """Leave torch's random generators and number of threads as they were."""
    before = torch.get_num_threads()
    with torch.random.fork_rng():
        try:
            torch.set_num_threads(threads or before)
            yield
        finally:
            torch.set_num_threads(before)


def _train(
    run: RunState, folder: Path, on_epoch: Sequence[OnEpoch], on_step: OnStep | None, *, test: bool
) -> Results:
    now = environment(run)
    with runs.locked(folder):
        _begin(run, folder, now)
        _epochs(run, folder, on_epoch, on_step)
        return _finish(run, folder, test=test)


def _begin(run: RunState, folder: Path, now: dict[str, Any]) -> None:
    """Write the first files of a run folder, or take up an earlier run."""
    runs.remove_parts(folder)
    if not (folder / runs.LAST).exists():
        # Dropout draws from torch's global generator.
        torch.manual_seed(random_stream(run.recipe.run.seed, "forward").initial_seed())
        runs.write_text(folder / runs.RECIPE, recipe_text(run.recipe))
        runs.write_json(folder / runs.ENVIRONMENT, now)
        runs.write_text(folder / runs.METRICS, "")
        (folder / runs.GRADIENTS).unlink(missing_ok=True)
        return
    before = runs.read_json(folder / runs.ENVIRONMENT)
    different = changes(before, now)
    restore(run, folder)
    runs.truncate_lines(folder / runs.METRICS, run.epoch)
    if (folder / runs.GRADIENTS).exists():
        runs.truncate_lines(folder / runs.GRADIENTS, run.epoch)
    if different:
        resumed = [*before.get("resumed", []), {"epoch": run.epoch, **different}]
        runs.write_json(folder / runs.ENVIRONMENT, {**before, "resumed": resumed})


def _epochs(run: RunState, folder: Path, on_epoch: Sequence[OnEpoch], on_step: OnStep | None) -> None:
    left = run.epoch < run.recipe.schedule.epochs
    compile_seconds = compile_step(run) if left else None
    while run.epoch < run.recipe.schedule.epochs:
        before = time.perf_counter()
        trained = train_epoch(run, on_step)
        seconds = time.perf_counter() - before  # of training: the cost of diagnostics differs between arms
        found = diagnose(run)
        run.epoch += 1
        metrics = EpochMetrics.model_validate(
            {
                "epoch": run.epoch,
                **trained,
                **found.metrics,
                "seconds": seconds,
                "compile_seconds": compile_seconds,
            }
        )
        compile_seconds = None if compile_seconds is None else 0.0  # once in each process
        accuracy = metrics.validation_accuracy
        best = run.best.validation_accuracy if run.best is not None else None
        is_best = accuracy is not None and (best is None or accuracy > best)
        if is_best:
            run.best = _epoch_scores(metrics)
        runs.append_record(folder / runs.METRICS, metrics)
        if found.layers is not None:
            gradients = EpochGradients(epoch=run.epoch, layers=found.layers)
            runs.append_record(folder / runs.GRADIENTS, gradients)
        save(run, folder, is_best=is_best)
        for call in on_epoch:
            call(metrics)


def _finish(run: RunState, folder: Path, *, test: bool) -> Results:
    """Read the test images for the last epoch and for the best; write the student and the results."""
    recipe = run.recipe
    metrics = runs.read_records(folder / runs.METRICS, EpochMetrics)
    last = _epoch_scores(metrics[-1])
    if test:
        last = _tested(run, last)
    made_for = describe_student(run.deployable, run.facts, run.data.train.classes)
    runs.write_atomically(
        folder / runs.STUDENT, lambda path: save_student(run.deployable, recipe, made_for, path)
    )
    best = None
    if run.best is not None and test:
        run.distiller.load_state_dict(read_checkpoint(folder / runs.BEST)["objective"])
        best = _tested(run, run.best)
    results = Results(
        name=recipe.name,
        seed=recipe.run.seed,
        parameters=sum(p.numel() for p in run.deployable.parameters()),
        seconds=sum(line.seconds for line in metrics),
        compile_seconds=_sum(line.compile_seconds for line in metrics),
        last=last,
        best=best,
    )
    runs.write_record(folder / runs.RESULTS, results)
    return results


def _epoch_scores(metrics: EpochMetrics) -> EpochScores:
    return EpochScores(
        epoch=metrics.epoch,
        validation_accuracy=metrics.validation_accuracy,
        validation_loss=metrics.validation_loss,
    )


def _tested(run: RunState, found: EpochScores) -> EpochScores:
    scores = score(run.deployable, run.data.test, precision=run.recipe.run.precision)
    if not math.isfinite(scores.loss):
        stop_diverged(run, f"epoch {run.epoch}: test loss {scores.loss:.4g}")
    return found.model_copy(
        update={"test_accuracy": scores.accuracy, "test_top5": scores.top5, "test_loss": scores.loss}
    )


def _sum(values: Iterable[float | None]) -> float | None:
    """The sum; None where a value is missing."""
    known = list(values)
    return None if None in known else math.fsum(value for value in known if value is not None)
