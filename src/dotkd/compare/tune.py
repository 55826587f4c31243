"""``--tune-lr``: a learning rate for each arm, chosen on validation images with the same budget for all arms.

Every arm tries the same rates with the same seeds. These seeds are not compared later, and trials never read
the test images.
"""

import statistics
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

from dotkd.compare.arms import slug, with_seed
from dotkd.compare.jobs import Ending, Job, Teachers, run_jobs
from dotkd.errors import BadInput, Diverged, RunFailed
from dotkd.recipe import Recipe
from dotkd.records import TunedArm, Tuning
from dotkd.runs import TRIALS, TUNING, write_record
from dotkd.train.loop import check_folder
from dotkd.train.step import OnStep

FIRST_SEED = 100
TUNE_SEEDS = 3
"""Seeds of each trial, by default."""


class RateSearch(NamedTuple):
    """Learning rates that each arm tries.

    Attributes:
        rates: The rates, all different.
        seeds: Number of seeds for each rate, counted from 100.
    """

    rates: tuple[float, ...]
    seeds: int = TUNE_SEEDS

    def trials(self) -> list[tuple[float, int]]:
        """Return (rate, seed) of each trial of an arm."""
        return [(rate, FIRST_SEED + number) for rate in self.rates for number in range(self.seeds)]


def parse_rates(text: str) -> tuple[float, ...]:
    """Parse the ``--tune-lr`` option.

    Args:
        text: Numbers > 0, separated by commas, different in their first six digits (the names of the trials).

    Returns:
        The rates.

    Raises:
        BadInput: The text has another form.

    Example:
        >>> parse_rates("0.01,0.05")
        (0.01, 0.05)
    """
    try:
        rates = tuple(float(word) for word in text.split(","))
    except ValueError:
        rates = ()
    repeated = len({_folder_name(rate) for rate in rates}) < len(rates)
    if not rates or repeated or not all(0 < rate < float("inf") for rate in rates):
        raise BadInput(f"--tune-lr {text!r}: must be different learning rates > 0, such as 0.01,0.02,0.05")
    return rates


def tune(
    arms: Mapping[str, Recipe],
    search: RateSearch,
    folder: Path,
    teachers: Teachers,
    *,
    jobs: int = 1,
    on_run: Callable[[str, int], None] = lambda _arm, _seed: None,
    on_step: OnStep | None = None,
) -> dict[str, Recipe]:
    """Choose a learning rate for each arm by the mean validation accuracy after the last epoch.

    The validation loss decides between equal accuracies. A rate at which a run diverges is not chosen.
    Finished trials are not repeated. Trials go to ``folder/tuning``, their numbers to ``folder/tuning.json``.

    Args:
        arms: Folder name -> recipe; each with validation images.
        search: Rates and seeds.
        folder: The folder of the comparison.
        teachers: Folder name -> teacher, see :func:`~dotkd.compare.jobs.provide_teachers`.
        jobs: Number of trials at a time.
        on_run: Called before each trial with arm and seed.
        on_step: Called after each step with steps done and steps of the trial; only with one job.

    Returns:
        Folder name -> recipe with its chosen rate.

    Raises:
        RunFailed: An arm diverges at every rate.
    """
    planned = {
        (arm, rate, seed): Job(
            arm,
            _with_rate(arms[arm], rate, seed),
            folder / TRIALS / arm / _folder_name(rate) / f"seed-{seed}",
            teachers[arm],
            test=False,
        )
        for arm in arms
        for rate, seed in search.trials()
    }
    for job in planned.values():
        check_folder(job.recipe, job.folder, resume=True)

    def begin(job: Job) -> None:
        on_run(f"{job.recipe.name}, lr {job.recipe.optimizer.lr:g}", job.recipe.run.seed)

    endings: dict[Path, Ending] = {}
    for job, ending in run_jobs(list(planned.values()), jobs, on_start=begin, on_step=on_step):
        if isinstance(ending, Exception) and not isinstance(ending, Diverged):
            raise ending
        endings[job.folder] = ending
    tuned: dict[str, TunedArm] = {}
    chosen: dict[str, Recipe] = {}
    for arm, recipe in arms.items():
        scores: dict[float, list[tuple[float, float]]] = {rate: [] for rate in search.rates}
        for rate, seed in search.trials():
            ending = endings[planned[arm, rate, seed].folder]
            if not isinstance(ending, Exception):
                accuracy, loss = ending.last.validation_accuracy, ending.last.validation_loss
                assert accuracy is not None  # check_arms
                assert loss is not None
                scores[rate].append((accuracy, loss))
        complete = {rate: found for rate, found in scores.items() if len(found) == search.seeds}
        if not complete:
            raise RunFailed(f"{recipe.name} diverged at every learning rate of {list(search.rates)}")
        best = max(complete, key=lambda rate: _score(complete[rate]))
        accuracies: dict[str, tuple[float | None, ...]] = {
            f"{rate:g}": tuple(a for a, _ in found) for rate, found in scores.items()
        }
        tuned[recipe.name] = TunedArm(chosen=best, validation_accuracy=accuracies)
        chosen[arm] = _with_rate(recipe, best, recipe.run.seed)
    seeds = tuple(sorted({seed for _, seed in search.trials()}))
    write_record(folder / TUNING, Tuning(rates=search.rates, seeds=seeds, arms=tuned))
    return chosen


def _score(found: list[tuple[float, float]]) -> tuple[float, float]:
    return statistics.fmean(a for a, _ in found), -statistics.fmean(loss for _, loss in found)


def _with_rate(recipe: Recipe, rate: float, seed: int) -> Recipe:
    optimizer = recipe.optimizer.model_copy(update={"lr": rate})
    return with_seed(recipe.model_copy(update={"optimizer": optimizer}), seed)


def _folder_name(rate: float) -> str:
    return f"lr-{slug(f'{rate:g}')}"
