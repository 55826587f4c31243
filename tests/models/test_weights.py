"""Loading weights: the layouts of files that are accepted, and the files that are refused."""

import argparse
import os
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path, PurePosixPath, PureWindowsPath
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from dotkd.errors import BadInput
from dotkd.models import External, ImageModel, create_model, load_weights


def made(seed: int, name: str = "resnet8", num_classes: int = 10) -> ImageModel:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return create_model(name, num_classes)


def same(a: ImageModel, b: ImageModel) -> bool:
    mine, theirs = a.state_dict(), b.state_dict()
    return all(torch.equal(mine[key], theirs[key]) for key in mine)


TEACHER, OTHER = made(1), made(3)
WEIGHTS = TEACHER.state_dict()
OTHERS = OTHER.state_dict()
OLD = {key: value for key, value in WEIGHTS.items() if "num_batches" not in key}


def under(prefix: str, weights: Mapping[str, Tensor] = WEIGHTS) -> OrderedDict[str, Tensor]:
    return OrderedDict((f"{prefix}{key}", value) for key, value in weights.items())


def saved(tmp_path: Path, content: Any) -> Path:
    torch.save(content, tmp_path / "a.pth")
    return tmp_path / "a.pth"


@pytest.mark.parametrize(
    "content",
    [
        WEIGHTS,
        dict(WEIGHTS),
        under("module."),
        OLD,
        {"model": WEIGHTS},
        {"epoch": 240, "model": WEIGHTS, "best_acc": np.float64(72.5), "optimizer": {"state": {}}},
        {"state_dict": under("module."), "arch": "resnet8", "best_acc1": torch.tensor(72.5)},
    ],
    ids=["plain", "dict", "module", "old", "model", "published", "parallel"],
)
@pytest.mark.parametrize("zipped", [True, False])
def test_layouts_of_torch_save(tmp_path: Path, content: Any, zipped: bool) -> None:
    torch.save(content, tmp_path / "a.pth", _use_new_zipfile_serialization=zipped)
    model = made(2)
    assert not same(model, TEACHER)
    load_weights(model, tmp_path / "a.pth")
    assert same(model, TEACHER)


OPTIMIZER = {"state": {0: {"momentum_buffer": torch.zeros(3)}}, "param_groups": [{"lr": 0.1, "params": [0]}]}
KEYS = ("model", "state_dict", "model_state_dict", "net", "student", "ema", "teacher", "weights", "params")
WRAPPED = {
    "parallel": under("module."),
    "compiled": under("_orig_mod."),
    "compiled in parallel": under("module._orig_mod."),
    "parallel in compiled": under("_orig_mod.module."),
    "blocks compiled": {key.replace("layer1.", "layer1._orig_mod."): value for key, value in WEIGHTS.items()},
    "sharded": under("_fsdp_wrapped_module."),
    "lightning": {**under("model."), "criterion.weight": torch.ones(10), "metric.total": torch.tensor(3)},
    "lightning, other name, compiled": {**under("net._orig_mod."), "loss.weight": torch.ones(10)},
    "averaged": {"n_averaged": torch.tensor(7), **under("module.")},
    "averaged in lightning": {"n_averaged": torch.tensor(7), **under("module.model.")},
    "backbone of a larger one": {**under("backbone."), **under("head.", {"weight": torch.ones(3)})},
}


@pytest.mark.parametrize("key", KEYS)
def test_keys_around_the_weights(tmp_path: Path, key: str) -> None:
    model = made(2)
    load_weights(model, saved(tmp_path, {"epoch": 3, key: WEIGHTS, "optimizer": OPTIMIZER}))
    assert same(model, TEACHER)
    nested = made(2)
    load_weights(nested, saved(tmp_path, {key: {"module": under("module."), "updates": 7}, "lr": 0.1}))
    assert same(nested, TEACHER)


@pytest.mark.parametrize("wrapped", WRAPPED)
@pytest.mark.parametrize("key", ["", "state_dict"])
def test_prefixes_of_wrappers(tmp_path: Path, wrapped: str, key: str) -> None:
    model = made(2)
    load_weights(model, saved(tmp_path, {key: WRAPPED[wrapped]} if key else WRAPPED[wrapped]))
    assert same(model, TEACHER)
    save_file(dict(WRAPPED[wrapped]), tmp_path / "a.safetensors")
    model = made(2)
    load_weights(model, tmp_path / "a.safetensors")
    assert same(model, TEACHER)


@pytest.mark.slow
def test_names_of_the_wrappers_themselves(tmp_path: Path) -> None:
    """What SWA, torch.compile and DataParallel write, not what is remembered of it."""
    averaged = torch.optim.swa_utils.AveragedModel(TEACHER)
    wrappers = (
        averaged,
        torch.compile(TEACHER, backend="eager"),
        nn.DataParallel(TEACHER),
        nn.DataParallel(averaged),
    )
    for wrapper in wrappers:
        model = made(2)
        load_weights(model, saved(tmp_path, wrapper.state_dict()))
        assert same(model, TEACHER)
    compiled = torch.compile(made(2), backend="eager")
    load_weights(compiled, saved(tmp_path, WEIGHTS))
    assert same(compiled._orig_mod, TEACHER)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_weights_of_another_precision_are_converted(tmp_path: Path, dtype: torch.dtype) -> None:
    given = {key: value.to(dtype) if value.is_floating_point() else value for key, value in WEIGHTS.items()}
    model = made(2)
    load_weights(model, saved(tmp_path, {"model": given}))
    for key, value in model.state_dict().items():
        assert value.dtype == WEIGHTS[key].dtype
        assert torch.equal(value, given[key].to(value.dtype))


