"""CIFAR from the batches of its authors: the same splits as from parquet, and pickles that run nothing."""

import io
import json
import os
import pickle

import numpy as np
import pytest
import torch

from dotkd.data import load_cifar, load_cifar10, load_cifar100
from dotkd.errors import BadInput

WANTED = {
    10: [*(f"data_batch_{number}" for number in range(1, 6)), "test_batch", "batches.meta"],
    100: ["train", "test", "meta"],
}
FOLDER = {10: "cifar-10-batches-py", 100: "cifar-100-python"}
LABELS = {10: "labels", 100: "fine_labels"}
NAMES = {10: "label_names", 100: "fine_label_names"}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("DOTKD_CACHE", str(tmp_path / "cache"))


def names(classes):
    return [f"class{number:03d}" for number in range(classes)]


def images(seed, count=20):
    return np.random.default_rng(seed).integers(0, 256, (count, 3072), dtype=np.uint8)


def labels(classes, count=20):
    return [7 * row % classes for row in range(count)]


def dump(path, content, protocol=2):
    path.write_bytes(pickle.dumps(content, protocol))


def fill(folder, classes, order="C", protocol=2):
    """In the layout of the authors, whose keys are bytes to Python 3."""
    folder = folder / FOLDER[classes]
    folder.mkdir(parents=True)
    *batches, meta = WANTED[classes]
    for seed, name in enumerate(batches):
        content = {
            b"batch_label": name.encode(),
            b"data": np.asarray(images(seed), order=order),
            LABELS[classes].encode(): labels(classes),
            b"filenames": [b"a.png"] * 20,
        }
        dump(folder / name, content, protocol)
    dump(folder / meta, {NAMES[classes].encode(): [name.encode() for name in names(classes)]}, protocol)
    return folder


@pytest.fixture
def folder(tmp_path):
    return fill(tmp_path, 10)


def same(a, b):
    return all(torch.equal(getattr(a, name), getattr(b, name)) for name in ("pixels", "labels", "index"))


@pytest.mark.parametrize("classes", [10, 100])
@pytest.mark.parametrize(("order", "protocol"), [("C", 2), ("F", 2), ("C", 4)])
def test_reads_the_planes(tmp_path, classes, order, protocol):
    splits = load_cifar(fill(tmp_path, classes, order, protocol), classes=classes)
    count = len(WANTED[classes]) - 2
    expected = np.concatenate([images(seed) for seed in range(count)]).reshape(-1, 3, 32, 32)
    assert np.array_equal(splits.train.pixels.numpy(), expected)
    assert np.array_equal(splits.test.pixels.numpy(), images(count).reshape(-1, 3, 32, 32))
    assert splits.train.labels.tolist() == labels(classes) * count
    assert splits.train.classes == splits.test.classes == tuple(names(classes))
    assert same(load_cifar(tmp_path, classes=classes).train, splits.train)


@pytest.mark.parametrize(("classes", "load"), [(10, load_cifar10), (100, load_cifar100)])
def test_parquet_gives_the_same_splits(tmp_path, classes, load):
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    image_module = pytest.importorskip("PIL.Image")

    def png(row):
        file = io.BytesIO()
        image_module.fromarray(row.reshape(3, 32, 32).transpose(1, 2, 0).copy()).save(file, "PNG")
        return {"bytes": file.getvalue(), "path": None}

    column, sub = {10: ("label", "plain_text"), 100: ("fine_label", "cifar100")}[classes]
    (tmp_path / "hub" / sub).mkdir(parents=True)
    features = {column: {"names": names(classes), "_type": "ClassLabel"}}
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    count = len(WANTED[classes]) - 2
    for split, seeds in (("train", range(count)), ("test", [count])):
        rows = [png(row) for seed in seeds for row in images(seed)]
        table = pyarrow.table({"img": rows, column: labels(classes) * len(seeds)})
        path = tmp_path / "hub" / sub / f"{split}-00000-of-00001.parquet"
        parquet.write_table(table.replace_schema_metadata(metadata), path)
    options = {"validation": 5, "train_images": 10, "label_noise": 0.2, "seed": 3}
    hub, batches = load(tmp_path / "hub", **options), load(fill(tmp_path, classes), **options)
    assert all(same(a, b) for a, b in zip(hub, batches, strict=True))
    assert hub.train.classes == batches.train.classes


def refusal(folder, classes=10):
    with pytest.raises(BadInput) as caught:
        load_cifar(folder, classes=classes)
    assert "\n" not in str(caught.value)
    return str(caught.value)


