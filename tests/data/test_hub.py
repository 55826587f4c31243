"""Data sets in the form of the hub: parquet files made here, read through the library."""

import io
import json
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from dotkd.data import DataFacts, data_facts, hub, load_data, load_hub
from dotkd.data.decode import centre_view
from dotkd.errors import BadInput

datasets = pytest.importorskip("datasets")
pyarrow = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")

IMAGE = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("DOTKD_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "hub"))
    return tmp_path / "cache"


def picture(seed, width=6, height=5):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def encoded(image, kind="PNG"):
    file = io.BytesIO()
    image.save(file, kind)
    return file.getvalue()


def write(folder, split, labels, images=None, *, names=None, columns=("image", "label"), plain=False):
    """One file of a split: as the hub has it with names, and as anybody would write it without."""
    folder.mkdir(parents=True, exist_ok=True)
    seed = {"train": 0, "test": 100}.get(split, 200)
    if images is None:
        images = [encoded(picture(seed + row)) for row in range(len(labels))]
    if plain:
        column = pyarrow.array(images, pyarrow.binary())
    else:
        column = pyarrow.array([{"bytes": image, "path": None} for image in images], IMAGE)
    table = pyarrow.table({columns[0]: column, columns[1]: labels})
    if names is not None:
        features = {
            columns[0]: {"_type": "Image"},
            columns[1]: {"names": names, "_type": "ClassLabel"},
        }
        about = {"huggingface": json.dumps({"info": {"features": features}})}
        table = table.replace_schema_metadata(about)
    parquet.write_table(table, folder / f"{split}-00000-of-00001.parquet")


@pytest.fixture
def root(tmp_path):
    for split, count in (("train", 6), ("test", 3)):
        write(tmp_path / "files", split, [row % 3 for row in range(count)], names=["cow", "ant", "bee"])
    return tmp_path / "files"


def rgb(image):
    return np.asarray(image).transpose(2, 0, 1)


def same(a, b):
    return all(torch.equal(getattr(a, name), getattr(b, name)) for name in ("labels", "index")) and (
        torch.equal(a.batch(range(len(a))).images, b.batch(range(len(b))).images)
    )


# ---------------------------------------------------------------- reading


def test_images_and_named_classes(root):
    train, validation, test = load_hub(root)
    assert validation is None
    assert repr(train) == "ImageData(6 images of [3, 5, 6], 3 classes)"
    assert train.classes == test.classes == ("cow", "ant", "bee")
    assert train.labels.tolist() == [0, 1, 2, 0, 1, 2]
    for data, seed in ((train, 0), (test, 100)):
        for row in range(len(data)):
            assert np.array_equal(data.pixels[row].numpy(), rgb(picture(seed + row)))


@pytest.mark.parametrize(
    ("train", "test", "classes", "numbers"),
    [
        (["bee", "ant", "bee", "cow"], ["cow", "ant"], ("ant", "bee", "cow"), [1, 0, 1, 2]),
        ([10, 7, 7, -2], [7, 7], ("-2", "7", "10"), [2, 1, 1, 0]),
        ([-1, 0, 1, -1], [1, -1], ("-1", "0", "1"), [0, 1, 2, 0]),
        ([True, False, False, True], [True, True], ("False", "True"), [1, 0, 0, 1]),
    ],
)
def test_labels_without_names_become_classes(tmp_path, train, test, classes, numbers):
    write(tmp_path / "files", "train", train, plain=True)
    write(tmp_path / "files", "test", test, plain=True)
    splits = load_hub(tmp_path / "files")
    assert splits.train.classes == splits.test.classes == classes
    assert splits.train.labels.tolist() == numbers
    assert np.array_equal(splits.train.pixels[3].numpy(), rgb(picture(3)))


def test_other_columns_and_splits(tmp_path):
    for split in ("train", "validation", "test"):
        write(tmp_path / "files", split, ["a", "b"], columns=("img", "fine"))
    names = {"image_column": "img", "label_column": "fine", "test_split": "validation"}
    splits = load_data("hub", root=tmp_path / "files", validation=1, **names)
    assert [len(part) for part in splits] == [1, 1, 2]
    assert np.array_equal(splits.test.pixels[0].numpy(), rgb(picture(200)))
    assert data_facts("hub", tmp_path / "files", **names) == DataFacts(3, 5, 6, 2, 2, 2)
    assert data_facts("hub", tmp_path / "files", image_size=8, **names)[1:3] == (8, 8)


def test_sizes_streams_and_memory(tmp_path):
    sizes = [(9, 30), (31, 12), (8, 8)]
    images = [encoded(picture(row, *size), "JPEG") for row, size in enumerate(sizes)]
    for split in ("train", "test"):
        write(tmp_path / "files", split, ["a", "b", "a"], images)
    with pytest.raises(BadInput) as caught:
        load_hub(tmp_path / "files")
    first = f"{tmp_path / 'files'}, split 'train', row"
    told = f"{first} 1: image must be 9x30, the size of {first} 0: image (or give an image_size), got 31x12"
    assert str(caught.value) == told
    memory = load_hub(tmp_path / "files", image_size=7, validation=1, label_noise=0.5)
    for row in range(3):
        with Image.open(io.BytesIO(images[row])) as image:
            assert np.array_equal(memory.test.pixels[row].numpy(), rgb(centre_view(image, 7)))
    streamed = load_hub(
        tmp_path / "files", image_size=7, validation=1, label_noise=0.5, stream=True, workers=0
    )
    assert repr(streamed.test) == "StreamedImages(3 images of [3, 7, 7], 2 classes)"
    assert all(same(a, b) for a, b in zip(memory, streamed, strict=True))


@pytest.mark.slow
def test_worker_processes_open_the_files_themselves(root):
    here, there = (load_hub(root, image_size=5, stream=True, workers=count).train for count in (0, 1))
    here.batch([0])  # the files are open in this process
    (batch,) = there.batches(6)
    assert torch.equal(batch.images, here.batch(range(6)).images)


def test_images_may_lie_beside_the_table(tmp_path):
    """A folder of images: the library gives their paths."""
    for split in ("train", "test"):
        for number, name in enumerate(("ant", "bee")):
            (tmp_path / "files" / split / name).mkdir(parents=True)
            picture(number).save(tmp_path / "files" / split / name / "0.png")
    train = load_hub(tmp_path / "files").train
    assert train.classes == ("ant", "bee")
    assert np.array_equal(train.pixels[1].numpy(), rgb(picture(1)))
    streamed = load_hub(tmp_path / "files", image_size=5, stream=True, workers=0).train
    assert len(streamed.checksum()) == 16
    path = tmp_path / "files" / "train" / "bee" / "0.png"
    picture(7).save(path)
    assert np.array_equal(load_hub(tmp_path / "files").train.pixels[1].numpy(), rgb(picture(7)))


# ---------------------------------------------------------------- the cache and the checksum


def test_decodes_once_and_notices_other_contents(tmp_path, root, cache, monkeypatch):
    def refuse(*_):
        raise AssertionError("decoded again")

    first = load_hub(root)
    assert not (cache.parent / "hub").exists(), "parquet files were copied"
    (file,) = cache.iterdir()
    assert file.name.startswith("hub-v3-")
    with monkeypatch.context() as patch:
        patch.setattr(hub.Encoded, "decode", refuse)
        assert same(load_hub(root).train, first.train)
        with pytest.raises(AssertionError, match="decoded again"):
            load_hub(root, image_size=5)
        moved = root.rename(tmp_path / "moved")
        assert same(load_hub(moved).train, first.train)
        # Other pixels in as many bytes.
        for seed in (0, 1):
            images = [encoded(Image.new("RGB", (6, 5), (seed, 0, row)), "BMP") for row in range(6)]
            write(moved, "train", [0, 1, 2, 0, 1, 2], images, names=["cow", "ant", "bee"])
            with pytest.raises(AssertionError, match="decoded again"):
                load_hub(moved)


def test_the_checksum_of_streamed_images(tmp_path, root):
    def checksum():
        return load_hub(root, image_size=5, stream=True, workers=0).train.checksum()

    first = checksum()
    assert first == checksum()
    images = [encoded(picture(row)) for row in range(6)]
    write(root, "train", [0, 1, 2, 0, 1, 1], images, names=["cow", "ant", "bee"])
    other_labels = checksum()
    write(root, "train", [0, 1, 2, 0, 1, 1], images[::-1], names=["cow", "ant", "bee"])
    assert len({first, other_labels, checksum()}) == 3


# ---------------------------------------------------------------- splits of one's own


LABELS = [row % 3 for row in range(20)]
IMAGES = [encoded(picture(900 + row)) for row in range(20)]


@pytest.fixture
def whole(tmp_path):
    write(tmp_path / "whole", "train", LABELS, IMAGES, names=["cow", "ant", "bee"])
    return tmp_path / "whole"


def rows_of(part):
    """The rows of the file that the images of a part come from."""
    known = {rgb(picture(900 + row)).tobytes(): row for row in range(20)}
    found = (part.batch(range(len(part))).images * 255).round().byte().numpy()
    return [known[image.tobytes()] for image in found]


@pytest.mark.parametrize(
    ("options", "train", "validation", "test"),
    [
        ({"test_split": "train[80%:]"}, range(16), None, range(16, 20)),
        ({"test_split": "train[:7]"}, range(7, 20), None, range(7)),
        ({"test_split": "train[-5:]"}, range(15), None, range(15, 20)),
        ({"test_split": "train[5:-5]"}, [*range(5), *range(15, 20)], None, range(5, 15)),
        ({"train_split": "train[:50%]", "test_split": "train[80%:]"}, range(10), None, range(16, 20)),
        (
            {"validation_split": "train[60%:80%]", "test_split": "train[80%:]"},
            range(12),
            range(12, 16),
            range(16, 20),
        ),
        # To the nearest row, as `datasets` rounds.
        ({"test_split": "train[33%:66%]"}, [*range(7), *range(13, 20)], None, range(7, 13)),
    ],
)
def test_slices(whole, options, train, validation, test):
    found = load_hub(whole, **options)
    assert [rows_of(part) for part in found if part is not None] == [
        list(rows) for rows in (train, validation, test) if rows is not None
    ]
    assert found.train.labels.tolist() == [LABELS[row] for row in train]
    assert found.test.labels.tolist() == [LABELS[row] for row in test]
    assert data_facts("hub", whole, **options) == found.facts


@pytest.mark.parametrize("bounds", ["[80%:]", "[:3]", "[33%:66%]", "[-4:]", "[93%:]"])
def test_slices_are_those_of_the_library(whole, bounds):
    library = datasets.load_dataset(str(whole), split=f"train{bounds}", features=None)
    assert load_hub(whole, test_split=f"train{bounds}").test.labels.tolist() == library["label"]


def test_slices_in_memory_and_streamed_are_alike(whole):
    options = {"test_split": "train[5:9]", "validation_split": "train[15:]", "image_size": 5}
    streamed = load_hub(whole, **options, stream=True, workers=0)
    for one, other in zip(load_hub(whole, **options), streamed, strict=True):
        assert same(one, other)
    assert len({part.checksum() for part in streamed}) == 3
    key = streamed.test.store.title(0)
    assert key == f"{whole}, split 'train', row 5: image"


def test_the_cache_tells_slices_apart(whole):
    assert rows_of(load_hub(whole, test_split="train[80%:]").test) == [16, 17, 18, 19]
    assert rows_of(load_hub(whole, test_split="train[:20%]").test) == [0, 1, 2, 3]
    assert len(load_hub(whole, test_share=0.2).test) == 4
    assert len(load_hub(whole, test_share=0.4).test) == 8


def test_a_validation_split_by_name(root):
    write(root, "dev", [2, 1], names=["cow", "ant", "bee"])
    train, validation, test = load_hub(root, validation_split="dev")
    assert validation.labels.tolist() == [2, 1]
    assert [len(train), len(test)] == [6, 3]
    told = refusal(root, validation_split="dev", validation=2)
    assert told == "validation must be 0 for data with validation images of their own, 2 of them, got 2"


@pytest.mark.parametrize("ordered", [True, False])
def test_a_share_as_the_test(tmp_path, ordered):
    root = tmp_path / "ordered"
    write(root, "train", sorted(LABELS) if ordered else LABELS, IMAGES, names=["cow", "ant", "bee"])
    found = load_hub(root, test_share=0.3)
    assert sorted(rows_of(found.train) + rows_of(found.test)) == list(range(20))
    assert found.test.labels.bincount().tolist() == [2, 2, 2]
    again = load_hub(root, test_share=0.3, seed=5, validation=3, image_size=5, stream=True, workers=0)
    assert again.test.labels.tolist() == found.test.labels.tolist()
    assert data_facts("hub", root, test_share=0.3) == found.facts


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"test_split": "train"}, "test_split: 'train' has 20 images of train_split, 'train'"),
        (
            {"train_split": "train[:90%]", "test_split": "train[80%:]"},
            "test_split: 'train[80%:]' has 2 images of train_split, 'train[:90%]'",
        ),
        (
            {"train_split": "train[:90%]", "test_split": "train"},
            "test_split: 'train' has 18 images of train_split, 'train[:90%]'",
        ),
        (
            {"validation_split": "train[:5]", "test_split": "train[4:8]"},
            "validation_split: 'train[:5]' has 1 images of test_split, 'train[4:8]'",
        ),
        ({"test_split": "train[:]"}, "train_split: the others leave no row of 'train'"),
        ({"test_split": "train[7:7]"}, "test_split: 'train[7:7]' has none of the 20 rows"),
        ({"test_split": "train[::2]"}, "test_split must be the name of a split, or a slice"),
        ({"test_split": "train[80%"}, "test_split must be the name of a split, or a slice"),
        ({"test_split": "train[:5]", "test_share": 0.2}, "test_split must be left out where test_share=0.2"),
    ],
)
def test_splits_that_share_images_or_have_none(whole, options, told):
    assert refusal(whole, **options).startswith(told)


