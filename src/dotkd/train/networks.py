"""Networks of a recipe: made with weights of the seed, read from files, written as student files.

A run's weights are drawn in a random stream of their own, so that all arms of a seed start from the same
student. A file is data: its content never decides which code runs.
"""

import tomllib
from pathlib import Path
from typing import NamedTuple

import tomli_w
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import nn

from dotkd.data import DataFacts
from dotkd.errors import BadInput
from dotkd.methods import Method, create_method
from dotkd.models import ImageModel, create_model, load_weights
from dotkd.models.external import runs_own_code
from dotkd.models.weights import assign_weights, is_safetensors, read_weights
from dotkd.recipe import Recipe, load_recipe, recipe_text
from dotkd.recipe.load import make_recipe
from dotkd.recipe.tables import Network
from dotkd.runs import LAST, RECIPE, STUDENT
from dotkd.seeding import random_stream

_UNNAMED = ("folder", "hub")  # data sets whose name does not tell the shape of the images
_MADE_FOR = "made_for"


# ---------------------------------------------------------------- made


def build_model(name: str, table: Network, facts: DataFacts, *, pretrained: bool = True) -> ImageModel:
    """Make a network for images.

    Args:
        name: Name of the network.
        table: Its normalisation.
        facts: Shape of the images, number of classes.
        pretrained: Whether to load the weights that the name promises; else a file has them.

    Returns:
        The network, with fresh weights from torch's generator or with those of its name.
    """
    shape = (facts.channels, facts.height, facts.width)
    return create_model(
        name, facts.num_classes, image_shape=shape, mean=table.mean, std=table.std, pretrained=pretrained
    )


def build_student(recipe: Recipe, facts: DataFacts | None = None) -> ImageModel:
    """Make the student of a recipe, with the weights of its seed or of its checkpoint.

    Args:
        recipe: The recipe.
        facts: Of its data; None: they are looked up.

    Returns:
        The student, on the CPU. Torch's global generator is left as it was.

    Raises:
        BadInput: The checkpoint is broken, or does not fit the network.
    """
    table = recipe.student
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(random_stream(recipe.run.seed, "student.init").initial_seed())
        student = build_model(
            table.model, table, facts or recipe.data.facts(), pretrained=table.checkpoint is None
        )
    if table.checkpoint is not None:
        load_weights(student, table.checkpoint)
        _check_normalisation(recipe, _metadata(Path(table.checkpoint)))
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
        teacher: nn.Module = build_model(table.model, table, facts, pretrained=path is None)
        if path is not None:
            load_weights(teacher, path)
        return teacher.eval()
    assert path is not None
    teacher, taught = load_student(path)
    if taught.data.name != recipe.data.name:
        raise BadInput(
            f"teacher.checkpoint: {path} learned from {taught.data.name}, the student's data is "
            f"{recipe.data.name}"
        )
    return teacher


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
    """A student read from a file: the network in evaluation mode, its recipe, and the facts of its images."""

    network: nn.Module
    recipe: Recipe
    facts: DataFacts


def save_student(student: nn.Module, recipe: Recipe, facts: DataFacts, path: Path) -> None:
    """Write a deployable student: weights as safetensors, the recipe in the metadata."""
    # Copies: safetensors refuses tensors that share memory, as tied weights do. The network ties them again.
    weights = {
        name: tensor.detach().to("cpu", memory_format=torch.contiguous_format, copy=True)
        for name, tensor in student.state_dict().items()
    }
    text = recipe_text(recipe)
    if recipe.data.name in _UNNAMED:  # the network is made again without the images
        text += "\n" + tomli_w.dumps({_MADE_FOR: facts._asdict()})
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
        [0, 1] and returns logits.

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
    path: str | Path, recipe: Recipe | None = None, facts: DataFacts | None = None
) -> StudentFile:
    """Load a student as :func:`load_student` does, with the facts of its images (None: looked up)."""
    path = Path(path)
    path = path / STUDENT if path.is_dir() else path
    if not path.is_file():
        raise BadInput(f"no file {str(path)!r}: wanted a {STUDENT} or the folder of a finished run")
    if recipe is None:
        recipe, facts = _own_recipe(path)
        refuse_own_code(recipe, path)
    weights = read_weights(path)
    facts = facts or recipe.data.facts()
    student: nn.Module = build_model(recipe.student.model, recipe.student, facts, pretrained=False)
    method = None if recipe.method is None else create_method(**recipe.method)
    if isinstance(method, Method):
        if type(method).deployable_like is not Method.deployable_like and not is_safetensors(path):
            whole = read_weights(path, objective=True)
            weights = {name.removeprefix("method."): tensor for name, tensor in whole.items()}
        try:
            student = method.deployable_like(student, weights, recipe.student.paths())
        except ValueError as error:
            raise BadInput(f"{path}: {error}") from None
    assign_weights(student, weights, path)
    return StudentFile(student.eval(), recipe, facts)


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


def _own_recipe(path: Path) -> tuple[Recipe, DataFacts | None]:
    """The recipe of a file: in its metadata, or in the run folder around a checkpoint."""
    beside = path.parent.parent / RECIPE
    if path.parent.name == Path(LAST).parent.name and beside.is_file():
        return load_recipe(beside), None
    metadata = _metadata(path)
    if "recipe" not in metadata:
        raise BadInput(
            f"{path}: has no recipe in it; name its network by teacher.model, or by --recipe for "
            "evaluate and export"
        )
    recipe, facts = _parsed(metadata["recipe"], path)
    if facts is None and recipe.data.name in _UNNAMED:
        raise BadInput(f"{path}: lacks the shape of its images; give its recipe (--recipe)")
    return recipe, facts


def _parsed(text: str, path: str | Path) -> tuple[Recipe, DataFacts | None]:
    """The recipe in a file's metadata, and the facts of the images in it."""
    source = f"{path}, recipe"
    try:
        raw = tomllib.loads(text)
    except ValueError as error:
        raise BadInput(f"{source}: not valid TOML: {error}") from None
    facts = raw.pop(_MADE_FOR, None)
    if facts is not None:
        numbers = isinstance(facts, dict) and all(
            type(value) is int and value > 0 for value in facts.values()
        )
        if not numbers or facts.keys() != set(DataFacts._fields):
            raise BadInput(f"{source}: broken: [{_MADE_FOR}] must have {', '.join(DataFacts._fields)}")
        facts = DataFacts(**facts)
    return make_recipe(raw, source), facts


def _check_normalisation(recipe: Recipe, metadata: dict[str, str]) -> None:
    """Refuse weights that were trained with another mean or std, which the weights cannot show."""
    if "recipe" not in metadata:
        return
    theirs = _parsed(metadata["recipe"], recipe.student.checkpoint or "")[0].student
    for key in ("mean", "std"):
        ours, other = getattr(recipe.student, key), getattr(theirs, key)
        if ours != other:
            raise BadInput(
                f"student.checkpoint: {recipe.student.checkpoint} was trained with student.{key} = "
                f"{list(other)}, the recipe has {list(ours)}"
            )


def _metadata(path: Path) -> dict[str, str]:
    """The metadata of a safetensors file; empty for other files."""
    if not is_safetensors(path):
        return {}
    try:
        with safe_open(path, framework="pt") as file:
            return file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise BadInput(f"{path}: not a safetensors file: {error}") from None
