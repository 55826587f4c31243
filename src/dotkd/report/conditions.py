"""What was unequal between runs that a report compares: in data, teacher, schedule and settings.

Here belongs everything that is read from recipes and environments; numbers belong to ``statistics``.
"""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from itertools import combinations
from typing import Any

from dotkd.runs import RunRecord

ORDER = ("plain", "sgd", "dot", "control")
WEIGHTS = ("task_weight", "distill_weight", "warmup")
"""Options of a method that leave its raw losses as they are: they only say how much each counts."""
_TAUGHT = ("label_noise", "train_images", "validation", "seed")
_MANY = 3

Groups = Mapping[str, Sequence[RunRecord]]


def kind_of(run: RunRecord) -> str:
    """Tell "plain" from the optimizer's name of a distilled run."""
    distils = run.recipe.get("method") and run.recipe.get("teacher")
    return str(run.recipe["optimizer"]["name"]) if distils else "plain"


def without_seed(run: RunRecord) -> dict[str, Any]:
    """Give the recipe without what may differ from seed to seed."""
    return {
        key: {inner: value[inner] for inner in value if inner != "seed"} if isinstance(value, dict) else value
        for key, value in run.recipe.items()
    }


def losses_of(run: RunRecord) -> tuple[Any, ...]:
    """Give what decides which distillation loss a run has: runs with the same may be put on one scale.

    Args:
        run: a distilled run.

    Returns:
        The method, its options but the weights, and the teacher.
    """
    method = {key: value for key, value in run.recipe["method"].items() if key not in WEIGHTS}
    return (method, run.recipe.get("teacher"), run.environment.get("teacher_checksum"))


def partners(groups: Groups, arms: Sequence[str], others: Sequence[str]) -> list[tuple[str, str]]:
    """Find what each arm is to be compared with.

    Args:
        groups: name of an arm -> its runs.
        arms: names of arms.
        others: names of the candidates.

    Returns:
        Each arm with the candidate that has its method and the nearest settings, the same ``delta`` before
        all others: it is what a control matches. None without such a one.
    """

    def far(mine: Mapping[str, Any], other: str) -> tuple[bool, int]:
        theirs = groups[other][0].recipe
        differ = "delta" in theirs["optimizer"] and theirs["optimizer"]["delta"] != mine["optimizer"].get(
            "delta"
        )
        return differ, len(_settings(mine, theirs))

    pairs = []
    for name in arms:
        mine = groups[name][0].recipe
        same = [
            other for other in others if groups[other][0].recipe["method"]["name"] == mine["method"]["name"]
        ]
        if same:
            pairs.append((name, min(same, key=partial(far, mine))))
    return pairs


def notes(groups: Groups, pairs: Sequence[tuple[str, str]]) -> Iterator[str]:
    """Say what was unequal within arms and between them.

    Args:
        groups: name of an arm -> its runs.
        pairs: arms that should differ in the kind of optimizer only.

    Yields:
        Sentences.
    """
    single = [name for name, runs in groups.items() if len(runs) == 1]
    for name, runs in groups.items():
        if any(without_seed(run) != without_seed(runs[0]) for run in runs):
            yield f"The runs of {name} do not all have the same recipe: its mean mixes them."
        if len({run.environment.get("teacher_checksum") for run in runs}) > 1:
            yield f"The runs of {name} do not all have the same teacher: its mean mixes them."
        if name in single and len(single) <= _MANY:
            yield f"{name} has one seed only: no interval."
    if len(single) > _MANY:
        who = "All" if len(single) == len(groups) else f"{len(single)} of"
        yield f"{who} {len(groups)} arms have one seed only: no interval."
    for first, name in combinations(groups, 2):
        found = _conditions(groups[first], groups[name])
        if found:
            yield f"{first} and {name} were not run under equal conditions: {', '.join(found)}."
    for name, other in pairs:
        found = _settings(groups[name][0].recipe, groups[other][0].recipe)
        if found:
            yield f"{name} and {other} differ in more than the kind of optimizer: {', '.join(found)}."


def teacher_notes(teachers: Sequence[RunRecord], groups: Groups) -> Iterator[str]:
    """Say where a teacher had other data than the students it taught.

    Args:
        teachers: the teachers' runs.
        groups: name of an arm -> its runs.

    Yields:
        Sentences.
    """
    students = next(iter(groups.values()))[0].recipe["data"]
    for teacher in teachers:
        theirs = {key: value for key, value in teacher.recipe["data"].items() if key in _TAUGHT}
        found = _unequal("data", theirs, {key: students.get(key) for key in theirs})
        if found:
            yield f"{teacher.name} and its students had different data: {', '.join(found)}."


def _settings(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """Settings of method and optimizer that differ, save what makes them different optimizers."""
    optimizers = {key: one["optimizer"][key] for key in one["optimizer"] if key in other["optimizer"]}
    return [
        *_unequal("method", one.get("method", {}), other.get("method", {})),
        *_unequal("optimizer", optimizers, {key: other["optimizer"][key] for key in optimizers}, {"name"}),
    ]


def _unequal(
    table: str, one: Mapping[str, Any], other: Mapping[str, Any], but: frozenset[str] | set[str] = frozenset()
) -> list[str]:
    keys = [key for key in {**one, **other} if key not in but and one.get(key) != other.get(key)]
    return [f"{table}.{key} ({one.get(key, 'absent')} and {other.get(key, 'absent')})" for key in keys]


def _conditions(one: Sequence[RunRecord], other: Sequence[RunRecord]) -> list[str]:
    """What differs in data, teacher, student, schedule and run; the data's seed only between equal seeds."""
    theirs = {run.seed: run for run in other}
    shared = [(run, theirs[run.seed]) for run in one if run.seed in theirs]
    but = {"seed"} if not shared else set()
    found: dict[str, None] = {}
    for mine, its in shared or [(one[0], other[0])]:
        for table in ("data", "student", "schedule"):
            found.update(
                dict.fromkeys(_unequal(table, mine.recipe.get(table, {}), its.recipe.get(table, {}), but))
            )
        found.update(dict.fromkeys(_unequal("run", mine.recipe["run"], its.recipe["run"], {"seed"})))
        if "method" in mine.recipe and "method" in its.recipe:
            ours, other_ones = (run.environment.get("teacher_checksum") for run in (mine, its))
            if ours != other_ones:
                found[f"the teacher ({ours} and {other_ones})"] = None
    return list(found)
