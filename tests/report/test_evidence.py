"""The numbers beyond accuracies by hand: trade-off, gradients by layer, analyses, lines between students."""

import json

import numpy as np
import pytest

from dotkd.errors import BadInput
from dotkd.records import Sweep
from dotkd.report.evidence import (
    against_fronts,
    both_lower,
    dominance,
    reliability_bins,
    strengths,
    worst_classes_of,
)
from dotkd.report.figures.analyses import density
from dotkd.runs import ANALYSIS, GRADIENTS, find_runs

from .folders import analysed, arm, at_end, changed, end_run, evidence, line

ENDS = {
    # Below, beyond and dominated, for seeds 0, 1 and 2; seed 3 has no front.
    "DOT": ("dot", [(1.5, 1.4), (0.5, 2.5), (2.5, 2.5), (0.1, 0.1)]),
    "KD, 0.9": ("sgd", [(3.0, 1.0)] * 3),
    "KD, 0.5": ("sgd", [(2.0, 1.5)] * 3),
    "KD, 0.1": ("sgd", [(1.0, 2.0)] * 4),
}
KEYS = ["method.task_weight", "method.distill_weight"]


# ---------------------------------------------------------------- the trade-off


def write_ends(root):
    for name, (optimizer, ends) in ENDS.items():
        for seed, end in enumerate(ends):
            end_run(root, name, seed, end, optimizer=optimizer)
    return find_runs(root)


def sweep(keys=KEYS):
    arms = [{"name": f"KD, {w}", "base": "KD", "values": [w, 1 - w][: len(keys)]} for w in (0.1, 0.5, 0.9)]
    return Sweep.model_validate_json(json.dumps({"keys": keys, "arms": arms}))


def counted(runs, swept, change=lambda run: run):
    found = changed(runs, change, swept)
    (plane,) = found.planes
    return plane, against_fronts(plane, found.comparison)


def test_counts_by_hand(tmp_path):
    plane, (found,) = counted(write_ends(tmp_path), sweep())
    assert (found.arm, found.base, found.arms, found.seeds) == ("DOT", "KD", 3, (0, 1, 2))
    assert (found.not_dominated, found.below, found.beyond) == (2, 1, 1)
    assert plane.split == "validation"


@pytest.mark.parametrize("keys", [["optimizer.delta"], ["method.temperature"], [KEYS[0], "optimizer.lr"]])
def test_only_weights_make_a_front(tmp_path, keys):
    _, found = counted(write_ends(tmp_path), sweep(keys))
    assert found == []


def test_a_swept_weight_alone_makes_one(tmp_path):
    _, found = counted(write_ends(tmp_path), sweep(KEYS[:1]))
    assert len(found) == 1


def test_no_common_seed(tmp_path):
    runs = [run for run in write_ends(tmp_path) if run.name != "DOT" or run.seed == 3]
    _, (found,) = counted(runs, sweep())
    assert found.seeds == ()


def test_training_losses_where_validation_lacks_one(tmp_path):
    runs = write_ends(tmp_path)

    def forget(run):
        return at_end(run, validation_distill_loss=None) if run is runs[0] else run

    plane, _ = counted(runs, sweep(), forget)
    assert plane.split == "training"
    assert plane.ends["DOT"][0] == (1.0, 1.0)


@pytest.mark.parametrize(
    "change", [('"kd"', '"dkd"'), ('"kd"', '"kd"\ntemperature = 2.0'), ("large", "small")]
)
def test_other_losses_are_on_another_plane(tmp_path, change):
    end_run(tmp_path, "one", 0, (1.0, 1.0))
    end_run(tmp_path, "other", 0, (1.0, 1.0), change=change)
    end_run(tmp_path, "same", 0, (1.0, 1.0), change=("distill_weight = 0.9", "distill_weight = 0.5"))
    assert [sorted(plane.ends) for plane in evidence(tmp_path).planes] == [["one", "same"], ["other"]]


def test_both_lower_is_counted_by_seed(tmp_path):
    for seed, (ours, theirs) in enumerate(
        [((1, 1), (2, 2)), ((1, 3), (2, 2)), ((2, 2), (2, 2)), ((1, 1), (2, 2))]
    ):
        end_run(tmp_path, "DOT", seed, ours, optimizer="dot")
        if seed < 3:
            end_run(tmp_path, "KD", seed, theirs)
    (plane,) = evidence(tmp_path).planes
    (found,) = both_lower(plane, [("DOT", "KD"), ("DOT", "elsewhere")])
    assert (found.seeds, found.task, found.distill, found.both) == (3, 1, 2, 1)


def test_dominance_by_hand(tmp_path):
    ends = {"A": [(1, 1), (1, 1)], "B": [(2, 2), (2, 1)], "C": [(0, 3), (3, 3)]}
    for name, points in ends.items():
        for seed, point in enumerate(points):
            end_run(tmp_path, name, seed, point)
    (plane,) = evidence(tmp_path).planes
    found = {one.arm: one for one in dominance(plane)}
    assert [found[name].alone for name in "ABC"] == [2, 0, 1]
    assert [found[name].over for name in "ABC"] == [("B",), (), ()]
    assert [found[name].under for name in "ABC"] == [(), ("A",), ()]


# ---------------------------------------------------------------- gradients by layer


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
    found = evidence(tmp_path).layers["KD"]
    assert (found.names, found.epochs, found.seeds) == (("b", "a"), (1, 2), (0, 1))
    np.testing.assert_allclose(found.mean("cosine"), [[0.4, 0.2], [-0.2, np.nan]])


