"""Loads weights from files, published checkpoints and safetensors, into a model. Files are never executed.

A file may hold several sets of weights, each under a key and behind prefixes that wrappers left. They are
found by the names of the model itself.
"""

import pickle
import re
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from dotkd.errors import BadInput
from dotkd.models.wrap import External

Entries = Mapping[str, Mapping[str, Tensor]]
"""Sets of weights of a file by their keys, dotted where nested; "" is the file itself."""

_OBJECTIVE = "objective"  # key of the weights in checkpoints of runs
_FIRST = ("", "model", "state_dict", "model_state_dict", "net", "student")  # taken before other keys
_AVERAGED = re.compile(r"ema|swa|averag", re.IGNORECASE)
_DEPTH = 2  # keys around a set of weights
# Parts of names that torch.compile, FSDP and activation checkpointing add.
_WRAPPERS = re.compile(r"\b(_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
_SHOWN = 2  # names that a message lists of each kind


def load_weights(model: nn.Module, path: str | Path, key: str | None = None) -> None:
    """Load the weights of a file into a model.

    A safetensors file is recognised by its name or its content. Any other file must be one of ``torch.save``
    that holds a ``state_dict``, alone or under any key, such as ``model``, ``state_dict`` or ``ema``, or the
    checkpoint of a run, from which the student is taken. Names may have a prefix, such as those of
    ``DistributedDataParallel``, ``torch.compile``, Lightning and ``AveragedModel``; weights outside it are
    left out. Weights of another precision are converted. No code in the file is run.

    Args:
        model: The model, changed in place; unchanged if any weight does not fit.
        path: The file.
        key: The set of weights to take, such as ``"ema"`` or ``"state_dict.student"``. None: the one that
            fits; of several the plain one before an average, with a warning that names the others.

    Raises:
        BadInput: The file does not exist, holds no weights, contains code, or does not fit. The message
            lists at most 2 different shapes, missing and unexpected names each.

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
    assign_weights(model, read_weights(path), path, key)


# ---------------------------------------------------------------- from a file


def read_weights(path: str | Path) -> dict[str, dict[str, Tensor]]:
    """Read all sets of weights of a file, onto the CPU.

    Args:
        path: The file.

    Returns:
        Key -> name -> tensor, in the order of the file, at least one. A key is dotted where it is nested,
        and "" for the file itself.

    Raises:
        BadInput: The file does not exist, holds no weights, or contains code.
    """
    path = Path(path)
    if not path.is_file():
        raise BadInput(f"no file {str(path)!r}: wanted weights, as .pth, .pt or .safetensors")
    if is_safetensors(path):
        return {"": _read_safetensors(path)}
    content = _read_torch(path)
    if isinstance(content, Mapping) and isinstance(content.get(_OBJECTIVE), Mapping):
        content = {_OBJECTIVE: content[_OBJECTIVE]}  # of a run: nothing else in it is for a model
    found = {".".join(keys): weights for keys, weights in _find_weights(content)}
    if not found:
        keys = f", its keys are {_first(map(repr, content))}" if isinstance(content, Mapping) else ""
        raise BadInput(
            f"{path}: holds no weights: wanted a state_dict, or one under a key such as 'model' or "
            f"'state_dict'; it is a {type(content).__name__}{keys}"
        )
    return found


def _find_weights(
    content: Any, keys: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], dict[str, Tensor]]]:
    """Find the mappings with tensors in a mapping, each with the keys that lead to it."""
    if not isinstance(content, Mapping):
        return
    weights = {str(name): value for name, value in content.items() if isinstance(value, Tensor)}
    if weights:
        yield keys, weights
    for key, value in content.items() if len(keys) < _DEPTH else ():
        yield from _find_weights(value, (*keys, str(key)))


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


def _read_torch(path: Path) -> Any:
    try:
        with torch.serialization.safe_globals([*_numpy_scalar_types(), *_passed_over()]):
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        code = re.search(r"GLOBAL (\S+)", str(error))
        if code is None:
            raise BadInput(f"{path}: not a file of torch.save") from None
        raise BadInput(
            f"{path}: refused, loading it would run code: it names {code[1]}; save the state_dict alone"
        ) from None
    except Exception as error:  # torch raises errors of many types for files of arbitrary bytes
        raise BadInput(f"{path}: not a file of torch.save ({type(error).__name__})") from None


def _numpy_scalar_types() -> list[Any]:
    """Types to allow for numpy scalars, such as the best accuracy that a script saved with the weights."""
    scalar = np.float64(0).__reduce__()[0]
    kinds = {type(np.dtype(kind)) for kind in np.typecodes["All"]}
    return [scalar, (scalar, "numpy.core.multiarray.scalar"), np.dtype, *kinds]


class _PassedOver:
    """Stands for an object beside the weights, such as the settings of a script; nothing of it is kept."""

    def __new__(cls, *_args: Any) -> "_PassedOver":
        return super().__new__(cls)

    def __setstate__(self, _state: Any) -> None:
        pass


def _passed_over() -> list[Any]:
    """Harmless types that scripts save beside the weights; files of other systems have their paths."""
    paths = ("PosixPath", "WindowsPath", "PurePosixPath", "PureWindowsPath")
    names = [f"{module}.{path}" for module in ("pathlib", "pathlib._local") for path in paths]
    names += [f"numpy.{core}.multiarray._reconstruct" for core in ("core", "_core")]
    names += ["numpy.ndarray", "argparse.Namespace", "types.SimpleNamespace"]
    return [(_PassedOver, name) for name in names]


# ---------------------------------------------------------------- into a model


class _Candidate(NamedTuple):
    """Weights behind one prefix of one entry of a file, named as the model names them, if it has them."""

    key: str
    weights: dict[str, Tensor]
    differences: list[str]
    matches: int

    @property
    def rank(self) -> tuple[bool, list[int]]:
        """Order of candidates that fit: plain ones first, then the usual keys."""
        usual = [_FIRST.index(step) if step in _FIRST else len(_FIRST) for step in self.key.split(".")]
        return _AVERAGED.search(self.key) is not None, usual


def assign_weights(
    model: nn.Module, entries: Entries, path: str | Path, key: str | None = None, *, without: str = ""
) -> None:
    """Assign the set of weights that fits to a model; raise BadInput, which names ``path``, if none does.

    Args:
        model: The model, changed in place.
        entries: Sets of weights, as :func:`read_weights` returns them.
        path: The file.
        key: As for :func:`load_weights`.
        without: Path of a module that keeps its weights; those of the file are left out.

    Raises:
        BadInput: There is no such key, or the weights do not fit.
    """
    # A file may be one of the inner model of an External, and messages are for those who know that one.
    inner = "model." if isinstance(model, External) else ""
    state = {
        _WRAPPERS.sub("", name).removeprefix(inner): tensor for name, tensor in model.state_dict().items()
    }
    names = dict(zip(state, model.state_dict(), strict=True))
    kept = f"{without.removeprefix(inner)}." if without else None
    wanted = {name: tensor for name, tensor in state.items() if kept is None or not name.startswith(kept)}
    found = [one for entry, weights in entries.items() for one in _cut(entry, weights, wanted, kept)]
    if key is not None:
        chosen = [one for one in found if f"{one.key}.".startswith(f"{key}.")]
        if not chosen:
            known = sorted({repr(one.key) for one in found if one.key and 2 * one.matches > len(wanted)})
            raise BadInput(
                f"{path}: checkpoint_key = {key!r} is not in the file, which has weights under "
                f"{', '.join(known) or 'no key'}"
            )
        found = chosen
    fits = sorted((one for one in found if not one.differences), key=lambda one: one.rank)
    if not fits:
        best = max(found, key=lambda one: one.matches)
        place = f"{path}, {best.key!r}" if best.key and len(entries) > 1 else str(path)
        name = model.name if isinstance(model, External) else type(model).__name__
        raise BadInput(f"{place}: does not fit {name}: {'; '.join(best.differences)}")
    if len(fits) > 1:
        others = " or ".join(repr(one.key) for one in fits[1:])
        warnings.warn(
            f"{path}: took the weights {fits[0].key!r}; checkpoint_key = {others} takes others that fit, too",
            stacklevel=3,
        )
    model.load_state_dict({names[name]: tensor for name, tensor in {**state, **fits[0].weights}.items()})


def _cut(
    entry: str, weights: Mapping[str, Tensor], wanted: Mapping[str, Tensor], kept: str | None
) -> Iterator[_Candidate]:
    """Cut an entry at each prefix that stands before names of the model; without any it stays whole."""
    weights = {_WRAPPERS.sub("", name): tensor for name, tensor in weights.items()}
    prefixes: Counter[str] = Counter()
    for name in weights:
        starts = [0, *(dot.end() for dot in re.finditer(r"\.", name))]
        prefixes.update(name[:start] for start in starts if name[start:] in wanted)
    for prefix in prefixes or [""]:
        part = {
            name.removeprefix(prefix): tensor for name, tensor in weights.items() if name.startswith(prefix)
        }
        if kept is not None:
            part = {name: tensor for name, tensor in part.items() if not name.startswith(kept)}
        steps = [step for step in (*entry.split("."), *prefix.split(".")) if step and step != "module"]
        yield _Candidate(".".join(steps), part, _differences(wanted, part), prefixes[prefix])


def _differences(wanted: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> list[str]:
    """List different shapes, missing names and unexpected names, each as one clause of a message."""
    shapes = [
        f"{name} {list(given[name].shape)}, wanted {list(tensor.shape)}"
        for name, tensor in wanted.items()
        if name in given and given[name].shape != tensor.shape
    ]
    # Files written before torch 0.4.1 lack num_batches_tracked; load_state_dict accepts that.
    missing = [name for name in wanted if name not in given and not name.endswith("num_batches_tracked")]
    # A weight with several names comes with any of them: files of safetensors keep one.
    there = {_memory(wanted[name]) for name in wanted if name in given}
    missing = [name for name in missing if _memory(wanted[name]) not in there]
    unexpected = [name for name in given if name not in wanted]
    found = {"other shape": shapes, "missing": missing, "unexpected": unexpected}
    return [f"{kind}: {_first(names)}" for kind, names in found.items() if names]


def _memory(tensor: Tensor) -> tuple[object, ...]:
    return tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype


def _first(names: Iterable[str]) -> str:
    names = list(names)
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
