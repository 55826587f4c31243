"""The batch checks what it carries and moves as one."""

import copy
import pickle
from dataclasses import FrozenInstanceError, replace

import pytest
import torch

from dotkd.data import Batch


def make(**changes):
    parts = {
        "images": torch.zeros(3, 1, 2, 2),
        "labels": torch.tensor([0, 1, 2]),
        "index": torch.tensor([7, 8, 9]),
    }
    return Batch(**(parts | changes))


def test_carries_what_it_was_given():
    images, labels, index, view = torch.zeros(2, 3, 4, 4), *torch.arange(6).reshape(3, 2)
    batch = Batch(images, labels, index, view)
    assert batch.images is images
    assert batch.labels is labels
    assert batch.index is index
    assert batch.view is view
    assert len(batch) == 2
    assert make().view is None


def test_is_frozen_and_replaceable():
    batch = make()
    with pytest.raises(FrozenInstanceError):
        batch.labels = torch.zeros(3, dtype=torch.int64)
    view = torch.tensor([0, 1, 0])
    assert replace(batch, view=view).view is view
    assert batch.view is None


def test_to_moves_every_tensor_and_casts_only_the_images():
    moved = make(view=torch.tensor([0, 1, 0])).to("meta", dtype=torch.float16)
    assert {t.device.type for t in (moved.images, moved.labels, moved.index, moved.view)} == {"meta"}
    assert moved.images.dtype == torch.float16
    assert {moved.labels.dtype, moved.index.dtype, moved.view.dtype} == {torch.int64}
    assert make().to("meta").view is None


def test_to_shares_what_is_right_already():
    batch = make()
    same = batch.to("cpu")
    assert same is not batch
    assert same.images is batch.images
    assert same.labels is batch.labels


@pytest.mark.parametrize("how", [copy.deepcopy, lambda b: pickle.loads(pickle.dumps(b))])
def test_copies_and_pickles(how):
    batch = make(view=torch.tensor([0, 1, 0]))
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
def test_refuses_other_parts(changes, message):
    with pytest.raises(ValueError, match=message):
        make(**changes)
