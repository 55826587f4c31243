"""Models from outside the zoo: ``timm:NAME``, ``hf:NAME_OR_FOLDER`` and the user's ``module:function``.

One loader per source returns the model and what its source knows of it; :func:`create_external` wraps the
model and finds its feature paths. A library is imported only when one of its models is created.
"""

import copy
import importlib
import inspect
import json
import math
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from functools import partial
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from dotkd.errors import BadInput, missing_extra
from dotkd.features.taps import INPUT, Taps
from dotkd.models.base import Resize
from dotkd.models.wrap import External, find_classifier, readable_features, trace_tensors

PRETRAINED = "@pretrained"
_LIBRARIES = {"timm": "timm", "hf": "transformers"}
_EXAMPLES = {"timm": "'timm:resnet18'", "hf": "'hf:microsoft/resnet-18' or 'hf:FOLDER'"}
_FUNCTION = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*")
_HUB_NAME = re.compile(r"\w[\w.-]*/\w[\w.-]*")  # owner/name
_SHOWN = 5  # names that a message lists


# ---------------------------------------------------------------- names


def is_external(name: str) -> bool:
    """Tell whether a name has the form of an external model; ``timm:`` or ``hf:`` alone raises BadInput."""
    source, colon, rest = name.partition(":")
    if not colon or source not in _LIBRARIES:
        return _FUNCTION.fullmatch(name) is not None
    bare = rest.removesuffix(PRETRAINED)
    if not bare.strip() or (source == "timm" and not re.fullmatch(r"[\w.]+", bare)):
        raise BadInput(
            f"unknown model {name!r}: must be like {_EXAMPLES[source]}, optionally followed by '{PRETRAINED}'"
        )
    return True


def runs_own_code(name: str) -> bool:
    """Tell whether a name is a ``module:function``, which is imported and called to create the model."""
    return is_external(name) and name.partition(":")[0] not in _LIBRARIES


def brings_weights(name: str) -> bool:
    """Tell whether a name loads pretrained weights: ``timm:NAME@pretrained`` or ``hf:NAME@pretrained``."""
    return name.partition(":")[0] in _LIBRARIES and name.endswith(PRETRAINED)


def absolute_name(name: str, base: Path) -> str:
    """Return ``hf:FOLDER`` with the folder taken from ``base``; other models and names on the hub stay."""
    source, _, rest = name.partition(":")
    bare = rest.removesuffix(PRETRAINED)
    folder = (base / Path(bare).expanduser()).resolve()
    if source != "hf" or not bare.strip() or (_HUB_NAME.fullmatch(bare) and not folder.is_dir()):
        return name
    return f"hf:{folder}{rest.removeprefix(bare)}"


# ---------------------------------------------------------------- creation


@dataclass(frozen=True)
class _Request:
    """The arguments of :func:`create_external`, with the parts of the name."""

    name: str
    num_classes: int
    image_shape: tuple[int, int, int]
    pretrained: bool
    fine_tune: bool = False
    normalised: bool = False  # mean and std are given

    @property
    def source(self) -> str:
        return self.name.partition(":")[0]

    @property
    def bare(self) -> str:
        return self.name.partition(":")[2].removesuffix(PRETRAINED)

    @property
    def tagged(self) -> bool:
        return brings_weights(self.name)


@dataclass(frozen=True)
class _Loaded:
    """A model as its source returned it, with its preprocessing, its feature paths and its configuration.

    ``configuration``, ``declared`` and the result of ``probe(model, prepared_images)`` are arguments of
    External. The probe runs in evaluation mode without gradients; if it fails, the declared paths are used.
    """

    model: nn.Module
    size: tuple[int, int] | None = None
    mean: Sequence[float] = ()
    std: Sequence[float] = ()
    declared: dict[str, Any] = field(default_factory=dict)
    probe: Callable[[nn.Module, Tensor], dict[str, Any]] | None = None
    made_for: Resize | None = None
    class_names: tuple[str, ...] = ()
    new_head: bool = False
    lacks_normalisation: bool = False
    configuration: Mapping[str, str] = field(default_factory=dict)


