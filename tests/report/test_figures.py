"""Figures: every arm is there, ids do not clash, ink is that of the page, and a file needs nothing else."""

import json
import random
import re
from xml.etree import ElementTree

import numpy as np
import pytest

from dotkd.report import write_report
from dotkd.report.figures import FIGURES, Scene, base, draw
from dotkd.report.figures.analyses import LEVELS, levels
from dotkd.report.page import SECTIONS
from dotkd.runs import ANALYSIS, find_runs
from dotkd.runs import FIGURES as FOLDER

from .folders import (
    OPTIMIZERS,
    WEIGHTS,
    analysis,
    at_end,
    changed,
    end_run,
    evidence,
    write_example,
    write_gradients,
    write_sweep,
)

ALL = ["accuracy", "tradeoff", "losses", "gradients"]


def keys(found):
    """Keys of the figures that have something to show, without writing them."""
    scene = Scene(found)
    return [key for key, entry in FIGURES.items() if entry.draw(scene) is not None]


def one(key, found):
    """A figure as the report has it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(base, "FIGURES", {key: FIGURES[key]})
        (figure,) = draw(Scene(found), FIGURES[key].section)
    return figure


def made(key, found):
    """The matplotlib figure."""
    return FIGURES[key].draw(Scene(found))


def legend(figure):
    (found,) = figure.legends
    return [text.get_text().replace("\n", " ") for text in found.get_texts()]


def titles(figure):
    return [axes.get_title(loc="left") or axes.get_title() for axes in figure.axes]


def labels(figure):
    return [axes.get_label() for axes in figure.axes if not axes.get_label().startswith("<")]


# ---------------------------------------------------------------- all figures


def test_every_figure_is_explained_and_belongs_to_a_section():
    assert set(FIGURES) == {
        *("accuracy", "sweep", "tradeoff", "losses", "gradients", "layers", "landscape-task"),
        *("landscape-distill", "spectrum", "interpolation", "reliability", "robustness"),
    }
    for entry in FIGURES.values():
        assert entry.section in SECTIONS
        assert entry.caption.endswith(".")
        assert entry.reading.endswith(".")


def test_figures_contain_every_arm(tmp_path):
    found = evidence(write_example(tmp_path, seeds=3, epochs=6))
    assert keys(found) == ALL
    distilled = [name for name in OPTIMIZERS if name != "plain"]
    every = {"losses": (list(OPTIMIZERS), 3), "gradients": (distilled, 7), "tradeoff": (distilled, 2)}
    for key, (names, panels) in every.items():
        figure = made(key, found)
        assert legend(figure) == names
        assert len(figure.axes) == panels
    losses = labels(made("losses", found))
    assert all(f"{name} ends at" in losses[0] for name in OPTIMIZERS)
    assert "plain" not in losses[1]
    accuracy = one("accuracy", found).svg
    assert all(f">{name}</text>" in accuracy for name in OPTIMIZERS)
    assert all(name in labels(made("accuracy", found))[0] for name in OPTIMIZERS)
    assert legend(made("accuracy", found)) == [
        "seed",
        "mean with 95 % interval",
        "teacher cnn-large, seed 0: 97.13 %",
    ]


def test_arms_look_different(tmp_path):
    scene = Scene(evidence(write_example(tmp_path, seeds=2, epochs=6)))
    for part in ("color", "linestyle", "marker"):
        assert len({str(scene.looks[name][part]) for name in OPTIMIZERS}) == len(OPTIMIZERS)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A report's folder, with files of an older report in it."""
    root = write_example(tmp_path_factory.mktemp("written"), arms=("plain", "KD"), seeds=2, epochs=3)
    (root / FOLDER).mkdir()
    (root / FOLDER / "of-an-older-report.svg").write_text("<svg/>")
    (root / FOLDER / "notes.txt").write_text("mine")
    write_report(root)
    return root


@pytest.fixture(scope="module")
def files(written):
    return {path.stem: path.read_text(encoding="utf-8") for path in (written / FOLDER).glob("*.svg")}


def test_ids_are_unique_and_references_are_met(files):
    text = "".join(files.values())
    ids = re.findall(r'\bid="([^"]+)"', text)
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'href="#([^"]+)"|url\(#([^)]+)\)', text)) <= {
        pair for name in ids for pair in ((name, ""), ("", name))
    }


def test_ink_is_that_of_the_page_and_dark_on_white_in_a_file(files):
    for svg in files.values():
        assert svg.startswith("<svg")
        assert "currentColor" in svg
        alone = "<style>svg:root{color:#1d2126;background:#fff}</style>"
        assert alone in svg
        rest = svg.replace(alone, "")
        for fixed in ("#010203", "#000000", "#ffffff", "<metadata", "<?xml"):
            assert fixed not in rest


