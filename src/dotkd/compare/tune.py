"""``--tune-lr``: the learning rate of each arm, chosen on validation images with the same budget for all.

An untuned baseline flatters whatever is compared with it. So every arm tries the same rates with the same
seeds, which are none of those that are compared later, and no choice looks at a test image.
"""

import statistics
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from dotkd.compare.jobs import Ending, Job, Teachers, run_jobs
from dotkd.compare.sweep import slug, with_seed
from dotkd.errors import BadInput, Diverged, RunFailed
from dotkd.recipe import Recipe
from dotkd.runs import TRIALS, TUNING, write_json
from dotkd.train.loop import check_folder
from dotkd.train.step import OnStep

FIRST_SEED = 100


class Tuning(NamedTuple):
    """What each arm tries.

    Attributes:
        rates: Learning rates, all different.
        seeds: How many seeds for each, counted from 100.
    """

    rates: tuple[float, ...]
    seeds: int = 3

    def trials(self) -> list[tuple[float, int]]:
        """Return rate and seed of each trial."""
        return [(rate, FIRST_SEED + number) for rate in self.rates for number in range(self.seeds)]


def parse_rates(text: str) -> tuple[float, ...]:
    """Read learning rates as the command line has them.

    Args:
        text: Numbers, separated by commas.

    Returns:
        The rates.

    Raises:
        BadInput: They are no positive numbers, or two are alike in the six digits that name their trials.

    Example:
        >>> parse_rates("0.01,0.05")
        (0.01, 0.05)
    """
    try:
        rates = tuple(map(float, text.split(",")))
    except ValueError:
        rates = ()
    alike = len({_named(rate) for rate in rates}) < len(rates)
    if not rates or alike or not all(0 < rate < float("inf") for rate in rates):
        raise BadInput(
            f"{text!r}: wanted different learning rates above 0, separated by commas: 0.01,0.02,0.05"
        )
    return rates


def _named(rate: float) -> str:
    return f"lr-{slug(f'{rate:g}')}"


def check_tunable(arms: Iterable[Recipe]) -> None:
    """Refuse arms whose learning rates cannot be chosen, before anything is trained.

    Args:
        arms: The recipes.

    Raises:
        BadInput: An arm has no validation images.
    """
    for recipe in arms:
        if not recipe.data.validation:
            raise BadInput(
                f"{recipe.name}: learning rates are chosen on data.validation images, and there are none"
            )


def tune(
    arms: Mapping[str, Recipe],
    tuning: Tuning,
    folder: Path,
    teachers: Teachers,
    *,
    jobs: int = 1,
    on_run: Callable[[str, int], None] = lambda _arm, _seed: None,
    on_step: OnStep | None = None,
) -> dict[str, Recipe]:
    """Choose a learning rate for each arm by the mean validation accuracy of the last epoch.

    Equal accuracies are decided by the validation loss. A rate at which a run diverges is out. What is
    finished is not trained again. The trials go to ``folder/tuning``, their numbers to
    ``folder/tuning.json``.

    Args:
        arms: Folder name -> recipe, each of which passes :func:`check_tunable`.
        tuning: What each arm tries.
        folder: The folder of the comparison.
        teachers: Of the arms, from :func:`~dotkd.compare.jobs.provide_teachers`.
        jobs: How many trials at a time.
        on_run: Called before each trial with arm and seed.
        on_step: Called after each step with the steps done and the steps of the trial; with one job only.

    Returns:
        The recipes, each with its rate.

    Raises:
        RunFailed: An arm diverges at every rate.
    """
    trials = {
        (arm, rate, seed): folder / TRIALS / arm / _named(rate) / f"seed-{seed}"
        for arm in arms
        for rate, seed in tuning.trials()
    }
    planned = [
        Job(arm, _with(arms[arm], rate, seed), place, teachers[arm], test=False)
        for (arm, rate, seed), place in trials.items()
    ]
    for job in planned:
        check_folder(job.recipe, job.folder, resume=True)

    def begin(job: Job) -> None:
        on_run(f"{job.recipe.name}, lr {job.recipe.optimizer.lr:g}", job.recipe.run.seed)

    endings: dict[Path, Ending] = {}
    for job, ending in run_jobs(planned, jobs, on_start=begin, on_step=on_step):
        if isinstance(ending, Exception) and not isinstance(ending, Diverged):
            raise ending
        endings[job.folder] = ending
    table: dict[str, Any] = {}
    chosen: dict[str, Recipe] = {}
    for arm, recipe in arms.items():
        found: dict[float, list[tuple[float, float]]] = {}
        for rate, seed in tuning.trials():
            ending = endings[trials[arm, rate, seed]]
            numbers = found.setdefault(rate, [])
            if not isinstance(ending, Exception):
                last = ending.last  # with a loss: check_tunable wants validation images
                assert last.validation_accuracy is not None
                assert last.validation_loss is not None
                numbers.append((last.validation_accuracy, last.validation_loss))
        whole = {rate: numbers for rate, numbers in found.items() if len(numbers) == tuning.seeds}
        if not whole:
            raise RunFailed(f"{recipe.name} diverged at every one of the rates {list(tuning.rates)}")
        best = max(whole, key=lambda rate: _merit(whole[rate]))
        table[recipe.name] = {
            "chosen": best,
            "validation_accuracy": {f"{rate:g}": [a for a, _ in numbers] for rate, numbers in found.items()},
        }
        chosen[arm] = _with(recipe, best, recipe.run.seed)
    seeds = sorted({seed for _, seed in tuning.trials()})
    write_json(folder / TUNING, {"rates": list(tuning.rates), "seeds": seeds, "arms": table})
    return chosen


def _merit(numbers: list[tuple[float, float]]) -> tuple[float, float]:
    return statistics.fmean(a for a, _ in numbers), -statistics.fmean(loss for _, loss in numbers)


def _with(recipe: Recipe, rate: float, seed: int) -> Recipe:
    optimizer = recipe.optimizer.model_copy(update={"lr": rate})
    return with_seed(recipe.model_copy(update={"optimizer": optimizer}), seed)
