"""Loads weights from files, published checkpoints and safetensors, into a model. Files are never executed."""

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
from dotkd.models.wrap import External

# Keys under which training scripts save the weights; the last is that of our own checkpoints.
_ENTRIES = ("model", "state_dict", "objective")
_STUDENT = "student."  # prefix of the student's weights in "objective"
_SHOWN = 5  # names that a message lists of each kind


def load_weights(model: nn.Module, path: str | Path) -> None:
    """Load the weights of a file into a model.

    A safetensors file is recognised by its name or its content. Any other file must be one of ``torch.save``
    that holds a ``state_dict``, a dictionary with a ``state_dict`` under ``model`` or ``state_dict``, or the
    checkpoint of a run, from which the student is taken. The prefix ``module.`` that
    ``DistributedDataParallel`` leaves is dropped. No code in the file is run.

    Args:
        model: The model, changed in place; unchanged if any weight does not fit.
        path: The file.

    Raises:
        BadInput: The file does not exist, holds no weights, contains code, or does not fit. The message
            lists at most 5 missing keys, unexpected keys and different shapes each.

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
    assign_weights(model, read_weights(path), path)


def read_weights(path: str | Path, *, objective: bool = False) -> dict[str, Tensor]:
    """Read a file as :func:`load_weights` does, onto the CPU.

    Args:
        path: The file.
        objective: Return all weights of a run's checkpoint, with the prefixes ``student.`` and ``method.``.

    Returns:
        Name -> tensor.

    Raises:
        BadInput: The file does not exist, holds no weights, or contains code.
    """
    path = Path(path)
    if not path.is_file():
        raise BadInput(f"no file {str(path)!r}: wanted weights, as .pth, .pt or .safetensors")
    weights = _read_safetensors(path) if is_safetensors(path) else _read_torch(path, objective)
    if all(name.startswith("module.") for name in weights):
        weights = {name.removeprefix("module."): tensor for name, tensor in weights.items()}
    return weights


def assign_weights(model: nn.Module, weights: Mapping[str, Tensor], path: str | Path) -> None:
    """Assign weights to a model if all fit; otherwise raise BadInput, which names ``path``."""
    wrong = _differences(model.state_dict(), weights)
    if wrong and isinstance(model, External):  # the file may be one of the inner model
        inner = {f"model.{name}": tensor for name, tensor in weights.items()}
        if not _differences(model.state_dict(), inner):
            weights, wrong = inner, []
    if wrong:
        raise BadInput(f"{path}: does not fit {type(model).__name__}: {'; '.join(wrong)}")
    model.load_state_dict(weights)


def is_safetensors(path: Path) -> bool:
    """Tell whether a file is meant as safetensors, by its suffix or its first bytes."""
    if path.suffix == ".safetensors":
        return True
    with path.open("rb") as file:
        return file.read(9)[8:] == b"{"  # a JSON header after 8 bytes that hold its length


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise BadInput(f"{path}: not a safetensors file: {error}") from None


def _read_torch(path: Path, objective: bool) -> dict[str, Tensor]:
    try:
        with torch.serialization.safe_globals(_numpy_scalar_types()):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        code = re.search(r"GLOBAL (\S+)", str(error))
        if code is None:
            raise BadInput(f"{path}: not a file of torch.save") from None
        raise BadInput(
            f"{path}: refused, loading it would run code: it names {code[1]}; save the state_dict alone"
        ) from None
    except Exception as error:  # torch raises errors of many types for files of arbitrary bytes
        raise BadInput(f"{path}: not a file of torch.save ({type(error).__name__})") from None
    return _extract_weights(content, path, objective)


def _extract_weights(content: Any, path: Path, objective: bool) -> dict[str, Tensor]:
    if isinstance(content, Mapping):
        entry = next((entry for entry in _ENTRIES if isinstance(content.get(entry), Mapping)), None)
        content = content if entry is None else content[entry]
        if entry == "objective" and not objective:
            content = {
                name.removeprefix(_STUDENT): value
                for name, value in content.items()
                if str(name).startswith(_STUDENT)
            }
    if not isinstance(content, Mapping) or not content:
        raise BadInput(f"{path}: holds no weights: wanted a state_dict, or one under 'model' or 'state_dict'")
    others = [name for name, value in content.items() if not isinstance(value, Tensor)]
    if others:
        raise BadInput(f"{path}: not weights: the entries {_first(map(repr, others))} are not tensors")
    return {str(name): value for name, value in content.items()}


def _differences(wanted: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> list[str]:
    """List missing names, unexpected names and different shapes, each as one clause of a message."""
    # Files written before torch 0.4.1 lack num_batches_tracked; load_state_dict accepts that.
    missing = [name for name in wanted if name not in given and not name.endswith("num_batches_tracked")]
    unexpected = [name for name in given if name not in wanted]
    shapes = [
        f"{name} {list(given[name].shape)}, wanted {list(tensor.shape)}"
        for name, tensor in wanted.items()
        if name in given and given[name].shape != tensor.shape
    ]
    found = {"missing": missing, "unexpected": unexpected, "other shape": shapes}
    return [f"{kind}: {_first(names)}" for kind, names in found.items() if names]


def _first(names: Iterable[str]) -> str:
    names = list(names)
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more


def _numpy_scalar_types() -> list[Any]:
    """Types to allow for numpy scalars, such as the best accuracy that a script saved with the weights."""
    scalar = np.float64(0).__reduce__()[0]
    kinds = {type(np.dtype(kind)) for kind in (np.float64, np.float32, np.int64, np.int32, np.bool_)}
    return [scalar, (scalar, "numpy.core.multiarray.scalar"), np.dtype, *kinds]
