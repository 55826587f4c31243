"""Networks see images of the size that they were trained for, brought there as their library does."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn.functional import interpolate

from dotkd.errors import BadInput
from dotkd.models import create_model
from dotkd.models.base import Resize
from dotkd.models.external import create_external
from dotkd.models.fold import fold_batch_norm

SHAPES = [(40, 30), (30, 40), (24, 24), (64, 64)]
VIT = {"image_processor_type": "ViTImageProcessor"}


@pytest.mark.slow
@pytest.mark.usefixtures("timm")
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize("mode", ["center", "squash", "border"])
@pytest.mark.parametrize("shape", SHAPES)
def test_the_same_pixels_as_timm(shape, mode, interpolation):
    from timm.data import create_transform

    pixels = np.random.default_rng(0).integers(64, 192, (*shape, 3)).astype(np.uint8)
    mean, ones = (0.2, 0.4, 0.6), (1.0, 1.0, 1.0)
    theirs = create_transform(
        (3, 32, 32), interpolation=interpolation, crop_pct=0.8, crop_mode=mode, mean=mean, std=ones
    )(Image.fromarray(pixels))
    fill = torch.tensor(mean).view(3, 1, 1)
    images = torch.from_numpy(pixels).permute(2, 0, 1)[None] / 255
    ours = Resize((32, 32), (40, 40), mode, interpolation)(images, fill)[0]
    # Pillow rounds to whole grey values after each of its two passes; contrasts too small for it to clip.
    torch.testing.assert_close(ours - fill, theirs, rtol=0, atol=2.5 / 255)


def test_images_of_the_size_of_the_training_stay_as_they_are():
    images = torch.rand(2, 3, 32, 32)
    assert Resize((32, 32), (40, 40), "center")(images) is images


@pytest.mark.parametrize("name", ["small/cnn4", "cifar100/resnet8", "tiny_imagenet/MobileNetV2"])
def test_every_network_resizes_before_its_first_layer(name):
    model = create_model(name, 5, image_shape=(3, 64, 64), mean=(0.5,) * 3, std=(0.2,) * 3).eval()
    images = torch.rand(2, 3, 24, 24)
    wanted = model(interpolate(images, (64, 64), mode="bicubic", antialias=True).clamp(0, 1))
    model.made_for = Resize((64, 64), interpolation="bicubic")
    torch.testing.assert_close(model(images), wanted)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("settings", "wanted"),
    [
        ({**VIT, "size": {"height": 64, "width": 48}}, Resize((64, 48), (64, 48))),
        ({**VIT, "size": 64, "resample": 3}, Resize((64, 64), (64, 64), "squash", "bicubic")),
        # Without a name the network's own processor counts, here that of ConvNeXt.
        ({"size": 64, "resample": 3}, Resize((64, 64), (73, 73), "center", "bicubic")),
        (
            {
                **VIT,
                "size": {"shortest_edge": 72},
                "do_center_crop": True,
                "crop_size": {"height": 64, "width": 64},
            },
            Resize((64, 64), (72, 72), "center"),
        ),
        ({"size": {"shortest_edge": 56}, "crop_pct": 0.7}, Resize((56, 56), (80, 80), "center", "bicubic")),
        ({"size": {"shortest_edge": 384}}, Resize((384, 384), (384, 384), interpolation="bicubic")),
        # A processor with code of its own, which is not run.
        ({"image_processor_type": "Mine", "size": {"height": 64, "width": 48}}, Resize((64, 48), (64, 48))),
        ({"size": {"height": 64, "width": 64}, "do_resize": False}, None),
        ({}, None),
    ],
)
def test_a_folder_of_transformers_says_its_size(hf_folder, settings, wanted):
    preprocessor = hf_folder / "preprocessor_config.json"
    preprocessor.write_text(json.dumps({"image_mean": [0.5], "image_std": [0.2], **settings}))
    assert create_external(f"hf:{hf_folder}", 10, image_shape=(1, 8, 8)).made_for == wanted
    assert create_external(f"hf:{hf_folder}", 10, image_shape=(1, 8, 8), fine_tune=True).made_for is None


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings",
    [
        {"feature_extractor_type": "ConvNextFeatureExtractor", "size": 32},
        {"image_processor_type": "ConvNextImageProcessor", "size": 32, "crop_pct": 0.75},
        {"image_processor_type": "ConvNextImageProcessor", "size": 384},
        {"feature_extractor_type": "CLIPFeatureExtractor", "size": 40, "crop_size": 32},
        {"feature_extractor_type": "ViTFeatureExtractor", "size": 32},
        {"feature_extractor_type": "DeiTFeatureExtractor", "size": 40, "crop_size": 32},
        {"image_processor_type": "MobileNetV2ImageProcessor", "size": 40, "crop_size": 32},
        {"image_processor_type": "MobileNetV2ImageProcessor", "size": {"shortest_edge": 256}},
    ],
)
def test_the_same_pixels_as_the_processor_of_transformers(hf_folder, settings):
    from transformers import AutoImageProcessor

    settings = {"image_mean": [0.0], "image_std": [1.0], **settings}
    (hf_folder / "preprocessor_config.json").write_text(json.dumps(settings))
    resize = create_external(f"hf:{hf_folder}", 10, image_shape=(1, 8, 8)).made_for
    processor = AutoImageProcessor.from_pretrained(hf_folder)
    for shape in SHAPES:
        pixels = torch.from_numpy(np.random.default_rng(0).integers(64, 192, (1, *shape)).astype(np.uint8))
        theirs = processor(pixels.expand(3, -1, -1), image_mean=[0.0] * 3, image_std=[1.0] * 3)
        theirs = torch.as_tensor(theirs["pixel_values"][0])[:1]
        torch.testing.assert_close(resize(pixels[None] / 255)[0], theirs, rtol=0, atol=2.5 / 255)


@pytest.mark.slow
def test_a_size_that_only_unknown_code_could_read(hf_folder):
    settings = {"image_processor_type": "Mine", "image_mean": [0.5], "image_std": [0.2], "size": 64}
    (hf_folder / "preprocessor_config.json").write_text(json.dumps(settings))
    with pytest.raises(BadInput, match=r"preprocessor_config\.json: size .* height and width"):
        create_external(f"hf:{hf_folder}", 10, image_shape=(1, 8, 8))


@pytest.mark.slow
def test_a_folder_without_normalisation_is_not_used_as_it_is(hf_folder):
    name, shape = f"hf:{hf_folder}", (1, 8, 8)
    with pytest.raises(BadInput, match=r"no preprocessor_config\.json .* teacher\.mean and teacher\.std"):
        create_model(name, 10, image_shape=shape)
    given = create_model(name, 10, image_shape=shape, mean=[0.5], std=[0.1])
    assert (given.mean.item(), given.std.item()) == pytest.approx((0.5, 0.1))
    assert create_model(name, 10, image_shape=shape, fine_tune=True).lacks_normalisation
    assert create_model(name, 10, image_shape=shape, pretrained=False).lacks_normalisation


@pytest.mark.slow
@pytest.mark.usefixtures("timm")
@pytest.mark.parametrize(
    ("name", "size"), [("timm:resnet18.a1_in1k", (288, 288)), ("timm:test_vit.r160_in1k", (160, 160))]
)
@pytest.mark.parametrize("classes", [10, 1000])
def test_a_pretrained_model_of_timm(name, size, classes, monkeypatch):
    import timm

    create = timm.create_model
    monkeypatch.setattr(timm, "create_model", lambda name, **o: create(name, **{**o, "pretrained": False}))
    model = create_external(f"{name}@pretrained", classes)
    assert model.made_for.size == size  # that of its test, where it takes another size
    assert (model.made_for.mode, model.made_for.interpolation) == ("center", "bicubic")
    assert model.new_head == (classes == 10)
    assert model.class_names[:1] == (("n01440764",) if classes == 1000 else ())
    assert create_external(f"{name}@pretrained", classes, fine_tune=True).made_for is None
    assert create_external(f"{name}@pretrained", classes, pretrained=False).new_head is False


def test_batch_norms_are_folded_whatever_the_size():
    model = create_model("small/cnn4", 5, image_shape=(3, 16, 16), mean=(0.5,) * 3, std=(0.2,) * 3).eval()
    model.made_for = Resize((16, 16), (20, 20), "border")
    images = torch.rand(2, 3, 24, 32)
    before = model(images)
    assert fold_batch_norm(model) == 3
    torch.testing.assert_close(model(images), before)
