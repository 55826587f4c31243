"""Models by name: ``create_model("small/cnn16", num_classes=100)``.

Every model here takes images in [0, 1] and returns logits; mean and standard deviation are its own.
"""

from dotkd.models.base import ImageModel
from dotkd.models.registry import create_model, model_names

__all__ = ["ImageModel", "create_model", "model_names"]
