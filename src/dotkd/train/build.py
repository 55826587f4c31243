"""Builds a run from its recipe: the one place where names in a recipe become objects.

:func:`check_recipe` builds data, networks and method and tries them on a few images; :meth:`Prepared.start`
adds the parts that need the teacher's weights. Networks are made in :mod:`dotkd.train.networks`.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from dotkd._validate import UNLABELLED
from dotkd.data import Batch, DataFacts, Images, Splits, load_data
from dotkd.data.augment import Augmentation
from dotkd.distiller import Distiller
from dotkd.errors import BadInput
from dotkd.methods import Method, TaskMethod, create_method
from dotkd.models.classes import order_classes
from dotkd.optim import DOT, DOTAdamW, MultiMomentumSGD, deepkd_momenta, matched_gains
from dotkd.recipe import Recipe
from dotkd.recipe.tables import (
    AdamWTable,
    ControlTable,
    Data,
    DeepKDTable,
    DOTAdamWTable,
    DOTTable,
    OptimizerTable,
    SGDTable,
    check_device,
)
from dotkd.seeding import random_stream
from dotkd.train.differentiate import gradients
from dotkd.train.frozen import settle_teacher
from dotkd.train.networks import (
    build_student,
    build_teacher,
    build_untrained_teacher,
    lacks_normalisation,
    load_trained,
    set_memory_format,
)
from dotkd.train.run_cache import check_teacher_cache, open_teacher_cache
from dotkd.train.scores import in_evaluation_mode
from dotkd.train.state import RunState
from dotkd.train.teacher import refuse_new_head, teacher_file, teacher_recipe

_PROBE, _EXAMPLE, _TRIED, _MEASURED = 256, 16, 4, 1000  # images


@dataclass
class Prepared:
    """A run that is built and checked, without the parts that depend on the teacher's weights.

    Attributes:
        recipe: The recipe.
        device: Device of the run.
        data: The splits, on the device.
        facts: Of the images.
        distiller: Student, teacher and method, on the device.
        files: Files that the run starts from, ``"teacher"`` and ``"start"``.
        untrained: The run that trains the teacher first; None once the teacher has its weights.
    """

    recipe: Recipe
    device: torch.device
    data: Splits[Images]
    facts: DataFacts
    distiller: Distiller
    files: dict[str, Path]
    untrained: "Prepared | None" = None

    def load_teacher(self, path: Path) -> None:
        """Give the teacher the weights that its own run has trained; learned parts are made anew."""
        teacher = self.distiller.teacher
        assert teacher is not None
        load_trained(teacher, path)
        _order_teacher(self.recipe, teacher, self.distiller.method, self.data.train)
        with _method_stream(self.recipe):
            self.distiller.prepare(*_examples(self.distiller.method, self.data.train, self.recipe))
        self.files["teacher"], self.untrained = path, None

    def start(self) -> RunState:
        """Begin the run: settle the teacher, open its cache, make the optimizer and the random streams."""
        assert self.untrained is None
        recipe, distiller, seed = self.recipe, self.distiller, self.recipe.run.seed
        if distiller.teacher is not None:
            settle_teacher(distiller, recipe)
        if distiller.method is not None:
            set_memory_format(distiller.method, channels_last=recipe.run.channels_last)
        table, params = recipe.optimizer, distiller.trainable_parameters()
        gains = None
        if isinstance(table, ControlTable) and _one_pass_will_do(table, distiller, self.data.train):
            gains = matched_gains(table.momentum, table.delta)
        # torch never chooses its fused SGD by itself; on a CPU its own choice is the fast one.
        fused = True if self.device.type == "cuda" else None
        return RunState(
            recipe,
            self.data,
            self.facts,
            self.device,
            distiller,
            build_optimizer(table, params, one_pass=gains is not None, fused=fused),
            params,
            order=random_stream(seed, "order"),
            views=random_stream(seed, "augment"),
            files=self.files,
            gains=gains,
            teacher_cache=open_teacher_cache(recipe, distiller, self.data.train, self.device),
        )


def build_run(
    recipe: Recipe,
    teacher: Path | nn.Module | None = None,
    configuration: Mapping[str, str] | None = None,
) -> RunState:
    """Build a run at its beginning.

    Args:
        recipe: The recipe.
        teacher: The file of the teacher's weights, or a network, which becomes the run's own. None: the
            recipe's ``teacher.checkpoint``, if it has one.
        configuration: Of the student's network, for weights that come later: ``configuration`` of
            :func:`dotkd.models.create_model`.

    Returns:
        The run.

    Raises:
        BadInput: There is no such device, data or checkpoint, they do not fit together, or the recipe trains
            its teacher first and no ``teacher`` is given.

    Example:
        >>> from dotkd.recipe import load_recipe
        >>> run = build_run(load_recipe("quick/digits-plain"))
        >>> len(run.data.train), type(run.optimizer).__name__
        (1200, 'SGD')
    """
    prepared = check_recipe(recipe, teacher, configuration)
    if prepared.untrained is not None:
        raise BadInput(
            f"{recipe.name}: its teacher, of recipe {prepared.untrained.recipe.name!r}, is not trained yet: "
            "train it and pass its student.safetensors as teacher, or call train(), which does both"
        )
    return prepared.start()


def check_recipe(
    recipe: Recipe,
    teacher: Path | nn.Module | Recipe | None = None,
    configuration: Mapping[str, str] | None = None,
) -> Prepared:
    """Build a run, and its teacher's, before anything is written, and try it on a few images.

    Args:
        recipe: The recipe.
        teacher: The file of the teacher's weights, a network, which becomes the run's own, or the recipe that
            trains it first. None: as the recipe says.
        configuration: As in :func:`build_run`.

    Returns:
        The run, ready to :meth:`~Prepared.start` once its teacher is trained.

    Raises:
        BadInput: There is no such device, data or checkpoint, or they do not fit together.
    """
    if teacher is None:
        teacher = teacher_recipe(recipe) or teacher_file(recipe)
    untrained = None
    if isinstance(teacher, Recipe):
        untrained, teacher = check_recipe(teacher), None
    device = build_device(recipe.run.device)
    network = teacher if isinstance(teacher, nn.Module) else None
    if isinstance(teacher, Path) and recipe.teacher is not None and recipe.teacher.model is None:
        network = build_teacher(recipe, teacher)  # names its model: checked before the data are loaded
    if untrained is not None and _images_of(untrained.recipe.data) == _images_of(recipe.data):
        data = untrained.data
    else:
        parts = build_data(recipe.data)
        held_out = None if parts.validation is None else parts.validation.to(device)
        data = Splits(parts.train.to(device), held_out, parts.test.to(device))
    facts = _facts(recipe.data, data)
    if untrained is not None:
        network = build_untrained_teacher(untrained.recipe, facts)
    elif recipe.teacher is not None and not isinstance(teacher, nn.Module) and network is None:
        network = build_teacher(recipe, teacher, facts)
    method = build_method(recipe)
    refuse_new_head(recipe, network, method)
    if network is not None:
        _order_teacher(recipe, network, method, data.train)
    student = build_student(recipe, facts, configuration)
    _refuse_untrainable(student, recipe)
    if lacks_normalisation(student):
        student.set_normalisation(*channel_statistics(data.train))
    distiller = build_distiller(recipe, student.to(device), network, method, data.train, device)
    _check_labels(distiller, recipe, data.train.labels)
    _try(distiller, _first(data.train, _TRIED))
    _refuse_single_image(distiller, recipe, len(data.train))
    start = recipe.student.checkpoint
    files = {"teacher": teacher if network is not None else None, "start": start and Path(start)}
    return Prepared(
        recipe,
        device,
        data,
        facts,
        distiller,
        {name: path for name, path in files.items() if isinstance(path, Path)},
        untrained,
    )


# ---------------------------------------------------------------- device and data


def build_device(device: str) -> torch.device:
    """Choose the device of a run.

    Args:
        device: ``"auto"`` (CUDA if available), ``"cpu"``, ``"cuda"`` or ``"cuda:N"``.

    Returns:
        The device.

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


