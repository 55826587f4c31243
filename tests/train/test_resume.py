"""A run that was killed, at any moment, ends as if it had been left alone."""

import json
import signal
import subprocess
import sys
import time

import pytest
import torch

from dotkd.errors import BadInput, RunFailed
from dotkd.recipe import load_recipe
from dotkd.runs import GRADIENTS, LAST, METRICS, STUDENT, read_lines
from dotkd.train.loop import provide_teacher, train

SMALL = ["schedule.epochs=4", "data.augment=crop-flip", "student.model=small/cnn4"]
ARMS = ["digits-plain", "digits-kd", "digits-kd-dot", "digits-kd-control"]


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    recipe = load_recipe("quick/digits-kd")
    teacher = recipe.teacher.model_copy(update={"recipe": "quick/digits-teacher"})
    return provide_teacher(
        recipe.model_copy(update={"teacher": teacher}), tmp_path_factory.mktemp("t") / "run"
    )


def metrics(folder):
    """All but the seconds, which are the machine's."""
    lines = [json.loads(line) for line in (folder / METRICS).read_text().splitlines()]
    gradients = [] if not (folder / GRADIENTS).exists() else read_lines(folder / GRADIENTS)
    return [{key: value for key, value in line.items() if key != "seconds"} for line in lines], gradients


class Stop(Exception):
    pass


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("arm", ARMS)
def test_a_run_stopped_after_each_epoch_is_the_run_left_alone(arm, precision, teacher, tmp_path):
    recipe = load_recipe(f"quick/{arm}", [*SMALL, f"run.precision={precision}"])
    given = None if recipe.teacher is None else teacher
    alone = train(recipe, tmp_path / "alone", teacher=given)

    def stop(_):
        raise Stop

    for _ in range(4):
        with pytest.raises(Stop):
            train(recipe, tmp_path / "stopped", teacher=given, resume=True, on_epoch=[stop])
        torch.rand(3)  # what others draw in between is of no matter
    stopped = train(recipe, tmp_path / "stopped", teacher=given, resume=True)
    assert metrics(tmp_path / "stopped") == metrics(tmp_path / "alone")
    assert (tmp_path / "stopped" / STUDENT).read_bytes() == (tmp_path / "alone" / STUDENT).read_bytes()
    assert stopped.model_copy(update={"seconds": 0.0}) == alone.model_copy(update={"seconds": 0.0})


def test_half_a_line_and_epochs_after_the_checkpoint_are_cut_off(teacher, tmp_path):
    recipe = load_recipe("quick/digits-kd-dot", SMALL)
    train(recipe, tmp_path / "alone", teacher=teacher)

    def stop(line):
        if line.epoch == 2:
            raise Stop

    with pytest.raises(Stop):
        train(recipe, tmp_path / "cut", teacher=teacher, on_epoch=[stop])
    with (tmp_path / "cut" / METRICS).open("a") as file:
        file.write('{"epoch": 3, "lr": 1.0}\n{"epoch": 4, "l')
    train(recipe, tmp_path / "cut", teacher=teacher, resume=True)
    assert metrics(tmp_path / "cut") == metrics(tmp_path / "alone")


def test_the_global_generator_is_as_before(tmp_path):
    before = torch.get_rng_state()
    train(load_recipe("quick/digits-plain", ["schedule.epochs=1"]), tmp_path / "run")
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.slow
@pytest.mark.processes
def test_a_run_killed_with_9_at_three_epochs_is_the_run_left_alone(tmp_path):
    overrides = ["schedule.epochs=60", "data.augment=crop-flip"]
    folder = tmp_path / "killed"
    command = [sys.executable, "-m", "dotkd", "train", "quick/digits-kd-dot", *overrides, "--resume"]

    def epochs():
        path = folder / METRICS
        return path.read_text().count("\n") if path.exists() else 0

    for stop_at in (8, 25, 44):
        run = subprocess.Popen([*command, "--output", str(folder)], stdout=subprocess.DEVNULL)
        while epochs() < stop_at:
            assert run.poll() is None, "the run ended before it was killed"
            time.sleep(0.001)
        run.kill()
        assert run.wait() == -signal.SIGKILL
        assert stop_at <= epochs() < 60
        assert not (folder / STUDENT).exists()
    recipe = load_recipe("quick/digits-kd-dot", overrides)
    for path in (folder, tmp_path / "alone"):
        train(recipe, path, teacher=folder / "teacher" / STUDENT, resume=True)
    assert len(metrics(folder)[0]) == 60
    assert metrics(folder) == metrics(tmp_path / "alone")
    assert (folder / STUDENT).read_bytes() == (tmp_path / "alone" / STUDENT).read_bytes()
    assert not list(folder.rglob(".*")), "half-written files were left"


def test_a_checkpoint_of_another_recipe_is_refused(tmp_path):
    for name, lr in (("one", 0.01), ("other", 0.02)):
        train(load_recipe("quick/digits-plain", ["schedule.epochs=2", f"optimizer.lr={lr}"]), tmp_path / name)
    (tmp_path / "one" / LAST).write_bytes((tmp_path / "other" / LAST).read_bytes())
    (tmp_path / "one" / STUDENT).unlink()
    recipe = load_recipe("quick/digits-plain", ["schedule.epochs=2", "optimizer.lr=0.01"])
    with pytest.raises(BadInput, match="not a checkpoint of this run: it is of another recipe"):
        train(recipe, tmp_path / "one", resume=True)


@pytest.mark.parametrize("epochs", [1, 2])
@pytest.mark.parametrize("validation", [0, 200])
def test_weights_ruined_by_the_last_step_are_never_saved(epochs, validation, tmp_path):
    overrides = ["optimizer.lr=1e30", "data.batch_size=1400", f"data.validation={validation}"]
    recipe = load_recipe("quick/digits-plain", [*overrides, f"schedule.epochs={epochs}"])
    with pytest.raises(RunFailed, match=r"the run has diverged\. Try a lower optimizer\.lr"):
        train(recipe, tmp_path / "run")
    assert not (tmp_path / "run" / STUDENT).exists()
    assert not (tmp_path / "run" / LAST).exists()
