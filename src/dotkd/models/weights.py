"""Weights from files into a model: published checkpoints and safetensors. A file is data, never code."""

import pickle
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from dotkd.errors import BadInput
from dotkd.models.external import External

# Where training scripts keep the weights beside the epoch and the optimizer.
_ENTRIES = ("model", "state_dict", "objective")
_STUDENT = "student."  # before its names among those of an objective
_SHOWN = 5


def load_weights(model: nn.Module, path: str | Path) -> None:
    """Fill a model with the weights of a file.

    A safetensors file, whatever its name, holds the weights themselves. Any other file is one of
    ``torch.save``: the weights, or a dictionary with them under ``model`` or ``state_dict``, or the
    checkpoint of a run, of which the student is taken; ``module.`` in front of all names, as parallel
    training leaves it, is dropped. It is read without running any code in it.

    Args:
        model: The model, changed in place, and only if all fits.
        path: The file.

    Raises:
        BadInput: No such file, no weights in it, code in it, or weights that do not fit: the message
            names keys that are missing or unexpected, and shapes that differ, at most 5 of each.

    Example:
        >>> import torch
        >>> from dotkd.models import create_model
        >>> teacher = create_model("cifar100/resnet8", num_classes=100)
        >>> torch.save({"epoch": 240, "model": teacher.state_dict()}, "resnet8.pth")
        >>> student = create_model("cifar100/resnet8", num_classes=100)
        >>> load_weights(student, "resnet8.pth")
        >>> torch.equal(student.fc.weight, teacher.fc.weight)
        True
    """
    fill(model, read_weights(path), path)


def read_weights(path: str | Path, *, objective: bool = False) -> dict[str, Tensor]:
    """Read the weights of a file, as :func:`load_weights` does.

    Args:
        path: The file.
        objective: Of the checkpoint of a run all weights, with ``student.`` and ``method.`` in front.

    Returns:
        Name -> tensor, on the CPU.

    Raises:
        BadInput: No such file, no weights in it, or code in it.
    """
    path = Path(path)
    if not path.is_file():
        raise BadInput(f"no file {str(path)!r}: wanted weights, as .pth, .pt or .safetensors")
    weights = _read_safetensors(path) if is_safetensors(path) else _read_torch(path, objective)
    if all(name.startswith("module.") for name in weights):
        weights = {name.removeprefix("module."): tensor for name, tensor in weights.items()}
    return weights


def fill(model: nn.Module, weights: Mapping[str, Tensor], path: str | Path) -> None:
    """Fill a model with weights, if all fit.

    Args:
        model: The model, changed in place.
        weights: Name -> tensor.
        path: Where they are from, for the error text.

    Raises:
        BadInput: Some do not fit; the message names them.
    """
    wrong = _differences(model.state_dict(), weights)
    if wrong and isinstance(model, External):  # its own file names the inner model's keys
        inner = {f"model.{name}": tensor for name, tensor in weights.items()}
        if not _differences(model.state_dict(), inner):
            weights, wrong = inner, []
    if wrong:
        raise BadInput(f"{path}: does not fit {type(model).__name__}: {'; '.join(wrong)}")
    model.load_state_dict(weights)


def is_safetensors(path: Path) -> bool:
    """Say whether a file is meant as safetensors: by its name, or because it begins as one."""
    if path.suffix == ".safetensors":
        return True
    with path.open("rb") as file:
        return file.read(9)[8:] == b"{"  # behind eight bytes of length comes the header, JSON


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise BadInput(f"{path}: not a safetensors file: {error}") from None


def _read_torch(path: Path, objective: bool) -> dict[str, Tensor]:
    try:
        with torch.serialization.safe_globals(_numbers()):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        code = re.search(r"GLOBAL (\S+)", str(error))
        if code is None:
            raise BadInput(f"{path}: not a file of torch.save") from None
        raise BadInput(
            f"{path}: refused, loading it would run code: it names {code[1]}; save the state_dict alone"
        ) from None
    except Exception as error:  # any bytes may come here, and torch promises no kind of error for them
        raise BadInput(f"{path}: not a file of torch.save ({type(error).__name__})") from None
    return _weights(content, path, objective)


def _weights(content: Any, path: Path, objective: bool) -> dict[str, Tensor]:
    if isinstance(content, Mapping):
        for entry in _ENTRIES:
            if isinstance(content.get(entry), Mapping):
                content = content[entry]
                if entry == "objective" and not objective:
                    content = {
                        name.removeprefix(_STUDENT): value
                        for name, value in content.items()
                        if str(name).startswith(_STUDENT)
                    }
                break
    if not isinstance(content, Mapping) or not content:
        raise BadInput(f"{path}: holds no weights: wanted a state_dict, or one under 'model' or 'state_dict'")
    strange = [name for name, value in content.items() if not isinstance(value, Tensor)]
    if strange:
        raise BadInput(f"{path}: not weights: {_some(map(repr, strange))} in it, which are no tensors")
    return {str(name): value for name, value in content.items()}


def _differences(wanted: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> list[str]:
    # Files from before torch 0.4.1 lack these counters, and torch fills them in.
    missing = [name for name in wanted if name not in given and not name.endswith("num_batches_tracked")]
    unexpected = [name for name in given if name not in wanted]
    shapes = [
        f"{name} {list(given[name].shape)}, wanted {list(tensor.shape)}"
        for name, tensor in wanted.items()
        if name in given and given[name].shape != tensor.shape
    ]
    found = {"missing": missing, "unexpected": unexpected, "other shape": shapes}
    return [f"{what}: {_some(names)}" for what, names in found.items() if names]


def _some(names: Iterable[str]) -> str:
    names = list(names)
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more


def _numbers() -> list[Any]:
    """What a numpy number needs, such as the best accuracy that a script saved beside the weights."""
    scalar = np.float64(0).__reduce__()[0]
    kinds = {type(np.dtype(kind)) for kind in (np.float64, np.float32, np.int64, np.int32, np.bool_)}
    return [scalar, (scalar, "numpy.core.multiarray.scalar"), np.dtype, *kinds]
