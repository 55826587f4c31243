"""Class folders: the images, the splits, the facts, the cache, and what each wrong file is told."""

import os

import numpy as np
import pytest
import torch
from PIL import Image

from dotkd.data import data_facts, folders, load_data, load_folder
from dotkd.data.decode import centre_view
from dotkd.data.sources import DataFacts
from dotkd.errors import BadInput


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    folder = tmp_path / "cache"
    monkeypatch.setenv("DOTKD_CACHE", str(folder))
    return folder


def picture(seed=0, width=6, height=5):
    rng = np.random.default_rng(seed)
    return Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))


def save(path, image=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    (picture() if image is None else image).save(path)


@pytest.fixture
def root(tmp_path):
    folder = tmp_path / "files"
    for part, count in (("train", 4), ("test", 2)):
        for seed, name in enumerate(("bee", "ant")):
            for number in range(count):
                save(folder / part / name / f"{number}.png", picture(10 * seed + number))
    return folder


@pytest.fixture
def no_decoding(monkeypatch):
    def refuse(*_):
        raise AssertionError("decoded again")

    return lambda: monkeypatch.setattr(folders, "_decode", refuse)


def rgb(image):
    return np.asarray(image).transpose(2, 0, 1)


def same(a, b):
    return all(torch.equal(getattr(a, name), getattr(b, name)) for name in ("pixels", "labels", "index"))


def test_reads_classes_and_files_in_the_order_of_their_names(root):
    (root / "train" / "bee" / "notes.txt").write_text("no image", encoding="utf-8")
    (root / "train" / "bee" / ".hidden.png").write_text("no image", encoding="utf-8")
    (root / "train" / ".cache").mkdir()
    train, validation, test = load_folder(root)
    assert validation is None
    assert repr(train) == "ImageData(8 images of [3, 5, 6], 2 classes)"
    assert train.classes == ("ant", "bee")
    assert train.labels.tolist() == [0] * 4 + [1] * 4
    assert test.labels.tolist() == [0] * 2 + [1] * 2
    for row, seed in enumerate([10, 11, 12, 13, 0, 1, 2, 3]):
        assert np.array_equal(train.pixels[row].numpy(), rgb(picture(seed)))


def test_val_is_the_test_where_there_is_no_test(root):
    whole = load_folder(root)
    (root / "test").rename(root / "val")
    assert same(load_folder(root).test, whole.test)


@pytest.mark.parametrize("ending", ["png", "JPG", "jpeg", "webp", "bmp"])
def test_every_ending(root, ending):
    path = root / "train" / "ant" / f"9.{ending}"
    save(path)
    with Image.open(path) as image:
        assert np.array_equal(load_folder(root).train.pixels[4].numpy(), rgb(image.convert("RGB")))


@pytest.mark.parametrize(
    ("mode", "ending"),
    [
        ("L", "jpg"),
        ("CMYK", "jpg"),
        ("1", "png"),
        ("P", "png"),
        ("RGBA", "png"),
        ("LA", "png"),
    ],
)
def test_every_mode_becomes_rgb(root, mode, ending):
    path = root / "train" / "ant" / f"9.{ending}"
    save(path, picture().convert(mode))
    with Image.open(path) as image:
        assert image.mode == mode
        assert np.array_equal(load_folder(root).train.pixels[4].numpy(), rgb(image.convert("RGB")))


def test_transparency_of_a_palette_is_dropped(root):
    path = root / "train" / "ant" / "9.png"
    image = picture().convert("P")
    image.save(path, transparency=bytes(range(200)))
    assert np.array_equal(load_folder(root).train.pixels[4].numpy(), rgb(image.convert("RGB")))


def test_splits_are_drawn(root):
    splits = load_data("folder", root=root, validation=2, train_images=4, label_noise=0.5, seed=1)
    assert [len(part) for part in splits] == [4, 2, 4]
    with pytest.raises(BadInput, match="folder: validation must be an integer from 0 to 7, got 8"):
        load_data("folder", root=root, validation=8)


def test_facts(root):
    assert data_facts("folder") == DataFacts(3, 0, 0, 0, 0, 0)
    (root / "train" / "bee" / "3.png").write_bytes(b"not looked at")
    assert data_facts("folder", root) == DataFacts(3, 5, 6, 2, 8, 4)
    assert data_facts("digits", root) == data_facts("digits")
    (root / "train" / "ant" / "0.png").write_bytes(b"not looked at, since a size is given")
    assert data_facts("folder", root, image_size=32) == DataFacts(3, 32, 32, 2, 8, 4)
    assert data_facts("folder", image_size=32) == DataFacts(3, 32, 32, 0, 0, 0)


# ---------------------------------------------------------------- images of any size


@pytest.fixture
def mixed(root):
    save(root / "train" / "ant" / "0.png", picture(width=40, height=31))
    save(root / "test" / "bee" / "1.png", picture(width=9, height=33))
    return root


def test_with_a_size_images_of_any_size_become_squares(mixed, cache, no_decoding):
    train, _, test = load_folder(mixed, image_size=8)
    assert repr(train) == "ImageData(8 images of [3, 8, 8], 2 classes)"
    for data, row, path in ((train, 0, "train/ant/0.png"), (test, 3, "test/bee/1.png")):
        with Image.open(mixed / path) as image:
            assert np.array_equal(data.pixels[row].numpy(), rgb(centre_view(image, 8)))
    other = load_folder(mixed, image_size=12).train
    assert other.pixels.shape == (8, 3, 12, 12)
    assert len(list(cache.iterdir())) == 2
    no_decoding()
    assert same(load_folder(mixed, image_size=8).train, train)


def test_streamed_images_are_not_decoded_before_they_are_read(mixed, cache):
    broken = mixed / "train" / "bee" / "3.png"
    broken.write_bytes(b"no image")
    train, validation, test = load_folder(mixed, image_size=8, stream=True, workers=0, validation=2)
    assert not cache.exists()
    assert [repr(part) for part in (train, validation)] == [
        f"StreamedImages({count} images of [3, 8, 8], 2 classes)" for count in (6, 2)
    ]
    with Image.open(mixed / "test" / "bee" / "1.png") as image:
        expected = rgb(centre_view(image, 8))
    assert np.array_equal((test.batch([3]).images[0] * 255).round().byte().numpy(), expected)
    with pytest.raises(BadInput) as caught:
        [batch for part in (train, validation) for batch in part.batches(4)]
    assert str(caught.value) == f"{broken} is no image that can be decoded (PNG, JPEG, WebP or BMP)"


def test_a_relative_root_may_be_left(mixed, monkeypatch):
    monkeypatch.chdir(mixed.parent)
    train = load_folder(mixed.name, image_size=8, stream=True, workers=0).train
    monkeypatch.chdir("/")
    assert len(next(train.batches(8))) == 8


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"image_size": -1}, "image_size must be an integer of at least 0, got -1"),
        ({"stream": True}, "image_size must be at least 1 for images that are streamed, got 0"),
        ({"image_size": 8, "workers": 2}, "workers must be left out where images are not streamed, got 2"),
        (
            {"image_size": 8, "stream": True, "workers": -1},
            "workers must be an integer of at least 0, got -1",
        ),
        ({"image_size": 8, "validation": -1}, "validation must be an integer of at least 0, got -1"),
    ],
)
def test_refuses_other_arguments(root, options, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        load_folder(root, **options)
    with pytest.raises(BadInput, match=f"^folder: {message}$"):
        load_data("folder", root=root, **options)


# ---------------------------------------------------------------- the cache


def test_decodes_once(tmp_path, root, cache, no_decoding):
    first = load_folder(root)
    (file,) = cache.iterdir()
    assert file.name.startswith("folder-v1-")
    no_decoding()
    assert all(
        same(a, b) for a, b in ((first.train, load_folder(root).train), (first.test, load_folder(root).test))
    )
    assert same(load_folder(root.rename(tmp_path / "moved")).train, first.train)


@pytest.mark.parametrize("change", ["bytes", "name", "gone", "size"])
def test_a_change_is_noticed(root, no_decoding, change):
    load_folder(root)
    path = root / "train" / "ant" / "3.png"
    if change == "bytes":
        before = path.stat()
        path.write_bytes(path.read_bytes())
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns + 1))
    elif change == "name":
        path.rename(path.with_name("4.png"))
    elif change == "gone":
        path.unlink()
    else:
        before = path.stat()
        path.write_bytes(path.read_bytes() + b"x")
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    no_decoding()
    with pytest.raises(AssertionError, match="decoded again"):
        load_folder(root)


