"""``compare``: recipes x seeds into one folder, each run taken up where it stands, whatever others do."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from dotkd.compare.jobs import Job, provide_teachers, run_jobs
from dotkd.compare.sweep import Sweep, SweptArm, check_arms, refuse_strangers, swept, unswept, with_seed
from dotkd.compare.tune import Tuning, check_tunable, tune
from dotkd.errors import BadInput, RunFailed
from dotkd.recipe import Recipe
from dotkd.report import read_comparison, summarize, write_report
from dotkd.runs import RESULTS, SWEEP, write_json
from dotkd.train.epoch import OnStep
from dotkd.train.loop import OnEpoch, check_folder

DEMO = ("quick/digits-plain", "quick/digits-kd", "quick/digits-kd-dot", "quick/digits-kd-control")


@dataclass(frozen=True)
class Failure:
    """A run that did not come to its end.

    Attributes:
        arm: The recipe's name.
        seed: The seed.
        error: What went wrong.
    """

    arm: str
    seed: int
    error: Exception

    @property
    def reason(self) -> str:
        """The error in a line or a few."""
        return f"{type(self.error).__name__}: {self.error}"


def compare(
    recipes: Sequence[Recipe],
    seeds: int,
    folder: Path,
    *,
    sweep: Sweep | None = None,
    tuning: Tuning | None = None,
    jobs: int = 1,
    on_run: Callable[[str, int], None] = lambda _arm, _seed: None,
    on_teacher: Callable[[str, int], None] = lambda _arm, _epochs: None,
    on_epoch: Sequence[OnEpoch] = (),
    on_step: OnStep | None = None,
) -> list[Failure]:
    """Train every recipe with every seed, and write the report.

    What is finished is left as it is and what was stopped goes on. A run that fails does not stop the
    others. A teacher is trained once, into ``folder/teachers``, and shared by all arms and seeds that name
    its recipe. Runs go to ``folder/ARM/seed-N``; the last act is ``folder/report.html`` and
    ``folder/results.json``.

    Args:
        recipes: The arms, each under a name of its own.
        seeds: How many; ``run.seed`` is 0, 1, ..., seeds - 1.
        folder: Where all goes.
        sweep: Values to try for a key: an arm for each, of each recipe that has the key.
        tuning: Learning rates to choose from for each arm, by validation and before anything else.
        jobs: How many runs at a time; above 1 each has a process of its own. Teachers come first, one by
            one.
        on_run: Called before each run with arm and seed.
        on_teacher: Called before the teacher of an arm is trained, with the arm and the teacher's epochs.
        on_epoch: Called with the metrics of each epoch of what runs in this process: of all with one job
            at a time, else of the teachers.
        on_step: Called after each step with the steps done and the steps of the run; likewise.

    Returns:
        The failures; empty if all went well.

    Raises:
        BadInput: Something is wrong with a recipe or the folder; nothing was written.
        RunFailed: All runs failed, so that there is nothing to report.
    """
    points: list[SweptArm] = []
    before = {} if sweep is None else unswept(recipes, sweep)
    if sweep is not None:
        recipes, points = swept(recipes, sweep)
    arms = check_arms(recipes)
    places = {
        (r.name, seed): folder / arm / f"seed-{seed}" for arm, r in arms.items() for seed in range(seeds)
    }
    refuse_strangers(folder, places)
    if tuning is not None:
        check_tunable(arms.values())
        if sweep is not None and "optimizer.lr" in sweep.keys:
            raise BadInput("--sweep optimizer.lr and --tune-lr both say what the learning rate is: take one")
    teachers = provide_teachers(arms, folder, on_teacher=on_teacher, on_epoch=on_epoch, on_step=on_step)
    if tuning is not None:
        arms = tune(arms, tuning, folder, teachers, jobs=jobs, on_run=on_run, on_step=on_step)
    planned = [
        Job(arm, with_seed(recipe, seed), places[recipe.name, seed], teachers[arm])
        for seed in range(seeds)
        for arm, recipe in arms.items()
    ]
    for job in planned:
        check_folder(job.recipe, job.folder, resume=True)
    if sweep is not None:
        table = {"keys": sweep.keys, "arms": [point._asdict() for point in points], "unswept": before}
        write_json(folder / SWEEP, table)
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
