"""Figures: every arm is there, ids do not clash, nothing is drawn in a fixed ink."""

import json
import random
import re

import numpy as np
import pytest
from dotkd.report.figures.landscape import LEVELS, levels
from dotkd.report.figures.scene import make_scene

from dotkd.report import read_extras, summarize
from dotkd.report.figures import charts
from dotkd.runs import ANALYSIS, find_runs

from .extras import WEIGHTS, analysis, end_run, write_sweep
from .folders import OPTIMIZERS, write_example

ALL = ["accuracy", "tradeoff", "losses", "gradients"]


def drawn(root):
    runs = find_runs(root)
    return {chart.key: chart for chart in charts(runs, summarize(runs), read_extras(root, runs))}


def svgs(found):
    return [
        svg
        for chart in found.values()
        for svg in [*(panel.svg for panel in chart.panels), *(sample for sample, _ in chart.legend)]
    ]


def test_figures_contain_every_arm(tmp_path):
    found = drawn(write_example(tmp_path, seeds=3, epochs=6))
    assert list(found) == ALL
    distilled = [name for name in OPTIMIZERS if name != "plain"]
    every = {"losses": (list(OPTIMIZERS), 3), "gradients": (distilled, 7), "tradeoff": (distilled, 2)}
    for key, (names, panels) in every.items():
        assert [name for _, name in found[key].legend] == names
        assert len(found[key].panels) == panels
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
    found = drawn(write_example(tmp_path, seeds=2, epochs=3))
    assert all("currentColor" in panel.svg for chart in found.values() for panel in chart.panels)
    for svg in svgs(found):
        assert svg.startswith("<svg")
        assert "#010203" not in svg
        assert "#000000" not in svg
        assert "#ffffff" not in svg
        assert "<metadata" not in svg


def test_same_runs_same_svg(tmp_path):
    write_example(tmp_path, seeds=2, epochs=3)
    assert svgs(drawn(tmp_path)) == svgs(drawn(tmp_path))


@pytest.mark.parametrize("seeds", [1, 2])
@pytest.mark.parametrize("epochs", [1, 2])
@pytest.mark.parametrize("arms", [("plain",), ("KD + DOT",), ("plain", "KD, control")])
def test_small_comparisons(tmp_path, arms, epochs, seeds):
    found = drawn(write_example(tmp_path, arms=arms, seeds=seeds, epochs=epochs, teacher=False))
    if arms == ("plain",):
        assert list(found) == ["accuracy", "task-loss"]
        assert len(found["task-loss"].panels) == 2
    else:
        assert list(found) == ALL
        assert len(found["tradeoff"].panels) == (1 if epochs == 1 else 2)  # one epoch is no path


def test_runs_of_different_lengths_and_lost_values(tmp_path):
    write_example(tmp_path / "long", arms=("KD",), seeds=1, epochs=5, teacher=False)
    write_example(tmp_path / "short", arms=("KD + DOT",), seeds=2, epochs=3, teacher=False)
    runs = find_runs(tmp_path)
    runs[0].metrics[1]["gradient_cosine"] = None
    assert [chart.key for chart in charts(runs, summarize(runs))] == ALL


def test_dollars_are_letters(tmp_path):
    write_example(tmp_path, arms=("KD",), seeds=1, epochs=1, teacher=False)
    (run,) = find_runs(tmp_path)
    renamed = type(run)(**{**vars(run), "name": "$\\alpha$ & <b>"})
    (panel,) = charts([renamed], summarize([renamed]))[0].panels
    assert "$\\alpha$ &amp; &lt;b&gt;" in panel.svg


# ---------------------------------------------------------------- trade-off and sweep


def test_each_distillation_loss_has_a_plane_of_its_own(tmp_path):
    for name, change in (("KD", ("", "")), ("DKD", ('"kd"', '"dkd"'))):
        for seed in range(2):
            end_run(tmp_path, name, seed, (1.0 + seed, 2.0), change=change)
    chart = drawn(tmp_path)["tradeoff"]
    titles = [re.search(r">([^<]*ends, after[^<]*)<", panel.svg)[1] for panel in chart.panels]
    assert titles == ["Dkd: ends, after the last epoch", "Kd: ends, after the last epoch"]
    assert "KD at 1.5 and 2" in chart.panels[1].label
    assert "validation losses" in chart.caption


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    root = tmp_path_factory.mktemp("swept")
    write_example(root, arms=("plain",), seeds=2, epochs=2, teacher=False)
    keys = ["method.task_weight", "method.distill_weight"]
    write_sweep(root, keys, WEIGHTS[:3], bases=("KD", "KD + DOT"), seeds=2, epochs=2)
    return root


