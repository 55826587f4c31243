"""The plane of the two losses: which arms share one, and what is counted on it seed by seed, by hand."""

import json
import re

import pytest

from dotkd.report import findings, summarize
from dotkd.report.inputs import Sweep
from dotkd.report.statistics import by_arm
from dotkd.report.sweep import make_series
from dotkd.report.tradeoff import against_fronts, both_lower, fronts, planes
from dotkd.runs import find_runs

from .extras import end_run

ENDS = {
    # Below, beyond and dominated, for seeds 0, 1 and 2; seed 3 has no front.
    "DOT": ("dot", [(1.5, 1.4), (0.5, 2.5), (2.5, 2.5), (0.1, 0.1)]),
    "KD, 0.9": ("sgd", [(3.0, 1.0)] * 3),
    "KD, 0.5": ("sgd", [(2.0, 1.5)] * 3),
    "KD, 0.1": ("sgd", [(1.0, 2.0)] * 4),
}
KEYS = ["method.task_weight", "method.distill_weight"]


def write(root, **options):
    for name, (optimizer, ends) in ENDS.items():
        for seed, end in enumerate(ends):
            end_run(root, name, seed, end, optimizer=optimizer, **options)
    return find_runs(root)


def sweep(keys=KEYS):
    arms = [{"name": f"KD, {w}", "base": "KD", "values": [w, 1 - w][: len(keys)]} for w in (0.1, 0.5, 0.9)]
    return Sweep.model_validate_json(json.dumps({"keys": keys, "arms": arms}))


def counted(runs, swept):
    groups, summary = by_arm(runs), summarize(runs)
    (plane,) = planes(groups)
    return plane, against_fronts(plane, fronts(plane, swept, make_series(swept, groups), summary), summary)


def test_counts_by_hand(tmp_path):
    plane, (found,) = counted(write(tmp_path), sweep())
    assert (found.arm, found.base, found.arms, found.seeds) == ("DOT", "KD", 3, (0, 1, 2))
    assert (found.not_dominated, found.below, found.beyond) == (2, 1, 1)
    assert plane.split == "validation"
    (said,) = findings.beside_front([found], ["DOT"], plane.split)
    assert said == (
        "DOT beside the front of KD (3 weightings, validation losses after the last epoch): no weighting "
        "dominates it for 2 of 3 seeds, and it lies below the front for 1 of 3 seeds. For 1 of 3 seeds it "
        "lies past an end of that front, where no line can say."
    )
    assert list(findings.beside_front([found], ["another"], "validation")) == []


@pytest.mark.parametrize("keys", [["optimizer.delta"], ["method.temperature"], [KEYS[0], "optimizer.lr"]])
def test_only_weights_make_a_front(tmp_path, keys):
    _, found = counted(write(tmp_path), sweep(keys))
    assert found == []


def test_a_swept_weight_alone_makes_one(tmp_path):
    _, found = counted(write(tmp_path), sweep(KEYS[:1]))
    assert len(found) == 1


def test_no_common_seed(tmp_path):
    runs = [run for run in write(tmp_path) if run.name != "DOT" or run.seed == 3]
    plane, (found,) = counted(runs, sweep())
    assert found.seeds == ()
    (said,) = findings.beside_front([found], ["DOT"], plane.split)
    assert said == "DOT has no seed in common with all weightings of KD: nothing is counted."


def test_training_losses_where_validation_lacks_one(tmp_path):
    runs = write(tmp_path)
    runs[0].metrics[-1]["validation_distill_loss"] = None
    plane, _ = counted(runs, sweep())
    assert plane.split == "training"
    assert plane.ends["DOT"][0] == (1.0, 1.0)


@pytest.mark.parametrize(
    "change", [('"kd"', '"dkd"'), ('"kd"', '"kd"\ntemperature = 2.0'), ("large", "small")]
)
def test_other_losses_are_on_another_plane(tmp_path, change):
    end_run(tmp_path, "one", 0, (1.0, 1.0))
    end_run(tmp_path, "other", 0, (1.0, 1.0), change=change)
    end_run(tmp_path, "same", 0, (1.0, 1.0), change=("distill_weight = 0.9", "distill_weight = 0.5"))
    assert [sorted(plane.ends) for plane in planes(by_arm(find_runs(tmp_path)))] == [
        ["one", "same"],
        ["other"],
    ]


def test_both_lower_is_counted_by_seed(tmp_path):
    for seed, (ours, theirs) in enumerate(
        [((1, 1), (2, 2)), ((1, 3), (2, 2)), ((2, 2), (2, 2)), ((1, 1), (2, 2))]
    ):
        end_run(tmp_path, "DOT", seed, ours, optimizer="dot")
        if seed < 3:
            end_run(tmp_path, "KD", seed, theirs)
    (plane,) = planes(by_arm(find_runs(tmp_path)))
    (found,) = both_lower(plane, [("DOT", "KD"), ("DOT", "elsewhere")])
    assert (found.seeds, found.task, found.distill, found.both) == (3, 1, 2, 1)
    (said,) = findings.both([found], "training")
    assert re.search(
        "lower for 1 of 3 seeds, the distillation loss for 2 of 3 seeds, both for 1 of 3 seeds", said
    )


def test_a_front_that_was_not_measured():
    assert "whether reweighting alone would reach what DOT reaches was not measured" in findings.no_front(
        ["DOT"]
    )
    assert "what DOT and NDOT reach was not" in findings.no_front(["DOT", "NDOT"])
