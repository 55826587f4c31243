"""The batch, and the data set in memory: checks, batches, epochs, subsets, the cache on disk."""

import copy
import os
import pickle
from dataclasses import FrozenInstanceError, replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dotkd.data import Batch, ImageData
from dotkd.data.images import cached


def make_batch(**changes):
    parts = {
        "images": torch.zeros(3, 1, 2, 2),
        "labels": torch.tensor([0, 1, 2]),
        "index": torch.tensor([7, 8, 9]),
    }
    return Batch(**(parts | changes))


def test_batch_carries_what_it_was_given():
    images, labels, index, view = torch.zeros(2, 3, 4, 4), *torch.arange(6).reshape(3, 2)
    batch = Batch(images, labels, index, view)
    assert batch.images is images
    assert batch.labels is labels
    assert batch.index is index
    assert batch.view is view
    assert len(batch) == 2
    assert make_batch().view is None


def test_batch_is_frozen_and_replaceable():
    batch = make_batch()
    with pytest.raises(FrozenInstanceError):
        batch.labels = torch.zeros(3, dtype=torch.int64)
    view = torch.tensor([0, 1, 0])
    assert replace(batch, view=view).view is view
    assert batch.view is None


def test_batch_to_moves_every_tensor_and_casts_only_the_images():
    moved = make_batch(view=torch.tensor([0, 1, 0])).to("meta", dtype=torch.float16)
    assert {t.device.type for t in (moved.images, moved.labels, moved.index, moved.view)} == {"meta"}
    assert moved.images.dtype == torch.float16
    assert {moved.labels.dtype, moved.index.dtype, moved.view.dtype} == {torch.int64}
    assert make_batch().to("meta").view is None


def test_batch_to_shares_what_is_right_already():
    batch = make_batch()
    same = batch.to("cpu")
    assert same is not batch
    assert same.images is batch.images
    assert same.labels is batch.labels


@pytest.mark.parametrize("how", [copy.deepcopy, lambda b: pickle.loads(pickle.dumps(b))])
def test_batch_copies_and_pickles(how):
    batch = make_batch(view=torch.tensor([0, 1, 0]))
    again = how(batch)
    for name in ("images", "labels", "index", "view"):
        assert torch.equal(getattr(again, name), getattr(batch, name))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"images": torch.zeros(3, 1, 2, 2, dtype=torch.uint8)},
            r"images must be a floating-point tensor \[B, C, H, W\], got a tensor of uint8 \[3, ",
        ),
        ({"images": torch.zeros(3, 4)}, r"images must be .*, got a tensor of float32 \[3, 4\]"),
        ({"images": [0.0]}, r"images must be .*, got \[0.0\]"),
        (
            {"labels": torch.zeros(3)},
            r"labels must be a tensor of int64 \[3\], got a tensor of float32 \[3\]",
        ),
        (
            {"labels": torch.arange(2)},
            r"labels must be a tensor of int64 \[3\], got a tensor of int64 \[2\]",
        ),
        (
            {"index": torch.zeros(3, 1, dtype=torch.int64)},
            r"index must be a tensor of int64 \[3\], got a tensor of int64 \[3, 1\]",
        ),
        (
            {"view": torch.zeros(3, dtype=torch.int32)},
            r"view must be a tensor of int64 \[3\], got a tensor of int32 \[3\]",
        ),
    ],
)
def test_batch_refuses_other_parts(changes, message):
    with pytest.raises(ValueError, match=message):
        make_batch(**changes)


# ---------------------------------------------------------------- in memory


def make(count=6, **changes):
    parts = {
        "pixels": torch.arange(count, dtype=torch.uint8).reshape(count, 1, 1, 1).repeat(1, 3, 2, 4),
        "labels": torch.arange(count) % 2,
        "classes": ("even", "odd"),
    }
    return ImageData(**(parts | changes))


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def order(data, *args, **kwargs):
    return torch.cat([batch.index for batch in data.batches(*args, **kwargs)]).tolist()


def test_batch_divides_by_max_value():
    data = make(max_value=16, pixels=torch.full((6, 3, 2, 4), 16, dtype=torch.uint8))
    batch = data.batch([0, 2])
    assert batch.images.dtype == torch.float32
    assert batch.images.shape == (2, 3, 2, 4)
    assert torch.equal(batch.images, torch.ones(2, 3, 2, 4))
    assert batch.view is None


def test_every_byte_lands_in_the_unit_interval_exactly():
    pixels = torch.arange(256, dtype=torch.uint8).reshape(256, 1, 1, 1)
    images = make(256, pixels=pixels).batch(range(256)).images.flatten()
    assert torch.equal(images, torch.arange(256, dtype=torch.float32) / 255)
    assert (images[0], images[-1]) == (0.0, 1.0)