def create_external(
    name: str,
    num_classes: int,
    *,
    image_shape: tuple[int, int, int] = (3, 32, 32),
    mean: Sequence[float] = (),
    std: Sequence[float] = (),
    pretrained: bool = True,
    fine_tune: bool = False,
    configuration: Mapping[str, str] | None = None,
) -> External:
    """Create an external model; :func:`dotkd.models.create_model` documents the arguments."""
    normalised = bool(mean or std)
    request = _Request(name, num_classes, image_shape, pretrained, fine_tune, normalised)
    with _folder_of(request, configuration or {}) as request:
        loaded = _LOADERS.get(request.source, _load_function)(request)
    if not normalised:
        mean, std = loaded.mean, loaded.std
    wrap = partial(External, loaded.model, num_classes, name, size=loaded.size, mean=mean, std=std)
    plain = wrap()
    plain.made_for = made_for = None if fine_tune else loaded.made_for
    model = wrap(**_find_features(plain, loaded, image_shape)).train()
    model.made_for = made_for
    model.class_names, model.new_head = loaded.class_names, loaded.new_head
    model.lacks_normalisation = loaded.lacks_normalisation
    model.configuration = loaded.configuration
    return model


@contextmanager
def _folder_of(request: _Request, configuration: Mapping[str, str]) -> Iterator[_Request]:
    """Put the configuration of a model of transformers into a folder, and ask for that folder instead."""
    if not configuration or request.source != "hf":
        yield request
        return
    with TemporaryDirectory() as folder:
        for name in _CONFIGURATION:
            if name in configuration:
                (Path(folder) / name).write_text(configuration[name], encoding="utf-8", newline="\n")
        yield replace(request, name=f"hf:{folder}", pretrained=False)


def _find_features(plain: External, loaded: _Loaded, image_shape: tuple[int, int, int]) -> dict[str, Any]:
    """Probe a model for its feature paths; ``plain`` wraps it without any, and stays in evaluation mode."""
    if loaded.probe is None or any(is_lazy(parameter) for parameter in loaded.model.parameters()):
        return loaded.declared
    images = torch.linspace(0, 1, 2 * image_shape[0] * image_shape[1] * image_shape[2])
    plain.eval()
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            return loaded.probe(loaded.model, plain.prepare(images.reshape(2, *image_shape)))
    except Exception:  # foreign code may raise anything, and raises it again when the model is used
        return loaded.declared


def _import_library(request: _Request) -> ModuleType:
    library = _LIBRARIES[request.source]
    try:
        return importlib.import_module(library)
    except ModuleNotFoundError as error:
        if error.name != library:
            raise _broken_library(request, error) from error
        raise missing_extra(f"model {request.name!r}", request.source) from None
    except (ImportError, RuntimeError) as error:  # RuntimeError: torchvision built for another torch
        raise _broken_library(request, error) from error


def _broken_library(request: _Request, error: Exception) -> BadInput:
    return BadInput(
        f"model {request.name!r}: {_LIBRARIES[request.source]} is installed but cannot be imported: "
        f"{_import_failure(error)}"
    )


def _import_failure(error: BaseException) -> str:
    """Tell why an import failed; where torchvision is of another build than torch, which one to install."""
    while error.__cause__ is not None:
        error = error.__cause__
    reason = _one_line(error)
    return f"{reason}; {_matching_torchvision()}" if "torchvision" in reason else reason


