"""The main job on image files: parquet -> teacher -> arms -> one page, which a real browser opens."""

import json

import numpy as np
import pytest

from dotkd.compare import compare
from dotkd.recipe import load_recipe
from dotkd.runs import RESULTS, find_runs

from .browser import open_page

datasets = pytest.importorskip("datasets")

ARMS = ["plain", "kd", "kd-dot", "kd-control"]
TINY = ["schedule.epochs=2", "data.train_images=0", "data.validation=100", "student.model=small/cnn4"]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """The layout of the hub, written by the hub's own library: 100 classes that differ in colour."""
    datasets.disable_progress_bars()
    folder = tmp_path_factory.mktemp("files")
    names = [f"class{number:02d}" for number in range(100)]
    features = datasets.Features(
        img=datasets.Image(),
        fine_label=datasets.ClassLabel(names=names),
        coarse_label=datasets.Value("int64"),
    )
    rng = np.random.default_rng(0)
    colours = rng.integers(0, 200, (100, 1, 1, 3))
    for split, count in (("train", 500), ("test", 200)):
        labels = [row % 100 for row in range(count)]
        images = [(colours[label] + rng.integers(0, 56, (32, 32, 3))).astype(np.uint8) for label in labels]
        content = {"img": images, "fine_label": labels, "coarse_label": [0] * count}
        rows = datasets.Dataset.from_dict(content, features=features)
        rows.to_parquet(str(folder / f"{split}-00000-of-00001.parquet"))
    return folder


@pytest.fixture(scope="module")
def comparison(root, tmp_path_factory):
    folder = tmp_path_factory.mktemp("comparison")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DOTKD_CACHE", str(tmp_path_factory.mktemp("cache")))
        teacher = root / "teacher.toml"
        teacher.write_text(
            'extends = "quick/cifar100-cpu-teacher"\ndata = {validation = 100, train_images = 0}\n'
            'schedule.epochs = 2\nstudent.model = "small/cnn16"\n'
        )
        given = [f"data.root={root}", f"teacher.recipe={teacher}", *TINY]
        overrides = [given[:1] + given[2:] if arm == "plain" else given for arm in ARMS]
        recipes = [
            load_recipe(f"quick/cifar100-cpu-{arm}", words)
            for arm, words in zip(ARMS, overrides, strict=True)
        ]
        failures = compare(recipes, 2, folder)
    assert failures == []
    return folder


def test_every_arm_is_trained_with_every_seed_and_one_teacher(comparison):
    runs = find_runs(comparison)
    assert sorted((run.name, run.seed) for run in runs if not run.is_teacher) == sorted(
        (name, seed) for name in ("plain", "KD", "KD + DOT", "KD control") for seed in (0, 1)
    )
    assert [run.name for run in runs if run.is_teacher] == ["teacher"]
    for run in runs:
        losses = [line["train_task_loss"] for line in run.metrics]
        assert losses[-1] < losses[0] or run.recipe.get("method"), "a plain loss falls on so easy images"


def test_the_summary_is_written_as_json(comparison):
    content = json.loads((comparison / RESULTS).read_text())
    assert [arm["name"] for arm in content["arms"]] == ["plain", "KD", "KD + DOT", "KD control"]
    assert content["baseline"] == "KD"


@pytest.mark.parametrize("dark", [False, True])
def test_its_report_opens_without_an_error_or_a_request(comparison, tmp_path, dark):
    visit = open_page(comparison / "report.html", tmp_path, dark=dark)
    assert visit.console == []
    assert visit.requests == []
    assert visit.dom.count("<figure") == 5  # accuracy, trade-off, losses, gradients, layers
    for name in ("plain", "KD + DOT", "KD control"):
        assert name in visit.dom
