"""Networks of a recipe: made with weights of the seed, read from files, written as student files.

A run's weights are drawn in a random stream of their own, so that all arms of a seed start from the same
student. A file is data: its content never decides which code runs.
"""

import json
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import tomli_w
import torch
from pydantic import ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from dotkd.data import DataFacts
from dotkd.errors import BadInput
from dotkd.methods import Method, create_method
from dotkd.models import External, ImageModel, create_model, load_weights
from dotkd.models.base import Resize
from dotkd.models.classes import image_model
from dotkd.models.external import PRETRAINED, runs_own_code
from dotkd.models.weights import assign_weights, is_safetensors, read_weights
from dotkd.recipe import Recipe, load_recipe, recipe_text
from dotkd.recipe.load import make_recipe
from dotkd.recipe.tables import Network
from dotkd.records import MadeFor
from dotkd.runs import ENVIRONMENT, LAST, RECIPE, STUDENT, read_json
from dotkd.seeding import random_stream

_UNNAMED = ("folder", "hub")  # data sets whose name does not tell the shape of the images
MADE_FOR = "made_for"
"""Key of :class:`dotkd.records.MadeFor` in a student file and in ``environment.json``."""


# ---------------------------------------------------------------- made


def build_model(
    name: str,
    table: Network,
    facts: DataFacts | MadeFor,
    *,
    pretrained: bool = True,
    fine_tune: bool = False,
    configuration: Mapping[str, str] | None = None,
) -> ImageModel:
    """Make a network for images.

    Args:
        name: Name of the network.
        table: Its normalisation.
        facts: Shape of the images, number of classes.
        pretrained: Whether to load the weights that the name promises; else a file has them.
        fine_tune: Whether these weights will be trained on.
        configuration: Of the network, where a file brings it.

    Returns:
        The network, with fresh weights from torch's generator or with those of its name.
    """
    shape = (facts.channels, facts.height, facts.width)
    return create_model(
        name,
        facts.num_classes,
        image_shape=shape,
        mean=table.mean,
        std=table.std,
        pretrained=pretrained,
        fine_tune=fine_tune,
        configuration=configuration,
    )


def build_student(
    recipe: Recipe, facts: DataFacts | None = None, configuration: Mapping[str, str] | None = None
) -> ImageModel:
    """Make the student of a recipe, with the weights of its seed or of its checkpoint.

    Args:
        recipe: The recipe.
        facts: Of its data; None: they are looked up.
        configuration: Of the network, for weights that come later; None: as the model or the checkpoint says.

    Returns:
        The student, on the CPU. Torch's global generator is left as it was.

    Raises:
        BadInput: The checkpoint is broken, or does not fit the network.
    """
    table = recipe.student
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(random_stream(recipe.run.seed, "student.init").initial_seed())
        student = build_model(
            table.model,
            table,
            facts or recipe.data.facts(),
            pretrained=table.checkpoint is None,
            fine_tune=True,
            configuration=configuration or _configuration(table.checkpoint, table.model),
        )
    if table.checkpoint is not None:
        _load(student, Path(table.checkpoint), table)
        made_for = _check_normalisation(recipe, Path(table.checkpoint))
        if made_for is not None and lacks_normalisation(student):
            _take_normalisation(student, made_for)
    set_memory_format(student, channels_last=recipe.run.channels_last)
    return student