def _matching_torchvision() -> str:
    """Name the torchvision that belongs to this torch: 0.15 to 2.0, 0.16 to 2.1, and so on."""
    torch_version = version("torch")  # torch.__version__ may name a build that the package does not
    parts = re.fullmatch(r"2\.(\d+)\.(\d+)(\+(?:cpu|cu\d+|rocm[\d.]+|xpu))?", torch_version)
    if parts is None:
        return f"install the torchvision that was built with torch {torch_version}"
    minor, patch, build = int(parts[1]), parts[2], parts[3] or ""
    wanted = f"0.{minor + 15}.{patch}{build}"
    source = ", from the package index of that torch" if build else ""
    return (
        f"torch {torch_version} needs torchvision {wanted}: pip install --force-reinstall --no-deps "
        f"torchvision=={wanted}{source}"
    )


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _per_channel(values: Sequence[float], channels: int) -> list[float]:
    """Return one value per channel: the values themselves, or their mean if their number differs."""
    return list(values) if len(values) == channels else [sum(values) / len(values)] * channels


# ---------------------------------------------------------------- timm


def _load_timm(request: _Request) -> _Loaded:
    timm = _import_library(request)
    bare, channels = request.bare, request.image_shape[0]
    load = request.tagged and request.pretrained
    if not timm.is_model(bare):
        nearest = get_close_matches(bare.lower(), timm.list_models(), _SHOWN, cutoff=0)
        names = ", ".join(repr(f"timm:{name}") for name in nearest)
        raise BadInput(f"unknown model {request.name!r}; nearest: {names}")

    def create(**options: Any) -> Any:
        return timm.create_model(
            bare, pretrained=load, num_classes=request.num_classes, in_chans=channels, **options
        )

    try:
        model, size = _fit_input_size(create, request.image_shape, keep_size=request.tagged)
    except (RuntimeError, OSError) as error:  # an unknown tag, no pretrained weights, no network
        raise BadInput(f"model {request.name!r}: {_one_line(error)}") from error
    settings = model.default_cfg
    stages = [stage for stage in getattr(model, "feature_info", ()) if _exists(model, stage.get("module"))]
    classifier = settings.get("classifier") or ""
    # Models with several heads, such as DeiT, name a list; they average the logits of all of them.
    classifier = classifier if isinstance(classifier, str) else classifier[0]
    declared = {
        "stage_paths": [str(stage["module"]) for stage in stages],
        "classifier_path": classifier if _exists(model, classifier) else "",
    }
    new_head = load and settings["num_classes"] != request.num_classes
    return _Loaded(
        model,
        size,
        _per_channel(settings["mean"], channels),
        _per_channel(settings["std"], channels),
        declared,
        partial(_probe_timm, stages=stages, classifier=classifier),
        _timm_input(timm, model) if load else None,
        _timm_classes(timm, settings) if load and not new_head else (),
        new_head,
    )


def _timm_input(timm: Any, model: Any) -> Resize:
    """The size, cut and interpolation with which timm evaluates a model."""
    # A model of a fixed input size takes no larger images for its test.
    test = not model.default_cfg.get("fixed_input_size", False)
    settings = timm.data.resolve_model_data_config(model, use_test_size=test)
    _, height, width = settings["input_size"]
    scaled = tuple(math.floor(side / settings["crop_pct"]) for side in (height, width))
    return Resize((height, width), scaled, settings["crop_mode"], _interpolation(settings["interpolation"]))


def _interpolation(name: str) -> Any:
    """Name an interpolation of Pillow as torch does; the nearest one where torch has none."""
    return {"nearest": "nearest-exact", "bicubic": "bicubic", "lanczos": "bicubic"}.get(name, "bilinear")


def _timm_classes(timm: Any, settings: dict[str, Any]) -> tuple[str, ...]:
    names = settings.get("label_names")
    subset = timm.data.infer_imagenet_subset(settings)
    return tuple(names or (timm.data.ImageNetInfo(subset).label_names() if subset else ()))


