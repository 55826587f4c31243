"""Names of models and what they build: the one list that recipes are checked against."""

from collections.abc import Callable, Sequence
from difflib import get_close_matches
from functools import partial

from dotkd.errors import BadInput
from dotkd.models.base import ImageModel
from dotkd.models.small import CNN, MLP

_MODELS: dict[str, Callable[..., ImageModel]] = {
    **{f"small/mlp{width}": partial(MLP, width) for width in (16, 32, 64, 128, 256)},
    **{f"small/cnn{width}": partial(CNN, width) for width in (4, 8, 16, 32, 48, 64)},
}


def model_names() -> list[str]:
    """List the names that :func:`create_model` knows.

    Returns:
        The names, sorted.

    Example:
        >>> "small/mlp32" in model_names()
        True
    """
    return sorted(_MODELS)


def check_model_name(name: str) -> str:
    """Refuse the name of a model that is not on the list.

    Args:
        name: The name.

    Returns:
        The name.

    Raises:
        BadInput: Unknown; the message names the nearest.
    """
    if name not in _MODELS:
        nearest = get_close_matches(name, _MODELS, n=1, cutoff=0.0)[0]
        raise BadInput(f"unknown model {name!r}; nearest: {nearest!r} (known: {', '.join(model_names())})")
    return name


def create_model(
    name: str,
    num_classes: int,
    *,
    image_shape: tuple[int, int, int] = (3, 32, 32),
    mean: Sequence[float] = (),
    std: Sequence[float] = (),
) -> ImageModel:
    """Make a model, its weights drawn from torch's global generator as its layers do it.

    Args:
        name: A name out of :func:`model_names`.
        num_classes: Number of logits.
        image_shape: (C, H, W) of the images it will see.
        mean: Mean of each channel by which it normalises; none for plain images.
        std: Standard deviation of each channel, likewise.

    Returns:
        The model, on the CPU, in training mode.

    Raises:
        BadInput: Unknown name.

    Example:
        >>> import torch
        >>> model = create_model("small/cnn8", num_classes=10)
        >>> model(torch.rand(2, 3, 32, 32)).shape
        torch.Size([2, 10])
    """
    build = _MODELS[check_model_name(name)]
    return build(num_classes=num_classes, image_shape=image_shape, mean=mean, std=std)
