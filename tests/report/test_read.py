"""Reading a comparison: optional files, broken files named, arms and sweeps in order, unequal conditions."""

import json
import random
from dataclasses import replace

import pytest

from dotkd.errors import BadInput
from dotkd.records import Sweep
from dotkd.report import read_comparison, summarize
from dotkd.report.read import compared
from dotkd.runs import ANALYSIS, GRADIENTS, SWEEP, TUNING, find_runs

from .folders import (
    analysis,
    arm,
    at_end,
    changed,
    end_run,
    recipe,
    write_analyses,
    write_example,
    write_run,
    write_tuning,
)

KEYS = ["optimizer.delta"]
ARM = {"name": "KD, delta 0.1", "base": "KD", "values": [0.1]}


@pytest.fixture
def root(tmp_path):
    return write_example(tmp_path, arms=("KD",), seeds=2, epochs=1, teacher=False)


# ---------------------------------------------------------------- files beside the runs


def test_nothing_is_needed(root):
    found = read_comparison(root)
    assert (found.sweep, found.tuning) == (None, None)
    assert [run.analysis for run in found.runs] == [None, None]


def test_all_is_read(root):
    write_analyses(root)
    write_tuning(root)
    (root / SWEEP).write_text(json.dumps({"keys": KEYS, "arms": [ARM], "later": 1}))
    found = read_comparison(root)
    assert found.sweep.arms[0].values == (0.1,)
    assert found.tuning.arms["KD"].accuracies(0.05) == pytest.approx((0.884, 0.885, 0.886))
    assert found.tuning.arms["KD"].accuracies(0.3) is None
    assert [run.path.name for run in found.runs] == ["KD-0", "KD-1"]
    one = found.runs[0].analysis
    assert len(one.landscape.task) == len(one.landscape.steps) == 15
    assert one.quality.robustness["fgsm"].epsilon == 2 / 255
    assert one.quality.worst_classes[0].name.startswith("class ")
    assert len(found.runs[0].gradients[0].layers) == 6


@pytest.mark.parametrize("rate", [1 / 30, 0.1, 1e-7, 1.0])
def test_a_rate_is_found_however_it_is_written(root, rate):
    for key in (f"{rate:g}", str(rate)):
        arms = {"KD": {"chosen": rate, "validation_accuracy": {key: [0.5, None]}}}
        (root / TUNING).write_text(json.dumps({"rates": [rate], "seeds": [100, 101], "arms": arms}))
        assert read_comparison(root).tuning.arms["KD"].accuracies(rate) == (0.5,)


@pytest.mark.parametrize("part", ["landscape", "sharpness", "quality", "cost", "epoch", "split", "images"])
@pytest.mark.parametrize("how", ["absent", "null"])
def test_a_part_of_an_analysis_may_be_missing(root, part, how):
    content = analysis(random.Random(0))
    content = {**content, part: None} if how == "null" else {k: v for k, v in content.items() if k != part}
    (root / "runs" / "KD-0" / ANALYSIS).write_text(json.dumps(content))
    assert getattr(read_comparison(root).runs[0].analysis, part) is None


def test_what_is_not_finite_is_absent(root):
    text = '{"quality": {"ece": NaN, "nll": Infinity, "brier": 0.5}, "sharpness": {"task": {"trace": NaN}}}'
    (root / "runs" / "KD-0" / ANALYSIS).write_text(text)
    found = read_comparison(root).runs[0].analysis
    assert (found.quality.ece, found.quality.nll, found.quality.brier) == (None, None, 0.5)
    assert found.sharpness["task"].trace is None


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        (SWEEP, "{", "broken: Invalid JSON"),
        (SWEEP, "[1]", "broken: must be an object"),
        (SWEEP, {"keys": [], "arms": []}, "broken: keys: Tuple should have at least 1 item"),
        (SWEEP, {"keys": KEYS}, "broken: arms: Field required"),
        (SWEEP, {"keys": KEYS, "arms": [ARM | {"values": [1, 2]}]}, "has 2 values for 1 keys"),
        (SWEEP, {"keys": KEYS, "arms": [ARM, ARM]}, "broken: arm 'KD, delta 0.1' appears twice"),
        (TUNING, {"rates": ["a"], "seeds": [1], "arms": {}}, "broken: rates.0: must be a valid number"),
        (TUNING, {"rates": [0.1], "seeds": [1], "arms": {"KD": {}}}, "arms.KD.chosen: Field required"),
        (
            ANALYSIS,
            {"landscape": {"steps": [0, 1], "task": [[1, 2]]}},
            "task is not a table of 2 x 2 numbers",
        ),
        (ANALYSIS, {"landscape": {"steps": [1, 0]}}, "landscape: steps do not rise"),
        (ANALYSIS, {"quality": {"ece": "low"}}, "quality.ece: must be a valid number"),
        (
            ANALYSIS,
            {"quality": {"reliability": {"confidence": [1.0], "accuracy": [], "count": [2]}}},
            "quality.reliability: confidence, accuracy and count have different lengths",
        ),
        (ANALYSIS, {"epoch": "x", "images": "x", "split": 1, "cost": 3}, "; and 1 more"),
    ],
)
def test_broken_files_are_named(root, name, content, expected):
    path = root / "runs" / "KD-1" / name if name == ANALYSIS else root / name
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(BadInput) as caught:
        read_comparison(root)
    assert str(caught.value).startswith(f"{path}: broken: ")
    assert expected in str(caught.value)


