"""The compiled step against the usual one. torch's compiler itself works in one test for each kind of step;
in the others the traced graphs are run as they are, which shows all but what the compiler makes of them."""

import copy
import json

import pytest
import torch
from torch import nn
from torch._dynamo.utils import get_static_address_type

from dotkd import Distiller, runs
from dotkd.errors import BadInput
from dotkd.models import create_model
from dotkd.optim import DOT, MultiMomentumSGD, deepkd_momenta
from dotkd.recipe import load_recipe
from dotkd.train import compiled as compiled_step
from dotkd.train.build import build_run
from dotkd.train.compiled import Compiled, Example
from dotkd.train.differentiate import differentiate
from dotkd.train.loop import train
from dotkd.train.networks import load_student
from dotkd.train.step import compile_step, train_epoch

# Of logits, of maps, with learned parts and buffers, without a task loss.
KINDS = ("kd", "at", "ofd", "simkd")
NOT_ONE_GRAPH = {
    "crd": "CRD, which remembers what it has seen",
    "deepkd": "DeepKD, which changes as a run goes",
}
BATCH = 16


@pytest.fixture
def uncompiled(monkeypatch):
    """The graphs as they were traced."""
    monkeypatch.setattr("dotkd.train.compiled._compiled", lambda graph, _device: graph)


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    folder = tmp_path_factory.mktemp("teacher") / "run"
    train(load_recipe("quick/digits-teacher", ["student.model=small/mlp32", "schedule.epochs=2"]), folder)
    return folder / runs.STUDENT


def distiller_of(method, student=None):
    torch.manual_seed(0)
    shape = {"image_shape": (1, 8, 8)}
    student = create_model("small/cnn8", 10, **shape) if student is None else student
    if method is None:
        return Distiller(student).train()
    teacher = create_model("small/cnn16", 10, **shape)
    given = {"example": torch.rand(8, 1, 8, 8), "labels": torch.arange(100) % 10}
    return Distiller(student, teacher, method, **given).train()


def optimizer_of(name, distiller):
    params = [param for param in distiller.parameters() if param.requires_grad]
    if name == "deepkd":
        return MultiMomentumSGD(params, lr=0.01, momenta=deepkd_momenta(0.9, 0.05))
    if name == "dot":
        return DOT(params, lr=0.01, momentum=0.9, delta=0.075)
    return torch.optim.SGD(params, lr=0.01, momentum=0.9)


def example_of(step):
    generator = torch.Generator().manual_seed(step)
    images = torch.rand(BATCH, 1, 8, 8, generator=generator)
    return Example(images, torch.randint(10, (BATCH,), generator=generator), torch.arange(BATCH) + step)


def follow(distiller, optimizer, *, whole, steps=5, atol=0.0, precision="fp32"):
    """Train two copies, one by way of graphs; the losses, the gradients and who they reach, the weights."""
    twin = copy.deepcopy(distiller)
    optimizers = [optimizer_of(optimizer, each) for each in (distiller, twin)]
    before = {name: value.clone() for name, value in distiller.state_dict().items()}
    stream = torch.get_rng_state()
    compiled = Compiled(distiller, optimizers[0], example_of(0), precision=precision, whole=whole)
    assert torch.equal(torch.get_rng_state(), stream)
    for name, value in distiller.state_dict().items():
        torch.testing.assert_close(value, before[name], rtol=0, atol=0, equal_nan=True)
    for step in range(steps):
        batch, progress = example_of(step), step / steps
        state = torch.get_rng_state()
        found = compiled.losses(batch, progress)
        torch.set_rng_state(state)
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            wanted = twin(batch.images, batch.labels, index=batch.numbers, progress=progress)
        torch.testing.assert_close(found.logits, wanted.logits, rtol=atol, atol=atol)
        for kind in ("streams", "raw"):
            torch.testing.assert_close(getattr(found, kind), getattr(wanted, kind), rtol=atol, atol=atol)
        for each, losses in zip(optimizers, (found, wanted), strict=True):
            differentiate(each, losses)
        if optimizer != "sgd":
            one, other = (
                [[gradient is not None for gradient in row[1:]] for row in each.gradients()]
                for each in optimizers
            )
            assert one == other
        for each in optimizers:
            each.step()
            each.zero_grad()
    for name, value in distiller.state_dict().items():
        torch.testing.assert_close(value, twin.state_dict()[name], rtol=atol, atol=atol, equal_nan=True)
    return compiled


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "whole"),
    [
        *((name, False) for name in ("at", "crd", "deepkd", "simkd")),
        *((name, True) for name in (*NOT_ONE_GRAPH, *KINDS)),
    ],
)
def test_graphs_have_the_bits_of_the_method(method, whole, uncompiled):
    distiller = distiller_of(method)
    optimizer = "deepkd" if method == "deepkd" else "dot"
    if whole and method in NOT_ONE_GRAPH:
        with pytest.raises(BadInput, match=f"'step' is not for {NOT_ONE_GRAPH[method]}.*: take 'parts'"):
            follow(distiller, optimizer, whole=whole)
        return
    follow(distiller, optimizer, whole=whole, steps=3)


