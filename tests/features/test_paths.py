"""Feature paths: a model's own, the caller's instead, and how those of two models are paired."""

import re

import pytest
from torch import nn

from dotkd.features import KINDS, LIST_KINDS, feature_paths, pair_paths
from dotkd.models import create_model


class Net(nn.Module):
    """A module with as many stages as it is told, and other attributes."""

    def __init__(self, stages=3, **attributes):
        super().__init__()
        self.stage_paths = [f"stages.{number}" for number in range(stages)]
        for name, value in attributes.items():
            setattr(self, name, value)


def test_kinds():
    assert KINDS == ("stages", "preacts", "last", "pooled")
    assert set(LIST_KINDS) < set(KINDS)


@pytest.mark.parametrize(
    ("model", "kind", "paths"),
    [
        (Net(), "stages", ["stages.1", "stages.2"]),  # the first is the stem
        (Net(stages=1), "stages", ["stages.0"]),
        (Net(), "last", ["stages.2"]),
        (Net(), "preacts", ["stages.1", "stages.2"]),
        (Net(preact_paths=["stem", "one", "two"]), "preacts", ["one", "two"]),
        (Net(classifier_path="head"), "pooled", ["head:input"]),
        (Net(classifier_path="head", pooled_path="pool"), "pooled", ["pool"]),
    ],
)
def test_a_model_tells_its_paths(model, kind, paths):
    assert feature_paths(model, kind) == paths


@pytest.mark.parametrize("kind", KINDS)
def test_a_model_without_paths_is_named_with_the_ways_out(kind):
    message = f"the student, a Linear, names no path of the feature '{kind}'"
    with pytest.raises(ValueError, match=f"{message}.*taps=.*student.{kind} of a recipe"):
        feature_paths(nn.Linear(2, 2), kind, "student")


@pytest.mark.parametrize("name", ["resnet8x4", "vgg8", "wrn_16_1", "MobileNetV2", "ShuffleV1", "ShuffleV2"])
def test_the_zoo_has_every_kind(name):
    model = create_model(name, 5)
    modules = dict(model.named_modules())
    for kind in KINDS:
        assert all(path.removesuffix(":input") in modules for path in feature_paths(model, kind))


@pytest.mark.parametrize(
    ("ours", "theirs", "taken"),
    [(4, 4, (1, 2, 3)), (3, 5, (2, 4)), (3, 6, (2, 5)), (2, 4, (3,)), (4, 5, (1, 2, 4)), (4, 7, (2, 4, 6))],
)
def test_the_longer_list_is_thinned_at_even_distances_with_its_last(ours, theirs, taken):
    few, many = Net(ours), Net(theirs)
    for student, teacher in ((few, many), (many, few)):
        first, second = pair_paths(["stages"], student, teacher, {})
        assert list(first) == list(second) == [f"stages.{number}" for number in range(ours - 1)]
        longer = second if teacher is many else first
        assert list(longer.values()) == [f"stages.{number}" for number in taken]


def test_taps_replace_a_models_own_paths():
    student, teacher = Net(), Net(stages=2)
    needs = ["stages", "last", "body"]
    taps = {"stages": (["a", "b"], ""), "last": ("", "deep"), "body": "body"}
    first, second = pair_paths(needs, student, teacher, taps)
    assert first == {"stages.0": "b", "last": "stages.2", "body": "body"}
    assert second == {"stages.0": "stages.1", "last": "deep", "body": "body"}


@pytest.mark.parametrize(
    ("needs", "taps", "message"),
    [
        (
            ["body"],
            {},
            "the method needs the feature 'body'; give its path: taps={'body': 'dotted.path'}",
        ),
        (["last"], {"lst": "x"}, "unknown tap 'lst'; nearest: 'last' (known: last): the method reads last"),
        ([], {"last": "x"}, "tap 'last' is not needed: the method reads no features"),
        (["stages"], {"stages": "x"}, "tap 'stages' must be a list of paths, got 'x'"),
        (["last"], {"last": ["x"]}, "tap 'last' must be one path, got ['x']"),
        (
            ["last"],
            {"last": ("a", "b", "c")},
            "must be one path or a pair (student's, teacher's), got ('a', 'b'",
        ),
    ],
)
def test_wrong_taps_are_refused(needs, taps, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        pair_paths(needs, Net(), Net(), taps)