def test_same_runs_same_svg(written, files):
    for key in ("accuracy", "tradeoff"):
        assert one(key, evidence(written)).svg == files[key]


def test_each_figure_of_the_page_is_a_file_with_the_same_bytes(written, files):
    assert sorted(files) == sorted(ALL)
    assert (written / FOLDER / "notes.txt").read_text() == "mine"
    page = (written / "report.html").read_text(encoding="utf-8")
    for svg in files.values():
        assert svg in page
        assert not re.search(r'(href|src)="(?!#|data:)', svg)
        found = ElementTree.fromstring(svg)
        assert found.get("role") == "img"
        assert len(found.get("aria-label")) > 40


@pytest.mark.parametrize("seeds", [1, 2])
@pytest.mark.parametrize("epochs", [1, 2])
@pytest.mark.parametrize("arms", [("plain",), ("KD + DOT",), ("plain", "KD, control")])
def test_small_comparisons(tmp_path, arms, epochs, seeds):
    found = evidence(write_example(tmp_path, arms=arms, seeds=seeds, epochs=epochs, teacher=False))
    if arms == ("plain",):
        assert keys(found) == ["accuracy", "losses"]
        assert len(made("losses", found).axes) == 2
    else:
        assert keys(found) == ALL
        assert len(made("tradeoff", found).axes) == (1 if epochs == 1 else 2)  # one epoch is no path


def test_runs_of_different_lengths_and_lost_values(tmp_path):
    write_example(tmp_path / "long", arms=("KD",), seeds=1, epochs=5, teacher=False)
    write_example(tmp_path / "short", arms=("KD + DOT",), seeds=2, epochs=3, teacher=False)
    found = changed(
        find_runs(tmp_path), lambda run: at_end(run, gradient_cosine=None) if run.name == "KD" else run
    )
    assert keys(found) == ALL
    assert "KD ends at" in labels(made("gradients", found))[0]


def test_dollars_and_markup_are_letters(tmp_path):
    name = "$\\alpha$ & <b>"
    end_run(tmp_path, "KD", 0, (1.0, 1.0), change=('"KD"', json.dumps(name)))
    svg = one("accuracy", evidence(tmp_path)).svg
    assert "$\\alpha$ &amp; &lt;b&gt;" in svg
    assert "<b>" not in svg


def test_long_names_break_and_stay_inside(tmp_path):
    for place in range(9):
        name = f"arm {place} of a name that is much longer than any legend has room for on a line"
        end_run(tmp_path, f"KD{place}", 0, (1.0, 1.0), change=(f'"KD{place}"', f'"{name}"'))
    figure = made("losses", evidence(tmp_path))
    assert len(legend(figure)) == 9
    (box,) = figure.legends
    figure.draw_without_rendering()
    assert box.get_window_extent().x1 <= figure.bbox.x1
    assert all(axes.get_window_extent().height > 60 for axes in figure.axes)


# ---------------------------------------------------------------- trade-off and sweep


def test_each_distillation_loss_has_a_plane_of_its_own(tmp_path):
    for name, change in (("KD", ("", "")), ("DKD", ('"kd"', '"dkd"'))):
        for seed in range(2):
            end_run(tmp_path, name, seed, (1.0 + seed, 2.0), change=change)
    found = evidence(tmp_path)
    figure = made("tradeoff", found)
    assert titles(figure) == ["Dkd: ends, after the last epoch", "Kd: ends, after the last epoch"]
    assert "KD at 1.5 and 2" in labels(figure)[1]
    assert "validation losses" in one("tradeoff", found).caption


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    root = tmp_path_factory.mktemp("swept")
    write_example(root, arms=("plain",), seeds=2, epochs=2, teacher=False)
    keys = ["method.task_weight", "method.distill_weight"]
    write_sweep(root, keys, WEIGHTS[:3], bases=("KD", "KD + DOT"), seeds=2, epochs=2)
    return root


def test_a_sweep_has_a_line_for_each_base(swept):
    found = evidence(swept)
    figure = made("sweep", found)
    assert legend(figure) == ["KD", "KD + DOT", "plain"]
    shown = [re.match(r"[^(]*?(?= by| \(%\))", label)[0] for label in labels(figure)]
    assert shown == ["Validation accuracy", "Task loss, validation", "Distillation loss, validation"]
    assert "KD at 0.9 / 0.1 " in labels(figure)[0]
    assert "plain" not in labels(figure)[2]
    assert legend(made("tradeoff", found)) == [
        "KD, by task_weight and distill_weight, joined: the front",
        "KD + DOT, by task_weight and distill_weight",
    ]
    assert len(legend(made("losses", found))) == 3  # the best of each base, and plain
    assert "best on validation images" in one("losses", found).caption


