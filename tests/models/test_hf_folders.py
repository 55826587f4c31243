"""Students from folders of transformers: found beside their recipe, usable when the folder is gone."""

import json
import shutil
import socket
from pathlib import Path
from typing import NamedTuple

import pytest
import torch

from dotkd import runs
from dotkd.analyze import analyze
from dotkd.errors import BadInput
from dotkd.export import export
from dotkd.recipe import load_recipe
from dotkd.recipe.load import make_recipe
from dotkd.train import build_run, evaluate, load_student, train
from dotkd.train.networks import build_student, build_teacher, describe_student, read_student, save_student

pytestmark = pytest.mark.slow
RECIPE = """
extends = "quick/digits-plain"
[student]
model = "hf:{model}"
[schedule]
epochs = 1
"""


def write_model(folder: Path) -> None:
    from transformers import ViTConfig, ViTForImageClassification

    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    config = ViTConfig(**sizes, image_size=16, patch_size=4, num_channels=1, num_labels=10)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        ViTForImageClassification(config).save_pretrained(folder)
    settings = {"image_mean": [0.25], "image_std": [0.5]}
    (folder / "preprocessor_config.json").write_text(json.dumps(settings), encoding="utf-8")


class Trained(NamedTuple):
    run: Path
    logits: torch.Tensor
    accuracy: float


IMAGES = torch.rand(3, 1, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module", params=["folder beside the recipe", "name on the hub"])
def trained(request: pytest.FixtureRequest, hf: None, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """A run of a student whose folder is gone, and its logits from when it was there."""
    root = tmp_path_factory.mktemp("hf")
    elsewhere = root / "elsewhere"
    elsewhere.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "folder beside the recipe":
            model = root / "recipes" / "vit"
            write_model(model)
            (root / "recipes" / "r.toml").write_text(RECIPE.format(model="vit"), encoding="utf-8")
            patch.chdir(elsewhere)
            recipe = load_recipe(root / "recipes" / "r.toml")
            assert recipe.student.model == f"hf:{model}"
        else:  # read from the current folder, as from a cache of the hub
            model = root / "acme" / "vit"
            write_model(model)
            patch.chdir(root)
            raw = load_recipe("quick/digits-plain", ["schedule.epochs=1"]).model_dump(exclude_none=True)
            raw["student"] = {"model": "hf:acme/vit"}
            recipe = make_recipe(raw, "test")
        results = train(recipe, root / "run")
        student, _ = load_student(root / "run")
        with torch.no_grad():
            logits = student(IMAGES)
    assert student.size == (16, 16)
    assert (student.mean.item(), student.std.item()) == (0.25, 0.5)
    shutil.rmtree(model)
    return Trained(root / "run", logits, results.last.test_accuracy)


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.mark.parametrize("file", ["", "student.safetensors", "checkpoints/last.pt", "moved.safetensors"])
def test_evaluated_without_the_folder(trained: Trained, file: str, tmp_path: Path) -> None:
    path = trained.run / file
    if file == "moved.safetensors":
        path = Path(shutil.copy(trained.run / runs.STUDENT, tmp_path / file))
    assert evaluate(path).scores.accuracy == trained.accuracy
    with torch.no_grad():
        assert torch.equal(load_student(path)[0](IMAGES), trained.logits)


@pytest.mark.parametrize("file_format", ["safetensors", "torch"])
def test_exported_without_the_folder(trained: Trained, file_format: str, tmp_path: Path) -> None:
    target = tmp_path / "student"
    assert export(trained.run, target, file_format) < 1e-4
    if file_format == "safetensors":  # and from there again
        assert torch.equal(load_student(target)[0](IMAGES), trained.logits)
        assert target.read_bytes() == (trained.run / runs.STUDENT).read_bytes()


def test_teaches_and_starts_other_runs_without_the_folder(trained: Trained) -> None:
    file = trained.run / runs.STUDENT
    recipe = load_recipe("quick/digits-kd", [f"teacher.checkpoint={file}", "schedule.epochs=1"])
    teacher = load_student(file)[0]
    with torch.no_grad():
        assert torch.equal(build_run(recipe).distiller.teacher(IMAGES), teacher(IMAGES))
    name = load_student(file)[1].student.model
    again = load_recipe("quick/digits-plain", [f"student.model={name}", f"student.checkpoint={file}"])
    with torch.no_grad():
        assert torch.equal(build_run(again).distiller.student.eval()(IMAGES), trained.logits)


def test_analysed_without_the_folder(trained: Trained) -> None:
    found = analyze([trained.run], parts=["quality"], images=200)[trained.run]
    assert found.quality is not None
    assert found.quality.nll == pytest.approx(runs.read_run(trained.run).metrics[-1].validation_loss)


@pytest.mark.usefixtures("hf")
def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "r.toml").write_text(RECIPE.format(model="vit"), encoding="utf-8")
    with pytest.raises(BadInput) as caught:
        train(load_recipe(tmp_path / "r.toml"), tmp_path / "run")
    folder = tmp_path / "vit"
    assert str(caught.value) == f"model 'hf:{folder}': no folder {str(folder)!r}"


@pytest.mark.usefixtures("hf")
@pytest.mark.parametrize("role", ["student", "teacher", "evaluated"])
def test_a_folder_of_another_network_than_the_weights(tmp_path: Path, role: str) -> None:
    folder, file = tmp_path / "vit", tmp_path / "weights.safetensors"
    write_model(folder)
    (tmp_path / "r.toml").write_text(RECIPE.format(model="vit"), encoding="utf-8")
    recipe = load_recipe(tmp_path / "r.toml")
    student = build_student(recipe)
    save_student(student, recipe, describe_student(student, recipe.data.facts(), ()), file)
    taught = load_recipe("quick/digits-kd", [f"teacher.model=hf:{folder}", f"teacher.checkpoint={file}"])
    started = load_recipe(tmp_path / "r.toml", [f"student.checkpoint={file}"])

    def build() -> torch.nn.Module:
        if role == "teacher":
            return build_teacher(taught, file)
        return build_student(started).eval() if role == "student" else read_student(file, recipe).network

    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    (folder / "config.json").write_text(json.dumps({**config, "transformers_version": "0"}), encoding="utf-8")
    with torch.no_grad():
        assert torch.equal(build()(IMAGES), student.eval()(IMAGES))
    (folder / "config.json").write_text(json.dumps({**config, "hidden_act": "relu"}), encoding="utf-8")
    with pytest.raises(BadInput) as caught:
        build()
    assert "\n" not in str(caught.value)
    assert str(folder / "config.json") in str(caught.value)
    assert str(file) in str(caught.value)
    with torch.no_grad():  # a file with its own recipe needs no folder
        assert torch.equal(load_student(file)[0](IMAGES), student(IMAGES))
