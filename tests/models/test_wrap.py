"""The External wrapper and its views, and the probes that find a classifier and readable features."""

import copy
import pickle

import pytest
import torch
from torch import nn

from dotkd.errors import BadInput
from dotkd.features.shapes import as_map
from dotkd.features.taps import Taps
from dotkd.models import External
from dotkd.models.wrap import find_classifier, readable_features

# ---------------------------------------------------------------- the wrapper


def test_wrong_logits_are_refused() -> None:
    model = External(nn.Flatten(), 5, "a:b")
    with pytest.raises(BadInput, match=r"^model 'a:b' must return logits \[B, 5\], got a tensor \[2, 12\]$"):
        model(torch.rand(2, 3, 2, 2))


def test_external_takes_paths_and_forms() -> None:
    inner = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Flatten(), nn.Linear(16, 5))
    model = External(
        inner,
        5,
        "mine:net",
        stage_paths=["0"],
        preact_paths=["0:input"],
        norm_paths=["0"],
        pooled_path="1",
        classifier_path="2",
        forms={"0:input": lambda images: 2 * images},
    )
    assert model.stage_paths == model.norm_paths == ("model.0",)
    assert (model.preact_paths, model.pooled_path) == (("views.0",), "model.1")
    images = torch.rand(2, 3, 2, 2)
    _, features = Taps(model, {"double": "views.0"})(images)
    assert torch.equal(features["double"], 2 * images)
    assert list(model.state_dict()) == ["model.0.weight", "model.0.bias", "model.2.weight", "model.2.bias"]
    assert "0:input" in repr(model)
    with pytest.raises(ValueError, match="tap '3:input': Sequential has no submodule '3'; nearest: '"):
        External(inner, 5, "mine:net", forms={"3:input": as_map})


@pytest.mark.parametrize("twin", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_views_of_a_copy_read_the_copy(twin) -> None:
    inner = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Flatten(), nn.Linear(16, 5))
    model = External(
        inner, 5, "mine:net", stage_paths=["0", "2:input"], forms={"0": torch.sin, "2:input": torch.cos}
    )
    images = torch.rand(2, 3, 2, 2)
    taps = {path: path for path in model.stage_paths}
    _, expected = Taps(model, taps)(images)
    other = twin(model)
    with torch.no_grad():
        inner[0].weight.zero_()
    _, features = Taps(other, taps)(images)
    assert torch.equal(features["views.0"], expected["views.0"])
    assert torch.equal(features["views.1"], expected["views.1"])
    assert not torch.equal(Taps(model, taps)(images)[1]["views.0"], expected["views.0"])


# ---------------------------------------------------------------- the classifier


class Heads(nn.Module):
    def __init__(self, mode):
        super().__init__()
        self.hidden = nn.Linear(6, 4)
        self.first = nn.Linear(4, 4)
        self.second = nn.Linear(4, 4)
        self.mode = mode

    def forward(self, x):
        x = self.hidden(x).relu()
        if self.mode == "chain":
            return self.second(self.first(x))
        if self.mode == "scaled":
            return 3 * self.first(x)
        if self.mode == "tokens":
            return self.first(torch.stack([x, 2 * x], dim=1)).mean(1)
        if self.mode == "twice":
            return self.first(self.first(x))
        return (self.first(x) + self.second(x)) / 2


@pytest.mark.parametrize(
    ("mode", "declared", "path"),
    [
        ("chain", "", "second"),
        ("mean", "", "first"),
        ("mean", "second", "second"),
        ("mean", "missing", "first"),
        ("scaled", "", ""),
        ("twice", "", ""),
        ("tokens", "", "first"),
    ],
)
def test_classifier_is_found(mode, declared, path) -> None:
    torch.manual_seed(0)
    net, x = Heads(mode).eval(), torch.randn(3, 6)
    found = find_classifier(net, x, declared)
    assert found.get("classifier_path", "") == path
    assert ("pooled_path" in found) == (mode == "tokens")
    if mode == "tokens":
        pooled = found["forms"]["first:input"](Taps(net, {"x": "first:input"})(x)[1]["x"])
        torch.testing.assert_close(net.first(pooled), net(x))


# ---------------------------------------------------------------- readable features


class Odd(nn.Module):
    def __init__(self):
        super().__init__()
        self.plain, self.norm, self.pair, self.twice = (nn.Linear(4, 4) for _ in range(4))
        self.relu = nn.ReLU(inplace=True)
        self.pair.register_forward_hook(lambda _module, _inputs, output: (output, output))
        self.unused, self.turned = nn.Linear(4, 4), nn.Identity()

    def forward(self, x):
        x = self.relu(self.norm(self.plain(x)))
        x, _ = self.pair(x)
        self.turned(x.T)
        return self.twice(self.twice(x))


def test_only_features_that_taps_can_read_are_returned() -> None:
    asked = ["plain", "norm", "relu", "pair", "pair:input", "twice", "unused", "nowhere", "turned"]
    found = readable_features(Odd(), torch.randn(3, 4), asked)
    assert list(found) == ["plain", "relu", "pair:input"]
