"""Every method in real runs on digits, with each optimizer: losses, resuming, bfloat16, what is kept."""

import json
import math

import pytest
import torch

from dotkd import runs
from dotkd.errors import BadInput
from dotkd.methods import Method, has_teacher, method_names
from dotkd.recipe import load_recipe
from dotkd.train.build import build_data, build_method, build_run
from dotkd.train.differentiate import differentiate
from dotkd.train.loop import train
from dotkd.train.networks import load_student
from dotkd.train.scores import score
from dotkd.train.state import read_checkpoint
from dotkd.train.step import train_epoch

# Steps of a size that suits the scale of a method's gradient on these few images.
OPTIONS = {"crd": ["method.negatives=64", "optimizer.lr=0.005"], "mlkd": ["optimizer.lr=0.003"]}
LEARNED = ("crd", "fitnet", "ofd", "reviewkd", "simkd", "vid")
METHODS = [name for name in method_names() if has_teacher(name)]
NO_TEACHER = [name for name in method_names() if not has_teacher(name)]
OPTIMIZERS = ("sgd", "dot", "control")


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    folder = tmp_path_factory.mktemp("teacher") / "run"
    train(load_recipe("quick/digits-teacher", ["student.model=small/cnn16", "schedule.epochs=6"]), folder)
    return folder / runs.STUDENT


def recipe_of(method, optimizer, teacher, *more):
    plain = ["data.batch_size=64", "schedule.epochs=2", "student.model=small/cnn8", "data.label_noise=0"]
    given = [*plain, f"teacher.checkpoint={teacher}", f"method.name={method}", f"optimizer.name={optimizer}"]
    delta = [] if optimizer == "sgd" else ["optimizer.delta=0.075"]
    given += [*delta, "optimizer.lr=0.02", *OPTIONS.get(method, [])]
    return load_recipe("quick/digits-kd", [*given, *more])


def lines(folder):
    found = [json.loads(line) for line in (folder / runs.METRICS).read_text().splitlines()]
    return [{key: value for key, value in line.items() if key != "seconds"} for line in found]


class Stop(Exception):
    pass


def stop(_):
    raise Stop


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("method", METHODS)
def test_two_epochs(method, optimizer, teacher, tmp_path):
    recipe = recipe_of(method, optimizer, teacher)
    results = train(recipe, tmp_path / "run")
    first, second = lines(tmp_path / "run")
    for line in (first, second):
        assert all(math.isfinite(line[key]) for key in ("train_task_loss", "train_distill_loss"))
    assert second["train_distill_loss"] < first["train_distill_loss"]
    student, _ = load_student(tmp_path / "run")
    test = build_data(recipe.data).test
    assert score(student, test).accuracy == results.last.test_accuracy


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_stopped_and_resumed(method, teacher, tmp_path):
    recipe = recipe_of(method, "dot", teacher, "data.augment=crop-flip:1")
    train(recipe, tmp_path / "alone")
    for _ in range(2):
        with pytest.raises(Stop):
            train(recipe, tmp_path / "stopped", resume=True, on_epoch=[stop])
        torch.rand(3)
    train(recipe, tmp_path / "stopped", resume=True)
    assert lines(tmp_path / "stopped") == lines(tmp_path / "alone")
    files = [(tmp_path / name / runs.STUDENT).read_bytes() for name in ("stopped", "alone")]
    assert files[0] == files[1]
    ends = [read_checkpoint(tmp_path / name / runs.LAST)["objective"] for name in ("stopped", "alone")]
    assert ends[0].keys() == ends[1].keys()
    assert all(torch.equal(value, ends[1][key]) for key, value in ends[0].items())


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_bfloat16_stays_finite(method, teacher, tmp_path):
    train(recipe_of(method, "dot", teacher, "run.precision=bf16", "schedule.epochs=1"), tmp_path / "run")
    assert all(math.isfinite(lines(tmp_path / "run")[0][f"train_{key}_loss"]) for key in ("task", "distill"))


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_learned_parts_are_kept_with_the_run_and_not_shipped(method, teacher, tmp_path):
    recipe = recipe_of(method, "sgd", teacher, "schedule.epochs=1")
    train(recipe, tmp_path / "run")
    kept = read_checkpoint(tmp_path / "run" / runs.LAST)["objective"]
    assert any(key.startswith("method.") for key in kept) == (method in LEARNED)
    shipped = load_student(tmp_path / "run")[0].state_dict()
    student = {
        key.removeprefix("student."): value for key, value in kept.items() if key.startswith("student.")
    }
    if method == "simkd":
        student = {f"student.{key}": value for key, value in student.items()}
        student |= {
            key.removeprefix("method."): value for key, value in kept.items() if key.startswith("method.")
        }
    assert shipped.keys() == student.keys()
    assert all(torch.equal(value, student[key]) for key, value in shipped.items())


@pytest.mark.parametrize("method", METHODS)
def test_who_reaches_what(method, teacher):
    """The classifier under feature methods: the task alone; learned parts: the distillation alone."""
    recipe = recipe_of(method, "dot", teacher)
    with torch.random.fork_rng():
        session = build_run(recipe, teacher)
        data = session.data.train.batch(range(16))
        losses = session.distiller(data.images, data.labels, index=data.index, progress=0.5)
        differentiate(session.optimizer, losses)
    names = {parameter: name for name, parameter in session.distiller.named_parameters()}
    reached = {
        names[p]: (task is not None, distill is not None)
        for p, task, distill in session.optimizer.gradients()
    }
    needs = build_method(recipe).needs
    for name, (task, distill) in reached.items():
        if name.startswith("method.") or method == "simkd":  # whose task loss has no weight
            assert (task, distill) == (False, not name.startswith("student.fc")), name
        elif name.startswith("student.fc") and "logits" not in needs:
            assert (task, distill) == (True, False), name
    both = [name for name, reach in reached.items() if reach == (True, True)]
    assert any(name.startswith("student.stages") for name in both) == (method != "simkd")


