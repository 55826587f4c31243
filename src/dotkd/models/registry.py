"""Model names and what they build: the zoo's table, the check of a name, and :func:`create_model`.

A name is ``DATASET/MODEL``; without a data set it means CIFAR-100. Models for CIFAR-100 and Tiny-ImageNet
take images of any size, so both data sets have all of them. Names with a colon are external models.
"""

from collections.abc import Callable, Mapping, Sequence
from difflib import SequenceMatcher
from functools import partial

from dotkd.errors import BadInput
from dotkd.models.base import ImageModel
from dotkd.models.external import create_external, is_external
from dotkd.models.zoo.mobilenet import MobileNetV1, MobileNetV2, TinyMobileNetV2
from dotkd.models.zoo.resnet import WideResNet, cifar_resnet, imagenet_resnet
from dotkd.models.zoo.shufflenet import ShuffleNetV1, ShuffleNetV2
from dotkd.models.zoo.small import CNN, MLP
from dotkd.models.zoo.vgg import VGG

_Builder = Callable[..., ImageModel]
_DEFAULT_DATASET = "cifar100"
_SHOWN = 5  # names that a message lists

_SMALL_IMAGES: dict[str, _Builder] = {
    **{f"resnet{depth}": cifar_resnet(depth) for depth in (8, 14, 20, 32, 44, 56, 110)},
    **{f"resnet{depth}x4": cifar_resnet(depth, width=4) for depth in (8, 32)},
    **{f"ResNet{depth}": imagenet_resnet(depth, large_stem=False) for depth in (18, 34, 50)},
    **{f"wrn_{depth}_{width}": partial(WideResNet, depth, width) for depth in (16, 40) for width in (1, 2)},
    **{f"vgg{depth}": partial(VGG, depth) for depth in (8, 11, 13, 16, 19)},
    "MobileNetV2": MobileNetV2,
    "ShuffleV1": ShuffleNetV1,
    "ShuffleV2": ShuffleNetV2,
}

_MODELS: dict[str, _Builder] = {
    **{f"small/mlp{width}": partial(MLP, width) for width in (16, 32, 64, 128, 256)},
    **{f"small/cnn{width}": partial(CNN, width) for width in (4, 8, 16, 32, 48, 64)},
    **{f"cifar100/{name}": build for name, build in _SMALL_IMAGES.items()},
    **{f"tiny_imagenet/{name}": build for name, build in _SMALL_IMAGES.items()},
    "tiny_imagenet/MobileNetV2": TinyMobileNetV2,  # published as a different network than CIFAR's
    **{f"imagenet/ResNet{depth}": imagenet_resnet(depth, large_stem=True) for depth in (18, 34, 50)},
    "imagenet/MobileNetV1": MobileNetV1,
}


def model_names() -> list[str]:
    """List the names of the models in the zoo.

    Returns:
        The names, sorted. External models, which :func:`create_model` knows too, are not among them.

    Example:
        >>> "small/mlp32" in model_names()
        True
    """
    return sorted(_MODELS)


def check_model_name(name: str) -> str:
    """Return a name with its data set, or raise BadInput; external names are checked by their form only."""
    if is_external(name):
        return name
    full = name if "/" in name else f"{_DEFAULT_DATASET}/{name}"
    if full not in _MODELS:
        nearest = ", ".join(map(repr, _nearest(name)))
        raise BadInput(
            f"unknown model {name!r}; nearest: {nearest} "
            f"(known: {len(_MODELS)} models, dotkd.models.model_names() lists them)"
        )
    return full


def _nearest(name: str) -> list[str]:
    """Return the most similar names, ignoring case, and the data set too if ``name`` has none."""

    def similarity(known: str) -> float:
        known = known if "/" in name else known.partition("/")[2]
        return SequenceMatcher(None, name.lower(), known.lower()).ratio()

    return sorted(_MODELS, key=similarity, reverse=True)[:_SHOWN]


def create_model(
    name: str,
    num_classes: int,
    *,
    image_shape: tuple[int, int, int] = (3, 32, 32),
    mean: Sequence[float] = (),
    std: Sequence[float] = (),
    pretrained: bool = True,
    fine_tune: bool = False,
    configuration: Mapping[str, str] | None = None,
) -> ImageModel:
    """Create a model by name, initialised as published, from torch's global random generator.

    Besides the zoo there are external models. Each is wrapped in an :class:`External`, whose ``state_dict``
    keys start with ``model.``:

    - ``timm:NAME``: a model of timm, with random weights; ``timm:NAME@pretrained`` downloads its weights. A
      model of a fixed input size is created for the size of the images if it supports that. Otherwise, and
      always with pretrained weights, images are resized.
    - ``hf:FOLDER`` or ``hf:NAME``: an image classifier of transformers. A folder is read with its safetensors
      weights, if it has any; a name on the hub gives the configuration only. ``@pretrained`` after either
      loads the weights, with a new classifier if the number of classes differs. Images are resized to
      the ``image_size`` of the configuration.

      Weights that are used as they are want the input that they were trained with: pretrained models of timm
      and transformers resize images as their configuration says, and a folder without
      ``preprocessor_config.json`` needs ``mean`` and ``std``.
    - ``module:function``: your own function, or a builder such as ``torchvision.models:resnet18``.
      ``function(num_classes=..., image_shape=...)``, or with ``num_classes`` alone, returns a module. A
      function with ``**kwargs`` gets ``num_classes``, and ``image_shape`` only if it names it. The current
      folder is searched first. The name runs this code: do not use a stranger's recipe next to a
      stranger's files.

    Args:
        name: A name from :func:`model_names`, where a name without a data set means CIFAR-100, or the name of
            an external model.
        num_classes: Number of logits.
        image_shape: (C, H, W) of the images.
        mean: Mean of each channel, for normalisation. Empty for none; for external models, for the
            values that timm or the folder's ``preprocessor_config.json`` gives.
        std: Standard deviation of each channel, likewise.
        pretrained: False to keep random weights in an external model whose name asks for pretrained
            ones, because other weights will be loaded.
        fine_tune: Whether pretrained weights will be trained on. Then images keep their size where the
            architecture allows it, and weights may come without a mean and a standard deviation.
        configuration: :attr:`External.configuration` of an earlier model of the same ``hf:`` name, from which
            this one is made with random weights, without the folder or the hub.

    Returns:
        The model, on the CPU, in training mode.

    Raises:
        BadInput: The name is unknown, or the external model cannot be created.

    Example:
        >>> import torch
        >>> model = create_model("resnet8x4", num_classes=100)
        >>> model(torch.rand(2, 3, 32, 32)).shape
        torch.Size([2, 100])
        >>> model.stage_paths
        ('relu', 'layer1', 'layer2', 'layer3')
    """
    full = check_model_name(name)
    if is_external(full):
        return create_external(
            full,
            num_classes,
            image_shape=image_shape,
            mean=mean,
            std=std,
            pretrained=pretrained,
            fine_tune=fine_tune,
            configuration=configuration,
        )
    return _MODELS[full](num_classes=num_classes, image_shape=image_shape, mean=mean, std=std)
