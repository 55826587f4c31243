"""Taps: features by path, no hook or activation left behind, and errors that name the path."""

import copy
import gc
import weakref

import pytest
import torch
from torch import nn

from dotkd.features import Taps


class Net(nn.Module):
    def __init__(self, inplace=False):
        super().__init__()
        self.layer1 = nn.Sequential(nn.Linear(4, 4), nn.ReLU())
        self.layer2 = nn.Sequential(nn.Linear(4, 4), nn.ReLU(inplace=inplace))
        self.act = nn.Tanh()
        self.unused = nn.Linear(2, 2)
        self.pair = Pair()
        self.fail = False

    def forward(self, x, *, scale=1.0):
        x = self.act(self.layer1(x))
        x = self.act(self.layer2(x)) * scale
        if self.fail:
            raise KeyError("in the middle")
        return self.pair(x)[0]


class Pair(nn.Module):
    def forward(self, x):
        return x, x


def hooks(module):
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in module.modules())


def test_output_and_features_are_those_of_the_plain_call():
    net, x = Net(), torch.randn(3, 4)
    output, features = Taps(net, {"deep": "layer2", "early": "layer1.0", "whole": ""})(x, scale=2.0)
    assert list(features) == ["deep", "early", "whole"]
    assert torch.equal(output, net(x, scale=2.0))
    assert torch.equal(features["early"], net.layer1[0](x))
    assert torch.equal(features["deep"], net.layer2(net.act(net.layer1(x))))
    assert features["whole"] is output


def test_features_carry_gradients():
    net = Net()
    _, features = Taps(net, {"early": "layer1"})(torch.randn(3, 4))
    features["early"].sum().backward()
    assert net.layer1[0].weight.grad is not None
    assert net.layer2[0].weight.grad is None


def test_two_names_for_one_path():
    _, features = Taps(Net(), {"a": "layer1", "b": "layer1"})(torch.randn(3, 4))
    assert features["a"] is features["b"]


def test_no_paths_is_a_plain_call():
    net, x = Net(), torch.randn(3, 4)
    output, features = Taps(net, {})(x)
    assert features == {}
    assert torch.equal(output, net(x))


def test_hooks_are_gone_after_the_call_and_after_a_failure():
    net = Net()
    taps = Taps(net, {"early": "layer1", "deep": "layer2"})
    assert hooks(net) == 0
    taps(torch.randn(3, 4))
    assert hooks(net) == 0
    net.fail = True
    with pytest.raises(KeyError, match="in the middle"):
        taps(torch.randn(3, 4))
    assert hooks(net) == 0
    del net.layer2  # the second path fails after the first hook is set
    with pytest.raises(ValueError, match="no submodule 'layer2'"):
        taps(torch.randn(3, 4))
    assert hooks(net) == 0


def test_a_users_own_hooks_stay():
    net, seen = Net(), []
    net.layer1.register_forward_hook(lambda *_: seen.append(1))
    Taps(net, {"early": "layer1"})(torch.randn(3, 4))
    assert (hooks(net), seen) == (1, [1])


def test_no_activation_is_kept():
    taps = Taps(Net(), {"early": "layer1"})
    _, features = taps(torch.randn(3, 4))
    alive = weakref.ref(features.pop("early"))
    del features, _
    gc.collect()
    assert alive() is None


def test_a_replaced_submodule_is_the_one_tapped():
    net = Net()
    taps = Taps(net, {"early": "layer1"})
    net.layer1 = nn.Linear(4, 4)
    x = torch.randn(3, 4)
    assert torch.equal(taps(x)[1]["early"], net.layer1(x))


def test_copies_are_independent():
    taps = Taps(Net(), {"early": "layer1"})
    twin = copy.deepcopy(taps)
    nn.init.zeros_(twin.module.layer1[0].weight)
    x = torch.randn(3, 4)
    assert not torch.equal(taps(x)[1]["early"], twin(x)[1]["early"])
    assert repr(taps) == "Taps(Net, {'early': 'layer1'})"


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_without_a_graph(mode):
    with mode():
        _, features = Taps(Net(), {"early": "layer1"})(torch.randn(3, 4))
    assert not features["early"].requires_grad


@pytest.mark.slow
def test_a_compiled_module_is_traced_whole_and_once():
    graphs = []

    def backend(graph, _):
        graphs.append(graph)
        return graph.forward

    net, x = Net(), torch.randn(3, 4)
    taps = Taps(torch.compile(net, backend=backend), {"early": "layer1"})
    for _ in range(3):
        output, features = taps(x)
    assert len(graphs) == 1
    assert torch.equal(output, net(x))
    assert torch.equal(features["early"], net.layer1(x))


def test_a_wrong_path_names_the_nearest():
    with pytest.raises(ValueError, match=r"tap 'f': Net has no submodule 'layer3'; nearest: 'layer[12]'"):
        Taps(Net(), {"f": "layer3"})
    with pytest.raises(ValueError, match=r"no submodule 'layer1\.7'; nearest: 'layer1\.[01]'"):
        Taps(Net(), {"f": "layer1.7"})
    with pytest.raises(ValueError, match="nearest: none, it has no submodules"):
        Taps(nn.ReLU(), {"f": "body"})


def test_a_parameter_is_no_submodule():
    with pytest.raises(ValueError, match=r"no submodule 'layer1\.0\.weight'; nearest: 'layer1\.0'"):
        Taps(Net(), {"f": "layer1.0.weight"})


def test_a_submodule_that_does_not_run():
    with pytest.raises(RuntimeError, match="tap 'f': 'unused' did not run in this forward pass"):
        Taps(Net(), {"f": "unused"})(torch.randn(3, 4))


def test_a_submodule_that_runs_twice():
    with pytest.raises(RuntimeError, match=r"tap 'f': 'act' ran 2 times .* the block around it"):
        Taps(Net(), {"f": "act"})(torch.randn(3, 4))


def test_a_submodule_that_returns_no_tensor():
    net = Net()
    with pytest.raises(TypeError, match="tap 'f': 'pair' returns a tuple, not a tensor"):
        Taps(net, {"f": "pair"})(torch.randn(3, 4))
    assert hooks(net) == 0


def test_a_feature_overwritten_in_place():
    message = r"tap 'f': the output of 'layer2\.0' was changed in place .* inplace=False"
    with pytest.raises(RuntimeError, match=message):
        Taps(Net(inplace=True), {"f": "layer2.0"})(torch.randn(3, 4))
    _, features = Taps(Net(inplace=True), {"f": "layer2"})(torch.randn(3, 4))
    assert features["f"].min() >= 0