def build_teacher(recipe: Recipe, path: Path | None, facts: DataFacts | None = None) -> nn.Module:
    """Make the teacher of a recipe, with the weights of a file.

    Args:
        recipe: The recipe.
        path: A student file of another run, which names its model, or weights of ``teacher.model``; None
            where the model's name brings weights.
        facts: Of the data; None: they are looked up.

    Returns:
        The teacher in evaluation mode.

    Raises:
        BadInput: The file is missing or does not fit, or the teacher was trained on another data set.
    """
    table = recipe.teacher
    if table is not None and table.model is not None:
        facts = facts or recipe.data.facts()
        if table.image_size is not None:
            facts = facts._replace(height=table.image_size, width=table.image_size)
        with torch.random.fork_rng(devices=[]):
            # A head that is drawn is the same in all runs: the teacher does not belong to a seed.
            torch.manual_seed(random_stream(0, "teacher.init").initial_seed())
            model = build_model(
                table.model,
                table,
                facts,
                pretrained=path is None,
                configuration=_configuration(path, table.model),
            )
        if path is not None:
            _load(model, path, table)
            _take_made_for(model, _recorded(path)[1])
        teacher: nn.Module = model.eval()
    else:
        assert path is not None
        teacher, taught = load_student(path)
        if taught.data.name != recipe.data.name:
            raise BadInput(
                f"teacher.checkpoint: {path} learned from {taught.data.name}, the student's data is "
                f"{recipe.data.name}"
            )
    found, side = image_model(teacher), None if table is None else table.image_size
    if found is not None and side is not None:
        kept = found.made_for or Resize((side, side))
        found.made_for = Resize((side, side), interpolation=kept.interpolation)
    return teacher


def lacks_normalisation(network: nn.Module) -> bool:
    """Whether nothing says how the images of a network are normalised, though its library usually does."""
    return isinstance(network, External) and network.lacks_normalisation and not network.mean.numel()


def _load(model: ImageModel, path: Path, table: Network) -> None:
    """Load a file's weights, without its classifier where the recipe wants a new one."""
    if not table.new_head:
        load_weights(model, path, table.checkpoint_key)
        return
    if not model.classifier_path:
        raise BadInput(f"new_head: {path}: {type(model).__name__} has no classifier that is one layer")
    assign_weights(model, read_weights(path), path, table.checkpoint_key, without=model.classifier_path)
    model.new_head = True


def _take_made_for(model: ImageModel, made_for: MadeFor | None) -> None:
    """Note what a file says of its network: the size of its images, their normalisation and its classes."""
    if made_for is not None:
        model.made_for = Resize((made_for.height, made_for.width))
        model.class_names = made_for.classes
        _take_normalisation(model, made_for)


def _take_normalisation(model: ImageModel, made_for: MadeFor) -> None:
    if made_for.mean and not model.mean.numel():
        model.set_normalisation(made_for.mean, made_for.std)


def load_trained(teacher: nn.Module, path: Path) -> None:
    """Give an untrained teacher the weights of its own run, and what their file says of it, in place."""
    load_weights(teacher, path)
    model = image_model(teacher)
    if model is not None:
        _take_made_for(model, _recorded(path)[1])


def build_untrained_teacher(recipe: Recipe, facts: DataFacts) -> ImageModel:
    """Make a teacher's network before its training, in evaluation mode, with random weights."""
    with torch.random.fork_rng(devices=[]):
        return build_model(recipe.student.model, recipe.student, facts, pretrained=False).eval()


def set_memory_format(module: nn.Module, *, channels_last: bool) -> None:
    """Set the memory format of the weights of 2-D convolutions, in place; values and shapes stay.

    A convolution returns its output in the memory format of its weight, and later layers keep it.

    Args:
        module: Any module.
        channels_last: ``torch.channels_last``; else ``torch.contiguous_format``.

    Example:
        >>> convolution = nn.Conv2d(3, 8, 3)
        >>> set_memory_format(convolution, channels_last=True)
        >>> convolution.weight.stride(), convolution(torch.zeros(1, 3, 4, 4)).stride()
        ((27, 1, 9, 3), (32, 1, 16, 8))
    """
    memory_format = torch.channels_last if channels_last else torch.contiguous_format
    for parameter in module.parameters():
        if parameter.ndim == 4:
            parameter.data = parameter.data.contiguous(memory_format=memory_format)


# ---------------------------------------------------------------- written and read


class StudentFile(NamedTuple):
    """A student read from a file: the network in evaluation mode, its recipe, and what it was made for."""

    network: nn.Module
    recipe: Recipe
    made_for: MadeFor


def describe_student(student: nn.Module, facts: DataFacts, classes: tuple[str, ...]) -> MadeFor:
    """Describe what a student is made for, so that it can be made again without the images."""
    model = image_model(student)
    mean, std = ((), ()) if model is None else (model.mean, model.std)
    return MadeFor(
        **facts._asdict(),
        classes=classes,
        mean=_numbers(mean),
        std=_numbers(std),
        configuration=dict(model.configuration) if isinstance(model, External) else {},
    )


