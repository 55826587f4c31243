"""The sentences claim what their intervals allow, and say so where they allow nothing."""

from dataclasses import replace

import pytest

from dotkd.records import Tuning
from dotkd.report import lead, read_comparison
from dotkd.report.findings import compared, findings_of
from dotkd.report.statistics import Difference
from dotkd.runs import find_runs

from .folders import analysed, arm, at_end, changed, end_run, evidence, write_example
from .test_evidence import sweep as weights_sweep
from .test_evidence import write_ends, write_lines
from .test_read import sweep, swept  # noqa: F401  # a fixture


def said(root):
    return " ".join(lead(read_comparison(root)))


def make(mean, low, high, verdict, seeds=(0, 1, 2, 3, 4)):
    return Difference("KD + DOT", "KD", seeds, mean, low, high, verdict)


@pytest.mark.parametrize(
    ("difference", "expected"),
    [
        (
            make(0.001, -0.004, 0.006, "not distinguishable"),
            (
                "KD + DOT is not distinguishable from KD "
                "(difference +0.10 points, 95 % interval \N{MINUS SIGN}0.40 to +0.60, 5 seeds)"
            ),
        ),
        (
            make(0.012, 0.009, 0.015, "higher"),
            "KD + DOT is higher than KD by 1.20 points (95 % interval +0.90 to +1.50, 5 seeds)",
        ),
        (
            make(-0.012, -0.015, -0.009, "lower"),
            (
                "KD + DOT is lower than KD by 1.20 points "
                "(95 % interval \N{MINUS SIGN}1.50 to \N{MINUS SIGN}0.90, 5 seeds)"
            ),
        ),
        (
            make(0.05, None, None, "one seed", (3,)),
            (
                "KD + DOT and KD share one seed, with a difference of +5.00 points; "
                "one seed gives no interval, so nothing is claimed"
            ),
        ),
        (
            make(None, None, None, "no common seed", ()),
            "KD + DOT and KD have no seed in common and are not compared",
        ),
    ],
)
def test_compared(difference, expected):
    assert compared(difference) == expected


def test_four_arms(tmp_path):
    steady = {0: 0.90, 1: 0.91, 2: 0.92}
    arm(tmp_path, "plain", {seed: value - 0.05 - 0.001 * seed for seed, value in steady.items()}, method="")
    arm(tmp_path, "KD", steady)
    arm(tmp_path, "DOT", {0: 0.91, 1: 0.90, 2: 0.93}, optimizer="dot")
    arm(tmp_path, "control", {0: 0.95, 1: 0.961, 2: 0.97}, optimizer="control")
    text = said(tmp_path)
    assert text.startswith("All accuracies are test accuracies after the last epoch; test images were")
    assert "Distillation: KD is higher than plain by 5.10 points" in text
    assert "DOT against plain momentum: DOT is not distinguishable from KD (difference +0.33 points" in text
    assert "DOT against its gain-matched control" in text
    assert "two): DOT is lower than control by 4.70 points" in text
    assert "The 3 intervals hold at 95 % each, not corrected for their number" in text


def test_one_seed_claims_nothing(tmp_path):
    text = said(write_example(tmp_path, seeds=1, epochs=1))
    assert text.count("one seed gives no interval, so nothing is claimed") == 3
    assert "higher" not in text
    assert "lower" not in text
    assert "95 %" not in text


def test_what_is_missing_is_said(tmp_path):
    arm(tmp_path / "a", "plain", {0: 0.9, 1: 0.9}, method="")
    assert "the effect of distillation was not measured" in said(tmp_path / "a")
    arm(tmp_path / "b", "DOT", {0: 0.9, 1: 0.9}, optimizer="dot")
    text = said(tmp_path / "b")
    assert "whether distillation helps was not measured" in text
    assert "No arm has plain momentum and the method of DOT" in text
    assert "Without a gain-matched control" in text


def test_only_dot_is_held_against_plain(tmp_path):
    arm(tmp_path, "plain", {0: 0.90, 1: 0.91}, method="")
    arm(tmp_path, "DOT", {0: 0.91, 1: 0.925}, optimizer="dot")
    text = said(tmp_path)
    assert "Distillation: DOT is not distinguishable from plain" in text
    assert "The interval covers new student seeds" in text


