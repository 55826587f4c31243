"""The page: whole or not at all, complete in itself, and nothing from a file is markup."""

import os
import random
import re
from html.parser import HTMLParser

import pytest
from dotkd.report.text import NOISY

from dotkd.errors import BadInput
from dotkd.report import render, write_report
from dotkd.runs import find_runs

from .extras import end_run
from .folders import OPTIMIZERS, metrics, recipe, write_example, write_run

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
    assert "<h1>Distillation report: digits, cnn-small</h1>" in text
    assert "4 arms · 8 runs · 3 epochs · 12,345 parameters" in text
    rows = re.findall(r'<tr><th scope="row">(.*?)</th>', text)
    assert rows[:5] == [*OPTIMIZERS, "cnn-large <small>teacher</small>"]
    assert "Difference to KD (points)" in text
    assert text.count("<figure") == text.count("<figcaption") == 4
    assert text.count("<details>") == 5
    assert "KD + DOT <small>seeds 0, 1; shown: seed 0</small>" in text
    assert "name = &quot;KD + DOT&quot;" in text
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
    charts = [attrs for name, attrs in seen if name == "svg" and "role" in attrs]
    assert len(charts) == 13
    assert all(attrs["role"] == "img" and attrs["aria-label"] for attrs in charts)


def test_nothing_is_fetched(text):
    for name, attrs in tags(text):
        assert name not in ("link", "img", "iframe", "object", "embed", "base")
        for key in ("src", "href", "xlink:href", "action", "srcset", "poster"):
            assert attrs.get(key, "#").startswith("#")
    assert "@import" not in text
    assert all(target.startswith("#") for target in re.findall(r"url\(\s*['\"]?([^)]*)", text))


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
    text = render(runs)
    assert "<script" not in text
    assert text.count("&lt;script&gt;") > 10
    assert "script" not in [name for name, _ in tags(text)]


def test_wrong_labels_are_said_where_training_losses_are_shown(tmp_path):
    for seed in range(2):
        end_run(tmp_path, "KD", seed, (1.0, 2.0), change=("seed = 0\n", "seed = 0\nlabel_noise = 0.2\n"))
    text = render(find_runs(tmp_path))
    assert "20 % of the training labels are wrong" in text
    captions = dict(
        re.findall(r'<figure id="figure-(\w+)">.*?<figcaption>(.*?)</figcaption>', text, re.DOTALL)
    )
    assert {key for key, caption in captions.items() if NOISY in caption} == {"losses"}
    assert "validation losses" in captions["tradeoff"]


def test_environments_that_differ_are_all_shown(tmp_path):
    runs = find_runs(write_example(tmp_path, arms=("KD",), seeds=2, epochs=1, teacher=False))
    runs[1].environment["torch"] = "2.7.0"
    assert '<th scope="row">torch</th><td>2.6.0<br>2.7.0</td>' in render(runs)


def test_recipes_that_differ_are_all_shown(tmp_path):
    runs = find_runs(write_example(tmp_path, arms=("KD",), seeds=3, epochs=1, teacher=False))
    runs[1].recipe["optimizer"]["lr"] = 1.0
    text = render(runs)
    assert "KD <small>seeds 0, 2; shown: seed 0</small>" in text
    assert "KD <small>seed 1</small>" in text


@pytest.mark.parametrize("arms", [("plain",), ("KD",), ("plain", "KD + DOT")])
def test_one_seed_one_epoch(tmp_path, arms):
    text = render(find_runs(write_example(tmp_path, arms=arms, seeds=1, epochs=1, teacher=False)))
    tags(text)
    assert f"{arms[0]} has one seed only: no interval." in text
    assert ("Difference to" in text) == (len(arms) > 1)
    assert ('<th scope="col">Distillation loss, train</th>' in text) == (arms != ("plain",))


def test_without_a_best_epoch_there_is_no_column(tmp_path):
    runs = find_runs(write_example(tmp_path, arms=("KD",), seeds=2, epochs=1))
    assert "best epoch" in render(runs)
    for run in runs:
        run.results["best"] = None
    assert "best epoch" not in render(runs)


def test_empty_folder(tmp_path):
    with pytest.raises(BadInput) as caught:
        write_report(tmp_path)
    assert str(caught.value) == f"{tmp_path}: no finished run in this folder or below it"
    assert list(tmp_path.iterdir()) == []


def test_teachers_only_names_the_folder(tmp_path):
    write_run(tmp_path / "teacher", recipe("big", 0, method=""), [{"epoch": 1}], 0.9)
    with pytest.raises(BadInput, match="no finished run of a student") as caught:
        write_report(tmp_path)
    assert str(caught.value).startswith(f"{tmp_path}: ")


def test_the_old_page_stays_when_writing_fails(tmp_path, monkeypatch):
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