def test_a_sweep_has_a_line_for_each_base(swept):
    found = drawn(swept)
    chart = found["sweep"]
    assert [name for _, name in chart.legend] == ["KD", "KD + DOT", "plain"]
    titles = [re.match(r"[^(]*?(?= by| \(%\))", panel.label)[0] for panel in chart.panels]
    assert titles == ["Validation accuracy", "Task loss, validation", "Distillation loss, validation"]
    assert "KD at 0.9 / 0.1 " in chart.panels[0].label
    assert "plain" not in chart.panels[2].label
    legend = [name for _, name in found["tradeoff"].legend]
    assert legend == [
        "KD, by task_weight and distill_weight, joined: the front",
        "KD + DOT, by task_weight and distill_weight",
    ]
    assert len(found["losses"].legend) == 3  # the best of each base, and plain
    assert "best on validation images" in found["losses"].caption


def test_a_sweep_without_validation_shows_the_test(swept):
    runs = find_runs(swept)
    runs[1].metrics[-1] |= {"validation_accuracy": None, "validation_loss": None}
    found = {chart.key: chart for chart in charts(runs, summarize(runs), read_extras(swept, runs))}
    assert found["sweep"].panels[0].label.startswith("Test accuracy (%)")
    assert found["sweep"].panels[1].label.startswith("Task loss, training")
    assert len(found["losses"].legend) == 5  # of one base nothing is chosen: all of it is drawn


def test_arms_of_a_base_share_its_colour(swept):
    runs = find_runs(swept)
    scene = make_scene(runs, summarize(runs), read_extras(swept, runs))
    colours = {base: {scene.looks[name]["color"] for name in scene.groups if scene.families[name] == base}
               for base in ("KD", "KD + DOT", "plain")}  # fmt: skip
    assert [len(found) for found in colours.values()] == [1, 1, 1]
    assert len(set.union(*colours.values())) == 3
    (kd,) = [name for name in scene.drawn if scene.families[name] == "KD"]
    assert scene.looks[kd] == scene.looks["KD"] != scene.looks["KD + DOT"]


# ---------------------------------------------------------------- landscapes


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([1.0, 4096.0], 2.0 ** np.arange(13)),
        ([0.0, 12.0], np.arange(13.0)),
        ([-6.0, 6.0], np.arange(13.0) - 6),
    ],
)
def test_levels(values, expected):
    assert levels(np.array(values)) == pytest.approx(expected)


@pytest.mark.parametrize("value", [0.0, 3.0, -3.0, 1e-9, 1e9])
def test_levels_of_a_plane_rise(value):
    found = levels(np.array([value, value]))
    assert len(found) == LEVELS + 1
    assert (np.diff(found) > 0).all()


def surfaces(tmp_path, change):
    root = write_example(tmp_path, arms=("plain", "KD"), seeds=2, epochs=1, teacher=False)
    for path in sorted((root / "runs").iterdir()):
        content = analysis(random.Random(0), distilled="plain" not in path.name, grid=5)
        content["landscape"] = change(path.name, content["landscape"])
        (path / ANALYSIS).write_text(json.dumps(content))
    return drawn(root)


def test_landscapes_have_a_panel_for_each_arm_and_one_scale(tmp_path):
    def change(name, content):
        content["task"][0][0] = None  # somewhere far out the loss was not finite
        return None if name == "KD-0" else content

    found = surfaces(tmp_path, change)
    task, distill = found["landscape-task"], found["landscape-distill"]
    starts = [panel.label.partition(":")[0] for panel in task.panels]
    assert starts == ["plain, seed 0", "KD, seed 1"]  # the first seed that has one
    assert len(distill.panels) == 1
    assert task.scale.label.startswith("Colours of the task loss, from 0.3 to ")
    colours = [set(re.findall(r"fill: (#\w{6})", panel.svg)) for panel in task.panels]
    scale = set(re.findall(r"fill: (#\w{6})", task.scale.svg))
    assert all(len(found - scale) <= 1 for found in colours)  # white is the border of the cross


def test_a_surface_without_a_number_is_not_drawn(tmp_path):
    def change(_, content):
        return {"steps": content["steps"], "task": [[None] * 5] * 5, "distill": None}

    found = surfaces(tmp_path, change)
    assert not {"landscape-task", "landscape-distill"} & set(found)


def test_a_flat_surface_is_drawn(tmp_path):
    found = surfaces(tmp_path, lambda _, content: {"steps": content["steps"], "task": [[0.5] * 5] * 5})
    assert len(found["landscape-task"].panels) == 2
