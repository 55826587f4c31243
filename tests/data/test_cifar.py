"""CIFAR from parquet files and from the pickled batches of its authors: splits, cache, messages."""

import io
import json
import os
import pickle
import sys
from collections import Counter
from functools import cache

import numpy as np
import pytest
import torch

from dotkd.data import hub, load_cifar, load_cifar10, load_cifar100
from dotkd.errors import BadInput

pyarrow = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")
Image = pytest.importorskip("PIL.Image")

NAMES = [f"class{number:02d}" for number in range(100)]
IMG = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])
SIZES = {"train-00000-of-00002": 250, "train-00001-of-00002": 150, "test-00000-of-00001": 200}


def encoded(pixels, kind="PNG"):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind, **({"lossless": True} if kind == "WEBP" else {}))
    return file.getvalue()


def random_pixels(count, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)


@cache
def encoded_images(count, seed):
    return [encoded(pixels) for pixels in random_pixels(count, seed)]


def write(path, images, labels, names=NAMES, kind=None):
    """One file in the layout of the hub."""
    features = {
        "img": {"_type": "Image"},
        "fine_label": {"names": names, "_type": "ClassLabel"},
        "coarse_label": {"names": ["a", "b"], "_type": "ClassLabel"},
    }
    schema = pyarrow.schema(
        [("img", IMG), ("fine_label", kind or pyarrow.int64()), ("coarse_label", pyarrow.int64())],
        metadata=None if names is None else {"huggingface": json.dumps({"info": {"features": features}})},
    )
    columns = {
        "img": [{"bytes": image, "path": None} for image in images],
        "fine_label": labels,
        "coarse_label": [0] * len(labels),
    }
    parquet.write_table(pyarrow.table(columns, schema), path)


def fill(folder, sizes=SIZES, **options):
    folder.mkdir(parents=True, exist_ok=True)
    for seed, (name, count) in enumerate(sizes.items()):
        write(
            folder / f"{name}.parquet",
            encoded_images(count, seed),
            [(7 * row) % 100 for row in range(count)],
            **options,
        )
    return folder


@pytest.fixture(autouse=True, name="cache")
def cache_folder(tmp_path, monkeypatch):
    folder = tmp_path / "cache"
    monkeypatch.setenv("DOTKD_CACHE", str(folder))
    return folder


@pytest.fixture
def root(tmp_path):
    return fill(tmp_path / "files")


@pytest.fixture
def small(tmp_path):
    return fill(tmp_path / "files", {"train-0": 2, "test-0": 2})


@pytest.fixture
def no_decoding(monkeypatch):
    """What comes now comes from the cache."""

    def refuse(*_):
        raise AssertionError("decoded again")

    return lambda: monkeypatch.setattr(hub.Encoded, "decode", refuse)


def same(a, b):
    return all(torch.equal(getattr(a, name), getattr(b, name)) for name in ("pixels", "labels", "index"))


# ---------------------------------------------------------------- reading


def test_shards_are_read_in_the_order_of_their_names(root):
    train, validation, test = load_cifar100(root)
    assert validation is None
    assert (repr(train), repr(test)) == (
        "ImageData(400 images of [3, 32, 32], 100 classes)",
        "ImageData(200 images of [3, 32, 32], 100 classes)",
    )
    pixels = np.concatenate([random_pixels(250, 0), random_pixels(150, 1)]).transpose(0, 3, 1, 2)
    assert np.array_equal(train.pixels.numpy(), pixels)
    assert np.array_equal(test.pixels.numpy(), random_pixels(200, 2).transpose(0, 3, 1, 2))
    assert train.labels.tolist() == [7 * row % 100 for count in (250, 150) for row in range(count)]
    assert train.index.tolist() == list(range(400))
    assert test.index.tolist() == list(range(200))
    assert train.classes == test.classes == tuple(NAMES)
    assert (train.max_value, train.pixels.is_contiguous()) == (255, True)


@pytest.mark.parametrize("sub", ["cifar100", "data"])
def test_files_may_lie_in_a_folder_below(tmp_path, root, sub):
    assert same(load_cifar100(str(fill(tmp_path / "repo" / sub).parent)).train, load_cifar100(root).train)


def test_lossless_webp_is_read_too(tmp_path, small):
    pixels = random_pixels(2)
    write(small / "train-0.parquet", [encoded(image, "WEBP") for image in pixels], [0, 1])
    assert np.array_equal(load_cifar100(small).train.pixels.numpy(), pixels.transpose(0, 3, 1, 2))