def test_a_sweep_without_validation_shows_the_test(swept):
    runs = find_runs(swept)
    forget = {"validation_accuracy": None, "validation_loss": None}
    comparison = evidence(swept).comparison
    found = changed(runs, lambda run: at_end(run, **forget) if run is runs[1] else run, comparison.sweep)
    figure = made("sweep", found)
    assert labels(figure)[0].startswith("Test accuracy (%)")
    assert labels(figure)[1].startswith("Task loss, training")
    assert len(legend(made("losses", found))) == 5  # of one base nothing is chosen: all of it is drawn


def test_arms_of_a_base_share_its_colour(swept):
    scene = Scene(evidence(swept))
    colours = {
        base: {scene.looks[name]["color"] for name in scene.bases if scene.bases[name] == base}
        for base in ("KD", "KD + DOT", "plain")
    }
    assert [len(found) for found in colours.values()] == [1, 1, 1]
    assert len(set.union(*colours.values())) == 3
    (kd,) = [name for name in scene.arms if scene.bases[name] == "KD"]
    assert scene.looks[kd] == scene.looks["KD"] != scene.looks["KD + DOT"]


# ---------------------------------------------------------------- layers, landscapes, spectra


def test_the_map_says_its_lowest_and_highest_layer(tmp_path):
    root = write_example(tmp_path, arms=("KD",), seeds=1, epochs=3, teacher=False)
    write_gradients(root / "runs" / "KD-0", 3)
    figure = one("layers", evidence(root))
    (label,) = labels(made("layers", evidence(root)))
    assert label == (
        "KD: after epoch 3 the cosine is lowest in blocks.0.weight, -0.40, and highest in blocks.5.weight, "
        "-0.23; it is below 0 in 6 of 6 layers."
    )
    assert "1 is blocks.0.weight at the input, 6 is blocks.5.weight at the output" in figure.caption
    assert "data:image/png;base64," in figure.svg


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
    return evidence(root)


def test_landscapes_have_a_panel_for_each_arm_and_one_scale(tmp_path):
    def change(name, content):
        content["task"][0][0] = None  # somewhere far out the loss was not finite
        return None if name == "KD-0" else content

    found = surfaces(tmp_path, change)
    starts = [label.partition(":")[0] for label in labels(made("landscape-task", found))]
    assert starts == ["plain, seed 0", "KD, seed 1"]  # the first seed that has one
    assert len(labels(made("landscape-distill", found))) == 1
    scale = made("landscape-task", found).axes[-1]
    assert scale.get_xlabel() == "Task loss"
    assert scale.get_xticklabels()[0].get_text() == "0.3"
    areas = [axes.collections[0] for axes in made("landscape-task", found).axes[:2]]
    assert np.array_equal(areas[0].levels, areas[1].levels)
    assert np.array_equal(areas[0].get_facecolor(), areas[1].get_facecolor())


def test_a_surface_without_a_number_is_not_drawn(tmp_path):
    def change(_, content):
        return {"steps": content["steps"], "task": [[None] * 5] * 5, "distill": None}

    assert not {"landscape-task", "landscape-distill"} & set(keys(surfaces(tmp_path, change)))


def test_a_flat_surface_is_drawn(tmp_path):
    found = surfaces(tmp_path, lambda _, content: {"steps": content["steps"], "task": [[0.5] * 5] * 5})
    assert len(labels(made("landscape-task", found))) == 2


def test_a_lone_eigenvalue_is_seen(tmp_path):
    root = write_example(tmp_path, arms=("plain",), seeds=1, epochs=1, teacher=False)
    content = analysis(random.Random(0), distilled=False, grid=3)
    content["sharpness"]["task"]["spectrum"] = {
        "nodes": [-1.0, 0.0, 100.0],
        "weights": [1e-6, 1 - 2e-6, 1e-6],
    }
    (root / "runs" / "plain-0" / ANALYSIS).write_text(json.dumps(content))
    (label,) = labels(made("spectrum", evidence(root)))
    assert "plain from -1 to 100" in label
    svg = one("spectrum", evidence(root)).svg
    assert "mathdefault" not in svg
    assert "10⁻⁶" in svg
