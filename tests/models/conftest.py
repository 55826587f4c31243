"""The libraries of outside models, loaded once; tests that need one that is not installed skip and say so."""

import importlib
import warnings
from collections.abc import Iterator

import pytest
import torch

SCHEMAS = ("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",)
SCHEMAS += (SCHEMAS[0].replace("nms", "qnms"),)


@pytest.fixture(scope="session")
def schemas() -> Iterator[None]:
    """Two operators that torchvision wants to see, which it lacks beside a torch of another build."""
    library = None
    try:
        importlib.import_module("torchvision")
    except ImportError:
        pass
    except RuntimeError:
        library = torch.library.Library("torchvision", "DEF")
        for schema in SCHEMAS:
            library.define(schema)
    yield
    del library


@pytest.fixture(scope="session")
def timm(schemas: None) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what its import says of others' deprecations
        pytest.importorskip("timm", reason="the extra 'timm' is not installed")


@pytest.fixture(scope="session")
def hf(schemas: None) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pytest.importorskip("transformers", reason="the extra 'hf' is not installed")
