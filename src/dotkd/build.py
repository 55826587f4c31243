"""From recipe to objects: the only place where names become classes.

Weights are drawn under the run's seed, in a stream of their own, so that all arms of a seed start from the
same student.
"""

from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import nn

from dotkd.data import Splits, data_facts, load_data
from dotkd.data.randomness import random_stream
from dotkd.errors import BadInput
from dotkd.methods import Method, create_method
from dotkd.models import ImageModel, create_model, load_weights
from dotkd.models.checkpoint import is_safetensors
from dotkd.models.external_names import runs_own_code
from dotkd.optim import DOT, matched_gains
from dotkd.recipe import Recipe, parse_recipe, recipe_text
from dotkd.recipe.types import ControlTable, Data, DOTTable, Normalised, SGDTable, check_device


def build_data(data: Data) -> Splits:
    """Load the data of a recipe.

    Args:
        data: The table.

    Returns:
        The splits, on the CPU.

    Raises:
        BadInput: The files are missing or wrong, or a number does not suit the data set.
    """
    try:
        return load_data(
            data.name,
            root=data.root,
            validation=data.validation,
            label_noise=data.label_noise,
            train_images=data.train_images,
            seed=data.seed,
        )
    except BadInput as error:
        raise BadInput(f"data: {error}") from None


def build_device(device: str) -> torch.device:
    """Choose the device of a run.

    Args:
        device: ``"auto"``, ``"cpu"`` or ``"cuda:N"``.

    Returns:
        The device; ``"auto"`` is CUDA where there is one.

    Raises:
        BadInput: There is no such device.
    """
    try:
        check_device(device)
    except BadInput as error:
        raise BadInput(f"run.device: {error}") from None
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    chosen = torch.device(device)
    if chosen.type == "cuda" and (chosen.index or 0) >= torch.cuda.device_count():
        raise BadInput(f"run.device: no device {device!r} here, {torch.cuda.device_count()} CUDA devices")
    return chosen


def build_model(name: str, table: Normalised, data: Data, *, pretrained: bool = True) -> ImageModel:
    """Make a network for a data set; without ``pretrained`` its weights are to be read from a file."""
    facts = data_facts(data.name, data.root)
    shape = (facts.channels, facts.height, facts.width)
    return create_model(
        name, facts.num_classes, image_shape=shape, mean=table.mean, std=table.std, pretrained=pretrained
    )


def build_teacher(recipe: Recipe, path: Path) -> ImageModel:
    """Make the teacher of a recipe, with the weights of a file.

    Args:
        recipe: The recipe.
        path: A student of another run, which knows its model, or any weights of ``teacher.model``.

    Returns:
        The teacher in evaluation mode.

    Raises:
        BadInput: The file is missing or does not fit, or the teacher learned from another data set.
    """
    table = recipe.teacher
    if table is not None and table.model is not None:
        teacher = build_model(table.model, table, recipe.data, pretrained=False)
        load_weights(teacher, path)
        return teacher.eval()
    teacher, taught = load_student(path)
    if taught.data.name != recipe.data.name:
        raise BadInput(
            f"teacher.checkpoint: {path} learned from {taught.data.name}, the student's data is "
            f"{recipe.data.name}"
        )
    return teacher


