"""Tables: one set of numbers on the page, in Markdown and in CSV, and nothing from a file is markup."""

import csv
import io
import math
import random
import re
from html import unescape

import pytest

from dotkd.errors import BadInput
from dotkd.report import summarize
from dotkd.report.findings import budget
from dotkd.report.inputs import Analysis, Extras, Tuning
from dotkd.report.measured import bins_of, measured, strengths
from dotkd.report.statistics import by_arm
from dotkd.report.sweep import Point, Series
from dotkd.report.tables import analysis as tables
from dotkd.report.tables import results
from dotkd.report.tables.table import Cell, Column, Group, Table, trimmed
from dotkd.report.tables.tuning import tuning
from dotkd.report.tables.write import plain, to_csv, to_html, to_markdown
from dotkd.runs import find_runs

from .extras import analysis
from .test_statistics import arm

EVIL = '<img src=x>|`*a*`_[b](c)\n"q", $x$'


def rows_of(table):
    return list(csv.DictReader(io.StringIO(to_csv(table))))


@pytest.fixture
def runs(tmp_path):
    arm(tmp_path, "plain", {0: 0.90, 1: 0.91, 2: 0.92}, method="")
    arm(tmp_path, "KD", {0: 0.91, 1: 0.93, 2: 0.97})
    arm(tmp_path, "KD + DOT", {0: 0.92, 1: 0.94, 2: 0.99}, optimizer="dot")
    return find_runs(tmp_path)


def test_the_main_table_by_hand(runs):
    rows = rows_of(results.results(summarize(runs), ()))
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


def test_both_epochs_are_named(runs):
    for run, chosen in zip(runs, (2, 1, 2, 2, 2, 2, 1, 1, 1), strict=True):
        run.results["best"] = {"epoch": chosen, "test_accuracy": 0.95}
    text = to_html(results.results(summarize(runs), ()))
    assert "Test accuracy, last epoch (%)" in text
    assert "Test accuracy, best epoch (%)" in text
    assert "SD 3.06, epoch 2</small>" in text
    assert "epochs 1\N{EN DASH}2</small>" in text


def test_paired_differences_of_both_epochs(runs):
    for run in runs:
        run.results["best"] = {"epoch": 1, "test_accuracy": 0.9 if run.name == "plain" else 0.95}
    rows = rows_of(results.differences(summarize(runs), by_arm(runs)))
    pairs = [(row["arm"], row["against"]) for row in rows]
    assert pairs == [("KD + DOT", "KD"), ("KD", "plain"), ("KD + DOT", "plain")]  # each once
    assert float(rows[1]["best_points"]) == pytest.approx(5)
    assert "best_dz" not in rows[1]  # the same in every seed: no spread, no effect size
    assert rows[0]["last_verdict"] == "not distinguishable"


def test_one_seed_has_no_effect_size(tmp_path):
    arm(tmp_path, "KD", {0: 0.9})
    arm(tmp_path, "KD + DOT", {0: 0.95}, optimizer="dot")
    summary = summarize(find_runs(tmp_path))
    assert summary.to_sgd[0].effect is None
    table = results.results(summary, ())
    assert "Effect size" not in [column.title for column in table.columns]
    assert "SD" not in to_html(table).replace("SD their", "")


def test_one_arm_has_no_differences(tmp_path):
    arm(tmp_path, "KD", {0: 0.9, 1: 0.8})
    runs = find_runs(tmp_path)
    assert results.differences(summarize(runs), by_arm(runs)) is None
    assert "Difference" not in to_markdown(results.results(summarize(runs), ()))


def test_swept_arms_stand_under_their_base(runs):
    series = Series("base", ("a.b",), (Point("KD + DOT", ("1",), 1.0), Point("KD", ("2",), 2.0)), True)
    table = results.results(summarize(runs), (series,))
    assert [(group.heading, [row[0].text for row in group.rows]) for group in table.groups] == [
        ("", ["plain"]),
        ("base, by a.b", ["1", "2"]),
    ]
    assert [row["arm"] for row in rows_of(table)] == ["plain", "KD + DOT", "KD"]
    assert '<th scope="rowgroup" colspan="6">base, by a.b</th>' in to_html(table)
    assert "| **base, by a.b** |  |" in to_markdown(table)


# ---------------------------------------------------------------- the three forms


