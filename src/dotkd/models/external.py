"""Models of others behind the zoo's interface: of timm, of transformers, and the user's own.

Their libraries are loaded when a model is made, not before: a recipe is checked without them.
"""

import importlib
import inspect
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from dotkd.errors import BadInput, missing_extra
from dotkd.models.base import ImageModel
from dotkd.models.external_names import LIBRARIES, PRETRAINED

_SHOWN = 5


class External(ImageModel):
    """A model of somebody else that behaves like one of the zoo: plain images in, logits out.

    The images are resized to the size that the model needs, where it needs one, and then normalised. The
    keys of ``state_dict`` are those of the inner model with ``model.`` in front; so are ``stage_paths``.

    Args:
        model: The inner model: images [B, C, H, W] to logits [B, num_classes], or to an output of
            transformers, whose ``logits`` are taken.
        num_classes: Number of logits.
        name: What messages call the model.
        size: (H, W) to which images are resized (bilinear, antialiased), or none to leave them.
        mean: Mean of each channel, or none for 0.
        std: Standard deviation of each channel, or none for 1.
        stage_paths: Where the inner model has its stages, as its own dotted paths.
        classifier_path: Where it has its last layer, likewise.

    Raises:
        ValueError: ``mean`` and ``std`` differ in length, or a deviation is not positive.

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
        classifier_path: str = "",
    ) -> None:
        super().__init__(mean, std)
        self.model = model
        self.num_classes = num_classes
        self.name = name
        self.size = size
        self.stage_paths = tuple(f"model.{path}" for path in stage_paths)
        self.classifier_path = f"model.{classifier_path}" if classifier_path else ""

    def forward(self, images: Tensor) -> Tensor:
        """Classify images.

        Args:
            images: [B, C, H, W], in [0, 1].

        Returns:
            Logits [B, num_classes].

        Raises:
            BadInput: The inner model returned something else; the message says what.
        """
        if self.size is not None and tuple(images.shape[-2:]) != self.size:
            images = interpolate(images, self.size, mode="bilinear", antialias=True)
        output = self.model(self.normalize(images))
        logits = output if isinstance(output, Tensor) else getattr(output, "logits", output)
        if isinstance(logits, Tensor) and logits.ndim == 2 and logits.shape[1] == self.num_classes:
            return logits
        came = f"a tensor {list(logits.shape)}" if isinstance(logits, Tensor) else type(logits).__name__
        raise BadInput(f"model {self.name!r} must return logits [B, {self.num_classes}], got {came}")


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
        name: The name, of a form that :func:`~dotkd.models.external_names.is_external` knows.
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
    if source in LIBRARIES:
        make = _timm if source == "timm" else _transformers
        found, options = make(name, rest, num_classes, image_shape, pretrained)
    else:
        found, options = _own(name, num_classes, image_shape), {}
    if mean:
        options.update(mean=mean, std=std)
    return External(found, num_classes, name, **options).train()


_Made = tuple[nn.Module, dict[str, Any]]


def _library(name: str) -> ModuleType:
    """Import the library of a model, or say what to install."""
    extra = name.partition(":")[0]
    try:
        return importlib.import_module(LIBRARIES[extra])
    except ModuleNotFoundError as error:
        if error.name != LIBRARIES[extra]:
            raise _broken(name, error) from error
        raise missing_extra(f"model {name!r}", extra) from None
    except (ImportError, RuntimeError) as error:  # torchvision beside another torch raises the latter
        raise _broken(name, error) from error


def _broken(name: str, error: Exception) -> BadInput:
    what = f"model {name!r}: {LIBRARIES[name.partition(':')[0]]} is installed, but does not load"
    return BadInput(f"{what}: {_line(error)}; do torch and torchvision belong together?")


def _line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


# ---------------------------------------------------------------- timm


def _timm(
    name: str, rest: str, num_classes: int, image_shape: tuple[int, int, int], pretrained: bool
) -> _Made:
    timm = _library(name)
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
        raise BadInput(f"model {name!r}: {_line(error)}") from error
    settings = model.default_cfg
    mean, std = (_per_channel(settings[key], image_shape[0]) for key in ("mean", "std"))
    paths = (str(stage["module"]) for stage in getattr(model, "feature_info", ()) if stage.get("module"))
    classifier = settings.get("classifier")
    return model, {
        "size": size,
        "mean": mean,
        "std": std,
        "stage_paths": [path for path in paths if _has(model, path)],
        "classifier_path": classifier if isinstance(classifier, str) and _has(model, classifier) else "",
    }


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


def _per_channel(values: Sequence[float], channels: int) -> list[float]:
    """The numbers for each channel; their mean for each, where the images have another number of them."""
    return list(values) if len(values) == channels else [sum(values) / len(values)] * channels


def _has(model: nn.Module, path: str) -> bool:
    try:
        model.get_submodule(path)
    except AttributeError:
        return False
    return True


# ---------------------------------------------------------------- transformers


def _transformers(
    name: str, rest: str, num_classes: int, image_shape: tuple[int, int, int], pretrained: bool
) -> _Made:
    library = _library(name)
    bare = rest.removesuffix(PRETRAINED)
    folder = Path(bare)
    asked = rest != bare
    # A local folder with weights is meant with them; a name of the hub only where it says so.
    load = pretrained and (asked or any(folder.glob("*.safetensors")))
    if pretrained and not asked and not load and any(folder.glob("pytorch_model*.bin")):
        raise BadInput(f"model {name!r}: weights of pickle are not read: save them as model.safetensors")
    try:
        config = library.AutoConfig.from_pretrained(bare)
        if load:
            _check_fit(name, config, None if asked else num_classes, image_shape[0])
        config.num_labels = num_classes
        if hasattr(config, "num_channels"):
            config.num_channels = image_shape[0]
        auto = library.AutoModelForImageClassification
        model = _loaded(auto, name, bare, config, new_head=asked) if load else auto.from_config(config)
    except BadInput:
        raise
    except ImportError as error:
        raise _broken(name, error) from error
    except (OSError, ValueError) as error:  # no such folder or name, no network, no image classifier
        raise BadInput(f"model {name!r}: {_line(error)}") from error
    size = getattr(config, "image_size", None)
    size = (size, size) if isinstance(size, int) else size
    mean, std = _preprocessing(folder, image_shape[0])
    # What it computes in is the run's choice, whatever its file is in.
    return model.float(), {"size": tuple(size) if size else None, "mean": mean, "std": std}


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
        bare, config=config, use_safetensors=True, ignore_mismatched_sizes=new_head, output_loading_info=True
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


def _preprocessing(folder: Path, channels: int) -> tuple[list[float], list[float]]:
    """Mean and deviation that a folder says its model was trained with; none where it says nothing."""
    file = folder / "preprocessor_config.json"
    if not file.is_file():
        return [], []
    try:
        settings = json.loads(file.read_text(encoding="utf-8"))
        if not settings.get("do_normalize", True) or settings.get("image_mean") is None:
            return [], []
        mean, std = (_per_channel(settings[key], channels) for key in ("image_mean", "image_std"))
    except (ValueError, TypeError, AttributeError, KeyError):
        raise BadInput(f"{file}: wanted a table with image_mean and image_std") from None
    return mean, std


# ---------------------------------------------------------------- the user's own


def _own(name: str, num_classes: int, image_shape: tuple[int, int, int]) -> nn.Module:
    module, _, wanted = name.partition(":")
    with _current_folder_first():
        function = getattr(_module(name, module), wanted, None)
        if not callable(function):
            raise BadInput(f"model {name!r}: there is no function {wanted!r} in {module!r}")
        given = {"num_classes": num_classes, "image_shape": image_shape}
        model = function(**{key: given[key] for key in _arguments(name, function)})
    if not isinstance(model, nn.Module):
        raise BadInput(f"model {name!r}: must return a torch.nn.Module, got {type(model).__name__}")
    return model


def _module(name: str, module: str) -> ModuleType:
    importlib.invalidate_caches()
    try:
        return importlib.import_module(module)
    except ImportError as error:
        if isinstance(error, ModuleNotFoundError) and f"{module}.".startswith(f"{error.name}."):
            raise BadInput(
                f"unknown model {name!r}: no module {error.name!r} in the current folder or on Python's path"
            ) from None
        raise BadInput(f"model {name!r}: {module!r} does not load: {_line(error)}") from error


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
