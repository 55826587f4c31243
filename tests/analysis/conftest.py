"""torchmetrics, the oracle of the classification measurements, loaded once."""

import importlib
import warnings
from collections.abc import Iterator
from types import ModuleType

import pytest
import torch

SCHEMAS = ("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",)
SCHEMAS += (SCHEMAS[0].replace("nms", "qnms"),)


@pytest.fixture(scope="session")
def torchmetrics() -> Iterator[ModuleType]:
    """The module ``torchmetrics.classification``, which loads torchvision where that is installed.

    Beside a torch of another build torchvision lacks two operators that it wants to see.
    """
    library = None
    try:
        importlib.import_module("torchvision")
    except ImportError:
        pass
    except RuntimeError:
        library = torch.library.Library("torchvision", "DEF")
        for schema in SCHEMAS:
            library.define(schema)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what its import says of others' deprecations
        module = importlib.import_module("torchmetrics.classification")
    yield module
    del library
