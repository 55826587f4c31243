"""Contrastive distillation: recorded numbers, the loss by hand, extremes, and what wrong input is told."""

import copy
import json
import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from dotkd.losses import ContrastMemory, crd_loss

GOLDEN = Path(__file__).parents[1] / "golden"
CASE = "crd_first_step"
HYPER = json.loads((GOLDEN / "losses.json").read_text())[CASE]["hyper"]
VECTORS = np.load(GOLDEN / "losses.npz")
LABELS = torch.tensor([0, 1, 2, 0, 1, 2, -1, 0, 0, 3, -1, 2])


def golden(key):
    return torch.from_numpy(VECTORS[f"{CASE}/{key}"].copy())


def memory(**options):
    torch.manual_seed(0)
    return ContrastMemory(5, 7, **{"num_samples": len(LABELS), "embed_dim": 4, "negatives": 6, **options})


def batch(dtype=torch.float32, rows=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    student = torch.randn(rows, 5, generator=generator, dtype=torch.float64).to(dtype)
    teacher = torch.randn(rows, 7, generator=generator, dtype=torch.float64).to(dtype)
    return student, teacher, torch.randperm(len(LABELS), generator=generator)[:rows]


def units(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.nn.functional.normalize(torch.randn(shape, generator=generator, dtype=torch.float64), dim=1)


# Recorded numbers ------------------------------------------------------------


def published():
    module = ContrastMemory(
        16,
        24,
        num_samples=HYPER["num_data"],
        embed_dim=12,
        negatives=HYPER["negatives"],
        temperature=HYPER["temperature"],
        momentum=HYPER["momentum"],
    )
    prefix = f"{CASE}/module/"
    state = {key.removeprefix(prefix): torch.from_numpy(VECTORS[key]) for key in VECTORS if prefix in key}
    state |= {name: golden(f"in/{name}") for name in ("memory_student", "memory_teacher")}
    missing, unexpected = module.load_state_dict(state, strict=False)
    assert set(missing) == {"log_normalizer_student", "log_normalizer_teacher", "_extra_state"}
    assert unexpected == []
    return module


def test_first_step_equals_the_published_one():
    module = published()
    student = golden("in/student").requires_grad_()
    loss = module(
        student, golden("in/teacher"), golden("in/index"), contrast_index=golden("in/contrast_index")
    )
    loss.backward()
    torch.testing.assert_close(loss.item(), golden("loss").item(), rtol=1e-5, atol=0)
    expected = golden("grad/student")
    assert (student.grad - expected).norm() <= 1e-5 * expected.norm()
    torch.testing.assert_close(student.grad, expected, rtol=1e-5, atol=1e-6 * expected.abs().max().item())
    for name in ("memory_student", "memory_teacher"):
        torch.testing.assert_close(module.get_buffer(name), golden(f"out/{name}"), rtol=1e-5, atol=1e-6)
    normalizers = torch.stack([module.log_normalizer_student, module.log_normalizer_teacher])
    torch.testing.assert_close(
        normalizers.exp().sort().values, golden("out/Z").sort().values, rtol=1e-5, atol=0
    )


# Numbers by hand -------------------------------------------------------------


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_by_hand(temperature):
    embedding = torch.tensor([[1.0, 0.0], [0.0, 1.0]], dtype=torch.float64)
    rows = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.6, 0.8]], dtype=torch.float64)
    index = torch.tensor([[0, 1, 2], [1, 3, 3]])
    products = [[1.0, 0.0, -1.0], [1.0, 0.8, 0.8]]
    normalizer, noise = 5.0, 2 / 4  # K / N
    expected = 0.0
    for row in products:
        p = [math.exp(product / temperature) / normalizer for product in row]
        expected -= math.log(p[0] / (p[0] + noise)) + sum(math.log(noise / (q + noise)) for q in p[1:])
    loss = crd_loss(embedding, rows, index, torch.tensor(normalizer).log(), temperature=temperature)
    assert loss.item() == pytest.approx(expected / 2, rel=1e-6)


def test_memory_moves_halfway_and_back_to_the_sphere():
    module = memory(momentum=0.25)
    student, teacher, index = batch()
    before = module.memory_student.clone()
    embedding = module.embed_student(student).detach()
    module(student, teacher, index, labels=LABELS)
    moved = 0.25 * before[index] + 0.75 * embedding
    torch.testing.assert_close(module.memory_student[index], moved / moved.norm(dim=1, keepdim=True))
    others = [i for i in range(len(LABELS)) if i not in index.tolist()]
    assert torch.equal(module.memory_student[others], before[others])


def test_scores_are_of_the_old_memory():
    module, student, teacher, index = memory(), *batch()
    old = copy.deepcopy(module)
    contrast_index = torch.cat([index.unsqueeze(1), torch.tensor([[0, 1, 2]]).expand(4, 3)], dim=1)
    loss = module(student, teacher, index, contrast_index=contrast_index)
    by_hand = crd_loss(
        old.embed_student(student), old.memory_teacher, contrast_index, module.log_normalizer_student
    ) + crd_loss(
        old.embed_teacher(teacher), old.memory_student, contrast_index, module.log_normalizer_teacher
    )
    torch.testing.assert_close(loss, by_hand)