def _fit_input_size(
    create: Callable[..., Any], image_shape: tuple[int, int, int], *, keep_size: bool
) -> tuple[Any, tuple[int, int] | None]:
    """Create a timm model for images of this shape, and return the size they must be resized to, if any."""
    model = create()
    _, height, width = model.default_cfg["input_size"]
    if not model.default_cfg.get("fixed_input_size", False):
        return model, None
    if not keep_size and (height, width) != image_shape[1:]:
        try:  # to create it for the size of the images
            resized = create(img_size=image_shape[1:]).eval()
            with torch.no_grad():
                resized(torch.zeros(1, *image_shape))
            return resized, None
        except (TypeError, AssertionError, RuntimeError, ValueError):
            pass  # img_size is not an option of this model, or not a multiple of its patch size
    return model, (height, width)


def _exists(model: nn.Module, path: str | None) -> bool:
    try:
        return bool(path) and model.get_submodule(str(path)) is not None
    except AttributeError:
        return False


def _probe_timm(
    model: nn.Module, images: Tensor, *, stages: Sequence[dict[str, Any]], classifier: str
) -> dict[str, Any]:
    """Find the classifier, the stages of timm's table that can be tapped, and those in NHWC layout."""
    found = find_classifier(model, images, classifier)
    channels = {str(stage["module"]): stage.get("num_chs") for stage in stages}
    paths = list(channels)
    if stages and stages[0].get("reduction", 1) > 2:
        paths.insert(0, paths[0] + INPUT)  # timm lists no stem that reduces the size by more than two
    features = readable_features(model, images, paths)
    usually_nhwc = getattr(model, "output_fmt", "") == "NHWC"
    nhwc = {
        path
        for path, feature in features.items()
        if feature.ndim == 4
        and feature.shape[-1] == channels.get(path)
        and (usually_nhwc or feature.shape[1] != channels[path])
    }
    forms = {
        path: channels_first
        for path, feature in features.items()
        if feature.ndim == 4 and path.removesuffix(INPUT) in nhwc
    }
    return {**found, "stage_paths": list(features), "forms": {**found.get("forms", {}), **forms}}


def channels_first(feature: Tensor) -> Tensor:
    """Return a map [B, H, W, C] as [B, C, H, W]."""
    return feature.permute(0, 3, 1, 2)


# ---------------------------------------------------------------- transformers


def _load_transformers(request: _Request) -> _Loaded:
    transformers = _import_library(request)
    folder = Path(request.bare)
    if not folder.is_dir() and not _HUB_NAME.fullmatch(request.bare):
        raise BadInput(f"model {request.name!r}: no folder {request.bare!r}")
    # A local folder is read with its weights, a name on the hub only with '@pretrained'.
    load = request.pretrained and (request.tagged or any(folder.glob("*.safetensors")))
    if request.pretrained and not load and any(folder.glob("pytorch_model*.bin")):
        raise BadInput(
            f"model {request.name!r}: pickled weights are not read: save them as model.safetensors"
        )
    try:
        config = transformers.AutoConfig.from_pretrained(request.bare, trust_remote_code=False)
        own = transformers.utils.cached_file(request.bare, _CONFIGURATION[0])
        if load:
            _check_weights_fit(request, config)
        names = tuple(str(name) for _, name in sorted((config.id2label or {}).items()))
        config.num_labels = request.num_classes
        if hasattr(config, "num_channels"):
            config.num_channels = request.image_shape[0]
        if config.architectures is None:
            config.architectures = []  # transformers iterates over it in families with several classifiers
        auto = transformers.AutoModelForImageClassification
        new_head = False
        if load:
            model, new_head = _load_transformers_weights(auto, request, config)
        else:
            model = auto.from_config(config, trust_remote_code=False)
    except BadInput:
        raise
    except ImportError as error:
        raise _broken_library(request, error) from error
    except (OSError, ValueError) as error:  # no such folder or name, no network, no image classifier
        raise BadInput(f"model {request.name!r}: {_one_line(error)}") from error
    size = getattr(config, "image_size", None)
    size = (size, size) if isinstance(size, int) else size
    file = _preprocessor_file(transformers, request)
    unknown = file is None and not request.normalised
    if unknown and load and not request.fine_tune:
        raise BadInput(
            f"model {request.name!r}: no {_PREPROCESSOR} says how its images were normalised: add it or give "
            "mean and std (of a teacher teacher.mean and teacher.std; 0 and 1 for each channel are none)"
        )
    settings = {} if file is None else _read_settings(file)
    mean, std = _normalisation(file, settings, request.image_shape[0])
    return _Loaded(
        model.float(),  # weights may be stored in half precision; the precision of a run is chosen elsewhere
        tuple(size) if size else None,
        mean,
        std,
        probe=partial(_probe_transformers, fixed_size=bool(size)),
        made_for=_transformers_input(request, transformers, file, settings) if load else None,
        class_names=names if load and not new_head else (),
        new_head=new_head,
        lacks_normalisation=unknown,
        configuration={
            name: Path(path).read_text(encoding="utf-8")
            for name, path in zip(_CONFIGURATION, (own, file), strict=True)
            if path is not None
        },
    )


