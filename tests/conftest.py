"""Settings of all tests: one thread a process, no deadlines, and a torchvision that loads."""

import importlib
import os
import warnings
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest
import torch

if "PYTEST_XDIST_WORKER" in os.environ:
    torch.set_num_threads(1)
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # of processes that tests start

hypothesis.settings.register_profile("dotkd", deadline=None)  # no test depends on a quiet machine
hypothesis.settings.load_profile("dotkd")

SCHEMAS = ("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",)
SCHEMAS += (SCHEMAS[0].replace("nms", "qnms"),)


@pytest.fixture(scope="session")
def schemas() -> Iterator[None]:
    """Two operators that torchvision wants to see, which it lacks beside a torch of another build.

    PyPI has no torchvision for a CPU build of torch. Users there get a line that says which one to install
    (``tests/models/test_external.py``); with these operators timm loads and can be tested.
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
    yield
    del library


@pytest.fixture(scope="session")
def hf(schemas: None) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        importlib.import_module("transformers")


@pytest.fixture
def hf_folder(hf: None, tmp_path: Path) -> Path:
    """A small ResNet for images of one channel as save_pretrained leaves it, without a preprocessor."""
    from transformers import ResNetConfig, ResNetForImageClassification

    config = ResNetConfig(
        num_channels=1,
        embedding_size=4,
        hidden_sizes=[4, 8],
        depths=[1, 1],
        layer_type="basic",
        num_labels=10,
        downsample_in_first_stage=False,
    )
    ResNetForImageClassification(config).save_pretrained(tmp_path / "hf")
    return tmp_path / "hf"
