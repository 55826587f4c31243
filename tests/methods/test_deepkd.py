"""DeepKD as a method: published defaults, two streams, the mask over the run, and what optimizers see."""

import math
import pickle

import pytest
import torch

from dotkd.distiller import Distiller
from dotkd.losses import dkd_loss
from dotkd.losses.logit import deepkd_losses
from dotkd.methods import DeepKD, Outputs, create_method, method_options
from dotkd.optim import DOT, MultiMomentumSGD, deepkd_momenta
from dotkd.train.differentiate import differentiate

CLASSES = 20


def batch():
    generator = torch.Generator().manual_seed(0)
    student, teacher = torch.randn(2, 6, CLASSES, generator=generator)
    return Outputs(student), Outputs(teacher), torch.randint(CLASSES, (6,), generator=generator)


def distiller(**options):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        student, teacher = torch.nn.Linear(4, CLASSES), torch.nn.Linear(4, CLASSES)
    return Distiller(student, teacher, "deepkd", **options).double()


def images():
    generator = torch.Generator().manual_seed(1)
    return torch.randn(6, 4, generator=generator, dtype=torch.float64), torch.arange(6)


def gradients(model, loss):
    return torch.autograd.grad(loss, model.trainable_parameters(), retain_graph=True)


def test_published_defaults():
    method = create_method("deepkd")
    assert isinstance(method, DeepKD)
    assert (method.alpha, method.beta, method.temperature) == (1, 8, 4)
    assert (method.task_weight, method.distill_weight) == (1, 1)
    assert [method.ramp(epoch / 240) for epoch in (0, 10, 20, 240)] == pytest.approx([0, 0.5, 1, 1])
    assert (method.needs, method.streams) == (("logits", "target"), ("target", "others"))
    assert tuple(deepkd_momenta()) == ("task", *method.streams)


def test_options():
    own = ["alpha", "beta", "temperature"]
    mask = ["k_start", "k_plateau", "rise_end", "hold_end", "full_from"]
    assert list(method_options("deepkd")) == [*own, *mask, "task_weight", "distill_weight", "warmup"]


@pytest.mark.parametrize(("progress", "top_k"), [(0.0, 2), (0.5, 10), (1.0, None)])
def test_it_returns_the_raw_losses_of_that_point_of_the_run(progress, top_k):
    student, teacher, target = batch()
    method = DeepKD(alpha=0.5, beta=2.0, temperature=3.0, distill_weight=7.0)
    losses = method(student, teacher, target, index=None, progress=progress)
    raw = deepkd_losses(student.logits, teacher.logits, target, temperature=3.0, top_k=top_k)
    assert list(losses) == ["target", "others"]
    assert torch.equal(losses["target"], 0.5 * raw[0])
    assert torch.equal(losses["others"], 2.0 * raw[1])


@pytest.mark.parametrize("options", [{"k_start": 1.0}, {"rise_end": 0.0, "hold_end": 0.0, "full_from": 0.0}])
def test_without_a_mask_the_sum_is_dkd(options):
    student, teacher, target = batch()
    losses = DeepKD(beta=2.0, **options)(student, teacher, target, index=None, progress=0.0)
    expected = dkd_loss(student.logits, teacher.logits, target, beta=2.0)
    torch.testing.assert_close(sum(losses.values()), expected)


def test_the_options_of_the_mask_reach_it():
    student, teacher, target = batch()
    method = DeepKD(k_start=0.2, k_plateau=0.0, rise_end=0.1, hold_end=0.5, full_from=0.7)
    for progress, top_k in [(0.0, 4), (0.4, 4), (0.6, 12), (0.7, 20)]:
        losses = method(student, teacher, target, index=None, progress=progress)
        _, others = deepkd_losses(student.logits, teacher.logits, target, top_k=top_k)
        assert torch.equal(losses["others"], 8 * others)


