"""Sweeps and tuned learning rates: the arms they make, bad input, and their records in the folder."""

import json
import re

import pytest

from dotkd.compare import RateSearch, SweepAxis, compare, parse_rates, parse_sweep, sweep_arms
from dotkd.compare.arms import check_arms, slug
from dotkd.errors import BadInput, RunFailed
from dotkd.recipe import load_recipe
from dotkd.runs import RESULTS, SWEEP, TUNING, find_runs, read_json

SHORT = ["schedule.epochs=2", "student.model=small/mlp16"]
TEACHER = ["teacher.recipe=quick/digits-teacher"]


def arms(*names):
    return [load_recipe(f"quick/digits-{name}", SHORT) for name in names]


@pytest.mark.parametrize(
    ("text", "keys", "values"),
    [
        ("optimizer.delta=0,0.05", ("optimizer.delta",), ((0,), (0.05,))),
        ("method.name=kd,dkd", ("method.name",), (("kd",), ("dkd",))),
        (
            "method.task_weight:method.distill_weight=0.1:0.9",
            ("method.task_weight", "method.distill_weight"),
            ((0.1, 0.9),),
        ),
    ],
)
def test_a_sweep_is_read(text, keys, values):
    assert parse_sweep(text) == SweepAxis(keys, values)


@pytest.mark.parametrize(
    "text",
    [
        *("", "delta=1", "optimizer.delta", "optimizer.delta=", "a.b:c.d=1,2", "a.b=1,1", "=1"),
        *("a.b=[1],[1]", "a.b=0,0.0", "a.b:a.b=1:2"),
    ],
)
def test_what_is_no_sweep_is_refused(text):
    with pytest.raises(BadInput, match=re.escape(repr(text))):
        parse_sweep(text)


def test_a_list_is_a_value_too():
    assert parse_sweep("a.b=[1],[2]").points == (([1],), ([2],))


def test_recipes_with_the_key_become_an_arm_for_each_value():
    found, sweep = sweep_arms(
        arms("plain", "kd", "kd-dot", "kd-control"), parse_sweep("optimizer.delta=0,0.05")
    )
    names = ["KD + DOT, delta 0", "KD + DOT, delta 0.05", "KD control, delta 0", "KD control, delta 0.05"]
    assert [recipe.name for recipe in found] == ["plain", "KD", *names]
    assert [arm.name for arm in sweep.arms] == names
    assert [recipe.optimizer.delta for recipe in found[2:]] == [0.0, 0.05, 0.0, 0.05]
    assert len(set(check_arms(found))) == len(found)


def test_keys_that_change_together():
    found, _ = sweep_arms(arms("kd"), parse_sweep("method.task_weight:method.distill_weight=0.5:0.5,1:0"))
    assert [(r.method["task_weight"], r.method["distill_weight"]) for r in found] == [(0.5, 0.5), (1.0, 0.0)]
    assert found[0].name == "KD, task_weight 0.5, distill_weight 0.5"


def test_values_are_checked_like_the_file():
    with pytest.raises(BadInput, match=r"KD \+ DOT, delta 0\.5: optimizer: .*momentum \+ delta"):
        sweep_arms(arms("kd-dot"), parse_sweep("optimizer.delta=0.5"))
    with pytest.raises(BadInput, match=r"no recipe has optimizer\.delta"):
        sweep_arms(arms("kd"), parse_sweep("optimizer.delta=0.05"))
    with pytest.raises(BadInput, match=r"no recipe has name\.K"):  # no table
        sweep_arms(arms("kd"), parse_sweep("name.K=1,2"))


def test_names_of_folders_keep_numbers_apart():
    assert slug("KD + DOT, delta 0.05") == "kd-dot-delta-0.05"
    assert slug("KD + DOT, delta 0.5") != slug("KD + DOT, delta 0.05")


@pytest.mark.slow
def test_a_comparison_with_a_sweep_says_which_arms_are_its_points(tmp_path):
    assert (
        compare(arms("kd", "kd-dot"), 1, tmp_path / "out", sweep=parse_sweep("optimizer.delta=0,0.05")) == []
    )
    told = read_json(tmp_path / "out" / SWEEP)
    assert told["keys"] == ["optimizer.delta"]
    assert told["arms"][1] == {"name": "KD + DOT, delta 0.05", "base": "KD + DOT", "values": [0.05]}
    assert told["unswept"] == {"KD + DOT": [0.075]}
    names = {run.name for run in find_runs(tmp_path / "out") if not run.is_teacher}
    assert names == {"KD", "KD + DOT, delta 0", "KD + DOT, delta 0.05"}