def test_batch_follows_positions_and_repeats():
    batch = make().batch(torch.tensor([5, 0, 5]))
    assert batch.index.tolist() == [5, 0, 5]
    assert batch.labels.tolist() == [1, 0, 1]
    assert (batch.images[:, 0, 0, 0] * 255).tolist() == [5, 0, 5]


def test_subset_keeps_the_sample_numbers_through_generations():
    once = make().subset([1, 3, 5])
    twice = once.subset(torch.tensor([2, 0]))
    assert once.index.tolist() == [1, 3, 5]
    assert twice.index.tolist() == [5, 1]
    assert twice.batch([0]).index.tolist() == [5]
    assert twice.labels.tolist() == [1, 1]
    assert (len(once), len(twice), twice.classes, twice.max_value) == (3, 2, ("even", "odd"), 255)
    assert once.image_shape == twice.image_shape == (3, 2, 4)


def test_sample_numbers_can_be_given():
    assert make(index=torch.arange(10, 16)).batch([2]).index.tolist() == [12]


def test_is_frozen_replaceable_and_picklable():
    data = make(index=torch.arange(10, 16))
    with pytest.raises(FrozenInstanceError):
        data.max_value = 3
    flipped = replace(data, labels=1 - data.labels)
    assert torch.equal(flipped.labels, 1 - data.labels)
    assert flipped.pixels is data.pixels
    again = pickle.loads(pickle.dumps(data))
    assert torch.equal(again.pixels, data.pixels)
    assert torch.equal(again.index, data.index)


def test_to_shares_what_lies_there_already():
    data = make()
    assert data.to("cpu").pixels is data.pixels


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("seed", [None, 0])
def test_batches_made_on_a_gpu_equal_those_made_on_the_cpu(seed):
    data = make(40)
    for here, there in zip(
        data.batches(16, generator=None if seed is None else generator(seed)),
        data.to("cuda").batches(16, generator=None if seed is None else generator(seed)),
        strict=True,
    ):
        assert there.images.is_cuda
        assert torch.equal(there.images.cpu(), here.images)
        assert torch.equal(there.index.cpu(), here.index)
        assert torch.equal(there.labels.cpu(), here.labels)


def test_repr_fits_on_a_line():
    assert repr(make()) == "ImageData(6 images of [3, 2, 4], 2 classes)"


@given(count=st.integers(1, 40), size=st.integers(1, 50), seed=st.none() | st.integers(0, 2**32))
def test_an_epoch_covers_every_image_once(count, size, seed):
    data = make(count, index=torch.arange(count) + 100)
    batches = list(data.batches(size, generator=None if seed is None else generator(seed)))
    assert sorted(torch.cat([b.index for b in batches]).tolist()) == list(range(100, 100 + count))
    assert [len(b) for b in batches[:-1]] == [size] * (len(batches) - 1)
    assert 1 <= len(batches[-1]) <= size
    for batch in batches:
        assert torch.equal(batch.labels, (batch.index - 100) % 2)
        assert torch.equal((batch.images[:, 0, 0, 0] * 255).round().long(), batch.index - 100)


