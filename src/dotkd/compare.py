"""``compare``: recipes x seeds into one folder, each run taken up where it stands, whatever others do."""

import hashlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from dotkd.errors import BadInput, RunFailed
from dotkd.recipe import Recipe, recipe_text
from dotkd.report import summarize, write_report
from dotkd.runs import RESULTS, find_runs, is_finished, write_json
from dotkd.train.epoch import OnStep
from dotkd.train.loop import OnEpoch, check_folder, train
from dotkd.train.teacher import check_recipe, provide_teacher, teacher_recipe

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
    arms = _arms(recipes)
    planned = [
        (arm, recipe.model_copy(update={"run": recipe.run.model_copy(update={"seed": seed})}), seed)
        for seed in range(seeds)
        for arm, recipe in arms.items()
    ]
    for arm, recipe, seed in planned:
        check_folder(recipe, folder / arm / f"seed-{seed}", resume=True)
    _refuse_strangers(
        folder, {(recipe.name, seed): folder / arm / f"seed-{seed}" for arm, recipe, seed in planned}
    )
    failures = []
    for arm, recipe, seed in planned:
        on_run(recipe.name, seed)
        try:
            home = _teacher_folder(recipe, folder)
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


def _arms(recipes: Sequence[Recipe]) -> dict[str, Recipe]:
    """Return the recipes by the folder of their name, after a look at all that could be wrong with them."""
    arms: dict[str, Recipe] = {}
    if not recipes:
        raise BadInput("no recipe is given: name at least one, such as quick/digits-kd")
    for recipe in recipes:
        arm = _slug(recipe.name)
        if arm in arms:
            both = f"{arms[arm].name!r} and {recipe.name!r}"
            raise BadInput(f"{both} would share the folder {arm!r}: give each arm a name of its own")
        if recipe.run.seed:
            raise BadInput(
                f"run.seed = {recipe.run.seed} in {recipe.name!r}: a comparison counts its seeds itself"
                " (--seeds)"
            )
        if arm in ("teacher", "teachers"):
            raise BadInput(f"an arm cannot be named {recipe.name!r}: that folder is for the teachers")
        arms[arm] = recipe
    for recipe in recipes:
        check_recipe(recipe)
    return arms


def _refuse_strangers(folder: Path, planned: dict[tuple[str, int], Path]) -> None:
    """Refuse a folder in which another run already has the name and seed of a planned one."""
    for run in find_runs(folder) if folder.is_dir() else []:
        place = planned.get((run.name, run.seed), run.path)
        if not run.is_teacher and place != run.path:
            raise BadInput(
                f"{run.path} is a run of {run.name!r}, seed {run.seed}, already: give another --output"
            )


def _teacher_folder(recipe: Recipe, folder: Path) -> Path:
    teacher = teacher_recipe(recipe)
    if teacher is None:
        return folder  # nothing is written there: a checkpoint, or no teacher at all
    mark = hashlib.sha256(recipe_text(teacher).encode()).hexdigest()[:8]
    return folder / "teachers" / f"{_slug(teacher.name)}-{mark}"


def _slug(name: str) -> str:
    return re.sub(r"[\W_]+", "-", name.lower()).strip("-") or "arm"
