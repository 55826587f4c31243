"""``compare``: recipes x seeds in one folder, resumable, with one report."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from dotkd.compare.arms import check_arms, check_unclaimed, with_seed
from dotkd.compare.jobs import Job, provide_teachers, run_jobs
from dotkd.compare.sweep import SweepAxis, sweep_arms
from dotkd.compare.tune import RateSearch, tune
from dotkd.errors import BadInput, RunFailed
from dotkd.recipe import Recipe
from dotkd.report import read_comparison, summarize, write_report
from dotkd.runs import RESULTS, SWEEP, write_json, write_record
from dotkd.train.loop import OnEpoch, check_folder
from dotkd.train.step import OnStep

DEMO = ("quick/digits-plain", "quick/digits-kd", "quick/digits-kd-dot", "quick/digits-kd-control")
"""Recipes of ``dotkd demo``."""


@dataclass(frozen=True)
class Failure:
    """A run that failed.

    Attributes:
        arm: Name of its recipe.
        seed: Its seed.
        error: The exception.
    """

    arm: str
    seed: int
    error: Exception

    @property
    def reason(self) -> str:
        """Type and message of the error."""
        return f"{type(self.error).__name__}: {self.error}"


def compare(
    recipes: Sequence[Recipe],
    seeds: int,
    folder: Path,
    *,
    sweep: SweepAxis | None = None,
    search: RateSearch | None = None,
    jobs: int = 1,
    on_run: Callable[[str, int], None] = lambda _arm, _seed: None,
    on_teacher: Callable[[str, int], None] = lambda _arm, _epochs: None,
    on_epoch: Sequence[OnEpoch] = (),
    on_step: OnStep | None = None,
) -> list[Failure]:
    """Train every recipe with every seed and write the report.

    Finished runs are kept and interrupted ones go on, so the same call resumes a comparison. A failed run
    does not stop the others. A teacher is trained once, into ``folder/teachers``, and shared by all arms and
    seeds with its recipe. Runs go to ``folder/ARM/seed-N``; ``folder/results.json`` and
    ``folder/report.html`` are written last.

    Args:
        recipes: The arms, with different names.
        seeds: Number of seeds; ``run.seed`` is 0, 1, ..., seeds - 1.
        folder: Where everything goes.
        sweep: Values of a key to try: one arm for each value, of each recipe that has the key.
        search: Learning rates from which each arm's is chosen on validation images first.
        jobs: Number of runs at a time, each in its own process if above 1. Teachers are trained one by one
            before.
        on_run: Called before each run with arm and seed.
        on_teacher: Called before a teacher is trained, with the arm and the teacher's epochs.
        on_epoch: Called with the metrics of each epoch of runs in this process: all runs with one job, else
            the teachers.
        on_step: Called after each step of these runs, with steps done and steps of the run.

    Returns:
        The failed runs.

    Raises:
        BadInput: A recipe or the folder is wrong; nothing was written.
        RunFailed: All runs failed.

    Example:
        >>> from dotkd.recipe import load_recipe
        >>> plain = load_recipe("quick/digits-plain", ["schedule.epochs=1"])
        >>> compare([plain], 2, Path("comparison"))
        []
    """
    swept = None
    if sweep is not None:
        recipes, swept = sweep_arms(recipes, sweep)
    arms = check_arms(recipes, tuned=search is not None)
    folders = {
        (recipe.name, seed): folder / arm / f"seed-{seed}"
        for arm, recipe in arms.items()
        for seed in range(seeds)
    }
    check_unclaimed(folder, folders)
    if search is not None and sweep is not None and "optimizer.lr" in sweep.keys:
        raise BadInput("--sweep optimizer.lr and --tune-lr both set optimizer.lr: give one of them")
    teachers = provide_teachers(arms, folder, on_teacher=on_teacher, on_epoch=on_epoch, on_step=on_step)
    if search is not None:
        arms = tune(arms, search, folder, teachers, jobs=jobs, on_run=on_run, on_step=on_step)
    planned = [
        Job(arm, with_seed(recipe, seed), folders[recipe.name, seed], teachers[arm])
        for seed in range(seeds)
        for arm, recipe in arms.items()
    ]
    for job in planned:
        check_folder(job.recipe, job.folder, resume=True)
    if swept is not None:
        write_record(folder / SWEEP, swept)
    ended = run_jobs(
        planned,
        jobs,
        on_start=lambda job: on_run(job.recipe.name, job.recipe.run.seed),
        on_epoch=on_epoch,
        on_step=on_step,
    )
    failures = [
        Failure(job.recipe.name, job.recipe.run.seed, ending)
        for job, ending in ended
        if isinstance(ending, Exception)
    ]
    if len(failures) == len(planned):
        raise RunFailed(f"all {len(planned)} runs failed, the first with {failures[0].reason}") from failures[
            0
        ].error
    write_json(folder / RESULTS, summarize(read_comparison(folder)).to_json())
    write_report(folder)
    return failures
