"""Blocks that overwrite what they have just computed: nobody must be able to tell."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dotkd.fold import fold_batch_norm
from dotkd.models import ImageModel, create_model
from dotkd.models.layers import plus, rectify
from dotkd.models.resnet import ResNet
from dotkd.taps import INPUT, Taps, is_hooked

# The families whose blocks do, each with every kind of block that it has.
FAMILIES = ["resnet8", "bottleneck", "wrn_16_1", "ShuffleV1", "ShuffleV2"]


def made(name: str, *, training: bool) -> ImageModel:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        if name == "bottleneck":  # ResNet50 is slow here
            shape = (3, 32, 32)
            model: ImageModel = ResNet((8, 8, 16), (2, 2), bottleneck=True, num_classes=10, image_shape=shape)
        else:
            model = create_model(name, 10)
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):  # else every feature starts as a plain normalised one
                nn.init.uniform_(module.weight, 0.5, 1.5)
                nn.init.normal_(module.bias)
                nn.init.normal_(module.running_mean)
                nn.init.uniform_(module.running_var, 0.5, 1.5)
    return model.train(training)


def images() -> Tensor:
    return torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def passed(model: nn.Module, *, bf16: bool = False) -> tuple[Tensor, list[Tensor]]:
    """Logits, and the gradients of all parameters."""
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        logits = model(images()).float()
    loss = nn.functional.cross_entropy(logits, torch.arange(len(logits)))
    return logits.detach(), list(torch.autograd.grad(loss, list(model.parameters())))


def listened(model: nn.Module) -> nn.Module:
    """The model, with a hook on each of its modules: nothing in it is overwritten."""
    for module in model.modules():
        module.register_forward_hook(lambda *_: None)
    return model


class Overwritten(torch.utils._python_dispatch.TorchDispatchMode):
    """Counts activations that are rectified, and sums that are formed, in place."""

    count = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        changes = function in (torch.ops.aten.relu_.default, torch.ops.aten.add_.Tensor)
        self.count += changes and args[0].ndim == 4
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("bf16", [True, False])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", FAMILIES)
def test_same_bits_as_with_a_new_tensor_for_everything(name: str, training: bool, bf16: bool) -> None:
    with Overwritten() as found:
        logits, gradients = passed(made(name, training=training), bf16=bf16)
    assert found.count > 5
    with Overwritten() as found:
        expected_logits, expected = passed(listened(made(name, training=training)), bf16=bf16)
    assert found.count == 0
    assert torch.equal(logits, expected_logits)
    assert all(torch.equal(*pair) for pair in zip(gradients, expected, strict=True))


@pytest.mark.parametrize("behind", ["", INPUT])
@pytest.mark.parametrize("name", FAMILIES)
def test_every_module_can_be_tapped(name: str, behind: str) -> None:
    model = made(name, training=False)
    paths = {path: path + behind for path, _ in model.named_modules() if path}
    with torch.no_grad():
        _, expected = Taps(listened(made(name, training=False)), ran(model, paths))(images())
        for path, value in expected.items():
            _, features = Taps(model, {path: paths[path]})(images())
            assert torch.equal(features[path], value), path


def ran(model: nn.Module, paths: dict[str, str]) -> dict[str, str]:
    """The paths of what ran once, as most modules do."""
    counts = dict.fromkeys(paths, 0)
    handles = []
    for path in paths:

        def count(*_: Any, path: str = path) -> None:
            counts[path] += 1

        handles.append(model.get_submodule(path).register_forward_hook(count))
    with torch.no_grad():
        model(images())
    for handle in handles:
        handle.remove()
    assert sum(number == 1 for number in counts.values()) > len(counts) / 2
    return {path: tapped for path, tapped in paths.items() if counts[path] == 1}


@pytest.mark.parametrize("name", FAMILIES)
def test_a_folded_network_keeps_what_it_was_told_to_keep(name: str) -> None:
    model = made(name, training=False).double()
    paths = {path: path for path in (*model.stage_paths, *model.preact_paths, *model.norm_paths)}
    with torch.no_grad():
        logits, expected = Taps(listened(made(name, training=False).double()), paths)(images().double())
        assert fold_batch_norm(model, keep=paths.values()) > 0
        with Overwritten() as found:
            folded, features = Taps(model, paths)(images().double())
    assert found.count > 0
    for path, value in {"logits": logits, **expected}.items():
        got = folded if path == "logits" else features[path]
        torch.testing.assert_close(got, value, rtol=1e-9, atol=1e-9, msg=path)


def test_a_hook_of_any_kind_is_seen() -> None:
    kinds = ("forward_pre", "forward", "full_backward_pre", "full_backward")
    for kind in kinds:
        layer = nn.Linear(2, 2)
        handle = getattr(layer, f"register_{kind}_hook")(lambda *_: None)
        assert is_hooked(layer), kind
        layer(torch.ones(1, 2, requires_grad=True)).sum().backward()
        handle.remove()
        assert not is_hooked(layer), kind


def test_backward_hooks_see_what_they_saw() -> None:
    seen: dict[bool, list[Tensor]] = {True: [], False: []}
    for everywhere in seen:
        model = made("resnet8", training=True)
        for path in ("layer1.0.bn1", "layer1.0.bn2", "layer3.0.preact"):
            model.get_submodule(path).register_full_backward_hook(
                lambda _module, _inputs, outputs, kept=seen[everywhere]: kept.append(outputs[0])
            )
        passed(listened(model) if everywhere else model)
    assert len(seen[True]) == 3
    assert all(torch.equal(*pair) for pair in zip(seen[True], seen[False], strict=True))


def test_helpers_return_the_same_tensor_only_where_nobody_listens() -> None:
    layer, x = nn.Identity(), torch.tensor([-1.0, 2.0])
    assert rectify(x.clone(), layer).tolist() == [0, 2]
    own = x.clone()
    assert plus(own, layer, x) is own
    assert own.tolist() == [-2, 4]
    layer.register_forward_hook(lambda *_: None)
    kept = x.clone()
    assert rectify(kept, layer).tolist() == [0, 2]
    assert plus(kept, layer, x).tolist() == [-2, 4]
    assert torch.equal(kept, x)
