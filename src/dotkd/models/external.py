"""Models of others behind the zoo's interface: of timm, of transformers, and the user's own.

Their libraries are loaded when a model is made, not before: a recipe is checked without them.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate
from torch.nn.parameter import is_lazy

from dotkd.errors import BadInput
from dotkd.models.base import ImageModel
from dotkd.models.external_made import Made
from dotkd.models.external_probe import logits_of
from dotkd.models.from_function import from_function
from dotkd.models.from_timm import from_timm
from dotkd.models.from_transformers import from_transformers
from dotkd.taps import INPUT, Taps

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
    if source in _FROM:
        made = _FROM[source](name, rest, num_classes, image_shape, pretrained)
    else:
        made = from_function(name, num_classes, image_shape)
    options = {**made.options, "mean": mean, "std": std} if mean else made.options
    plain = External(made.model, num_classes, name, **options)
    return External(made.model, num_classes, name, **options, **_features(plain, made, image_shape)).train()


def _features(plain: External, made: Made, image_shape: tuple[int, int, int]) -> dict[str, Any]:
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
