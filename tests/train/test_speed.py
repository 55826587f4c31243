"""Every faster way of computing a step against the plain one; the same bits twice; the same bits resumed."""

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from dotkd import runs
from dotkd.methods import has_teacher, method_names
from dotkd.recipe import load_recipe
from dotkd.train.build import build_run, check_recipe
from dotkd.train.frozen import settle_teacher, teacher_form
from dotkd.train.loop import train
from dotkd.train.networks import load_student, set_memory_format
from dotkd.train.state import read_checkpoint
from dotkd.train.step import _step, train_epoch

OPTIMIZERS = ("sgd", "dot", "control")
METHODS = [name for name in method_names() if has_teacher(name)]
PLAIN = ["run.channels_last=false"]
STEPS = 20
LOSSES = [f"train_{kind}_loss" for kind in ("task", "distill", "weighted_task", "weighted_distill")]
# After 20 steps: the largest difference of a weight; with a rounded teacher the norm of all differences over
# the norm of the weights, and any weighted loss.
EXACT, ROUNDED = 2e-5, 2e-2


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    folder = tmp_path_factory.mktemp("teacher") / "run"
    train(load_recipe("quick/digits-teacher", ["student.model=small/cnn16", "schedule.epochs=3"]), folder)
    return folder / runs.STUDENT


def recipe_of(optimizer, teacher, *more, method="kd"):
    given = ["data.batch_size=64", "schedule.epochs=2", "student.model=small/cnn8", "data.label_noise=0"]
    given += [f"teacher.checkpoint={teacher}", f"method.name={method}", f"optimizer.name={optimizer}"]
    given += ["optimizer.lr=0.02", *([] if optimizer == "sgd" else ["optimizer.delta=0.075"]), *more]
    return load_recipe("quick/digits-kd", given)


def after(recipe, teacher, *, fold=True, monkeypatch=None):
    """Weights and statistics after some steps, and the rows of losses."""
    if not fold:
        monkeypatch.setattr("dotkd.train.frozen.fold_batch_norm", lambda *_args, **_options: 0)
    with torch.random.fork_rng():
        session = build_run(recipe, teacher)
        session.distiller.train()
        data = session.data.train
        rows = []
        for step in range(STEPS):
            positions = torch.arange(64) + 40 * step % (len(data) - 64)
            rows.append(_step(session, data.batch(positions), step / STEPS))
    return dict(session.distiller.state_dict()), {
        name: torch.stack([row[name] for row in rows]) for name in LOSSES
    }


def close(one, other, atol):
    (weights, rows), (others, other_rows) = one, other
    assert weights.keys() == others.keys()
    for name, tensor in weights.items():
        torch.testing.assert_close(tensor, others[name], rtol=1e-4, atol=atol)
    torch.testing.assert_close(rows, other_rows, rtol=20 * atol, atol=20 * atol)


def distance(weights, others):
    difference = sum(float((value - others[name]).square().sum()) for name, value in weights.items())
    return (difference / sum(float(value.square().sum()) for value in others.values())) ** 0.5


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_layout_folding_and_precision_of_the_teacher_against_the_plain_step(optimizer, teacher, monkeypatch):
    with monkeypatch.context() as patch:
        plain = after(recipe_of(optimizer, teacher, *PLAIN), teacher, fold=False, monkeypatch=patch)
        laid_out = after(recipe_of(optimizer, teacher), teacher, fold=False, monkeypatch=patch)
    folded = after(recipe_of(optimizer, teacher, *PLAIN), teacher)
    both = after(recipe_of(optimizer, teacher), teacher)
    for fast in (laid_out, folded, both):
        close(fast, plain, EXACT)
    half = after(recipe_of(optimizer, teacher, "run.precision=bf16-teacher"), teacher)
    assert distance(half[0], plain[0]) < ROUNDED
    torch.testing.assert_close(half[1], plain[1], rtol=ROUNDED, atol=ROUNDED)
    assert not torch.equal(half[1]["train_distill_loss"], both[1]["train_distill_loss"])
    again = after(recipe_of(optimizer, teacher, "run.precision=bf16-teacher"), teacher)
    assert all(torch.equal(value, again[0][name]) for name, value in half[0].items())
    again = after(recipe_of(optimizer, teacher), teacher)
    assert all(torch.equal(value, again[0][name]) for name, value in both[0].items())


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_every_method_has_the_same_losses_with_any_layout(method, teacher, monkeypatch):
    rows = []
    for plain in (True, False):
        recipe = recipe_of("dot", teacher, *(PLAIN if plain else []), method=method)
        with monkeypatch.context() as patch, torch.random.fork_rng():
            if plain:
                patch.setattr("dotkd.train.frozen.fold_batch_norm", lambda *_args, **_options: 0)
            session = build_run(recipe, teacher)
            session.distiller.train()
            rows.append(_step(session, session.data.train.batch(range(64)), 0.5))
    torch.testing.assert_close(rows[1], rows[0], rtol=2e-4, atol=1e-5)


