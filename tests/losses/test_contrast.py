"""Contrastive distillation: published numbers, the loss by hand, negatives, memory, resuming, wrong input."""

import copy
import io
import math
import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from torch.utils._python_dispatch import TorchDispatchMode

from dotkd.losses import ContrastMemory, crd_loss
from dotkd.losses.contrast import class_blocks, draw_negatives

from .common import NoHostRead, Published, normal

NOT_DRAWN = {6, 10}
LABELS = torch.tensor([0, 1, 2, 0, 1, 2, -1, 0, 0, 3, -1, 2])


def memory(**options):
    torch.manual_seed(0)
    return ContrastMemory(5, 7, **{"num_samples": len(LABELS), "embed_dim": 4, "negatives": 6, **options})


def batch(dtype=torch.float32, rows=4, seed=0):
    order = torch.randperm(len(LABELS), generator=torch.Generator().manual_seed(seed))
    return *normal((rows, 5), (rows, 7), dtype=dtype, seed=seed), order[:rows]


def units(*shape, seed=0):
    return torch.nn.functional.normalize(normal(shape, seed=seed)[0], dim=1)


def saved(module):
    """The state as a checkpoint gives it back."""
    file = io.BytesIO()
    torch.save(module.state_dict(), file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def same(left, right):
    left, right = left.state_dict(), right.state_dict()
    return left.keys() == right.keys() and all(
        torch.equal(left[key].nan_to_num(), right[key].nan_to_num()) for key in left
    )


# Precision and export --------------------------------------------------------


def test_autocast_changes_nothing():
    results = []
    for enabled in (False, True):
        student, teacher, index = batch()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            results.append(memory()(student.requires_grad_(), teacher, index, labels=LABELS))
    assert torch.equal(*results)
    embedding, rows, chosen = units(4, 4).float(), units(9, 4).float(), torch.tensor([[0, 5, 8]] * 4)
    normalizer = torch.tensor(3.0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = crd_loss(embedding, rows, chosen, normalizer)
    assert torch.equal(loss, crd_loss(embedding, rows, chosen, normalizer))


@pytest.mark.slow
def test_exports_with_a_batch_of_any_size():
    module = memory().eval()
    one, other = (
        (*batch(rows=rows, seed=rows)[:2], torch.arange(rows), torch.arange(rows * 5).reshape(rows, 5) % 12)
        for rows in (4, 9)
    )

    class Computes(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.memory = module

        def forward(self, student, teacher, index, chosen):
            alone = crd_loss(student[:, :4], self.memory.memory_teacher, chosen, torch.tensor(3.0))
            return self.memory(student, teacher, index, contrast_index=chosen) + alone

    sizes = ({0: torch.export.Dim.DYNAMIC},) * 4
    program = torch.export.export(Computes(), one, dynamic_shapes=sizes).module()
    torch.testing.assert_close(program(*other), Computes()(*other))


# Published numbers -----------------------------------------------------------


def test_first_step_equals_the_published_one():
    published = Published("crd_first_step")
    given, options = published.inputs, published.options
    module = ContrastMemory(
        16,
        24,
        num_samples=options["num_data"],
        embed_dim=12,
        negatives=options["negatives"],
        temperature=options["temperature"],
        momentum=options["momentum"],
    )
    memories = {name: given[name] for name in ("memory_student", "memory_teacher")}
    missing, unexpected = module.load_state_dict(published.weights() | memories, strict=False)
    assert set(missing) == {"log_normalizer_student", "log_normalizer_teacher", "_extra_state"}
    assert unexpected == []
    published.assert_equal(
        module(given["student"], given["teacher"], given["index"], contrast_index=given["contrast_index"])
    )
    for name in memories:
        torch.testing.assert_close(module.get_buffer(name), published[f"out/{name}"], rtol=1e-5, atol=1e-6)
    normalizers = torch.stack([module.log_normalizer_student, module.log_normalizer_teacher])
    expected = published["out/Z"].sort().values
    torch.testing.assert_close(normalizers.exp().sort().values, expected, rtol=1e-5, atol=0)


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


@pytest.mark.slow
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


# Negatives -------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(
    labels=st.lists(st.integers(-1, 5), min_size=2, max_size=30).filter(lambda ls: len(set(ls) - {-1}) > 1),
    seed=st.integers(0, 2**40),
    data=st.data(),
)
def test_negatives_are_training_samples_of_other_classes(labels, seed, data):
    index = data.draw(st.lists(st.integers(0, len(labels) - 1), min_size=1, max_size=6))
    blocks = class_blocks(torch.tensor(labels))
    drawn = draw_negatives(torch.tensor(index), blocks, 40, torch.Generator().manual_seed(seed))
    assert drawn.shape == (len(index), 40)
    for anchor, row in zip(index, drawn.tolist(), strict=True):
        assert all(labels[negative] not in (-1, labels[anchor]) for negative in row)


@pytest.mark.parametrize("anchor", [0, 1, 5, 9, 6])
def test_negatives_are_uniform(anchor):
    # Classes of 4, 2, 3 and 1 samples, unsorted; 6 has no class, so that all others are its negatives.
    allowed = [i for i, y in enumerate(LABELS.tolist()) if y not in (-1, LABELS[anchor].item())]
    generator = torch.Generator().manual_seed(3)
    drawn = draw_negatives(torch.tensor([anchor]), class_blocks(LABELS), 20_000, generator)
    counts = torch.bincount(drawn.flatten(), minlength=len(LABELS)).tolist()
    assert sum(counts) == sum(counts[i] for i in allowed)
    assert stats.chisquare([counts[i] for i in allowed]).pvalue > 0.01


def test_anchors_are_drawn_for_apart():
    generator = torch.Generator().manual_seed(3)
    drawn = draw_negatives(torch.tensor([6, 6]), class_blocks(LABELS), 2000, generator)
    agree = (drawn[0] == drawn[1]).double().mean().item()
    assert agree == pytest.approx(0.1, abs=0.03)  # 10 samples to draw from


def drawn_by(module, labels=LABELS, seed=0):
    """The negatives of one call, read off the gradient of a loss that only they can reach."""
    student, teacher, index = batch(seed=seed)
    seen = []
    with SeesGather(seen):
        module(student, teacher, index, labels=labels)
    return seen[0]


class SeesGather(TorchDispatchMode):
    def __init__(self, seen):
        super().__init__()
        self.seen = seen

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if "gather" in str(func):
            self.seen.append(args[2])
        return func(*args, **(kwargs or {}))


def test_module_draws_anew_for_each_batch_and_seed():
    module = memory()
    index = batch()[2]
    first, second = drawn_by(module), drawn_by(module)
    assert first.shape == (4, 7)
    assert torch.equal(first[:, 0], index)
    assert not torch.equal(first, second)
    assert torch.equal(drawn_by(memory()), first)
    assert not torch.equal(drawn_by(memory(seed=1)), first)
    for anchor, row in zip(index.tolist(), first[:, 1:].tolist(), strict=True):
        assert all(LABELS[n] != LABELS[anchor] and n not in NOT_DRAWN for n in row)


def test_drawing_leaves_the_global_generator_alone():
    module = memory()
    before = torch.get_rng_state()
    module(*batch(), labels=LABELS)
    assert torch.equal(torch.get_rng_state(), before)


def test_labels_are_sorted_once_and_again_when_they_change(monkeypatch):
    calls = []

    def counted(labels):
        calls.append(labels)
        return class_blocks(labels)

    monkeypatch.setattr("dotkd.losses.contrast.class_blocks", counted)
    module, labels = memory(), LABELS.clone()
    for _ in range(3):
        drawn_by(module, labels)
    assert len(calls) == 1
    labels[:] = torch.tensor([0] * 11 + [1])  # in place
    assert (drawn_by(module, labels, seed=2)[batch(seed=2)[2] < 11, 1:] == 11).all()
    drawn_by(module, labels.clone())
    assert len(calls) == 3


# Memory ----------------------------------------------------------------------


def test_evaluation_changes_nothing_and_repeats_itself():
    module = memory()
    module(*batch(), labels=LABELS)
    before = copy.deepcopy(module)
    module.eval()
    values = [module(*batch(seed=1), labels=LABELS).item() for _ in range(3)]
    assert len(set(values)) == 1
    assert same(module, before)
    module.train()
    assert torch.equal(
        module(*batch(seed=2), labels=LABELS), before.train()(*batch(seed=2), labels=LABELS)
    )  # no trace in what follows either


def test_a_probe_meets_the_same_negatives_all_along():
    module = memory()
    before = drawn_by(module.eval())
    drawn_by(module.train())
    assert torch.equal(drawn_by(module.eval()), before)


def test_evaluation_before_training_keeps_no_normalizer():
    module = memory().eval()
    assert module(*batch(), labels=LABELS).isfinite()
    assert module.log_normalizer_student.isnan()
    assert same(module, memory())


def test_state_round_trip_goes_on_to_the_same_bits():
    module = memory(seed=5)
    for step in range(3):
        module(*batch(seed=step), labels=LABELS)
    other = ContrastMemory(5, 7, num_samples=len(LABELS), embed_dim=4, negatives=6)
    other.load_state_dict(saved(module))
    for step in range(3, 6):
        ours, theirs = (m(*batch(seed=step), labels=LABELS) for m in (module, other))
        assert torch.equal(ours, theirs)
        assert same(module, other)


def test_state_is_of_tensors():
    state = memory().state_dict()
    assert all(isinstance(value, torch.Tensor) for value in state.values())
    assert {"memory_student", "memory_teacher", "log_normalizer_student", "_extra_state"} <= state.keys()


def test_a_copy_goes_on_alike():
    module = memory()
    module(*batch(), labels=LABELS)
    twin = copy.deepcopy(module)
    assert torch.equal(module(*batch(seed=1), labels=LABELS), twin(*batch(seed=1), labels=LABELS))
    assert same(module, twin)


def test_a_sample_twice_in_a_batch_is_updated_from_its_last_place():
    twice, once = memory(), memory()
    student, teacher, _ = batch()
    contrast_index = torch.tensor([[3, 1, 2], [5, 0, 1], [3, 1, 1], [0, 2, 2]])
    twice(student, teacher, contrast_index[:, 0], contrast_index=contrast_index)
    keep = torch.tensor([1, 2, 3])
    once(student[keep], teacher[keep], contrast_index[keep, 0], contrast_index=contrast_index[keep])
    torch.testing.assert_close(twice.memory_student, once.memory_student)
    torch.testing.assert_close(twice.memory_teacher, once.memory_teacher)


@pytest.mark.parametrize("number", [-1, len(LABELS), 10**9])
@pytest.mark.parametrize("given", ["labels", "contrast_index"])
def test_a_sample_out_of_range_is_an_error_of_torch_and_changes_nothing(number, given):
    module = memory()
    student, teacher, index = batch()
    index[2] = number
    options = {"labels": LABELS, "contrast_index": torch.cat([index[:, None], index[:, None] * 0], dim=1)}
    with pytest.raises((IndexError, RuntimeError), match=r"out of (range|bounds)"):
        module(student, teacher, index, **{given: options[given]})
    assert same(module, memory())


def test_a_sample_without_a_class_is_remembered_and_contrasted():
    module = memory()
    before = module.memory_teacher.clone()
    student, teacher, _ = batch(rows=2)
    assert module(student, teacher, torch.tensor([6, 10]), labels=LABELS).isfinite()
    assert not torch.equal(module.memory_teacher[[6, 10]], before[[6, 10]])


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_what_is_not_finite_is_not_remembered(value):
    module = memory()
    student, teacher, index = batch()
    before = module.memory_student.clone()
    student[1] = value
    loss = module(student, teacher, index, labels=LABELS)
    assert not loss.isfinite()
    assert torch.equal(module.memory_student[index[1]], before[index[1]])
    assert not torch.equal(module.memory_student[index[0]], before[index[0]])
    assert module.log_normalizer_student.isnan()  # left to the next batch
    assert module(*batch(seed=1), labels=LABELS).isfinite()
    assert module.log_normalizer_student.isfinite()


def test_rows_start_and_stay_on_the_sphere():
    module = memory()
    for step in range(3):
        torch.testing.assert_close(module.memory_student.norm(dim=1), torch.ones(len(LABELS)))
        torch.testing.assert_close(module.memory_teacher.norm(dim=1), torch.ones(len(LABELS)))
        module(*batch(seed=step), labels=LABELS)
    assert not torch.equal(module.memory_student, module.memory_teacher)


# Wrong input -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_samples": 0}, "num_samples must be an integer >= 1, got 0"),
        ({"embed_dim": 0}, "embed_dim must be an integer >= 1, got 0"),
        ({"negatives": 2.5}, "negatives must be an integer >= 1, got 2.5"),
        ({"temperature": 0.0}, "temperature must be a finite number > 0, got 0.0"),
        ({"momentum": 1.0}, "momentum must lie in [0, 1), got 1.0"),
        ({"momentum": math.nan}, "momentum must lie in [0, 1), got nan"),
        ({"seed": -1}, "seed must be an integer from 0 to 9223372036854775807, got -1"),
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
        (
            (student, teacher, index[:3]),
            {"labels": LABELS},
            "index must be a tensor of int64 [4], got a tensor of int64 [3]",
        ),
        (
            (student, teacher, index.int()),
            {"labels": LABELS},
            "index must be a tensor of int64 [4], got a tensor of int32 [4]",
        ),
        (
            (student, teacher, index),
            {"labels": LABELS[:5]},
            "labels must be a tensor of int64 [12], got a tensor of int64 [5]",
        ),
        (
            (student, teacher, index),
            {"labels": LABELS.int()},
            "labels must be a tensor of int64 [12], got a tensor of int32 [12]",
        ),
        ((student, teacher, index), {"labels": LABELS - 1}, "labels must be >= -1"),
        ((student, teacher, index), {"labels": LABELS * 0}, "labels must name at least two classes"),
        ((student, teacher, index), {"labels": LABELS * 0 - 1}, "labels must name at least two classes"),
        (
            (student, teacher, index),
            {"contrast_index": index},
            "contrast_index must be a tensor of int64 [4, 1 + K], K >= 1",
        ),
        (
            (student, teacher, index),
            {"contrast_index": index[:, None]},
            "K >= 1, got a tensor of int64 [4, 1]",
        ),
        (
            (student[0], teacher, index),
            {"labels": LABELS},
            "[B, D], not empty, got a tensor of float32 [5]",
        ),
        (
            (student[:2], teacher, index[:2]),
            {"labels": LABELS},
            "student and teacher must hold the same samples",
        ),
        (
            (student, teacher.long(), index),
            {"labels": LABELS},
            "teacher must be a floating-point tensor [B, D]",
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
        (
            (embedding[0], rows, index, zero),
            {},
            "embedding must be a floating-point tensor [B, D], not empty",
        ),
        (
            (embedding, rows.long(), index, zero),
            {},
            "memory must be a floating-point tensor [N, D] with D = 3",
        ),
        (
            (embedding, rows[:, :2], index, zero),
            {},
            "[N, D] with D = 3, not empty, got a tensor of float32 [5, 2]",
        ),
        (
            (embedding, rows, index[:1], zero),
            {},
            "contrast_index must be a tensor of int64 [2, 1 + K], K >= 1",
        ),
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
