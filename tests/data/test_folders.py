"""Class folders, ImageNet and Tiny-ImageNet: images, splits, facts, cache, messages."""

import io
import os
import struct
import warnings
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from dotkd.data import (
    DataFacts,
    data_facts,
    folders,
    load_data,
    load_folder,
    load_imagenet,
    load_tiny_imagenet,
)
from dotkd.data.decode import centre_view
from dotkd.errors import BadInput

ENDINGS = ".bmp, .jpeg, .jpg, .pgm, .png, .ppm, .tif, .tiff, .webp"


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

    return lambda: monkeypatch.setattr(folders.Encoded, "decode", refuse)


def rgb(image):
    return np.asarray(image).transpose(2, 0, 1)


def same(a, b):
    return all(torch.equal(getattr(a, name), getattr(b, name)) for name in ("pixels", "labels", "index"))


def test_reads_classes_and_files_in_the_order_of_their_names(root):
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


@pytest.mark.parametrize("ending", ["png", "JPG", "jpeg", "webp", "bmp", "tif", "TIFF", "ppm", "PGM"])
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


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
def test_the_orientation_of_a_photo_is_applied(root, stream, kind):
    turned = Image.Exif()
    turned[0x0112] = 6  # of a camera held upright
    image = Image.new("RGB", (60, 40), (200, 0, 0))
    image.paste((0, 0, 200), (30, 0, 60, 40))
    image.save(root / "train" / "ant" / "0.png", kind, exif=turned)
    train = load_folder(root, image_size=20, stream=stream, workers=0 if stream else None).train
    found = train.batch([0]).images[0]
    assert found[0, 2].mean() > 0.6 > 0.2 > found[0, -2].mean()  # red above, blue below
    assert found[2, 2].mean() < 0.2 < 0.6 < found[2, -2].mean()


def test_a_broken_orientation_is_none(root):
    jpeg = encoded(picture(0, 40, 30))
    broken = jpeg[:2] + b"\xff\xe1\x00\x10Exif\x00\x00II*\x00\x08\x00\x00" + jpeg[2:]
    path = root / "train" / "ant" / "0.png"
    path.write_bytes(broken)
    with Image.open(io.BytesIO(jpeg)) as image:
        wanted = rgb(centre_view(image, 16))
    assert np.array_equal(load_folder(root, image_size=16).train.pixels[0].numpy(), wanted)


@pytest.mark.parametrize(
    ("others", "count", "example"),
    [
        (["train/ant/a.gif", "test/bee/b.txt"], "2 entries are", "train/ant/a.gif"),
        (["train/list.csv"], "1 entry is", "train/list.csv"),
        (["test/ant/deeper/0.png"], "1 entry is", "test/ant/deeper"),
    ],
)
@pytest.mark.parametrize("stream", [True, False])
def test_what_is_passed_over_is_told(root, others, count, example, stream):
    for other in others:
        (root / other).parent.mkdir(exist_ok=True)
        (root / other).touch()
    workers = 0 if stream else None
    with pytest.warns(UserWarning, match=f"^{root}: {count} passed over, such as {example}:") as told:
        splits = load_folder(root, image_size=8, stream=stream, workers=workers)
    assert len(told) == 1
    assert [len(splits.train), len(splits.test)] == [8, 4]


def test_a_limit_on_pixels(root, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)  # not ours: images of 30 pixels are read
    told = "has 6 x 5 = 30 pixels, above the limit of 29: max_image_pixels=30 raises it"
    for options in ({}, {"image_size": 8, "stream": True, "workers": 0}):
        with pytest.raises(BadInput) as caught:
            load_folder(root, max_image_pixels=29, **options).train.batch([0])
        assert str(caught.value) == f"{root / 'train' / 'ant' / '0.png'} {told}"
    assert len(load_folder(root, max_image_pixels=30).train) == 8
    assert Image.MAX_IMAGE_PIXELS == 10
    with pytest.raises(ValueError, match="max_image_pixels must be an integer >= 1, got 0"):
        load_folder(root, max_image_pixels=0)


def test_the_limit_is_that_of_pillow(root):
    image = encoded(picture(), "PNG")
    header = b"IHDR" + struct.pack(">II", 20_000, 10_000) + image[24:29]
    path = root / "train" / "ant" / "0.png"
    path.write_bytes(image[:12] + header + struct.pack(">I", zlib.crc32(header)) + image[33:])
    assert refusal(root) == (
        f"{path} has 20000 x 10000 = 200000000 pixels, above the limit of 178956970: "
        "max_image_pixels=200000000 raises it"
    )


