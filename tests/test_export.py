"""Export: every format gives the student's logits for a batch of any size, or there is no file."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from dotkd import export as module
from dotkd.errors import BadInput, RunFailed
from dotkd.export import FORMATS, export
from dotkd.recipe import load_recipe
from dotkd.runs import RECIPE, STUDENT
from dotkd.train.loop import train
from dotkd.train.networks import load_student

STUDENTS = {"small/mlp16": [], "small/cnn4": ["student.mean=[0.3]", "student.std=[0.2]"]}
needs_onnx = pytest.mark.skipif(importlib.util.find_spec("onnx") is None, reason="needs the extra 'onnx'")
MARKS = {"torch": [pytest.mark.slow], "onnx": [pytest.mark.slow, needs_onnx]}
EVERY = [pytest.param(name, marks=MARKS.get(name, [])) for name in FORMATS]


@pytest.fixture(scope="module", params=STUDENTS)
def run(request, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    overrides = [f"student.model={request.param}", *STUDENTS[request.param], "schedule.epochs=1"]
    train(load_recipe("quick/digits-plain", overrides), folder)
    return folder


def read_back(path: Path, file_format: str, images: torch.Tensor) -> torch.Tensor:
    """Compute logits with what was written, by the format's own means."""
    if file_format == "safetensors":
        with torch.no_grad():
            return load_student(path)[0](images)
    if file_format == "torch":
        with path.open("rb") as file:
            return torch.export.load(file).module()(images).detach()
    from onnx.reference import ReferenceEvaluator

    return torch.from_numpy(ReferenceEvaluator(str(path)).run(None, {"images": images.numpy()})[0])


@pytest.mark.parametrize("file_format", EVERY)
def test_logits_are_the_students_for_a_batch_of_any_size(run: Path, tmp_path: Path, file_format: str) -> None:
    target = tmp_path / "deep" / "student.bin"
    difference = export(run, target, file_format)
    assert 0 <= difference <= 1e-4
    assert [path.name for path in target.parent.iterdir()] == ["student.bin"]
    student, _ = load_student(run)
    for size in (1, 3, 64):
        images = torch.rand(size, 1, 8, 8, generator=torch.Generator().manual_seed(size))
        with torch.no_grad():
            ours = student(images)
        theirs = read_back(target, file_format, images)
        assert theirs.shape == (size, 10)
        assert float((ours - theirs).abs().max() / ours.abs().max()) <= 1e-4


@pytest.mark.slow
def test_a_torch_program_needs_no_package(run: Path, tmp_path: Path) -> None:
    if "cnn" not in (run / RECIPE).read_text(encoding="utf-8"):
        return  # one of the two is enough
    target = tmp_path / "student.pt2"
    export(run, target, "torch")
    script = (
        "import sys, torch\n"
        f"logits = torch.export.load({str(target)!r}).module()(torch.zeros(5, 1, 8, 8))\n"
        "assert logits.shape == (5, 10)\n"
        "assert not any(name.startswith('dotkd') for name in sys.modules)\n"
    )
    subprocess.run([sys.executable, "-W", "ignore", "-c", script], check=True, timeout=120)


def test_safetensors_knows_its_recipe(run: Path, tmp_path: Path) -> None:
    export(run / STUDENT, tmp_path / "s.safetensors", "safetensors")
    assert load_student(tmp_path / "s.safetensors")[1] == load_student(run)[1]


class Shifted:
    """A writer whose file does not do what the student does."""

    def __init__(self, shift: float) -> None:
        self.shift = shift

    def __call__(self, student, _images, path):
        path.write_bytes(b"wrong")
        return lambda images: student.network(images) + self.shift


@pytest.mark.parametrize("shift", [1.0, 1e-2, float("nan"), float("inf")])
@pytest.mark.parametrize("old", [b"old", None])
def test_a_wrong_writer_is_refused_and_nothing_is_written(run, tmp_path, monkeypatch, shift, old) -> None:
    target = tmp_path / "student.bin"
    if old is not None:
        target.write_bytes(old)
    monkeypatch.setitem(module._WRITERS, "torch", Shifted(shift))
    with pytest.raises(RunFailed, match=r"student\.bin: not written, its logits differ by "):
        export(run, target, "torch")
    assert [(p.name, p.read_bytes()) for p in tmp_path.iterdir()] == ([("student.bin", old)] if old else [])


def test_a_writer_that_keeps_the_size_of_its_example_is_refused(run, tmp_path, monkeypatch) -> None:
    def write(student, images, path):
        path.write_bytes(b"")
        return lambda _images: student.network(images)

    monkeypatch.setitem(module._WRITERS, "torch", write)
    with pytest.raises((RunFailed, RuntimeError)):
        export(run, tmp_path / "x", "torch")
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_made_where_nothing_can_be_written(run, tmp_path, monkeypatch) -> None:
    with pytest.raises(BadInput, match=r"unknown format 'onxx' \(known: safetensors, torch, onnx\)"):
        export(run, tmp_path / "new" / "x", "onxx")
    with pytest.raises(BadInput, match="no file"):
        export(tmp_path / "gone", tmp_path / "new" / "x", "torch")
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(BadInput, match=r"needs the extra 'onnx': pip install 'dotkd\[onnx\]'"):
        export(run, tmp_path / "new" / "x", "onnx")
    assert list(tmp_path.rglob("*.*")) == []
    assert not (tmp_path / "new" / "x").exists()
