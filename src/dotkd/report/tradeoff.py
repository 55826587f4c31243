"""The numbers of the trade-off: where runs end on the plane of the two losses, and who lies below whom.

A point is (distillation loss, task loss), both raw and lower is better. One plane holds the arms that
have the same distillation loss: the method, its options and its teacher; weights may differ. What holds of
points whoever they belong to is :mod:`dotkd.analysis.tradeoff`; here belongs what knows arms and seeds.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from dotkd.analysis.tradeoff import Point, dominates, front_position, lower_counts
from dotkd.report.conditions import losses_of
from dotkd.report.inputs import Sweep
from dotkd.report.statistics import Summary, at_end
from dotkd.report.sweep import Series
from dotkd.runs import RunRecord

COLUMNS = {
    "validation": ("validation_distill_loss", "validation_loss"),
    "training": ("train_distill_loss", "train_task_loss"),
}
WEIGHTS = ("method.task_weight", "method.distill_weight")

Groups = Mapping[str, Sequence[RunRecord]]


@dataclass(frozen=True)
class Plane:
    """Arms with one distillation loss: ``ends`` maps arm -> seed -> where the run ended.

    ``split`` is "validation" where every run has both losses on validation images, else "training".
    """

    method: str
    split: str
    ends: Mapping[str, Mapping[int, Point]]


@dataclass(frozen=True)
class AgainstFront:
    """Where a DOT arm ends, seed by seed, beside the front that another weighting of a base reaches.

    ``seeds`` are those that all arms of the front have too. For ``not_dominated`` of them no arm of the
    front is as good in both losses and better in one; for ``below`` of them the point lies below the
    line that joins the front; for ``beyond`` it is not dominated, but past an end of that line.
    """

    arm: str
    base: str
    arms: int
    seeds: tuple[int, ...]
    not_dominated: int
    below: int
    beyond: int


@dataclass(frozen=True)
class BothLower:
    """For how many of the seeds that both arms have ``arm`` ends lower in a loss, and lower in both."""

    arm: str
    against: str
    seeds: int
    task: int
    distill: int
    both: int


@dataclass(frozen=True)
class Dominance:
    """Which of the ``others`` of a plane an arm dominates with every seed that both have, and vice versa.

    ``alone`` counts, out of ``seeds``, the seeds with which no other arm of the plane dominates it.
    """

    arm: str
    seeds: int
    alone: int
    others: int
    over: tuple[str, ...]
    under: tuple[str, ...]


def planes(groups: Groups) -> tuple[Plane, ...]:
    """Sort the distilled arms by their distillation loss, and find where their runs end.

    Args:
        groups: name of an arm -> its runs.

    Returns:
        A plane for each distillation loss, in the order of its first arm.
    """
    alike: list[tuple[object, list[str]]] = []
    for name, runs in groups.items():
        if not (runs[0].recipe.get("method") and runs[0].recipe.get("teacher")):
            continue
        same = next((names for losses, names in alike if losses == losses_of(runs[0])), None)
        if same is None:
            alike.append((losses_of(runs[0]), [name]))
        else:
            same.append(name)
    found = []
    for _, names in alike:
        for split, columns in COLUMNS.items():
            ends = {name: _ends(groups[name], columns) for name in names}
            whole = all(len(ends[name]) == len(groups[name]) for name in names)
            if whole or (split == "training" and any(ends.values())):
                method = str(groups[names[0]][0].recipe["method"]["name"])
                found.append(Plane(method, split, {name: at for name, at in ends.items() if at}))
                break
    return tuple(found)


def _ends(runs: Iterable[RunRecord], columns: tuple[str, str]) -> dict[int, Point]:
    distill, task = map(at_end, columns)
    pairs = {run.seed: (distill(run), task(run)) for run in runs}
    return {seed: (x, y) for seed, (x, y) in pairs.items() if x is not None and y is not None}


def is_reweighting(sweep: Sweep | None) -> bool:
    """Tell whether a sweep varies how much the two losses count, and nothing else."""
    return sweep is not None and set(sweep.keys) <= set(WEIGHTS)


def fronts(plane: Plane, sweep: Sweep | None, every: Sequence[Series], summary: Summary) -> list[Series]:
    """Find what reweighting reaches: swept arms with plain momentum.

    Args:
        plane: the arms of one distillation loss.
        sweep: what was swept, if anything was.
        every: the arms of the sweep.
        summary: tells the arms' kinds.

    Returns:
        The series that are fronts; none if the weights were not swept, or less than two arms have an end.
    """
    kinds = {arm.name: arm.kind for arm in summary.arms}
    return [
        series
        for series in every
        if is_reweighting(sweep)
        and all(kinds[name] == "sgd" for name in series.names)
        and len([name for name in series.names if name in plane.ends]) > 1
    ]


def against_fronts(plane: Plane, found: Sequence[Series], summary: Summary) -> list[AgainstFront]:
    """Count, for each DOT arm and each front, for how many seeds it is not dominated, and below the front.

    Args:
        plane: the arms of one distillation loss.
        found: the fronts on it.
        summary: tells the arms' kinds.

    Returns:
        The counts.
    """
    dots = [arm.name for arm in summary.arms if arm.kind == "dot" and arm.name in plane.ends]
    return [_against(plane, dot, series) for series in found for dot in dots]


def _against(plane: Plane, dot: str, series: Series) -> AgainstFront:
    others = [plane.ends[name] for name in series.names if name in plane.ends]
    ours = plane.ends[dot]
    seeds = tuple(seed for seed in ours if all(seed in ends for ends in others))
    found = [front_position(ours[seed], [ends[seed] for ends in others]) for seed in seeds]
    return AgainstFront(
        arm=dot,
        base=series.base,
        arms=len(others),
        seeds=seeds,
        not_dominated=sum(place != "dominated" for place in found),
        below=found.count("below"),
        beyond=found.count("beyond"),
    )


def dominance(plane: Plane) -> list[Dominance]:
    """Say, for each arm of a plane, which others it dominates and which dominate it.

    Args:
        plane: the arms of one distillation loss.

    Returns:
        A row for each arm; none if it is the only one.
    """
    ends, found = plane.ends, []
    for arm, ours in ends.items() if len(ends) > 1 else ():
        others = {name: theirs for name, theirs in ends.items() if name != arm}
        alone = [
            seed
            for seed, at in ours.items()
            if not any(dominates(theirs[seed], at) for theirs in others.values() if seed in theirs)
        ]
        over = tuple(name for name, theirs in others.items() if _always(ours, theirs))
        under = tuple(name for name, theirs in others.items() if _always(theirs, ours))
        found.append(Dominance(arm, len(ours), len(alone), len(others), over, under))
    return found


def _always(ours: Mapping[int, Point], theirs: Mapping[int, Point]) -> bool:
    shared = [seed for seed in ours if seed in theirs]
    return bool(shared) and all(dominates(ours[seed], theirs[seed]) for seed in shared)


def both_lower(plane: Plane, pairs: Iterable[tuple[str, str]]) -> list[BothLower]:
    """Count, for pairs of arms, for how many seeds the first ends lower in a loss, and in both.

    Args:
        plane: the arms of one distillation loss.
        pairs: names of two arms; a pair that is not on the plane is left out.

    Returns:
        The counts, where there is a common seed.
    """
    found = []
    for arm, other in pairs:
        ours, theirs = plane.ends.get(arm, {}), plane.ends.get(other, {})
        seeds = [seed for seed in ours if seed in theirs]
        if seeds:
            lower = lower_counts([ours[seed] for seed in seeds], [theirs[seed] for seed in seeds])
            found.append(BothLower(arm, other, lower.pairs, lower.second, lower.first, lower.both))
    return found