def _numbers(values: Tensor | tuple[()]) -> tuple[float, ...]:
    return tuple(values.flatten().tolist()) if isinstance(values, Tensor) else values


def save_student(student: nn.Module, recipe: Recipe, made_for: MadeFor, path: Path) -> None:
    """Write a deployable student: weights as safetensors, the recipe and its classes in the metadata."""
    # Copies: safetensors refuses tensors that share memory, as tied weights do. The network ties them again.
    weights = {
        name: tensor.detach().to("cpu", memory_format=torch.contiguous_format, copy=True)
        for name, tensor in student.state_dict().items()
    }
    text = recipe_text(recipe) + "\n" + tomli_w.dumps({MADE_FOR: made_for.model_dump()})
    # One entry: safetensors writes several in random order, and equal runs have equal files.
    path.write_bytes(save(weights, metadata={"recipe": text}))


def load_student(path: str | Path, recipe: Recipe | None = None) -> tuple[nn.Module, Recipe]:
    """Load a student that a run wrote, or any weights together with their recipe.

    Args:
        path: ``student.safetensors``, the folder of a finished run, or a checkpoint of one
            (``checkpoints/best.pt``); with ``recipe``, also any file of
            :func:`dotkd.models.load_weights`.
        recipe: The recipe of the student; None: the one in the file or beside it.

    Returns:
        The network in evaluation mode, and its recipe. The network takes images [B, C, H, W] in
        [0, 1], of the size of its training or resized to it, and returns logits.

    Raises:
        BadInput: The file is missing, broken, does not fit, or comes without a recipe.

    Example:
        >>> from dotkd.recipe import load_recipe
        >>> from dotkd.train import train
        >>> results = train(load_recipe("quick/digits-plain", ["schedule.epochs=1"]), Path("run"))
        >>> student, recipe = load_student("run")
        >>> student(torch.rand(2, 1, 8, 8)).shape
        torch.Size([2, 10])
    """
    return read_student(path, recipe)[:2]


def read_student(
    path: str | Path, recipe: Recipe | None = None, made_for: MadeFor | None = None
) -> StudentFile:
    """Load a student as :func:`load_student` does, with what it is made for (None: looked up)."""
    path = Path(path)
    path = path / STUDENT if path.is_dir() else path
    named = "" if recipe is None else recipe.student.model
    if not path.is_file():
        raise BadInput(f"no file {str(path)!r}: wanted a {STUDENT} or the folder of a finished run")
    if recipe is None:
        recipe, made_for = _own_recipe(path)
        refuse_own_code(recipe, path)
    entries = read_weights(path)
    made_for = made_for or MadeFor(**recipe.data.facts()._asdict())
    model = build_model(
        recipe.student.model,
        recipe.student,
        made_for,
        pretrained=False,
        configuration=made_for.configuration or _configuration(path, named),
    )
    _take_made_for(model, made_for)
    student: nn.Module = model
    method = None if recipe.method is None else create_method(**recipe.method)
    if isinstance(method, Method) and type(method).deployable_like is not Method.deployable_like:
        whole = next(iter(entries.values()))
        weights = {name.removeprefix("method."): tensor for name, tensor in whole.items()}
        try:
            student, entries = method.deployable_like(student, weights, recipe.student.paths()), {"": weights}
        except ValueError as error:
            raise BadInput(f"{path}: {error}") from None
    started = recipe.student.checkpoint
    key = recipe.student.checkpoint_key if started and Path(started).resolve() == path.resolve() else None
    assign_weights(student, entries, path, key)
    return StudentFile(student.eval(), recipe, made_for)


def refuse_own_code(recipe: Recipe, path: Path) -> None:
    """Refuse to run code that a file names.

    Args:
        recipe: The recipe in the file.
        path: The file, for the error text.

    Raises:
        BadInput: A function of some module makes the student.
    """
    if runs_own_code(recipe.student.model):
        raise BadInput(
            f"{path}: its network is made by the function {recipe.student.model!r}, and code that a file "
            "names is not run: give the recipe yourself (--recipe)"
        )