def test_three_forms_say_the_same(runs):
    table = results.results(summarize(runs), ())
    shown = [unescape(re.sub("<.*?>", "", cell)) for cell in re.findall("<td.*?</td>", to_html(table))]
    markdown = [line.split(" | ") for line in to_markdown(table).splitlines() if line.startswith("| ")][2:]
    for row, line in zip(rows_of(table), markdown, strict=True):
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


def test_plain_keeps_what_is_plain():
    assert plain("KD + DOT, 0.5 (95 %)") == "KD + DOT, 0.5 (95 %)"


def test_trimmed_leaves_out_what_is_empty():
    columns = tuple(Column(name, (name,)) for name in "abc")
    full, empty = (Cell("x"), Cell(), Cell("1", (), (1,))), (Cell("y"), Cell(), Cell())
    table = Table("t", "t", "", columns, (Group("g", (empty,)), Group("h", (full, empty))))
    found = trimmed(table)
    assert [column.title for column in found.columns] == ["a", "c"]
    assert [(group.heading, len(group.rows)) for group in found.groups] == [("h", 1)]
    assert trimmed(Table("t", "t", "", columns, (Group("", (empty,)),))) is None


# ---------------------------------------------------------------- analyses and tuning


def analysed(runs, change):
    def content(run):
        return analysis(random.Random(run.seed), distilled=run.name != "plain", grid=3)

    found = {run.path: Analysis.model_validate(change(content(run), run), strict=False) for run in runs}
    return measured(by_arm(runs), Extras(analyses=found))


def test_analyses_are_means_over_seeds(runs):
    def change(content, run):
        content["sharpness"]["task"]["eigenvalues"] = [1.0, 10.0 + run.seed]
        content["sharpness"]["task"]["rho"] = 0.05
        content["cost"]["latency_seconds"] = 0.002 + 0.001 * run.seed
        return content

    found = analysed(runs, change)
    row = rows_of(tables.sharpness(found, ()))[1]
    assert float(row["task_eigenvalue_mean"]) == pytest.approx(11)
    assert float(row["task_eigenvalue_se"]) == pytest.approx(1 / math.sqrt(3))
    assert "each ± 4.2" in to_html(tables.sharpness(found, ()))
    row = rows_of(tables.cost(found, summarize(runs), ()))[0]
    assert float(row["latency_ms_mean"]) == pytest.approx(3)
    assert (row["parameters"], row["training_seconds"], row["joules_mean"]) == ("12345", "52.5", "")
    assert "2.4 M" in to_html(tables.cost(found, summarize(runs), ()))
    assert [row["arm"] for row in rows_of(tables.agreement(found, ()))] == ["KD", "KD + DOT"]
    row = rows_of(tables.robustness(found, ()))[0]
    assert float(row["attacked_fgsm_2/255_percent"]) > 40
    assert list(tables.where(found, ("landscape", "quality"))) == [
        "Measured on 1,000 validation images, after epoch 40, for 3 runs of each arm."
    ]
    one = {name: of[: 1 + (name == "KD")] for name, of in found.items()}
    (said,) = tables.where(one, ("quality",))
    assert said.endswith("after epoch 40, for 1 to 2 runs of each arm.")
    (said,) = tables.where({"KD": found["KD"][:1]}, ("quality",))
    assert said.endswith(", for 1 run of each arm: one run has no error, and says little of another one.")
    assert "ECE of 15 bins of equal width" in to_html(tables.calibration(found, ()))
    del found["KD"], found["KD + DOT"]  # what is left has one loss, and so one distance
    assert "within a distance of 0.05 between parameters" in to_html(tables.sharpness(found, ()))
    assert list(tables.where(found, ("interpolation",))) == []


def test_what_was_not_measured_on_the_same_images_is_said(runs):
    """Of parts in one run, and of runs: a method that remembers training images is measured on these."""

    def change(content, run):
        content["losses_split"] = "train" if run.name == "KD + DOT" else "validation"
        content["measured_on"] = {"sharpness": {"split": content["losses_split"], "images": 256}}
        return content

    found = analysed(runs, change)
    alone = {"KD": found["KD"]}
    (said,) = tables.where(alone, ("landscape", "sharpness"))
    assert said == (
        "Measured on 1,000 validation images (landscape) and 256 validation images (sharpness), after epoch "
        "40, for 3 runs of each arm."
    )
    said, warning = tables.where(found, ("landscape", "quality"))
    assert said == (
        "Measured on 1,000 validation images (landscape, quality) and 1,000 training images (landscape), "
        "after epoch 40, for 3 runs of each arm."
    )
    assert warning == "Not on the same images in all runs, so that arms may not compare: landscape."


