"""A run that goes on is the same run: the same data, the same teacher, one process at a time."""

import json
import subprocess
import sys

import pytest
import torch

from dotkd.data import Splits
from dotkd.errors import BadInput
from dotkd.recipe import load_recipe
from dotkd.runs import ENVIRONMENT, STUDENT, locked
from dotkd.train import build
from dotkd.train.build import check_recipe
from dotkd.train.loop import provide_teacher, train
from dotkd.train.networks import build_student, load_student
from dotkd.train.teacher import teacher_recipe


class Stop(Exception):
    pass


def stop(_):
    raise Stop


def short(name, *overrides):
    return load_recipe(f"quick/digits-{name}", ["schedule.epochs=2", *overrides])


@pytest.fixture(scope="module")
def teachers(tmp_path_factory):
    folder = tmp_path_factory.mktemp("teachers")
    for width in (16, 64):
        train(short("teacher", f"student.model=small/mlp{width}"), folder / str(width))
    return {width: folder / str(width) / STUDENT for width in (16, 64)}


def test_a_run_does_not_go_on_with_another_teacher(teachers, tmp_path):
    with pytest.raises(Stop):
        train(short("kd"), tmp_path / "run", teacher=teachers[16], on_epoch=[stop])
    with pytest.raises(BadInput, match="teacher: not what it was when this run began"):
        train(short("kd"), tmp_path / "run", teacher=teachers[64], resume=True)
    train(short("kd"), tmp_path / "run", teacher=teachers[16], resume=True)
    with pytest.raises(BadInput, match="holds a finished run with another teacher"):
        train(short("kd"), tmp_path / "run", teacher=teachers[64], resume=True)


def test_a_run_does_not_go_on_with_other_data(tmp_path, monkeypatch):
    with pytest.raises(Stop):
        train(short("plain"), tmp_path / "run", on_epoch=[stop])
    load = build.build_data

    def swapped(table):
        splits = load(table)
        return Splits(splits.train.subset(range(len(splits.train) - 1)), splits.validation, splits.test)

    monkeypatch.setattr(build, "build_data", swapped)
    with pytest.raises(BadInput, match="train: not what it was when this run began"):
        train(short("plain"), tmp_path / "run", resume=True)


def test_another_machine_is_written_down(tmp_path):
    folder = tmp_path / "run"
    with pytest.raises(Stop):
        train(short("plain"), folder, on_epoch=[stop])
    path = folder / ENVIRONMENT
    path.write_text(json.dumps({**json.loads(path.read_text()), "threads": 64, "made_for": None}))
    train(short("plain"), folder, resume=True)
    found = json.loads(path.read_text())
    assert found["threads"] == 64
    assert found["resumed"] == [{"epoch": 1, "threads": 1}]


@pytest.mark.slow
def test_two_processes_do_not_run_in_one_folder(tmp_path):
    with locked(tmp_path):
        code = (
            "import sys; from pathlib import Path; from dotkd.runs import locked\n"
            "try:\n    with locked(Path(sys.argv[1])): pass\nexcept ValueError as e: print(e)"
        )
        run = [sys.executable, "-c", code, str(tmp_path)]
        other = subprocess.run(run, capture_output=True, text=True, check=True)
        assert "another process is running here" in other.stdout
    assert subprocess.run(run, capture_output=True, text=True, check=True).stdout == ""


def test_a_teacher_never_sees_the_images_that_the_student_is_judged_on():
    made = teacher_recipe(short("kd", "data.seed=3", "data.validation=150"))
    assert (made.data.seed, made.data.validation, made.data.label_noise) == (3, 150, 0.0)


def test_the_teacher_of_other_data_is_refused(teachers):
    recipe = load_recipe("quick/cifar100-cpu-kd", [f"teacher.checkpoint={teachers[16]}"])
    with pytest.raises(BadInput, match=r"learned from digits, the student's data is cifar100"):
        check_recipe(recipe)


def test_a_last_batch_of_one_and_batch_norm_are_refused():
    recipe = short("plain", "student.model=small/cnn4", "data.batch_size=109")
    with pytest.raises(BadInput, match=r"data\.batch_size: 109 leaves one of 1200 images for the last batch"):
        check_recipe(recipe)
    check_recipe(short("plain", "data.batch_size=109"))  # an MLP has no batch norm


def test_weights_of_another_normalisation_are_refused(tmp_path):
    train(short("plain", "student.mean=[0.3]", "student.std=[0.4]"), tmp_path / "run")
    start = f"student.checkpoint={tmp_path / 'run' / STUDENT}"
    with pytest.raises(BadInput, match=r"was trained with student.mean = \[0\.3\], the recipe has \[\]"):
        build_student(short("plain", start))
    student = build_student(short("plain", start, "student.mean=[0.3]", "student.std=[0.4]"))
    assert torch.equal(student.fc.weight, load_student(tmp_path / "run")[0].fc.weight)


@pytest.mark.slow
def test_a_teacher_in_its_place_is_taken_again(tmp_path):
    provide_teacher(short("kd"), tmp_path / "teacher")
    before = (tmp_path / "teacher" / STUDENT).stat().st_mtime_ns
    provide_teacher(short("kd-dot"), tmp_path / "teacher")
    assert (tmp_path / "teacher" / STUDENT).stat().st_mtime_ns == before


def test_files_can_be_read_by_others(tmp_path):
    train(short("plain"), tmp_path / "run")
    modes = {
        path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "run").iterdir() if path.is_file()
    }
    assert len(set(modes.values())) == 1, modes


def test_a_published_checkpoint_teaches_when_its_model_is_named(tmp_path):
    teacher = build_student(short("teacher"))
    torch.save({"epoch": 240, "model": teacher.state_dict()}, tmp_path / "teacher.pth")
    given = [
        f"teacher.checkpoint={tmp_path / 'teacher.pth'}",
        "teacher.model=small/mlp256",
        "teacher.verify=false",
    ]
    recipe = short("kd", *given)
    check_recipe(recipe)
    train(recipe, tmp_path / "run")
    with pytest.raises(BadInput, match=r"teacher\.pth: does not fit MLP"):
        check_recipe(short("kd", given[0], "teacher.model=small/mlp16"))
    with pytest.raises(BadInput, match=r"teacher.model"):
        check_recipe(short("kd", given[0]))


@pytest.mark.slow
def test_a_file_does_not_decide_what_code_is_run(tmp_path, monkeypatch):
    (tmp_path / "mynet.py").write_text(
        "import torch\n\n\ndef make(num_classes):\n"
        "    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, num_classes))\n"
    )
    monkeypatch.chdir(tmp_path)
    train(short("plain", "student.model=mynet:make"), tmp_path / "run")
    with pytest.raises(BadInput, match=r"made by the function 'mynet:make', .*--recipe"):
        load_student(tmp_path / "run")
