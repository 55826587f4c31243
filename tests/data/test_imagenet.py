"""ImageNet in the layout in which everybody keeps it, with one or two images of a class."""

import io
import warnings

import numpy as np
import pytest
import torch
from PIL import Image

from dotkd.data import data_facts, load_data, load_imagenet
from dotkd.data.decode import centre_view
from dotkd.errors import BadInput

WNIDS = [f"n{1_000_000 + 37 * number:08d}" for number in range(1000)]


def picture(width=40, height=30, seed=0):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def encoded(image, kind="JPEG", **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder, plain = tmp_path_factory.mktemp("imagenet"), encoded(picture())
    for number, wnid in enumerate(reversed(WNIDS)):
        for part, name in (("train", f"{wnid}_10026"), ("val", f"ILSVRC2012_val_{number + 1:08d}")):
            (folder / part / wnid).mkdir(parents=True)
            (folder / part / wnid / f"{name}.JPEG").write_bytes(plain)
    (folder / "train" / WNIDS[2] / f"{WNIDS[2]}_10027.JPEG").write_bytes(plain)
    return folder


@pytest.fixture
def first(root):
    """The first image of training, to be written over; as it was afterwards."""
    path = root / "train" / WNIDS[0] / f"{WNIDS[0]}_10026.JPEG"
    before = path.read_bytes()
    yield path
    path.write_bytes(before)


def pixels(data, position):
    return (data.batch([position]).images[0] * 255).round().byte().numpy()


def test_reads_it(root):
    train, validation, test = load_imagenet(root, workers=0)
    assert validation is None
    assert repr(train) == "StreamedImages(1001 images of [3, 224, 224], 1000 classes)"
    assert (3, 224, 224, len(train.classes)) == data_facts("imagenet")[:4]
    assert train.classes == test.classes == tuple(WNIDS)
    assert train.labels.tolist() == [0, 1, 2, *range(2, 1000)]
    assert test.labels.tolist() == list(range(1000))
    with Image.open(root / "val" / WNIDS[7] / "ILSVRC2012_val_00000993.JPEG") as image:
        expected = np.asarray(centre_view(image, 224)).transpose(2, 0, 1)
    assert np.array_equal(pixels(test, 7), expected)


def test_by_name_with_splits_and_another_size(root):
    splits = load_data(
        "imagenet", root=root, image_size=8, workers=0, validation=100, train_images=200, label_noise=0.5
    )
    assert [len(part) for part in splits] == [200, 100, 1000]
    assert splits.validation.batch([0, 1]).images.shape == (2, 3, 8, 8)
    clean = load_imagenet(root, image_size=8, workers=0, validation=100, train_images=200)
    assert int((clean.train.labels != splits.train.labels).sum()) == 100
    assert torch.equal(clean.train.index, splits.train.index)


def rotated_note(image):
    exif = Image.Exif()
    exif[0x0112] = 6  # to be shown turned by 90 degrees
    return encoded(image, exif=exif.tobytes())


@pytest.mark.parametrize(
    "content",
    [
        encoded(picture().convert("L")),
        encoded(picture().convert("CMYK")),
        encoded(picture().convert("RGBA"), "PNG"),
        encoded(picture().convert("P"), "PNG", transparency=bytes(range(200))),
        encoded(picture().convert("1"), "PNG"),
        rotated_note(picture()),
        encoded(picture())[:2] + b"\xff\xe1\x00\x10Exif\x00\x00II*\x00\x08\x00\x00" + encoded(picture())[2:],
    ],
    ids=["grey", "CMYK", "RGBA PNG", "palette", "black and white", "turned", "broken EXIF"],
)
def test_what_is_found_in_the_wild(root, first, content):
    first.write_bytes(content)
    with warnings.catch_warnings():  # of what the loader says nothing about
        warnings.simplefilter("ignore")
        with Image.open(io.BytesIO(content)) as image:
            expected = np.asarray(centre_view(image.convert("RGB"), 16)).transpose(2, 0, 1)
    assert np.array_equal(pixels(load_imagenet(root, image_size=16, workers=0).train, 0), expected)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (encoded(picture(400, 300))[:9000], "is no image that can be decoded (PNG, JPEG, WebP or BMP)"),
        (b"", "is no image that can be decoded (PNG, JPEG, WebP or BMP)"),
        (encoded(picture(), "GIF"), "is no image that can be decoded (PNG, JPEG, WebP or BMP)"),
        (
            encoded(Image.fromarray(np.full((5, 6), 40_000, dtype=np.uint16)), "PNG"),
            "must have 8 bits a channel, has the mode I;16",
        ),
    ],
    ids=["cut", "empty", "GIF", "16 bits"],
)
def test_what_cannot_be_read(root, first, content, told):
    first.write_bytes(content)
    with pytest.raises(BadInput) as caught:
        load_imagenet(root, image_size=16, workers=0).train.batch([0])
    assert str(caught.value) == f"{first} {told}"


# ---------------------------------------------------------------- other folders


def refusal(root, **options):
    with pytest.raises(BadInput) as caught:
        load_imagenet(root, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_missing_parts(root, tmp_path):
    told = "root must hold train/ and val/, each with 1000 folders, one for each class; "
    assert refusal(tmp_path / "x") == f"{told}{tmp_path / 'x'} is no folder"
    assert refusal(tmp_path) == f"{told}{tmp_path} lacks train/ and val/"
    (tmp_path / "train").symlink_to(root / "train")
    assert refusal(tmp_path) == f"{told}{tmp_path} lacks val/"
    (tmp_path / "val").mkdir()
    (tmp_path / "val" / "ILSVRC2012_val_00000001.JPEG").touch()
    told = f"{tmp_path / 'val'} must hold 1000 folders, one for each class; it has 0"
    assert refusal(tmp_path) == told


def test_other_classes(root):
    here, there = root / "val" / WNIDS[5], root / "val" / "n99999999"
    here.rename(there)
    try:
        assert refusal(root) == (
            f"{root / 'val'} must have the same class folders as {root / 'train'}; it lacks {WNIDS[5]} and "
            "has also n99999999"
        )
        here.mkdir()
        assert refusal(root).endswith("must hold 1000 folders, one for each class; it has 1001")
        here.rmdir()
    finally:
        there.rename(here)


def test_an_empty_class(root, first):
    away = first.rename(first.with_suffix(".txt"))
    try:
        told = (
            f"{first.parent} must hold at least one image (.bmp, .jpeg, .jpg, .png, .webp), holds {away.name}"
        )
        assert refusal(root) == told
    finally:
        away.rename(first)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"image_size": 0}, "image_size must be an integer of at least 1, got 0"),
        ({"workers": -1}, "workers must be an integer of at least 0, got -1"),
        ({"seed": -1}, "seed must be an integer of at least 0, got -1"),
    ],
)
def test_refuses_other_arguments(root, options, message):
    with pytest.raises(ValueError, match=message):
        load_imagenet(root, **options)
