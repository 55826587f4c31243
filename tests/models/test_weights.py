"""Loading weights: the layouts of files that are accepted, and the files that are refused."""

import os
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from dotkd.errors import BadInput
from dotkd.models import ImageModel, create_model, load_weights


def made(seed: int, name: str = "resnet8", num_classes: int = 10) -> ImageModel:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return create_model(name, num_classes)


def same(a: ImageModel, b: ImageModel) -> bool:
    mine, theirs = a.state_dict(), b.state_dict()
    return all(torch.equal(mine[key], theirs[key]) for key in mine)


TEACHER = made(1)
WEIGHTS = TEACHER.state_dict()
PARALLEL = OrderedDict((f"module.{key}", value) for key, value in WEIGHTS.items())
OLD = {key: value for key, value in WEIGHTS.items() if "num_batches" not in key}


@pytest.mark.parametrize(
    "content",
    [
        WEIGHTS,
        dict(WEIGHTS),
        PARALLEL,
        OLD,
        {"model": WEIGHTS},
        {"epoch": 240, "model": WEIGHTS, "best_acc": np.float64(72.5), "optimizer": {"state": {}}},
        {"state_dict": PARALLEL, "arch": "resnet8", "best_acc1": torch.tensor(72.5)},
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
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    return message.removeprefix(f"{path}: ")


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
    assert message.startswith("not weights: ")
    assert "'epoch', 'weights', 'a', 'b', 'c' and 1 more" in message
    assert message.endswith("not tensors")


def test_another_number_of_classes(tmp_path: Path) -> None:
    assert refused(tmp_path, {"model": WEIGHTS}, made(2, num_classes=100)) == (
        "does not fit ResNet: other shape: fc.weight [10, 64], wanted [100, 64], fc.bias [10], wanted [100]"
    )


def test_another_architecture(tmp_path: Path) -> None:
    message = refused(tmp_path, {"model": WEIGHTS}, made(2, "wrn_16_1"))
    parts = message.removeprefix("does not fit WideResNet: ").split("; ")
    assert parts[0].startswith("missing: block1.layer.0.bn1.weight, block1.layer.0.bn1.bias, ")
    assert parts[1].startswith("unexpected: layer1.0.conv1.weight, layer1.0.bn1.weight, ")
    assert parts[2] == (
        "other shape: bn1.weight [16], wanted [64], bn1.bias [16], wanted [64], "
        "bn1.running_mean [16], wanted [64], bn1.running_var [16], wanted [64]"
    )
    for part in parts[:2]:
        assert part.count(", ") == 4
        assert part.endswith(" more")


def test_one_key_of_each_kind(tmp_path: Path) -> None:
    weights = dict(WEIGHTS)
    weights["head.weight"] = weights.pop("fc.weight")
    weights["bn1.bias"] = torch.zeros(3)
    assert refused(tmp_path, weights) == (
        "does not fit ResNet: missing: fc.weight; unexpected: head.weight; "
        "other shape: bn1.bias [3], wanted [16]"
    )
