"""The paragraph claims what its intervals allow, and says so where they allow nothing."""

import pytest

from dotkd.report import summarize
from dotkd.report.statistics import Difference, Estimate
from dotkd.report.text import READINGS, compared, number, percent, points, reading, sentences
from dotkd.runs import find_runs

from .folders import write_example
from .test_statistics import arm


def said(root):
    return " ".join(sentences(summarize(find_runs(root))))


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
    assert text.startswith("Quoted is the test accuracy after the last epoch; the test images were")
    assert "Distillation: KD is higher than plain by 5.10 points" in text
    assert "DOT against plain momentum: DOT is not distinguishable from KD (difference +0.33 points" in text
    assert "come to in the long run: DOT is lower than control by 4.70 points" in text
    assert "The 3 intervals are at 95 % each, without correction for their number" in text


def test_one_seed_claims_nothing(tmp_path):
    text = said(write_example(tmp_path, seeds=1, epochs=1))
    assert text.count("one seed gives no interval, so nothing is claimed") == 3
    assert "higher" not in text
    assert "lower" not in text
    assert "95 %" not in text


def test_what_is_missing_is_said(tmp_path):
    arm(tmp_path / "a", "plain", {0: 0.9, 1: 0.9}, method="")
    assert "No arm distils, so nothing is said about distillation." in said(tmp_path / "a")
    arm(tmp_path / "b", "DOT", {0: 0.9, 1: 0.9}, optimizer="dot")
    text = said(tmp_path / "b")
    assert "whether distillation helps was not measured" in text
    assert "DOT has no arm with plain momentum and its method" in text
    assert "Without a gain-matched control" in text


def test_only_dot_is_held_against_plain(tmp_path):
    arm(tmp_path, "plain", {0: 0.90, 1: 0.91}, method="")
    arm(tmp_path, "DOT", {0: 0.91, 1: 0.925}, optimizer="dot")
    text = said(tmp_path)
    assert "Distillation: DOT is not distinguishable from plain" in text
    assert "The interval speaks of further student seeds" in text


def test_every_figure_is_explained():
    kinds = {"losses", "task-loss", "gradients", "accuracy", "tradeoff", "sweep"}
    kinds |= {"layers", "landscape-task", "landscape-distill", "spectrum", "interpolation"}
    assert set(READINGS) == kinds | {"reliability", "robustness"}
    assert reading("interpolation1", noisy=False) == reading("interpolation", noisy=False)


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