def test_the_teacher_alone_in_bfloat16(teacher):
    recipe = recipe_of("dot", teacher, "run.precision=bf16-teacher")
    session = build_run(recipe, teacher)
    seen = []
    for model in (session.distiller.teacher, session.distiller.student):
        model.stages[1][0].register_forward_hook(lambda _module, _inputs, out: seen.append(out.dtype))
    batch = session.data.train.batch(range(8))
    session.distiller.train()
    _step(session, batch, 0.5)
    assert sorted(map(str, seen)) == ["torch.bfloat16", "torch.float32"]
    assert session.distiller.teach(batch.images).logits.dtype == torch.float32
    assert all(p.dtype == torch.float32 for p in session.distiller.parameters())


def test_the_form_of_a_teacher_has_a_name(teacher):
    forms = {
        (precision, layout): teacher_form(
            recipe_of("dot", teacher, f"run.precision={precision}", f"run.channels_last={layout}")
        )
        for precision in ("fp32", "bf16", "bf16-teacher")
        for layout in ("true", "false")
    }
    assert forms["fp32", "true"] == "folded, channels_last, fp32"
    assert forms["bf16", "false"] == forms["bf16-teacher", "false"] == "folded, contiguous, bf16"


def test_ofd_keeps_the_margins_of_batch_norms_that_are_folded_afterwards(teacher):
    recipe = recipe_of("dot", teacher, method="ofd")
    prepared = check_recipe(recipe)
    distiller, method = prepared.distiller, prepared.distiller.method
    images = prepared.data.train.batch(range(8)).images
    margins = {name: value.clone() for name, value in method.named_buffers() if "margin" in name}
    known = distiller.teach(images)
    settle_teacher(distiller, recipe)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in distiller.teacher.modules())
    assert margins
    for name, value in method.named_buffers():
        if name in margins:
            torch.testing.assert_close(value, margins[name], rtol=0, atol=0, equal_nan=True)
    for name, feature in distiller.teach(images).features.items():
        torch.testing.assert_close(feature, known.features[name], rtol=1e-4, atol=1e-4)


# What is written ------------------------------------------------------------------


class Stop(Exception):
    pass


def stop(_):
    raise Stop


@pytest.mark.slow
def test_files_are_what_they_were_and_a_resumed_run_has_the_same_bits(teacher, tmp_path):
    recipe = recipe_of("dot", teacher, "data.augment=crop-flip:1")
    train(recipe, tmp_path / "alone")
    with pytest.raises(Stop):
        train(recipe, tmp_path / "stopped", on_epoch=[stop])
    train(recipe, tmp_path / "stopped", resume=True)
    files = [(tmp_path / name / runs.STUDENT).read_bytes() for name in ("alone", "stopped")]
    assert files[0] == files[1]
    state = read_checkpoint(tmp_path / "alone" / runs.LAST)
    tensors = list(state["objective"].values())
    for buffers in state["optimizer"]["state"].values():
        tensors += [value for value in buffers.values() if isinstance(value, torch.Tensor)]
    assert any(tensor.ndim == 4 for tensor in tensors)
    assert all(tensor.is_contiguous() for tensor in tensors)
    weights = load_student(tmp_path / "alone")[0].state_dict()
    assert all(weight.is_contiguous() for weight in weights.values())


