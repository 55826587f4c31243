"""What ``analyze`` writes beside a run agrees with the run, and what it cannot measure it says."""

import json
import math
import shutil
import sys

import pytest
import torch

from dotkd import runs
from dotkd.analyze import PARTS, analyze
from dotkd.build import build_data
from dotkd.compare import compare
from dotkd.errors import BadInput
from dotkd.networks import load_student
from dotkd.recipe import load_recipe
from dotkd.runs import ANALYSIS
from dotkd.train.evaluate import evaluate
from dotkd.train.loop import train
from dotkd.train.teacher import provide_teacher

SHORT = ["schedule.epochs=3", "student.model=small/mlp16"]
METHODS = {"kd": [], "crd": ["method.name=crd", "method.negatives=16"], "simkd": ["method.name=simkd"]}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A comparison of a plain student and KD + DOT, and the analysis of its first runs."""
    folder = tmp_path_factory.mktemp("comparison")
    assert (
        compare([load_recipe(f"quick/digits-{name}", SHORT) for name in ("plain", "kd-dot")], 1, folder) == []
    )
    for arm in ("plain", "kd-dot"):
        analyze(folder / arm / "seed-0", images=150, grid=3)
    return folder


def told(folder, arm):
    return json.loads((folder / arm / "seed-0" / ANALYSIS).read_text())


def test_the_middle_of_the_surface_is_the_student(folder):
    found = told(folder, "kd-dot")
    student, recipe = load_student(folder / "kd-dot" / "seed-0")
    held_out = build_data(recipe.data).validation
    order = torch.randperm(200, generator=torch.Generator().manual_seed(0))
    assert (found["epoch"], found["split"], found["images"]) == (3, "validation", 150)
    assert len(order) == len(held_out)
    surface = found["landscape"]
    assert surface["steps"] == [-1.0, 0.0, 1.0]
    assert surface["task"][1][1] == pytest.approx(found["quality"]["nll"], rel=1e-5)
    total = 0.1 * surface["task"][1][1] + 0.9 * surface["distill"][1][1]
    assert surface["total"][1][1] == pytest.approx(total, rel=1e-5)
    assert evaluate(student, held_out).loss == pytest.approx(
        surface["task"][1][1], rel=0.3
    )  # 150 of 200 images


def test_a_plain_student_has_no_distillation_loss(folder):
    found = told(folder, "plain")
    assert "distill" not in found["landscape"]
    assert set(found["sharpness"]) == {"task"}
    assert "agreement" not in found["quality"]


def test_every_number_is_finite_and_in_range(folder):
    for arm in ("plain", "kd-dot"):
        found = told(folder, arm)
        for curvature in found["sharpness"].values():
            values = [
                *curvature["eigenvalues"],
                curvature["trace"],
                curvature["trace_error"],
                curvature["epsilon_sharpness"],
            ]
            assert all(map(math.isfinite, values))
            assert curvature["eigenvalues"] == sorted(curvature["eigenvalues"], key=abs, reverse=True)
            assert curvature["epsilon_sharpness"] > 0
        robustness = found["quality"]["robustness"]
        assert all(0 <= share <= 1 for kind in robustness for share in robustness[kind] if kind != "fgsm")
        assert robustness["fgsm"]["accuracy"] <= robustness["gaussian_noise"][0] + 0.05
        assert sum(found["quality"]["reliability"]["count"]) == 150
        assert found["cost"]["parameters"] == runs.read_run(folder / arm / "seed-0").results["parameters"]


def test_the_run_itself_stays_as_it_was(folder):
    run = folder / "kd-dot" / "seed-0"
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file() and path.name != ANALYSIS}
    analyze(run, parts=["cost"], images=50)
    assert before == {path: path.read_bytes() for path in before}
    assert set(PARTS) <= set(told(folder, "kd-dot")), "what was found before is kept"


@pytest.mark.parametrize("name", METHODS)
def test_learned_parts_come_back_with_the_run(name, tmp_path):
    given = ["schedule.epochs=1", "student.model=small/cnn4", *METHODS[name]]
    recipe = load_recipe("quick/digits-kd-dot", given)
    teacher_recipe = tmp_path / "teacher.toml"
    teacher_recipe.write_text(
        'extends = "quick/digits-teacher"\nstudent.model = "small/cnn8"\nschedule.epochs = 1\n'
    )
    recipe = recipe.model_copy(
        update={"teacher": recipe.teacher.model_copy(update={"recipe": str(teacher_recipe)})}
    )
    teacher = provide_teacher(recipe, tmp_path / "run" / "teacher")
    train(recipe, tmp_path / "run", teacher=teacher)
    found = analyze(tmp_path / "run", images=64, grid=3)
    assert ("task" in found["sharpness"]) == (name != "simkd")
    assert found == analyze(tmp_path / "run", images=64, grid=3) | {"cost": found["cost"]}


def test_what_cannot_be_analyzed(folder, tmp_path):
    with pytest.raises(BadInput, match="not the folder of a finished run"):
        analyze(tmp_path)
    run = folder / "kd-dot" / "seed-0"
    with pytest.raises(BadInput, match=r"unknown part 'landscap' \(known: landscape"):
        analyze(run, parts=["landscap"])
    with pytest.raises(BadInput, match="grid must be an odd number of at least 3, got 4"):
        analyze(run, grid=4)
    shutil.copytree(run, tmp_path / "away" / "kd-dot" / "seed-0")
    with pytest.raises(BadInput, match=r"its teacher \(checksum [0-9a-f]{16}\) is in none of"):
        analyze(tmp_path / "away" / "kd-dot" / "seed-0")


def test_the_command_line(folder, capsys, monkeypatch):
    from dotkd.cli import main

    run = str(folder / "plain" / "seed-0")
    monkeypatch.setattr(sys, "argv", ["dotkd", "analyze", run, "--parts", "cost", "--images", "20"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert not ended.value.code, capsys.readouterr().err
    assert "analysis.json" in capsys.readouterr().out
