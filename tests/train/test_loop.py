"""What a run leaves behind, and what its numbers mean."""

import json
import math

import pytest
import torch
from torch.nn.functional import cross_entropy

from dotkd import Distiller
from dotkd.errors import BadInput, RunFailed
from dotkd.methods import create_method
from dotkd.optim import DOT
from dotkd.recipe import load_recipe, recipe_text
from dotkd.runs import (
    BEST,
    ENVIRONMENT,
    GRADIENTS,
    LAST,
    METRICS,
    RECIPE,
    RESULTS,
    STUDENT,
    read_lines,
    read_run,
)
from dotkd.seeding import random_stream
from dotkd.train.build import build_data, build_run
from dotkd.train.diagnostics import diagnose
from dotkd.train.loop import provide_teacher, train
from dotkd.train.networks import build_student, load_student
from dotkd.train.scores import score
from dotkd.train.step import train_epoch
from dotkd.train.teacher import teacher_recipe

SHORT = ["schedule.epochs=3"]


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    return provide_teacher(load_recipe("quick/digits-kd"), tmp_path_factory.mktemp("teacher") / "run")


def kd(optimizer, *overrides):
    name = {"sgd": "digits-kd", "dot": "digits-kd-dot", "control": "digits-kd-control"}[optimizer]
    return load_recipe(f"quick/{name}", [*SHORT, *overrides])


@pytest.fixture(scope="module")
def run(tmp_path_factory, teacher):
    folder = tmp_path_factory.mktemp("run") / "dot"
    train(kd("dot"), folder, teacher=teacher)
    return folder


def test_the_folder_holds_what_it_promises(run):
    files = {path.relative_to(run).as_posix() for path in run.rglob("*") if path.is_file()}
    assert files == {RECIPE, ENVIRONMENT, METRICS, GRADIENTS, RESULTS, STUDENT, LAST, BEST}
    record = read_run(run)
    assert record.recipe_text == recipe_text(kd("dot"))
    assert [line.epoch for line in record.metrics] == [1, 2, 3]
    assert record.environment["torch"] == torch.__version__
    assert record.environment["threads"] == 1


def test_the_student_is_the_one_of_the_last_epoch_and_knows_its_recipe(run):
    student, recipe = load_student(run)
    assert recipe == kd("dot")
    assert not student.training
    quality = score(student, build_data(recipe.data).test)
    last = read_run(run).results.last.model_dump()
    assert (quality.accuracy, quality.loss) == (last["test_accuracy"], last["test_loss"])
    assert last["validation_accuracy"] == read_run(run).metrics[-1].validation_accuracy


def test_the_best_epoch_is_the_first_with_the_highest_validation_accuracy(run):
    record = read_run(run)
    found = [line.validation_accuracy for line in record.metrics]
    assert record.results.best.epoch == found.index(max(found)) + 1
    assert record.results.best.validation_accuracy == max(found)


def test_without_a_validation_split_there_is_no_best_epoch(tmp_path):
    recipe = load_recipe("quick/digits-plain", [*SHORT, "data.validation=0"])
    results = train(recipe, tmp_path / "run")
    assert results.best is None
    assert results.last.validation_accuracy is None
    assert not (tmp_path / "run" / BEST).exists()


@pytest.mark.slow
def test_momenta_and_losses_of_each_arm(teacher, tmp_path):
    momenta = {"sgd": (0.9, 0.9), "dot": (0.825, 0.975), "control": (0.9, 0.9)}
    for optimizer, expected in momenta.items():
        train(kd(optimizer), tmp_path / optimizer, teacher=teacher)
        line = read_run(tmp_path / optimizer).metrics[0].model_dump()
        assert (line["task_momentum"], line["distill_momentum"]) == pytest.approx(expected)
        assert line["train_weighted_task_loss"] == pytest.approx(0.1 * line["train_task_loss"], rel=1e-5)
        assert line["train_weighted_distill_loss"] == pytest.approx(
            0.9 * line["train_distill_loss"], rel=1e-5
        )
    plain = train(load_recipe("quick/digits-plain", SHORT), tmp_path / "plain")
    line = read_run(tmp_path / "plain").metrics[0].model_dump()
    assert plain.name == "plain"
    assert [line[key] for key in ("train_distill_loss", "distill_momentum", "gradient_cosine")] == [None] * 3


def test_arms_of_a_seed_start_from_the_same_student_and_see_the_same_batches():
    students = [build_student(kd(optimizer)).state_dict() for optimizer in ("sgd", "dot", "control")]
    for other in students[1:]:
        assert all(torch.equal(students[0][name], other[name]) for name in other)
    other = build_student(kd("sgd", "run.seed=1")).state_dict()
    assert not torch.equal(students[0]["fc.weight"], other["fc.weight"])


