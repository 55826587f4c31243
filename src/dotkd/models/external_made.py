"""What the sources of outside models share: what each of them returns, and messages on their libraries."""

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

from torch import Tensor, nn

from dotkd.errors import BadInput, missing_extra
from dotkd.models.external_names import LIBRARIES


@dataclass(frozen=True)
class Made:
    """A model of somebody else, and what is known of it.

    Args:
        model: The model.
        options: Size, mean and deviation, as arguments of :class:`~dotkd.models.External`.
        said: Where it has its features by its own account, likewise.
        find: The same from what it does with a few prepared images: ``find(model, images)``, in evaluation
            mode and without a graph. None where it says all.
    """

    model: nn.Module
    options: dict[str, Any] = field(default_factory=dict)
    said: dict[str, Any] = field(default_factory=dict)
    find: Callable[[nn.Module, Tensor], dict[str, Any]] | None = None


def library(name: str) -> ModuleType:
    """Import the library of a model, or raise the error that says what to install."""
    extra = name.partition(":")[0]
    try:
        return importlib.import_module(LIBRARIES[extra])
    except ModuleNotFoundError as error:
        if error.name != LIBRARIES[extra]:
            raise BadInput(broken(name, error)) from error
        raise missing_extra(f"model {name!r}", extra) from None
    except (ImportError, RuntimeError) as error:  # torchvision beside another torch raises the latter
        raise BadInput(broken(name, error)) from error


def broken(name: str, error: Exception) -> str:
    """Return the message for a model whose library is installed and does not load."""
    what = f"model {name!r}: {LIBRARIES[name.partition(':')[0]]} is installed, but does not load"
    return f"{what}: {one_line(error)}; do torch and torchvision belong together?"


def one_line(error: Exception) -> str:
    """Return the text of an error of others as one line."""
    return " ".join(str(error).split()) or type(error).__name__


def per_channel(values: Sequence[float], channels: int) -> list[float]:
    """Return the numbers for each channel; their mean for each of another number of channels."""
    return list(values) if len(values) == channels else [sum(values) / len(values)] * channels