@pytest.mark.slow
@pytest.mark.parametrize("whole", [False, True])
def test_graphs_for_one_gradient_of_the_sum_and_without_a_teacher(whole, uncompiled):
    follow(distiller_of("kd"), "sgd", whole=whole, atol=1e-6)
    follow(distiller_of(None), "sgd", whole=whole)
    warm = distiller_of("kd")
    warm.method.warmup = 0.5
    follow(warm, "dot", whole=whole, atol=1e-6)  # the ramp is a float32 there
    follow(distiller_of("kd"), "dot", whole=whole, precision="bf16")


@pytest.mark.slow
@pytest.mark.parametrize("whole", [False, True])
def test_graphs_draw_dropout_as_the_network_does(whole, uncompiled):
    student = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Dropout(), nn.Linear(32, 10))
    follow(distiller_of("kd", student), "dot", whole=whole)


@pytest.mark.slow
def test_the_optimizer_decides_how_often_the_graph_of_parts_is_differentiated(uncompiled, monkeypatch):
    distiller = distiller_of("kd")
    twin, passes, grad = copy.deepcopy(distiller), [], torch.autograd.grad

    def counted(losses, *args, **options):
        passes.append(len(losses))
        return grad(losses, *args, **options)

    optimizers = [DOT(list(each.parameters()), lr=0.01) for each in (distiller, twin)]
    compiled = Compiled(distiller, optimizers[0], example_of(0), precision="fp32", whole=False)
    monkeypatch.setattr(torch.autograd, "grad", counted)
    for step in range(5):
        batch = example_of(step)
        losses = [compiled.losses(batch, 0.5), twin(batch.images, batch.labels, progress=0.5)]
        for each, of_step in zip(optimizers, losses, strict=True):
            differentiate(each, of_step)
            each.step()
            each.zero_grad()
    assert passes == [1] * 10  # each pass is of one loss
    for name, value in distiller.state_dict().items():
        torch.testing.assert_close(value, twin.state_dict()[name], rtol=0, atol=0)
    passes.clear()
    plain = torch.optim.SGD(distiller.parameters(), lr=0.01)
    differentiate(plain, compiled.losses(example_of(0), 0.5))
    assert passes == [2]


@pytest.mark.slow
def test_a_teacher_that_is_remembered_is_not_compiled(uncompiled, teacher, monkeypatch):
    graphs = []
    monkeypatch.setattr(Compiled, "_teacher_graph", lambda *_: graphs.append("teacher"))
    session = build_run(recipe_of(teacher, "parts", "run.teacher_cache=run"), teacher)
    compile_step(session)
    assert not graphs
    images = session.data.train.batch(torch.arange(64)).images
    taught = session.distiller.teach(images)
    assert torch.equal(session.compiled.teach(images).logits, taught.logits)


@pytest.mark.slow
@pytest.mark.parametrize("whole", [False, True])
def test_what_cuda_graphs_need_to_be_told(whole, uncompiled, monkeypatch):
    """No CUDA here: only that they are told. What is written to keeps its address, and each step begins."""
    begun = []
    monkeypatch.setattr(torch.compiler, "cudagraph_mark_step_begin", lambda: begun.append(True))
    monkeypatch.setattr(
        "dotkd.train.compiled._begin_step",
        lambda _, told=compiled_step._begin_step: told(torch.device("cuda")),
    )
    distiller = distiller_of("kd")
    compiled = Compiled(
        distiller, optimizer_of("dot", distiller), example_of(0), precision="fp32", whole=whole
    )
    warmed_up = len(begun)
    assert warmed_up == 2
    for step in range(3):
        compiled.losses(example_of(step), 0.5)
        assert len(begun) == warmed_up + step + 1
    moving = [*distiller.parameters(), *distiller.buffers()]
    assert all(get_static_address_type(tensor) == "unguarded" for tensor in moving)


def test_a_batch_of_another_shape_does_not_fit(uncompiled):
    distiller = distiller_of("kd")
    compiled = Compiled(
        distiller, optimizer_of("dot", distiller), example_of(0), precision="fp32", whole=True
    )
    images, labels, numbers = example_of(1)
    assert compiled.fits(images, labels, numbers)
    assert not compiled.fits(images[1:], labels[1:], numbers[1:])
    assert not compiled.fits(images, torch.rand(BATCH, 10), numbers)