def test_a_run_is_the_loop_a_user_would_write(teacher, run, tmp_path):
    recipe = kd("dot")
    data, student = build_data(recipe.data), build_student(recipe)
    distiller = Distiller(student, load_student(teacher)[0], create_method(**recipe.method))
    opt = DOT(distiller.trainable_parameters(), lr=0.05, delta=0.075, weight_decay=5e-4)
    order = random_stream(0, "order")
    sums = torch.zeros(2, dtype=torch.float64)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    for _ in range(3):
        sums.zero_()
        for batch in data.train.batches(128, generator=order):
            losses = distiller(batch.images, batch.labels)
            opt.backward(task=losses.task, distill=losses.distill)
            opt.step()
            opt.zero_grad()
            sums += len(batch) * torch.stack([losses.raw_task, losses.raw_distill]).double()
    torch.set_num_threads(threads)
    trained = load_student(run)[0].state_dict()
    assert all(torch.equal(value, trained[name]) for name, value in student.state_dict().items())
    line = read_run(run).metrics[-1].model_dump()
    means = (sums / len(data.train)).tolist()
    assert [line["train_task_loss"], line["train_distill_loss"]] == pytest.approx(means, rel=1e-6)


def test_cosine_and_ratio_are_those_of_the_probe_batch(teacher, run):
    recipe = kd("dot")
    data, student = build_data(recipe.data), load_student(run)[0]
    distiller = Distiller(student, load_student(teacher)[0], create_method(**recipe.method)).eval()
    stream = random_stream(recipe.data.seed, "data.probe")
    batch = data.train.batch(torch.randperm(len(data.train), generator=stream)[:256])
    losses = distiller(batch.images, batch.labels)
    gradients = [
        torch.cat(
            [g.flatten() for g in torch.autograd.grad(loss, list(student.parameters()), retain_graph=True)]
        )
        for loss in (losses.task, losses.distill)
    ]
    norms = [gradient.norm() for gradient in gradients]
    line = read_run(run).metrics[-1].model_dump()
    cosine = torch.nn.functional.cosine_similarity(*gradients, dim=0)
    assert line["gradient_cosine"] == pytest.approx(float(cosine), abs=1e-5)
    assert line["gradient_norm_ratio"] == pytest.approx(float(norms[0] / norms[1]), rel=1e-5)
    total = gradients[0] + gradients[1]
    for gradient, name in zip(gradients, ("task", "distill"), strict=True):
        cosine = torch.nn.functional.cosine_similarity(gradient, total, dim=0)
        assert line[f"{name}_total_cosine"] == pytest.approx(float(cosine), abs=1e-5)
    opposite = float((gradients[0] * gradients[1] < 0).sum()) / float(
        (gradients[0] * gradients[1] != 0).sum()
    )
    assert line["gradient_sign_disagreement"] == pytest.approx(opposite, abs=1e-3)
    layers = read_lines(run / GRADIENTS)[-1]["layers"]
    shapes = {name: param for name, param in student.named_parameters() if param.ndim > 1}
    assert list(layers) == list(shapes)
    start = 0
    for name, param in student.named_parameters():
        here = [gradient[start : start + param.numel()] for gradient in gradients]
        start += param.numel()
        if name in shapes:
            cosine = torch.nn.functional.cosine_similarity(*here, dim=0)
            assert layers[name]["cosine"] == pytest.approx(float(cosine), abs=1e-5)


@pytest.mark.slow
def test_the_update_is_what_the_last_step_of_the_epoch_did(teacher):
    session = build_run(kd("dot", "data.batch_size=4096"), teacher)  # one step an epoch
    for _ in range(2):
        before = [param.detach().clone() for param in session.params]
        train_epoch(session)
        moved = [param.detach() - old for param, old in zip(session.params, before, strict=True)]
        assert all(torch.equal(*pair) for pair in zip(session.last_update, moved, strict=True))


@pytest.mark.parametrize("loss", ["task", "distill"])
def test_the_cosine_with_an_update_down_a_loss_is_1(teacher, loss):
    session = build_run(kd("dot"), teacher)
    stream = random_stream(session.recipe.data.seed, "data.probe")
    train = session.data.train
    batch = train.batch(torch.randperm(len(train), generator=stream)[:256])
    value = getattr(session.distiller.eval()(batch.images, batch.labels), loss)
    session.last_update = [-0.01 * g for g in torch.autograd.grad(value, session.params)]
    numbers = diagnose(session).metrics
    other = {"task": "distill", "distill": "task"}[loss]
    assert numbers[f"{loss}_update_cosine"] == pytest.approx(1.0, abs=1e-6)
    assert numbers[f"{other}_update_cosine"] == pytest.approx(numbers["gradient_cosine"], abs=1e-6)


def test_judging_moves_nothing(teacher):
    session = build_run(kd("dot"), teacher)
    train_epoch(session)
    names = ("order", "views")
    states = [getattr(session, name).get_state() for name in names] + [torch.get_rng_state()]
    weights = [value.clone() for value in session.distiller.state_dict().values()]
    first = diagnose(session)
    assert all(map(torch.equal, weights, session.distiller.state_dict().values()))
    after = [getattr(session, name).get_state() for name in names] + [torch.get_rng_state()]
    assert all(map(torch.equal, states, after))
    assert all(param.grad is None for param in session.params)
    assert diagnose(session) == first