# ---------------------------------------------------------------- splits


@pytest.mark.parametrize("name", ["val", "valid", "validation"])
@pytest.mark.parametrize("stream", [True, False])
def test_a_folder_of_validation_images(root, name, stream):
    options = {"image_size": 8, "stream": stream, "workers": 0 if stream else None}
    plain = load_folder(root, **options)
    for seed, kind in enumerate(("bee", "ant")):
        save(root / name / kind / "7.png", picture(50 + seed))
    train, validation, test = load_folder(root, **options)
    wanted = [rgb(centre_view(picture(seed), 8)) for seed in (51, 50)]
    found = (validation.batch([0, 1]).images * 255).round().byte().numpy()
    assert np.array_equal(found, np.stack(wanted))
    assert validation.labels.tolist() == [0, 1]
    assert [part.checksum() for part in (train, test)] == [plain.train.checksum(), plain.test.checksum()]
    assert data_facts("folder", root, image_size=8) == DataFacts(3, 8, 8, 2, 10, 4)
    assert refusal(root, validation=1).startswith(
        "validation must be 0 for data with validation images of their own, 2"
    )


def test_two_folders_of_validation_images(root):
    save(root / "val" / "ant" / "0.png")
    save(root / "valid" / "ant" / "0.png")
    assert refusal(root) == f"root must hold one folder of validation images; {root} holds val, valid"


def test_other_classes_of_validation_images(root):
    save(root / "val" / "ant" / "0.png")
    save(root / "val" / "cow" / "0.png")
    told = (
        f"{root / 'val'} must have the same class folders as {root / 'train'}; it lacks bee and has also cow"
    )
    assert refusal(root) == told


@pytest.mark.parametrize("layout", ["flat", "train", "train and val"])
def test_a_share_as_the_test(tmp_path, layout):
    root = tmp_path / "files"
    train = root if layout == "flat" else root / "train"
    for first, (kind, count) in enumerate((("ant", 10), ("bee", 20))):
        for number in range(count):
            save(train / kind / f"{number}.png", picture(100 * first + number))
    if layout == "train and val":
        save(root / "val" / "ant" / "0.png", picture(500))
        save(root / "val" / "bee" / "0.png", picture(501))
    splits = load_folder(root, test_share=0.2)
    assert splits.test.labels.bincount().tolist() == [2, 4]
    assert splits.train.labels.bincount().tolist() == [8, 16]
    parts = [splits.train, splits.test, *([splits.validation] if splits.validation else [])]
    assert len(parts) == (3 if layout == "train and val" else 2)
    images = {part.pixels[row].numpy().tobytes() for part in parts for row in range(len(part))}
    assert len(images) == sum(map(len, parts)) == 30 + 2 * (len(parts) - 2)
    streamed = load_folder(root, test_share=0.2, image_size=5, stream=True, workers=0)
    assert torch.equal(streamed.test.labels, splits.test.labels)
    if layout != "train and val":
        again = load_folder(root, test_share=0.2, seed=7, validation=6)
        assert same(again.test, splits.test)
        assert len(again.validation) == 6
    assert data_facts("folder", root, test_share=0.2)[3:] == splits.facts[3:]


def test_a_share_that_leaves_nothing(root):
    told = r"test_share must be left out for a root with test/, which {} has"
    assert refusal(root, test_share=0.5) == told.format(root)
    (root / "test").rename(root.parent / "old")
    assert refusal(root, test_share=0.01) == (
        "test_share=0.01 of 8 images with labels is 0: take another share"
    )
    for share in (1.0, -0.1, 2):
        with pytest.raises(ValueError, match="test_share must be"):
            load_folder(root, test_share=share)


@pytest.mark.parametrize("flat", [True, False])
def test_images_without_a_class(root, flat):
    if flat:
        root = (root / "train").rename(root.parent / "flat")
    for number in range(3):
        save(root / "more" / f"{number}.png", picture(70 + number))
    options = {"unlabelled": "more", **({"test_share": 0.25} if flat else {})}
    train, _, test = load_folder(root, **options)
    assert train.classes == ("ant", "bee")
    assert train.labels[-3:].tolist() == [-100] * 3
    assert (train.labels[:-3] >= 0).all()
    assert np.array_equal(train.pixels[-1].numpy(), rgb(picture(72)))
    assert (test.labels >= 0).all()
    drawn = load_folder(root, **options, validation=2, label_noise=1.0, seed=3)
    assert (drawn.validation.labels >= 0).all()
    assert int((drawn.train.labels == -100).sum()) == 3
    assert [len(part) for part in drawn] == [len(train) - 2, 2, len(test)]
    few = load_folder(root, **options, train_images=4).train
    assert int((few.labels == -100).sum()) == 1  # as many of these as their share