@pytest.mark.slow
def test_the_baseline_of_a_sweep_over_weights_is_the_recipe_as_it_was(tmp_path):
    weights = parse_sweep("method.task_weight:method.distill_weight=0.5:0.5,0.1:0.9")
    compare(arms("kd"), 1, tmp_path / "out", sweep=weights)
    assert read_json(tmp_path / "out" / SWEEP)["unswept"] == {"KD": [0.1, 0.9]}
    told = read_json(tmp_path / "out" / RESULTS)
    assert told["baseline"] == "KD, task_weight 0.1, distill_weight 0.9"


@pytest.mark.slow
def test_each_arm_gets_the_rate_that_was_best_on_validation(tmp_path):
    search = RateSearch((1e-6, 0.05), seeds=2)
    assert compare(arms("plain", "kd"), 1, tmp_path / "out", search=search) == []
    told = read_json(tmp_path / "out" / TUNING)
    assert (told["rates"], told["seeds"]) == ([1e-6, 0.05], [100, 101])
    for name, row in told["arms"].items():
        means = {
            float(rate): sum(numbers) / len(numbers) for rate, numbers in row["validation_accuracy"].items()
        }
        assert all(len(numbers) == 2 for numbers in row["validation_accuracy"].values())
        assert row["chosen"] == max(means, key=means.get) == 0.05
        (run,) = (run for run in find_runs(tmp_path / "out") if run.name == name)
        assert run.recipe["optimizer"]["lr"] == 0.05
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out" / "tuning").rglob("results.json")}
    assert len(before) == 8
    compare(arms("plain", "kd"), 1, tmp_path / "out", search=search)
    assert before == {path: path.stat().st_mtime_ns for path in before}, "trials were trained again"


@pytest.mark.slow
def test_a_rate_that_diverges_is_out(tmp_path):
    compare(arms("plain"), 1, tmp_path / "out", search=RateSearch((0.05, 1e30), seeds=1))
    row = read_json(tmp_path / "out" / TUNING)["arms"]["plain"]
    assert row["chosen"] == 0.05
    assert row["validation_accuracy"]["1e+30"] == []
    with pytest.raises(RunFailed, match="plain diverged at every learning rate"):
        compare(arms("plain"), 1, tmp_path / "bad", search=RateSearch((1e30,), seeds=1))


def test_rates_need_validation_images(tmp_path):
    recipe = load_recipe("quick/digits-plain", [*SHORT, "data.validation=0"])
    with pytest.raises(BadInput, match=r"plain: .*data\.validation > 0, got 0"):
        compare([recipe], 1, tmp_path / "out", search=RateSearch((0.05,)))


@pytest.mark.parametrize("text", ["", "a", "0", "-1", "0.1,0.1", "inf", "nan", "0.1,", "0.1,0.10000001"])
def test_what_are_no_rates(text):
    with pytest.raises(BadInput, match="different learning rates > 0"):
        parse_rates(text)
    assert parse_rates("0.1,0.2") == (0.1, 0.2)


@pytest.mark.slow
def test_the_command_line_takes_both(tmp_path, capsys, monkeypatch):
    import sys

    from dotkd.cli import main

    words = ["compare", "quick/digits-kd-dot", *SHORT, "--seeds", "1", "--sweep", "optimizer.delta=0,0.05"]
    words += ["--tune-lr", "0.02,0.05", "--tune-seeds", "1", "--output", str(tmp_path / "out")]
    monkeypatch.setattr(sys, "argv", ["dotkd", *words])
    with pytest.raises(SystemExit) as ended:
        main()
    assert not ended.value.code, capsys.readouterr().err
    assert json.loads((tmp_path / "out" / TUNING).read_text())["rates"] == [0.02, 0.05]
    assert "KD + DOT, delta 0.05" in capsys.readouterr().out


def test_what_cannot_be_tuned_is_said_before_a_teacher_is_trained(tmp_path):
    search = RateSearch((0.05, 0.1))
    recipe = load_recipe("quick/digits-kd", [*SHORT, "data.validation=0"])
    with pytest.raises(BadInput, match=r"data\.validation > 0, got 0"):
        compare([recipe], 1, tmp_path / "out", search=search)
    with pytest.raises(BadInput, match=r"both set optimizer\.lr"):
        compare(arms("kd"), 1, tmp_path / "out", search=search, sweep=parse_sweep("optimizer.lr=0.1,0.2"))
    assert not (tmp_path / "out").exists()
