"""The libraries of outside models, loaded once; tests that need one that is not installed skip and say so."""

import warnings

import pytest


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