def _check_weights_fit(request: _Request, config: Any) -> None:
    if not request.tagged and config.num_labels != request.num_classes:
        raise BadInput(
            f"model {request.name!r}: its weights have {config.num_labels} classes, wanted "
            f"{request.num_classes}; '{request.name}{PRETRAINED}' loads them with a new classifier"
        )
    channels = request.image_shape[0]
    trained = getattr(config, "num_channels", channels)
    if trained != channels:
        raise BadInput(
            f"model {request.name!r}: its weights are for {trained} channels, the images have {channels}"
        )


def _load_transformers_weights(auto: Any, request: _Request, config: Any) -> tuple[Any, bool]:
    """Load safetensors weights; with '@pretrained', the classifier may be new, which is told."""
    model, report = auto.from_pretrained(
        request.bare,
        config=config,
        use_safetensors=True,
        ignore_mismatched_sizes=request.tagged,
        output_loading_info=True,
        trust_remote_code=False,
    )
    # transformers initialises all missing weights at random and only logs it.
    unfilled = [*report["missing_keys"], *(key for key, *_ in report["mismatched_keys"])]
    missing = sorted(key for key in unfilled if not (request.tagged and _in_classifier(key)))
    if missing:
        raise BadInput(
            f"model {request.name!r}: the file lacks weights that fit for {', '.join(missing[:_SHOWN])}"
        )
    return model, bool(unfilled)


def _in_classifier(key: str) -> bool:
    heads = ("classifier", "head", "fc")
    return any(part in heads or part.endswith(("_classifier", "_head")) for part in key.split("."))


_PREPROCESSOR = "preprocessor_config.json"
_CONFIGURATION = ("config.json", _PREPROCESSOR)


def _preprocessor_file(transformers: Any, request: _Request) -> Path | None:
    """Find the preprocessor settings in a folder, or on the hub for a model with '@pretrained'."""
    local = Path(request.bare) / _PREPROCESSOR
    if local.is_file() or Path(request.bare).is_dir() or not request.tagged:
        return local if local.is_file() else None
    found = transformers.utils.cached_file(
        request.bare,
        _PREPROCESSOR,
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_gated_repo=False,
    )
    return None if found is None else Path(found)


def _read_settings(file: Path) -> dict[str, Any]:
    try:
        settings = json.loads(file.read_text(encoding="utf-8"))
    except ValueError:
        settings = None
    if not isinstance(settings, dict):
        raise BadInput(f"{file}: must be a JSON object with image_mean and image_std")
    return settings


