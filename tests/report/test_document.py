"""Whole reports, from nothing beside the runs to everything: files, sections, sizes, and no stray number."""

import json
import re
import subprocess
import sys

import pytest
from dotkd.report.document import TABLES, compose
from dotkd.report.text import READINGS

from dotkd.errors import BadInput
from dotkd.report import lead, read_extras, render, write, write_report
from dotkd.runs import SWEEP, find_runs

from .extras import DELTAS, WEIGHTS, end_run, write_analyses, write_sweep, write_tuning
from .folders import write_example
from .test_page import EVIL, tags

BARE = ["results", "losses", "gradients", "cost"]


@pytest.fixture(scope="module")
def full(tmp_path_factory):
    """A sweep of the weights of two bases, with a plain arm, tuned and analysed: folder and document."""
    root = write_example(tmp_path_factory.mktemp("full"), arms=("plain",), seeds=2, epochs=3)
    keys = ["method.task_weight", "method.distill_weight"]
    write_sweep(root, keys, WEIGHTS[::2], bases=("KD", "KD + DOT"), seeds=2, epochs=3)
    write_tuning(root)
    write_analyses(root)
    with pytest.MonkeyPatch.context() as patch:
        made = []
        patch.setattr(write, "compose", lambda *given: made.append(compose(*given)) or made[0])
        write_report(root)
    return root, made[0]


@pytest.fixture(scope="module")
def page(full):
    return (full[0] / "report.html").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def document(full):
    return full[1]


def composed(root):
    runs = find_runs(root)
    return compose(runs, read_extras(root, runs))


def test_everything_is_there(page, document):
    keys = ["results", "sweep", "losses", "gradients", "minima", "quality", "cost", "tuning"]
    assert [section.key for section in document.sections] == keys
    assert [table.name for table in document.tables] == list(TABLES)
    figures = re.findall(r'<figure id="figure-([\w-]+)">', page)
    assert {key.rstrip("1") for key in figures} == set(READINGS) - {"task-loss"}
    assert re.findall(r"<strong>Figure (\d+)\.", page) == [str(n + 1) for n in range(len(figures))]
    tags(page)


def test_ids_and_links_meet(page):
    ids = re.findall(r'\bid="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'(?:href="#|url\(#)([^")]+)', page)) <= set(ids)


def test_files_beside_the_page(full, document):
    assert sorted(path.stem for path in (full[0] / "tables").iterdir()) == sorted(TABLES)
    markdown = (full[0] / "report.md").read_text(encoding="utf-8")
    for table in document.tables:
        assert f"### {table.title}" in markdown
    for section in document.sections:
        for sentence in section.sentences:
            assert sentence.replace("_", "\\_") in markdown


@pytest.mark.parametrize("name", ["report.html", "report.md", *(f"tables/{name}.csv" for name in TABLES)])
def test_no_stray_numbers(full, name):
    text = re.sub(r'(d|id|href)="[^"]*"', "", (full[0] / name).read_text(encoding="utf-8"))
    assert not re.search(r"\b(nan|NaN|inf|Infinity|None)\b", text)


def test_the_summary_speaks_of_the_best_values(full, document):
    runs = find_runs(full[0])
    assert lead(runs, read_extras(full[0], runs)) == document.lead
    assert document.lead[-1].startswith("Of each swept arm this summary speaks of the value that is best")
    assert sum("DOT against plain momentum" in sentence for sentence in document.lead) == 1
    (losses,) = (section for section in document.sections if section.key == "losses")
    assert sum("beside the front of KD" in sentence for sentence in losses.sentences) == 1
    (front,) = (table for table in document.tables if table.name == "tradeoff")
    assert len(front.rows) == 3  # every weighting of DOT


def test_nothing_beside_the_runs(tmp_path):
    document = composed(write_example(tmp_path, arms=("KD",), seeds=1, epochs=1, teacher=False))
    assert [section.key for section in document.sections] == BARE
    assert [table.name for table in document.tables] == BARE


def test_a_table_of_an_older_report_goes(tmp_path):
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


def test_a_broken_file_is_named_and_nothing_is_written(tmp_path):
    write_example(tmp_path, arms=("KD",), seeds=1, epochs=1, teacher=False)
    (tmp_path / SWEEP).write_text("{}")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(
        BadInput, match=r"^.*sweep\.json: broken: keys: Field required; arms: Field required$"
    ):
        write_report(tmp_path)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_sweep_of_which_nothing_was_run(tmp_path):
    write_example(tmp_path, arms=("KD",), seeds=1, epochs=1, teacher=False)
    content = {"keys": ["a.b"], "arms": [{"name": "gone", "base": "KD", "values": [1]}]}
    (tmp_path / SWEEP).write_text(json.dumps(content))
    (section,) = (section for section in composed(tmp_path).sections if section.key == "sweep")
    assert section.sentences == ("Without a finished run, and so left out: gone.",)
    assert section.parts == ()


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
    losses = re.search(r'<figure id="figure-losses"><ul class="legend">(.*?)</ul>', text, re.DOTALL)[1]
    assert losses.count("<li>") == 6
    rows = re.findall(r'<th scope="rowgroup"[^>]*>([^<]*)<', text)[:3]
    assert rows == ["KD + DOT, by optimizer.delta", "KD, control, by optimizer.delta", "Teachers"]
    assert "KD + DOT, as it is" in text  # beside the line of its sweep


@pytest.mark.parametrize("name", [EVIL, "x" * 300, "a|b\n\n# c", "$\\alpha$ {x} %s", "名前 😀"])
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


def test_render_takes_what_was_found(tmp_path):
    root = write_example(tmp_path, arms=("KD",), seeds=1, epochs=1, teacher=False)
    write_tuning(root)
    runs = find_runs(root)
    assert "Budgets were equal" not in render(runs)
    assert "Budgets were equal" in render(runs, read_extras(root, runs))


def test_a_report_needs_no_torch():
    code = "import sys, dotkd.report; assert 'torch' not in sys.modules, 'torch was loaded'"
    subprocess.run([sys.executable, "-c", code], check=True)