def test_the_summary_covers_the_best_values(tmp_path):
    for name, accuracy in (("low", 0.7), ("high", 0.8)):
        for seed in range(2):
            end_run(tmp_path, name, seed, (1.0, 1.0), optimizer="dot", accuracy=accuracy)
    end_run(tmp_path, "KD", 0, (1.0, 1.0))
    runs = find_runs(tmp_path)
    found = changed(runs, lambda run: run, sweep({"low": [1], "high": [2]}, base="DOT"))
    text = " ".join(lead(found.comparison))
    assert "high" in text
    assert "low " not in text
    assert text.endswith("the tables have all values.")


# ---------------------------------------------------------------- sweeps


def test_what_is_said_of_a_choice(swept):  # noqa: F811
    found = changed(swept, lambda run: run, sweep({"a": [1], "c": [2], "b": [3], "gone": [4]}))
    best, caveat, missing = findings_of("sweep", found)
    assert best.startswith(
        "KD: optimizer.delta = 1 has the highest mean validation accuracy of 3 values (82.00"
    )
    assert "On validation images 1 is not distinguishable from 2 (difference +0.33 points" in best
    assert "On validation images 1 is higher than X by 12.00 points" in best
    assert caveat.startswith("The best value was selected because it is the highest")
    assert missing == "Left out, because no run is finished: gone."


def test_without_validation_no_value_is_chosen(swept):  # noqa: F811
    found = changed(swept, lambda run: at_end(run, validation_accuracy=None), sweep({"a": [1], "b": [2]}))
    (line,) = findings_of("sweep", found)
    assert line.startswith("No value is chosen for KD: some runs have no validation accuracy")


def test_one_seed_claims_nothing_of_a_sweep(swept):  # noqa: F811
    runs = [run for run in swept if run.seed == 0]
    (line,) = findings_of("sweep", changed(runs, lambda run: run, sweep({"a": [1], "b": [2]})))
    assert line.count("one seed gives no interval, so nothing is claimed") == 2
    assert "higher than" not in line


# ---------------------------------------------------------------- losses and gradients


def test_dot_against_the_front(tmp_path):
    found = changed(write_ends(tmp_path), lambda run: run, weights_sweep())
    (line,) = [line for line in findings_of("losses", found) if "front" in line]
    assert line == (
        "DOT against the front of KD (3 weightings, validation losses after the last epoch): not dominated "
        "by any weighting for 2 of 3 seeds, below the front for 1 of 3 seeds. For 1 of 3 seeds it lies past "
        "an end of the front, where the comparison is undefined."
    )


def test_dot_without_a_common_seed(tmp_path):
    runs = [run for run in write_ends(tmp_path) if run.name != "DOT" or run.seed == 3]
    lines = findings_of("losses", changed(runs, lambda run: run, weights_sweep()))
    assert "DOT shares no seed with all weightings of KD: nothing is counted." in lines


def test_both_lower_and_a_front_that_was_not_measured(tmp_path):
    for seed, (ours, theirs) in enumerate([((1, 1), (2, 2)), ((1, 3), (2, 2)), ((2, 2), (2, 2))]):
        end_run(tmp_path, "DOT", seed, ours, optimizer="dot")
        end_run(tmp_path, "KD", seed, theirs)
    counts, front = findings_of("losses", evidence(tmp_path))
    assert counts.endswith(
        "the task loss is lower for 1 of 3 seeds, the distillation loss for 2 of 3 seeds, both for 1 of 3 "
        "seeds."
    )
    assert "whether reweighting alone reaches the losses of DOT was not measured" in front
    end_run(tmp_path, "NDOT", 0, (1, 1), optimizer="dot")
    assert "the losses of DOT and NDOT was not measured" in findings_of("losses", evidence(tmp_path))[-1]


def test_what_is_said_of_steps(tmp_path):
    values = {0: (-0.1, -0.2), 1: (0.2, 0.0), 2: (-0.3, 0.1)}
    for seed in values:
        end_run(tmp_path, "KD", seed, (1.0, 1.0))

    def change(run):
        cosine, step = values[run.seed]
        return at_end(run, gradient_cosine=cosine, task_update_cosine=step, distill_update_cosine=-step)

    (line,) = findings_of("gradients", changed(find_runs(tmp_path), change))
    assert line == (
        "KD, probe batch after the last epoch: the cosine between the two gradients is negative for 2 of 3 "
        "seeds; a further step along the last one would, to first order, raise the task loss for 1 of 3 "
        "seeds and the distillation loss for 1 of 3 seeds."
    )
    old = changed(find_runs(tmp_path), lambda run: at_end(change(run), task_update_cosine=None))
    (line,) = findings_of("gradients", old)
    assert line.endswith("for 2 of 3 seeds.")
    assert "further step" not in line


