"""Imports timm once a session; tests skip, visibly, if the library is not installed."""

import warnings

import pytest


@pytest.fixture(scope="session")
def timm(schemas: None) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecations inside the libraries
        pytest.importorskip("timm", reason="the extra 'timm' is not installed")
