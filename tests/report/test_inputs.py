"""What lies beside the runs: all of it optional, and a broken file is named with what is wrong in it."""

import json
import random

import pytest

from dotkd.errors import BadInput
from dotkd.report import read_extras
from dotkd.runs import ANALYSIS, SWEEP, TUNING, find_runs

from .extras import analysis, write_analyses, write_tuning
from .folders import write_example

KEYS = ["optimizer.delta"]
ARM = {"name": "KD, delta 0.1", "base": "KD", "values": [0.1]}


@pytest.fixture
def root(tmp_path):
    return write_example(tmp_path, arms=("KD",), seeds=2, epochs=1, teacher=False)


def read(root):
    return read_extras(root, find_runs(root))


def test_nothing_is_needed(root):
    found = read(root)
    assert (found.sweep, found.tuning, found.analyses) == (None, None, {})


def test_all_is_read(root):
    write_analyses(root)
    write_tuning(root)
    (root / SWEEP).write_text(json.dumps({"keys": KEYS, "arms": [ARM], "later": 1}))
    found = read(root)
    assert found.sweep.arms[0].values == (0.1,)
    assert found.tuning.arms["KD"].at(0.05) == pytest.approx((0.884, 0.885, 0.886))
    assert found.tuning.arms["KD"].at(0.3) is None
    assert [path.name for path in found.analyses] == ["KD-0", "KD-1"]
    (one, _) = found.analyses.values()
    assert len(one.landscape.task) == len(one.landscape.steps) == 15
    assert one.quality.robustness["fgsm"].epsilon == 2 / 255
    assert one.quality.worst_classes[0].name.startswith("class ")
    assert one.cost.joules is None


@pytest.mark.parametrize("rate", [1 / 30, 0.1, 1e-7, 1.0])
def test_a_rate_is_found_however_it_is_written(root, rate):
    for key in (f"{rate:g}", str(rate)):
        arms = {"KD": {"chosen": rate, "validation_accuracy": {key: [0.5, None]}}}
        (root / TUNING).write_text(json.dumps({"rates": [rate], "seeds": [100, 101], "arms": arms}))
        assert read(root).tuning.arms["KD"].at(rate) == (0.5,)


@pytest.mark.parametrize("part", ["landscape", "sharpness", "quality", "cost", "epoch", "split", "images"])
@pytest.mark.parametrize("how", ["absent", "null"])
def test_a_part_of_an_analysis_may_be_missing(root, part, how):
    content = analysis(random.Random(0))
    content = {**content, part: None} if how == "null" else {k: v for k, v in content.items() if k != part}
    (root / "runs" / "KD-0" / ANALYSIS).write_text(json.dumps(content))
    (found,) = read(root).analyses.values()
    assert getattr(found, part) is None


def test_what_is_not_finite_is_absent(root):
    text = '{"quality": {"ece": NaN, "nll": Infinity, "brier": 0.5}, "sharpness": {"task": {"trace": NaN}}}'
    (root / "runs" / "KD-0" / ANALYSIS).write_text(text)
    (found,) = read(root).analyses.values()
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
        (SWEEP, {"keys": KEYS, "arms": [ARM, ARM]}, "broken: arm 'KD, delta 0.1' is in it twice"),
        (TUNING, {"rates": ["a"], "seeds": [1], "arms": {}}, "broken: rates.0: must be a valid number"),
        (TUNING, {"rates": [0.1], "seeds": [1], "arms": {"KD": {}}}, "arms.KD.chosen: Field required"),
        (
            ANALYSIS,
            {"landscape": {"steps": [0, 1], "task": [[1, 2]]}},
            "task is not a table of 2 x 2 numbers",
        ),
        (ANALYSIS, {"landscape": {"steps": [1, 0]}}, "landscape: its steps do not rise"),
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
        read(root)
    assert str(caught.value).startswith(f"{path}: broken: ")
    assert expected in str(caught.value)


def test_what_cannot_be_read_is_named(root):
    (root / SWEEP).mkdir()
    with pytest.raises(BadInput, match=r"sweep\.json: cannot be read: Is a directory"):
        read(root)
