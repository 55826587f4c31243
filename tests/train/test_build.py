"""Runs are built once, and the optimizers of recipes are the ones that they name."""

import collections
import json
import sys

import pytest
import torch

import dotkd.train.loop
from dotkd.errors import BadInput
from dotkd.methods import Method
from dotkd.optim import DOT, DOTAdamW, MultiMomentumSGD
from dotkd.recipe import load_recipe
from dotkd.runs import ENVIRONMENT, LAST, METRICS, STUDENT, read_json
from dotkd.train import build as building
from dotkd.train import build_run, train
from dotkd.train.build import check_recipe
from dotkd.train.loop import provide_teacher
from dotkd.train.state import read_checkpoint, restore

SHORT = ["schedule.epochs=2"]
CONTROL = "quick/digits-kd-control"


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    short = tmp_path_factory.mktemp("recipe") / "teacher.toml"
    short.write_text('extends = "quick/digits-teacher"\n[schedule]\nepochs = 2\n')
    recipe = load_recipe("quick/digits-kd", [f"teacher.recipe={short}"])
    return provide_teacher(recipe, tmp_path_factory.mktemp("teacher") / "run")


def lines(folder):
    found = [json.loads(line) for line in (folder / METRICS).read_text().splitlines()]
    return [{key: value for key, value in line.items() if key != "seconds"} for line in found]


def weights(folder):
    return read_checkpoint(folder / LAST)["objective"]


class Stop(Exception):
    pass


def stop(_):
    raise Stop


# ---------------------------------------------------------------- once


def test_every_part_of_a_run_is_built_once(tmp_path):
    short = tmp_path / "teacher.toml"
    short.write_text('extends = "quick/digits-teacher"\n[schedule]\nepochs = 1\n')
    counted = collections.Counter()

    def count(frame, event, _argument):
        if event == "call" and "dotkd" in frame.f_code.co_filename:
            counted[frame.f_code.co_name] += 1

    recipe = load_recipe("quick/digits-kd", ["schedule.epochs=1", f"teacher.recipe={short}"])
    sys.setprofile(count)
    try:
        train(recipe, tmp_path / "run")
    finally:
        sys.setprofile(None)
    parts = ("data", "student", "method", "distiller", "optimizer", "device")
    assert {part: counted[f"build_{part}"] for part in parts} == dict.fromkeys(parts, 2)  # and its teacher's
    assert counted["build_untrained_teacher"] == 1
    assert counted["data_facts"] <= 2


@pytest.mark.slow
def test_a_teacher_is_trained_by_the_run_of_its_student_and_taken_again(tmp_path, teacher):
    short = tmp_path / "teacher.toml"
    short.write_text('extends = "quick/digits-teacher"\n[schedule]\nepochs = 2\n')
    recipe = load_recipe("quick/digits-kd", [*SHORT, f"teacher.recipe={short}"])
    begun = []
    train(recipe, tmp_path / "first", on_run=begun.append)
    assert [each.name for each in begun] == ["teacher", "KD"]
    train(recipe, tmp_path / "given", teacher=tmp_path / "first" / "teacher" / STUDENT)
    assert (tmp_path / "first" / STUDENT).read_bytes() == (tmp_path / "given" / STUDENT).read_bytes()
    assert lines(tmp_path / "first") == lines(tmp_path / "given")
    (tmp_path / "first" / STUDENT).unlink()
    (tmp_path / "first" / "results.json").unlink()
    begun.clear()
    train(recipe, tmp_path / "first", resume=True, on_run=begun.append)
    assert [each.name for each in begun] == ["KD"]


def test_a_mistake_in_the_student_is_found_before_the_teacher_is_trained(tmp_path):
    recipe = load_recipe("quick/digits-kd", ["student.checkpoint=gone.pth"])
    with pytest.raises(BadInput, match=r"no file .*gone\.pth"):
        train(recipe, tmp_path / "run")
    assert list(tmp_path.iterdir()) == []


LEARNED = ("crd", "fitnet", "ofd", "reviewkd", "simkd", "vid")


