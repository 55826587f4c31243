"""The page and the files beside it: whole or not at all, complete, and nothing from a file is markup."""

import json
import os
import random
import re
import subprocess
import sys
from html.parser import HTMLParser

import numpy as np
import pytest

from dotkd.errors import BadInput
from dotkd.report import lead, read_comparison, render, write_report
from dotkd.report import page as page_module
from dotkd.report.figures import FIGURES
from dotkd.report.page import SECTIONS, compose
from dotkd.report.read import compared
from dotkd.report.tables import TABLES
from dotkd.runs import ANALYSIS, SWEEP, find_runs

from .folders import (
    DELTAS,
    OPTIMIZERS,
    WEIGHTS,
    analysis,
    end_run,
    line,
    metrics,
    recipe,
    with_best,
    write_analyses,
    write_example,
    write_run,
    write_sweep,
    write_tuning,
)


@pytest.fixture
def no_figures(monkeypatch):
    """Figures take most of the time of a report."""
    monkeypatch.setattr(page_module, "draw", lambda _scene, _section: ())


VOID = {"meta", "br"}
EVIL = '<script>alert("x")</script>'


class Tags(HTMLParser):
    """Checks that tags close in order, and keeps their names and attributes."""

    def __init__(self):
        super().__init__()
        self.open, self.seen = [], []

    def handle_starttag(self, tag, attrs):
        self.seen.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.seen.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def tags(text):
    parser = Tags()
    parser.feed(text)
    assert parser.open == []
    return parser.seen


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    return write_report(write_example(tmp_path_factory.mktemp("example"), seeds=2, epochs=3))


@pytest.fixture(scope="module")
def text(page):
    return page.read_text(encoding="utf-8")


def test_contents(page, text):
    assert page.name == "report.html"
    assert text.startswith("<!doctype html>")
    assert "<h1>Distillation report: digits, cnn-small</h1>" in text
    assert "4 arms · 8 runs · 3 epochs · 12,345 parameters" in text
    rows = re.findall(r'<tr><th scope="row">(.*?)</th>', text)
    assert rows[:5] == [*OPTIMIZERS, "cnn-large <small>teacher</small>"]
    assert "Difference to KD (points)" in text
    assert text.count("<figure") == text.count("<figcaption") == 4
    assert text.count("<details>") == 5
    assert "KD + DOT <small>seeds 0, 1; shown: seed 0</small>" in text
    assert "name = &#34;KD + DOT&#34;" in text
    assert '<th scope="row">torch</th><td>2.6.0</td>' in text


def test_markup_is_sound(text):
    seen = tags(text)
    names = [name for name, _ in seen]
    assert "script" not in names
    assert names.count("main") == names.count("h1") == 1
    assert names.count("caption") == names.count("table") == 7
    ids = [attrs["id"] for _, attrs in seen if "id" in attrs]
    assert len(ids) == len(set(ids))
    assert all(attrs.get("scope") in ("row", "col") for name, attrs in seen if name == "th")
    drawings = [attrs for name, attrs in seen if name == "svg"]
    assert len(drawings) == 4
    assert all(attrs["role"] == "img" and attrs["aria-label"] for attrs in drawings)


def test_nothing_is_fetched(text):
    for name, attrs in tags(text):
        assert name not in ("link", "img", "iframe", "object", "embed", "base")
        for key in ("src", "href", "xlink:href", "action", "srcset", "poster"):
            assert attrs.get(key, "#").startswith("#")
    assert "@import" not in text
    assert all(target.startswith("#") for target in re.findall(r"url\(\s*['\"]?([^)]*)", text))


@pytest.mark.slow
def test_everything_from_files_is_escaped(tmp_path):
    rows = list(metrics(1, random.Random(0), distilled=True, dot=False))
    plain = f"# {EVIL}\n" + recipe(EVIL, 0, epochs=1).replace('"digits"', f"'{EVIL}'").replace(
        '"kd"', f"'{EVIL}'"
    )
    write_run(tmp_path / "a", plain, rows, 0.9)
    write_run(tmp_path / "b", recipe(f"{EVIL} two", 0, optimizer="dot", epochs=1), rows, 0.9)
    write_run(tmp_path / "teacher", recipe(EVIL, 0, method="", epochs=1), rows, 0.9)
    runs = find_runs(tmp_path)
    for run in runs:
        run.environment[EVIL] = f"{EVIL} {run.path.name}"
    text = render(compared(runs))
    assert "<script" not in text
    assert text.count("&lt;script&gt;") > 10
    assert "script" not in [name for name, _ in tags(text)]


