"""The memory of contrastive distillation: who is drawn, what is remembered, and how a run goes on."""

import copy
import io
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from torch.utils._python_dispatch import TorchDispatchMode

from dotkd.losses import ContrastMemory
from dotkd.losses.contrast import class_blocks, draw_negatives

LABELS = torch.tensor([0, 1, 2, 0, 1, 2, -1, 0, 0, 3, -1, 2])
NOT_DRAWN = {6, 10}


def memory(**options):
    torch.manual_seed(0)
    return ContrastMemory(5, 7, **{"num_samples": len(LABELS), "embed_dim": 4, "negatives": 6, **options})


def batch(dtype=torch.float32, rows=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    student = torch.randn(rows, 5, generator=generator, dtype=torch.float64).to(dtype)
    teacher = torch.randn(rows, 7, generator=generator, dtype=torch.float64).to(dtype)
    return student, teacher, torch.randperm(len(LABELS), generator=generator)[:rows]


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


# Who is drawn ----------------------------------------------------------------


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


# What is remembered ----------------------------------------------------------


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
