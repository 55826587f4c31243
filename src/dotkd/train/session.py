"""All that changes while a run goes on, in one place, and how it is saved and taken up again.

A session is the objective, the optimizer, the random streams and the best epoch so far. What a checkpoint
does not hold is made anew from the recipe: the teacher, the data, the schedule.
"""

import io
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dotkd.build import build_data, build_device, build_distiller, build_method, build_optimizer
from dotkd.data import Images, Splits
from dotkd.data.augment import Augmentation
from dotkd.distiller import Distiller
from dotkd.errors import BadInput
from dotkd.methods import Method, TaskMethod
from dotkd.methods.base import ONE_IMAGE
from dotkd.networks import build_student, lay_out
from dotkd.recipe import Recipe, differing_keys, recipe_text
from dotkd.runs import BEST, LAST, write_atomically
from dotkd.seeding import random_stream
from dotkd.train.compiled import Compiled
from dotkd.train.frozen import settle_teacher
from dotkd.train.run_cache import check_teacher_cache, open_teacher_cache
from dotkd.train.teacher_cache import TeacherCache

_PROBE, _EXAMPLE = 256, 16  # images
_BEST = ("epoch", "validation_accuracy", "validation_loss")


@dataclass
class Session:
    """A run in progress.

    Attributes:
        recipe: What it follows.
        data: The splits, on the device.
        device: Where the networks are.
        objective: Student, teacher and method.
        optimizer: Updates ``params``.
        params: The student's parameters and the method's.
        order: Draws the order of the images.
        views: Draws the augmentation.
        epoch: Epochs done.
        best: Epoch and validation accuracy of the best epoch so far; None without a validation split.
        teacher_cache: Remembers what the teacher says; None where it is off or there is no teacher.
        compiled: The compiled step; None where there is none.
        last_update: What the last step of the last epoch added to each of ``params``; None before it.
    """

    recipe: Recipe
    data: Splits[Images]
    device: torch.device
    objective: Distiller
    optimizer: torch.optim.Optimizer
    params: list[nn.Parameter]
    order: torch.Generator
    views: torch.Generator
    epoch: int = 0
    best: dict[str, Any] | None = None
    teacher_cache: TeacherCache | None = None
    last_update: list[Tensor] | None = None
    compiled: Compiled | None = None

    @property
    def deployable(self) -> nn.Module:
        """What is to be measured and shipped: the student, or what its method makes of it."""
        return self.objective.deployable()

    @cached_property
    def augmentation(self) -> Augmentation:
        """What training images go through."""
        return Augmentation(self.recipe.data.augment)


def start(recipe: Recipe, teacher: nn.Module | None) -> Session:
    """Make a session at its beginning.

    Seeds torch's global generator too, which dropout draws from: a stream of its own.

    Args:
        recipe: The recipe.
        teacher: Its teacher, or None; it becomes the run's own, see
            :func:`dotkd.train.frozen.settle_teacher`.

    Returns:
        The session.
    """
    device = build_device(recipe.run.device)
    parts = build_data(recipe.data)
    held_out = None if parts.validation is None else parts.validation.to(device)
    data = Splits(parts.train.to(device), held_out, parts.test.to(device))
    objective = build_objective(recipe, teacher, data.train, device)
    cache = open_teacher_cache(recipe, objective, data.train, device)
    params = [p for p in objective.parameters() if p.requires_grad]
    torch.manual_seed(random_stream(recipe.run.seed, "forward").initial_seed())
    return Session(
        recipe,
        data,
        device,
        objective,
        build_optimizer(recipe.optimizer, params),
        params,
        order=random_stream(recipe.run.seed, "order"),
        views=random_stream(recipe.run.seed, "augment"),
        teacher_cache=cache,
    )


def build_objective(
    recipe: Recipe, teacher: nn.Module | None, data: Images, device: torch.device
) -> Distiller:
    """Make what a run differentiates: student, teacher and method, or the student alone.

    Args:
        recipe: The recipe.
        teacher: Its teacher, or None; it becomes the run's own.
        data: The training images; learned parts find their shapes on a few of them.
        device: Where the networks go.

    Returns:
        The objective, on the device.

    Raises:
        BadInput: Student, teacher, method and augmentation do not fit together.
    """
    student, method = build_student(recipe).to(device), build_method(recipe)
    whole = isinstance(method, TaskMethod) or (method is not None and ONE_IMAGE.intersection(method.needs))
    if whole and Augmentation(recipe.data.augment).mixes_labels:
        raise BadInput(
            f"data.augment: {recipe.data.augment[-1]!r} mixes images, and {type(method).__name__} reads the "
            "class or the number of each one: leave that step out, or take another method"
        )
    check_teacher_cache(recipe, method, data)
    if teacher is None or not isinstance(method, Method):
        assert not isinstance(method, Method)
        return Distiller(student, None, method)
    example, labels = _shown(method, data, recipe, device)
    distiller = build_distiller(recipe, student, teacher.to(device), method, example=example, labels=labels)
    distiller.to(device)
    settle_teacher(distiller, recipe)
    lay_out(method, channels_last=recipe.run.channels_last)
    return distiller


