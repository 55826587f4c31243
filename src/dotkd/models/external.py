"""Models of timm and transformers, and of user functions."""

import copy
import importlib
import inspect
import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from functools import partial
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate
from torch.nn.parameter import is_lazy

from dotkd.errors import BadInput
from dotkd.features.taps import INPUT, Taps
from dotkd.models.base import ImageModel
from dotkd.models.wrap import (
    PRETRAINED,
    Made,
    broken,
    find_classifier,
    library,
    listening,
    logits_of,
    one_line,
    per_channel,
    readable,
)

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


_SHOWN_from_transformers = 5


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
    return Made(model.float(), options, find=partial(_features_from_transformers, fixed_size=bool(size)))


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
        raise BadInput(
            f"model {name!r}: no weights that fit for {', '.join(sorted(missing)[:_SHOWN_from_transformers])}"
        )
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


def _features_from_transformers(model: nn.Module, images: Tensor, *, fixed_size: bool) -> dict[str, Any]:
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


_FROM = {"timm": from_timm, "hf": from_transformers}


class View(nn.Module):
    """A feature of an inner model in the form that methods expect; it runs only when it is tapped.

    Args:
        model: The inner model. It gets one hook, which does nothing unless this module is tapped.
        path: Where it has the feature, as taps have it.
        form: What makes a map ``[B, C, H, W]`` or a vector ``[B, D]`` of it.

    Raises:
        ValueError: The path leads nowhere; the message lists the nearest paths that exist.
    """

    def __init__(self, model: nn.Module, path: str, form: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.path = path
        self.form = form
        Taps(model, {path: path})
        place = model.get_submodule(path.removesuffix(INPUT))
        # Bound methods, and set for good: they survive a deep copy and pickle, and compile in one graph.
        if path.endswith(INPUT):
            place.register_forward_pre_hook(self._take_input)
        else:
            place.register_forward_hook(self._take_output)

    def forward(self, feature: Tensor) -> Tensor:
        """Bring the feature to its form.

        Args:
            feature: As the inner model has it.

        Returns:
            The feature in its form.
        """
        return self.form(feature)

    def _take_input(self, _module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if self._forward_hooks:
            self(inputs[0])

    def _take_output(self, _module: nn.Module, _inputs: Any, output: Tensor) -> None:
        if self._forward_hooks:
            self(output)

    def extra_repr(self) -> str:
        """Where the feature is, for ``repr``.

        Returns:
            The path.
        """
        return self.path


class External(ImageModel):
    """A model of somebody else that behaves like one of the zoo: plain images in, logits out.

    The images are resized to the size that the model needs, where it needs one, and then normalised. The
    keys of ``state_dict`` are those of the inner model with ``model.`` in front.

    So are the paths of its features, but for those in ``forms``: what the inner model has there is brought
    to the form of the zoo's features, in a submodule of ``views``, whenever that is tapped.

    Args:
        model: The inner model: images [B, C, H, W] to logits [B, num_classes], or to an output of
            transformers, whose ``logits`` are taken.
        num_classes: Number of logits.
        name: What messages call the model.
        size: (H, W) to which images are resized (bilinear, antialiased), or none to leave them.
        mean: Mean of each channel, or none for 0.
        std: Standard deviation of each channel, or none for 1.
        stage_paths: Where the inner model has its stages, as its own dotted paths, also with ``:input``
            behind them; see :class:`~dotkd.models.ImageModel` for this and the next ones.
        preact_paths: Where it has them in front of their last ReLU.
        norm_paths: Where it has the batch norms in front of those.
        pooled_path: Where it has the vector that is classified.
        classifier_path: Where it has its last layer.
        forms: For some of these paths what makes a map ``[B, C, H, W]`` or a vector ``[B, D]`` of it.

    Raises:
        ValueError: ``mean`` and ``std`` differ in length, a deviation is not positive, or a path of ``forms``
            leads nowhere.

    Example:
        >>> inner = nn.Sequential(nn.Flatten(), nn.Linear(12, 5))
        >>> model = External(inner, 5, "mine:net", size=(2, 2), mean=[0.5] * 3, std=[0.25] * 3)
        >>> model(torch.rand(4, 3, 32, 32)).shape
        torch.Size([4, 5])
        >>> list(model.state_dict())
        ['model.1.weight', 'model.1.bias']
    """

    def __init__(
        self,
        model: nn.Module,
        num_classes: int,
        name: str,
        *,
        size: tuple[int, int] | None = None,
        mean: Sequence[float] = (),
        std: Sequence[float] = (),
        stage_paths: Sequence[str] = (),
        preact_paths: Sequence[str] = (),
        norm_paths: Sequence[str] = (),
        pooled_path: str = "",
        classifier_path: str = "",
        forms: Mapping[str, Callable[[Tensor], Tensor]] | None = None,
    ) -> None:
        super().__init__(mean, std)
        self.model = model
        self.num_classes = num_classes
        self.name = name
        self.size = size
        forms = forms or {}
        self.views = nn.ModuleList(View(model, path, form) for path, form in forms.items())
        views = {path: f"views.{number}" for number, path in enumerate(forms)}

        def outer(path: str) -> str:
            return views.get(path, f"model.{path}") if path else ""

        self.stage_paths = tuple(map(outer, stage_paths))
        self.preact_paths = tuple(map(outer, preact_paths))
        self.norm_paths = tuple(map(outer, norm_paths))
        self.pooled_path = outer(pooled_path)
        self.classifier_path = outer(classifier_path)

    def forward(self, images: Tensor) -> Tensor:
        """Classify images.

        Args:
            images: [B, C, H, W], in [0, 1].

        Returns:
            Logits [B, num_classes].

        Raises:
            BadInput: The inner model returned something else; the message says what.
        """
        logits = logits_of(self.model(self.prepare(images)))
        if isinstance(logits, Tensor) and logits.ndim == 2 and logits.shape[1] == self.num_classes:
            return logits
        came = f"a tensor {list(logits.shape)}" if isinstance(logits, Tensor) else type(logits).__name__
        raise BadInput(f"model {self.name!r} must return logits [B, {self.num_classes}], got {came}")

    def prepare(self, images: Tensor) -> Tensor:
        """Resize and normalise images as the inner model takes them.

        Args:
            images: [B, C, H, W], in [0, 1].

        Returns:
            [B, C, H', W'].
        """
        if self.size is not None and tuple(images.shape[-2:]) != self.size:
            images = interpolate(images, self.size, mode="bilinear", antialias=True)
        return self.normalize(images)


def create_external(
    name: str,
    num_classes: int,
    *,
    image_shape: tuple[int, int, int] = (3, 32, 32),
    mean: Sequence[float] = (),
    std: Sequence[float] = (),
    pretrained: bool = True,
) -> External:
    """Make a model from outside of the zoo; see :func:`dotkd.models.create_model` for the names.

    Args:
        name: The name, of a form that :func:`~dotkd.models.wrap.is_external` knows.
        num_classes: Number of logits.
        image_shape: (C, H, W) of the images it will see.
        mean: Mean of each channel by which it normalises; none for the model's own.
        std: Standard deviation of each channel, likewise.
        pretrained: False to leave its weights random where the name says which to load.

    Returns:
        The model, on the CPU, in training mode.

    Raises:
        BadInput: No such model, its library or its weights are missing, or it does not fit.
    """
    source, _, rest = name.partition(":")
    if source in _FROM:
        made = _FROM[source](name, rest, num_classes, image_shape, pretrained)
    else:
        made = from_function(name, num_classes, image_shape)
    options = {**made.options, "mean": mean, "std": std} if mean else made.options
    plain = External(made.model, num_classes, name, **options)
    return External(
        made.model, num_classes, name, **options, **_features_external(plain, made, image_shape)
    ).train()


def _features_external(plain: External, made: Made, image_shape: tuple[int, int, int]) -> dict[str, Any]:
    """Ask a new model where it has its features, by sending two images through it where need be.

    Args:
        plain: The model, without paths; left in evaluation mode.
        made: What is known of it.
        image_shape: (C, H, W) of the images.

    Returns:
        Arguments of External.
    """
    if made.find is None or any(is_lazy(parameter) for parameter in made.model.parameters()):
        return made.said
    channels, height, width = image_shape
    images = torch.linspace(0, 1, 2 * channels * height * width).reshape(2, *image_shape)
    plain.eval()
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            return made.find(made.model, plain.prepare(images))
    except Exception:  # whatever is wrong with a model of others, it says so when it is used
        return made.said
