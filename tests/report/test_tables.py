"""Tables: the same numbers on the page, in Markdown and in CSV, and no text from a file is markup."""

import csv
import io
import json
import math
import re
from html import unescape

import pytest

from dotkd.records import Sweep, Tuning
from dotkd.report.page import _templates, plain, to_csv, to_markdown
from dotkd.report.statistics import Estimate
from dotkd.report.tables import (
    TABLES,
    Cell,
    Column,
    Group,
    Table,
    number,
    percent,
    points,
    tables_of,
    trim,
)
from dotkd.runs import find_runs

from .folders import analysed, arm, at_end, changed, end_run, evidence, with_best
from .test_evidence import write_cosines, write_lines

EVIL = '<img src=x>|`*a*`_[b](c)\n"q", $x$'


def table(name, found):
    """A table of the evidence; None if it is empty."""
    section, _ = TABLES[name]
    return next((one for one in tables_of(section, found) if one.name == name), None)


def to_html(table):
    """A table as the page has it."""
    source = '{% from "parts.html" import show_table %}{{ show_table(table) }}'
    return _templates().from_string(source).render(table=table)


def rows_of(table):
    return list(csv.DictReader(io.StringIO(to_csv(table))))


@pytest.fixture
def root(tmp_path):
    arm(tmp_path, "plain", {0: 0.90, 1: 0.91, 2: 0.92}, method="")
    arm(tmp_path, "KD", {0: 0.91, 1: 0.93, 2: 0.97})
    arm(tmp_path, "KD + DOT", {0: 0.92, 1: 0.94, 2: 0.99}, optimizer="dot")
    return tmp_path


# ---------------------------------------------------------------- results


def test_the_main_table_by_hand(root):
    rows = rows_of(table("results", evidence(root)))
    assert [row["arm"] for row in rows] == ["plain", "KD", "KD + DOT"]
    kd, dot = rows[1:]
    assert float(kd["test_last_percent"]) == pytest.approx(281 / 3)
    # Deviations -8/3, -2/3, 10/3: squares 168/9, over n - 1 = 2.
    assert float(kd["test_last_sd"]) == pytest.approx(math.sqrt(84 / 9))
    assert float(kd["test_last_se"]) == pytest.approx(math.sqrt(28 / 9))
    assert kd["difference_last_points"] == kd["effect_last_dz"] == ""
    # Differences 1, 1, 2 points: mean 4/3, deviation sqrt(1/3), so d_z = 4 / sqrt(3).
    assert float(dot["difference_last_points"]) == pytest.approx(4 / 3)
    assert float(dot["effect_last_dz"]) == pytest.approx(4 / math.sqrt(3))
    assert float(dot["difference_last_low"]) < 0 < float(dot["difference_last_high"])


def test_both_epochs_are_named(root):
    chosen = {"plain": (2, 1, 2), "KD": (2, 2, 2), "KD + DOT": (1, 1, 1)}
    found = changed(find_runs(root), lambda run: with_best(run, chosen[run.name][run.seed], 0.95))
    text = to_html(table("results", found))
    assert "Test accuracy, last epoch (%)" in text
    assert "Test accuracy, best epoch (%)" in text
    assert "SD 3.06, epoch 2</small>" in text
    assert "epochs 1\N{EN DASH}2</small>" in text


def test_paired_differences_of_both_epochs(root):
    found = changed(find_runs(root), lambda run: with_best(run, 1, 0.9 if run.name == "plain" else 0.95))
    rows = rows_of(table("differences", found))
    pairs = [(row["arm"], row["against"]) for row in rows]
    assert pairs == [("KD + DOT", "KD"), ("KD", "plain"), ("KD + DOT", "plain")]  # each once
    assert float(rows[1]["best_points"]) == pytest.approx(5)
    assert "best_dz" not in rows[1]  # the same in every seed: no spread, no effect size
    assert rows[0]["last_verdict"] == "not distinguishable"


def test_one_seed_has_no_effect_size(tmp_path):
    arm(tmp_path, "KD", {0: 0.9})
    arm(tmp_path, "KD + DOT", {0: 0.95}, optimizer="dot")
    found = evidence(tmp_path)
    assert found.summary.to_sgd[0].effect is None
    results = table("results", found)
    assert "Effect size" not in [column.title for column in results.columns]
    assert "SD" not in to_html(results).replace("(SD)", "")


def test_one_arm_has_no_differences(tmp_path):
    arm(tmp_path, "KD", {0: 0.9, 1: 0.8})
    found = evidence(tmp_path)
    assert table("differences", found) is None
    assert "Difference" not in to_markdown(table("results", found))


def test_swept_arms_stand_under_their_base(root):
    arms = [
        {"name": "KD + DOT", "base": "base", "values": [1]},
        {"name": "KD", "base": "base", "values": [2]},
    ]
    sweep = Sweep.model_validate_json(json.dumps({"keys": ["a.b"], "arms": arms}))
    results = table("results", changed(find_runs(root), lambda run: run, sweep))
    assert [(group.heading, [row[0].text for row in group.rows]) for group in results.groups] == [
        ("", ["plain"]),
        ("base, by a.b", ["1", "2"]),
    ]
    assert [row["arm"] for row in rows_of(results)] == ["plain", "KD + DOT", "KD"]
    assert '<th scope="rowgroup" colspan="6">base, by a.b</th>' in to_html(results)
    assert "| **base, by a.b** |  |" in to_markdown(results)


