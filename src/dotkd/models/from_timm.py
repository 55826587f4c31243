"""Models of timm: ``timm:NAME``, and ``timm:NAME@pretrained`` with timm's weights.

timm says of its models how they were trained, where their stages are and which layer classifies.
"""

from collections.abc import Callable, Sequence
from difflib import get_close_matches
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from dotkd.errors import BadInput
from dotkd.models.external_made import Made, library, one_line, per_channel
from dotkd.models.external_names import PRETRAINED
from dotkd.models.external_probe import find_classifier, readable
from dotkd.taps import INPUT

_SHOWN = 5


def from_timm(
    name: str, rest: str, num_classes: int, image_shape: tuple[int, int, int], pretrained: bool
) -> Made:
    """Make a model of timm.

    Args:
        name: The whole name, for messages.
        rest: What is behind the colon.
        num_classes: Number of logits.
        image_shape: (C, H, W) of the images it will see.
        pretrained: False to leave its weights random where the name asks for others.

    Returns:
        The model and what timm says of it.

    Raises:
        BadInput: No such model, or timm, the weights or the network are missing.
    """
    timm = library(name)
    bare = rest.removesuffix(PRETRAINED)
    if not timm.is_model(bare):
        near = get_close_matches(bare.lower(), timm.list_models(), _SHOWN, cutoff=0)
        raise BadInput(f"unknown model {name!r}; nearest: {', '.join(repr(f'timm:{one}') for one in near)}")
    asked = rest != bare

    def create(**options: Any) -> Any:
        load = asked and pretrained
        return timm.create_model(
            bare, pretrained=load, num_classes=num_classes, in_chans=image_shape[0], **options
        )

    try:
        model, size = _sized(create, image_shape, keep=asked)
    except (RuntimeError, OSError) as error:  # an unknown tag, no pretrained weights, no network
        raise BadInput(f"model {name!r}: {one_line(error)}") from error
    settings = model.default_cfg
    mean, std = (per_channel(settings[key], image_shape[0]) for key in ("mean", "std"))
    stages = [stage for stage in getattr(model, "feature_info", ()) if _has(model, stage.get("module"))]
    classifier = settings.get("classifier") or ""
    # Those of several classifiers that average their logits name the first.
    classifier = classifier if isinstance(classifier, str) else classifier[0]
    said = {
        "stage_paths": [str(stage["module"]) for stage in stages],
        "classifier_path": classifier if _has(model, classifier) else "",
    }
    find = partial(_features, stages=stages, classifier=classifier)
    return Made(model, {"size": size, "mean": mean, "std": std}, said, find)


def _sized(
    create: Callable[..., Any], image_shape: tuple[int, int, int], keep: bool
) -> tuple[Any, tuple[int, int] | None]:
    """A model that takes the images, and the size to which they must be resized for it, if any.

    Args:
        create: Makes the model, given further options.
        image_shape: (C, H, W) of the images.
        keep: Whether a model with a size of its own keeps that: its weights were trained with it.

    Returns:
        The model, and (H, W) or None.
    """
    model = create()
    _, height, width = model.default_cfg["input_size"]
    if not model.default_cfg.get("fixed_input_size", False):
        return model, None
    if not keep and (height, width) != image_shape[1:]:
        try:
            small = create(img_size=image_shape[1:]).eval()
            with torch.no_grad():
                small(torch.zeros(1, *image_shape))
            return small, None
        except (TypeError, AssertionError, RuntimeError, ValueError):
            pass  # it takes no size, or not this one, such as one less than a patch
    return model, (height, width)


def _has(model: nn.Module, path: str | None) -> bool:
    try:
        return bool(path) and model.get_submodule(str(path)) is not None
    except AttributeError:
        return False


def _features(
    model: nn.Module, images: Tensor, *, stages: Sequence[dict[str, Any]], classifier: str
) -> dict[str, Any]:
    """Which of the paths that timm says can be read, and in which layout the features there are.

    Args:
        model: The model.
        images: What it takes.
        stages: timm's table of stages, those with a path that exists.
        classifier: timm's path of the last layer.

    Returns:
        Arguments of External.
    """
    found = find_classifier(model, images, said=classifier)
    channels = {str(stage["module"]): stage.get("num_chs") for stage in stages}
    paths = list(channels)
    if stages and stages[0].get("reduction", 1) > 2:
        # timm leaves out the stem where it shrinks the image by more than two at once.
        paths.insert(0, paths[0] + INPUT)
    features = readable(model, images, paths)
    usual = getattr(model, "output_fmt", "") == "NHWC"
    last = {
        path
        for path, feature in features.items()
        if feature.ndim == 4
        and feature.shape[-1] == channels.get(path)
        and (usual or feature.shape[1] != channels[path])
    }
    forms = {
        path: channels_first
        for path, feature in features.items()
        if feature.ndim == 4 and path.removesuffix(INPUT) in last
    }
    return {**found, "stage_paths": list(features), "forms": {**found.get("forms", {}), **forms}}


def channels_first(feature: Tensor) -> Tensor:
    """Return a map [B, H, W, C] as [B, C, H, W]."""
    return feature.permute(0, 3, 1, 2)
