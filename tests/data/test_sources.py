"""Data sets by name: the facts, the loaders, what is refused."""

import pytest
import torch

from dotkd.data import load_data, load_digits, sources
from dotkd.data.sources import DATA_SETS, DataFacts, data_facts
from dotkd.errors import BadInput

KNOWN = "cifar10, cifar100, digits, folder, hub, imagenet, tiny_imagenet"


def same(a, b):
    return (
        torch.equal(a.pixels, b.pixels) and torch.equal(a.labels, b.labels) and torch.equal(a.index, b.index)
    )


def test_the_names():
    assert DATA_SETS == ("cifar10", "cifar100", "digits", "folder", "hub", "imagenet", "tiny_imagenet")


def test_facts():
    assert data_facts("cifar100") == DataFacts(3, 32, 32, 100, 50_000, 10_000)
    assert data_facts("digits") == DataFacts(1, 8, 8, 10, 1400, 397)
    assert data_facts("imagenet") == DataFacts(3, 224, 224, 1000, 1_281_167, 50_000)
    assert data_facts("imagenet", "not looked at", image_size=96)[1:3] == (96, 96)
    assert data_facts("hub") == DataFacts(3, 0, 0, 0, 0, 0)


def test_the_facts_of_the_digits_are_those_of_the_data():
    train, validation, test = load_data("digits")
    facts = data_facts("digits")
    assert validation is None
    assert (*train.pixels.shape[1:], len(train.classes), len(train), len(test)) == facts


def test_digits_are_those_of_their_loader():
    options = {"validation": 100, "label_noise": 0.2, "seed": 5}
    for a, b in zip(load_data("digits", **options), load_digits(**options), strict=True):
        assert same(a, b)


NAMES = {"image_column": "i", "label_column": "l", "train_split": "a", "test_split": "b", "config": "c"}
STREAM = {"image_size": 64, "stream": True, "workers": 3}


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("cifar10", {}),
        ("cifar100", {}),
        ("tiny_imagenet", {}),
        ("folder", STREAM),
        ("imagenet", {"image_size": 64, "workers": 3}),
        ("hub", STREAM | NAMES),
    ],
)
def test_a_loader_gets_every_argument_that_is_not_as_it_would_be_anyway(monkeypatch, name, options):
    calls = []
    monkeypatch.setattr(sources, f"load_{name}", lambda root, **given: calls.append((root, given)))
    split = {"validation": 1, "label_noise": 0.5, "train_images": 2, "seed": 3}
    load_data(name, root="somewhere", **split, **options)
    load_data(name, root="somewhere", image_size=0, stream=False, workers=None, config="")
    assert calls == [("somewhere", split | options), ("somewhere", {})]


@pytest.mark.parametrize("name", ["cifar10", "cifar100", "digits", "tiny_imagenet", "folder", "imagenet"])
def test_refuses_options_of_other_data_sets(name):
    reads = {"folder": {*STREAM}, "imagenet": {"image_size", "workers"}}.get(name, set())
    for key, value in (STREAM | NAMES).items():
        if key not in reads:
            right = {"image_size": "0", "stream": "False", "workers": "None", "config": "''"}
            told = rf"^{key} must be {right.get(key, '.*')} for {name}, which|whose .*; got {value!r}$"
            with pytest.raises(BadInput, match=told):
                load_data(name, root="somewhere", **{key: value})
    if "image_size" not in reads:
        with pytest.raises(BadInput, match=f"^image_size must be 0 for {name}, "):
            data_facts(name, image_size=8)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"name": "cifar-10"},
            f"unknown data set 'cifar-10'; nearest: 'cifar10' (known: {KNOWN})",
        ),
        ({"name": "Digit"}, f"unknown data set 'Digit'; nearest: 'digits' (known: {KNOWN})"),
        ({"name": ""}, f"unknown data set ''; nearest: 'tiny_imagenet' (known: {KNOWN})"),
        (
            {"name": "digits", "root": "here"},
            "root must be '' for digits, which ship whole with the package; got 'here'",
        ),
        (
            {"name": "digits", "train_images": 5},
            "train_images must be 0 for digits, which ship whole with the package; got 5",
        ),
        (
            {"name": "digits", "validation": 1400},
            "digits: validation must be an integer from 0 to 1399, got 1400",
        ),
        ({"name": "digits", "label_noise": 2}, "digits: label_noise must be a number from 0 to 1, got 2"),
        ({"name": "digits", "seed": -1}, "digits: seed must be an integer of at least 0, got -1"),
        (
            {"name": "cifar100"},
            (
                "root must be a folder with the parquet files of CIFAR-100 or the hub name "
                "'uoft-cs/cifar100', got ''"
            ),
        ),
        ({"name": "imagenet"}, "root must be the folder that holds train/ and val/ of ImageNet, got ''"),
        (
            {"name": "hub"},
            (
                "root must be a folder with parquet files or the name of a data set of the hub, such as "
                "'owner/name', got ''"
            ),
        ),
        (
            {"name": "cifar100", "root": "/", "train_images": -1},
            "cifar100: train_images must be an integer of at least 0, got -1",
        ),
    ],
)
def test_refuses(arguments, message):
    with pytest.raises(BadInput) as caught:
        load_data(**arguments)
    assert str(caught.value) == message


def test_facts_of_an_unknown_name():
    with pytest.raises(BadInput, match="unknown data set 'mnist'"):
        data_facts("mnist")


def test_what_the_loader_refuses_passes_unchanged(tmp_path):
    with pytest.raises(BadInput, match=r"^root must hold train-\*\.parquet"):
        load_data("cifar100", root=tmp_path)