# ---------------------------------------------------------------- analyses


@pytest.fixture
def root(tmp_path):
    arm(tmp_path, "plain", {0: 0.90, 1: 0.91, 2: 0.92}, method="")
    arm(tmp_path, "KD", {0: 0.91, 1: 0.93, 2: 0.97})
    arm(tmp_path, "KD + DOT", {0: 0.92, 1: 0.94, 2: 0.99}, optimizer="dot")
    return tmp_path


def unchanged(content, run):
    return content


def test_where_analyses_were_measured(root):
    found = analysed(root, unchanged)
    expected = "Measured on 1,000 validation images after epoch 40, for 3 runs of each arm."
    assert findings_of("minima", found) == findings_of("quality", found) == (expected,)
    runs = found.comparison.runs
    few = changed(runs, lambda run: run if run.seed == 0 or run.name == "KD" else _without_analysis(run))
    assert findings_of("quality", few)[0].endswith("after epoch 40, for 1 to 3 runs of each arm.")
    one = changed(runs, lambda run: run if run.seed == 0 else _without_analysis(run))
    (line,) = findings_of("quality", one)
    assert ", for 1 run of each arm: one run has no standard error" in line
    none = changed(runs, _without_analysis)
    assert findings_of("quality", none) == findings_of("minima", none) == ()


def _without_analysis(run):
    return replace(run, analysis=None)


def test_what_was_not_measured_on_the_same_images_is_said(root):
    """Parts of one run, and runs: a method that remembers training images is measured on these."""

    def change(content, run):
        content["losses_split"] = "train" if run.name == "KD + DOT" else "validation"
        content["measured_on"] = {"sharpness": {"split": content["losses_split"], "images": 256}}
        return content

    found = analysed(root, change)
    alone = changed([run for run in found.comparison.runs if run.name == "KD"], lambda run: run)
    (line,) = findings_of("minima", alone)
    assert line == (
        "Measured on 1,000 validation images (landscape) and 256 validation images (sharpness) after epoch "
        "40, for 3 runs of each arm."
    )
    line, warning = findings_of("minima", found)
    assert line == (
        "Measured on 1,000 validation images (landscape) and 1,000 training images (landscape) and 256 "
        "validation images (sharpness) and 256 training images (sharpness) after epoch 40, for 3 runs of "
        "each arm."
    )
    assert warning == "Runs were measured on different images, so arms may not compare: landscape, sharpness."


def test_barriers_are_said(tmp_path):
    write_lines(tmp_path)
    lines = [line for line in findings_of("minima", evidence(tmp_path)) if "barrier" in line]
    assert lines[0] == (
        "On the straight line from a student of plain to one of KD with the same seed the task loss has a "
        "barrier of 0.500 (its largest rise above the straight line between its ends)."
    )
    assert len(lines) == 3


# ---------------------------------------------------------------- tuning


def budget(root, rates=(0.01, 0.1), **arms):
    tuning = Tuning.model_validate({"rates": rates, "seeds": (100, 101), "arms": arms})
    return findings_of("tuning", changed(find_runs(root), lambda run: run, None, tuning))


KD = {"chosen": 0.1, "validation_accuracy": {"0.01": (0.5, 0.6), "0.1": (0.7, 0.8)}}


def test_equal_budgets_and_rates_at_an_end(root):
    other = {"chosen": 0.01, "validation_accuracy": {"0.01": (0.5, 0.6), "0.1": ()}}
    line, ends = budget(root, KD=KD, other=other)
    assert line.startswith("Equal budgets: every arm tried the same 2 learning rates")
    assert ends == "Chosen at an end of the rates, so a better one may lie past it: KD (0.1), other (0.01)."
    assert len(budget(root, (0.01, 0.1, 1.0), KD=KD)) == 1


def test_unequal_budgets_are_said(root):
    other = {"chosen": 0.01, "validation_accuracy": {"0.01": (0.5, 0.6)}}
    assert budget(root, KD=KD, other=other)[0] == "Unequal budgets: other did not try all 2 learning rates."