def _normalisation(
    file: Path | None, settings: dict[str, Any], channels: int
) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of preprocessor settings; both are empty if there are none."""
    if not settings.get("do_normalize", True) or settings.get("image_mean") is None:
        return [], []
    try:
        mean, std = (_per_channel(settings[key], channels) for key in ("image_mean", "image_std"))
    except (TypeError, KeyError):
        raise BadInput(f"{file}: must be a JSON object with image_mean and image_std") from None
    return mean, std


_RESAMPLE = ("nearest", "lanczos", "bilinear", "bicubic")  # Pillow's numbers


def _transformers_input(
    request: _Request, transformers: Any, file: Path | None, settings: dict[str, Any]
) -> Resize | None:
    """The resizing of preprocessor settings; None if there is none."""
    if file is None or not settings.get("do_resize", True) or settings.get("size") is None:
        return None
    try:
        # Only the class of the processor knows its defaults, and what a whole number means as a size.
        settings = transformers.AutoImageProcessor.from_pretrained(
            file.parent, local_files_only=True, trust_remote_code=False
        ).to_dict()
    except ImportError as error:
        raise _broken_library(request, error) from error
    except (OSError, ValueError):
        pass  # a processor with code of its own: the file must say it all
    try:
        size, number = settings["size"], settings.get("resample", 2)
        interpolation = _interpolation(_RESAMPLE[number] if number < len(_RESAMPLE) else "bilinear")
        edge = size.get("shortest_edge")
        if edge is None:
            scaled = _two_sides(size)
        else:
            # ConvNeXt's: an edge below 384 is that of the cut, a larger one is not cut.
            share = settings.get("crop_pct") if edge < _UNCUT else None
            scaled = (int(edge / (share or 1)),) * 2
        mode = "squash" if edge is None or ("crop_pct" in settings and edge >= _UNCUT) else "center"
        cut = (edge, edge) if edge else scaled
        if settings.get("do_center_crop"):
            cut = _two_sides(settings["crop_size"])
        return Resize(cut, scaled, mode, interpolation)  # type: ignore[arg-type]
    except (AttributeError, TypeError, KeyError):
        raise BadInput(
            f"{file}: size and crop_size must be height and width, or size the shortest_edge"
        ) from None


_UNCUT = 384


def _two_sides(size: dict[str, int]) -> tuple[int, int]:
    return size["height"], size["width"]


def _probe_transformers(model: nn.Module, images: Tensor, *, fixed_size: bool) -> dict[str, Any]:
    """Find the classifier and the submodules that receive or return the hidden states."""
    found = find_classifier(model, images)
    # A copy, because transformers may leave hooks that cannot be pickled on a model asked for hidden states.
    probed = copy.deepcopy(model)
    with trace_tensors(probed) as trace:
        output = probed(images, output_hidden_states=True)
    states = list(getattr(output, "hidden_states", None) or ())
    paths = [trace.path_of(state) for state in states]
    numbers = {paths[number]: number for number in _stage_numbers(states) if paths[number]}
    stages = list(readable_features(model, images, list(numbers)))
    # At a fixed size, tokens that the model itself can reshape to maps are tapped as maps.
    maps = getattr(output, "reshaped_hidden_states", None) or () if fixed_size else ()
    forms = dict(found.get("forms", {}))
    for path in stages if maps else ():
        tokens, reshaped = states[numbers[path]], maps[numbers[path]]
        if tokens.ndim != 3:
            continue
        form = partial(tokens_to_map, height=reshaped.shape[2], width=reshaped.shape[3])
        if torch.equal(form(tokens), reshaped):
            forms[path] = form
    return {**found, "stage_paths": stages, "forms": forms}


def _stage_numbers(states: Sequence[Tensor]) -> list[int]:
    """Select the hidden states that are stages: the stem, and the last of the maps of each size."""
    last = [
        number
        for number, (state, after) in enumerate(pairwise(states))
        if number == 0 or state.ndim != 4 or state.shape[2:] != after.shape[2:]
    ]
    return [*last, len(states) - 1] if states else []


def tokens_to_map(tokens: Tensor, *, height: int, width: int) -> Tensor:
    """Return tokens [B, height * width, C] as a map [B, C, height, width]."""
    return tokens.transpose(1, 2).reshape(len(tokens), tokens.shape[2], height, width)


_LOADERS = {"timm": _load_timm, "hf": _load_transformers}


# ---------------------------------------------------------------- the user's own function

_PATH_LISTS = ("stage_paths", "preact_paths", "norm_paths")
_SINGLE_PATHS = ("pooled_path", "classifier_path")


def _load_function(request: _Request) -> _Loaded:
    """Import ``module``, from the current folder first, and call ``function``."""
    name = request.name
    module, _, function_name = name.partition(":")
    with _current_folder_first():
        function = getattr(_import_module(name, module), function_name, None)
        if not callable(function):
            raise BadInput(f"model {name!r}: module {module!r} has no function {function_name!r}")
        known = {"num_classes": request.num_classes, "image_shape": request.image_shape}
        model = _call_factory(name, function, known)
    if not isinstance(model, nn.Module):
        raise BadInput(f"model {name!r}: must return a torch.nn.Module, got {type(model).__name__}")
    declared = _declared_paths(name, model)

    def probe(model: nn.Module, images: Tensor) -> dict[str, Any]:
        return {**find_classifier(model, images), **declared}

    return _Loaded(model, declared=declared, probe=None if "classifier_path" in declared else probe)


def _declared_paths(name: str, model: nn.Module) -> dict[str, Any]:
    """Read and check the feature paths that the model has as attributes."""
    declared = {key: getattr(model, key) for key in (*_PATH_LISTS, *_SINGLE_PATHS) if getattr(model, key, ())}
    for key, value in declared.items():
        paths = [value] if key in _SINGLE_PATHS else value
        if not isinstance(paths, list | tuple) or not all(isinstance(path, str) for path in paths):
            wanted = "the path of a submodule" if key in _SINGLE_PATHS else "a list of paths of submodules"
            raise BadInput(f"model {name!r}: {key} must be {wanted}, got {value!r}")
        try:
            for path in paths:
                Taps(model, {key: path})
        except ValueError as error:
            raise BadInput(f"model {name!r}: {error}") from None
    return declared


def _import_module(name: str, module: str) -> ModuleType:
    importlib.invalidate_caches()
    try:
        return importlib.import_module(module)
    except (ImportError, RuntimeError) as error:  # RuntimeError: torchvision built for another torch
        if isinstance(error, ModuleNotFoundError) and f"{module}.".startswith(f"{error.name}."):
            raise BadInput(
                f"unknown model {name!r}: no module {error.name!r} in the current folder or on Python's path"
            ) from None
        raise BadInput(
            f"model {name!r}: module {module!r} cannot be imported: {_import_failure(error)}"
        ) from error


def _call_factory(name: str, function: Callable[..., Any], known: dict[str, Any]) -> Any:
    """Call a function with the arguments that it takes; one that cannot be called so is refused before."""
    try:
        signature = inspect.signature(function)
    except ValueError:  # functions written in C may have no signature
        signature = inspect.Signature()
    named = signature.parameters
    # Functions with **kwargs mostly pass them on to a class, and classes take num_classes.
    passed_on = any(parameter.kind is parameter.VAR_KEYWORD for parameter in named.values())
    arguments = {
        key: value for key, value in known.items() if key in named or (passed_on and key == "num_classes")
    }
    try:
        if "num_classes" not in arguments:
            raise TypeError
        signature.bind(**arguments)
    except TypeError:
        raise BadInput(
            f"model {name!r}: must accept the keyword arguments num_classes and image_shape, or num_classes "
            f"alone; its arguments are {signature}"
        ) from None
    try:
        return function(**arguments)
    except (TypeError, KeyError) as error:
        if not passed_on:
            raise
        told = " and ".join(arguments)
        raise BadInput(
            f"model {name!r}: failed when called with {told}: {type(error).__name__}: {_one_line(error)}; "
            f"its arguments are {signature}: image_shape is passed only to an argument of that name"
        ) from error


@contextmanager
def _current_folder_first() -> Iterator[None]:
    before = list(sys.path)
    sys.path.insert(0, str(Path.cwd()))
    try:
        yield
    finally:
        sys.path[:] = before
