"""A sweep: its order, its best value on validation images, and what is said of both."""

import json

import pytest

from dotkd.report import findings, sentences, summarize
from dotkd.report.inputs import Sweep
from dotkd.report.statistics import by_arm
from dotkd.report.sweep import choices, make_series, not_run, spoken_of
from dotkd.runs import find_runs

from .extras import end_run


def sweep(points, keys=("optimizer.delta",), base="KD"):
    arms = [{"name": name, "base": base, "values": values} for name, values in points.items()]
    return Sweep.model_validate_json(json.dumps({"keys": keys, "arms": arms}))


@pytest.fixture
def found(tmp_path):
    """Three values of a key, and an arm beside them: a is best on validation, though least on training."""
    accuracies = {"a": (0.80, 0.82, 0.84), "b": (0.70, 0.71, 0.75), "c": (0.79, 0.83, 0.83), "X": (0.7,) * 3}
    for name, values in accuracies.items():
        for seed, accuracy in enumerate(values):
            end_run(tmp_path, name, seed, (1.0, 1.0), accuracy=accuracy)
    return find_runs(tmp_path)


def test_numbers_are_in_order_and_words_in_that_of_the_file(found):
    groups = by_arm(found)
    (series,) = make_series(sweep({"b": [0.5], "a": [0.025], "c": [0.1]}), groups)
    assert series.names == ("a", "c", "b")
    assert [point.label for point in series.points] == ["0.025", "0.1", "0.5"]
    assert series.numeric
    assert [point.place for point in series.points] == [0.025, 0.1, 0.5]
    (series,) = make_series(sweep({"b": ["late"], "a": ["early"]}), groups)
    assert (series.names, series.numeric) == (("b", "a"), False)
    (series,) = make_series(sweep({"b": [0.9, [1, 2]], "a": [True, None]}, ("x.y", "x.z")), groups)
    assert [point.label for point in series.points] == ["0.9 / [1, 2]", "true / null"]


def test_arms_that_were_not_run_are_left_out_and_named(found):
    groups, swept = by_arm(found), sweep({"a": [1], "gone": [2]})
    assert make_series(swept, groups)[0].names == ("a",)
    assert not_run(swept, groups) == ["gone"]
    assert make_series(sweep({"gone": [2]}), groups) == ()
    assert (make_series(None, groups), not_run(None, groups)) == ((), [])


def test_the_best_is_chosen_by_hand(found):
    groups = by_arm(found)
    series = make_series(sweep({"a": [1], "b": [2], "c": [3]}), groups)
    (choice,) = choices(series, groups, "X")
    # Means 0.82, 0.72 and 0.8167; the neighbour of 1 is 2 alone.
    assert (choice.best.name, choice.accuracy) == ("a", pytest.approx(0.82))
    assert [(d.arm, d.against) for d in choice.against] == [("1", "2"), ("1", "X")]
    assert choice.against[0].mean == pytest.approx(0.1)
    assert choice.against[0].verdict == "higher"
    assert spoken_of(groups, series, [choice]) == ("X", "a")
    assert choices(series, groups, "b")[0].against[1:] == ()  # a baseline of the sweep is compared there


def test_without_validation_nothing_is_chosen(found):
    found[0].metrics[-1]["validation_accuracy"] = None
    groups = by_arm(found)
    series = make_series(sweep({found[0].name: [1], "b": [2]}), groups)
    assert choices(series, groups, "X") == ()
    assert spoken_of(groups, series, ()) == tuple(groups)
    (said,) = findings.chosen((), series, [])
    assert said.startswith("No value is chosen for KD: not every run has a validation accuracy")


def test_what_is_said_of_a_choice(found):
    groups = by_arm(found)
    series = make_series(sweep({"a": [1], "c": [2], "b": [3]}), groups)
    best, caveat, missing = findings.chosen(choices(series, groups, "X"), series, ["gone"])
    assert best.startswith("KD: optimizer.delta = 1 is best on validation images (82.00 %, the highest mean")
    assert "There 1 is not distinguishable from 2 (difference +0.33 points" in best
    assert "There 1 is higher than X by 12.00 points" in best
    assert caveat.startswith("A best value was picked because it came out highest")
    assert missing == "Without a finished run, and so left out: gone."


def test_one_seed_claims_nothing_of_a_sweep(found):
    groups = by_arm([run for run in found if run.seed == 0])
    series = make_series(sweep({"a": [1], "b": [2]}), groups)
    (said,) = findings.chosen(choices(series, groups, "X"), series, [])
    assert said.count("one seed gives no interval, so nothing is claimed") == 2
    assert "higher than" not in said


def test_the_summary_speaks_of_the_given_arms(tmp_path):
    for name, optimizer in (("KD", "sgd"), ("low", "dot"), ("high", "dot")):
        for seed in range(2):
            end_run(tmp_path, name, seed, (1.0, 1.0), optimizer=optimizer)
    text = " ".join(sentences(summarize(find_runs(tmp_path)), ["KD", "high"]))
    assert "high" in text
    assert "low " not in text
