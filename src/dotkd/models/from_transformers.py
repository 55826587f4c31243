"""Image classifiers of transformers: ``hf:FOLDER`` or ``hf:NAME``, and ``@pretrained`` behind either.

A folder may hold weights (safetensors), settings alone, and how images are to be normalised. The hidden
states that every such model can return are its stages.
"""

import copy
import json
from collections.abc import Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dotkd.errors import BadInput
from dotkd.models.external_made import Made, broken, library, one_line, per_channel
from dotkd.models.external_names import PRETRAINED
from dotkd.models.external_probe import find_classifier, listening, readable

_SHOWN = 5


def from_transformers(
    name: str, rest: str, num_classes: int, image_shape: tuple[int, int, int], pretrained: bool
) -> Made:
    """Make an image classifier of transformers.

    Args:
        name: The whole name, for messages.
        rest: What is behind the colon.
        num_classes: Number of logits.
        image_shape: (C, H, W) of the images it will see.
        pretrained: False to leave its weights random where there are others.

    Returns:
        The model, with the size and the normalisation of its settings.

    Raises:
        BadInput: No such model, weights that do not fit or are code, or transformers or the network are
            missing.
    """
    transformers = library(name)
    bare = rest.removesuffix(PRETRAINED)
    folder = Path(bare)
    asked = rest != bare
    # A local folder with weights is meant with them; a name of the hub only where it says so.
    load = pretrained and (asked or any(folder.glob("*.safetensors")))
    if pretrained and not asked and not load and any(folder.glob("pytorch_model*.bin")):
        raise BadInput(f"model {name!r}: weights of pickle are not read: save them as model.safetensors")
    try:
        config = transformers.AutoConfig.from_pretrained(bare, trust_remote_code=False)
        if load:
            _check_fit(name, config, None if asked else num_classes, image_shape[0])
        config.num_labels = num_classes
        if hasattr(config, "num_channels"):
            config.num_channels = image_shape[0]
        if config.architectures is None:
            config.architectures = []  # transformers looks through it, where a family has several classifiers
        auto = transformers.AutoModelForImageClassification
        if load:
            model = _loaded(auto, name, bare, config, new_head=asked)
        else:
            model = auto.from_config(config, trust_remote_code=False)
    except BadInput:
        raise
    except ImportError as error:
        raise BadInput(broken(name, error)) from error
    except (OSError, ValueError) as error:  # no such folder or name, no network, no image classifier
        raise BadInput(f"model {name!r}: {one_line(error)}") from error
    size = getattr(config, "image_size", None)
    size = (size, size) if isinstance(size, int) else size
    mean, std = _preprocessing(_settings(transformers, bare, asked), image_shape[0])
    options = {"size": tuple(size) if size else None, "mean": mean, "std": std}
    # What it computes in is the run's choice, whatever its file is in.
    return Made(model.float(), options, find=partial(_features, fixed_size=bool(size)))


_PREPROCESSING = "preprocessor_config.json"


def _check_fit(name: str, config: Any, num_classes: int | None, channels: int) -> None:
    if num_classes is not None and config.num_labels != num_classes:
        raise BadInput(
            f"model {name!r}: its weights have {config.num_labels} classes, wanted {num_classes}; "
            f"'{name}{PRETRAINED}' takes them with a new classifier"
        )
    theirs = getattr(config, "num_channels", channels)
    if theirs != channels:
        raise BadInput(f"model {name!r}: its weights are for {theirs} channels, the images have {channels}")


def _loaded(auto: Any, name: str, bare: str, config: Any, new_head: bool) -> Any:
    """Load weights as data, all of them but a classifier of another number of classes."""
    model, told = auto.from_pretrained(
        bare,
        config=config,
        use_safetensors=True,
        ignore_mismatched_sizes=new_head,
        output_loading_info=True,
        trust_remote_code=False,
    )
    # Only the last layer may be new; transformers draws everything else that is missing too, and goes on.
    missing = [key for key in told["missing_keys"] if not (new_head and _in_head(key))]
    missing += [key for key, *_ in told["mismatched_keys"] if not (new_head and _in_head(key))]
    if missing:
        raise BadInput(f"model {name!r}: no weights that fit for {', '.join(sorted(missing)[:_SHOWN])}")
    return model


def _in_head(key: str) -> bool:
    heads = ("classifier", "head", "fc")
    return any(part in heads or part.endswith(("_classifier", "_head")) for part in key.split("."))


def _settings(transformers: Any, bare: str, asked: bool) -> Path | None:
    """Find the file that says how images are to be normalised, in a folder or, with weights, on the hub."""
    local = Path(bare) / _PREPROCESSING
    if local.is_file() or Path(bare).is_dir() or not asked:
        return local if local.is_file() else None
    found = transformers.utils.cached_file(
        bare,
        _PREPROCESSING,
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_gated_repo=False,
    )
    return None if found is None else Path(found)


def _preprocessing(file: Path | None, channels: int) -> tuple[list[float], list[float]]:
    """Mean and deviation that a file says a model was trained with; none where it says nothing."""
    if file is None:
        return [], []
    try:
        settings = json.loads(file.read_text(encoding="utf-8"))
        if not settings.get("do_normalize", True) or settings.get("image_mean") is None:
            return [], []
        mean, std = (per_channel(settings[key], channels) for key in ("image_mean", "image_std"))
    except (ValueError, TypeError, AttributeError, KeyError):
        raise BadInput(f"{file}: wanted a table with image_mean and image_std") from None
    return mean, std


def _features(model: nn.Module, images: Tensor, *, fixed_size: bool) -> dict[str, Any]:
    """Where the hidden states of the model can be tapped, and in which form.

    Args:
        model: The model.
        images: What it takes.
        fixed_size: Whether all images come in this size, so that tokens have their places for good.

    Returns:
        Arguments of External.
    """
    found = find_classifier(model, images)
    # A model that was asked for its hidden states may keep hooks of its own, which cannot be pickled.
    asked = copy.deepcopy(model)
    with listening(asked) as heard:
        output = asked(images, output_hidden_states=True)
    states = list(getattr(output, "hidden_states", None) or ())
    paths = [heard.path_of(state) for state in states]
    places = {paths[number]: number for number in _stages(states) if paths[number]}
    stages = list(readable(model, images, list(places)))
    maps = getattr(output, "reshaped_hidden_states", None) or () if fixed_size else ()
    forms = dict(found.get("forms", {}))
    for path in stages:
        state, reshaped = states[places[path]], maps[places[path]] if maps else None
        if reshaped is None or state.ndim != 3:
            continue
        form = partial(on_grid, height=reshaped.shape[2], width=reshaped.shape[3])
        if torch.equal(form(state), reshaped):
            forms[path] = form
    return {**found, "stage_paths": stages, "forms": forms}


def _stages(states: Sequence[Tensor]) -> list[int]:
    """Which of the hidden states are stages: the first, as the stem, and of maps of one size the last."""
    last = [
        number
        for number, (state, after) in enumerate(pairwise(states))
        if number == 0 or state.ndim != 4 or state.shape[2:] != after.shape[2:]
    ]
    return [*last, len(states) - 1] if states else []


def on_grid(tokens: Tensor, *, height: int, width: int) -> Tensor:
    """Return tokens [B, height * width, C] as a map [B, C, height, width]."""
    return tokens.transpose(1, 2).reshape(len(tokens), tokens.shape[2], height, width)