class Evil:
    def __init__(self, *call):
        self.call = call

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize(
    ("call", "asked"),
    [
        (lambda trace: (os.mkdir, (trace,)), f"{os.name}.mkdir"),
        (lambda trace: (eval, (f"open({trace!r}, 'w')",)), "__builtin__.eval"),
        (lambda _: (np.ones(1).dtype.newbyteorder, ()), "__builtin__.getattr"),
        (lambda trace: (np.load, (trace,)), "numpy.load"),
    ],
    ids=["os", "eval", "getattr", "numpy"],
)
def test_a_pickle_runs_nothing(tmp_path, folder, call, asked):
    trace = tmp_path / "trace"
    path = folder / "data_batch_3"
    dump(path, {b"data": Evil(*call(str(trace)))})
    assert refusal(folder) == (
        f"{path} must hold nothing but lists, texts, numbers and arrays; it asks for {asked}, "
        "which was not run"
    )
    assert not trace.exists()


@pytest.mark.parametrize(
    ("content", "asked"),
    [
        (b"c_codecs\nencode\n(X\x01\x00\x00\x00aX\x03\x00\x00\x00zip\x86R.", "_codecs.encode to "),
        (b"c_codecs\nencode\n}b.", "a change of a function"),
    ],
)
def test_what_is_allowed_cannot_be_turned(folder, content, asked):
    path = folder / "test_batch"
    path.write_bytes(content.replace(b"(X", b"X"))
    assert f"it asks for {asked}" in refusal(folder)


@pytest.mark.parametrize("content", [b"", b"no pickle", pickle.dumps({"data": images(0)}, 2)[:-900]])
def test_a_broken_pickle(folder, content):
    path = folder / "data_batch_1"
    path.write_bytes(content)
    assert refusal(folder).startswith(f"{path} is broken or no batch of CIFAR: ")


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ([1], " must hold a dictionary, got list"),
        ({}, " must have an entry 'data', has only none"),
        ({"data": images(0), "a": 1}, " must have an entry 'labels', has only a, data"),
        ({"data": [1], "labels": []}, ": data must be an array of uint8 [N, 3072]"),
        ({"data": images(0)[:, 1:], "labels": []}, ": data must be an array of uint8 [N, 3072]"),
        ({"data": images(0).astype("u2"), "labels": []}, ": data must be an array of uint8 [N, 3072]"),
        ({"data": np.array([[{}]]), "labels": []}, ": data must be an array of uint8 [N, 3072]"),
        (
            {"data": images(0), "labels": [0]},
            ": labels must be a list of 20 numbers as data has images, got 1",
        ),
        (
            {"data": images(0), "labels": {}},
            ": labels must be a list of 20 numbers as data has images, got no list",
        ),
        (
            {"data": images(0), "labels": [0, 10] * 10},
            ", row 1: labels must be an integer from 0 to 9, got 10",
        ),
        (
            {"data": images(0), "labels": [True] * 20},
            ", row 0: labels must be an integer from 0 to 9, got True",
        ),
    ],
)
def test_another_batch(folder, content, told):
    path = folder / "data_batch_2"
    dump(path, content)
    assert refusal(folder) == f"{path}{told}"


@pytest.mark.parametrize(("entry", "got"), [(names(9), 9), (["a"] * 10, 10), (3, 0), ([1] * 10, 10)])
def test_other_names(folder, entry, got):
    path = folder / "batches.meta"
    dump(path, {"label_names": entry})
    assert refusal(folder) == (f"{path} must have 10 different class names in label_names, got {got} entries")


def test_no_images(folder):
    dump(folder / "test_batch", {"data": images(0)[:0], "labels": []})
    assert refusal(folder) == f"{folder / 'test_batch'} must have at least one image, got none"


@pytest.mark.parametrize("classes", [10, 100])
def test_a_missing_file(tmp_path, classes):
    folder = fill(tmp_path, classes)
    (folder / WANTED[classes][-1]).unlink()
    told = f"{folder} must hold {', '.join(WANTED[classes])}; it lacks {WANTED[classes][-1]}"
    assert refusal(folder, classes) == refusal(tmp_path, classes) == told


def test_another_number_of_classes(folder):
    with pytest.raises(ValueError, match="classes must be 10 or 100, got 20"):
        load_cifar(folder, classes=20)


def test_no_such_data(tmp_path):
    assert refusal(tmp_path / "x") == (
        "root must be a folder with the parquet files of CIFAR-10 or the name of a data set of the hub, such "
        f"as 'uoft-cs/cifar10'; '{tmp_path / 'x'}' is neither"
    )
    assert refusal(tmp_path) == (
        "root must hold train-*.parquet and test-*.parquet, itself or in plain_text/ or data/; "
        f"{tmp_path} holds nothing"
    )