def test_normalizers_are_set_once():
    module = memory()
    assert module.log_normalizer_student.isnan()
    for seed in range(3):
        module(*batch(seed=seed), labels=LABELS)
        known = module.log_normalizer_student.clone(), module.log_normalizer_teacher.clone()
        if seed == 0:
            first = known
    assert known == first
    assert all(value.isfinite() for value in known)


# Gradients -------------------------------------------------------------------


def test_gradients_by_finite_differences():
    embedding, rows = units(3, 4), units(6, 4, seed=1)
    index = torch.tensor([[0, 1, 2, 1], [3, 0, 0, 0], [5, 4, 1, 2]])
    log_normalizer = torch.tensor(3.0, dtype=torch.float64)
    inputs = (embedding.requires_grad_(), rows.requires_grad_())
    for temperature in (0.07, 1.0):
        assert torch.autograd.gradcheck(
            lambda e, r, t=temperature: crd_loss(e, r, index, log_normalizer, temperature=t), inputs
        )


def test_the_normalizer_is_a_constant():
    log_normalizer = torch.zeros((), requires_grad=True)
    embedding = units(2, 3).requires_grad_()
    crd_loss(embedding, units(4, 3), torch.tensor([[0, 1], [2, 3]]), log_normalizer).backward()
    assert embedding.grad.abs().sum() > 0
    assert log_normalizer.grad is None


def test_gradients_of_the_module_by_finite_differences():
    module = memory().double().eval()
    student, teacher, index = batch(torch.float64)
    module.train()(student, teacher, index, labels=LABELS)  # makes the normalizers constants
    names, values = zip(*module.eval().named_parameters(), strict=True)

    def call(student, teacher, *values):
        parameters = dict(zip(names, values, strict=True))
        return torch.func.functional_call(module, parameters, (student, teacher, index), {"labels": LABELS})

    assert torch.autograd.gradcheck(call, (student.requires_grad_(), teacher.requires_grad_(), *values))


def test_two_backward_passes_and_several_forward_passes_see_their_own_memory():
    module = memory()
    student, teacher, index = batch()
    student.requires_grad_()
    first = module(student, teacher, index, labels=LABELS)
    alone = torch.autograd.grad(first, student, retain_graph=True)[0]
    module(student, teacher, index, labels=LABELS)
    assert torch.equal(torch.autograd.grad(first, student)[0], alone)


def test_learns_to_tell_samples_apart():
    labels = torch.arange(40) % 4
    torch.manual_seed(0)
    module = ContrastMemory(5, 7, num_samples=40, embed_dim=8, negatives=16)
    generator = torch.Generator().manual_seed(0)
    student, teacher = torch.randn(40, 5, generator=generator), torch.randn(40, 7, generator=generator)
    optimizer = torch.optim.Adam(module.parameters(), lr=0.02)
    losses = []
    for step in range(60):
        index = torch.arange(40).roll(7 * step)[:20]
        optimizer.zero_grad()
        losses.append(module(student[index], teacher[index], index, labels=labels))
        losses[-1].backward()
        optimizer.step()
    assert sum(losses[-5:]) < 0.8 * sum(losses[5:10])


# Extremes, dtypes, devices ---------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize("temperature", [1e-3, 0.07, 10.0])
@pytest.mark.parametrize("scale", [0.0, 1e-7, 1.0, 1e4])
def test_extremes_stay_finite(dtype, temperature, scale):
    module = memory(temperature=temperature)
    torch.nn.init.zeros_(module.embed_student.linear.bias)
    student, teacher, index = batch()
    student = (scale * student).to(dtype).requires_grad_()
    for _ in range(2):
        loss = module(student, (scale * teacher).to(dtype), index, labels=LABELS)
        loss.backward()
        assert loss.dtype == torch.float32
        assert loss.isfinite()
        if dtype == torch.float32 or scale >= 1:  # 1 / 1e-7 is no gradient for float16
            assert student.grad.isfinite().all()
        assert all(parameter.grad.isfinite().all() for parameter in module.parameters())
        assert all(value.isfinite().all() for value in module.buffers())


@pytest.mark.parametrize("match", [1.0, -1.0])
def test_a_sure_answer_is_exact_at_any_temperature(match):
    # With p = exp(match / T) and K / N = 1 / 2: h / (1 - h) = 2 p, and its logarithm is match / T + log 2.
    rows = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    loss = crd_loss(rows[:1] * match, rows, torch.tensor([[0, 1]]), torch.tensor(0.0), temperature=1e-3)
    expected = (0.0 if match > 0 else 1000 - math.log(2)) + math.log(3)
    assert loss.item() == pytest.approx(expected, rel=1e-6)