# ---------------------------------------------------------------- the three forms


def test_three_forms_say_the_same(root):
    results = table("results", evidence(root))
    shown = [unescape(re.sub("<.*?>", "", cell)) for cell in re.findall("<td.*?</td>", to_html(results))]
    markdown = [line.split(" | ") for line in to_markdown(results).splitlines() if line.startswith("| ")][2:]
    for row, line in zip(rows_of(results), markdown, strict=True):
        accuracy = f"{float(row['test_last_percent']):.2f} ± {float(row['test_last_se']):.2f}"
        assert line[2].startswith(accuracy)
        assert any(cell.startswith(accuracy) for cell in shown)


def evil():
    columns = (Column(EVIL, ("name",)), Column("b", ("x", "y")))
    row = (Cell(EVIL, (EVIL,), (EVIL,)), Cell(EVIL, (EVIL,), (EVIL, None), marked=True))
    return Table("t", EVIL, EVIL, columns, (Group(EVIL, (row,)),), folded=EVIL)


def test_nothing_is_markup():
    text = to_html(evil())
    assert "<img" not in text
    assert text.count("&lt;img") == 10
    markdown = to_markdown(evil())
    assert "<img" not in markdown
    assert not re.search(r"(?<!\\)[`\[\]$~]", markdown)
    lines = [line for line in markdown.splitlines() if line.startswith("|")]
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in lines} == {3}  # no name opens a column
    assert rows_of(evil()) == [{"name": EVIL, "x": EVIL, "y": ""}]


def test_plain_escapes_markdown_and_keeps_what_is_plain():
    assert plain("KD + DOT, 0.5 (95 %)") == "KD + DOT, 0.5 (95 %)"
    assert plain("<b> a_b | *c*") == r"&lt;b&gt; a\_b \| \*c\*"


def test_trim_leaves_out_what_is_empty():
    columns = tuple(Column(name, (name,)) for name in "abc")
    full, empty = (Cell("x"), Cell(), Cell("1", (), (1,))), (Cell("y"), Cell(), Cell())
    given = Table("t", "t", "", columns, (Group("g", (empty,)), Group("h", (full, empty))))
    found = trim(given)
    assert [column.title for column in found.columns] == ["a", "c"]
    assert [(group.heading, len(group.rows)) for group in found.groups] == [("h", 1)]
    assert trim(Table("t", "t", "", columns, (Group("", (empty,)),))) is None


@pytest.mark.parametrize(
    ("fraction", "expected"),
    [(0.0, "0.00"), (0.00001, "+0.00"), (0.0123, "+1.23"), (-0.0123, "\N{MINUS SIGN}1.23")],
)
def test_points(fraction, expected):
    assert points(fraction) == expected


@pytest.mark.parametrize(
    ("mean", "error", "expected"),
    [
        (2.3456, 0.0123, "2.35 ± 0.01"),
        (0.1439, 0.0004, "0.1439 ± 0.0004"),
        (0.000123, 0.00001, "0.000123 ± 0.000010"),
        (123.4, None, "123.40"),
        (0.0, 0.0, "0.00 ± 0.00"),
        (0.21, 2.8e-17, "0.210 ± 0.000"),
    ],
)
def test_number(mean, error, expected):
    assert number(Estimate(5, mean, error, error, None, None)) == expected


def test_percent():
    assert percent(Estimate(5, 0.9312, 0.005, 0.0021, None, None)) == "93.12 ± 0.21"
    assert percent(Estimate(1, 0.9312, None, None, None, None)) == "93.12"


# ---------------------------------------------------------------- gradients and lines


def test_layers_in_numbers(tmp_path):
    for seed in range(2):
        end_run(tmp_path, "KD", seed, (1.0, 1.0))
    write_cosines(tmp_path / "KD-0", {"b": 0.5, "a": -0.2}, {"b": 0.1, "a": None})
    write_cosines(tmp_path / "KD-1", {"b": 0.3, "a": None}, {"b": 0.3, "a": None})
    found = table("layers", evidence(tmp_path))
    assert [[cell.text for cell in row] for row in found.rows] == [
        ["b", "0.400 ± 0.100", "0.400 ± 0.100", "0.200 ± 0.100"],
        ["a", "\N{MINUS SIGN}0.200", "\N{MINUS SIGN}0.200", ""],
    ]


def test_gradients_have_a_column_for_each_known_metric(tmp_path):
    end_run(tmp_path, "KD", 0, (1.0, 1.0))
    values = {"gradient_cosine": 0.1, "task_update_cosine": 0.2, "distill_update_cosine": 0.3}
    found = table("gradients", changed(find_runs(tmp_path), lambda run: at_end(run, **values)))
    assert [column.title for column in found.columns][1:] == [
        "Cosine between the gradients",
        "Cosine, task and last step",
        "Cosine, distillation and last step",
    ]