@pytest.mark.slow
@pytest.mark.parametrize("name", NO_TEACHER)
def test_baselines_without_a_teacher(name, tmp_path):
    given = ["student.model=small/cnn8", "schedule.epochs=2", f"method.name={name}", "data.label_noise=0"]
    train(load_recipe("quick/digits-plain", given), tmp_path / "run")
    first, second = lines(tmp_path / "run")
    assert second["train_task_loss"] < first["train_task_loss"]
    assert second["train_weighted_task_loss"] != second["train_task_loss"]
    assert second["train_distill_loss"] is None
    with pytest.raises(
        BadInput, match=f"optimizer 'dot' needs two losses, but method '{name}' has one: use 'sgd'"
    ):
        load_recipe("quick/digits-plain", [*given, "optimizer.name=dot", "optimizer.delta=0.05"])
    with pytest.raises(BadInput, match=f"method '{name}' has no teacher: leave \\[teacher\\] out"):
        load_recipe("quick/digits-kd", [f"method.name={name}"])


@pytest.mark.slow
@pytest.mark.parametrize("as_released", ["false", "true"])
def test_deepkd_gives_each_of_its_losses_a_momentum(as_released, teacher, tmp_path):
    recipe = recipe_of("deepkd", "deepkd", teacher, f"optimizer.as_released={as_released}")
    train(recipe, tmp_path / "run")
    task = 0.825 if as_released == "true" else 0.975
    assert lines(tmp_path / "run")[0]["task_momentum"] == pytest.approx(task)
    assert lines(tmp_path / "run")[0]["distill_momentum"] == pytest.approx([0.825, 0.975])
    with pytest.raises(BadInput, match="optimizer 'deepkd' is for the three losses of method 'deepkd'"):
        recipe_of("kd", "deepkd", teacher)


@pytest.mark.slow
def test_a_method_that_reads_one_class_refuses_mixed_labels(teacher, tmp_path):
    with pytest.raises(BadInput, match=r"data.augment: 'mixup:0.2' mixes images, and DKD reads the class"):
        train(recipe_of("dkd", "dot", teacher, "data.augment=mixup"), tmp_path / "run")
    train(
        recipe_of("kd", "dot", teacher, "data.augment=['flip','mixup']", "schedule.epochs=1"),
        tmp_path / "run",
    )
    assert 0 < lines(tmp_path / "run")[0]["train_accuracy"] < 1


@pytest.mark.slow
def test_a_recipe_may_say_where_the_features_are(teacher, tmp_path):
    places = ["student.stages=['stages.0.0','stages.2']", "teacher.stages=['stages.0.0','stages.2']"]
    recipe = recipe_of("at", "dot", teacher, *places)
    with torch.random.fork_rng():
        session = build_run(recipe, teacher)
        train_epoch(session)
    assert session.distiller.student_paths == {"stages.0": "stages.0.0", "stages.1": "stages.2"}
    with pytest.raises(BadInput, match=r"no submodule 'stages.9'; nearest: 'stages"):
        train(recipe_of("sp", "dot", teacher, "student.last=stages.9"), tmp_path / "run")
    with pytest.raises(BadInput, match="tap 'last'"):
        train(recipe_of("kd", "dot", teacher, "student.last=stages.2"), tmp_path / "run")


def test_every_method_is_one_of_the_two_kinds():
    assert {
        "kd",
        "dkd",
        "at",
        "nst",
        "pkt",
        "rkd",
        "sp",
        "kdsvd",
        "vid",
        "fitnet",
        "reviewkd",
        "ofd",
        "crd",
    } <= {*METHODS}
    assert {"dist", "nkd", "mlkd", "simkd", "deepkd"} <= {*METHODS}
    assert NO_TEACHER == ["label_smoothing", "tf_kd"]
    assert all(
        issubclass(type(build_method(recipe_of(name, "sgd", "x.safetensors"))), Method) for name in METHODS
    )


@pytest.mark.slow
def test_the_best_epoch_of_a_deployable_can_be_measured(teacher, tmp_path):
    recipe = recipe_of("simkd", "sgd", teacher)
    results = train(recipe, tmp_path / "run")
    student, _ = load_student(tmp_path / "run" / runs.BEST)
    assert score(student, build_data(recipe.data).test).accuracy == results.best.test_accuracy


@pytest.mark.slow
def test_a_run_goes_on_on_another_machine(teacher, tmp_path):
    with pytest.raises(Stop):
        train(recipe_of("kd", "dot", teacher), tmp_path / "run", on_epoch=[stop])
    train(recipe_of("kd", "dot", teacher, "run.threads=2", "run.device=cpu"), tmp_path / "run", resume=True)
    with pytest.raises(BadInput, match=r"differs in optimizer\.lr"):
        train(recipe_of("kd", "dot", teacher, "optimizer.lr=0.5"), tmp_path / "run", resume=True)