@pytest.mark.parametrize("metadata", [None, {"huggingface": "{}"}, {"huggingface": "no json"}])
def test_without_names_classes_are_numbers(small, metadata):
    for path in small.iterdir():
        parquet.write_table(parquet.read_table(path).replace_schema_metadata(metadata), path)
    assert load_cifar100(small).train.classes == tuple(str(number) for number in range(100))


def test_a_name_of_the_hub_is_downloaded(tmp_path, root, monkeypatch):
    datasets = pytest.importorskip("datasets")
    asked = []

    def load_dataset(name):
        asked.append(name)
        files = {split: sorted(map(str, root.glob(f"{split}-*"))) for split in ("train", "test")}
        return real("parquet", data_files=files, cache_dir=str(tmp_path / "hub"))

    real = datasets.load_dataset
    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    monkeypatch.chdir(tmp_path)
    hub, local = load_cifar100("uoft-cs/cifar100", validation=100), load_cifar100(root, validation=100)
    assert asked == ["uoft-cs/cifar100"]
    assert all(same(a, b) for a, b in zip(hub, local, strict=True))
    assert hub.train.classes == tuple(NAMES)


def test_a_folder_goes_before_a_name_of_the_hub(tmp_path, monkeypatch):
    fill(tmp_path / "owner" / "name", {"train-0": 2, "test-0": 2})
    monkeypatch.chdir(tmp_path)
    assert len(load_cifar100("owner/name").train) == 2


# ---------------------------------------------------------------- splits


@pytest.mark.parametrize("validation", [0, 100, 399])
def test_splits_are_disjoint_and_together_everything(root, validation):
    whole, splits = load_cifar100(root), load_cifar100(root, validation=validation, seed=3)
    assert (splits.validation is None) == (validation == 0)
    parts = [part for part in splits[:2] if part is not None]
    assert [len(part) for part in parts][1:] == [validation] * (validation > 0)
    assert sorted(number for part in parts for number in part.index.tolist()) == list(range(400))
    for part in parts:
        assert torch.equal(part.pixels, whole.train.pixels[part.index])
        assert torch.equal(part.labels, whole.train.labels[part.index])
        assert torch.equal(part.index, part.index.sort().values)
    assert same(splits.test, whole.test)


def test_fewer_training_images_come_from_the_rest_in_the_shares_of_the_classes(root):
    full, few = (load_cifar100(root, validation=100, train_images=count) for count in (0, 200))
    assert same(few.validation, full.validation)
    assert len(few.train) == 200
    assert set(few.train.index.tolist()) < set(full.train.index.tolist())
    assert set(Counter(few.train.labels.tolist()).values()) <= {1, 2, 3}
    assert len(load_cifar100(root, validation=100, train_images=300).train) == 300


def test_reproducible_by_seed_and_different_between_seeds(root):
    options = {"validation": 100, "train_images": 150, "label_noise": 0.4}
    first, again, other = (load_cifar100(root, seed=seed, **options) for seed in (3, 3, 4))
    assert all(same(a, b) for a, b in zip(first, again, strict=True))
    assert first.validation.index.tolist() != other.validation.index.tolist()
    assert first.train.index.tolist() != other.train.index.tolist()


def test_noise_is_exact_and_in_the_training_labels_only(root):
    clean, noisy = (
        load_cifar100(root, validation=100, train_images=150, label_noise=share) for share in (0.0, 0.4)
    )
    assert torch.equal(noisy.train.index, clean.train.index)
    assert int((noisy.train.labels != clean.train.labels).sum()) == 60
    assert same(noisy.validation, clean.validation)
    assert same(noisy.test, clean.test)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"validation": -1}, r"validation must be an integer >= 0, got -1"),
        ({"validation": 0.1}, r"validation must be an integer >= 0, got 0.1"),
        ({"validation": 2}, r"validation must be an integer from 0 to 1, got 2"),
        ({"train_images": -1}, r"train_images must be an integer >= 0, got -1"),
        ({"train_images": True}, r"train_images must be an integer >= 0, got True"),
        ({"validation": 1, "train_images": 2}, r"train_images must be an integer from 0 to 1, got 2"),
        ({"label_noise": 30}, r"label_noise must be a number from 0 to 1, got 30"),
        ({"seed": 0.5}, r"seed must be an integer >= 0, got 0.5"),
    ],
)
def test_refuses_other_arguments(small, arguments, message):
    with pytest.raises(ValueError, match=message):
        load_cifar100(small, **arguments)


