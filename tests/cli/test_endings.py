"""Exit code 1 is for what failed while it ran: a message that helps, no traceback, nothing half done."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from dotkd import cli, runs
from dotkd.train.state import read_checkpoint

PLAIN = "quick/digits-plain"
TINY = ["student.model=small/mlp16", "schedule.epochs=1"]


def broken(*_args: object, **_more: object) -> None:
    raise ZeroDivisionError("a slip of ours")


def test_an_internal_error_has_no_traceback(dotkd, monkeypatch, tmp_path) -> None:
    monkeypatch.setattr("dotkd.train.train", broken)
    code, out, err = dotkd("train", PLAIN, *TINY, "-o", tmp_path / "out")
    assert code == 1
    assert err == "dotkd: ZeroDivisionError: a slip of ours\n(dotkd --debug shows where)\n"
    assert "Traceback" not in out


@pytest.mark.parametrize("at", [0, 1, -1])
def test_debug_anywhere_lets_an_error_through(dotkd, monkeypatch, at: int) -> None:
    monkeypatch.setattr("dotkd.recipe.recipe_text", broken)
    words = ["recipes", "show", PLAIN]
    words.insert(at if at >= 0 else len(words), "--debug")
    with pytest.raises(ZeroDivisionError, match="a slip of ours"):
        dotkd(*words)


@pytest.mark.slow
def test_debug_shows_the_traceback_and_without_it_there_is_none() -> None:
    script = "import sys; from dotkd.cli import main; main()"
    for debug in ([], ["--debug"]):
        command = [sys.executable, "-c", script, "recipes", "show", "quick/gone", *debug]
        ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
        assert ended.stdout == ""
        assert "no recipe 'quick/gone'" in ended.stderr
        assert ("Traceback" in ended.stderr) == bool(debug)
        assert ended.returncode == (1 if debug else 2)


def test_ctrl_c_says_how_to_go_on(dotkd, monkeypatch, tmp_path) -> None:
    def interrupted(*_args: object, **_more: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("dotkd.train.train", interrupted)
    code, _, err = dotkd("train", PLAIN, *TINY, "-o", tmp_path / "out")
    assert code == 1
    assert "--resume" in err
    assert "Traceback" not in err


# ---------------------------------------------------------------- runs that diverge


def finite_and_good(folder: Path) -> None:
    """What a run left can be gone on with: no number in it is broken."""
    for path in (folder / "checkpoints").glob("*"):
        weights = read_checkpoint(path)["objective"]
        assert all(tensor.isfinite().all() for tensor in weights.values()), path
        logits = weights["student.fc.weight"] @ torch.ones(weights["student.fc.weight"].shape[1])
        assert logits.isfinite().all(), path
    for line in runs.read_lines(folder / runs.METRICS):
        assert line["validation_loss"] is not None, "an epoch whose loss is not finite counts as good"


def test_a_run_that_diverges_at_once(dotkd, tmp_path) -> None:
    folder = tmp_path / "out"
    overrides = ["student.model=small/mlp16", "schedule.epochs=2", "optimizer.lr=1e30"]
    code, _, err = dotkd("train", PLAIN, *overrides, "-o", folder)
    assert code == 1
    assert err.startswith("dotkd: step 2: task loss nan: the run has diverged. Try a lower optimizer.lr")
    assert "optimizer.lr" in err
    assert "Traceback" not in err
    assert not runs.is_finished(folder)
    assert not list(folder.glob("checkpoints/*"))
    assert runs.read_lines(folder / runs.METRICS) == []


@pytest.mark.parametrize("epochs", [1, 2])
def test_a_run_that_diverges_in_the_last_step_of_an_epoch(dotkd, tmp_path, epochs: int) -> None:
    folder = tmp_path / "out"
    overrides = [TINY[0], f"schedule.epochs={epochs}", "optimizer.lr=1e30", "data.batch_size=1200"]
    code, _, err = dotkd("train", PLAIN, *overrides, "-o", folder)
    assert code == 1
    assert "diverged" in err
    assert not (folder / runs.STUDENT).exists()
    assert not (folder / runs.RESULTS).exists()
    finite_and_good(folder)


@pytest.mark.slow
def test_a_diverging_arm_leaves_the_others_alone(dotkd, tmp_path) -> None:
    good, bad = tmp_path / "good.toml", tmp_path / "bad.toml"
    good.write_text(f'extends = "{PLAIN}"\nname = "good"\n', encoding="utf-8")
    bad.write_text(f'extends = "{PLAIN}"\nname = "bad"\n[optimizer]\nlr = 1e30\n', encoding="utf-8")
    code, out, err = dotkd("compare", bad, good, *TINY, "--seeds", "1", "-o", tmp_path / "out")
    assert code == 1
    assert "failed: bad, seed 0:" in out + err
    assert "diverged" in out + err
    assert [run.name for run in runs.find_runs(tmp_path / "out")] == ["good"]
    assert (tmp_path / "out" / "report.html").is_file()


# ---------------------------------------------------------------- commands that go well


@pytest.mark.slow
def test_train_resume_report_evaluate_and_export_of_a_finished_run(
    dotkd, content, finished, tmp_path
) -> None:
    run = Path(shutil.copytree(finished, tmp_path / "run"))
    before = content(run)
    assert dotkd("train", PLAIN, *TINY, "-o", run, "--resume")[::2] == (0, "")
    code, out, err = dotkd("evaluate", run)
    results = json.loads((run / runs.RESULTS).read_text(encoding="utf-8"))
    assert (code, err) == (0, "")
    assert f"{100 * results['last']['test_accuracy']:.2f} %" in out
    assert content(run) == before
    code, out, err = dotkd("export", run, "-o", tmp_path / "s")
    assert (code, err) == (0, "")
    assert "largest relative difference of a logit" in out.replace("\n", " ")
    assert dotkd("report", run)[::2] == (0, "")
    written = {str(name) for name in content(run).keys() - before.keys()}
    tables = {name for name in written if name.startswith("tables")}
    figures = {name for name in written if name.startswith("figures")}
    assert written - tables - figures == {"report.html", "report.md"}
    assert "tables/results.csv" in tables
    assert "figures/accuracy.svg" in figures


@pytest.mark.slow
@pytest.mark.parametrize("name", ["[/x]", "[bold]x", "50 %", "a/../b", ":smile:", "\\"])
def test_a_name_is_a_text_and_no_markup(dotkd, tmp_path, name: str) -> None:
    folder = tmp_path / "out"
    code, out, err = dotkd("compare", PLAIN, *TINY, f"name='{name}'", "--seeds", "1", "-o", folder)
    assert (code, err) == (0, "")
    assert name in out
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out"]
    code, out, err = dotkd("train", PLAIN, *TINY, f"name='{name}'", "-o", tmp_path / "run")
    assert (code, err) == (0, "")
    assert f"{name}, seed 0" in out


def test_shown_recipe_can_be_trained_as_it_is(dotkd, tmp_path) -> None:
    from dotkd.recipe import load_recipe

    code, out, err = dotkd("recipes", "show", "quick/digits-kd-dot", "optimizer.delta=0.05")
    assert (code, err) == (0, "")
    (tmp_path / "r.toml").write_text(out, encoding="utf-8")
    assert load_recipe(tmp_path / "r.toml") == load_recipe("quick/digits-kd-dot", ["optimizer.delta=0.05"])


def test_main_is_the_entry_point() -> None:
    from importlib.metadata import entry_points

    (entry,) = entry_points(group="console_scripts", name="dotkd")
    assert entry.load() is cli.main
