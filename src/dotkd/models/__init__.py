"""Image classifiers by name, ``create_model("cifar100/resnet8x4", num_classes=100)``, and their weights.

Every model takes images in [0, 1] and returns logits; it applies its own normalisation. :class:`External`
gives models of timm, of transformers and of the user the same interface.
"""

from dotkd.models.base import ImageModel
from dotkd.models.registry import create_model, model_names
from dotkd.models.weights import load_weights
from dotkd.models.wrap import External

__all__ = ["External", "ImageModel", "create_model", "load_weights", "model_names"]
