"""Names of models and what they build: the one list that recipes are checked against.

A name is ``DATASET/MODEL``; without a data set it means CIFAR-100. Models of CIFAR-100 and Tiny-ImageNet
take images of any size, so both data sets have all of them. A name with a colon is a model from outside:
``timm:NAME``, ``hf:NAME_OR_FOLDER`` or ``module:function``.
"""

from collections.abc import Callable, Sequence
from difflib import SequenceMatcher
from functools import partial

from dotkd.errors import BadInput
from dotkd.models.base import ImageModel
from dotkd.models.external import create_external
from dotkd.models.mobilenet import MobileNetV1, MobileNetV2, TinyMobileNetV2
from dotkd.models.resnet import WideResNet, imagenet_resnet, thin_resnet
from dotkd.models.shufflenet import ShuffleNetV1, ShuffleNetV2
from dotkd.models.small import CNN, MLP
from dotkd.models.vgg import VGG
from dotkd.models.wrap import is_external

_Builder = Callable[..., ImageModel]
_DEFAULT = "cifar100"
_SHOWN = 5

_SMALL_IMAGES: dict[str, _Builder] = {
    **{f"resnet{depth}": partial(thin_resnet, depth) for depth in (8, 14, 20, 32, 44, 56, 110)},
    **{f"resnet{depth}x4": partial(thin_resnet, depth, 4) for depth in (8, 32)},
    **{f"ResNet{depth}": partial(imagenet_resnet, depth, False) for depth in (18, 34, 50)},
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
    "tiny_imagenet/MobileNetV2": TinyMobileNetV2,  # published as another network than CIFAR's
    **{f"imagenet/ResNet{depth}": partial(imagenet_resnet, depth, True) for depth in (18, 34, 50)},
    "imagenet/MobileNetV1": MobileNetV1,
}


def model_names() -> list[str]:
    """List the names of the zoo, which :func:`create_model` knows by itself.

    Returns:
        The names, sorted.

    Example:
        >>> "small/mlp32" in model_names()
        True
    """
    return sorted(_MODELS)


def check_model_name(name: str) -> str:
    """Refuse the name of a model that is not on the list and does not have the form of one from outside.

    Args:
        name: The name, with or without its data set. Whether a model from outside exists is seen only
            when it is made: no library of others is imported here.

    Returns:
        The name with its data set.

    Raises:
        BadInput: Unknown; the message names the nearest.
    """
    if is_external(name):
        return name
    full = name if "/" in name else f"{_DEFAULT}/{name}"
    if full not in _MODELS:
        nearest = ", ".join(map(repr, _nearest(name)))
        raise BadInput(
            f"unknown model {name!r}; nearest: {nearest} "
            f"(known: {len(_MODELS)} models, dotkd.models.model_names() lists them)"
        )
    return full


def _nearest(name: str) -> list[str]:
    """The names most like this one, in any case; like their own part, where it has no data set."""

    def likeness(known: str) -> float:
        known = known if "/" in name else known.partition("/")[2]
        return SequenceMatcher(None, name.lower(), known.lower()).ratio()

    return sorted(_MODELS, key=likeness, reverse=True)[:_SHOWN]


def create_model(
    name: str,
    num_classes: int,
    *,
    image_shape: tuple[int, int, int] = (3, 32, 32),
    mean: Sequence[float] = (),
    std: Sequence[float] = (),
    pretrained: bool = True,
) -> ImageModel:
    """Make a model, its weights drawn from torch's global generator as its publication did it.

    Beside the zoo there are models from outside, each in an :class:`External`, whose ``state_dict`` has
    ``model.`` in front of the keys:

    - ``timm:NAME``, any model of timm, with random weights; ``timm:NAME@pretrained`` downloads them. One
      of a fixed size is made for the size of the images where it can be; otherwise, and always with
      pretrained weights, they are resized for it.
    - ``hf:FOLDER`` or ``hf:NAME``, an image classifier of transformers. A folder gives its weights where
      it has them (safetensors), a name of the hub its settings, and ``@pretrained`` behind it the weights
      too, with a new classifier where the number of classes differs. Images are resized to the
      ``image_size`` of the settings.
    - ``module:function``, your own: ``function(num_classes=..., image_shape=...)``, or with
      ``num_classes`` alone, returns a module. The module is looked for in the current folder first.
      Such a name runs that code: do not load the recipe of a stranger beside files of a stranger.

    Args:
        name: A name out of :func:`model_names`, where one without a data set means CIFAR-100, or a model
            from outside.
        num_classes: Number of logits.
        image_shape: (C, H, W) of the images it will see.
        mean: Mean of each channel by which it normalises; none for plain images, or for a model from
            outside what timm or the folder's ``preprocessor_config.json`` says it was trained with.
        std: Standard deviation of each channel, likewise.
        pretrained: False to leave a model from outside its random weights although its name says which to
            load, because others are read into it anyway.

    Returns:
        The model, on the CPU, in training mode.

    Raises:
        BadInput: Unknown name, or a model from outside that cannot be made.

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
            full, num_classes, image_shape=image_shape, mean=mean, std=std, pretrained=pretrained
        )
    build = _MODELS[full]
    return build(num_classes=num_classes, image_shape=image_shape, mean=mean, std=std)
