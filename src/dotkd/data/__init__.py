"""Data: sources of images, and the batch they are handed on in.

A source gives ``Splits`` of ``ImageData``, or of ``StreamedImages`` where memory could not hold them;
both give a ``Batch``. All randomness comes from generators that the caller passes in or from a seed;
torch's global one is left alone.
"""

from dotkd.data.augment import crop_flip
from dotkd.data.cifar import load_cifar, load_cifar10, load_cifar100
from dotkd.data.decode import RandomResizedCrop
from dotkd.data.folders import load_folder, load_imagenet, load_tiny_imagenet
from dotkd.data.hub import load_hub
from dotkd.data.images import Batch, DataFacts, ImageData, Images
from dotkd.data.sources import DATA_SETS, data_facts, load_data, load_digits
from dotkd.data.splits import Splits, add_label_noise
from dotkd.data.streamed import StreamedImages

__all__ = [
    "DATA_SETS",
    "Batch",
    "DataFacts",
    "ImageData",
    "Images",
    "RandomResizedCrop",
    "Splits",
    "StreamedImages",
    "add_label_noise",
    "crop_flip",
    "data_facts",
    "load_cifar",
    "load_cifar10",
    "load_cifar100",
    "load_data",
    "load_digits",
    "load_folder",
    "load_hub",
    "load_imagenet",
    "load_tiny_imagenet",
]
