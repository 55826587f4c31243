"""Means, errors and paired intervals against numbers worked out by hand and by scipy."""

import json
import math

import pytest
from scipy import stats

from dotkd.report import read_comparison, summarize

from .folders import arm, write_example


def summary(root):
    return summarize(read_comparison(root))


def test_arm_by_hand(tmp_path):
    arm(tmp_path, "KD", {0: 0.90, 1: 0.92, 2: 0.97})
    (only,) = summary(tmp_path).arms
    # Deviations -0.03, -0.01, +0.04: squares 9 + 1 + 16 = 26, over n - 1 = 2: 13 (in units of 1e-4).
    assert only.test.n == 3
    assert only.seeds == (0, 1, 2)
    assert only.test.mean == pytest.approx(0.93)
    assert only.test.deviation == pytest.approx(math.sqrt(13) / 100)
    assert only.test.error == pytest.approx(math.sqrt(13 / 3) / 100)
    # The t quantile of a table: 4.303 for two degrees of freedom.
    assert only.test.high - only.test.mean == pytest.approx(4.302653 * math.sqrt(13 / 3) / 100, rel=1e-6)
    assert only.task_loss.mean == pytest.approx(2.93)
    assert only.distill_loss.mean == 2.0
    assert only.seconds == 52.5
    assert only.parameters == 12345
    assert only.best is None


def test_paired_interval_is_that_of_scipy(tmp_path):
    one, other = {0: 0.90, 1: 0.93, 2: 0.95, 3: 0.91}, {1: 0.92, 2: 0.925, 3: 0.905, 7: 0.5}
    arm(tmp_path, "KD", other)
    arm(tmp_path, "KD + DOT", one, optimizer="dot")
    (found,) = summary(tmp_path).to_baseline
    expected = stats.ttest_rel([one[s] for s in (1, 2, 3)], [other[s] for s in (1, 2, 3)])
    assert found.seeds == (1, 2, 3)
    assert found.mean == pytest.approx((0.01 + 0.025 + 0.005) / 3)
    assert (found.low, found.high) == pytest.approx(tuple(expected.confidence_interval(0.95)))
    assert found.verdict == "not distinguishable"


@pytest.mark.parametrize(
    ("accuracies", "verdict"),
    [
        ({0: 0.91, 1: 0.921, 2: 0.929}, "higher"),
        ({0: 0.89, 1: 0.899, 2: 0.911}, "lower"),
        ({0: 0.91, 1: 0.90, 2: 0.93}, "not distinguishable"),
        ({0: 0.99}, "one seed"),
        ({5: 0.99, 6: 0.99}, "no common seed"),
    ],
)
def test_verdicts(tmp_path, accuracies, verdict):
    arm(tmp_path, "KD", {0: 0.90, 1: 0.91, 2: 0.92})
    arm(tmp_path, "KD + DOT", accuracies, optimizer="dot")
    (found,) = summary(tmp_path).to_sgd
    assert found.verdict == verdict
    assert (found.low is None) == (verdict in ("one seed", "no common seed"))


def test_order_baseline_and_comparisons(tmp_path):
    found = summary(write_example(tmp_path, seeds=2, epochs=2))
    assert [arm.name for arm in found.arms] == ["plain", "KD", "KD + DOT", "KD, control"]
    assert [arm.kind for arm in found.arms] == ["plain", "sgd", "dot", "control"]
    assert found.baseline == "KD"

    def pairs(differences):
        return [(difference.arm, difference.against) for difference in differences]

    assert pairs(found.to_baseline) == [("plain", "KD"), ("KD + DOT", "KD"), ("KD, control", "KD")]
    assert pairs(found.to_plain) == [("KD", "plain"), ("KD + DOT", "plain"), ("KD, control", "plain")]
    assert pairs(found.to_sgd) == [("KD + DOT", "KD")]
    assert pairs(found.to_control) == [("KD + DOT", "KD, control")]
    assert [(t.name, t.seed, t.test_accuracy) for t in found.teachers] == [("cnn-large", 0, 0.9713)]
    assert found.notes == ()
    assert found.arms[1].best.mean == pytest.approx(found.arms[1].test.mean + 0.001)


def test_partner_has_the_same_method(tmp_path):
    arm(tmp_path, "KD", {0: 0.9}, method="kd")
    arm(tmp_path, "DKD", {0: 0.9}, method="dkd")
    arm(tmp_path, "KD + DOT", {0: 0.9}, method="kd", optimizer="dot")
    arm(tmp_path, "AT + DOT", {0: 0.9}, method="at", optimizer="dot")
    found = summary(tmp_path)
    assert found.baseline == "DKD"  # two arms with plain momentum: the first
    assert [(d.arm, d.against) for d in found.to_sgd] == [("KD + DOT", "KD")]
    assert found.to_control == ()


def test_the_effect_size_by_hand(tmp_path):
    arm(tmp_path, "KD", {0: 0.90, 1: 0.91, 2: 0.92})
    arm(tmp_path, "KD + DOT", {0: 0.91, 1: 0.93, 2: 0.95}, optimizer="dot")
    (found,) = summary(tmp_path).to_sgd
    assert found.effect == pytest.approx(2.0)  # differences 0.01, 0.02, 0.03: mean over deviation


@pytest.mark.parametrize("accuracies", [{0: 0.95}, {0: 0.95, 1: 0.96}, {7: 0.9}])
def test_without_spread_there_is_no_effect_size(tmp_path, accuracies):
    arm(tmp_path, "KD", {0: 0.90, 1: 0.91})
    arm(tmp_path, "KD + DOT", accuracies, optimizer="dot")
    assert summary(tmp_path).to_sgd[0].effect is None


def test_to_json_is_plain(tmp_path):
    found = summary(write_example(tmp_path, seeds=1, epochs=1))
    content = found.to_json()
    assert json.loads(json.dumps(content, allow_nan=False)) == json.loads(json.dumps(content))
    assert content["baseline"] == "KD"
    assert content["arms"][0]["test"]["error"] is None
    assert content["to_sgd"][0]["verdict"] == "one seed"
    assert type(content["arms"]) is list


def test_the_control_of_the_same_delta_comes_before_one_of_the_same_rate(tmp_path):
    delta, rate = "delta = 0.075", "lr = 0.05"
    arm(tmp_path, "dot", {0: 0.9}, optimizer="dot")
    arm(tmp_path, "far", {0: 0.9}, optimizer="control", change=(delta, "delta = 0.05"))
    arm(tmp_path, "near", {0: 0.9}, optimizer="control", change=(rate, "lr = 0.1"))
    assert [found.against for found in summary(tmp_path).to_control] == ["near"]