def test_a_missing_test_never_leads_to_the_training_images(whole):
    assert refusal(whole) == (
        "unknown test_split 'test' (known: train); test_split='train[80%:]' or test_share=0.2 takes images "
        "of 'train'"
    )


@pytest.mark.parametrize("role", ["test", "validation"])
def test_a_slice_of_rows_in_the_order_of_their_classes(tmp_path, role):
    root = tmp_path / "ordered"
    for split in ("train", "test"):
        write(root, split, sorted(LABELS), IMAGES, names=["cow", "ant", "bee"])
    told = refusal(root, **{f"{role}_split": "train[60%:]"})
    assert told.startswith(
        f"{role}_split: 'train[60%:]' has all images of 1 class, such as 'bee', and leaves none"
    )


@pytest.mark.parametrize("role", ["test", "validation"])
def test_a_slice_with_the_only_image_of_a_rare_class(tmp_path, role):
    root, labels = tmp_path / "rare", [0, 1, 2, 0, 1, 2, 0, 1, 2, 3]
    for split in ("train", "test"):
        write(root, split, labels, IMAGES[:10], names=["cow", "ant", "bee", "elk"])
    with pytest.warns(UserWarning, match=rf"^{role}_split: 'train\[60%:\]' has all images of 1 class, 'elk'"):
        found = load_hub(root, **{f"{role}_split": "train[60%:]"})
    assert found.train.labels.tolist() == labels[:6]
    assert getattr(found, role).labels.tolist() == labels[6:]


