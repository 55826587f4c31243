"""The numbers behind the figures of gradients, spectra and lines between students, by hand."""

import json
import random

import numpy as np
import pytest

from dotkd.analysis.tradeoff import dominates
from dotkd.errors import BadInput
from dotkd.report import findings, read_extras, summarize
from dotkd.report.between import lines_of
from dotkd.report.figures import charts
from dotkd.report.figures.spectrum import density
from dotkd.report.inputs import Sweep
from dotkd.report.layers import layers_of
from dotkd.report.measured import measured
from dotkd.report.statistics import by_arm
from dotkd.report.tables.gradients import gradients as gradient_table
from dotkd.report.tables.gradients import layers as layer_table
from dotkd.report.tables.interpolation import interpolation as line_table
from dotkd.report.tradeoff import dominance, planes
from dotkd.runs import ANALYSIS, GRADIENTS, find_runs

from .extras import analysis, end_run, line, write_analyses
from .folders import write_example, write_gradients


def compared(root):
    runs = find_runs(root)
    return by_arm(runs), read_extras(root, runs)


# ---------------------------------------------------------------- layers


def write_cosines(folder, *epochs):
    lines = [
        json.dumps({"epoch": n, "layers": {name: {"cosine": value} for name, value in layers.items()}})
        for n, layers in enumerate(epochs, start=1)
    ]
    (folder / GRADIENTS).write_text("\n".join(lines))


def test_layers_are_means_over_seeds_in_the_order_of_the_network(tmp_path):
    for seed in range(3):
        end_run(tmp_path, "KD", seed, (1.0, 1.0))
    write_cosines(tmp_path / "KD-0", {"b": 0.5, "a": -0.2}, {"b": 0.1, "a": None})
    write_cosines(tmp_path / "KD-1", {"b": 0.3, "a": None}, {"b": 0.3, "a": None})
    groups, extras = compared(tmp_path)
    found = layers_of(groups, extras.gradients)["KD"]
    assert (found.names, found.epochs, found.seeds) == (("b", "a"), (1, 2), (0, 1))
    np.testing.assert_allclose(found.mean("cosine"), [[0.4, 0.2], [-0.2, np.nan]])
    table = layer_table({"KD": found}, {})
    assert [[cell.text for cell in row] for row in table.rows] == [
        ["b", "0.400 ± 0.100", "0.400 ± 0.100", "0.200 ± 0.100"],
        ["a", "\N{MINUS SIGN}0.200", "\N{MINUS SIGN}0.200", ""],
    ]


def test_a_run_with_other_layers_is_left_out(tmp_path):
    for seed in range(2):
        end_run(tmp_path, "KD", seed, (1.0, 1.0))
    write_cosines(tmp_path / "KD-0", {"a": 0.5})
    write_cosines(tmp_path / "KD-1", {"c": 0.5})
    groups, extras = compared(tmp_path)
    assert layers_of(groups, extras.gradients)["KD"].seeds == (0,)
    assert layers_of({"other": []}, extras.gradients) == {}


def test_a_broken_line_is_named(tmp_path):
    end_run(tmp_path, "KD", 0, (1.0, 1.0))
    (tmp_path / "KD-0" / GRADIENTS).write_text('{"epoch": 1, "layers": {}}\n{"epoch": 0}\n')
    with pytest.raises(
        BadInput, match=r"gradients\.jsonl, line 2: broken: epoch: .*; layers: Field required"
    ):
        compared(tmp_path)


def test_the_map_says_its_lowest_and_highest_layer(tmp_path):
    root = write_example(tmp_path, arms=("KD",), seeds=1, epochs=3, teacher=False)
    write_gradients(root / "runs" / "KD-0", 3)
    runs = find_runs(root)
    (chart,) = [one for one in charts(runs, summarize(runs), read_extras(root, runs)) if one.key == "layers"]
    (panel,) = chart.panels
    assert panel.label == (
        "KD: after epoch 3 the cosine is lowest in blocks.0.weight, -0.40, and highest in blocks.5.weight, "
        "-0.23; it is below 0 in 6 of 6 layers."
    )
    assert "1 is blocks.0.weight at the input, 6 is blocks.5.weight at the output" in chart.caption
    assert "data:image/png;base64," in panel.svg