# ---------------------------------------------------------------- the cache


def test_decodes_once(root, cache, no_decoding):
    first = load_cifar100(root)
    (file,) = cache.iterdir()
    assert file.name.startswith("cifar100-v1-")
    assert file.suffix == ".npz"
    no_decoding()
    again = load_cifar100(root)
    assert all(same(a, b) for a, b in ((first.train, again.train), (first.test, again.test)))
    assert again.train.classes == tuple(NAMES)
    again.train.pixels.zero_()
    assert load_cifar100(root).train.pixels.any()


def test_the_key_is_the_contents_and_not_the_place(tmp_path, small, no_decoding):
    load_cifar100(small)
    moved = small.rename(tmp_path / "elsewhere")
    no_decoding()
    load_cifar100(moved)
    # The same two files, the other way round, are another data set.
    for name, other in (("train-0", "swap"), ("test-0", "train-0"), ("swap", "test-0")):
        (moved / f"{name}.parquet").rename(moved / f"{other}.parquet")
    with pytest.raises(AssertionError, match="decoded again"):
        load_cifar100(moved)


@pytest.mark.parametrize(
    "harm",
    [
        lambda _: b"",
        lambda _: b"no archive",
        lambda whole: whole[: len(whole) // 2],
        lambda whole: whole[:5000] + bytes([whole[5000] ^ 1]) + whole[5001:],
    ],
    ids=["empty", "other", "cut", "one bit"],
)
def test_a_broken_cache_is_made_anew(small, cache, no_decoding, harm):
    first = load_cifar100(small)
    (file,) = cache.iterdir()
    whole = file.read_bytes()
    file.write_bytes(harm(whole))
    assert same(load_cifar100(small).train, first.train)
    assert list(cache.iterdir()) == [file]
    no_decoding()
    assert same(load_cifar100(small).train, first.train)


def test_a_cache_that_cannot_be_written_is_no_error(small, cache):
    cache.write_text("a file where the folder should be", encoding="utf-8")
    assert len(load_cifar100(small).train) == 2
    assert cache.is_file()


def test_a_write_that_fails_half_way_leaves_nothing(small, cache, monkeypatch):
    def full(file, **arrays):
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", full)
    assert len(load_cifar100(small).train) == 2
    assert list(cache.iterdir()) == []


# ---------------------------------------------------------------- what is told


def refusal(root):
    with pytest.raises(BadInput) as caught:
        load_cifar100(root)
    text = str(caught.value)
    assert "\n" not in text
    return text


def test_no_such_folder(tmp_path):
    path = tmp_path / "nowhere"
    assert refusal(path) == refusal(str(path))
    assert refusal(path) == (
        "root must be a folder with the parquet files of CIFAR-100 or the name of a data set of the hub, "
        f"such as 'uoft-cs/cifar100'; '{path}' is neither"
    )


def test_a_file_is_no_folder(small):
    path = small / "train-0.parquet"
    assert refusal(path).endswith(f"'{path}' is neither")


def test_a_folder_with_other_files(tmp_path):
    message = (
        "root must hold train-*.parquet and test-*.parquet, itself or in cifar100/ or data/; "
        f"{tmp_path} holds "
    )
    assert refusal(tmp_path) == message + "nothing"
    for name in "cab":
        (tmp_path / name).touch()
    (tmp_path / "train-0.parquet").touch()
    assert refusal(tmp_path) == message + "a, b, c, train-0.parquet"
    for name in "de":
        (tmp_path / name).touch()
    assert refusal(tmp_path) == message + "a, b, c, d, e, ..."


@pytest.mark.parametrize("column", ["img", "fine_label"])
def test_a_missing_column(small, column):
    path = small / "test-0.parquet"
    table = parquet.read_table(path).drop_columns([column])
    parquet.write_table(table, path)
    has = {"img": "coarse_label, fine_label", "fine_label": "coarse_label, img"}[column]
    option = {"img": "image_column", "fine_label": "label_column"}[column]
    told = refusal(small)
    assert f"unknown {option} {column!r}" in told
    assert told.endswith(f"(known: {has}) in {small}, split 'test'")


@pytest.mark.parametrize("harm", [lambda _: b"", lambda _: b"x" * 99, lambda whole: whole[:-9]])
def test_a_file_that_is_no_parquet(small, harm):
    path = small / "train-0.parquet"
    path.write_bytes(harm(path.read_bytes()))
    assert refusal(small).startswith(f"{path} is broken or no parquet file: ")


def test_a_folder_in_the_place_of_a_file(small):
    path = small / "train-1.parquet"
    path.mkdir()
    assert refusal(small).startswith(f"{path} is broken or no parquet file: ")


@pytest.mark.parametrize(
    ("image", "told"),
    [
        (b"no image", "is no image that can be decoded (PNG or WebP)"),
        (None, "must hold the bytes of an image file, has none"),
        (encoded(random_pixels(1)[0])[:700], "is no image that can be decoded (PNG or WebP)"),
        (encoded(random_pixels(1)[0], "JPEG"), "is no image that can be decoded (PNG or WebP)"),
        (encoded(random_pixels(1)[0][:16]), "must be 32x32, got 32x16"),
        (encoded(random_pixels(1)[0][:, :, 0]), "must have the mode RGB, has the mode L"),
    ],
    ids=["other", "none", "cut", "JPEG", "size", "grey"],
)
def test_a_wrong_image(small, image, told):
    path = small / "train-0.parquet"
    write(path, [encoded(random_pixels(1)[0]), image], [0, 1])
    assert refusal(small) == f"{small}, split 'train', row 1: img {told}"


@pytest.mark.parametrize("label", [-1, 100, None, 1.0])
def test_a_label_out_of_range(small, label):
    path = small / "test-0.parquet"
    images = [encoded(pixels) for pixels in random_pixels(2)]
    write(path, images, [0, label], kind=pyarrow.float64() if label == 1.0 else None)
    row = 0 if label == 1.0 else 1
    shown = 0.0 if label == 1.0 else label
    told = refusal(small)
    assert told.startswith(f"{small}, split 'test', row {row}: fine_label must be ")
    assert told.endswith(f", got {shown!r}")
    assert type(label) is not int or "one of 100 classes, 0 to 99" in told


def test_other_class_names(small):
    path = small / "test-0.parquet"
    images = [encoded(pixels) for pixels in random_pixels(2)]
    write(path, images, [0, 1], names=NAMES[:10])
    assert refusal(small) == f"{path} must have 100 different class names in fine_label, got 10"
    write(path, images, [0, 1], names=NAMES[::-1])
    assert refusal(small) == f"{path} has other class names than {small / 'train-0.parquet'}"


def test_no_rows(small):
    write(small / "train-0.parquet", [], [])
    assert refusal(small) == f"{small}, split 'train' must have at least one row, got none"


def test_a_missing_library(small, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    assert refusal(small) == f"{small / 'train-0.parquet'} needs the extra 'hub': pip install 'dotkd[hub]'"


def test_a_missing_library_of_the_hub(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "datasets", None)
    assert refusal("uoft-cs/cifar100") == "CIFAR-100 needs the extra 'hub': pip install 'dotkd[hub]'"


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (ConnectionError("no way\nto the hub"), "no way"),
        (ValueError(), "ValueError"),
        (KeyError("test"), "'test'"),
    ],
)
def test_a_hub_that_does_not_answer(tmp_path, monkeypatch, error, reason):
    datasets = pytest.importorskip("datasets")

    def load_dataset(name):
        raise error

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    assert refusal("data/cifar100") == (
        "root 'data/cifar100' is no folder here, and as a data set of the hub it cannot be loaded: " + reason
    )