def test_batch_norm_does_not_see_the_batch_that_is_asked(teacher):
    session = build_run(kd("dot", "student.model=small/cnn4"), teacher)
    assert any(isinstance(module, torch.nn.BatchNorm2d) for module in session.distiller.student.modules())
    train_epoch(session)
    session.distiller.student.train()
    buffers = [buffer.clone() for buffer in session.distiller.buffers()]
    asked = diagnose(session)
    assert all(map(torch.equal, buffers, session.distiller.buffers()))
    session.distiller.student.eval()
    assert diagnose(session) == asked


def test_gradients_are_weighted_as_in_the_epoch_that_ended(teacher):
    """After the first of three epochs a warm-up over all of them has come to a third."""
    ratios = []
    for warmup in (0.0, 1.0):
        session = build_run(kd("dot", f"method.warmup={warmup}"), teacher)
        ratios.append(diagnose(session).metrics["gradient_norm_ratio"])
    assert ratios[1] == pytest.approx(3 * ratios[0], rel=1e-4)


def test_the_task_loss_is_that_of_the_noisy_labels(tmp_path):
    recipe = load_recipe("quick/digits-plain", ["schedule.epochs=1", "optimizer.lr=0.0"])
    train(recipe, tmp_path / "run")
    data, student = build_data(recipe.data).train, build_student(recipe)
    everything = data.batch(range(len(data)))
    expected = cross_entropy(student(everything.images), everything.labels).item()
    assert read_run(tmp_path / "run").metrics[0].train_task_loss == pytest.approx(expected, rel=1e-5)


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_checkpoint(tmp_path):
    recipe = load_recipe("quick/digits-plain", ["optimizer.lr=1e20", *SHORT])
    with pytest.raises(RunFailed, match=r"step \d+: task loss (nan|inf).*lower optimizer.lr"):
        train(recipe, tmp_path / "run")
    assert not (tmp_path / "run" / STUDENT).exists()
    assert (tmp_path / "run" / METRICS).read_text().count("\n") < 3


def test_a_student_starts_from_a_checkpoint(run, tmp_path):
    recipe = load_recipe("quick/digits-plain", [f"student.checkpoint={run / STUDENT}"])
    trained = load_student(run)[0].state_dict()
    assert all(
        torch.equal(value, trained[name]) for name, value in build_student(recipe).state_dict().items()
    )
    wide = load_recipe(
        "quick/digits-plain", [f"student.checkpoint={run / STUDENT}", "student.model=small/mlp64"]
    )
    with pytest.raises(
        BadInput, match=r"does not fit MLP: other shape: hidden.weight \[32, 64\], wanted \[64, 64\]"
    ):
        build_student(wide)


def test_a_teacher_is_trained_once_and_its_machine_is_the_students(tmp_path, teacher):
    recipe = kd("sgd", "run.threads=2")
    made = teacher_recipe(recipe)
    assert made.run.threads == 2
    assert made.data.label_noise == 0.0
    before = teacher.stat().st_mtime_ns
    assert provide_teacher(kd("dot"), teacher.parent) == teacher
    assert teacher.stat().st_mtime_ns == before
    assert provide_teacher(recipe, teacher.parent) == teacher  # another number of threads is the same teacher
    assert teacher.stat().st_mtime_ns == before
    with pytest.raises(BadInput, match=r"another recipe, which differs in data\.seed"):
        provide_teacher(kd("sgd", "data.seed=1"), teacher.parent)


def test_callbacks_get_the_lines_of_the_metrics(tmp_path):
    lines, steps = [], []
    train(
        load_recipe("quick/digits-plain", SHORT),
        tmp_path / "run",
        on_epoch=[lines.append],
        on_step=lambda done, total: steps.append((done, total)),
    )
    stored = [json.loads(line) for line in (tmp_path / "run" / METRICS).read_text().splitlines()]
    assert [line.model_dump() for line in lines] == stored
    per_epoch = math.ceil(1200 / 128)
    assert steps == [(step + 1, 3 * per_epoch) for step in range(3 * per_epoch)]


@pytest.mark.slow
def test_tensorboard_gets_the_same_numbers(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    from dotkd.train.tensorboard import TensorBoard

    folder = tmp_path / "run"
    train(load_recipe("quick/digits-plain", SHORT), folder, on_epoch=[TensorBoard(folder)])
    events = EventAccumulator(str(folder / "tensorboard"))
    events.Reload()
    written = [(event.step, event.value) for event in events.Scalars("train_task_loss")]
    expected = [(line.epoch, pytest.approx(line.train_task_loss)) for line in read_run(folder).metrics]
    assert written == expected
    assert "gradient_cosine" not in events.Tags()["scalars"]  # a plain run has none
