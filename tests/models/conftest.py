"""Imports timm and transformers once a session; tests skip, visibly, if the library is not installed."""

import warnings
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def timm(schemas: None) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecations inside the libraries
        pytest.importorskip("timm", reason="the extra 'timm' is not installed")


@pytest.fixture(scope="session")
def hf(schemas: None) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pytest.importorskip("transformers", reason="the extra 'hf' is not installed")


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