def test_a_missing_folder_of_images_without_a_class(root):
    assert refusal(root, unlabelled="more").startswith(f"{root / 'more'} cannot be read: ")


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
    assert (
        str(caught.value) == f"{broken} is no image that can be decoded (PNG, JPEG, WebP, BMP, TIFF or PPM)"
    )


def test_a_relative_root_may_be_left(mixed, monkeypatch):
    monkeypatch.chdir(mixed.parent)
    train = load_folder(mixed.name, image_size=8, stream=True, workers=0).train
    monkeypatch.chdir("/")
    assert len(next(train.batches(8))) == 8


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"image_size": -1}, "image_size must be an integer >= 0, got -1"),
        ({"stream": True}, "image_size must be at least 1 for images that are streamed, got 0"),
        ({"image_size": 8, "workers": 2}, "workers must be left out for images that are not streamed, got 2"),
        (
            {"image_size": 8, "stream": True, "workers": -1},
            "workers must be an integer >= 0, got -1",
        ),
        ({"image_size": 8, "validation": -1}, "validation must be an integer >= 0, got -1"),
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
    assert file.name.startswith("folder-v2-")
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


def refusal(root, **options):
    with pytest.raises(BadInput) as caught:
        load_folder(root, **options)
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
    assert refusal(root) == f"{path} is no image that can be decoded (PNG, JPEG, WebP, BMP, TIFF or PPM)"


def test_more_than_eight_bits(root):
    path = root / "train" / "bee" / "1.png"
    Image.fromarray(np.full((5, 6), 40_000, dtype=np.uint16)).save(path)
    assert refusal(root) == f"{path} must have 8 bits a channel, has the mode I;16"


def test_an_empty_class(root):
    folder = root / "train" / "cow"
    folder.mkdir()
    told = f"{folder} must hold at least one image ({ENDINGS}), holds "
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
    told = (
        "root must hold train/ and test/ (or val/), each with one folder for each class, or with test_share, "
        "such as 0.2, either train/ or the class folders themselves; "
    )
    assert refusal(tmp_path / "x") == f"{told}{tmp_path / 'x'} is no folder"
    (root / "test").rename(root / "other")
    assert refusal(root) == f"{told}{root} holds other, train"
    (tmp_path / "empty").mkdir()
    assert refusal(tmp_path / "empty") == f"{told}{tmp_path / 'empty'} holds nothing"
    assert data_facts("folder") == data_facts("folder", "")
    with pytest.raises(BadInput, match=r"^root must be a folder with train/ and test/"):
        load_data("folder")


# ---------------------------------------------------------------- ImageNet


IMAGENET_WNIDS = [f"n{1_000_000 + 37 * number:08d}" for number in range(1000)]