def test_the_distiller_weights_and_ramps_each_stream():
    model = distiller(distill_weight=0.5, task_weight=2.0, warmup=0.5)
    data, labels = images()
    losses = model(data, labels, progress=0.25)
    assert list(losses.streams) == ["task", "target", "others"]
    raw = model.method(Outputs(losses.logits), Outputs(model.teacher(data)), labels, progress=0.25)
    for name, loss in raw.items():
        torch.testing.assert_close(losses.streams[name], 0.25 * loss)
    torch.testing.assert_close(losses.distill, losses.streams["target"] + losses.streams["others"])
    torch.testing.assert_close(losses.raw_distill, sum(raw.values()).detach())
    torch.testing.assert_close(losses.task, 2 * torch.nn.functional.cross_entropy(losses.logits, labels))


def test_sgd_sees_the_sum_of_all_three():
    model = distiller()
    losses = model(*images(), progress=0.5)
    expected = gradients(model, losses.task + losses.streams["target"] + losses.streams["others"])
    differentiate(torch.optim.SGD(model.trainable_parameters(), lr=0.1), losses)
    for param, grad in zip(model.trainable_parameters(), expected, strict=True):
        torch.testing.assert_close(param.grad, grad)


def test_dot_sees_the_task_and_the_sum_of_the_two():
    model = distiller()
    losses = model(*images(), progress=0.5)
    task = gradients(model, losses.task)
    distill = gradients(model, losses.streams["target"] + losses.streams["others"])
    optimizer = DOT(model.trainable_parameters(), lr=0.1)
    differentiate(optimizer, losses)
    seen = list(optimizer.gradients())
    assert len(seen) == 2
    for (_, ours, theirs), *expected in zip(seen, task, distill, strict=True):
        torch.testing.assert_close([ours, theirs], expected)


def test_its_own_optimizer_sees_three_gradients_and_moves_by_their_buffers():
    model = distiller()
    optimizer = MultiMomentumSGD(model.trainable_parameters(), 0.1, deepkd_momenta(), momentum=0.9)
    params = model.trainable_parameters()
    buffers = [dict.fromkeys(optimizer.streams, 0.0) for _ in params]
    for progress in (0.2, 0.5, 0.8):
        losses = model(*images(), progress=progress)
        before = [param.detach().clone() for param in params]
        for name, loss in losses.streams.items():
            momentum = 0.825 if name == "target" else 0.975
            for buffer, grad in zip(buffers, gradients(model, loss), strict=True):
                buffer[name] = momentum * buffer[name] + grad
        differentiate(optimizer, losses)
        optimizer.step()
        optimizer.zero_grad()
        for param, old, buffer in zip(params, before, buffers, strict=True):
            torch.testing.assert_close(param.detach(), old - 0.1 * sum(buffer.values()))


def test_it_pickles_and_shows_its_options():
    method = DeepKD(beta=2, k_start=0.1)
    assert repr(pickle.loads(pickle.dumps(method))) == repr(method)
    assert "beta=2, temperature=4, k_start=0.1, k_plateau=0.5" in repr(method)
    assert list(method.parameters()) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"alpha": -1.0}, "alpha must be a finite number >= 0, got -1"),
        ({"beta": math.inf}, "beta must be a finite number >= 0, got inf"),
        ({"temperature": 0.0}, "temperature must be a finite number > 0, got 0"),
        ({"warmup": 20}, "warmup must be a number from 0 to 1, got 20"),
        ({"k_start": 5}, r"k_start must be a share of the classes in \(0, 1\], got 5"),
        ({"k_plateau": -0.5}, "k_plateau must be a number from 0 to 1, got -0.5"),
        ({"rise_end": 0.8, "hold_end": 0.5}, "rise_end, hold_end and full_from must be shares of the run"),
    ],
)
def test_options_are_checked_when_the_method_is_made(options, message):
    with pytest.raises(ValueError, match=message):
        DeepKD(**options)
