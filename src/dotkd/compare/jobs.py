"""Runs the jobs of a comparison: one by one in this process, or several at a time in worker processes."""

import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import NamedTuple

import torch

from dotkd.compare.arms import teacher_folder
from dotkd.errors import RunFailed
from dotkd.processes import available_cpus, end_with_parent, new_context
from dotkd.recipe import Recipe
from dotkd.records import Results
from dotkd.runs import is_finished
from dotkd.train.loop import OnEpoch, check_folder, provide_teacher, train
from dotkd.train.step import OnStep
from dotkd.train.teacher import teacher_recipe

Teachers = Mapping[str, Path | Exception | None]


class Job(NamedTuple):
    """A run that is to be made, or taken up where it stands.

    Attributes:
        arm: Its key in the comparison.
        recipe: With the seed of the run.
        folder: Where it goes.
        teacher: The file of its teacher; None without one; an error where the teacher could not be trained.
        test: Whether the test images are read at the end.
    """

    arm: str
    recipe: Recipe
    folder: Path
    teacher: Path | Exception | None
    test: bool = True


Ending = Results | Exception


def provide_teachers(
    arms: Mapping[str, Recipe],
    folder: Path,
    *,
    on_teacher: Callable[[str, int], None] = lambda _arm, _epochs: None,
    on_epoch: Sequence[OnEpoch] = (),
    on_step: OnStep | None = None,
) -> Teachers:
    """Train the teachers that are missing, each once, before any student.

    Args:
        arms: Key of an arm -> recipe.
        folder: Of the comparison; teachers go to ``folder/teachers``.
        on_teacher: Called before the teacher of an arm is trained, with the arm's name and the
            teacher's epochs.
        on_epoch: As for :func:`~dotkd.train.loop.train`.
        on_step: Likewise.

    Returns:
        Key of an arm -> the file of its teacher, None without one, or what went wrong.
    """
    found: dict[Path, Path | Exception | None] = {}
    teachers: dict[str, Path | Exception | None] = {}
    for arm, recipe in arms.items():
        home = teacher_folder(recipe, folder)
        if home is None:  # a file, or no teacher
            teachers[arm] = provide_teacher(recipe, folder)
            continue
        if home not in found:
            if not is_finished(home) and (wanted := teacher_recipe(recipe)) is not None:
                on_teacher(recipe.name, wanted.schedule.epochs)
            try:
                found[home] = provide_teacher(recipe, home, on_epoch=on_epoch, on_step=on_step)
            except Exception as error:  # the arms with other teachers go on
                found[home] = error
        teachers[arm] = found[home]
    return teachers


def run_jobs(
    jobs: Sequence[Job],
    count: int = 1,
    *,
    on_start: Callable[[Job], None] = lambda _job: None,
    on_epoch: Sequence[OnEpoch] = (),
    on_step: OnStep | None = None,
) -> Iterator[tuple[Job, Ending]]:
    """Make runs; one that fails does not stop the others.

    Several at a time have processes of their own, with an equal share of the CPUs for torch's threads where
    the recipe does not say how many; they end with this process, whatever ends it. A process that is killed,
    as where memory runs out, is the failure of its own run.

    Args:
        jobs: The runs.
        count: How many at a time, at least 1.
        on_start: Called when a run begins.
        on_epoch: Called with the metrics of each epoch; only with ``count`` 1, in whose process it happens.
        on_step: Called after each step; likewise.

    Yields:
        Each run with its results or the error that ended it, in the order in which they end.
    """
    if count == 1:
        for job in jobs:
            on_start(job)
            try:
                ending: Ending = _run(job, on_epoch, on_step)
            except Exception as error:
                ending = error
            yield job, ending
        return
    threads = max(1, available_cpus() // count)
    waiting = list(reversed(jobs))
    running: dict[Future[Results], tuple[Job, ProcessPoolExecutor]] = {}
    context = new_context(__name__)
    given_up = context.Event()
    # A pool for each process: one that dies takes nothing with it but its own run.
    new_pool = partial(
        ProcessPoolExecutor, 1, mp_context=context, initializer=_begin, initargs=(threads, given_up)
    )
    free, all_done = [new_pool() for _ in range(min(count, len(jobs)))], False
    try:
        while waiting or running:
            while waiting and free:
                job, pool = waiting.pop(), free.pop()
                on_start(job)
                running[pool.submit(_run, job)] = job, pool
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                job, pool = running.pop(future)
                ending = _ending(future)
                if isinstance(ending, BrokenProcessPool):
                    pool.shutdown()
                    pool = new_pool()
                    ending = RunFailed(_KILLED)
                free.append(pool)
                yield job, ending
        all_done = True
    finally:
        if not all_done:
            given_up.set()  # what runs would be waited for, for as long as it takes
        for pool in (*free, *(pool for _, pool in running.values())):
            pool.shutdown()


_KILLED = "the worker was killed (out of memory?): try fewer --jobs"


def _ending(future: Future[Results]) -> Ending:
    try:
        return future.result()
    except Exception as error:
        return error


def _begin(threads: int, given_up: Event) -> None:
    torch.set_num_threads(threads)
    end_with_parent()

    def wait_for_it() -> None:
        given_up.wait()
        os._exit(1)  # the last checkpoint stays, and nothing is ever half written

    threading.Thread(target=wait_for_it, daemon=True).start()


def _run(job: Job, on_epoch: Sequence[OnEpoch] = (), on_step: OnStep | None = None) -> Results:
    if isinstance(job.teacher, Exception):
        raise job.teacher
    check_folder(job.recipe, job.folder, resume=True)
    return train(
        job.recipe,
        job.folder,
        teacher=job.teacher,
        resume=True,
        test=job.test,
        on_epoch=on_epoch,
        on_step=on_step,
    )