def encoded(image, kind="JPEG", **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


@pytest.fixture(scope="module")
def imagenet(tmp_path_factory):
    folder, plain = tmp_path_factory.mktemp("imagenet"), encoded(picture(0, 40, 30))
    for number, wnid in enumerate(reversed(IMAGENET_WNIDS)):
        for part, name in (("train", f"{wnid}_10026"), ("val", f"ILSVRC2012_val_{number + 1:08d}")):
            (folder / part / wnid).mkdir(parents=True)
            (folder / part / wnid / f"{name}.JPEG").write_bytes(plain)
    (folder / "train" / IMAGENET_WNIDS[2] / f"{IMAGENET_WNIDS[2]}_10027.JPEG").write_bytes(plain)
    return folder


@pytest.fixture
def first(imagenet):
    """The first image of training, to be written over; as it was afterwards."""
    path = imagenet / "train" / IMAGENET_WNIDS[0] / f"{IMAGENET_WNIDS[0]}_10026.JPEG"
    before = path.read_bytes()
    yield path
    path.write_bytes(before)


def pixels(data, position):
    return (data.batch([position]).images[0] * 255).round().byte().numpy()


def test_reads_imagenet(imagenet):
    train, validation, test = load_imagenet(imagenet, workers=0)
    assert validation is None
    assert repr(train) == "StreamedImages(1001 images of [3, 224, 224], 1000 classes)"
    assert (3, 224, 224, len(train.classes)) == data_facts("imagenet")[:4]
    assert train.classes == test.classes == tuple(IMAGENET_WNIDS)
    assert train.labels.tolist() == [0, 1, 2, *range(2, 1000)]
    assert test.labels.tolist() == list(range(1000))
    with Image.open(imagenet / "val" / IMAGENET_WNIDS[7] / "ILSVRC2012_val_00000993.JPEG") as image:
        expected = np.asarray(centre_view(image, 224)).transpose(2, 0, 1)
    assert np.array_equal(pixels(test, 7), expected)


def test_imagenet_by_name_with_splits_and_another_size(imagenet):
    splits = load_data(
        "imagenet", root=imagenet, image_size=8, workers=0, validation=100, train_images=200, label_noise=0.5
    )
    assert [len(part) for part in splits] == [200, 100, 1000]
    assert splits.validation.batch([0, 1]).images.shape == (2, 3, 8, 8)
    clean = load_imagenet(imagenet, image_size=8, workers=0, validation=100, train_images=200)
    assert int((clean.train.labels != splits.train.labels).sum()) == 100
    assert torch.equal(clean.train.index, splits.train.index)


def rotated_note(image):
    exif = Image.Exif()
    exif[0x0112] = 6  # to be shown turned by 90 degrees
    return encoded(image, exif=exif.tobytes())


@pytest.mark.parametrize(
    "content",
    [
        encoded(picture(0, 40, 30).convert("L")),
        encoded(picture(0, 40, 30).convert("CMYK")),
        encoded(picture(0, 40, 30).convert("RGBA"), "PNG"),
        encoded(picture(0, 40, 30).convert("P"), "PNG", transparency=bytes(range(200))),
        encoded(picture(0, 40, 30).convert("1"), "PNG"),
        rotated_note(picture(0, 40, 30)),
        encoded(picture(0, 40, 30))[:2]
        + b"\xff\xe1\x00\x10Exif\x00\x00II*\x00\x08\x00\x00"
        + encoded(picture(0, 40, 30))[2:],
    ],
    ids=["grey", "CMYK", "RGBA PNG", "palette", "black and white", "turned", "broken EXIF"],
)
def test_what_is_found_in_the_wild(imagenet, first, content):
    first.write_bytes(content)
    with warnings.catch_warnings():  # of what the loader says nothing about
        warnings.simplefilter("ignore")
        with Image.open(io.BytesIO(content)) as image:
            expected = np.asarray(centre_view(image.convert("RGB"), 16)).transpose(2, 0, 1)
    assert np.array_equal(pixels(load_imagenet(imagenet, image_size=16, workers=0).train, 0), expected)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (
            encoded(picture(0, 400, 300))[:9000],
            "is no image that can be decoded (PNG, JPEG, WebP, BMP, TIFF or PPM)",
        ),
        (b"", "is no image that can be decoded (PNG, JPEG, WebP, BMP, TIFF or PPM)"),
        (
            encoded(picture(0, 40, 30), "GIF"),
            "is no image that can be decoded (PNG, JPEG, WebP, BMP, TIFF or PPM)",
        ),
        (
            encoded(Image.fromarray(np.full((5, 6), 40_000, dtype=np.uint16)), "PNG"),
            "must have 8 bits a channel, has the mode I;16",
        ),
    ],
    ids=["cut", "empty", "GIF", "16 bits"],
)
def test_what_cannot_be_read(imagenet, first, content, told):
    first.write_bytes(content)
    with pytest.raises(BadInput) as caught:
        load_imagenet(imagenet, image_size=16, workers=0).train.batch([0])
    assert str(caught.value) == f"{first} {told}"


# ---------------------------------------------------------------- other folders


