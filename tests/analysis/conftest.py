"""torchmetrics, the oracle of the classification measurements, loaded once."""

import importlib
import warnings
from types import ModuleType

import pytest


@pytest.fixture(scope="session")
def torchmetrics(schemas: None) -> ModuleType:
    """The module ``torchmetrics.classification``, which loads torchvision where that is installed."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what its import says of others' deprecations
        return importlib.import_module("torchmetrics.classification")
