"""From recipe to objects: the only place where names become classes.

Networks come out with fresh weights here; those of seeds and files are in :mod:`dotkd.networks`.
"""

from typing import Any

import torch
from torch import Tensor, nn

from dotkd.data import DataFacts, Images, Splits, load_data
from dotkd.distiller import Distiller
from dotkd.errors import BadInput
from dotkd.methods import Method, TaskMethod, create_method
from dotkd.models import ImageModel, create_model
from dotkd.optim import DOT, MultiMomentumSGD, deepkd_momenta, matched_gains
from dotkd.recipe import Recipe
from dotkd.recipe.tables import ControlTable, Data, DeepKDTable, DOTTable, Network, SGDTable, check_device
from dotkd.seeding import random_stream


def build_data(data: Data) -> Splits[Images]:
    """Load the data of a recipe.

    Args:
        data: The table.

    Returns:
        The splits, on the CPU or in files.

    Raises:
        BadInput: The files are missing or wrong, or a number does not suit the data set.
    """
    try:
        return load_data(
            **data.source(),
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


def build_model(
    name: str, table: Network, data: Data, *, pretrained: bool = True, facts: DataFacts | None = None
) -> ImageModel:
    """Make a network for a data set.

    Args:
        name: Of the network.
        table: How it normalises.
        data: What it is for.
        pretrained: Whether weights that its name promises are to be loaded; else a file has them.
        facts: What the images are like, where that is known without opening them.

    Returns:
        The network.
    """
    facts = data.facts() if facts is None else facts
    shape = (facts.channels, facts.height, facts.width)
    return create_model(
        name, facts.num_classes, image_shape=shape, mean=table.mean, std=table.std, pretrained=pretrained
    )


def build_method(recipe: Recipe) -> Method | TaskMethod | None:
    """Make the method of a recipe.

    Args:
        recipe: The recipe.

    Returns:
        The method; None where there is only the cross entropy.
    """
    return None if recipe.method is None else create_method(**recipe.method)


def build_distiller(
    recipe: Recipe,
    student: nn.Module,
    teacher: nn.Module,
    method: Method,
    *,
    example: Tensor | None = None,
    labels: Tensor | None = None,
) -> Distiller:
    """Bring student, teacher and method together; learned parts get the weights that the seed gives them.

    Args:
        recipe: The recipe; it may say where the networks have their features.
        student: The student.
        teacher: The teacher.
        method: The method.
        example: Images for methods with learned parts, on the device of the networks.
        labels: [N], int64, class of each sample number, -1 for numbers that are not in training.

    Returns:
        The distiller, on the device of the networks. The global random generator is as before.

    Raises:
        BadInput: They do not fit together.
    """
    assert recipe.teacher is not None
    ours, theirs = recipe.student.features(), recipe.teacher.features()
    taps = {kind: (ours.get(kind, ""), theirs.get(kind, "")) for kind in (*ours, *theirs)}
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(random_stream(recipe.run.seed, "method.init").initial_seed())
            return Distiller(student, teacher, method, taps=taps, example=example, labels=labels)
    except ValueError as error:
        raise BadInput(f"method: {error}") from None


def build_optimizer(table: SGDTable, params: list[nn.Parameter]) -> torch.optim.Optimizer:
    """Make the optimizer of a recipe.

    Args:
        table: ``[optimizer]``.
        params: What it updates.

    Returns:
        DOT for ``dot``; three momenta for ``deepkd``; for ``control`` DOT with ``delta=0`` and the gains
        that ``delta`` would give it; otherwise ``torch.optim.SGD``.
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
        shared |= {"task_gain": task_gain, "distill_gain": distill_gain}
        return DOT(params, delta=0.0, **shared)
    if isinstance(table, DeepKDTable):
        momenta = deepkd_momenta(table.momentum, table.delta, as_released=table.as_released)
        return MultiMomentumSGD(params, momenta=momenta, **shared)
    return torch.optim.SGD(params, **shared)