# ---------------------------------------------------------------- what is told


def refusal(root, **options):
    with pytest.raises(BadInput) as caught:
        load_hub(root, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_missing_columns_and_splits(root):
    for option, name, nearest in (("image_column", "img", "image"), ("label_column", "lable", "label")):
        told = refusal(root, **{option: name})
        assert told.startswith(f"unknown {option} {name!r}; nearest: {nearest!r} (known: image, label)")
        assert told.endswith(f"{root}, split 'train'")
    assert refusal(root, train_split="trian") == (
        "unknown train_split 'trian'; nearest: 'train' (known: test, train)"
    )
    assert refusal(root, test_split="tset") == (
        "unknown test_split 'tset'; nearest: 'test' (known: test, train); test_split='train[80%:]' or "
        "test_share=0.2 takes images of 'train'"
    )
    assert refusal(root, validation_split="val").endswith(
        "validation_split='train[80%:]' or validation=500 takes images of 'train'"
    )


def test_configurations(root):
    told = f"root {root} cannot be read as a data set: "
    assert refusal(root, config="plain") == f"{told}BuilderConfig 'plain' not found. Available: ['default']"
    head = "---\nconfigs:\n- config_name: a\n  data_files: train*\n- config_name: b\n  data_files:\n"
    (root / "README.md").write_text(
        head + "  - {split: train, path: train*}\n  - {split: test, path: test*}\n---\n", encoding="utf-8"
    )
    assert refusal(root) == (
        f"{told}Config name is missing. Please pick one among the available configs: ['a', 'b']"
    )
    assert len(load_hub(root, config="b").test) == 3


@pytest.mark.parametrize("label", [-2, 3])
def test_labels_outside_of_the_named_classes(root, label):
    write(root, "test", [0, label, 2], names=["cow", "ant", "bee"])
    assert (
        refusal(root) == f"{root}, split 'test', row 1: label must be one of 3 classes, 0 to 2, got {label}"
    )


def test_labels_without_names_that_are_none(tmp_path):
    root = tmp_path / "files"
    write(root, "train", ["ant", "bee"])
    write(root, "test", ["ant", "eel"])
    told = f"{root}, split 'test', row 1: label must be one of 2 classes, 'ant' to 'bee', got 'eel'"
    assert refusal(root) == told
    for labels in ([0.5, 1.5], [0.0, 1.0], [[0, 1], [1, 1]]):
        write(root, "train", labels)
        write(root, "test", labels)
        told = f"{root}, split 'train', row 0: label must be a whole number or a text, got {labels[0]!r}"
        assert refusal(root) == told
    write(root, "train", [-100, 1, None])
    write(root, "test", [1, 1])
    assert refusal(root).startswith(
        f"{root}, split 'train': label must have at least two classes, has 1; null and -100 mean no label"
    )


# ---------------------------------------------------------------- images without a label


@pytest.mark.parametrize(
    ("names", "labels"),
    [
        (["cow", "ant", "bee"], [0, None, 2, None, 1, 1]),
        (["cow", "ant", "bee"], [0, -1, 2, -1, 1, 1]),
        (None, [10, None, 30, -100, 20, 20]),
        (None, ["ant", None, "cow", None, "bee", "bee"]),
    ],
)
@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.filterwarnings("ignore:.*without a label")
def test_images_without_a_label_are_for_training(tmp_path, names, labels, stream):
    root, wanted = tmp_path / "files", [0, -100, 2, -100, 1, 1]
    write(root, "train", labels, names=names)
    write(root, "test", labels[1:5], names=names)
    options = {"image_size": 5, "stream": stream, "workers": 0 if stream else None}
    for _ in range(2):  # the second time from the cache
        with pytest.warns(UserWarning, match="without a label: 2 of 6 for train, 2 of 4 for test"):
            train, _, test = load_hub(root, **options)
    assert train.labels.tolist() == wanted
    assert train.batch(range(6)).labels.tolist() == wanted
    assert test.labels.tolist() == [2, 1]
    assert data_facts("hub", root, image_size=5) == DataFacts(3, 5, 5, 3, 6, 2)
    drawn = load_hub(root, **options, validation=2, label_noise=1.0)
    assert (drawn.validation.labels >= 0).all()
    assert sorted(drawn.train.labels.tolist())[:2] == [-100, -100]


@pytest.mark.filterwarnings("ignore:.*without a label")
def test_a_test_without_labels(root):
    write(root, "test", [-1, -1], names=["cow", "ant", "bee"])
    assert refusal(root) == "the test images must have labels; none of the 2 has one"
    assert len(load_hub(root, test_split="train[50%:]").test) == 3
    assert len(load_hub(root, test_share=0.5).test) == 3


@pytest.mark.filterwarnings("ignore:.*without a label")
def test_a_training_set_without_labels(root):
    write(root, "train", [None] * 6, names=["cow", "ant", "bee"])
    write(root, "test", [0, 1], names=["cow", "ant", "bee"])
    assert load_hub(root).train.labels.tolist() == [-100] * 6
    with pytest.raises(BadInput, match=r"^hub: validation must be an integer from 0 to 0, got 1$"):
        load_data("hub", root=root, validation=1)


def test_wrong_images(root):
    images = [encoded(picture(0)), b"no image", encoded(picture(2))]
    write(root, "test", [0, 1, 2], images, names=["cow", "ant", "bee"])
    row = f"{root}, split 'test', row 1: image"
    assert refusal(root) == f"{row} is no image that can be decoded (PNG, JPEG, WebP, BMP, TIFF or PPM)"
    images[1] = None
    write(root, "test", [0, 1, 2], images, names=["cow", "ant", "bee"])
    assert refusal(root) == f"{row} must hold the bytes of an image file, has none"
    told = f"image_column: 'label' must hold the bytes of image files, holds int64 in {root}, split 'train'"
    assert refusal(root, image_column="label") == told


@pytest.mark.slow
def test_wrong_images_are_told_by_workers(root):
    images = [encoded(picture(0)), None, encoded(picture(2))]
    write(root, "test", [0, 1, 2], images, names=["cow", "ant", "bee"])
    streamed = load_hub(root, image_size=4, stream=True, workers=1)
    with pytest.raises(BadInput, match=r"row 1: image must hold the bytes of an image file, has none$"):
        list(streamed.test.batches(3))


def test_folders_without_a_data_set(tmp_path, root):
    (tmp_path / "empty").mkdir()
    assert refusal(tmp_path / "empty").startswith(f"root {tmp_path / 'empty'} cannot be read as a data set: ")
    path = root / "train-00000-of-00001.parquet"
    path.write_bytes(b"no parquet")
    assert refusal(root).startswith(f"{path} is broken or no parquet file: ")
    assert refusal(root, config="default").startswith(f"root {root} cannot be read as a data set: ")


@pytest.mark.parametrize("name", ["nowhere", "a/b/c", "./here"])
def test_neither_a_folder_nor_a_name(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    assert refusal(name) == (
        "root must be a folder with parquet files or the name of a data set of the hub, such as "
        f"'owner/name'; {name!r} is neither"
    )


def test_a_name_of_the_hub(tmp_path, root, monkeypatch):
    asked = []

    def load_dataset(*asked_for):
        asked.append(asked_for)
        return real(str(root))

    real = datasets.load_dataset
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    assert len(load_hub("owner/name").train) == 6
    assert len(load_hub("owner/name", config="small").train) == 6
    assert asked == [("owner/name",), ("owner/name", "small")]


def test_a_hub_that_does_not_answer(tmp_path, monkeypatch):
    def load_dataset(*_):
        raise ConnectionError("Couldn't reach 'owner/name' on the Hub (OfflineModeIsEnabled)")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    assert refusal("owner/name") == (
        "root 'owner/name' is no folder here, and as a data set of the hub it cannot be loaded: Couldn't "
        "reach 'owner/name' on the Hub (OfflineModeIsEnabled)"
    )


def test_a_missing_library(root, monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    assert len(load_hub(root).train) == 6, "local parquet files need pyarrow only"
    told = f"data set '{root}' needs the extra 'hub': pip install 'dotkd[hub]'"
    assert refusal(root, image_size=4, stream=True) == told
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    assert refusal(root, image_size=4).endswith("needs the extra 'hub': pip install 'dotkd[hub]'")


def test_other_arguments_are_refused_before_files_are_read(root):
    with pytest.raises(
        ValueError, match=r"^image_size must be at least 1 for images that are streamed, got 0"
    ):
        load_hub("nowhere", stream=True)
    with pytest.raises(ValueError, match=r"^seed must be an integer >= 0, got -1"):
        load_hub("nowhere", seed=-1)
