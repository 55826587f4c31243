"""Label noise: exact, always wrong, uniform, nested."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dotkd.data import add_label_noise


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@given(
    labels=st.lists(st.integers(0, 4), max_size=60),
    share=st.floats(0, 1),
    seed=st.integers(0, 2**32),
)
def test_count_is_exact_and_the_input_untouched(labels, share, seed):
    labels = torch.tensor(labels, dtype=torch.int64)
    before = labels.clone()
    noisy = add_label_noise(labels, share, num_classes=5, generator=generator(seed))
    assert torch.equal(labels, before)
    assert int((noisy != labels).sum()) == round(share * len(labels))
    assert ((noisy >= 0) & (noisy < 5)).all()


def test_share_zero_is_the_identity_in_a_new_tensor():
    labels = torch.arange(10)
    noisy = add_label_noise(labels, 0.0, num_classes=10, generator=generator())
    assert torch.equal(noisy, labels)
    assert noisy.data_ptr() != labels.data_ptr()


@pytest.mark.parametrize("num_classes", [2, 3, 10])
def test_share_one_leaves_no_label_as_it_was(num_classes):
    labels = torch.arange(1000) % num_classes
    noisy = add_label_noise(labels, 1.0, num_classes=num_classes, generator=generator())
    assert (noisy != labels).all()


@pytest.mark.parametrize("true_class", [0, 4, 9])
def test_wrong_classes_are_equally_likely(true_class):
    labels = torch.full((90_000,), true_class)
    noisy = add_label_noise(labels, 1.0, num_classes=10, generator=generator(1))
    counts = torch.bincount(noisy, minlength=10)
    assert counts[true_class] == 0
    wrong = torch.cat([counts[:true_class], counts[true_class + 1 :]]).double()
    chi_square = ((wrong - 10_000).square() / 10_000).sum()
    assert chi_square < 26.1  # 8 degrees of freedom, p = 0.001


def test_every_label_is_equally_likely_to_be_replaced():
    labels, stream = torch.zeros(20, dtype=torch.int64), generator(2)
    hits = sum(add_label_noise(labels, 0.25, num_classes=3, generator=stream) != 0 for _ in range(4000))
    # Mean 1000, standard deviation 27: five of them on either side.
    assert (hits - 1000).abs().max() < 137


def test_noise_is_nested_over_shares():
    labels = torch.arange(200) % 10
    few, many = (
        add_label_noise(labels, share, num_classes=10, generator=generator()) for share in (0.2, 0.4)
    )
    wrong = few != labels
    assert torch.equal(many[wrong], few[wrong])
    assert int((many != labels).sum()) == 80


def test_reproducible_by_generator_which_moves_on_alike_for_every_share():
    labels, first, second = torch.arange(50) % 10, generator(), generator()
    a = add_label_noise(labels, 0.5, num_classes=10, generator=first)
    add_label_noise(labels, 0.0, num_classes=10, generator=second)
    assert torch.equal(first.get_state(), second.get_state())
    assert torch.equal(a, add_label_noise(labels, 0.5, num_classes=10, generator=generator()))
    assert not torch.equal(a, add_label_noise(labels, 0.5, num_classes=10, generator=first))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_labels_on_a_gpu_get_the_same_noise():
    labels = torch.arange(50) % 10
    here = add_label_noise(labels, 0.5, num_classes=10, generator=generator())
    there = add_label_noise(labels.cuda(), 0.5, num_classes=10, generator=generator())
    assert there.is_cuda
    assert torch.equal(there.cpu(), here)


@pytest.mark.parametrize(
    ("labels", "share", "num_classes", "message"),
    [
        (torch.zeros(3), 0.5, 3, r"labels must be a tensor of int64 \[N\], got .*float32 \[3\]"),
        (torch.arange(4), 0.5, 3, r"labels must lie from 0 to 2 \(num_classes=3\), got 0 to 3"),
        (torch.arange(3) - 1, 0.5, 3, r"labels must lie from 0 to 2 .*, got -1 to 1"),
        (torch.arange(3), -0.1, 3, r"share must be a number from 0 to 1, got -0.1"),
        (torch.arange(3), 30, 3, r"share must be a number from 0 to 1, got 30"),
        (torch.arange(3), float("nan"), 3, r"share must be a number from 0 to 1, got nan"),
        (torch.arange(3), "0.3", 3, r"share must be a number from 0 to 1, got '0.3'"),
        (torch.arange(3), True, 3, r"share must be a number from 0 to 1, got True"),
        (torch.zeros(3).long(), 0.5, 1, r"num_classes must be an integer of at least 2, got 1"),
    ],
)
def test_refuses_other_arguments(labels, share, num_classes, message):
    with pytest.raises(ValueError, match=message):
        add_label_noise(labels, share, num_classes=num_classes, generator=generator())