def test_without_analyses_there_is_cost_alone(runs):
    assert tables.sharpness({}, ()) is None
    assert [row["parameters"] for row in rows_of(tables.cost({}, summarize(runs), ()))] == ["12345"] * 3


def test_classes_that_most_seeds_find_hard_come_first(runs):
    worst = {0: [("cat", 0.5), ("dog", 0.1)], 1: [("cat", 0.7)], 2: [("cow", 0.3)]}

    def change(content, run):
        rows = [{"class": name, "accuracy": value, "count": 9} for name, value in worst[run.seed]]
        content["quality"]["worst_classes"] = rows
        return content

    row = rows_of(tables.worst(analysed(runs, change), ()))[0]
    assert [row[f"class_{place}"] for place in (1, 2, 3)] == ["cat", "dog", "cow"]
    assert (float(row["percent_1"]), row["seeds_1"]) == (pytest.approx(60), "2")


def test_bins_of_seeds_are_weighted_by_their_images(runs):
    def change(content, run):
        content["quality"]["reliability"] = {
            "confidence": [None, 0.8],
            "accuracy": [None, 1.0 if run.seed else 0.5],
            "count": [0, 1 + run.seed],
        }
        return content

    bins = bins_of(analysed(runs, change)["KD"])
    assert bins.count.tolist() == [0, 6]
    assert bins.accuracy[1] == pytest.approx((0.5 + 2 + 3) / 6)
    assert bins.confidence[1] == pytest.approx(0.8)


@pytest.mark.parametrize(
    ("read", "part", "value", "expected"),
    [
        (bins_of, "reliability", {"confidence": [1], "accuracy": [1], "count": [1]}, "has 1 bins"),
        (lambda runs: strengths(runs, "noise"), "robustness", {"noise": [0.5]}, "noise has 1 strengths"),
    ],
)
def test_seeds_that_do_not_fit_together_are_named(runs, read, part, value, expected):
    def change(content, run):
        if run.seed == 2:
            content["quality"][part] = value
        return content

    with pytest.raises(BadInput, match=expected) as caught:
        read(analysed(runs, change)["KD"])
    assert "KD-2/analysis.json: broken" in str(caught.value)


def make_tuning(rates=(0.01, 0.1), **arms):
    return Tuning.model_validate({"rates": rates, "seeds": (100, 101), "arms": arms})


def test_tuning_marks_the_chosen_rate():
    found = make_tuning(
        KD={"chosen": 0.1, "validation_accuracy": {"0.01": (0.5, 0.6), "0.1": (0.7, 0.8)}},
        DOT={"chosen": 0.01, "validation_accuracy": {"0.01": (0.5, 0.6), "0.1": (0.9,)}},
        other={"chosen": 0.01, "validation_accuracy": {"0.01": (0.5, 0.6), "0.1": ()}},
    )
    table = tuning(found)
    assert [[cell.marked for cell in row] for row in table.rows] == [
        [False, False, True, False],
        [False, True, False, False],
        [False, True, False, False],
    ]
    assert "1 of 2 diverged" in to_html(table)
    assert "2 of 2 diverged" in to_markdown(table)
    assert "**75.00 ± 5.00** (chosen)" in to_markdown(table)
    assert to_html(table).startswith("<details><summary>Learning rates: 2 rates for 3 arms</summary>")
    said, ends = budget(found)
    assert said.startswith("Budgets were equal: every arm tried the same 2 learning rates")
    assert ends == (
        "At an end of the rates that were tried, so that a better one may lie past it: KD (0.1), DOT (0.01), "
        "other (0.01)."
    )
    inside = make_tuning((0.01, 0.1, 1.0), KD=found.arms["KD"].model_dump())
    assert len(list(budget(inside))) == 1


def test_unequal_budgets_are_said():
    found = make_tuning(
        KD={"chosen": 0.1, "validation_accuracy": {"0.01": (0.5, 0.6), "0.1": (0.7, 0.8)}},
        DOT={"chosen": 0.01, "validation_accuracy": {"0.01": (0.5, 0.6)}},
    )
    assert next(budget(found)) == "Budgets were not equal: DOT did not try all of the 2 rates."
    assert tuning(found).rows[1][2].text == ""
