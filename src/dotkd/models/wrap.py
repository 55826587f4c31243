"""External models behind ImageModel's interface: the wrapper, and the probing that finds feature paths.

The probes run a network once on example images, to find its classifier and the submodules whose outputs can
be tapped. :mod:`dotkd.models.external` decides which of them to use for which library.
"""

import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from dotkd.errors import BadInput
from dotkd.features.shapes import as_vector
from dotkd.features.taps import INPUT, Taps
from dotkd.models.base import ImageModel


class External(ImageModel):
    """Wraps any image classifier so that it behaves like a model of the zoo: images in [0, 1] to logits.

    Images are resized if the inner model needs a fixed size, and then normalised. The keys of ``state_dict``
    are those of the inner model, prefixed with ``model.``.

    Feature paths get the same prefix. A path with a conversion in ``forms`` is replaced by a submodule of
    ``views``, whose output is the converted feature; the conversion runs only while that submodule is tapped.

    Args:
        model: The inner model. It maps images [B, C, H, W] to logits [B, num_classes], or to an object with
            the attribute ``logits``, as models of transformers do.
        num_classes: Number of logits.
        name: Name of the model in error messages.
        size: (H, W) to which images are resized (bilinear, antialiased); None to keep their size.
        mean: Mean of each channel; empty for 0.
        std: Standard deviation of each channel, > 0; empty for 1.
        stage_paths: Paths in the inner model of the outputs of its stages. This and the following paths
            may end in ``:input``; :class:`ImageModel` defines them.
        preact_paths: Paths of the feature maps before the last ReLU of each stage.
        norm_paths: Paths of the batch norms in front of those.
        pooled_path: Path of the pooled features.
        classifier_path: Path of the classifier.
        forms: Path -> function that converts the inner model's feature to a map [B, C, H, W] or a vector
            [B, D].

    Attributes:
        configuration: Files, as name -> text, from which the inner model is made again; empty for all but
            models of transformers.
        lacks_normalisation: Whether nothing says how the images of the weights were normalised.

    Raises:
        ValueError: ``mean`` and ``std`` differ in length, a standard deviation is not positive, or a path of
            ``forms`` does not exist.

    Example:
        >>> inner = nn.Sequential(nn.Flatten(), nn.Linear(12, 5))
        >>> model = External(inner, 5, "mine:net", size=(2, 2), mean=[0.5] * 3, std=[0.25] * 3)
        >>> model(torch.rand(4, 3, 32, 32)).shape
        torch.Size([4, 5])
        >>> list(model.state_dict())
        ['model.1.weight', 'model.1.bias']
    """

    lacks_normalisation: bool = False
    configuration: Mapping[str, str] = MappingProxyType({})

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
        self.views = nn.ModuleList(FeatureView(model, path, form) for path, form in forms.items())
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
            BadInput: The inner model returned something else; the message names its type or shape.
        """
        logits = logits_of(self.model(self.prepare(images)))
        if isinstance(logits, Tensor) and logits.ndim == 2 and logits.shape[1] == self.num_classes:
            return logits
        got = f"a tensor {list(logits.shape)}" if isinstance(logits, Tensor) else type(logits).__name__
        raise BadInput(f"model {self.name!r} must return logits [B, {self.num_classes}], got {got}")

    def prepare(self, images: Tensor) -> Tensor:
        """Resize and normalise images for the inner model.

        Args:
            images: [B, C, H, W], in [0, 1].

        Returns:
            The input of the inner model, [B, C, H', W'].
        """
        images = self.fit(images)
        if self.size is not None and tuple(images.shape[-2:]) != self.size:
            images = interpolate(images, self.size, mode="bilinear", antialias=True)
        return self.normalize(images)


class FeatureView(nn.Module):
    """Converts a feature of another model with ``form``, only while this module itself is tapped."""

    def __init__(self, model: nn.Module, path: str, form: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.path = path
        self.form = form
        Taps(model, {path: path})  # raises and lists the nearest paths if this one does not exist
        source = model.get_submodule(path.removesuffix(INPUT))
        # Bound methods as lasting hooks survive deep copies and pickling, and torch.compile keeps one graph.
        if path.endswith(INPUT):
            source.register_forward_pre_hook(self._take_input)
        else:
            source.register_forward_hook(self._take_output)

    def forward(self, feature: Tensor) -> Tensor:
        """Convert the inner model's feature."""
        return self.form(feature)

    def _take_input(self, _module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if self._forward_hooks:
            self(inputs[0])

    def _take_output(self, _module: nn.Module, _inputs: Any, output: Tensor) -> None:
        if self._forward_hooks:
            self(output)

    def extra_repr(self) -> str:
        """Return the path."""
        return self.path


# ---------------------------------------------------------------- probing


def logits_of(output: Any) -> Any:
    """Return the ``logits`` of a transformers output, and any other output unchanged."""
    return output if isinstance(output, Tensor) else getattr(output, "logits", output)


class _LayerOutput(NamedTuple):
    path: str
    vector: Tensor  # averaged over the positions
    input_ndim: int


def find_classifier(model: nn.Module, images: Tensor, declared: str = "") -> dict[str, Any]:
    """Find the layer that returns the logits, a linear layer or a 1x1 convolution.

    Args:
        model: The network, in evaluation mode.
        images: Its input.
        declared: Path that is taken if it is such a layer and runs once.

    Returns:
        Arguments of External: ``classifier_path``, and ``pooled_path`` with a conversion if the layer's input
        is not a vector. Empty if there is no such layer.
    """
    outputs: list[_LayerOutput] = []

    def record(path: str, _layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        if output.ndim in {2, 3, 4}:
            outputs.append(_LayerOutput(path, as_vector(output), inputs[0].ndim))

    with ExitStack() as hooks:
        for path, layer in model.named_modules():
            if isinstance(layer, nn.Linear) or (isinstance(layer, nn.Conv2d) and layer.kernel_size == (1, 1)):
                hooks.enter_context(layer.register_forward_hook(partial(record, path)))
        logits = logits_of(model(images))
    paths = [output.path for output in outputs]
    path = declared if paths.count(declared) == 1 else _path_of_logits(outputs, logits)
    if paths.count(path) != 1:
        return {}
    if outputs[paths.index(path)].input_ndim == 2:
        return {"classifier_path": path}
    pooled = path + INPUT
    return {"classifier_path": path, "pooled_path": pooled, "forms": {pooled: as_vector}}


def _path_of_logits(outputs: Sequence[_LayerOutput], logits: Tensor) -> str:
    """Return the last layer that returns the logits, or the first of several whose mean they are (DeiT)."""
    same_shape = [output for output in outputs if output.vector.shape == logits.shape]
    vectors = [output.vector.to(logits.dtype) for output in same_shape]
    equal = [
        output.path
        for output, vector in zip(same_shape, vectors, strict=True)
        if torch.allclose(vector, logits)
    ]
    if equal:
        return equal[-1]
    for number, output in enumerate(same_shape):
        if torch.allclose(torch.stack(vectors[number:]).mean(0), logits):
            return output.path
    return ""


def readable_features(model: nn.Module, images: Tensor, paths: Sequence[str]) -> dict[str, Tensor]:
    """Read the features at those of ``paths`` that can be tapped: a map, tokens or a vector per image."""
    try:
        found = Taps(model, {path: path for path in paths})(images)[1]
    except (RuntimeError, TypeError, ValueError):  # one of them cannot be tapped: try them one by one
        found = {}
        for path in paths:
            with suppress(RuntimeError, TypeError, ValueError):
                found.update(Taps(model, {path: path})(images)[1])
    return {
        path: feature
        for path, feature in found.items()
        if feature.ndim in {2, 3, 4} and len(feature) == len(images)
    }


class TensorTrace(NamedTuple):
    """The tensors that each submodule received first and returned in a pass, in order, as weak references."""

    received: list[tuple[str, weakref.ref[Tensor]]]
    returned: list[tuple[str, weakref.ref[Tensor]]]

    def path_of(self, tensor: Tensor) -> str:
        """Return the feature path of a tensor of the pass, empty if no submodule received or returned it.

        If several nested submodules returned it, the outermost one around the first of them is named.
        """
        returned = [path for path, output in self.returned if output() is tensor]
        if returned:
            around = [path for path in returned if f"{returned[0]}.".startswith(f"{path}.")]
            return min(around, key=len)
        return next((path + INPUT for path, given in self.received if given() is tensor), "")


@contextmanager
def trace_tensors(model: nn.Module) -> Iterator[TensorTrace]:
    """Record which tensors the submodules of a model receive and return inside this context."""
    trace = TensorTrace([], [])

    def record_input(path: str, _module: nn.Module, inputs: tuple[Any, ...]) -> None:
        if inputs and isinstance(inputs[0], Tensor):
            trace.received.append((path, weakref.ref(inputs[0])))

    def record_output(path: str, _module: nn.Module, _inputs: Any, output: Any) -> None:
        if isinstance(output, Tensor):
            trace.returned.append((path, weakref.ref(output)))

    with ExitStack() as hooks:
        for path, module in model.named_modules():
            hooks.enter_context(module.register_forward_pre_hook(partial(record_input, path)))
            hooks.enter_context(module.register_forward_hook(partial(record_output, path)))
        yield trace
