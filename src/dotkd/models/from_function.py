"""Models of the user: ``module:function``, which is imported from the current folder and called."""

import importlib
import inspect
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import Tensor, nn

from dotkd.errors import BadInput
from dotkd.models.external_made import Made, one_line
from dotkd.models.external_probe import find_classifier
from dotkd.taps import Taps

_SEVERAL = ("stage_paths", "preact_paths", "norm_paths")
_ONE = ("pooled_path", "classifier_path")


def from_function(name: str, num_classes: int, image_shape: tuple[int, int, int]) -> Made:
    """Call the user's function.

    Args:
        name: ``module:function``.
        num_classes: Number of logits.
        image_shape: (C, H, W) of the images the model will see.

    Returns:
        The model, and what its own ``stage_paths``, ``preact_paths``, ``norm_paths``, ``pooled_path`` and
        ``classifier_path`` say, as far as it has them.

    Raises:
        BadInput: No such module or function, one that does not take these arguments or returns no module,
            or a path that leads nowhere.
    """
    module, _, wanted = name.partition(":")
    with _current_folder_first():
        function = getattr(_module(name, module), wanted, None)
        if not callable(function):
            raise BadInput(f"model {name!r}: there is no function {wanted!r} in {module!r}")
        given = {"num_classes": num_classes, "image_shape": image_shape}
        model = function(**{key: given[key] for key in _arguments(name, function)})
    if not isinstance(model, nn.Module):
        raise BadInput(f"model {name!r}: must return a torch.nn.Module, got {type(model).__name__}")
    said = _said(name, model)

    def find(model: nn.Module, images: Tensor) -> dict[str, Any]:
        return {**find_classifier(model, images), **said}

    return Made(model, said=said, find=None if "classifier_path" in said else find)


def _said(name: str, model: nn.Module) -> dict[str, Any]:
    """What the model says of its features; a path that leads nowhere is an error."""
    said: dict[str, Any] = {key: getattr(model, key) for key in (*_SEVERAL, *_ONE) if getattr(model, key, ())}
    for key, value in said.items():
        paths = [value] if key in _ONE else value
        if not isinstance(paths, list | tuple) or not all(isinstance(path, str) for path in paths):
            wanted = "one path" if key in _ONE else "a list of paths"
            raise BadInput(f"model {name!r}: {key} must be {wanted} of submodules, got {value!r}")
        try:
            for path in paths:
                Taps(model, {key: path})
        except ValueError as error:
            raise BadInput(f"model {name!r}: {error}") from None
    return said


def _module(name: str, module: str) -> ModuleType:
    importlib.invalidate_caches()
    try:
        return importlib.import_module(module)
    except ImportError as error:
        if isinstance(error, ModuleNotFoundError) and f"{module}.".startswith(f"{error.name}."):
            raise BadInput(
                f"unknown model {name!r}: no module {error.name!r} in the current folder or on Python's path"
            ) from None
        raise BadInput(f"model {name!r}: {module!r} does not load: {one_line(error)}") from error


def _arguments(name: str, function: Callable[..., Any]) -> list[str]:
    """Which arguments the function takes; asked before the call, so that no other function is called."""
    try:
        signature = inspect.signature(function)
    except ValueError:  # one of C, which does not tell
        signature = inspect.Signature()
    for keys in (["num_classes", "image_shape"], ["num_classes"]):
        try:
            signature.bind(**dict.fromkeys(keys))
        except TypeError:
            continue
        return keys
    raise BadInput(
        f"model {name!r}: must take num_classes and image_shape, or num_classes alone, by name; "
        f"its arguments are {signature}"
    )


@contextmanager
def _current_folder_first() -> Iterator[None]:
    before = list(sys.path)
    sys.path.insert(0, str(Path.cwd()))
    try:
        yield
    finally:
        sys.path[:] = before