def test_settings_beside_the_weights(tmp_path: Path) -> None:
    settings = argparse.Namespace(
        lr=0.1,
        out=Path("runs") / "a",
        device=torch.device("cpu"),
        dtype=torch.float16,
        nested=argparse.Namespace(),
    )
    beside = {
        "args": settings,
        "more": SimpleNamespace(a=1),
        "folder": PurePosixPath("x"),
        "elsewhere": PureWindowsPath("x"),
        "curve": np.linspace(0, 1, 5),
        "rng": np.random.RandomState(0).get_state(),
        "best": np.float32(0.5),
    }
    model = made(2)
    load_weights(model, saved(tmp_path, {**beside, "model": WEIGHTS}))
    assert same(model, TEACHER)


@pytest.mark.parametrize(
    ("content", "taken", "other"),
    [
        ({"ema": OTHERS, "model": WEIGHTS}, "model", "ema"),
        ({"model_ema": {"module": OTHERS}, "net": WEIGHTS}, "net", "model_ema"),
        ({"state_dict_ema": OTHERS, "state_dict": under("module.")}, "state_dict", "state_dict_ema"),
        ({"best_state_dict": OTHERS, "state_dict": WEIGHTS}, "state_dict", "best_state_dict"),
        ({"params_ema": OTHERS, "params": WEIGHTS}, "params", "params_ema"),
        ({"teacher": under("module.", OTHERS), "student": under("module.")}, "student", "teacher"),
        (
            {"state_dict": {**under("teacher.", OTHERS), **under("student.")}, "epoch": 3},
            "state_dict.student",
            "state_dict.teacher",
        ),
        ({**under("ema_model.", OTHERS), **under("model.")}, "model", "ema_model"),
    ],
)
def test_several_sets_of_weights(tmp_path: Path, content: Any, taken: str, other: str) -> None:
    path, model = saved(tmp_path, content), made(2)
    with pytest.warns(UserWarning, match="checkpoint_key") as told:
        load_weights(model, path)
    assert same(model, TEACHER)
    message = str(told[0].message)
    assert message.startswith(f"{path}: took the weights {taken!r}; checkpoint_key = {other!r} ")
    assert told[0].filename == __file__
    load_weights(model, path, other)  # no warning: it was asked for
    assert same(model, OTHER)
    load_weights(model, path, key=taken)
    assert same(model, TEACHER)


def test_a_key_that_is_not_there(tmp_path: Path) -> None:
    path = saved(tmp_path, {"model": WEIGHTS, "ema": under("module."), "rng": torch.zeros(3)})
    with pytest.raises(BadInput, match=r"checkpoint_key = 'emma' .*'ema', 'model'$"):
        load_weights(made(2), path, "emma")
    with pytest.raises(BadInput, match=r"checkpoint_key = 'ema' .*no key$"):
        load_weights(made(2), saved(tmp_path, WEIGHTS), "ema")


def test_the_one_that_fits_is_taken(tmp_path: Path) -> None:
    wide = made(4, "resnet8x4")
    content = {"student": WEIGHTS, "teacher": wide.state_dict()}
    model = made(2, "resnet8x4")
    load_weights(model, saved(tmp_path, content))
    assert same(model, wide)


def test_safetensors(tmp_path: Path) -> None:
    save_file(WEIGHTS, tmp_path / "a.safetensors", metadata={"format": "pt"})
    model = made(2)
    load_weights(model, str(tmp_path / "a.safetensors"))
    assert same(model, TEACHER)


def refused(tmp_path: Path, content: Any, model: ImageModel | None = None) -> str:
    path = tmp_path / "a.pth"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        torch.save(content, path)
    model = model or made(2)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(BadInput) as caught:
        load_weights(model, path)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items()), "touched"
    message = str(caught.value)
    assert message.startswith((f"{path}: ", f"{path}, "))
    assert "\n" not in message
    return message.removeprefix(str(path))[2:]


@pytest.mark.parametrize("kept", ["encoder", "decoder"])
def test_a_tied_weight_comes_with_one_of_its_names(tmp_path: Path, kept: str) -> None:
    def tied() -> nn.Module:
        net = nn.ModuleDict({"encoder": nn.Linear(4, 4), "decoder": nn.Linear(4, 4)})
        net["decoder"].weight = net["encoder"].weight
        return net

    wanted, net = tied(), tied()
    other = {"encoder": "decoder", "decoder": "encoder"}[kept]
    weights = {name: value for name, value in wanted.state_dict().items() if name != f"{other}.weight"}
    save_file(weights, tmp_path / "net.safetensors")
    load_weights(net, tmp_path / "net.safetensors")
    assert torch.equal(net["encoder"].weight, wanted["encoder"].weight)
    assert net["decoder"].weight is net["encoder"].weight
    del weights[f"{other}.bias"]
    save_file(weights, tmp_path / "net.safetensors")
    with pytest.raises(BadInput, match=rf"missing: {other}\.bias"):
        load_weights(net, tmp_path / "net.safetensors")