@given(count=st.integers(1, 40), data=st.data())
def test_drop_last_leaves_full_batches_only(count, data):
    size = data.draw(st.integers(1, count))
    batches = list(make(count).batches(size, drop_last=True))
    assert [len(b) for b in batches] == [size] * (count // size)


def test_without_a_generator_the_order_is_that_of_the_data():
    assert order(make(), 4) == [0, 1, 2, 3, 4, 5]


def test_order_is_reproducible_and_moves_on_with_the_generator():
    data, first, second = make(40), generator(3), generator(3)
    epochs = [order(data, 16, generator=first) for _ in range(2)]
    assert epochs == [order(data, 16, generator=second) for _ in range(2)]
    assert epochs[0] != epochs[1]
    assert epochs[0] != order(data, 16, generator=generator(4))


def test_order_does_not_depend_on_how_it_is_cut():
    assert order(make(40), 7, generator=generator()) == order(make(40), 40, generator=generator())


def test_an_epoch_read_in_part_leaves_the_generator_in_the_same_place():
    data, whole, part = make(), generator(), generator()
    list(data.batches(2, generator=whole))
    next(data.batches(2, generator=part))
    assert torch.equal(whole.get_state(), part.get_state())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"pixels": torch.zeros(6, 3, 2, 4)},
            r"pixels must be a tensor of uint8 \[N, C, H, W\], got a tensor of float32 \[6, 3, ",
        ),
        (
            {"pixels": torch.zeros(6, 8, dtype=torch.uint8)},
            r"pixels must be .*, got a tensor of uint8 \[6, 8\]",
        ),
        ({"pixels": None}, r"pixels must be .*, got None"),
        (
            {"pixels": torch.zeros(0, 3, 2, 4, dtype=torch.uint8)},
            r"pixels must hold at least one image, got a tensor of uint8 \[0, 3, 2, 4\]",
        ),
        (
            {"labels": torch.zeros(5, dtype=torch.int64)},
            r"labels must be a tensor of int64 \[6\], got a tensor of int64 \[5\]",
        ),
        (
            {"labels": torch.arange(6)},
            r"labels must lie from 0 to 1 \(2 classes\), got 0 to 5",
        ),
        (
            {"labels": torch.arange(6) - 6},
            r"labels must lie from 0 to 1 \(2 classes\), got -6 to -1",
        ),
        (
            {"labels": torch.zeros(6, dtype=torch.int64, device="meta")},
            r"labels must be on the device of the pixels \(cpu\), got meta",
        ),
        ({"max_value": 4}, r"pixels must lie from 0 to 4 \(max_value=4\), got 0 to 5"),
        ({"max_value": 0}, r"max_value must be an integer from 1 to 255, got 0"),
        ({"max_value": 1.0}, r"max_value must be an integer from 1 to 255, got 1.0"),
        ({"classes": ()}, r"classes must be a sequence of at least one name, got \(\)"),
        ({"classes": "ab"}, r"classes must be a sequence of at least one name, got 'ab'"),
        ({"classes": (0, 1)}, r"classes must be a sequence of at least one name, got \(0, 1\)"),
        ({"classes": ("a", "a")}, r"classes must be all different, got a more than once"),
        (
            {"index": torch.zeros(6)},
            r"index must be a tensor of int64 \[6\], got a tensor of float32 \[6\]",
        ),
        ({"index": torch.arange(6) - 1}, r"index must be >= 0, got -1 to 4"),
    ],
)
def test_refuses_other_contents(changes, message):
    with pytest.raises(ValueError, match=message):
        make(**changes)


@pytest.mark.parametrize("method", ["batch", "subset"])
@pytest.mark.parametrize(
    ("positions", "message"),
    [
        ([], r"positions must name at least one image, got none"),
        ([0, 6], r"positions must lie from 0 to 5 \(6 images\), got 0 to 6"),
        ([-1], r"positions must lie from 0 to 5 \(6 images\), got -1 to -1"),
        ([0.5], r"positions must be a tensor of int64 \[N\], got a tensor of float32 \[1\]"),
        ([True], r"positions must be a tensor of int64 \[N\], got a tensor of bool \[1\]"),
        ([[0]], r"positions must be a tensor of int64 \[N\], got a tensor of int64 \[1, 1\]"),
    ],
)
def test_refuses_other_positions(method, positions, message):
    with pytest.raises(ValueError, match=message):
        getattr(make(), method)(positions)


@pytest.mark.parametrize(
    ("size", "drop_last", "message"),
    [
        (0, False, r"batch_size must be an integer >= 1, got 0"),
        (2.0, False, r"batch_size must be an integer >= 1, got 2.0"),
        (True, False, r"batch_size must be an integer >= 1, got True"),
        (7, True, r"batch_size must be at most 6 with drop_last, .*, got 7"),
    ],
)
def test_refuses_other_batch_sizes_before_the_first_batch(size, drop_last, message):
    with pytest.raises(ValueError, match=message):
        make().batches(size, drop_last=drop_last)


def test_whole_numbers_of_numpy_are_welcome():
    assert order(make(), np.int64(4)) == [0, 1, 2, 3, 4, 5]
    assert make().batch(np.array([1, 2])).index.tolist() == [1, 2]


# ---------------------------------------------------------------- the cache on disk


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("DOTKD_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_pickled_objects_in_the_cache_are_not_loaded(cache):
    cache.mkdir()
    np.savez(cache / "key.npz", number=np.array([{}], dtype=object))
    assert cached("key", lambda: {"number": np.ones(1)})["number"].tolist() == [1.0]


def test_two_at_once_both_work(cache):
    def make():
        # While the first one works, another one starts and finishes.
        assert cached("key", lambda: {"x": np.arange(3)})["x"].tolist() == [0, 1, 2]
        return {"x": np.arange(3)}

    assert cached("key", make)["x"].tolist() == [0, 1, 2]
    assert [path.name for path in cache.iterdir()] == ["key.npz"]


@pytest.mark.skipif(os.name == "nt", reason="HOME does not name the home folder there")
@pytest.mark.parametrize("value", [None, ""])
def test_the_cache_is_in_the_home_folder_by_default(tmp_path, monkeypatch, value):
    monkeypatch.delenv("DOTKD_CACHE", raising=False) if value is None else monkeypatch.setenv(
        "DOTKD_CACHE", value
    )
    monkeypatch.setenv("HOME", str(tmp_path))
    cached("key", lambda: {"x": np.arange(3)})
    assert (tmp_path / ".cache" / "dotkd" / "key.npz").exists()