def _shown(
    method: Method, data: Images, recipe: Recipe, device: torch.device
) -> tuple[Tensor | None, Tensor | None]:
    """What a method with learned parts sees of the training images: a few of them, and the class of each."""
    if not method.learns:
        return None, None
    positions = probe_positions(data, recipe.data.seed)[:_EXAMPLE]
    labels = torch.full((int(data.index.max()) + 1,), -1)
    labels[data.index.cpu()] = data.labels.cpu()
    return data.batch(positions).images.to(device), labels


def probe_positions(data: Images, seed: int) -> Tensor:
    """Choose the fixed images on which gradients are compared and learned parts find their shapes.

    Args:
        data: Where from.
        seed: The data's.

    Returns:
        [256] or fewer positions.
    """
    return torch.randperm(len(data), generator=random_stream(seed, "data.probe"))[:_PROBE]


def save(session: Session, folder: Path, *, is_best: bool) -> None:
    """Write the checkpoint of the last epoch, and of the best one where this is it."""
    best = {"epoch": session.epoch, "objective": _contiguous(session.objective.state_dict())}
    if is_best:
        _write(folder / BEST, best)
    last = {
        **best,
        "recipe": recipe_text(session.recipe),
        "optimizer": _contiguous(session.optimizer.state_dict()),
        "best": session.best,
        "order": session.order.get_state(),
        "views": session.views.get_state(),
        "forward": torch.get_rng_state(),
        "forward_cuda": torch.cuda.get_rng_state(session.device) if session.device.type == "cuda" else None,
    }
    _write(folder / LAST, last)


def _contiguous(state: Any) -> Any:
    """Have the tensors of a state in the order of their shape, however they lie in this run."""
    if isinstance(state, dict):
        return {key: _contiguous(value) for key, value in state.items()}
    return state.contiguous() if isinstance(state, Tensor) else state


def _write(path: Path, state: dict[str, Any]) -> None:
    # By way of bytes: torch's own writer does not say that a disk is full.
    content = io.BytesIO()
    torch.save(state, content)

    def write(beside: Path) -> None:
        beside.write_bytes(content.getbuffer())

    write_atomically(path, write)


def restore(session: Session, folder: Path) -> None:
    """Bring a session to where its last checkpoint was written.

    Raises:
        BadInput: The checkpoint is broken or another run's.
    """
    state = read_checkpoint(folder / LAST)
    if differing_keys(str(state.get("recipe")), recipe_text(session.recipe)):
        raise BadInput(f"{folder / LAST}: not a checkpoint of this run: it is of another recipe")
    try:
        session.objective.load_state_dict(state["objective"])
        session.optimizer.load_state_dict(state["optimizer"])
        for param, buffers in session.optimizer.state.items():
            for key, value in buffers.items():  # in the layout of the weight, as fused kernels want them
                if isinstance(value, Tensor) and value.shape == param.shape:
                    buffers[key] = torch.empty_like(param).copy_(value)
        session.order.set_state(state["order"])
        session.views.set_state(state["views"])
        torch.set_rng_state(state["forward"])
        if state["forward_cuda"] is not None and session.device.type == "cuda":
            torch.cuda.set_rng_state(state["forward_cuda"], session.device)
        session.epoch = int(state["epoch"])
        session.best = None if state["best"] is None else {key: state["best"][key] for key in _BEST}
    except Exception as error:  # whatever a broken file leads to
        raise BadInput(f"{folder / LAST}: not a checkpoint of this run: {_first_line(error)}") from None


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint as data, never as code.

    Args:
        path: The file.

    Returns:
        What was saved.

    Raises:
        BadInput: It is missing, broken, or holds anything but tensors and plain values.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch, zipfile and pickle each have errors of their own
        raise BadInput(f"{path}: not a checkpoint of a run: {_first_line(error)}") from None
    if not isinstance(state, dict) or "objective" not in state:
        raise BadInput(f"{path}: not a checkpoint of a run: it holds a {type(state).__name__}")
    return state


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0][:200] or type(error).__name__