def test_barriers_in_numbers(tmp_path):
    write_lines(tmp_path)
    found = table("interpolation", evidence(tmp_path))
    assert [row[0].values for row in found.rows] == [
        ("KD", "plain", True),
        ("KD", "plain", False),
        ("plain", "plain", False),
    ]
    assert [row[4].text for row in found.rows] == ["25.00", "15.00", "0.00"]


# ---------------------------------------------------------------- analyses and tuning


def test_analyses_are_means_over_seeds(root):
    def change(content, run):
        content["sharpness"]["task"]["eigenvalues"] = [1.0, 10.0 + run.seed]
        content["sharpness"]["task"]["rho"] = 0.05
        relative = {"eigenvalue": 5.0 + run.seed, "trace": 40.0, "trace_error": 1.5}
        content["sharpness"]["task"] |= {"filter_normalized": relative, "weight_norm": 7.0 * (1 + run.seed)}
        content["cost"]["latency_seconds"] = 0.002 + 0.001 * run.seed
        return content

    found = analysed(root, change)
    row = rows_of(table("sharpness", found))[1]
    assert float(row["task_eigenvalue_mean"]) == pytest.approx(11)
    assert float(row["task_eigenvalue_se"]) == pytest.approx(1 / math.sqrt(3))
    assert float(row["task_filter_normalized_eigenvalue_mean"]) == pytest.approx(6)
    assert float(row["task_filter_normalized_trace_mean"]) == pytest.approx(40)
    assert float(row["weight_norm_mean"]) == pytest.approx(14)
    assert {"each ± 4.2", "each ± 1.5"} <= set(
        re.findall("each ± [0-9.]+", to_html(table("sharpness", found)))
    )
    row = rows_of(table("cost", found))[0]
    assert float(row["latency_ms_mean"]) == pytest.approx(3)
    assert (row["parameters"], row["training_seconds"]) == ("12345", "52.5")
    assert "2.4 M" in to_html(table("cost", found))
    assert [row["arm"] for row in rows_of(table("agreement", found))] == ["KD", "KD + DOT"]
    row = rows_of(table("robustness", found))[0]
    assert float(row["attacked_fgsm_2/255_percent"]) > 40
    assert "ECE with 15 bins of equal width" in to_html(table("calibration", found))
    plain_runs = [
        run for run in found.comparison.runs if run.name == "plain"
    ]  # one loss, and so one distance
    alone = table("sharpness", changed(plain_runs, lambda run: run))
    assert "within a Euclidean distance of 0.05 between parameters" in to_html(alone)


def test_without_analyses_there_is_cost_alone(root):
    found = evidence(root)
    for name in ("sharpness", "calibration", "agreement", "robustness", "worst_classes", "interpolation"):
        assert table(name, found) is None
    assert [row["parameters"] for row in rows_of(table("cost", found))] == ["12345"] * 3


def test_the_worst_classes_have_their_accuracy_and_seeds(root):
    worst = {0: [("cat", 0.5), ("dog", 0.1)], 1: [("cat", 0.7)], 2: [("cow", 0.3)]}

    def change(content, run):
        rows = [{"class": name, "accuracy": value, "count": 9} for name, value in worst[run.seed]]
        content["quality"]["worst_classes"] = rows
        return content

    row = rows_of(table("worst_classes", analysed(root, change)))[0]
    assert [row[f"class_{place}"] for place in (1, 2, 3)] == ["cat", "dog", "cow"]
    assert (float(row["percent_1"]), row["seeds_1"]) == (pytest.approx(60), "2")


def tuned(root, **arms):
    tuning = Tuning.model_validate({"rates": (0.01, 0.1), "seeds": (100, 101), "arms": arms})
    return table("tuning", changed(find_runs(root), lambda run: run, None, tuning))


def test_tuning_marks_the_chosen_rate(root):
    found = tuned(
        root,
        KD={"chosen": 0.1, "validation_accuracy": {"0.01": (0.5, 0.6), "0.1": (0.7, 0.8)}},
        DOT={"chosen": 0.01, "validation_accuracy": {"0.01": (0.5, 0.6), "0.1": (0.9,)}},
        other={"chosen": 0.01, "validation_accuracy": {"0.01": (0.5, 0.6), "0.1": ()}},
    )
    assert [[cell.marked for cell in row] for row in found.rows] == [
        [False, False, True, False],
        [False, True, False, False],
        [False, True, False, False],
    ]
    assert "1 of 2 diverged" in to_html(found)
    assert "2 of 2 diverged" in to_markdown(found)
    assert "**75.00 ± 5.00** (chosen)" in to_markdown(found)
    assert found.folded == "Learning rates: 2 rates for 3 arms"


def test_a_rate_that_was_not_tried_is_empty(root):
    found = tuned(
        root,
        KD={"chosen": 0.1, "validation_accuracy": {"0.01": (0.5, 0.6), "0.1": (0.7, 0.8)}},
        DOT={"chosen": 0.01, "validation_accuracy": {"0.01": (0.5, 0.6)}},
    )
    assert found.rows[1][2].text == ""
