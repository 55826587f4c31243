"""Models by name: ``create_model("cifar100/resnet8x4", num_classes=100)``; and weights from files.

Every model here takes images in [0, 1] and returns logits; mean and standard deviation are its own.
So do those of timm, transformers and the user, which :class:`External` wraps.
"""

from dotkd.models.base import ImageModel
from dotkd.models.external import External
from dotkd.models.registry import create_model, model_names
from dotkd.models.weights import load_weights

__all__ = ["External", "ImageModel", "create_model", "load_weights", "model_names"]
