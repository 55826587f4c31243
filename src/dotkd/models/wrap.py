"""External models behind the zoo's interface: names, feature probing."""

import importlib
import re
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from dotkd.errors import BadInput, missing_extra
from dotkd.features.shapes import as_vector
from dotkd.features.taps import INPUT, Taps

PRETRAINED = "@pretrained"
LIBRARIES = {"timm": "timm", "hf": "transformers"}
_OWN = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*")


def is_external(name: str) -> bool:
    """Tell whether a name has the form of a model from outside of the zoo; nothing is imported.

    Args:
        name: The name.

    Returns:
        True for ``timm:NAME``, ``hf:NAME_OR_FOLDER`` and ``module:function``.

    Raises:
        BadInput: Nothing, or what is no name, after ``timm:`` or ``hf:``.

    Example:
        >>> [is_external(name) for name in ("timm:resnet18@pretrained", "my.nets:small", "resnet8x4")]
        [True, True, False]
    """
    source, _, rest = name.partition(":")
    if source not in LIBRARIES or ":" not in name:
        return _OWN.fullmatch(name) is not None
    bare = rest.removesuffix(PRETRAINED)
    if not bare.strip() or (source == "timm" and not re.fullmatch(r"[\w.]+", bare)):
        wanted = {"timm": "'timm:resnet18'", "hf": "'hf:microsoft/resnet-18' or 'hf:FOLDER'"}[source]
        raise BadInput(f"unknown model {name!r}: wanted such as {wanted}, '{PRETRAINED}' behind it or not")
    return True


def runs_own_code(name: str) -> bool:
    """Tell whether a name is a ``module:function``, which is imported and called to make the model."""
    return is_external(name) and name.partition(":")[0] not in LIBRARIES


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


def logits_of(output: Any) -> Any:
    """Take the logits out of what a model returned.

    Args:
        output: A tensor, an output of transformers, or anything else.

    Returns:
        Its ``logits`` where it has them, else the output itself.
    """
    return output if isinstance(output, Tensor) else getattr(output, "logits", output)


def find_classifier(model: nn.Module, images: Tensor, said: str = "") -> dict[str, Any]:
    """Find the layer whose output is the logits.

    It is the last linear layer or 1x1 convolution of which that is true, at one place or in the mean over
    all; or the first of several whose mean the logits are, such as those of a distilled transformer.

    Args:
        model: The model, in evaluation mode.
        images: What it takes.
        said: A path that is believed where such a layer is there.

    Returns:
        ``classifier_path``; ``pooled_path`` and ``forms`` too where the layer does not get a vector. Empty
        where there is no such layer.
    """
    ran: list[tuple[str, Tensor, int]] = []  # path, output as a vector, dimensions of the input

    def hook(path: str, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        if output.ndim in {2, 3, 4}:
            ran.append((path, as_vector(output), inputs[0].ndim))

    with ExitStack() as hooks:
        for path, layer in model.named_modules():
            if isinstance(layer, nn.Linear) or (isinstance(layer, nn.Conv2d) and layer.kernel_size == (1, 1)):
                hear = layer.register_forward_hook(
                    lambda _layer, inputs, output, path=path: hook(path, inputs, output)
                )
                hooks.enter_context(hear)
        logits = logits_of(model(images))
    paths = [path for path, _, _ in ran]
    path = said if paths.count(said) == 1 else _head(ran, logits)
    if paths.count(path) != 1:
        return {}
    if ran[paths.index(path)][2] == 2:
        return {"classifier_path": path}
    pooled = path + INPUT
    return {"classifier_path": path, "pooled_path": pooled, "forms": {pooled: as_vector}}


def _head(ran: Sequence[tuple[str, Tensor, int]], logits: Tensor) -> str:
    fitting = [(path, output.to(logits.dtype)) for path, output, _ in ran if output.shape == logits.shape]
    for path, output in reversed(fitting):
        if torch.allclose(output, logits):
            return path
    for number, (path, _) in enumerate(fitting):
        several = [output for _, output in fitting[number:]]
        if torch.allclose(torch.stack(several).mean(0), logits):
            return path
    return ""


def readable(model: nn.Module, images: Tensor, paths: Sequence[str]) -> dict[str, Tensor]:
    """Read the features at some paths, as far as each is one tensor of one pass.

    Args:
        model: The model, in evaluation mode.
        images: What it takes.
        paths: Dotted paths, as taps have them; what leads nowhere is left out too.

    Returns:
        Path -> feature, a map, tokens or a vector for each image; those that can be read, in the order given.
    """
    try:
        found = Taps(model, {path: path for path in paths})(images)[1]
    except (RuntimeError, TypeError, ValueError):
        found = {}
        for path in paths:
            with suppress(RuntimeError, TypeError, ValueError):
                found.update(Taps(model, {path: path})(images)[1])
    return {path: it for path, it in found.items() if it.ndim in {2, 3, 4} and len(it) == len(images)}


class Heard(NamedTuple):
    """What went through a model's submodules in one pass, in order; tensors that are gone are not kept."""

    outputs: list[tuple[str, weakref.ref[Tensor]]]
    inputs: list[tuple[str, weakref.ref[Tensor]]]

    def path_of(self, tensor: Tensor) -> str:
        """Say where a tensor can be tapped.

        Args:
            tensor: One that the pass made.

        Returns:
            The outermost submodule among those around the first that returned it; where none did, the
            first that got it, as its input; empty where none did that either.
        """
        returned = [path for path, output in self.outputs if output() is tensor]
        if returned:
            around = [path for path in returned if f"{returned[0]}.".startswith(f"{path}.")]
            return min(around, key=len)
        return next((path + INPUT for path, given in self.inputs if given() is tensor), "")


@contextmanager
def listening(model: nn.Module) -> Iterator[Heard]:
    """Note which tensors a model's submodules get and return in the passes of this context.

    Args:
        model: The model.

    Yields:
        The notes.
    """
    heard = Heard([], [])

    def note(notes: list[tuple[str, weakref.ref[Tensor]]], path: str, value: Any) -> None:
        if isinstance(value, Tensor):
            notes.append((path, weakref.ref(value)))

    with ExitStack() as hooks:
        for path, module in model.named_modules():
            after = module.register_forward_hook(
                lambda _module, _inputs, output, path=path: note(heard.outputs, path, output)
            )
            before = module.register_forward_pre_hook(
                lambda _module, inputs, path=path: note(heard.inputs, path, inputs[0] if inputs else None)
            )
            hooks.enter_context(after)
            hooks.enter_context(before)
        yield heard