def imagenet_refusal(imagenet, **options):
    with pytest.raises(BadInput) as caught:
        load_imagenet(imagenet, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_missing_parts_of_imagenet(imagenet, tmp_path):
    told = "root must hold train/ and val/, each with 1000 folders, one for each class; "
    assert imagenet_refusal(tmp_path / "x") == f"{told}{tmp_path / 'x'} is no folder"
    assert imagenet_refusal(tmp_path) == f"{told}{tmp_path} lacks train/ and val/"
    (tmp_path / "train").symlink_to(imagenet / "train")
    assert imagenet_refusal(tmp_path) == f"{told}{tmp_path} lacks val/"
    (tmp_path / "val").mkdir()
    (tmp_path / "val" / "ILSVRC2012_val_00000001.JPEG").touch()
    told = f"{tmp_path / 'val'} must hold 1000 folders, one for each class; it has 0"
    assert imagenet_refusal(tmp_path) == told


def test_other_classes_of_imagenet(imagenet):
    here, there = imagenet / "val" / IMAGENET_WNIDS[5], imagenet / "val" / "n99999999"
    here.rename(there)
    try:
        assert imagenet_refusal(imagenet) == (
            f"{imagenet / 'val'} must have the same class folders as {imagenet / 'train'}; "
            f"it lacks {IMAGENET_WNIDS[5]} and has also n99999999"
        )
        here.mkdir()
        assert imagenet_refusal(imagenet).endswith("must hold 1000 folders, one for each class; it has 1001")
        here.rmdir()
    finally:
        there.rename(here)


def test_an_empty_class_of_imagenet(imagenet, first):
    away = first.rename(first.with_suffix(".txt"))
    try:
        told = f"{first.parent} must hold at least one image ({ENDINGS}), holds {away.name}"
        assert imagenet_refusal(imagenet) == told
    finally:
        away.rename(first)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"image_size": 0}, "image_size must be an integer >= 1, got 0"),
        ({"workers": -1}, "workers must be an integer >= 0, got -1"),
        ({"seed": -1}, "seed must be an integer >= 0, got -1"),
    ],
)
def test_imagenet_refuses_other_arguments(imagenet, options, message):
    with pytest.raises(ValueError, match=message):
        load_imagenet(imagenet, **options)


# ---------------------------------------------------------------- Tiny-ImageNet


TINY_WNIDS = [f"n{1_000_000 + 37 * number:08d}" for number in range(200)]


def save_tiny(path, mode="RGB", size=64):
    path.parent.mkdir(parents=True, exist_ok=True)
    seed = sum(path.name.encode())
    pixels = np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8)
    Image.fromarray(pixels).convert(mode).save(path, "JPEG")


@pytest.fixture
def tiny(tmp_path):
    folder = tmp_path / "tiny-imagenet-200"
    lines = []
    for number, wnid in enumerate(TINY_WNIDS):
        save_tiny(folder / "train" / wnid / "images" / f"{wnid}_0.JPEG", "L" if number == 3 else "RGB")
        (folder / "train" / wnid / f"{wnid}_boxes.txt").write_text("", encoding="utf-8")
        if number < 20:
            save_tiny(folder / "val" / "images" / f"val_{number}.JPEG", "CMYK" if number == 4 else "RGB")
            lines.append(f"val_{number}.JPEG\t{TINY_WNIDS[19 - number]}\t0\t0\t62\t62\n")
    save_tiny(folder / "train" / TINY_WNIDS[0] / "images" / f"{TINY_WNIDS[0]}_1.JPEG")
    (folder / "wnids.txt").write_text("\n".join(TINY_WNIDS[::-1]) + "\n", encoding="utf-8")
    words = ["n00000001\tentity\n", *(f"{wnid}\tword {n}, other\n" for n, wnid in enumerate(TINY_WNIDS[:-3]))]
    words += [f"{wnid}\tcrane\n" for wnid in TINY_WNIDS[-3:-1]]
    (folder / "words.txt").write_text("".join(words), encoding="utf-8")
    (folder / "val" / "val_annotations.txt").write_text("".join(lines), encoding="utf-8")
    return folder


def decoded(path):
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB")).transpose(2, 0, 1)


def test_reads_tiny_imagenet(tiny):
    train, validation, test = load_tiny_imagenet(tiny)
    assert validation is None
    assert (*train.pixels.shape[1:], len(train.classes)) == data_facts("tiny_imagenet")[:4]
    assert train.labels.tolist() == [0, *range(200)]
    assert test.labels.tolist() == list(range(19, -1, -1))
    assert train.classes[0] == "word 0, other"
    assert train.classes[-3:] == (f"crane ({TINY_WNIDS[-3]})", f"crane ({TINY_WNIDS[-2]})", TINY_WNIDS[-1])
    grey = decoded(tiny / "train" / TINY_WNIDS[3] / "images" / f"{TINY_WNIDS[3]}_0.JPEG")
    assert np.array_equal(train.pixels[4].numpy(), grey)
    assert (grey[0] == grey[2]).all()
    for number in range(20):
        expected = decoded(tiny / "val" / "images" / f"val_{number}.JPEG")
        assert np.array_equal(test.pixels[number].numpy(), expected)