def test_wrong_labels_are_said_where_training_losses_are_shown(tmp_path):
    for seed in range(2):
        end_run(tmp_path, "KD", seed, (1.0, 2.0), change=("seed = 0\n", "seed = 0\nlabel_noise = 0.2\n"))
    text = render(read_comparison(tmp_path))
    assert "20 % of the training labels are wrong" in text
    captions = dict(
        re.findall(r'<figure id="figure-(\w+)">.*?<figcaption>(.*?)</figcaption>', text, re.DOTALL)
    )
    assert {key for key, caption in captions.items() if "the student has learned the noise" in caption} == {
        "losses"
    }
    assert "validation losses" in captions["tradeoff"]


def test_environments_that_differ_are_all_shown(tmp_path, no_figures):
    runs = find_runs(write_example(tmp_path, arms=("KD",), seeds=2, epochs=1, teacher=False))
    runs[1].environment["torch"] = "2.7.0"
    assert '<th scope="row">torch</th><td>2.6.0<br>2.7.0</td>' in render(compared(runs))


def test_the_teachers_accuracy_is_text(tmp_path, no_figures):
    runs = find_runs(write_example(tmp_path, arms=("KD",), seeds=2, epochs=1, teacher=False))
    for run, accuracy in zip(runs, (0.875, None), strict=True):
        chance = accuracy and 0.25
        run.environment["teacher"] = {"accuracy": accuracy, "chance": chance, "split": "train", "images": 8}
    text = render(compared(runs))
    shown = re.search(r"teacher</th><td>(.*?)<br>(.*?)</td>", text)
    assert "87.50 % of 8 train" in shown[1]
    assert "25.00 %" in shown[1]
    assert "8 train" in shown[2]
    assert "{" not in shown[0]


def test_recipes_that_differ_are_all_shown(tmp_path, no_figures):
    runs = find_runs(write_example(tmp_path, arms=("KD",), seeds=3, epochs=1, teacher=False))
    runs[1].recipe["optimizer"]["lr"] = 1.0
    text = render(compared(runs))
    assert "KD <small>seeds 0, 2; shown: seed 0</small>" in text
    assert "KD <small>seed 1</small>" in text


@pytest.mark.parametrize("arms", [("plain",), ("KD",), ("plain", "KD + DOT")])
def test_one_seed_one_epoch(tmp_path, arms, no_figures):
    text = render(read_comparison(write_example(tmp_path, arms=arms, seeds=1, epochs=1, teacher=False)))
    tags(text)
    assert f"{arms[0]} has only one seed: no interval." in text
    assert ("Difference to" in text) == (len(arms) > 1)
    assert ('<th scope="col">Distillation loss, train</th>' in text) == (arms != ("plain",))


def test_without_a_best_epoch_there_is_no_column(tmp_path, no_figures):
    runs = find_runs(write_example(tmp_path, arms=("KD",), seeds=2, epochs=1))
    assert "best epoch" in render(compared(runs))
    assert "best epoch" not in render(compared([with_best(run, None, None) for run in runs]))


def test_the_old_page_stays_when_writing_fails(tmp_path, monkeypatch, no_figures):
    page = write_report(write_example(tmp_path, arms=("KD",), seeds=1, epochs=1))
    page.write_text("old", encoding="utf-8")
    before = sorted(path.name for path in tmp_path.iterdir())

    def fail(*_):
        raise OSError("disk full")

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", fail)
        with pytest.raises(OSError, match="disk full"):
            write_report(tmp_path)
    assert page.read_text(encoding="utf-8") == "old"
    assert sorted(path.name for path in tmp_path.iterdir()) == before
    assert write_report(tmp_path) == page
    assert page.read_text(encoding="utf-8").startswith("<!doctype html>")


# ---------------------------------------------------------------- whole reports

BARE = ["results", "losses", "gradients", "cost"]