@pytest.mark.slow
def test_a_resumed_optimizer_keeps_its_buffers_in_the_layout_of_the_weights(teacher, tmp_path):
    from dotkd.train.state import restore

    for optimizer in ("sgd", "dot"):
        recipe = recipe_of(optimizer, teacher)
        with pytest.raises(Stop):
            train(recipe, tmp_path / optimizer, on_epoch=[stop])
        session = build_run(recipe, teacher)
        restore(session, tmp_path / optimizer)
        for param in session.params:
            for value in session.optimizer.state[param].values():
                assert value.stride() == param.stride()
        assert session.distiller.student.stages[1][0].weight.is_contiguous(memory_format=torch.channels_last)


def test_weights_other_than_of_convolutions_have_one_layout():
    net = nn.Sequential(nn.Conv1d(2, 3, 3), nn.Conv2d(2, 3, 3), nn.Conv3d(2, 3, 3), nn.Linear(2, 3))
    before = {name: value.clone() for name, value in net.state_dict().items()}
    first = net[1].weight
    set_memory_format(net, channels_last=True)
    assert net[1].weight is first
    assert first.stride() == (18, 1, 6, 2)
    assert all(net[i].weight.is_contiguous() for i in (0, 2, 3))
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    set_memory_format(net, channels_last=False)
    assert first.is_contiguous()


# Nothing waits for the device ---------------------------------------------------------


class NoReading(TorchDispatchMode):
    """Fails where a program asks a tensor for a value, or for a size that depends on values."""

    WAITING = ("_local_scalar_dense", "nonzero", "is_nonzero", "masked_select", "unique", "equal")

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        assert not any(name == waiting or name.startswith("_unique") for waiting in self.WAITING), name
        indices = (
            args[1] if name.startswith(("index", "_index")) and isinstance(args[1], (list, tuple)) else ()
        )
        masks = [each for each in indices if each is not None and each.dtype == torch.bool]
        assert not masks, f"{name} by a mask"
        return func(*args, **(kwargs or {}))


def test_the_guard_sees_what_waits():
    ones = torch.ones(2)
    for wait in (ones.sum().item, ones.nonzero, lambda: ones[ones > 0], lambda: bool(ones.sum())):
        with pytest.raises(AssertionError), NoReading():
            wait()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "optimizer"), [*((name, "dot") for name in METHODS), ("kd", "sgd"), ("kd", "control")]
)
def test_no_step_asks_a_tensor_for_a_value(method, optimizer, teacher):
    recipe = recipe_of(
        optimizer, teacher, "data.augment=crop-flip", "optimizer.clip_grad_norm=1", method=method
    )
    with torch.random.fork_rng():
        session = build_run(recipe, teacher)
        session.distiller.train()
        views = session.augmentation.views(session.views, streamed=False)
        batches = session.data.train.batches(64, generator=session.order, augment=views)
        _step(session, next(batches), 0.1)  # what is made once is made now
        with NoReading():
            for _ in range(2):
                _step(session, next(batches), 0.2)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("method", METHODS)
def test_no_step_waits_for_a_gpu(method, teacher):
    recipe = recipe_of("dot", teacher, "run.device=cuda", "data.augment=crop-flip", method=method)
    session = build_run(recipe, teacher)
    train_epoch(session)
    views = session.augmentation.views(session.views, streamed=False)
    batches = session.data.train.batches(64, generator=session.order, augment=views)
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(2):
            _step(session, next(batches), 0.2)
    finally:
        torch.cuda.set_sync_debug_mode("default")
