"""Figures: every arm is there, ids do not clash, nothing is drawn in a fixed ink."""

import re

import pytest

from dotkd.report import summarize
from dotkd.report.figures import charts
from dotkd.runs import find_runs

from .folders import OPTIMIZERS, write_example


def drawn(root):
    runs = find_runs(root)
    return {chart.key: chart for chart in charts(runs, summarize(runs))}


def svgs(found):
    return [
        svg
        for chart in found.values()
        for svg in [*(panel.svg for panel in chart.panels), *(sample for sample, _ in chart.legend)]
    ]


def test_figures_contain_every_arm(tmp_path):
    found = drawn(write_example(tmp_path, seeds=3, epochs=6))
    assert list(found) == ["losses", "gradients", "accuracy"]
    distilled = [name for name in OPTIMIZERS if name != "plain"]
    for key, names in (("losses", list(OPTIMIZERS)), ("gradients", distilled)):
        assert [name for _, name in found[key].legend] == names
        assert len(found[key].panels) == 2
    assert all(f"{name} ends at" in found["losses"].panels[0].label for name in OPTIMIZERS)
    assert "plain" not in found["losses"].panels[1].label
    (accuracy,) = found["accuracy"].panels
    assert all(f">{name}</text>" in accuracy.svg and name in accuracy.label for name in OPTIMIZERS)
    assert [name for _, name in found["accuracy"].legend] == [
        "one seed",
        "mean and its 95 % interval",
        "teacher cnn-large, seed 0: 97.13 %",
    ]


def test_arms_look_different(tmp_path):
    found = drawn(write_example(tmp_path, seeds=2, epochs=6))
    samples = [re.sub(r'(id|href|clip-path)="[^"]*"', "", sample) for sample, _ in found["losses"].legend]
    strokes = [re.search(r"stroke: (#\w+)", sample)[1] for sample in samples]
    assert len(set(strokes)) == len(OPTIMIZERS)
    dashes = [re.findall(r"stroke-dasharray: [^;]+", sample) for sample in samples]
    assert len({tuple(dash) for dash in dashes}) == len(OPTIMIZERS)


def test_ids_are_unique_and_references_are_met(tmp_path):
    text = "".join(svgs(drawn(write_example(tmp_path, seeds=2, epochs=3))))
    ids = re.findall(r'\bid="([^"]+)"', text)
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'href="#([^"]+)"|url\(#([^)]+)\)', text)) <= {
        pair for name in ids for pair in ((name, ""), ("", name))
    }


def test_ink_is_that_of_the_page(tmp_path):
    for svg in svgs(drawn(write_example(tmp_path, seeds=2, epochs=3))):
        assert svg.startswith("<svg")
        assert "#010203" not in svg
        assert "#000000" not in svg
        assert "#ffffff" not in svg
        assert "<metadata" not in svg
    assert "currentColor" in svg


def test_same_runs_same_svg(tmp_path):
    write_example(tmp_path, seeds=2, epochs=3)
    assert svgs(drawn(tmp_path)) == svgs(drawn(tmp_path))


@pytest.mark.parametrize("seeds", [1, 2])
@pytest.mark.parametrize("epochs", [1, 2])
@pytest.mark.parametrize("arms", [("plain",), ("KD + DOT",), ("plain", "KD, control")])
def test_small_comparisons(tmp_path, arms, epochs, seeds):
    found = drawn(write_example(tmp_path, arms=arms, seeds=seeds, epochs=epochs, teacher=False))
    if arms == ("plain",):
        assert list(found) == ["task-loss", "accuracy"]
        assert len(found["task-loss"].panels) == 1
    else:
        assert list(found) == ["losses", "gradients", "accuracy"]


def test_runs_of_different_lengths_and_lost_values(tmp_path):
    write_example(tmp_path / "long", arms=("KD",), seeds=1, epochs=5, teacher=False)
    write_example(tmp_path / "short", arms=("KD + DOT",), seeds=2, epochs=3, teacher=False)
    runs = find_runs(tmp_path)
    runs[0].metrics[1]["gradient_cosine"] = None
    assert [chart.key for chart in charts(runs, summarize(runs))] == ["losses", "gradients", "accuracy"]


def test_dollars_are_letters(tmp_path):
    write_example(tmp_path, arms=("KD",), seeds=1, epochs=1, teacher=False)
    (run,) = find_runs(tmp_path)
    renamed = type(run)(**{**vars(run), "name": "$\\alpha$ & <b>"})
    (panel,) = charts([renamed], summarize([renamed]))[-1].panels
    assert "$\\alpha$ &amp; &lt;b&gt;" in panel.svg