@pytest.fixture(scope="module")
def full(tmp_path_factory):
    """A sweep of the weights of two bases, with a plain arm, tuned and analysed."""
    root = write_example(tmp_path_factory.mktemp("full"), arms=("plain",), seeds=2, epochs=3)
    keys = ["method.task_weight", "method.distill_weight"]
    write_sweep(root, keys, WEIGHTS[::2], bases=("KD", "KD + DOT"), seeds=2, epochs=3)
    write_tuning(root)
    write_analyses(root)
    return root


@pytest.fixture(scope="module")
def report(full):
    """Its report without figures, which take their time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(page_module, "draw", lambda _scene, _section: ())
        return compose(read_comparison(full))


@pytest.fixture(scope="module")
def whole(full):
    return write_report(full).read_text(encoding="utf-8")


def test_every_section_and_table_is_there(report):
    assert [section.key for section in report.sections] == list(SECTIONS)
    assert set(report.tables) == set(TABLES)


@pytest.mark.slow
def test_every_figure_is_there(whole):
    figures = re.findall(r'<figure id="figure-([\w-]+)">', whole)
    assert sorted(figures) == sorted(FIGURES)
    assert re.findall(r"<strong>Figure (\d+)\.", whole) == [str(n + 1) for n in range(len(figures))]
    tags(whole)


@pytest.mark.slow
def test_ids_and_links_meet(whole):
    ids = re.findall(r'\bid="([^"]+)"', whole)
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'(?:href="#|url\(#)([^")]+)', whole)) <= set(ids)


@pytest.mark.slow
@pytest.mark.usefixtures("whole")
def test_files_beside_the_page(full, report):
    assert sorted(path.stem for path in (full / "tables").iterdir()) == sorted(TABLES)
    assert sorted(path.stem for path in (full / "figures").iterdir()) == sorted(FIGURES)
    markdown = (full / "report.md").read_text(encoding="utf-8")
    for table in report.tables.values():
        assert f"### {table.title}" in markdown
    for section in report.sections:
        for sentence in section.sentences:
            assert sentence.replace("_", "\\_") in markdown


@pytest.mark.slow
@pytest.mark.usefixtures("whole")
@pytest.mark.parametrize("name", ["report.html", "report.md", *(f"tables/{name}.csv" for name in TABLES)])
def test_no_stray_numbers(full, name):
    text = re.sub(r'(d|id|href)="[^"]*"', "", (full / name).read_text(encoding="utf-8"))
    assert not re.search(r"\b(nan|NaN|inf|Infinity|None)\b", text)


def test_the_summary_covers_the_best_values(full, report):
    assert lead(read_comparison(full)) == report.lead
    assert report.lead[-1].startswith("Of each swept arm this summary covers the value that is best")
    assert sum("DOT against plain momentum" in sentence for sentence in report.lead) == 1
    (losses,) = (section for section in report.sections if section.key == "losses")
    assert sum("against the front of KD" in sentence for sentence in losses.sentences) == 1
    assert len(report.tables["tradeoff"].rows) == 3  # every weighting of DOT


def test_nothing_beside_the_runs(tmp_path, no_figures):
    root = write_example(tmp_path, arms=("KD",), seeds=1, epochs=1, teacher=False)
    found = compose(read_comparison(root))
    assert [section.key for section in found.sections] == BARE
    assert list(found.tables) == BARE


def test_a_table_of_an_older_report_goes(tmp_path, no_figures):
    write_example(tmp_path, arms=("KD",), seeds=1, epochs=1, teacher=False)
    write_tuning(tmp_path)
    write_report(tmp_path)
    (tmp_path / "tables" / "mine.csv").write_text("kept")
    (tmp_path / "tuning.json").unlink()
    write_report(tmp_path)
    assert sorted(path.stem for path in (tmp_path / "tables").iterdir()) == [
        "cost",
        "gradients",
        "losses",
        "mine",
        "results",
    ]


def test_a_broken_file_is_named_and_nothing_is_written(tmp_path, no_figures):
    write_example(tmp_path, arms=("KD",), seeds=1, epochs=1, teacher=False)
    (tmp_path / SWEEP).write_text("{}")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(
        BadInput, match=r"^.*sweep\.json: broken: keys: Field required; arms: Field required$"
    ):
        write_report(tmp_path)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_sweep_of_which_nothing_was_run(tmp_path, no_figures):
    write_example(tmp_path, arms=("KD",), seeds=1, epochs=1, teacher=False)
    content = {"keys": ["a.b"], "arms": [{"name": "gone", "base": "KD", "values": [1]}]}
    (tmp_path / SWEEP).write_text(json.dumps(content))
    found = compose(read_comparison(tmp_path))
    (section,) = (section for section in found.sections if section.key == "sweep")
    assert section.sentences == ("Left out, because no run is finished: gone.",)
    assert section.parts == ()


@pytest.mark.slow
def test_twelve_arms_stay_small_and_readable(tmp_path):
    write_example(tmp_path, seeds=2, epochs=2)
    points, bases = [(delta,) for delta in DELTAS], ("KD + DOT", "KD, control")
    write_sweep(tmp_path, ["optimizer.delta"], points, bases=bases, seeds=2, epochs=2)
    write_analyses(tmp_path)
    page = write_report(tmp_path)
    assert page.stat().st_size < 2e6
    text = page.read_text(encoding="utf-8")
    assert "12 arms · 24 runs" in text
    # A line for each arm would be too many: four as they are, and the best of each base.
    losses = (tmp_path / "figures" / "losses.svg").read_text(encoding="utf-8")
    assert len(re.findall(r'<g id="losses-legend_1">.*', losses, re.DOTALL)[0].split("<text")) - 1 == 6
    rows = re.findall(r'<th scope="rowgroup"[^>]*>([^<]*)<', text)[:3]
    assert rows == ["KD + DOT, by optimizer.delta", "KD, control, by optimizer.delta", "Teachers"]
    assert "KD + DOT, not swept" in text  # beside the line of its sweep


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [EVIL + "|b\n\n# c", "$\\alpha$ {x} %s 名前 😀", pytest.param("x" * 300, marks=pytest.mark.slow)],
)
def test_any_name_goes_through_everything(tmp_path, name):
    points = {f"{name} {place}": place for place in (1, 2)}
    for arm, place in points.items():
        end_run(tmp_path, f"arm{place}", 0, (1.0, place), optimizer="sgd" if place == 1 else "dot",
                change=(f'"arm{place}"', json.dumps(arm, ensure_ascii=False)))  # fmt: skip
    arms = [{"name": arm, "base": name, "values": [name, place]} for arm, place in points.items()]
    (tmp_path / SWEEP).write_text(json.dumps({"keys": [name, "method.task_weight"], "arms": arms}))
    write_tuning(tmp_path, arms=(name,))
    text = write_report(tmp_path).read_text(encoding="utf-8")
    assert "script" not in [tag for tag, _ in tags(text)]
    assert "<script" not in text + (tmp_path / "report.md").read_text(encoding="utf-8")


@pytest.mark.slow
def test_a_report_needs_no_torch():
    code = "import sys, dotkd.report; assert 'torch' not in sys.modules, 'torch was loaded'"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.slow
def test_twelve_arms_with_fine_surfaces_stay_below_three_megabytes(tmp_path):
    arms = [f"KD {n}" for n in range(12)]
    for arm in arms:
        root = write_example(tmp_path / arm, arms=("KD",), seeds=1, epochs=40, teacher=False)
        path = root / "runs" / "KD-0" / "recipe.toml"
        path.write_text(path.read_text().replace('name = "KD"', f'name = "{arm}"'))
        path = path.with_name("results.json")
        path.write_text(path.read_text().replace('"KD"', f'"{arm}"'))
        write_analyses(root, start="KD 0")
        content = analysis(random.Random(arm), grid=61)
        content["landscape"]["task"] = wavy(61)
        content["interpolation"] = line("KD 0", 0)
        path.with_name(ANALYSIS).write_text(json.dumps(content))
    page = write_report(tmp_path)
    assert page.stat().st_size < 3e6


def wavy(size):
    x, y = np.meshgrid(*[np.linspace(-1, 1, size)] * 2)
    return (2 + np.sin(9 * x) * np.cos(7 * y) + x * x).tolist()
