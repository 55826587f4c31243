"""The part ``interpolation``: the losses on the straight line between two students."""

from pathlib import Path
from typing import Any

from torch import Tensor, nn

from dotkd.analysis import interpolation as along_line
from dotkd.analyze.subject import mean_losses, plain
from dotkd.data import Images
from dotkd.recipe import load_recipe
from dotkd.runs import LAST, RECIPE
from dotkd.train.session import Session, read_checkpoint

_STEPS = 16  # a power of two: each step and what it leaves to 1 are exact


def interpolation(session: Session, data: Images, reference: Path) -> dict[str, Any]:
    """Losses and accuracy from the student of another run, at 0, to this one's, at 1.

    The statistics of batch norm are interpolated like the weights, so that both ends are the students
    themselves. Everything but the student is this run's all along: its teacher, its method and what that
    has learned.

    Args:
        session: This run at its end.
        data: The images.
        reference: Folder of the other run.

    Returns:
        Arm and seed of the other run, with ``steps``, ``task``, ``distill``, ``total`` and ``accuracy``; or
        with ``reason``, why there is no such line.
    """
    recipe = load_recipe(reference / RECIPE)
    against = {"arm": recipe.name, "seed": recipe.run.seed}
    ours = session.objective.student.state_dict(keep_vars=True)
    state = read_checkpoint(reference / LAST)["objective"]
    theirs = {name: state[f"student.{name}"] for name in ours if f"student.{name}" in state}
    extra = sum(name.startswith("student.") for name in state) - len(theirs)
    if reason := _unlike(ours, theirs, extra):
        return {**against, "reason": reason}
    live = {id(value): name for name, value in ours.items()}.values()  # a tensor may go by several names
    moved = [name for name in live if isinstance(ours[name], nn.Parameter)]
    kept = [name for name in live if name not in moved]
    steps = [step / _STEPS for step in range(_STEPS + 1)]
    found = along_line(
        lambda: mean_losses(session, data, accuracy=True),
        [ours[name] for name in moved],
        [theirs[name].to(session.device) for name in moved],
        [1 - step for step in steps],
        buffers_a=[ours[name] for name in kept],
        buffers_b=[theirs[name].to(session.device) for name in kept],
    )
    return {**against, "steps": steps, **{name: plain(values) for name, values in found.items()}}


def _unlike(ours: dict[str, Tensor], theirs: dict[str, Tensor], extra: int) -> str:
    """Say why there is no straight line between two students; nothing if there is one."""
    if missing := next((name for name in ours if name not in theirs), None):
        return f"the students differ: only one of them has {missing}"
    if extra:
        return f"the students differ: one of them has {extra} more tensor{'s' * (extra > 1)}"
    for name, value in ours.items():
        if value.shape != theirs[name].shape:
            shapes = f"{list(theirs[name].shape)} and {list(value.shape)}"
            return f"the students differ: {name} is {shapes}"
    return ""
