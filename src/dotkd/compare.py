"""``compare``: recipes x seeds into one folder, each run taken up where it stands, whatever others do."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from dotkd.arms import Sweep, SweptArm, check_arms, refuse_strangers, swept, teacher_folder
from dotkd.errors import RunFailed
from dotkd.recipe import Recipe
from dotkd.report import summarize, write_report
from dotkd.runs import RESULTS, SWEEP, find_runs, is_finished, write_json
from dotkd.train.epoch import OnStep
from dotkd.train.loop import OnEpoch, check_folder, train
from dotkd.train.teacher import provide_teacher
from dotkd.tune import Tuning, tune

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
    on_run: Callable[[str, int], None] = lambda _arm, _seed: None,
    on_teacher: Callable[[str], None] = lambda _arm: None,
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
        on_run: Called before each run with arm and seed.
        on_teacher: Called before the teacher of an arm is trained, with the arm.
        on_epoch: Called with the metrics of each epoch.
        on_step: Called after each step with the steps done and the steps of the run.

    Returns:
        The failures; empty if all went well.

    Raises:
        BadInput: Something is wrong with a recipe or the folder; nothing was written.
        RunFailed: All runs failed, so that there is nothing to report.
    """
    points: list[SweptArm] = []
    if sweep is not None:
        recipes, points = swept(recipes, sweep)
    arms = check_arms(recipes)
    places = {
        (r.name, seed): folder / arm / f"seed-{seed}" for arm, r in arms.items() for seed in range(seeds)
    }
    refuse_strangers(folder, places)
    if tuning is not None:
        arms = tune(arms, tuning, folder, on_run=on_run, on_teacher=on_teacher, on_step=on_step)
    planned = [
        (arm, recipe.model_copy(update={"run": recipe.run.model_copy(update={"seed": seed})}), seed)
        for seed in range(seeds)
        for arm, recipe in arms.items()
    ]
    for arm, recipe, seed in planned:
        check_folder(recipe, folder / arm / f"seed-{seed}", resume=True)
    if sweep is not None:
        write_json(folder / SWEEP, {"keys": sweep.keys, "arms": [point._asdict() for point in points]})
    failures = []
    for arm, recipe, seed in planned:
        on_run(recipe.name, seed)
        try:
            home = teacher_folder(recipe, folder)
            if home != folder and not is_finished(home):
                on_teacher(recipe.name)
            teacher = provide_teacher(recipe, home, on_epoch=on_epoch, on_step=on_step)
            train(
                recipe,
                folder / arm / f"seed-{seed}",
                teacher=teacher,
                resume=True,
                on_epoch=on_epoch,
                on_step=on_step,
            )
        except Exception as error:  # whatever it was, the other runs go on and the end says so
            failures.append(Failure(recipe.name, seed, error))
    if len(failures) == len(planned):
        raise RunFailed(f"all {len(planned)} runs failed, the first with {failures[0].reason}") from failures[
            0
        ].error
    write_json(folder / RESULTS, summarize(find_runs(folder)).to_json())
    write_report(folder)
    return failures
