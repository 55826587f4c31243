"""The state of a run in one place, with its checkpoints: saved after each epoch, restored to the same bits.

A checkpoint holds student, method, optimizer, random streams and the best epoch so far. Teacher, data and
schedule are built again from the recipe.
"""

import io
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dotkd.data import DataFacts, Images, Splits
from dotkd.data.augment import Augmentation
from dotkd.distiller import Distiller
from dotkd.errors import BadInput, first_line
from dotkd.recipe import Recipe, differing_keys, recipe_text
from dotkd.records import EpochScores, TeacherAccuracy
from dotkd.runs import BEST, LAST, write_atomically
from dotkd.train.compiled import Compiled
from dotkd.train.teacher_cache import TeacherCache


@dataclass
class RunState:
    """A run in progress.

    Attributes:
        recipe: The recipe.
        data: The splits, on the device.
        facts: Of the images.
        device: Device of the networks.
        distiller: Student, teacher and method.
        optimizer: Updates ``params``.
        params: The student's parameters and the method's.
        order: Draws the order of the images.
        views: Draws the augmentation.
        files: Files that the run started from, ``"teacher"`` and ``"start"``.
        gains: Factors on task and distillation loss of a control that is built as SGD; None: none.
        epoch: Epochs done.
        best: Best epoch so far by validation accuracy; None without a validation split.
        teacher_cache: Remembers the teacher's outputs; None where it is off or there is no teacher.
        compiled: The compiled step; None where it is not compiled.
        last_update: Change of each of ``params`` in the last step of the last epoch; None before it.
        teacher_accuracy: Of the teacher before the first epoch; None where it was not asked.
    """

    recipe: Recipe
    data: Splits[Images]
    facts: DataFacts
    device: torch.device
    distiller: Distiller
    optimizer: torch.optim.Optimizer
    params: list[nn.Parameter]
    order: torch.Generator
    views: torch.Generator
    files: dict[str, Path] = field(default_factory=dict)
    gains: tuple[float, float] | None = None
    epoch: int = 0
    best: EpochScores | None = None
    teacher_cache: TeacherCache | None = None
    last_update: list[Tensor] | None = None
    teacher_accuracy: TeacherAccuracy | None = None
    compiled: Compiled | None = None

    @property
    def deployable(self) -> nn.Module:
        """The module to measure and ship: the student, unless the method adds to it."""
        return self.distiller.deployable()

    @cached_property
    def augmentation(self) -> Augmentation:
        """Augmentation of the training images."""
        return Augmentation(self.recipe.data.augment)


def save(run: RunState, folder: Path, *, is_best: bool) -> None:
    """Write the checkpoint of the last epoch, and of the best one where this is it."""
    best = {"epoch": run.epoch, "objective": _contiguous(run.distiller.state_dict())}
    if is_best:
        _write(folder / BEST, best)
    last = {
        **best,
        "recipe": recipe_text(run.recipe),
        "optimizer": _contiguous(run.optimizer.state_dict()),
        "best": None if run.best is None else run.best.model_dump(),
        "order": run.order.get_state(),
        "views": run.views.get_state(),
        "forward": torch.get_rng_state(),
        "forward_cuda": torch.cuda.get_rng_state(run.device) if run.device.type == "cuda" else None,
    }
    _write(folder / LAST, last)


def restore(run: RunState, folder: Path) -> None:
    """Bring a run to the state of its last checkpoint.

    Args:
        run: The run at its beginning.
        folder: The run folder.

    Raises:
        BadInput: The checkpoint is broken or another run's.
    """
    state = read_checkpoint(folder / LAST)
    if differing_keys(str(state.get("recipe")), recipe_text(run.recipe)):
        raise BadInput(f"{folder / LAST}: not a checkpoint of this run: it is of another recipe")
    try:
        run.distiller.load_state_dict(state["objective"])
        for saved, own in zip(state["optimizer"]["param_groups"], run.optimizer.param_groups, strict=True):
            if "fused" in own:
                saved["fused"] = own["fused"]  # the device may be another one
        run.optimizer.load_state_dict(state["optimizer"])
        for param, buffers in run.optimizer.state.items():
            for key, value in buffers.items():  # fused kernels want the memory format of the weight
                if param.ndim == 4 and isinstance(value, Tensor) and value.shape == param.shape:
                    buffers[key] = torch.empty_like(param).copy_(value)
        run.order.set_state(state["order"])
        run.views.set_state(state["views"])
        torch.set_rng_state(state["forward"])
        if state["forward_cuda"] is not None and run.device.type == "cuda":
            torch.cuda.set_rng_state(state["forward_cuda"], run.device)
        run.epoch = int(state["epoch"])
        run.best = None if state["best"] is None else EpochScores.model_validate(state["best"])
    except Exception as error:  # a broken file may lead to any error
        raise BadInput(f"{folder / LAST}: not a checkpoint of this run: {first_line(error)}") from None


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint as data, never as code.

    Args:
        path: The file.

    Returns:
        Its content.

    Raises:
        BadInput: It is missing, broken, or holds anything but tensors and plain values.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch, zipfile and pickle each have errors of their own
        raise BadInput(f"{path}: not a checkpoint of a run: {first_line(error)}") from None
    if not isinstance(state, dict) or "objective" not in state:
        raise BadInput(f"{path}: not a checkpoint of a run: it holds a {type(state).__name__}")
    return state


def _contiguous(state: Any) -> Any:
    """A state with contiguous tensors."""
    if isinstance(state, dict):
        return {key: _contiguous(value) for key, value in state.items()}
    return state.contiguous() if isinstance(state, Tensor) else state


def _write(path: Path, state: dict[str, Any]) -> None:
    # To bytes first: torch's own writer does not report a full disk.
    content = io.BytesIO()
    torch.save(state, content)

    def write(beside: Path) -> None:
        beside.write_bytes(content.getbuffer())

    write_atomically(path, write)
