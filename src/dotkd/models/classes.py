"""Class names of networks: compared with those of data, and outputs brought into the order of the data."""

import re
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from dotkd.errors import BadInput
from dotkd.models.base import ImageModel

# Positions and identifiers, such as 7, LABEL_7 and n01440764: they cannot be compared with words.
_NUMBER = re.compile(r"(label_|class_?|n)?\d+")
_SHOWN = 3  # names that a message lists


def image_model(network: nn.Module) -> ImageModel | None:
    """Return the image classifier that a network is or contains; None for any other module."""
    return next((module for module in network.modules() if isinstance(module, ImageModel)), None)


def class_names(network: nn.Module) -> tuple[str, ...]:
    """Return the names of a network's outputs; empty if they are not known."""
    model = image_model(network)
    return () if model is None else model.class_names


def class_order(names: Sequence[str], wanted: Sequence[str]) -> list[int] | None:
    """Compare the class names of a network with those of data: their letters and digits, whatever their case.

    Where two names of one side differ in other characters alone, all characters count.

    Args:
        names: Of the network's outputs; empty if they are not known.
        wanted: Of the data; likewise.

    Returns:
        For each class of the data the output with its name; None where the outputs are in this order already,
        or one side has no names: numbers and identifiers are none beside words.

    Raises:
        BadInput: The names are not the same.

    Example:
        >>> class_order(["Dog", "cat"], ["cat", "dog"])
        [1, 0]
        >>> class_order(["LABEL_0", "LABEL_1"], ["cat", "dog"]) is None
        True
    """
    plain = [[name.casefold() for name in side] for side in (wanted, names)]
    bare = [[re.sub(r"[\W_]+", "", name) or name for name in side] for side in plain]
    ours, theirs = bare if all(len(set(side)) == len(side) for side in bare) else plain
    if not ours or not theirs or ours == theirs:
        return None
    if len(ours) == len(theirs) == len(set(ours)) and set(ours) == set(theirs):
        return [theirs.index(name) for name in ours]
    if any(all(map(_NUMBER.fullmatch, side)) for side in plain):
        return None
    only = [
        [name for name, folded in zip(side, low, strict=True) if folded not in others]
        for side, low, others in ((names, theirs, ours), (wanted, ours, theirs))
    ]
    raise BadInput(
        f"the classes of the network ({_listed(names, only[0])}) are not those of the data "
        f"({_listed(wanted, only[1])})"
    )


def _listed(names: Sequence[str], only: Sequence[str]) -> str:
    """Show the number of names and some of them, first of all those that the other side lacks."""
    shown = ", ".join(map(repr, (only or names)[:_SHOWN]))
    return f"{len(names)}: {shown}{', ...' if len(names) > _SHOWN else ''}"


@torch.no_grad()
def order_classes(network: nn.Module, classes: Sequence[str], image_shape: tuple[int, int, int]) -> None:
    """Bring the outputs of a network into the order of the classes of data, in place.

    The rows of its classifier change places, so that methods which read the classifier see the new order too;
    where its logits are not those of one layer, the logits themselves do.

    Args:
        network: In evaluation mode.
        classes: Class names of the data.
        image_shape: (C, H, W) of an image.

    Raises:
        BadInput: As :func:`class_order`.
    """
    order = class_order(class_names(network), classes)
    if order is None:
        return
    reference = next(network.parameters())
    images = torch.linspace(0, 1, 2 * torch.Size(image_shape).numel()).reshape(2, *image_shape).to(reference)
    wanted = network(images)[:, order]
    path = getattr(network, "classifier_path", "")
    layer = network.get_submodule(path) if path else None
    model = image_model(network)
    assert model is not None
    model.class_names = tuple(classes)
    if isinstance(layer, nn.Linear | nn.Conv2d):
        _permute(layer, order)
        if torch.allclose(network(images), wanted, rtol=1e-3, atol=1e-4):
            return
        _permute(layer, [order.index(number) for number in range(len(order))])
    network.register_forward_hook(partial(_ordered, order))


def _permute(layer: nn.Linear | nn.Conv2d, order: list[int]) -> None:
    for values in (layer.weight, layer.bias):
        if values is not None:
            values.copy_(values[order])


def _ordered(order: list[int], _network: nn.Module, _images: Any, logits: Tensor) -> Tensor:
    return logits[:, order]