def test_a_broken_line_is_named(root):
    (root / "runs" / "KD-0" / GRADIENTS).write_text('{"epoch": 1, "layers": {}}\n{"epoch": 0}\n')
    expected = r"gradients\.jsonl, line 2: broken: epoch: .*; layers: Field required"
    with pytest.raises(BadInput, match=expected):
        read_comparison(root)


def test_what_cannot_be_read_is_named(root):
    (root / SWEEP).mkdir()
    with pytest.raises(BadInput, match=r"sweep\.json: cannot be read: Is a directory"):
        read_comparison(root)


# ---------------------------------------------------------------- arms


def test_empty_folder(tmp_path):
    with pytest.raises(BadInput) as caught:
        read_comparison(tmp_path)
    assert str(caught.value) == f"{tmp_path}: no finished run in this folder or below it"


def test_teachers_only_names_the_folder(tmp_path):
    write_run(tmp_path / "teacher", recipe("big", 0, method=""), [{"epoch": 1, "lr": 0.1}], 0.9)
    with pytest.raises(BadInput, match="no finished run of a student") as caught:
        read_comparison(tmp_path)
    assert str(caught.value).startswith(f"{tmp_path}: ")


def test_a_seed_twice_is_refused(tmp_path):
    arm(tmp_path / "a", "KD", {3: 0.9})
    arm(tmp_path / "b", "KD", {3: 0.9})
    with pytest.raises(BadInput, match=r"arm 'KD' has seed 3 twice: .*a/KD-3 and .*b/KD-3; move one"):
        read_comparison(tmp_path)


def test_what_was_never_tested_is_refused(tmp_path):
    """As the trials of a learning rate, which leave the test images alone."""
    arm(tmp_path, "KD", {100: None})
    with pytest.raises(BadInput, match=r"KD-100 was never tested, as trials of a learning rate are not"):
        read_comparison(tmp_path)


def test_a_method_without_a_teacher_is_no_distillation(tmp_path):
    arm(tmp_path, "a smoothed one", {0: 0.9})
    arm(tmp_path, "plain", {0: 0.9}, method="")
    runs = find_runs(tmp_path)
    del next(run for run in runs if run.name == "a smoothed one").recipe["teacher"]
    found = compared(runs)
    assert list(found.kinds.items()) == [("plain", "plain"), ("a smoothed one", "plain")]
    assert summarize(found).to_plain == ()


# ---------------------------------------------------------------- sweeps


def sweep(points, keys=("optimizer.delta",), base="KD"):
    arms = [{"name": name, "base": base, "values": values} for name, values in points.items()]
    return Sweep.model_validate_json(json.dumps({"keys": keys, "arms": arms}))


@pytest.fixture
def swept(tmp_path):
    """Three values of a key, and an arm beside them: a is best on validation, though least on training."""
    accuracies = {"a": (0.80, 0.82, 0.84), "b": (0.70, 0.71, 0.75), "c": (0.79, 0.83, 0.83), "X": (0.7,) * 3}
    for name, values in accuracies.items():
        for seed, accuracy in enumerate(values):
            end_run(tmp_path, name, seed, (1.0, 1.0), accuracy=accuracy)
    return find_runs(tmp_path)


def test_numbers_are_in_order_and_words_in_that_of_the_file(swept):
    (series,) = compared(swept, sweep({"b": [0.5], "a": [0.025], "c": [0.1]})).series
    assert series.names == ("a", "c", "b")
    assert [point.label for point in series.points] == ["0.025", "0.1", "0.5"]
    assert series.numeric
    assert [point.place for point in series.points] == [0.025, 0.1, 0.5]
    (series,) = compared(swept, sweep({"b": ["late"], "a": ["early"]})).series
    assert (series.names, series.numeric) == (("b", "a"), False)
    (series,) = compared(swept, sweep({"b": [0.9, [1, 2]], "a": [True, None]}, ("x.y", "x.z"))).series
    assert [point.label for point in series.points] == ["0.9 / [1, 2]", "true / null"]


def test_arms_that_were_not_run_are_left_out_and_named(swept):
    found = compared(swept, sweep({"a": [1], "gone": [2]}))
    assert found.series[0].names == ("a",)
    assert found.not_run == ["gone"]
    assert compared(swept, sweep({"gone": [2]})).series == ()
    found = compared(swept)
    assert (found.series, found.not_run) == ((), [])