def test_the_folder_above_tiny_imagenet_and_its_name(tiny):
    above = load_data("tiny_imagenet", root=tiny.parent, validation=20, train_images=50, seed=2)
    here = load_tiny_imagenet(tiny, validation=20, train_images=50, seed=2)
    for a, b in zip(above, here, strict=True):
        assert torch.equal(a.pixels, b.pixels)
        assert torch.equal(a.index, b.index)
    assert [len(part) for part in here] == [50, 20, 20]


def test_decodes_tiny_imagenet_once_and_notices_a_change(tiny, monkeypatch):
    def refuse(*_):
        raise AssertionError("decoded again")

    load_tiny_imagenet(tiny)
    with monkeypatch.context() as patch:
        patch.setattr(folders.Encoded, "decode", refuse)
        load_tiny_imagenet(tiny)
        image, listing = tiny / "val" / "images" / "val_7.JPEG", tiny / "val" / "val_annotations.txt"
        before = image.stat()
        os.utime(image, ns=(before.st_atime_ns, before.st_mtime_ns + 1))
        with pytest.raises(AssertionError, match="decoded again"):
            load_tiny_imagenet(tiny)
        os.utime(image, ns=(before.st_atime_ns, before.st_mtime_ns))
        load_tiny_imagenet(tiny)
        text, stamp = listing.read_text(encoding="utf-8"), listing.stat()
        listing.write_text(text.replace(TINY_WNIDS[0], TINY_WNIDS[1]), encoding="utf-8")
        os.utime(listing, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
        with pytest.raises(AssertionError, match="decoded again"):
            load_tiny_imagenet(tiny)


def tiny_refusal(tiny):
    with pytest.raises(BadInput) as caught:
        load_tiny_imagenet(tiny)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_missing_part_of_tiny_imagenet(tiny, tmp_path):
    told = (
        "root must be tiny-imagenet-200 as it is distributed, or the folder above, with wnids.txt, "
        "words.txt, train, val/images, val/val_annotations.txt; "
    )
    assert tiny_refusal(tmp_path / "x") == f"{told}{tmp_path / 'x'} is no folder"
    (tiny / "words.txt").unlink()
    assert tiny_refusal(tiny) == tiny_refusal(tiny.parent) == f"{told}{tiny} lacks words.txt"


def test_wrong_images_of_tiny_imagenet(tiny):
    path = tiny / "val" / "images" / "val_3.JPEG"
    save_tiny(path, size=32)
    assert tiny_refusal(tiny).startswith(f"{path} must be 64x64, got 32x32")
    path.write_bytes(b"no image")
    assert tiny_refusal(tiny) == f"{path} is no image that can be decoded (PNG, JPEG, WebP, BMP, TIFF or PPM)"
    folder = tiny / "train" / TINY_WNIDS[5] / "images"
    (folder / f"{TINY_WNIDS[5]}_0.JPEG").unlink()
    assert tiny_refusal(tiny).startswith(f"{folder} must hold at least one image")
    folder.rmdir()
    assert tiny_refusal(tiny) == f"{folder} cannot be read: No such file or directory"


def test_wrong_lists_of_tiny_imagenet(tiny):
    listing, images = tiny / "val" / "val_annotations.txt", tiny / "val" / "images"
    text = listing.read_text(encoding="utf-8")
    for line, told in (
        ("val_0.JPEG\tn1", "must name a file and a class of wnids.txt, got 'val_0.JPEG\\tn1'"),
        (f"val_0.JPEG\t{TINY_WNIDS[0]}", "val_0.JPEG is listed twice"),
        (f"val_99.JPEG\t{TINY_WNIDS[0]}", f"val_99.JPEG is no file in {images}"),
    ):
        listing.write_text(f"{text}{line}\n", encoding="utf-8")
        assert tiny_refusal(tiny) == f"{listing}, line 21: {told}"
    listing.write_text("".join(text.splitlines(keepends=True)[:-1]), encoding="utf-8")
    assert tiny_refusal(tiny) == f"{images / 'val_19.JPEG'} must have a line in {listing}, has none"
    path = tiny / "wnids.txt"
    path.write_text("\n".join(TINY_WNIDS[1:]), encoding="utf-8")
    assert tiny_refusal(tiny) == f"{path} must name 200 different classes, one a line, got 199"
    path.write_bytes(b"\xff\xfe\xff")
    assert tiny_refusal(tiny).startswith(f"{path} cannot be read as text: ")