# ---------------------------------------------------------------- gradients over all


def test_what_is_said_of_steps(tmp_path):
    for seed, (cosine, step) in enumerate([(-0.1, -0.2), (0.2, 0.0), (-0.3, 0.1)]):
        end_run(tmp_path, "KD", seed, (1.0, 1.0))
        path = tmp_path / f"KD-{seed}" / "metrics.jsonl"
        row = json.loads(path.read_text())
        row |= {"gradient_cosine": cosine, "task_update_cosine": step, "distill_update_cosine": -step}
        path.write_text(json.dumps(row) + "\n")
    groups, _ = compared(tmp_path)
    (said,) = findings.steps(groups)
    assert said == (
        "KD, on the probe batch after the last epoch: the two gradients point against each other (cosine "
        "below 0) for 2 of 3 seeds; going on in the direction of the last step would, to first order, "
        "raise the task loss for 1 of 3 seeds, and the distillation loss for 1 of 3 seeds."
    )
    table = gradient_table(groups, ())
    assert [column.title for column in table.columns][1:] == [
        "Cosine between the gradients",
        "Cosine, task and last step",
        "Cosine, distillation and last step",
    ]
    for run in groups["KD"]:
        run.metrics[-1]["task_update_cosine"] = None  # a run of an older version
    (said,) = findings.steps(groups)
    assert said.endswith("for 2 of 3 seeds.")
    assert "last step" not in said


# ---------------------------------------------------------------- spectra


def test_density_of_nodes_integrates_to_one_and_keeps_their_mean():
    nodes, weights = np.array([-1.0, 0.0, 4.0]), np.array([0.2, 0.7, 0.1])
    grid = np.linspace(-3, 6, 2001)
    found = density(nodes, weights, grid, 0.2)
    step = grid[1] - grid[0]
    assert step * found.sum() == pytest.approx(1)
    assert step * (grid * found).sum() == pytest.approx(0.2)
    assert step * ((grid - 0.2) ** 2 * found).sum() == pytest.approx(0.2 + 1.6 - 0.04 + 0.2**2)


def test_a_lone_eigenvalue_is_seen(tmp_path):
    root = write_example(tmp_path, arms=("plain",), seeds=1, epochs=1, teacher=False)
    content = analysis(random.Random(0), distilled=False, grid=3)
    content["sharpness"]["task"]["spectrum"] = {
        "nodes": [-1.0, 0.0, 100.0],
        "weights": [1e-6, 1 - 2e-6, 1e-6],
    }
    (root / "runs" / "plain-0" / ANALYSIS).write_text(json.dumps(content))
    runs = find_runs(root)
    (chart,) = [
        one for one in charts(runs, summarize(runs), read_extras(root, runs)) if one.key == "spectrum"
    ]
    (panel,) = chart.panels
    assert "plain from -1 to 100" in panel.label
    assert "mathdefault" not in panel.svg
    assert "10⁻⁶" in panel.svg


# ---------------------------------------------------------------- lines


def write_lines(root):
    for seed in range(2):
        end_run(root, "KD", seed, (1.0, 1.0))
        end_run(root, "plain", seed, (1.0, 1.0))
    for folder, high, seed in (("KD-0", 0.5, 0), ("KD-1", 0.3, 0), ("plain-1", 0.0, 0)):
        content = {"interpolation": line("plain", seed, high=high)}
        (root / folder / ANALYSIS).write_text(json.dumps(content))