def test_a_run_with_other_layers_is_left_out(tmp_path):
    for seed in range(2):
        end_run(tmp_path, "KD", seed, (1.0, 1.0))
    end_run(tmp_path, "other", 0, (1.0, 1.0))
    write_cosines(tmp_path / "KD-0", {"a": 0.5})
    write_cosines(tmp_path / "KD-1", {"c": 0.5})
    found = evidence(tmp_path).layers
    assert list(found) == ["KD"]
    assert found["KD"].seeds == (0,)


# ---------------------------------------------------------------- analyses


@pytest.fixture
def root(tmp_path):
    arm(tmp_path, "plain", {0: 0.90, 1: 0.91, 2: 0.92}, method="")
    arm(tmp_path, "KD", {0: 0.91, 1: 0.93, 2: 0.97})
    return tmp_path


def test_bins_of_seeds_are_weighted_by_their_images(root):
    def change(content, run):
        content["quality"]["reliability"] = {
            "confidence": [None, 0.8],
            "accuracy": [None, 1.0 if run.seed else 0.5],
            "count": [0, 1 + run.seed],
        }
        return content

    bins = reliability_bins(analysed(root, change).analysed["KD"])
    assert bins.count.tolist() == [0, 6]
    assert bins.accuracy[1] == pytest.approx((0.5 + 2 + 3) / 6)
    assert bins.confidence[1] == pytest.approx(0.8)


@pytest.mark.parametrize(
    ("read", "part", "value", "expected"),
    [
        (reliability_bins, "reliability", {"confidence": [1], "accuracy": [1], "count": [1]}, "has 1 bins"),
        (lambda runs: strengths(runs, "noise"), "robustness", {"noise": [0.5]}, "noise has 1 strengths"),
    ],
)
def test_seeds_that_do_not_fit_together_are_named(root, read, part, value, expected):
    def change(content, run):
        if run.seed == 2:
            content["quality"][part] = value
        return content

    found = analysed(root, change)
    with pytest.raises(BadInput, match=expected) as caught:
        read(found.analysed["KD"])
    assert "KD-2/analysis.json: broken" in str(caught.value)


def test_classes_that_most_seeds_find_hard_come_first(root):
    worst = {0: [("cat", 0.5), ("dog", 0.1)], 1: [("cat", 0.7)], 2: [("cow", 0.3)]}

    def change(content, run):
        rows = [{"class": name, "accuracy": value, "count": 9} for name, value in worst[run.seed]]
        content["quality"]["worst_classes"] = rows
        return content

    found = worst_classes_of(analysed(root, change).analysed["KD"], 5)
    assert [(one.name, one.seeds) for one in found] == [("cat", 2), ("dog", 1), ("cow", 1)]
    assert found[0].accuracy.mean == pytest.approx(0.6)
    assert len(worst_classes_of(analysed(root, change).analysed["KD"], 2)) == 2


def test_density_of_nodes_integrates_to_one_and_keeps_their_mean():
    nodes, weights = np.array([-1.0, 0.0, 4.0]), np.array([0.2, 0.7, 0.1])
    grid = np.linspace(-3, 6, 2001)
    found = density(nodes, weights, grid, 0.2)
    step = grid[1] - grid[0]
    assert step * found.sum() == pytest.approx(1)
    assert step * (grid * found).sum() == pytest.approx(0.2)
    assert step * ((grid - 0.2) ** 2 * found).sum() == pytest.approx(0.2 + 1.6 - 0.04 + 0.2**2)


# ---------------------------------------------------------------- lines between students


def write_lines(root):
    for seed in range(2):
        end_run(root, "KD", seed, (1.0, 1.0))
        end_run(root, "plain", seed, (1.0, 1.0))
    for folder, high, seed in (("KD-0", 0.5, 0), ("KD-1", 0.3, 0), ("plain-1", 0.0, 0)):
        content = {"interpolation": line("plain", seed, high=high)}
        (root / folder / ANALYSIS).write_text(json.dumps(content))


def test_barriers_by_hand_same_seed_apart(tmp_path):
    write_lines(tmp_path)
    found = evidence(tmp_path).lines
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


def test_a_straight_slope_has_no_barrier_and_a_lost_number_none(tmp_path):
    write_lines(tmp_path)
    path = tmp_path / "KD-0" / ANALYSIS
    content = json.loads(path.read_text())
    content["interpolation"] |= {"task": [1 + step for step in content["interpolation"]["steps"]]}
    content["interpolation"]["distill"][3] = None
    path.write_text(json.dumps(content))
    found = evidence(tmp_path).lines[0]
    assert found.barriers("task") == pytest.approx([0.0], abs=1e-12)
    assert found.barriers("distill") == []


def test_lines_that_do_not_fit_together_and_such_that_are_none(tmp_path):
    write_lines(tmp_path)
    path = tmp_path / "KD-1" / ANALYSIS
    path.write_text(
        json.dumps({"interpolation": {"arm": "plain", "seed": 0, "reason": "the students differ"}})
    )
    assert len(evidence(tmp_path).lines) == 2
    content = {"interpolation": {"arm": "plain", "seed": 0, "steps": [0.0, 1.0], "task": [1.0, 1.0]}}
    path.write_text(json.dumps(content))
    with pytest.raises(BadInput, match=r"interpolation\.steps differ from those of"):
        _ = evidence(tmp_path).lines