def build_data(data: Data) -> Splits[Images]:
    """Load the data of a recipe.

    Args:
        data: ``[data]``.

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


def _images_of(data: Data) -> tuple[Any, ...]:
    return data.source(), data.validation, data.label_noise, data.train_images, data.seed


def _facts(table: Data, data: Splits[Images]) -> DataFacts:
    """The facts of loaded images; their files are not opened again."""
    known = table.named_facts()
    return known if known.num_classes else data.facts


def _first(data: Images, count: int) -> Batch:
    return data.batch(torch.arange(min(count, len(data)), device=data.device))


def probe_positions(data: Images, seed: int) -> Tensor:
    """Positions of the probe images, for gradient diagnostics and the shapes of learned parts.

    Args:
        data: The training images.
        seed: ``data.seed``.

    Returns:
        [256] or fewer positions.
    """
    return torch.randperm(len(data), generator=random_stream(seed, "data.probe"))[:_PROBE]


def channel_statistics(data: Images) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of each channel of at most 1000 images.

    Args:
        data: The training images.

    Returns:
        Both, rounded to 4 decimals, so that they are the same on every machine.

    Example:
        >>> from dotkd.data import load_digits
        >>> channel_statistics(load_digits().train)
        ([0.3047], [0.3758])
    """
    count = min(_MEASURED, len(data))
    images = data.batch(torch.arange(count, device=data.device) * len(data) // count).images.double()
    std, mean = torch.std_mean(images, dim=(0, 2, 3), correction=0)
    found = [[round(value, 4) for value in each.tolist()] for each in (mean, std.clamp(min=1e-4))]
    return found[0], found[1]


def _order_teacher(
    recipe: Recipe, teacher: nn.Module, method: Method | TaskMethod | None, data: Images
) -> None:
    """Bring a teacher's outputs into the order of the data's classes; refuse other classes that are read."""
    try:
        order_classes(teacher.eval(), data.classes, data.image_shape)
    except BadInput as error:
        reads = isinstance(method, Method) and method.reads_classifier
        if reads and (recipe.teacher is None or recipe.teacher.verify):
            raise BadInput(
                f"teacher: {error}; teacher.verify = false takes its outputs in their order all the same"
            ) from None


# ---------------------------------------------------------------- method and distiller


def build_method(recipe: Recipe) -> Method | TaskMethod | None:
    """Make the method of a recipe; None for the cross entropy alone."""
    return None if recipe.method is None else create_method(**recipe.method)


def build_distiller(
    recipe: Recipe,
    student: nn.Module,
    teacher: nn.Module | None,
    method: Method | TaskMethod | None,
    data: Images,
    device: torch.device,
) -> Distiller:
    """Connect student, teacher and method; learned parts get the weights of the seed.

    Args:
        recipe: The recipe; it may name feature paths.
        student: The student, on the device.
        teacher: The teacher, or None.
        method: The method, or None.
        data: The training images; a few of them give learned parts their shapes.
        device: Device of the run.

    Returns:
        The distiller, on the device. Torch's global generator is left as it was.

    Raises:
        BadInput: Student, teacher, method and augmentation do not fit together.
    """
    if method is not None and method.needs_hard_labels and Augmentation(recipe.data.augment).mixes_labels:
        raise BadInput(
            f"data.augment: {recipe.data.augment[-1]!r} mixes images, and {type(method).__name__} reads the "
            "class or the number of each one: leave that step out, or take another method"
        )
    check_teacher_cache(recipe, method, data)
    if teacher is None or recipe.teacher is None:
        return Distiller(student, None, method)
    ours, theirs = recipe.student.features(), recipe.teacher.features()
    taps = {kind: (ours.get(kind, ""), theirs.get(kind, "")) for kind in (*ours, *theirs)}
    example, labels = _examples(method, data, recipe)
    try:
        with _method_stream(recipe):
            distiller = Distiller(
                student, teacher.to(device), method, taps=taps, example=example, labels=labels
            )
    except ValueError as error:
        raise BadInput(f"method: {error}") from None
    return distiller.to(device)


@contextmanager
def _method_stream(recipe: Recipe) -> Iterator[None]:
    """Draw from the stream of the method's learned parts."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(random_stream(recipe.run.seed, "method.init").initial_seed())
        yield


def _examples(
    method: Method | TaskMethod | None, data: Images, recipe: Recipe
) -> tuple[Tensor | None, Tensor | None]:
    """A few training images for methods with learned parts, and the class of each sample number."""
    if not isinstance(method, Method) or not method.learns:
        return None, None
    positions = probe_positions(data, recipe.data.seed)[:_EXAMPLE]
    labels = torch.full((int(data.index.max()) + 1,), -1)
    labels[data.index.cpu()] = data.labels.cpu().clamp(min=-1)  # no class to draw negatives from
    return data.batch(positions).images, labels


def _try(distiller: Distiller, batch: Batch) -> None:
    """Compute the losses of a few images, to find wrong options and shapes before the run."""
    try:
        with torch.no_grad(), in_evaluation_mode(distiller):
            distiller(batch.images, batch.labels, index=batch.index, progress=1.0)
    except ValueError as error:
        raise BadInput(f"method: {error}") from None


def _check_labels(distiller: Distiller, recipe: Recipe, labels: Tensor) -> None:
    """Refuse images without a label where nothing can be learnt from them."""
    missing = int((labels == UNLABELLED).sum())
    steps = Augmentation(recipe.data.augment)
    if missing and steps.mixes_labels:
        raise BadInput(
            f"data.augment: {recipe.data.augment[-1]!r} mixes labels, and {missing} of {len(labels)} "
            "training images have none: leave that step out"
        )
    if missing == len(labels) and (distiller.teacher is None or "target" in distiller.needs):
        reader = (
            "a network without a teacher" if distiller.teacher is None else type(distiller.method).__name__
        )
        raise BadInput(f"data: none of the {missing} training images has a label, which {reader} needs")


def _refuse_untrainable(student: nn.Module, recipe: Recipe) -> None:
    """Refuse a student without weights to train, or with weights that an optimizer cannot move well."""
    trained = [(name, param) for name, param in student.named_parameters() if param.requires_grad]
    if not trained:
        raise BadInput(f"student.model: {recipe.student.model!r} has no parameter that requires a gradient")
    for name, param in trained:
        dtype = str(param.dtype).removeprefix("torch.")
        if not is_lazy(param) and param.numel() == 0:
            raise BadInput(f"student.model: {recipe.student.model!r}: its parameter {name} has no elements")
        if param.dtype != torch.float32:
            raise BadInput(
                f"student.model: {recipe.student.model!r}: its parameter {name} is {dtype}, and must be "
                "float32; run.precision = 'bf16' computes in bfloat16"
            )


def _refuse_single_image(distiller: Distiller, recipe: Recipe, images: int) -> None:
    norms = any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in distiller.modules())
    size = recipe.data.batch_size
    if norms and (images % size or size) == 1:
        raise BadInput(
            f"data.batch_size: {size} leaves one of {images} images for the last batch, and batch norm needs "
            "two: take another size"
        )


# ---------------------------------------------------------------- optimizer


def build_optimizer(
    table: OptimizerTable, params: list[nn.Parameter], *, one_pass: bool = False, fused: bool | None = None
) -> torch.optim.Optimizer:
    """Make the optimizer of a recipe.

    Args:
        table: ``[optimizer]``.
        params: The parameters to update.
        one_pass: Whether the control is to be ``torch.optim.SGD`` on the rescaled sum of both losses, with
            the gains of :func:`dotkd.optim.matched_gains` on the losses and the task's on the decay.
        fused: As in ``torch.optim.SGD``.

    Returns:
        The optimizer; for ``control`` without ``one_pass`` DOT with ``delta=0`` and the matched gains.
    """
    if isinstance(table, DOTAdamWTable):
        return DOTAdamW(params, table.lr, table.two_betas, table.delta, table.eps, table.weight_decay)
    if isinstance(table, AdamWTable):
        return torch.optim.AdamW(
            params, table.lr, table.two_betas, table.eps, weight_decay=table.weight_decay, fused=fused
        )
    assert isinstance(table, SGDTable)
    shared: dict[str, Any] = {
        "lr": table.lr,
        "momentum": table.momentum,
        "weight_decay": table.weight_decay,
        "nesterov": table.nesterov,
        "fused": fused,
    }
    if isinstance(table, DOTTable):
        return DOT(params, delta=table.delta, **shared)
    if isinstance(table, ControlTable):
        task_gain, distill_gain = matched_gains(table.momentum, table.delta)
        if one_pass:
            return torch.optim.SGD(params, **{**shared, "weight_decay": task_gain * table.weight_decay})
        return DOT(params, delta=0.0, task_gain=task_gain, distill_gain=distill_gain, **shared)
    if isinstance(table, DeepKDTable):
        momenta = deepkd_momenta(table.momentum, table.delta, as_released=table.as_released)
        return MultiMomentumSGD(params, momenta=momenta, **shared)
    return torch.optim.SGD(params, **shared)


def _one_pass_will_do(table: ControlTable, distiller: Distiller, data: Images) -> bool:
    """Whether both losses reach the same parameters, so that SGD on their rescaled sum is the control."""
    # Clipping is by the norm before the gains, which the gradient of the rescaled sum does not tell.
    if table.clip_grad_norm is not None or not all(distiller.weights().values()):
        return False
    batch, params = _first(data, _TRIED), distiller.trainable_parameters()
    with in_evaluation_mode(distiller), torch.enable_grad():
        losses = distiller(batch.images, batch.labels, index=batch.index, progress=1.0)
        assert losses.distill is not None
        if not (losses.task.requires_grad and losses.distill.requires_grad):
            return False
        task, distill = (
            [grad is not None for grad in gradients(loss, params, retain_graph=True)]
            for loss in (losses.task, losses.distill)
        )
    return task == distill
