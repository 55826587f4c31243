"""Stratified samples and the streams that draw them."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dotkd.data.splits import stratified_sample
from dotkd.seeding import random_stream

LABELS = st.lists(st.integers(0, 5), min_size=1, max_size=80)
SEEDS = st.none() | st.integers(0, 2**32)


def generator(seed):
    return None if seed is None else torch.Generator().manual_seed(seed)


@given(labels=LABELS, seed=SEEDS, data=st.data())
def test_exact_count_without_repeats_and_every_class_within_one_of_its_share(labels, seed, data):
    count = data.draw(st.integers(0, len(labels)))
    labels = torch.tensor(labels)
    chosen = stratified_sample(labels, count, generator=generator(seed))
    assert chosen.dtype == torch.int64
    assert chosen.tolist() == sorted(set(chosen.tolist()))
    assert len(chosen) == count
    sizes, got = torch.bincount(labels), torch.bincount(labels[chosen], minlength=6)
    for size, number in zip(sizes.tolist(), got.tolist(), strict=False):
        assert abs(number - size * count / len(labels)) < 1


def test_places_left_over_go_to_the_largest_remainders_then_the_lower_class():
    labels = torch.tensor([0] * 5 + [1] * 3 + [2] * 2)  # exact shares of 4: 2.0, 1.2, 0.8
    assert torch.bincount(labels[stratified_sample(labels, 4)]).tolist() == [2, 1, 1]
    tied = torch.arange(4).repeat(3)  # exact shares of 2: one half each
    assert tied[stratified_sample(tied, 2)].tolist() == [0, 1]


def test_even_distances_without_a_generator():
    assert stratified_sample(torch.zeros(9).long(), 3).tolist() == [1, 4, 7]
    assert stratified_sample(torch.zeros(4).long(), 4).tolist() == [0, 1, 2, 3]


def test_a_generator_draws_every_member_alike():
    labels, stream, hits = torch.zeros(10).long(), generator(0), torch.zeros(10)
    for _ in range(2000):
        hits[stratified_sample(labels, 3, generator=stream)] += 1
    # Mean 600, standard deviation 20.5: five of them on either side.
    assert (hits - 600).abs().max() < 103


def test_nothing_to_choose_from():
    assert stratified_sample(torch.empty(0, dtype=torch.int64), 0).tolist() == []


@pytest.mark.parametrize(
    ("labels", "count", "message"),
    [
        (torch.zeros(3), 1, r"labels must be a tensor of int64 \[N\], got .*float32 \[3\]"),
        (torch.arange(3) - 1, 1, r"labels must be at least 0, got -1 to 1"),
        (torch.arange(3), 4, r"count must be an integer from 0 to 3, got 4"),
        (torch.arange(3), -1, r"count must be an integer from 0 to 3, got -1"),
        (torch.arange(3), 0.5, r"count must be an integer from 0 to 3, got 0.5"),
    ],
)
def test_refuses_other_arguments(labels, count, message):
    with pytest.raises(ValueError, match=message):
        stratified_sample(labels, count)


def test_streams_differ_by_seed_and_by_name_only():
    start = random_stream(0, "a").get_state()
    assert torch.equal(start, random_stream(0, "a").get_state())
    assert not torch.equal(start, random_stream(1, "a").get_state())
    assert not torch.equal(start, random_stream(0, "b").get_state())


def test_streams_start_where_they_always_did():
    assert random_stream(0, "data.split").initial_seed() == 7397789075183273628
    assert random_stream(7, "data.label_noise").initial_seed() == 7007320197443199497


@pytest.mark.parametrize("seed", [-1, 1.0, True, None, "0"])
def test_streams_refuse_other_seeds(seed):
    with pytest.raises(ValueError, match=rf"seed must be an integer of at least 0, got {seed!r}"):
        random_stream(seed, "a")