# ---------------------------------------------------------------- what is told


def refusal(root):
    with pytest.raises(BadInput) as caught:
        load_folder(root)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_another_size(root):
    path = root / "test" / "bee" / "1.png"
    save(path, picture(width=7))
    assert refusal(root) == (
        f"{path} must be 6x5, the size of {root / 'train' / 'ant' / '0.png'} (or give an image_size), got 7x5"
    )


@pytest.mark.parametrize("content", [b"", b"no image", None])
def test_an_unreadable_image(root, content):
    path = root / "train" / "bee" / "1.png"
    path.write_bytes(path.read_bytes()[:70] if content is None else content)
    assert refusal(root) == f"{path} is no image that can be decoded (PNG, JPEG, WebP or BMP)"


def test_more_than_eight_bits(root):
    path = root / "train" / "bee" / "1.png"
    Image.fromarray(np.full((5, 6), 40_000, dtype=np.uint16)).save(path)
    assert refusal(root) == f"{path} must have 8 bits a channel, has the mode I;16"


def test_an_empty_class(root):
    folder = root / "train" / "cow"
    folder.mkdir()
    told = f"{folder} must hold at least one image (.bmp, .jpeg, .jpg, .png, .webp), holds "
    assert refusal(root) == told + "nothing"
    (folder / "a.gif").touch()
    assert refusal(root) == told + "a.gif"


def test_other_classes(root):
    save(root / "train" / "cow" / "0.png")
    told = f"{root / 'test'} must have the same class folders as {root / 'train'}; it "
    assert refusal(root) == told + "lacks cow"
    save(root / "test" / "dog" / "0.png")
    assert refusal(root) == told + "lacks cow and has also dog"
    (root / "train" / "cow").rename(root / "train" / "dog")
    save(root / "test" / "eel" / "0.png")
    assert refusal(root) == told + "has also eel"


def test_no_class_folders(root):
    (root / "test").rename(root / "old")
    (root / "test").mkdir()
    told = f"{root / 'test'} must hold at least two folders, one for each class; it has "
    assert refusal(root) == told + "none"
    save(root / "test" / "ant" / "0.png")
    assert refusal(root) == told + "ant"


def test_no_parts(root, tmp_path):
    told = "root must hold train/ and test/ (or val/), each with one folder for each class; "
    assert refusal(tmp_path / "x") == f"{told}{tmp_path / 'x'} is no folder"
    (root / "test").rename(root / "other")
    assert refusal(root) == f"{told}{root} holds other, train"
    (tmp_path / "empty").mkdir()
    assert refusal(tmp_path / "empty") == f"{told}{tmp_path / 'empty'} holds nothing"
    assert data_facts("folder") == data_facts("folder", "")
    with pytest.raises(BadInput, match=r"^root must be a folder with train/ and test/"):
        load_data("folder")