def _own_recipe(path: Path) -> tuple[Recipe, MadeFor | None]:
    """The recipe of a file: in its metadata, or in the run folder around a checkpoint."""
    run = _run_around(path)
    if run is not None:
        return load_recipe(run / RECIPE), read_made_for(run)
    recipe, made_for = _recorded(path)
    if recipe is None:
        raise BadInput(
            f"{path}: has no recipe in it; name its network by teacher.model, or by --recipe for "
            "evaluate and export"
        )
    if made_for is None and recipe.data.name in _UNNAMED:
        raise BadInput(f"{path}: lacks the shape of its images; give its recipe (--recipe)")
    return recipe, made_for


def _run_around(path: Path) -> Path | None:
    """The run folder of a checkpoint, if it is in one."""
    run = path.parent.parent
    return run if path.parent.name == Path(LAST).parent.name and (run / RECIPE).is_file() else None


def read_made_for(run: Path) -> MadeFor | None:
    """What a run folder says of its student; None in folders of older runs."""
    known = read_json(run / ENVIRONMENT) if (run / ENVIRONMENT).is_file() else {}
    return _made_for(known.get(MADE_FOR), run / ENVIRONMENT)


def _configuration(path: str | Path | None, model: str) -> dict[str, str]:
    """The configuration that comes with weights: in the metadata, or in the run folder."""
    # `model` is the name in the user's recipe: its folder must not describe another network.
    if path is None or not Path(path).is_file():
        return {}
    recipe, made_for = _recorded(Path(path))
    run = _run_around(Path(path))
    if recipe is None and run is not None:
        made_for = read_made_for(run)
    stored = {} if made_for is None else made_for.configuration
    source, _, folder = model.partition(":")
    own = Path(folder.removesuffix(PRETRAINED)) / _NETWORK
    if (
        source == "hf"
        and _NETWORK in stored
        and own.is_file()
        and _network_in(stored[_NETWORK]) != _network_in(own.read_text(encoding="utf-8"))
    ):
        raise BadInput(
            f"model {model!r}: {own} describes another network than the {_NETWORK} in {path}: give the "
            "folder of these weights"
        )
    return stored


_NETWORK = "config.json"  # of transformers


def _network_in(text: str) -> object:
    """What a ``config.json`` says, without notes on its origin; None if it is broken."""
    notes = ("transformers_version", "_name_or_path")
    try:
        return {key: value for key, value in json.loads(text).items() if key not in notes}
    except (ValueError, AttributeError):
        return None


def _recorded(path: Path) -> tuple[Recipe | None, MadeFor | None]:
    """The recipe in a file's metadata, and what the network is made for; None if it has none."""
    metadata = _metadata(path)
    if "recipe" not in metadata:
        return None, None
    source = f"{path}, recipe"
    try:
        raw = tomllib.loads(metadata["recipe"])
    except ValueError as error:
        raise BadInput(f"{source}: not valid TOML: {error}") from None
    made_for = _made_for(raw.pop(MADE_FOR, None), source)
    return make_recipe(raw, source), made_for


def _made_for(raw: object, source: str | Path) -> MadeFor | None:
    if raw is None:
        return None
    try:
        return MadeFor.model_validate_json(json.dumps(raw))
    except ValidationError:
        raise BadInput(f"{source}: broken: {MADE_FOR} must have {', '.join(MadeFor.model_fields)}") from None


def _check_normalisation(recipe: Recipe, path: Path) -> MadeFor | None:
    """Refuse weights that were trained with another mean or std; return what else their file says."""
    file, made_for = _recorded(path)
    if file is None:
        return None
    for key in ("mean", "std"):
        ours, other = getattr(recipe.student, key), getattr(file.student, key)
        if ours != other:
            raise BadInput(
                f"student.checkpoint: {recipe.student.checkpoint} was trained with student.{key} = "
                f"{list(other)}, the recipe has {list(ours)}"
            )
    return made_for


def _metadata(path: Path) -> dict[str, str]:
    """The metadata of a safetensors file; empty for other files."""
    if not is_safetensors(path):
        return {}
    try:
        with safe_open(path, framework="pt") as file:
            return file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise BadInput(f"{path}: not a safetensors file: {error}") from None