class Reading(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(64, 10)

    def forward(self, images):
        logits = self.fc(images.flatten(1))
        return logits if float(logits.sum()) > 0 else -logits


def test_what_cannot_be_compiled_says_so_in_one_line(monkeypatch, uncompiled):
    distiller = distiller_of("kd", Reading())
    with pytest.raises(BadInput, match=r"run\.compile: cannot be compiled, take 'none': .+") as raised:
        Compiled(distiller, optimizer_of("dot", distiller), example_of(0), precision="fp32", whole=True)
    assert "\n" not in str(raised.value)

    def fail(*_):
        raise RuntimeError("InvalidCxxCompiler: No working C++ compiler found in ...\nand much more")

    monkeypatch.setattr("dotkd.train.compiled._compiled", fail)
    distiller = distiller_of("kd")
    with pytest.raises(BadInput, match=r"run.compile: needs a C\+\+ compiler \(g\+\+ or clang\+\+\)"):
        Compiled(distiller, optimizer_of("dot", distiller), example_of(0), precision="fp32", whole=True)


# In runs ------------------------------------------------------------------------------


def recipe_of(teacher, kind, *more):
    given = ["data.batch_size=64", "schedule.epochs=2", "student.model=small/mlp16", "data.label_noise=0"]
    given += [f"teacher.checkpoint={teacher}", "data.augment=crop-flip:1", f"run.compile={kind}"]
    return load_recipe("quick/digits-kd-dot", [*given, *more])


def lines(folder):
    return [json.loads(line) for line in (folder / runs.METRICS).read_text().splitlines()]


class Stop(Exception):
    pass


def stop(_):
    raise Stop


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["parts", "step"])
def test_a_run_by_way_of_graphs_is_the_same_run(kind, teacher, tmp_path, uncompiled):
    train(recipe_of(teacher, kind), tmp_path / "run")
    train(recipe_of(teacher, "none"), tmp_path / "plain")
    with pytest.raises(Stop):
        train(recipe_of(teacher, kind), tmp_path / "stopped", on_epoch=[stop])
    train(recipe_of(teacher, kind), tmp_path / "stopped", resume=True)
    weights = [load_student(tmp_path / name)[0].state_dict() for name in ("run", "plain", "stopped")]
    for name, weight in weights[0].items():
        assert torch.equal(weight, weights[1][name])
        assert torch.equal(weight, weights[2][name])
    assert not any("_orig_mod" in name for name in weights[0])
    first, second = lines(tmp_path / "run")
    assert first["compile_seconds"] > 0 == second["compile_seconds"]
    assert runs.read_json(tmp_path / "run" / runs.RESULTS)["compile_seconds"] == first["compile_seconds"]
    assert lines(tmp_path / "stopped")[1]["compile_seconds"] > 0
    assert [line["compile_seconds"] for line in lines(tmp_path / "plain")] == [None, None]
    assert runs.read_json(tmp_path / "plain" / runs.RESULTS)["compile_seconds"] is None


@pytest.mark.slow
def test_mixed_labels_and_a_teacher_cache_go_with_graphs(teacher, tmp_path, uncompiled):
    for name, more in {
        "mixed": ["data.augment=['flip','mixup']"],
        "remembered": ["run.teacher_cache=run"],
    }.items():
        ends = []
        for kind in ("step", "none"):
            train(recipe_of(teacher, kind, "schedule.epochs=1", *more), tmp_path / name / kind)
            ends.append(load_student(tmp_path / name / kind)[0].state_dict())
        assert all(torch.equal(weight, ends[1][key]) for key, weight in ends[0].items())


# torch's own modules, as its compiler imports them.
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("kind", ["parts", "step"])
def test_what_torch_compiles_gives_the_same_run_and_the_same_bits_twice(kind, teacher):
    """One epoch of 64 with a smaller last batch: about 30 s, nearly all of them the compiler's."""
    ends, seconds = [], []
    for each in (kind, kind, "none"):
        with torch.random.fork_rng():
            session = build_run(recipe_of(teacher, each, "data.batch_size=256"), teacher)
            seconds.append(compile_step(session))
            train_epoch(session)
        ends.append(session.distiller.state_dict())
    assert seconds[2] is None
    for name, weight in ends[0].items():
        assert torch.equal(weight, ends[1][name])
        torch.testing.assert_close(weight, ends[2][name], rtol=1e-5, atol=1e-6)
