"""ImageModel: the interface of every image classifier here, its input and its feature paths."""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
import torch.fx
from torch import Tensor, nn
from torch.nn.functional import interpolate, pad


def check_normalisation(mean: Sequence[float], std: Sequence[float]) -> None:
    """Raise ValueError unless ``mean`` and ``std`` have the same length and every ``std`` is positive."""
    if len(mean) != len(std) or any(not value > 0 for value in std):
        raise ValueError(
            f"mean and std must have one number for each channel, std > 0, got {list(mean)} and {list(std)}"
        )


class Resize(NamedTuple):
    """Brings images to the size that a network was trained for; images of that size stay as they are.

    Args:
        size: (H, W) of the result.
        scaled: (H, W) to which images are scaled before the cut; None: ``size``.
        mode: ``"squash"`` scales each side by itself. ``"center"`` keeps the aspect ratio and covers
            ``scaled``, ``"border"`` keeps it and stays inside. Then the middle is cut out, or the border
            filled.
        interpolation: As in ``torch.nn.functional.interpolate``, antialiased where it can be.

    Example:
        >>> Resize((224, 224), (256, 256), "center")(torch.rand(2, 3, 32, 48)).shape
        torch.Size([2, 3, 224, 224])
    """

    size: tuple[int, int]
    scaled: tuple[int, int] | None = None
    mode: Literal["squash", "center", "border"] = "squash"
    interpolation: Literal["bilinear", "bicubic", "nearest-exact"] = "bilinear"

    def __call__(self, images: Tensor, fill: Tensor | float = 0.0) -> Tensor:
        """Resize a batch of images.

        Args:
            images: [B, C, H, W], in [0, 1].
            fill: Value of the border, a number or [C, 1, 1].

        Returns:
            [B, C, *size], in [0, 1].
        """
        if tuple(images.shape[-2:]) == self.size:
            return images
        smooth = self.interpolation != "nearest-exact"
        scaled = self._scaled(*images.shape[-2:])
        images = interpolate(images, scaled, mode=self.interpolation, antialias=smooth)
        if self.interpolation == "bicubic":
            images = images.clamp(0, 1)  # it overshoots at edges
        if scaled == self.size:
            return images
        top, left = (round((now - wanted) / 2) for now, wanted in zip(scaled, self.size, strict=True))
        right, bottom = scaled[1] - self.size[1] - left, scaled[0] - self.size[0] - top
        return pad(images - fill, (-left, -right, -top, -bottom)) + fill

    def _scaled(self, height: int, width: int) -> tuple[int, int]:
        """The size before the cut, rounded as torchvision and timm do."""
        down, across = self.scaled or self.size
        if self.mode == "squash":
            return down, across
        taller = down * width > across * height  # than the images are
        if self.mode == "center":
            wanted, given = (down, height) if taller else (across, width)
            return height * wanted // given, width * wanted // given
        wanted, given = (across, width) if taller else (down, height)
        return round(height * wanted / given), round(width * wanted / given)


class ImageModel(nn.Module):
    """Base class of image classifiers that prepare their own input and name their feature maps.

    Student and teacher may have been trained with different normalisation. A batch therefore holds images
    in [0, 1], and each model computes ``(images - mean) / std`` per channel. ``mean`` and ``std`` are
    settings, not weights: they follow the model to a device but are not in its ``state_dict``.

    The class attributes are feature paths: dotted paths of submodules, as :class:`dotkd.features.taps.Taps`
    reads them.

    Attributes:
        stage_paths: Output of each stage, from the input to the classifier.
        preact_paths: Each stage's feature map before its last ReLU; empty if the network has none.
        norm_paths: Batch norm in front of each of ``preact_paths`` except the stem's; empty if there is none.
        pooled_path: Pooled features, the vector that the classifier receives.
        classifier_path: The last layer, which returns the logits.
        made_for: Brings images to the size that the weights were trained for; None: images stay as they are.
        class_names: Names of the outputs, in their order; empty if they are not known.
        new_head: Whether weights were loaded that came without a classifier for these classes: it is random.

    Args:
        mean: Mean of each channel; empty for 0.
        std: Standard deviation of each channel, > 0; empty for 1.

    Raises:
        ValueError: ``mean`` and ``std`` differ in length, or a standard deviation is not positive.

    Example:
        >>> model = ImageModel(mean=(0.5,), std=(0.25,))
        >>> model.normalize(torch.ones(1, 1, 1, 1)).item()
        2.0
    """

    mean: Tensor
    std: Tensor
    stage_paths: tuple[str, ...] = ()
    preact_paths: tuple[str, ...] = ()
    norm_paths: tuple[str, ...] = ()
    pooled_path: str = ""
    classifier_path: str = ""
    made_for: Resize | None = None
    class_names: tuple[str, ...] = ()
    new_head: bool = False

    def __init__(self, mean: Sequence[float] = (), std: Sequence[float] = ()) -> None:
        super().__init__()
        self.set_normalisation(mean, std)

    def set_normalisation(self, mean: Sequence[float], std: Sequence[float]) -> None:
        """Replace mean and standard deviation.

        Args:
            mean: As in the constructor.
            std: Likewise.

        Raises:
            ValueError: As in the constructor.
        """
        check_normalisation(mean, std)
        for name, values in (("mean", mean), ("std", std)):
            self.register_buffer(name, torch.tensor(values).reshape(-1, 1, 1), persistent=False)

    def normalize(self, images: Tensor) -> Tensor:
        """Normalise a batch of images per channel.

        Args:
            images: [B, C, H, W], in [0, 1].

        Returns:
            The normalised images, of the same shape; the unchanged images if the model has no mean.
        """
        return (images - self.mean).div_(self.std) if self.mean.numel() else images

    def prepare(self, images: Tensor) -> Tensor:
        """Bring a batch of images to the size that the weights were made for, and normalise it.

        Args:
            images: [B, C, H, W], in [0, 1].

        Returns:
            The input of the first layer, [B, C, H', W'].
        """
        return self.normalize(self.fit(images))

    def fit(self, images: Tensor) -> Tensor:
        """Bring a batch of images to the size that the weights were made for.

        Args:
            images: [B, C, H, W], in [0, 1].

        Returns:
            [B, C, H', W'], in [0, 1].
        """
        fill = self.mean if self.mean.numel() else 0.0
        return images if self.made_for is None else _resized(self.made_for, images, fill)


@torch.fx.wrap  # a tracer sees one operation: a decision by the size of the images would stop it
def _resized(resize: Resize, images: Tensor, fill: Tensor | float) -> Tensor:
    return resize(images, fill)