def build_student(recipe: Recipe) -> ImageModel:
    """Make the student of a recipe, with the weights that its seed or its checkpoint gives.

    Args:
        recipe: The recipe.

    Returns:
        The student, on the CPU. The global random generator is as before.

    Raises:
        BadInput: The checkpoint is broken, or is one of another network.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(random_stream(recipe.run.seed, "student.init").initial_seed())
        fresh = recipe.student.checkpoint is None
        student = build_model(recipe.student.model, recipe.student, recipe.data, pretrained=fresh)
    if recipe.student.checkpoint is not None:
        load_weights(student, recipe.student.checkpoint)
        _check_normalisation(recipe, _metadata(Path(recipe.student.checkpoint)))
    return student


def _check_normalisation(recipe: Recipe, metadata: dict[str, str]) -> None:
    """Refuse weights that were trained on images normalised in another way, which they cannot show."""
    if "recipe" not in metadata:
        return
    theirs = parse_recipe(metadata["recipe"], f"{recipe.student.checkpoint}, recipe").student
    for key in ("mean", "std"):
        ours, other = getattr(recipe.student, key), getattr(theirs, key)
        if ours != other:
            raise BadInput(
                f"student.checkpoint: {recipe.student.checkpoint} was trained with student.{key} = "
                f"{list(other)}, the recipe has {list(ours)}"
            )


def build_method(recipe: Recipe) -> Method | None:
    """Make the distillation method of a recipe.

    Args:
        recipe: The recipe.

    Returns:
        The method; None where the recipe has no teacher.
    """
    return None if recipe.method is None else create_method(**recipe.method)


def build_optimizer(table: SGDTable, params: list[nn.Parameter]) -> torch.optim.Optimizer:
    """Make the optimizer of a recipe.

    Args:
        table: ``[optimizer]``.
        params: What it updates.

    Returns:
        DOT for ``dot``; for ``control`` DOT with ``delta=0`` and the gains that ``delta`` would give it;
        otherwise ``torch.optim.SGD``.
    """
    shared: dict[str, Any] = {
        "lr": table.lr,
        "momentum": table.momentum,
        "weight_decay": table.weight_decay,
        "nesterov": table.nesterov,
    }
    if isinstance(table, DOTTable):
        return DOT(params, delta=table.delta, **shared)
    if isinstance(table, ControlTable):
        task_gain, distill_gain = matched_gains(table.momentum, table.delta)
        return DOT(params, delta=0.0, task_gain=task_gain, distill_gain=distill_gain, **shared)
    return torch.optim.SGD(params, **shared)


def save_student(student: nn.Module, recipe: Recipe, path: Path) -> None:
    """Write what is to be deployed: weights as safetensors, the recipe in the metadata."""
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in student.state_dict().items()}
    # One entry only: safetensors writes several in an order of chance, and equal runs have equal files.
    path.write_bytes(save(weights, metadata={"recipe": recipe_text(recipe)}))


def load_student(path: Path) -> tuple[ImageModel, Recipe]:
    """Read a student that a run wrote.

    Args:
        path: ``student.safetensors``, or the folder of the run.

    Returns:
        The network in evaluation mode, and the recipe that made it. The network takes images
        [B, C, H, W] in [0, 1] and returns logits.

    Raises:
        BadInput: The file is missing, is no student of a run, or does not fit its recipe.

    Example:
        >>> from dotkd.recipe import load_recipe
        >>> from dotkd.train.loop import train
        >>> results = train(load_recipe("quick/digits-plain", ["schedule.epochs=1"]), Path("run"))
        >>> student, recipe = load_student(Path("run"))
        >>> student(torch.rand(2, 1, 8, 8)).shape
        torch.Size([2, 10])
    """
    path = path / "student.safetensors" if path.is_dir() else path
    if path.suffix in (".pt", ".pth"):
        raise BadInput(
            f"{path}: not a student of a run, which is a student.safetensors; the .pth of a teacher needs "
            "teacher.model"
        )
    if not path.is_file():
        raise BadInput(f"no file {str(path)!r}: wanted a student.safetensors or the folder of a finished run")
    metadata = _metadata(path)
    if "recipe" not in metadata:
        raise BadInput(f"{path}: not a student of a run: there is no recipe in its metadata")
    recipe = parse_recipe(metadata["recipe"], f"{path}, recipe")
    name = recipe.student.model
    if runs_own_code(name):
        raise BadInput(
            f"{path}: made by the function {name!r}, and a file does not decide what code is run: "
            "call the function yourself and fill its model with dotkd.models.load_weights"
        )
    student = build_model(name, recipe.student, recipe.data, pretrained=False)
    load_weights(student, path)
    return student.eval(), recipe


def _metadata(path: Path) -> dict[str, str]:
    """Return what a safetensors file says of itself; other files say nothing."""
    if not is_safetensors(path):
        return {}
    try:
        with safe_open(path, framework="pt") as file:
            return file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise BadInput(f"{path}: not a safetensors file: {error}") from None
