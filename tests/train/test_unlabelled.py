"""Training images without a label: what an epoch reports of them, and where they are of no use."""

import io

import numpy as np
import pyarrow
import pytest
import torch
from PIL import Image
from pyarrow import parquet
from torch import nn
from torch.nn import functional

from dotkd.compare.arms import check_arms
from dotkd.errors import BadInput
from dotkd.losses import dkd_loss, kd_loss
from dotkd.models import create_model
from dotkd.recipe import Recipe, load_recipe
from dotkd.train import build_run, score, train_epoch
from dotkd.train.build import check_recipe

RECIPE = """
name = "some labels"
[data]
name = "hub"
root = "files"
validation = 0
batch_size = 4
[student]
model = "small/mlp16"
[teacher]
model = "small/mlp16"
checkpoint = "passed.pth"
[method]
name = "kd"
[optimizer]
name = "sgd"
lr = 0.0
[schedule]
name = "constant"
epochs = 1
"""
SOME = [0, None, 2, 1, None, None, 2, None, 1, 0, -100]

pytestmark = pytest.mark.filterwarnings("ignore:.*without a label")


def write(path, labels):
    rng = np.random.default_rng(len(labels))
    images = []
    for _ in labels:
        file = io.BytesIO()
        Image.fromarray(rng.integers(0, 256, (4, 4, 3), dtype=np.uint8)).save(file, "PNG")
        images.append(file.getvalue())
    path.parent.mkdir(exist_ok=True)
    table = {
        "image": pyarrow.array(images, pyarrow.binary()),
        "label": pyarrow.array(labels, pyarrow.int64()),
    }
    parquet.write_table(pyarrow.table(table), path)


@pytest.fixture
def recipe(tmp_path, monkeypatch):
    monkeypatch.setenv("DOTKD_CACHE", str(tmp_path / "cache"))
    write(tmp_path / "files" / "train-0.parquet", SOME)
    write(tmp_path / "files" / "test-0.parquet", [0, 1, 2, -100])
    (tmp_path / "r.toml").write_text(RECIPE, encoding="utf-8")

    def load(*overrides: str) -> Recipe:
        return load_recipe(tmp_path / "r.toml", overrides)

    return load


def teacher() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return create_model("small/mlp16", num_classes=3, image_shape=(3, 4, 4))


@pytest.mark.parametrize("method", ["kd", "dkd"])
def test_an_epoch_counts_labelled_images_alone(recipe, method):
    run = build_run(recipe(f"method.name={method}", "data.batch_size=3"), teacher())
    found = train_epoch(run)  # at the rate 0: the student stays as it is
    batch, known = run.data.train.batch(range(11)), torch.tensor([label in (0, 1, 2) for label in SOME])
    assert int(known.sum()) == 6
    with torch.no_grad():
        ours, theirs = (net(batch.images) for net in (run.distiller.student, run.distiller.teacher))
    labels = batch.labels[known]
    right = (ours[known].argmax(dim=1) == labels).double().mean()
    assert found["train_accuracy"] == pytest.approx(float(right), abs=1e-6)
    task = functional.cross_entropy(ours[known], labels)
    assert found["train_task_loss"] == pytest.approx(float(task), rel=1e-5)
    distill = kd_loss(ours, theirs) if method == "kd" else dkd_loss(ours[known], theirs[known], labels)
    assert found["train_distill_loss"] == pytest.approx(float(distill), rel=1e-4)
    assert len(run.data.test) == 3
    assert score(run.distiller.student, run.data.train).accuracy == pytest.approx(float(right))


def test_distillation_without_any_label(recipe, tmp_path):
    table = parquet.read_table(tmp_path / "files" / "train-0.parquet")
    names = b'{"info": {"features": {"label": {"names": ["a", "b", "c"], "_type": "ClassLabel"}}}}'
    table = table.set_column(1, "label", pyarrow.array([None] * len(table), pyarrow.int64()))
    for part, content in (
        ("train", table),
        ("test", parquet.read_table(tmp_path / "files" / "test-0.parquet")),
    ):
        named = content.replace_schema_metadata({"huggingface": names})
        parquet.write_table(named, tmp_path / "files" / f"{part}-0.parquet")
    run = build_run(recipe("optimizer.lr=0.1"), teacher())
    before = [param.detach().clone() for param in run.params]
    found = train_epoch(run)
    assert found["train_accuracy"] is None
    assert found["train_task_loss"] == 0
    assert found["train_distill_loss"] > 0
    assert any(not torch.equal(old, new) for old, new in zip(before, run.params, strict=True))
    with pytest.raises(BadInput, match=r"none of the 11 training images has a label, which DKD needs"):
        check_recipe(recipe("method.name=dkd"), teacher())
    (tmp_path / "plain.toml").write_text(
        RECIPE.replace(RECIPE[RECIPE.index("[teacher]") : RECIPE.index("[optim")], "")
    )
    with pytest.raises(BadInput, match="none of the 11 training images has a label, which a network without"):
        check_recipe(load_recipe(tmp_path / "plain.toml"))


@pytest.mark.parametrize("step", ["mixup:0.2", "cutmix:1"])
def test_steps_that_mix_labels(recipe, step):
    with pytest.raises(
        BadInput, match=rf"data\.augment: '{step}.*' mixes labels, and 5 of 11 training images"
    ):
        check_recipe(recipe(f"data.augment={step}"), teacher())


def test_validation_images_of_their_own_are_enough_to_tune_on(recipe, tmp_path):
    (tmp_path / "r.toml").write_text(
        RECIPE.replace(RECIPE[RECIPE.index("[teacher]") : RECIPE.index("[optim")], "")
    )
    with pytest.raises(BadInput, match=r"--tune-lr needs data\.validation > 0, got 0"):
        check_arms([recipe()], tuned=True)
    check_arms([recipe("data.validation_split=train[8:]")], tuned=True)
