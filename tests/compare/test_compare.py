"""A comparison goes on after a failure, skips what is finished, and says what it could not do."""

import json

import pytest

from dotkd.compare import DEMO, compare
from dotkd.errors import BadInput, RunFailed
from dotkd.recipe import load_recipe
from dotkd.runs import STUDENT, find_runs
from dotkd.train.loop import train

pytestmark = pytest.mark.slow  # trainings
TINY = ["schedule.epochs=2"]


def arms(*names, overrides=()):
    return [load_recipe(f"quick/digits-{name}", [*TINY, *overrides]) for name in names]


def students(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob(STUDENT)}


def test_what_is_finished_is_left_alone_and_what_is_missing_is_made(tmp_path):
    assert compare(arms("plain"), 1, tmp_path) == []
    before = students(tmp_path)
    begun = []
    assert compare(arms("plain", "kd"), 2, tmp_path, on_run=lambda arm, seed: begun.append((arm, seed))) == []
    after = students(tmp_path)
    assert before.items() <= after.items()
    assert begun == [("plain", 0), ("KD", 0), ("plain", 1), ("KD", 1)]
    assert {(run.name, run.seed) for run in find_runs(tmp_path) if not run.is_teacher} == set(begun)


def test_a_failure_does_not_stop_the_others_and_is_reported(tmp_path):
    bad = load_recipe("quick/digits-plain", ["name='too hot'", "optimizer.lr=1e30", *TINY])
    failures = compare([bad, *arms("plain")], 2, tmp_path)
    assert [(failure.arm, failure.seed) for failure in failures] == [("too hot", 0), ("too hot", 1)]
    assert "task loss" in failures[0].reason
    assert {run.name for run in find_runs(tmp_path)} == {"plain"}
    assert (tmp_path / "report.html").exists()


def test_if_all_fail_there_is_no_report(tmp_path):
    bad = load_recipe("quick/digits-plain", ["optimizer.lr=1e30", *TINY])
    with pytest.raises(RunFailed, match=r"all 2 runs failed, the first with Diverged: step"):
        compare([bad], 2, tmp_path)
    assert not (tmp_path / "report.html").exists()


@pytest.mark.parametrize(
    ("names", "text"),
    [
        (["plain", "plain"], "'plain' and 'plain' would share the folder 'plain'"),
        (["teacher"], "name 'teacher'.*reserved"),
    ],
)
def test_arms_need_names_of_their_own(names, text, tmp_path):
    with pytest.raises(BadInput, match=text):
        compare(arms(*names), 1, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["Report.html", "report.md", "sweep.json", "tables", "figures", "Tuning"])
def test_no_arm_lies_where_the_report_goes(name, tmp_path):
    with pytest.raises(BadInput, match=f"name '{name}'.*reserved"):
        compare(arms("plain", overrides=[f"name='{name}'"]), 1, tmp_path / "out")


def test_a_folder_with_other_recipes_is_refused_before_anything_is_trained(tmp_path):
    compare(arms("plain"), 1, tmp_path)
    with pytest.raises(BadInput, match="holds a run of another recipe"):
        compare(arms("kd", "plain", overrides=["optimizer.lr=0.01"]), 1, tmp_path)
    assert not (tmp_path / "kd").exists()


def test_all_arms_share_a_teacher_and_other_recipes_get_their_own(tmp_path):
    compare(arms("kd", "kd-dot"), 1, tmp_path)
    assert len(list((tmp_path / "teachers").iterdir())) == 1
    other = load_recipe("quick/digits-kd", ["name=threads", "run.threads=2", *TINY])
    compare([other], 1, tmp_path)
    assert len(list((tmp_path / "teachers").iterdir())) == 2


def test_the_demo_compares_the_four_arms_on_noisy_digits():
    recipes = [load_recipe(name) for name in DEMO]
    assert [recipe.name for recipe in recipes] == ["plain", "KD", "KD + DOT", "KD control"]
    assert {recipe.data.label_noise for recipe in recipes} == {0.3}
    assert len({json.dumps(recipe.data.model_dump()) for recipe in recipes}) == 1


def test_the_seeds_are_the_comparisons_own(tmp_path):
    with pytest.raises(BadInput, match=r"run\.seed = 7 in 'plain': must be 0"):
        compare(arms("plain", overrides=["run.seed=7"]), 1, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_stranger_of_the_same_name_and_seed_is_refused_before_anything_is_trained(tmp_path):
    train(arms("plain")[0], tmp_path / "alone")
    with pytest.raises(BadInput, match="already holds 'plain', seed 0"):
        compare(arms("plain"), 1, tmp_path)
    assert not (tmp_path / "plain").exists()


def test_names_in_any_script_have_folders_of_their_own(tmp_path):
    named = [load_recipe("quick/digits-plain", [f"name='{name}'", *TINY]) for name in ("学生", "教師")]
    assert compare(named, 1, tmp_path) == []
    assert {run.name for run in find_runs(tmp_path)} == {"学生", "教師"}


def test_a_teacher_of_other_labels_is_in_the_notes(tmp_path):
    compare(arms("kd"), 1, tmp_path)
    notes = json.loads((tmp_path / "results.json").read_text())["notes"]
    assert "teacher and its students had different data: data.label_noise (0.0 and 0.3)." in notes
