"""Tiny-ImageNet in the layout in which it is distributed, with one or two images of a class."""

import os

import numpy as np
import pytest
import torch
from PIL import Image

from dotkd.data import data_facts, load_data, load_tiny_imagenet, tiny_imagenet
from dotkd.errors import BadInput

WNIDS = [f"n{1_000_000 + 37 * number:08d}" for number in range(200)]


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("DOTKD_CACHE", str(tmp_path / "cache"))


def save(path, mode="RGB", size=64):
    path.parent.mkdir(parents=True, exist_ok=True)
    seed = sum(path.name.encode())
    pixels = np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8)
    Image.fromarray(pixels).convert(mode).save(path, "JPEG")


@pytest.fixture
def root(tmp_path):
    folder = tmp_path / "tiny-imagenet-200"
    lines = []
    for number, wnid in enumerate(WNIDS):
        save(folder / "train" / wnid / "images" / f"{wnid}_0.JPEG", "L" if number == 3 else "RGB")
        (folder / "train" / wnid / f"{wnid}_boxes.txt").write_text("", encoding="utf-8")
        if number < 20:
            save(folder / "val" / "images" / f"val_{number}.JPEG", "CMYK" if number == 4 else "RGB")
            lines.append(f"val_{number}.JPEG\t{WNIDS[19 - number]}\t0\t0\t62\t62\n")
    save(folder / "train" / WNIDS[0] / "images" / f"{WNIDS[0]}_1.JPEG")
    (folder / "wnids.txt").write_text("\n".join(WNIDS[::-1]) + "\n", encoding="utf-8")
    words = ["n00000001\tentity\n", *(f"{wnid}\tword {n}, other\n" for n, wnid in enumerate(WNIDS[:-3]))]
    words += [f"{wnid}\tcrane\n" for wnid in WNIDS[-3:-1]]
    (folder / "words.txt").write_text("".join(words), encoding="utf-8")
    (folder / "val" / "val_annotations.txt").write_text("".join(lines), encoding="utf-8")
    return folder


def decoded(path):
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB")).transpose(2, 0, 1)


def test_reads_it(root):
    train, validation, test = load_tiny_imagenet(root)
    assert validation is None
    assert (*train.pixels.shape[1:], len(train.classes)) == data_facts("tiny_imagenet")[:4]
    assert train.labels.tolist() == [0, *range(200)]
    assert test.labels.tolist() == list(range(19, -1, -1))
    assert train.classes[0] == "word 0, other"
    assert train.classes[-3:] == (f"crane ({WNIDS[-3]})", f"crane ({WNIDS[-2]})", WNIDS[-1])
    grey = decoded(root / "train" / WNIDS[3] / "images" / f"{WNIDS[3]}_0.JPEG")
    assert np.array_equal(train.pixels[4].numpy(), grey)
    assert (grey[0] == grey[2]).all()
    for number in range(20):
        expected = decoded(root / "val" / "images" / f"val_{number}.JPEG")
        assert np.array_equal(test.pixels[number].numpy(), expected)


def test_the_folder_above_and_the_name(root):
    above = load_data("tiny_imagenet", root=root.parent, validation=20, train_images=50, seed=2)
    here = load_tiny_imagenet(root, validation=20, train_images=50, seed=2)
    for a, b in zip(above, here, strict=True):
        assert torch.equal(a.pixels, b.pixels)
        assert torch.equal(a.index, b.index)
    assert [len(part) for part in here] == [50, 20, 20]


def test_decodes_once_and_notices_a_change(root, monkeypatch):
    def refuse(*_):
        raise AssertionError("decoded again")

    load_tiny_imagenet(root)
    with monkeypatch.context() as patch:
        patch.setattr(tiny_imagenet, "_decode", refuse)
        load_tiny_imagenet(root)
        image, listing = root / "val" / "images" / "val_7.JPEG", root / "val" / "val_annotations.txt"
        before = image.stat()
        os.utime(image, ns=(before.st_atime_ns, before.st_mtime_ns + 1))
        with pytest.raises(AssertionError, match="decoded again"):
            load_tiny_imagenet(root)
        os.utime(image, ns=(before.st_atime_ns, before.st_mtime_ns))
        load_tiny_imagenet(root)
        text, stamp = listing.read_text(encoding="utf-8"), listing.stat()
        listing.write_text(text.replace(WNIDS[0], WNIDS[1]), encoding="utf-8")
        os.utime(listing, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
        with pytest.raises(AssertionError, match="decoded again"):
            load_tiny_imagenet(root)


def refusal(root):
    with pytest.raises(BadInput) as caught:
        load_tiny_imagenet(root)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_missing_part(root, tmp_path):
    told = (
        "root must be tiny-imagenet-200 as it is distributed, or the folder above, with wnids.txt, "
        "words.txt, train, val/images, val/val_annotations.txt; "
    )
    assert refusal(tmp_path / "x") == f"{told}{tmp_path / 'x'} is no folder"
    (root / "words.txt").unlink()
    assert refusal(root) == refusal(root.parent) == f"{told}{root} lacks words.txt"


def test_wrong_images(root):
    path = root / "val" / "images" / "val_3.JPEG"
    save(path, size=32)
    assert refusal(root).startswith(f"{path} must be 64x64, got 32x32")
    path.write_bytes(b"no image")
    assert refusal(root) == f"{path} is no image that can be decoded (PNG, JPEG, WebP or BMP)"
    folder = root / "train" / WNIDS[5] / "images"
    (folder / f"{WNIDS[5]}_0.JPEG").unlink()
    assert refusal(root).startswith(f"{folder} must hold at least one image")
    folder.rmdir()
    assert refusal(root) == f"{folder} cannot be read: No such file or directory"


def test_wrong_lists(root):
    listing, images = root / "val" / "val_annotations.txt", root / "val" / "images"
    text = listing.read_text(encoding="utf-8")
    for line, told in (
        ("val_0.JPEG\tn1", "must name a file and a class of wnids.txt, got 'val_0.JPEG\\tn1'"),
        (f"val_0.JPEG\t{WNIDS[0]}", "val_0.JPEG is there twice"),
        (f"val_99.JPEG\t{WNIDS[0]}", f"val_99.JPEG is no file in {images}"),
    ):
        listing.write_text(f"{text}{line}\n", encoding="utf-8")
        assert refusal(root) == f"{listing}, line 21: {told}"
    listing.write_text("".join(text.splitlines(keepends=True)[:-1]), encoding="utf-8")
    assert refusal(root) == f"{images / 'val_19.JPEG'} must have a line in {listing}, has none"
    path = root / "wnids.txt"
    path.write_text("\n".join(WNIDS[1:]), encoding="utf-8")
    assert refusal(root) == f"{path} must name 200 different classes, one a line, got 199"
    path.write_bytes(b"\xff\xfe\xff")
    assert refusal(root).startswith(f"{path} cannot be read as text: ")