class NoHostRead(TorchDispatchMode):
    """Fails on operations whose result the host must wait for."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        waits = ("_local_scalar_dense", "nonzero", "masked_select", "aten.index.")
        assert not any(word in str(func) for word in waits), func
        return func(*args, **(kwargs or {}))


def test_nothing_waits_for_the_device_once_the_labels_are_sorted():
    module = memory()
    module(*batch(), labels=LABELS)
    with NoHostRead():
        module(*batch(seed=1), labels=LABELS).backward()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_gpu_equals_cpu_without_a_wait():
    module, contrast_index = memory(), torch.tensor([[0, 1, 2, 4]]).expand(4, 4)
    student, teacher, index = batch()
    on_gpu = copy.deepcopy(module).cuda()
    labels, inputs = LABELS.cuda(), [t.cuda() for t in (student, teacher, index)]
    chosen = contrast_index.cuda()
    on_gpu(*inputs, labels=labels)  # sorts them
    on_gpu.load_state_dict(module.state_dict())
    torch.cuda.set_sync_debug_mode("error")
    try:
        loss = on_gpu(*inputs, contrast_index=chosen)
        on_gpu(*inputs, labels=labels).backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    torch.testing.assert_close(loss.cpu(), module(student, teacher, index, contrast_index=contrast_index))
    torch.testing.assert_close(on_gpu.log_normalizer_student.cpu(), module.log_normalizer_student)


# Wrong input -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_samples": 0}, "num_samples must be an integer >= 1, got 0"),
        ({"embed_dim": 0}, "embed_dim must be an integer >= 1, got 0"),
        ({"negatives": 2.5}, "negatives must be an integer >= 1, got 2.5"),
        ({"temperature": 0.0}, "temperature must be a finite number > 0, got 0.0"),
        ({"momentum": 1.0}, "momentum must be in [0, 1), got 1.0"),
        ({"momentum": math.nan}, "momentum must be in [0, 1), got nan"),
        ({"seed": -1}, "seed must be in [0, 2 ** 63), got -1"),
    ],
)
def test_options_are_checked(options, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        memory(**options)


def test_inputs_are_checked():
    module = memory()
    student, teacher, index = batch()
    exactly = "exactly one of labels and contrast_index must be given"
    for arguments, options, message in [
        ((student, teacher, index), {}, exactly),
        ((student, teacher, index), {"labels": LABELS, "contrast_index": index[:, None]}, exactly),
        ((student, teacher, index[:3]), {"labels": LABELS}, "index must be [B] = [4], int64, got shape [3]"),
        ((student, teacher, index.int()), {"labels": LABELS}, "got shape [4] and torch.int32"),
        ((student, teacher, index), {"labels": LABELS[:5]}, "labels must be [N] = [12], one for each sample"),
        ((student, teacher, index), {"labels": LABELS.int()}, "labels must be [N], int64, got shape [12]"),
        ((student, teacher, index), {"labels": LABELS - 1}, "labels must be >= -1"),
        ((student, teacher, index), {"labels": LABELS * 0}, "labels must name at least two classes"),
        ((student, teacher, index), {"labels": LABELS * 0 - 1}, "labels must name at least two classes"),
        (
            (student, teacher, index),
            {"contrast_index": index},
            "contrast_index must be [B, 1 + K] = [4, 1 + K]",
        ),
        ((student, teacher, index), {"contrast_index": index[:, None]}, "K >= 1, int64, got shape [4, 1]"),
        (
            (student[0], teacher, index),
            {"labels": LABELS},
            "student must be [B, D], not empty, got shape [5]",
        ),
        (
            (student[:2], teacher, index[:2]),
            {"labels": LABELS},
            "student and teacher must hold the same samples",
        ),
        (
            (student, teacher.long(), index),
            {"labels": LABELS},
            "teacher must be floating point, got torch.int64",
        ),
    ]:
        with pytest.raises(ValueError, match=re.escape(message)):
            module(*arguments, **options)


def test_arguments_of_the_function_are_checked():
    embedding, rows, index, zero = (
        torch.zeros(2, 3),
        torch.zeros(5, 3),
        torch.zeros(2, 4).long(),
        torch.tensor(0.0),
    )
    for arguments, options, message in [
        ((embedding[0], rows, index, zero), {}, "embedding must be [., D], floating point, got shape [3]"),
        (
            (embedding, rows.long(), index, zero),
            {},
            "memory must be [., D], floating point, got shape [5, 3]",
        ),
        ((embedding, rows[:, :2], index, zero), {}, "must have the same length D, got 3 and 2"),
        ((embedding, rows, index[:1], zero), {}, "contrast_index must be [B, 1 + K] = [2, 1 + K]"),
        (
            (embedding, rows, index, zero.reshape(1)),
            {},
            "log_normalizer must be a scalar tensor, got shape [1]",
        ),
        ((embedding, rows, index, zero), {"temperature": -1.0}, "temperature must be a finite number > 0"),
    ]:
        with pytest.raises(ValueError, match=re.escape(message)):
            crd_loss(*arguments, **options)


def test_repr_tells_the_options():
    assert "num_samples=12, negatives=6, temperature=0.07, momentum=0.5, seed=0" in repr(memory())
