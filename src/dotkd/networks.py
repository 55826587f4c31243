"""Networks with their weights: drawn by a seed, read from files, written for others.

Weights are drawn under the run's seed, in a stream of their own, so that all arms of a seed start from the
same student. A file is data: what it says of itself never decides what code is run.
"""

import tomllib
from pathlib import Path

import tomli_w
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import nn

from dotkd.build import build_method, build_model
from dotkd.data import DataFacts
from dotkd.errors import BadInput
from dotkd.methods import Method
from dotkd.models import ImageModel, load_weights
from dotkd.models.external import runs_own_code
from dotkd.models.weights import assign_weights, is_safetensors, read_weights
from dotkd.recipe import Recipe, load_recipe, recipe_text
from dotkd.recipe.load import make_recipe
from dotkd.runs import LAST, RECIPE, STUDENT
from dotkd.seeding import random_stream

_UNKNOWN = ("folder", "hub")  # of these the name does not say what the images are like
_MADE_FOR = "made_for"


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
    lay_out(student, channels_last=recipe.run.channels_last)
    return student


def lay_out(module: nn.Module, *, channels_last: bool) -> None:
    """Lay out the weights of 2-D convolutions, in place; their values and shapes stay.

    Where a weight lies with the channels innermost, the convolution computes and returns in that layout
    too, and what follows it keeps it. Other weights have one layout only.

    Args:
        module: Any module.
        channels_last: With the channels innermost; else in the order of the shape.

    Example:
        >>> convolution = nn.Conv2d(3, 8, 3)
        >>> lay_out(convolution, channels_last=True)
        >>> convolution.weight.stride(), convolution(torch.zeros(1, 3, 4, 4)).stride()
        ((27, 1, 9, 3), (32, 1, 16, 8))
    """
    layout = torch.channels_last if channels_last else torch.contiguous_format
    for parameter in module.parameters():
        if parameter.ndim == 4:
            parameter.data = parameter.data.contiguous(memory_format=layout)


def build_teacher(recipe: Recipe, path: Path | None) -> nn.Module:
    """Make the teacher of a recipe, with the weights of a file.

    Args:
        recipe: The recipe.
        path: A student of another run, which knows its model, or any weights of ``teacher.model``; None
            where the model's name brings weights of its own.

    Returns:
        The teacher in evaluation mode.

    Raises:
        BadInput: The file is missing or does not fit, or the teacher learned from another data set.
    """
    table = recipe.teacher
    if table is not None and table.model is not None:
        teacher: nn.Module = build_model(table.model, table, recipe.data, pretrained=path is None)
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


def save_student(student: nn.Module, recipe: Recipe, path: Path) -> None:
    """Write what is to be deployed: weights as safetensors, the recipe in the metadata."""
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in student.state_dict().items()}
    text = recipe_text(recipe)
    if recipe.data.name in _UNKNOWN:  # the network shall be made again without the images
        text += "\n" + tomli_w.dumps({_MADE_FOR: recipe.data.facts()._asdict()})
    # One entry only: safetensors writes several in an order of chance, and equal runs have equal files.
    path.write_bytes(save(weights, metadata={"recipe": text}))


def load_student(path: str | Path, recipe: Recipe | None = None) -> tuple[nn.Module, Recipe]:
    """Read a student that a run wrote, or any weights for which a recipe says what they are.

    Args:
        path: ``student.safetensors``, the folder of a finished run, or a checkpoint of one
            (``checkpoints/best.pt``); with ``recipe``, also any file of
            :func:`dotkd.models.load_weights`.
        recipe: The recipe whose student the weights are of; None where the file or its run knows.

    Returns:
        The network in evaluation mode, and its recipe. The network takes images [B, C, H, W] in
        [0, 1] and returns logits.

    Raises:
        BadInput: The file is missing, broken, does not fit, or does not say what it is of.

    Example:
        >>> from dotkd.recipe import load_recipe
        >>> from dotkd.train.loop import train
        >>> results = train(load_recipe("quick/digits-plain", ["schedule.epochs=1"]), Path("run"))
        >>> student, recipe = load_student("run")
        >>> student(torch.rand(2, 1, 8, 8)).shape
        torch.Size([2, 10])
    """
    path = Path(path)
    path = path / STUDENT if path.is_dir() else path
    if not path.is_file():
        raise BadInput(f"no file {str(path)!r}: wanted a {STUDENT} or the folder of a finished run")
    facts = None
    if recipe is None:
        recipe, facts = _own_recipe(path)
        refuse_own_code(recipe, path)
    weights = read_weights(path)
    student: nn.Module = build_model(
        recipe.student.model, recipe.student, recipe.data, pretrained=False, facts=facts
    )
    method = build_method(recipe)
    if isinstance(method, Method):
        if type(method).deployable_like is not Method.deployable_like and not is_safetensors(path):
            whole = read_weights(path, objective=True)
            weights = {name.removeprefix("method."): tensor for name, tensor in whole.items()}
        try:
            student = method.deployable_like(student, weights, recipe.student.paths())
        except ValueError as error:
            raise BadInput(f"{path}: {error}") from None
    assign_weights(student, weights, path)
    return student.eval(), recipe


def refuse_own_code(recipe: Recipe, path: Path) -> None:
    """Refuse to run code because a file says so.

    Args:
        recipe: What the file says of itself.
        path: The file, for the error text.

    Raises:
        BadInput: Its student is made by a function, of whatever module.
    """
    if runs_own_code(recipe.student.model):
        raise BadInput(
            f"{path}: made by the function {recipe.student.model!r}, and a file does not decide what "
            "code is run: say so yourself by giving its recipe (--recipe)"
        )


def _own_recipe(path: Path) -> tuple[Recipe, DataFacts | None]:
    """Find out of which recipe a file's weights are: by its metadata, or by the run in whose folder it is."""
    beside = path.parent.parent / RECIPE
    if path.parent.name == Path(LAST).parent.name and beside.is_file():
        return load_recipe(beside), None
    metadata = _metadata(path)
    if "recipe" not in metadata:
        raise BadInput(
            f"{path}: does not say what network it is of; name it: teacher.model for a teacher, --recipe for "
            "evaluate and export"
        )
    recipe, facts = _parsed(metadata["recipe"], path)
    if facts is None and recipe.data.name in _UNKNOWN:
        raise BadInput(f"{path}: does not say for what images it is; give its recipe (--recipe)")
    return recipe, facts


def _parsed(text: str, path: str | Path) -> tuple[Recipe, DataFacts | None]:
    """Read the recipe in a file's metadata, and what it says of the images."""
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
    """Refuse weights that were trained on images normalised in another way, which they cannot show."""
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
    """Return what a safetensors file says of itself; other files say nothing."""
    if not is_safetensors(path):
        return {}
    try:
        with safe_open(path, framework="pt") as file:
            return file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise BadInput(f"{path}: not a safetensors file: {error}") from None