# ---------------------------------------------------------------- the pickled batches


WANTED = {
    10: [*(f"data_batch_{number}" for number in range(1, 6)), "test_batch", "batches.meta"],
    100: ["train", "test", "meta"],
}
FOLDER = {10: "cifar-10-batches-py", 100: "cifar-100-python"}
LABELS_KEY = {10: "labels", 100: "fine_labels"}
NAMES_KEY = {10: "label_names", 100: "fine_label_names"}


def names(classes):
    return [f"class{number:03d}" for number in range(classes)]


def images(seed, count=20):
    return np.random.default_rng(seed).integers(0, 256, (count, 3072), dtype=np.uint8)


def labels(classes, count=20):
    return [7 * row % classes for row in range(count)]


def dump(path, content, protocol=2):
    path.write_bytes(pickle.dumps(content, protocol))


def fill_batches(folder, classes, order="C", protocol=2):
    """In the layout of the authors, whose keys are bytes to Python 3."""
    folder = folder / FOLDER[classes]
    folder.mkdir(parents=True)
    *batches, meta = WANTED[classes]
    for seed, name in enumerate(batches):
        content = {
            b"batch_label": name.encode(),
            b"data": np.asarray(images(seed), order=order),
            LABELS_KEY[classes].encode(): labels(classes),
            b"filenames": [b"a.png"] * 20,
        }
        dump(folder / name, content, protocol)
    dump(folder / meta, {NAMES_KEY[classes].encode(): [name.encode() for name in names(classes)]}, protocol)
    return folder


