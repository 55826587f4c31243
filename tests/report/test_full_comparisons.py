"""Two full comparisons of five seeds, tuned and analysed: their reports in a real browser.

That on digits is made here, by the verbs; that on CIFAR-100 images comes from the runs in studies/results.
"""

import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from dotkd.cli import app
from dotkd.report import write_report
from dotkd.runs import find_runs

from .browser import open_page

STUDY = Path(__file__).parents[2] / "studies" / "results" / "cifar100-small"
ARMS = ("plain", "KD", "KD + DOT", "KD control")
SHOWN = ("accuracy", "tradeoff", "losses", "gradients", "landscape-task", "landscape-distill", "reliability")
# What the page says of its figures: how many there are, and how many of their drawings are on the page, of a
# size to be seen and with strokes in them.
LOOK = """
<script>
    const drawn = one => {
        const box = one.getBoundingClientRect()
        return box.width > 80 && box.height > 60 && box.right <= innerWidth && one.querySelector('path')
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
    assert seen == drawings >= 20


def test_its_figures_are_files_too(comparison):
    assert set(SHOWN) <= {path.stem for path in (comparison / "figures").glob("*.svg")}