@pytest.mark.slow
@pytest.mark.parametrize("method", LEARNED)
def test_learned_parts_made_again_are_those_of_a_teacher_that_was_there(method, tmp_path):
    """A method is prepared with the untrained teacher first, and again when the teacher is trained."""
    short = tmp_path / "teacher.toml"
    short.write_text(
        'extends = "quick/digits-teacher"\n[student]\nmodel = "small/cnn16"\n[schedule]\nepochs = 1\n'
    )
    given = [f"teacher.recipe={short}", f"method.name={method}", "student.model=small/cnn8"]
    given += ["method.negatives=64"] if method == "crd" else []
    recipe = load_recipe("quick/digits-kd", given)
    file = provide_teacher(recipe, tmp_path / "teacher")
    prepared = check_recipe(recipe)
    assert prepared.untrained is not None
    prepared.load_teacher(file)
    again, once = prepared.start(), build_run(recipe, file)
    assert isinstance(once.distiller.method, Method)
    ours, theirs = again.distiller.state_dict(), once.distiller.state_dict()
    assert ours.keys() == theirs.keys()
    for name, tensor in theirs.items():
        torch.testing.assert_close(ours[name], tensor, rtol=0, atol=0, equal_nan=True)
    images = once.data.train.batch(range(8)).images
    assert torch.equal(again.distiller.teach(images).logits, once.distiller.teach(images).logits)


def test_a_teacher_that_is_not_trained_is_asked_for():
    with pytest.raises(BadInput, match=r"of recipe .* is not trained yet"):
        build_run(load_recipe("quick/digits-kd"))


# ---------------------------------------------------------------- optimizers


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "options", "kind", "momenta"),
    [
        ("sgd", [], torch.optim.SGD, (0.9, 0.9)),
        ("dot", ["optimizer.delta=0.05"], DOT, (0.85, 0.95)),
        ("deepkd", ["optimizer.delta=0.05", "method.name=deepkd"], MultiMomentumSGD, (0.95, (0.85, 0.95))),
        ("adamw", ["optimizer.lr=0.001"], torch.optim.AdamW, (0.9, 0.9)),
        ("dot-adamw", ["optimizer.lr=0.001", "optimizer.delta=0.05"], DOTAdamW, (0.85, 0.95)),
    ],
)
def test_any_optimizer_trains_and_resumes(name, options, kind, momenta, teacher, tmp_path):
    recipe = load_recipe("quick/digits-kd", [*SHORT, f"optimizer.name={name}", *options])
    assert type(build_run(recipe, teacher).optimizer) is kind
    train(recipe, tmp_path / "alone", teacher=teacher)
    first, second = lines(tmp_path / "alone")
    assert second["train_task_loss"] < first["train_task_loss"]
    task, distill = momenta
    assert first["task_momentum"] == pytest.approx(task)
    assert first["distill_momentum"] == pytest.approx(
        list(distill) if isinstance(distill, tuple) else distill
    )
    with pytest.raises(Stop):
        train(recipe, tmp_path / "stopped", teacher=teacher, on_epoch=[stop])
    train(recipe, tmp_path / "stopped", teacher=teacher, resume=True)
    assert lines(tmp_path / "stopped") == lines(tmp_path / "alone")
    assert (tmp_path / "stopped" / STUDENT).read_bytes() == (tmp_path / "alone" / STUDENT).read_bytes()


def test_adamw_has_the_options_of_its_table():
    given = [
        "optimizer.name=adamw",
        "optimizer.lr=0.001",
        "optimizer.betas=[0.8, 0.99]",
        "optimizer.eps=1e-6",
    ]
    (group,) = build_run(load_recipe("quick/digits-plain", given)).optimizer.param_groups
    assert [group[key] for key in ("betas", "eps", "weight_decay")] == [(0.8, 0.99), 1e-6, 5e-4]


# ---------------------------------------------------------------- the control


def passes_of(recipe, teacher, folder, monkeypatch):
    """Train; how many backward passes all steps took."""
    count, engine, epoch = [], torch.autograd.backward, dotkd.train.loop.train_epoch

    def counted(*args, **options):
        count.append(1)
        return engine(*args, **options)

    def counted_epoch(*args):
        with monkeypatch.context() as patch:  # diagnostics have passes of their own
            patch.setattr(torch.autograd, "backward", counted)
            return epoch(*args)

    with monkeypatch.context() as patch:
        patch.setattr(dotkd.train.loop, "train_epoch", counted_epoch)
        train(recipe, folder, teacher=teacher)
    return len(count)