def test_no_file(tmp_path: Path) -> None:
    for path in (tmp_path / "none.pth", tmp_path):
        with pytest.raises(BadInput, match=r"no file .*: wanted weights, as \.pth, \.pt or \.safetensors"):
            load_weights(made(2), path)


@pytest.mark.parametrize("junk", [b"", b"hello", b"\x80\x02}q\x00.", b"PK\x03\x04broken", bytes(range(256))])
def test_junk(tmp_path: Path, junk: bytes) -> None:
    assert refused(tmp_path, junk).startswith("not a file of torch.save")
    (tmp_path / "a.safetensors").write_bytes(junk)
    with pytest.raises(BadInput, match="not a safetensors file"):
        load_weights(made(2), tmp_path / "a.safetensors")


def test_half_a_file(tmp_path: Path) -> None:
    torch.save(WEIGHTS, tmp_path / "whole.pth")
    whole = (tmp_path / "whole.pth").read_bytes()
    assert refused(tmp_path, whole[: len(whole) // 2]).startswith("not a file of torch.save")


class Malicious:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.mark),)


def test_code_is_refused_and_never_runs(tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    message = refused(tmp_path, {"model": WEIGHTS, "extra": Malicious(mark)})
    assert message.startswith("refused, loading it would run code: it names ")
    assert "mkdir" in message
    assert message.endswith("save the state_dict alone")
    assert not mark.exists()


def test_a_whole_module_is_refused(tmp_path: Path) -> None:
    assert refused(tmp_path, torch.nn.Linear(2, 2)).startswith("refused, loading it would run code")


@pytest.mark.parametrize("content", [[1, 2], torch.zeros(3), {}, 7])
def test_no_weights(tmp_path: Path, content: Any) -> None:
    message = refused(tmp_path, content)
    assert message.startswith("holds no weights: ")
    assert all(word in message for word in ("state_dict", "'model'", "'state_dict'"))


def test_values_that_are_not_tensors(tmp_path: Path) -> None:
    content = {"epoch": 3, "weights": {}, "a": 1, "b": 2, "c": 3, "d": 4}
    message = refused(tmp_path, content)
    assert message.startswith("holds no weights: ")
    assert "'epoch', 'weights' and 4 more" in message


def test_another_number_of_classes(tmp_path: Path) -> None:
    assert refused(tmp_path, {"model": WEIGHTS}, made(2, num_classes=100)) == (
        "does not fit ResNet: other shape: fc.weight [10, 64], wanted [100, 64], fc.bias [10], wanted [100]"
    )


@pytest.mark.parametrize("prefix", ["", "model.", "module.", "net._orig_mod."])
def test_a_network_from_outside_is_told_by_its_own_names(tmp_path: Path, prefix: str) -> None:
    def external(classes: int) -> External:
        return External(made(5, num_classes=classes), classes, "mine:net")

    assert refused(tmp_path, under(prefix), external(100)) == (
        "does not fit mine:net: other shape: fc.weight [10, 64], wanted [100, 64], fc.bias [10], wanted [100]"
    )
    model = external(10)
    load_weights(model, saved(tmp_path, under(prefix)))
    assert same(model.model, TEACHER)


def test_another_architecture(tmp_path: Path) -> None:
    message = refused(tmp_path, {"model": WEIGHTS}, made(2, "wrn_16_1"))
    parts = message.removeprefix("does not fit WideResNet: ").split("; ")
    assert parts[0] == "other shape: bn1.weight [16], wanted [64], bn1.bias [16], wanted [64] and 2 more"
    assert parts[1].startswith("missing: block1.layer.0.bn1.weight, block1.layer.0.bn1.bias and ")
    assert parts[2].startswith("unexpected: layer1.0.conv1.weight, layer1.0.bn1.weight and ")
    for part in parts:
        assert part.endswith(" more")


def test_one_key_of_each_kind(tmp_path: Path) -> None:
    weights = dict(WEIGHTS)
    weights["head.weight"] = weights.pop("fc.weight")
    weights["bn1.bias"] = torch.zeros(3)
    assert refused(tmp_path, weights) == (
        "does not fit ResNet: other shape: bn1.bias [3], wanted [16]; missing: fc.weight; "
        "unexpected: head.weight"
    )


def test_the_set_that_fits_best_is_told(tmp_path: Path) -> None:
    assert refused(tmp_path, {"rng": torch.zeros(9), "net": WEIGHTS}, made(2, num_classes=7)).startswith(
        "'net': does not fit ResNet: other shape: fc.weight [10, 64], wanted [7, 64]"
    )
