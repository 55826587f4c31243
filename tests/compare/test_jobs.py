"""Runs side by side: the same files as one after another, failures told apart, nothing left behind."""

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from dotkd.cli import app
from dotkd.compare import compare
from dotkd.compare.jobs import Job, provide_teachers, run_jobs
from dotkd.errors import Diverged, RunFailed
from dotkd.recipe import load_recipe
from dotkd.runs import METRICS, STUDENT, is_finished, read_lines

pytestmark = pytest.mark.slow  # trainings
TINY = ["schedule.epochs=2", "run.threads=1"]


def arms(*names):
    return [load_recipe(f"quick/digits-{name}", TINY) for name in names]


def left_behind(folder):
    """Students to the bit and all metrics that are not times."""
    students = {path.relative_to(folder): path.read_bytes() for path in folder.rglob(STUDENT)}
    lines = {
        path.relative_to(folder): [
            {key: value for key, value in line.items() if key not in ("seconds", "joules")}
            for line in read_lines(path)
        ]
        for path in folder.rglob(METRICS)
    }
    return students, lines


@pytest.fixture(scope="module")
def both_ways(tmp_path_factory):
    one, two = tmp_path_factory.mktemp("one"), tmp_path_factory.mktemp("two")
    recipes = arms("plain", "kd", "kd-dot")
    begun = []
    assert compare(recipes, 2, one) == []
    assert compare(recipes, 2, two, jobs=2, on_run=lambda arm, seed: begun.append((arm, seed))) == []
    return one, two, begun


def test_two_at_a_time_leave_what_one_after_another_does(both_ways):
    one, two, begun = both_ways
    assert left_behind(one) == left_behind(two)
    assert len(left_behind(one)[0]) == 7  # six students and a teacher
    assert begun == [("plain", 0), ("KD", 0), ("KD + DOT", 0), ("plain", 1), ("KD", 1), ("KD + DOT", 1)]


def test_what_is_finished_is_left_alone(both_ways):
    _, two, _ = both_ways
    before = {path: path.stat().st_mtime_ns for path in two.rglob(STUDENT)}
    assert compare(arms("plain", "kd", "kd-dot"), 2, two, jobs=2) == []
    assert {path: path.stat().st_mtime_ns for path in two.rglob(STUDENT)} == before


def test_a_failure_among_others_keeps_its_kind_and_its_text(tmp_path):
    hot = load_recipe("quick/digits-plain", ["name='too hot'", "optimizer.lr=1e30", *TINY])
    (failure,) = compare([hot, *arms("plain")], 1, tmp_path, jobs=2)
    assert (failure.arm, failure.seed, type(failure.error)) == ("too hot", 0, Diverged)
    assert "task loss" in failure.reason
    assert is_finished(tmp_path / "plain" / "seed-0")


def test_a_teacher_that_fails_fails_its_own_students_alone(tmp_path):
    """Its error is that of each of their runs."""
    recipes = dict(zip(("plain", "kd"), arms("plain", "kd"), strict=True))
    # A run of another recipe is where the teacher belongs.
    first = provide_teachers(recipes, tmp_path)
    assert first["plain"] is None
    recipe = first["kd"].parent / "recipe.toml"
    recipe.write_text(recipe.read_text().replace("epochs = ", "epochs = 1"))
    broken = provide_teachers(recipes, tmp_path)
    assert broken["plain"] is None
    assert "another recipe" in str(broken["kd"])
    jobs = [Job(arm, recipe, tmp_path / arm, broken[arm]) for arm, recipe in recipes.items()]
    endings = {job.arm: ending for job, ending in run_jobs(jobs, 2)}
    assert "another recipe" in str(endings["kd"])
    assert endings["plain"].name == "plain"


def test_rates_are_chosen_alike(tmp_path):
    tables = []
    for jobs in ("1", "2"):
        words = ["compare", "quick/digits-plain", *TINY, "--seeds", "1", "--tune-lr", "0.01,0.1"]
        folder = tmp_path / jobs
        ran = CliRunner().invoke(app, [*words, "--tune-seeds", "1", "--jobs", jobs, "-o", str(folder)])
        assert ran.exit_code == 0, ran.output
        tables.append(json.loads((folder / "tuning.json").read_text()))
    assert tables[0] == tables[1]


def long_jobs(folder, epochs, names):
    recipe = load_recipe("quick/digits-plain", [f"schedule.epochs={epochs}", "run.threads=1"])
    return [Job(name, recipe, folder / name, None, test=False) for name in names]


def test_a_killed_process_is_the_failure_of_its_own_run(tmp_path):
    """As where the system ends the largest process for want of memory."""
    jobs = long_jobs(tmp_path, 25, "abc")

    def kill():
        until(lambda: all((job.folder / METRICS).exists() for job in jobs[:2]))
        multiprocessing.active_children()[0].kill()

    killer = threading.Thread(target=kill, daemon=True)
    killer.start()
    endings = {job.arm: ending for job, ending in run_jobs(jobs, 2)}
    killer.join()
    (failed,) = [arm for arm, ending in endings.items() if isinstance(ending, Exception)]
    assert type(endings.pop(failed)) is RunFailed
    assert sorted([failed, *endings]) == ["a", "b", "c"]
    assert all(ending.last.epoch == 25 for ending in endings.values())
    ((_, again),) = run_jobs([job for job in jobs if job.arm == failed])
    assert again.last.epoch == 25


def test_giving_up_does_not_wait_for_what_is_running(tmp_path):
    hot = load_recipe("quick/digits-plain", ["optimizer.lr=1e30", *TINY])
    (slow,) = long_jobs(tmp_path, 20_000, ["slow"])
    endings = run_jobs([Job("hot", hot, tmp_path / "hot", None, test=False), slow], 2)
    job, ending = next(endings)
    assert (job.arm, type(ending)) == ("hot", Diverged)
    endings.close()
    assert not multiprocessing.active_children()
    assert not is_finished(slow.folder)


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks for processes in /proc")
def test_a_kill_leaves_no_process_and_the_runs_go_on(tmp_path):
    words = ["compare", "quick/digits-plain", "schedule.epochs=4000", "run.threads=1", "--seeds", "2"]
    command = [sys.executable, "-m", "dotkd", *words, "--jobs", "2", "-o", str(tmp_path)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, start_new_session=True)
    metrics = [tmp_path / "plain" / f"seed-{seed}" / METRICS for seed in (0, 1)]
    try:
        until(lambda: all(path.exists() and path.stat().st_size for path in metrics))
        group = members(process.pid)
        assert len(group) > 2
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    until(lambda: not members(process.pid))


def members(session):
    """Processes of a session that are still running."""
    found = []
    for folder in (path for path in Path("/proc").iterdir() if path.name.isdigit()):
        try:
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[3]) == session and fields[0] != "Z":
            found.append(int(folder.name))
    return found


def until(true, seconds=90):
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.1)