def test_the_best_is_chosen_by_hand(swept):
    found = changed(swept, lambda run: run, sweep({"a": [1], "b": [2], "c": [3]}))
    assert found.summary.baseline == "X"
    (choice,) = found.choices
    # Means 0.82, 0.72 and 0.8167; the neighbour of 1 is 2 alone.
    assert (choice.best.name, choice.accuracy) == ("a", pytest.approx(0.82))
    assert [(d.arm, d.against) for d in choice.against] == [("1", "2"), ("1", "X")]
    assert choice.against[0].mean == pytest.approx(0.1)
    assert choice.against[0].verdict == "higher"
    assert tuple(found.spoken) == ("X", "a")
    all_swept = [run for run in swept if run.name != "X"]
    (choice,) = changed(all_swept, lambda run: run, sweep({"a": [1], "b": [2], "c": [3]})).choices
    assert choice.against[1:] == ()  # a baseline of the sweep is compared there


def test_without_validation_nothing_is_chosen(swept):
    def forget(run):
        return at_end(run, validation_accuracy=None) if (run.name, run.seed) == ("a", 0) else run

    found = changed(swept, forget, sweep({"a": [1], "b": [2]}))
    assert found.choices == ()
    assert tuple(found.spoken) == tuple(found.comparison.arms)


def test_the_baseline_of_a_sweep_is_the_recipe_as_it_was(tmp_path):
    arms = []
    for value in (0.1, 0.5, 0.9):
        end_run(tmp_path, f"KD, {value}", 0, (1.0, 1.0))
        arms.append({"name": f"KD, {value}", "base": "KD", "values": [value]})
    runs = find_runs(tmp_path)

    def baseline(**more):
        content = {"keys": ["method.task_weight"], "arms": arms, **more}
        summary = summarize(compared(runs, Sweep.model_validate_json(json.dumps(content))))
        return summary.baseline, summary.notes[0]

    assert baseline()[0] == "KD, 0.1"
    assert baseline(unswept={"KD": [0.7]})[0] == "KD, 0.1"
    name, note = baseline(unswept={"KD": [0.5]})
    assert (name, note) == (
        "KD, 0.5",
        "The baseline is KD, 0.5: it has the values of the recipe before the sweep.",
    )


# ---------------------------------------------------------------- unequal conditions


def notes(root):
    return summarize(read_comparison(root)).notes


def test_notes_on_unequal_conditions(tmp_path):
    arm(tmp_path, "plain", {0: 0.9, 1: 0.9}, method="", more="label_noise = 0.2\n")
    arm(tmp_path, "KD", {0: 0.9, 1: 0.9})
    arm(tmp_path, "KD + DOT", {0: 0.9}, optimizer="dot", change=("lr = 0.05", "lr = 0.1"))
    arm(tmp_path, "control", {0: 0.9, 1: 0.9}, optimizer="control", change=("delta = 0.075", "delta = 0.05"))
    assert notes(tmp_path) == (
        "KD + DOT has only one seed: no interval.",
        "plain and KD were run under unequal conditions: data.label_noise (0.2 and absent).",
        "plain and KD + DOT were run under unequal conditions: data.label_noise (0.2 and absent).",
        "plain and control were run under unequal conditions: data.label_noise (0.2 and absent).",
        "KD + DOT and KD differ in more than the kind of optimizer: optimizer.lr (0.1 and 0.05).",
        (
            "KD + DOT and control differ in more than the kind of optimizer: "
            "optimizer.lr (0.1 and 0.05), optimizer.delta (0.075 and 0.05)."
        ),
    )


def test_note_on_an_arm_of_two_recipes(tmp_path):
    arm(tmp_path, "KD", {0: 0.9})
    arm(tmp_path, "KD", {1: 0.9}, change=("momentum = 0.9", "momentum = 0.8"))
    assert notes(tmp_path) == ("The runs of KD have different recipes: its mean mixes them.",)


def test_data_seed_may_follow_the_run_seed(tmp_path):
    for name, optimizer in (("KD", "sgd"), ("KD + DOT", "dot")):
        for seed in (0, 1):
            arm(tmp_path, name, {seed: 0.9}, optimizer=optimizer, change=("seed = 0\n", f"seed = {seed}\n"))
    assert notes(tmp_path) == ()


def test_many_arms_of_one_seed_are_noted_once(tmp_path):
    for name in "abcde":
        arm(tmp_path, name, {0: 0.9} if name != "e" else {0: 0.9, 1: 0.9})
    assert notes(tmp_path) == ("4 of 5 arms have only one seed: no interval.",)


def test_notes_name_unequal_teachers(tmp_path):
    arm(tmp_path, "KD", {0: 0.9, 1: 0.9})
    runs = find_runs(tmp_path)
    runs[1] = replace(runs[1], environment=runs[1].environment | {"teacher_checksum": "other"})
    said = summarize(compared(runs)).notes
    assert said == ("The runs of KD have different teachers: its mean mixes them.",)