@pytest.fixture
def folder(tmp_path):
    return fill_batches(tmp_path, 10)


@pytest.mark.parametrize("classes", [10, 100])
@pytest.mark.parametrize(("order", "protocol"), [("C", 2), ("F", 2), ("C", 4)])
def test_reads_the_planes(tmp_path, classes, order, protocol):
    splits = load_cifar(fill_batches(tmp_path, classes, order, protocol), classes=classes)
    count = len(WANTED[classes]) - 2
    expected = np.concatenate([images(seed) for seed in range(count)]).reshape(-1, 3, 32, 32)
    assert np.array_equal(splits.train.pixels.numpy(), expected)
    assert np.array_equal(splits.test.pixels.numpy(), images(count).reshape(-1, 3, 32, 32))
    assert splits.train.labels.tolist() == labels(classes) * count
    assert splits.train.classes == splits.test.classes == tuple(names(classes))
    assert same(load_cifar(tmp_path, classes=classes).train, splits.train)


@pytest.mark.parametrize(("classes", "load"), [(10, load_cifar10), (100, load_cifar100)])
def test_parquet_gives_the_same_splits(tmp_path, classes, load):
    def png(row):
        return {"bytes": encoded(row.reshape(3, 32, 32).transpose(1, 2, 0).copy()), "path": None}

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
    hub, batches = load(tmp_path / "hub", **options), load(fill_batches(tmp_path, classes), **options)
    assert all(same(a, b) for a, b in zip(hub, batches, strict=True))
    assert hub.train.classes == batches.train.classes


def refusal_of_batches(folder, classes=10):
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
    assert refusal_of_batches(folder) == (
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
    assert f"it asks for {asked}" in refusal_of_batches(folder)


@pytest.mark.parametrize("content", [b"", b"no pickle", pickle.dumps({"data": images(0)}, 2)[:-900]])
def test_a_broken_pickle(folder, content):
    path = folder / "data_batch_1"
    path.write_bytes(content)
    assert refusal_of_batches(folder).startswith(f"{path} is broken or no batch of CIFAR: ")


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
    assert refusal_of_batches(folder) == f"{path}{told}"


@pytest.mark.parametrize(("entry", "got"), [(names(9), 9), (["a"] * 10, 10), (3, 0), ([1] * 10, 10)])
def test_other_names_in_batches(folder, entry, got):
    path = folder / "batches.meta"
    dump(path, {"label_names": entry})
    assert refusal_of_batches(folder) == (
        f"{path} must have 10 different class names in label_names, got {got} entries"
    )


def test_batches_without_images(folder):
    dump(folder / "test_batch", {"data": images(0)[:0], "labels": []})
    assert refusal_of_batches(folder) == f"{folder / 'test_batch'} must have at least one image, got none"


@pytest.mark.parametrize("classes", [10, 100])
def test_a_missing_batch(tmp_path, classes):
    folder = fill_batches(tmp_path, classes)
    (folder / WANTED[classes][-1]).unlink()
    told = f"{folder} must hold {', '.join(WANTED[classes])}; it lacks {WANTED[classes][-1]}"
    assert refusal_of_batches(folder, classes) == refusal_of_batches(tmp_path, classes) == told


def test_another_number_of_classes(folder):
    with pytest.raises(ValueError, match="classes must be 10 or 100, got 20"):
        load_cifar(folder, classes=20)


def test_no_such_data(tmp_path):
    assert refusal_of_batches(tmp_path / "x") == (
        "root must be a folder with the parquet files of CIFAR-10 or the name of a data set of the hub, such "
        f"as 'uoft-cs/cifar10'; '{tmp_path / 'x'}' is neither"
    )
    assert refusal_of_batches(tmp_path) == (
        "root must hold train-*.parquet and test-*.parquet, itself or in plain_text/ or data/; "
        f"{tmp_path} holds nothing"
    )
