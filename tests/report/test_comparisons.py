"""Whole comparisons, and their reports in a real browser.

One on digits is made here by the verbs, one on CIFAR-100 comes from the runs in studies/results, and one goes
from parquet files to the page.
"""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from dotkd.cli import app
from dotkd.compare.run import compare
from dotkd.recipe import load_recipe
from dotkd.report import write_report
from dotkd.runs import RESULTS, find_runs

from .browser import open_page

datasets = pytest.importorskip("datasets")
pytestmark = pytest.mark.slow

STUDY = Path(__file__).parents[2] / "studies" / "results" / "cifar100-small"
ARMS = ("plain", "KD", "KD + DOT", "KD control")
SHOWN = ("accuracy", "tradeoff", "losses", "gradients", "landscape-task", "landscape-distill", "reliability")
# What the page says of its figures: how many there are, and how many of their drawings are on the page, of a
# size to be seen and with strokes in them.
LOOK = """
<script>
    const drawn = one => {
        const box = one.getBoundingClientRect()
        return box.width > 80 && box.height > 60 && box.left < innerWidth && one.querySelector('path')
    }
    const figures = [...document.querySelectorAll('figure')]
    const all = figures.flatMap(one => [...one.querySelectorAll('svg[role=img]')])
    console.log([figures.length, all.length, all.filter(drawn).length].join(' '))
</script></body>"""


def invoke(*words):
    ran = CliRunner().invoke(app, list(map(str, words)))
    assert ran.exit_code == 0, ran.output


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    folder = tmp_path_factory.mktemp("digits") / "cmp"
    recipes = [f"quick/digits-{arm}" for arm in ("plain", "kd", "kd-dot", "kd-control")]
    rates = ["--tune-lr", "0.02,0.05", "--tune-seeds", "1"]
    invoke("compare", *recipes, "--seeds", 5, *rates, "--jobs", 2, "-o", folder)
    runs = [folder / arm / "seed-0" for arm in ("plain", "kd", "kd-dot", "kd-control")]
    invoke("analyze", *runs, "--images", 200, "--grid", 5)
    invoke("report", folder)
    return folder


@pytest.fixture(scope="module")
def cifar(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cifar") / "cmp"
    shutil.copytree(STUDY, folder)
    write_report(folder)
    return folder


@pytest.fixture(params=["digits", "cifar"])
def comparison(request):
    return request.getfixturevalue(request.param)


def test_every_arm_has_five_seeds(comparison):
    runs = [run for run in find_runs(comparison) if not run.is_teacher]
    assert sorted((run.name, run.seed) for run in runs) == sorted((arm, s) for arm in ARMS for s in range(5))


@pytest.mark.parametrize(("dark", "width"), [(False, 1000), (True, 500)])
def test_its_report_is_quiet_and_its_figures_are_seen(comparison, dark, width, tmp_path):
    visit = open_page(comparison / "report.html", tmp_path, dark=dark, width=width)
    assert visit.requests == []
    assert visit.console == []
    for arm in ARMS:
        assert arm in visit.dom
    looked = tmp_path / "looked.html"
    text = (comparison / "report.html").read_text(encoding="utf-8")
    looked.write_text(text.replace("</body>", LOOK), encoding="utf-8")
    (line,) = open_page(looked, tmp_path, dark=dark, width=width).console
    figures, drawings, seen = map(int, line[1 : line.index('"', 1)].split())
    assert figures >= len(SHOWN)
    assert seen == drawings == figures


def test_its_figures_are_files_too(comparison):
    assert set(SHOWN) <= {path.stem for path in (comparison / "figures").glob("*.svg")}


# ---------------------------------------------------------------- from parquet files to the page

KINDS = ["plain", "kd", "kd-dot", "kd-control"]
TINY = ["schedule.epochs=2", "data.train_images=0", "data.validation=100", "student.model=small/cnn4"]


@pytest.fixture(scope="module")
def parquet(tmp_path_factory):
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
def from_parquet(parquet, tmp_path_factory):
    folder = tmp_path_factory.mktemp("comparison")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DOTKD_CACHE", str(tmp_path_factory.mktemp("cache")))
        teacher = parquet / "teacher.toml"
        teacher.write_text(
            'extends = "quick/cifar100-cpu-teacher"\ndata = {validation = 100, train_images = 0}\n'
            'schedule.epochs = 2\nstudent.model = "small/cnn16"\n'
        )
        given = [f"data.root={parquet}", f"teacher.recipe={teacher}", "teacher.verify=false", *TINY]
        overrides = [given[:1] + given[3:] if arm == "plain" else given for arm in KINDS]
        recipes = [
            load_recipe(f"quick/cifar100-cpu-{arm}", words)
            for arm, words in zip(KINDS, overrides, strict=True)
        ]
        failures = compare(recipes, 2, folder)
    assert failures == []
    return folder


def test_every_arm_of_it_is_trained_with_every_seed_and_one_teacher(from_parquet):
    runs = find_runs(from_parquet)
    assert sorted((run.name, run.seed) for run in runs if not run.is_teacher) == sorted(
        (name, seed) for name in ("plain", "KD", "KD + DOT", "KD control") for seed in (0, 1)
    )
    assert [run.name for run in runs if run.is_teacher] == ["teacher"]
    for run in runs:
        losses = [line.train_task_loss for line in run.metrics]
        assert losses[-1] < losses[0] or run.recipe.get("method"), "a plain loss falls on so easy images"


def test_the_summary_is_written_as_json(from_parquet):
    content = json.loads((from_parquet / RESULTS).read_text())
    assert [arm["name"] for arm in content["arms"]] == ["plain", "KD", "KD + DOT", "KD control"]
    assert content["baseline"] == "KD"


@pytest.mark.parametrize("dark", [False, True])
def test_its_report_opens_too(from_parquet, tmp_path, dark):
    visit = open_page(from_parquet / "report.html", tmp_path, dark=dark)
    assert visit.console == []
    assert visit.requests == []
    assert visit.dom.count("<figure") == 5  # accuracy, trade-off, losses, gradients, layers
    for name in ("plain", "KD + DOT", "KD control"):
        assert name in visit.dom