def test_barriers_by_hand_same_seed_apart(tmp_path):
    write_lines(tmp_path)
    groups, extras = compared(tmp_path)
    found = lines_of(measured(groups, extras))
    assert [(one.start, one.paired, one.arm) for one in found] == [
        ("plain", True, "KD"),
        ("plain", False, "KD"),
        ("plain", False, "plain"),
    ]
    paired, other, flat = found
    # A parabola of height h over a flat line: h; accuracy falls by h / 2, the distillation loss rises by 2 h.
    assert [paired.barriers(name)[0] for name in ("task", "distill", "accuracy")] == pytest.approx(
        [0.5, 1, 0.25]
    )
    assert other.barriers("task") == pytest.approx([0.3])
    assert flat.barriers("task") == pytest.approx([0.0])
    table = line_table(found, {})
    assert [row[0].values for row in table.rows] == [
        ("KD", "plain", True),
        ("KD", "plain", False),
        ("plain", "plain", False),
    ]
    assert [row[4].text for row in table.rows] == ["25.00", "15.00", "0.00"]
    said = list(findings.between(found))
    assert said[0] == (
        "On the straight line from a student of plain to one of KD with the same seed the task loss rises by "
        "up to 0.500 above a straight line between its ends."
    )
    assert len(said) == 3


def test_a_straight_slope_has_no_barrier_and_a_lost_number_none(tmp_path):
    write_lines(tmp_path)
    path = tmp_path / "KD-0" / ANALYSIS
    content = json.loads(path.read_text())
    content["interpolation"] |= {"task": [1 + step for step in content["interpolation"]["steps"]]}
    content["interpolation"]["distill"][3] = None
    path.write_text(json.dumps(content))
    groups, extras = compared(tmp_path)
    found = lines_of(measured(groups, extras))[0]
    assert found.barriers("task") == pytest.approx([0.0], abs=1e-12)
    assert np.isnan(found.barriers("distill")).all()
    assert line_table([found], {}).rows[0][2].text == "0.00"


def test_lines_that_do_not_fit_together_and_such_that_are_none(tmp_path):
    write_lines(tmp_path)
    path = tmp_path / "KD-1" / ANALYSIS
    path.write_text(
        json.dumps({"interpolation": {"arm": "plain", "seed": 0, "reason": "the students differ"}})
    )
    groups, extras = compared(tmp_path)
    assert len(lines_of(measured(groups, extras))) == 2
    content = {"interpolation": {"arm": "plain", "seed": 0, "steps": [0.0, 1.0], "task": [1.0, 1.0]}}
    path.write_text(json.dumps(content))
    groups, extras = compared(tmp_path)
    with pytest.raises(BadInput, match=r"interpolation\.steps differ from those of"):
        lines_of(measured(groups, extras))


# ---------------------------------------------------------------- dominance, and the baseline of a sweep


def test_dominance_by_hand(tmp_path):
    ends = {"A": [(1, 1), (1, 1)], "B": [(2, 2), (2, 1)], "C": [(0, 3), (3, 3)]}
    for name, points in ends.items():
        for seed, point in enumerate(points):
            end_run(tmp_path, name, seed, point)
    (plane,) = planes(by_arm(find_runs(tmp_path)))
    found = {one.arm: one for one in dominance(plane)}
    assert [found[name].alone for name in "ABC"] == [2, 0, 1]
    assert [found[name].over for name in "ABC"] == [("B",), (), ()]
    assert [found[name].under for name in "ABC"] == [(), ("A",), ()]
    assert dominates((2, 1), (3, 3))


def test_the_baseline_of_a_sweep_is_the_recipe_as_it_was(tmp_path):
    arms = []
    for value in (0.1, 0.5, 0.9):
        end_run(tmp_path, f"KD, {value}", 0, (1.0, 1.0))
        arms.append({"name": f"KD, {value}", "base": "KD", "values": [value]})
    runs = find_runs(tmp_path)

    def baseline(**more):
        content = {"keys": ["method.task_weight"], "arms": arms, **more}
        summary = summarize(runs, Sweep.model_validate_json(json.dumps(content)))
        return summary.baseline, summary.notes[0]

    assert baseline()[0] == "KD, 0.1"
    assert baseline(unswept={"KD": [0.7]})[0] == "KD, 0.1"
    name, note = baseline(unswept={"KD": [0.5]})
    assert (name, note) == (
        "KD, 0.5",
        "Arms are compared with KD, 0.5: it has the values of the recipe that was swept.",
    )


def test_twelve_arms_with_fine_surfaces_stay_below_three_megabytes(tmp_path):
    from dotkd.report import write_report

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