@pytest.mark.parametrize("more", [[], ["method.warmup=0.5", "optimizer.nesterov=true"]])
def test_the_control_takes_the_passes_of_kd_and_ends_where_the_one_of_two_streams_does(
    more, teacher, tmp_path, monkeypatch
):
    passes = {
        name: passes_of(
            load_recipe(f"quick/digits-{name}", [*SHORT, *more]), teacher, tmp_path / name, monkeypatch
        )
        for name in ("kd", "kd-control")
    }
    assert passes["kd"] == passes["kd-control"] == 2 * 10
    assert read_json(tmp_path / "kd-control" / ENVIRONMENT)["control"] == "sgd"
    assert "control" not in read_json(tmp_path / "kd" / ENVIRONMENT)
    recipe = load_recipe(CONTROL, [*SHORT, *more])
    with monkeypatch.context() as patch:
        patch.setattr(building, "_one_pass_will_do", lambda *_: False)
        assert passes_of(recipe, teacher, tmp_path / "two", monkeypatch) == 2 * passes["kd"]
    assert read_json(tmp_path / "two" / ENVIRONMENT)["control"] == "two-stream"
    for name, tensor in weights(tmp_path / "two").items():
        torch.testing.assert_close(weights(tmp_path / "kd-control")[name], tensor, rtol=1e-4, atol=1e-5)
    for one, other in zip(lines(tmp_path / "two"), lines(tmp_path / "kd-control"), strict=True):
        assert one["task_momentum"] == other["distill_momentum"] == 0.9
        for key in ("train_weighted_task_loss", "gradient_norm_ratio", "validation_loss"):
            assert one[key] == pytest.approx(other[key], rel=1e-3)


@pytest.mark.parametrize(
    "given",
    [
        ["method.name=sp", "student.model=small/cnn4"],
        ["optimizer.clip_grad_norm=1.0"],
        ["method.task_weight=0.0"],
    ],
    ids=["classifier reached by one loss", "clipped", "one loss"],
)
def test_elsewhere_the_control_has_two_streams(given, teacher):
    from dotkd.train.networks import build_model

    recipe = load_recipe(CONTROL, given)
    network = build_model("small/cnn8", recipe.student, recipe.data.facts())
    run = build_run(recipe, network if "method.name=sp" in given else teacher)
    assert run.gains is None
    assert isinstance(run.optimizer, DOT)
    assert run.optimizer.param_groups[0]["task_gain"] == pytest.approx(0.1 / 0.175)


def test_a_control_resumes_to_the_same_bits(teacher, tmp_path):
    recipe = load_recipe(CONTROL, SHORT)
    train(recipe, tmp_path / "alone", teacher=teacher)
    with pytest.raises(Stop):
        train(recipe, tmp_path / "stopped", teacher=teacher, on_epoch=[stop])
    train(recipe, tmp_path / "stopped", teacher=teacher, resume=True)
    assert lines(tmp_path / "stopped") == lines(tmp_path / "alone")
    assert (tmp_path / "stopped" / STUDENT).read_bytes() == (tmp_path / "alone" / STUDENT).read_bytes()


def test_a_control_of_another_form_is_refused(teacher, tmp_path, monkeypatch):
    recipe = load_recipe(CONTROL, SHORT)
    with monkeypatch.context() as patch:
        patch.setattr(building, "_one_pass_will_do", lambda *_: False)
        with pytest.raises(Stop):
            train(recipe, tmp_path, teacher=teacher, on_epoch=[stop])
    with pytest.raises(BadInput, match="control as 'two-stream', which is now 'sgd'"):
        train(recipe, tmp_path, teacher=teacher, resume=True)


def test_the_kernel_is_chosen_by_the_device_of_the_resumed_run(teacher, tmp_path):
    for name in ("digits-kd", "digits-kd-dot"):
        recipe, folder = load_recipe(f"quick/{name}", SHORT), tmp_path / name
        with pytest.raises(Stop):
            train(recipe, folder, teacher=teacher, on_epoch=[stop])
        state = read_checkpoint(folder / LAST)
        for group in state["optimizer"]["param_groups"]:
            assert group["fused"] is None
            group["fused"] = True  # as of a run on a GPU
        torch.save(state, folder / LAST)
        run = build_run(recipe, teacher)
        restore(run, folder)
        assert [group["fused"] for group in run.optimizer.param_groups] == [None]
