"""External models behind create_model, from timm, transformers and user functions; no downloads."""

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn.functional import interpolate

from dotkd import DOT, Distiller
from dotkd.errors import BadInput
from dotkd.features.taps import Taps
from dotkd.models import External, create_model, load_weights
from dotkd.models.external import create_external

OWN = """
import torch
from torch import nn

number = 3

def net(num_classes, image_shape):
    channels, height, width = image_shape
    return nn.Sequential(nn.Flatten(), nn.Linear(channels * height * width, num_classes))

def pooled(num_classes):
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, num_classes))

class Pair(nn.Module):
    def forward(self, images):
        return images, images

def pair(num_classes):
    return Pair()

def text(num_classes):
    return "a model"

def other(classes):
    raise AssertionError("must not be called")
"""

# The shapes of the builders in torchvision and in many repositories: **kwargs goes to the class.
BUILDERS = """
import functools
from torch import nn

class Net(nn.Module):
    def __init__(self, num_classes=1000, width=8, image_size=8):
        super().__init__()
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(3 * image_size**2, width), nn.ReLU())
        self.fc = nn.Linear(width, num_classes)

    def forward(self, images):
        return self.fc(self.body(images))

def registered(build):
    @functools.wraps(build)
    def inner(*args, **kwargs):
        if kwargs.get("weights"):
            raise AssertionError("nobody asked for weights")
        return build(*args, **kwargs)
    return inner

@registered
def keyword_only(*, weights=None, progress=True, **kwargs):
    return Net(width=32, **kwargs)

@registered
def named_and_more(*, weights=None, num_classes=None, aux_loss=None, **kwargs):
    return Net(num_classes, width=32, **kwargs)

def takes_out_of_kwargs(weights=None, **kwargs):
    return Net(image_size=kwargs.pop("image_size", 8), width=32, **kwargs)

def both_and_more(num_classes, image_shape, **kwargs):
    assert not kwargs
    return Net(num_classes, width=32, image_size=image_shape[1])

def anything(*args, **kwargs):
    return Net(*args, width=32, **kwargs)

bound = functools.partial(Net, width=32)

def wants_shape(**kwargs):
    return Net(width=kwargs["image_shape"][1], **kwargs)

class Classes(Net):
    def __init__(self, classes):
        super().__init__(classes)

def wants_other_name(**kwargs):
    return Classes(**kwargs)
"""
BUILT = ("keyword_only", "named_and_more", "takes_out_of_kwargs", "both_and_more", "anything", "bound")


@pytest.fixture(scope="module")
def folders(hf: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders as save_pretrained writes them: a ViT, a ResNet, and a configuration without weights."""
    from transformers import AutoModelForImageClassification, ResNetConfig, ViTConfig

    root = tmp_path_factory.mktemp("hf")
    vit = ViTConfig(
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        image_size=16,
        patch_size=8,
        num_labels=10,
    )
    resnet = ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic", num_labels=10
    )
    torch.manual_seed(1)
    for name, config in {"vit": vit, "resnet": resnet}.items():
        AutoModelForImageClassification.from_config(config).save_pretrained(root / name)
    vit.save_pretrained(root / "bare")
    preprocessing = {"image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.2, 0.2]}
    for name in ("vit", "resnet"):
        (root / name / "preprocessor_config.json").write_text(json.dumps(preprocessing), encoding="utf-8")
    return root


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A user's module in the current folder, which is not on Python's path."""
    (tmp_path / "my_nets.py").write_text(OWN, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "my_nets", raising=False)
    return "my_nets"


LIBRARY_MODELS = ["timm:mobilenetv3_small_050", "timm:test_vit", "hf:vit", "hf:resnet"]


@pytest.fixture(
    params=[*(pytest.param(name, marks=pytest.mark.slow) for name in LIBRARY_MODELS), "my_nets:net"]
)
def name(request: pytest.FixtureRequest, mine: str) -> str:
    source, _, rest = request.param.partition(":")
    if source == "timm":
        request.getfixturevalue("timm")
    elif source == "hf":
        return f"hf:{request.getfixturevalue('folders') / rest}"
    return str(request.param)


def made(name: str, num_classes: int = 10, **options: object) -> External:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = create_model(name, num_classes, **options)
    assert isinstance(model, External)
    return model


def refused(name: str, num_classes: int = 10, **options: object) -> str:
    with pytest.raises(BadInput) as caught:
        create_model(name, num_classes, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# ---------------------------------------------------------------- every source


@pytest.mark.parametrize("role", ["student", "teacher"])
def test_trains_as_student_and_stays_as_teacher(name: str, role: str) -> None:
    torch.manual_seed(0)
    other = create_model("cifar100/resnet8", 10)
    student, teacher = (made(name), other) if role == "student" else (other, made(name))
    before = {key: value.clone() for key, value in teacher.state_dict().items()}
    distiller = Distiller(student, teacher, method="kd")
    optimizer = DOT(distiller.trainable_parameters(), lr=0.01)
    images, labels = torch.rand(16, 3, 32, 32), torch.arange(16) % 10
    seen = []
    for _ in range(3):
        losses = distiller(images, labels)
        seen.append((losses.task + losses.distill).item())
        optimizer.backward(task=losses.task, distill=losses.distill)
        optimizer.step()
        optimizer.zero_grad()
    assert all(map(torch.isfinite, torch.tensor(seen)))
    assert seen[-1] < seen[0]
    assert all(torch.equal(value, before[key]) for key, value in teacher.state_dict().items())


def test_weights_survive_saving_and_loading(name: str, tmp_path: Path) -> None:
    model = made(name, mean=(0.5,) * 3, std=(0.25,) * 3)
    assert model.training
    assert all(key.startswith("model.") for key in model.state_dict())
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.01)
    save_file(model.state_dict(), tmp_path / "student.safetensors")
    again = create_model(name, 10, mean=(0.5,) * 3, std=(0.25,) * 3, pretrained=False)
    load_weights(again, tmp_path / "student.safetensors")
    assert set(load_file(tmp_path / "student.safetensors")) == set(again.state_dict())
    images = torch.rand(2, 3, 32, 32)
    assert torch.equal(model.eval()(images), again.eval()(images))


def test_feature_paths_exist(name: str) -> None:
    model = made(name).eval()
    assert bool(model.stage_paths) == name.startswith(("timm:", "hf:"))
    _, features = Taps(model, {path: path for path in model.stage_paths})(torch.rand(2, 3, 32, 32))
    assert all(feature.shape[0] == 2 for feature in features.values())
    if model.classifier_path:
        assert model.get_submodule(model.classifier_path).weight.shape[0] == 10


def test_given_normalisation_replaces_the_models_own(name: str) -> None:
    mean, std = (0.1, 0.2, 0.3), (0.5, 0.6, 0.7)
    model = made(name, mean=mean, std=std).eval()
    images = torch.rand(2, 3, 32, 32)
    resized = interpolate(images, model.size, mode="bilinear", antialias=True) if model.size else images
    plain = (resized - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
    wanted = model.model(plain)
    torch.testing.assert_close(model(images), getattr(wanted, "logits", wanted))
    with pytest.raises(ValueError, match="mean and std must have one number for each channel"):
        made(name, std=std)


@pytest.mark.parametrize(
    ("name", "library"), [("timm:resnet18", "timm"), ("hf:microsoft/resnet-18", "transformers")]
)
def test_a_missing_or_broken_library(name: str, library: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(module: str) -> None:
        raise ModuleNotFoundError(f"No module named {module!r}", name=module)

    def broken(module: str) -> None:
        raise RuntimeError("operator torchvision::nms\ndoes not exist")

    extra = name.partition(":")[0]
    monkeypatch.setattr(importlib, "import_module", absent)
    assert refused(name) == f"model '{name}' needs the extra '{extra}': pip install 'dotkd[{extra}]'"
    monkeypatch.setattr(importlib, "import_module", broken)
    message = refused(name)
    assert message.startswith(f"model '{name}': {library} is installed")
    assert "operator torchvision::nms does not exist; torch " in message


NEEDS_ANOTHER = """
import torch
raise RuntimeError("operator torchvision::nms does not exist")
"""


@pytest.mark.parametrize(
    ("torch_version", "advice"),
    [
        ("2.13.0+cpu", "0.28.0+cpu: {pip}==0.28.0+cpu, from the package index of that torch"),
        ("2.6.0+cu124", "0.21.0+cu124: {pip}==0.21.0+cu124, from the package index of that torch"),
        ("2.9.1", "0.24.1: {pip}==0.24.1"),
        ("2.14.0a0+git1234", None),
    ],
)
@pytest.mark.parametrize("direct", [True, False])
def test_a_torchvision_of_another_build_names_the_one_to_install(
    torch_version: str, advice: str | None, direct: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "needs_another.py").write_text(NEEDS_ANOTHER, encoding="utf-8")
    (tmp_path / "lazy.py").write_text(  # as transformers reports it
        "try:\n    import needs_another\nexcept RuntimeError as error:\n"
        "    raise ModuleNotFoundError('Could not import module') from error\n",
        encoding="utf-8",
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("dotkd.models.external.version", {"torch": torch_version}.__getitem__)
    message = refused("needs_another:net" if direct else "lazy:net")
    reason, _, told = message.partition("; ")
    assert reason.endswith("operator torchvision::nms does not exist")
    pip = "pip install --force-reinstall --no-deps torchvision"
    wanted = f"torch {torch_version} needs torchvision " + (advice or "").format(pip=pip)
    assert told == (
        wanted if advice else f"install the torchvision that was built with torch {torch_version}"
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", ["timm:resnet18", "hf:FOLDER"])
def test_the_command_line_beside_a_torchvision_of_another_build(name: str, tmp_path: Path) -> None:
    (tmp_path / "torchvision").mkdir()
    (tmp_path / "torchvision" / "__init__.py").write_text(NEEDS_ANOTHER, encoding="utf-8")
    information = tmp_path / "torchvision-0.1.dist-info"  # transformers asks for the version
    information.mkdir()
    (information / "METADATA").write_text("Name: torchvision\nVersion: 0.1\n", encoding="utf-8")
    (tmp_path / "config.json").write_text('{"model_type": "vit"}', encoding="utf-8")
    name = name.replace("FOLDER", str(tmp_path))
    path = os.pathsep.join(filter(None, [str(tmp_path), os.environ.get("PYTHONPATH")]))
    command = [sys.executable, "-m", "dotkd", "train", "quick/digits-plain", f"student.model={name}"]
    ended = subprocess.run(
        [*command, "-o", "run"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 2
    told = ended.stderr.strip().splitlines()
    assert len(told) == 1
    assert told[0].startswith(f"dotkd: model '{name}': ")
    assert "torchvision::nms does not exist; torch " in told[0]
    assert "pip install --force-reinstall --no-deps torchvision==0." in told[0]
    assert not (tmp_path / "run").exists()


# ---------------------------------------------------------------- timm


@pytest.mark.slow
@pytest.mark.usefixtures("timm")
class TestTimm:
    def test_its_own_normalisation(self) -> None:
        model = made("timm:test_efficientnet")
        assert model.mean.flatten().tolist() == pytest.approx([0.485, 0.456, 0.406])
        gray = made("timm:test_efficientnet", image_shape=(1, 32, 32))
        assert gray.mean.shape == (1, 1, 1)
        assert gray.mean.item() == pytest.approx((0.485 + 0.456 + 0.406) / 3)
        assert gray(torch.rand(2, 1, 32, 32)).shape == (2, 10)

    @pytest.mark.parametrize(
        ("name", "shape", "size"),
        [
            ("timm:test_efficientnet", (3, 32, 32), None),
            ("timm:test_vit", (3, 32, 48), None),
            ("timm:test_vit", (3, 40, 40), (160, 160)),  # not a multiple of the patch size
            ("timm:test_vit", (1, 8, 8), (160, 160)),
        ],
    )
    def test_input_size(self, name: str, shape: tuple[int, int, int], size: tuple[int, int] | None) -> None:
        model = made(name, image_shape=shape)
        assert model.size == size
        assert model(torch.rand(2, *shape)).shape == (2, 10)

    @pytest.mark.parametrize("pretrained", [True, False])
    def test_pretrained_asks_timm_and_keeps_the_size(
        self, pretrained: bool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        import timm

        create, calls = timm.create_model, []

        def recorded(name: str, **options: object) -> nn.Module:
            calls.append((name, dict(options)))
            return create(name, **{**options, "pretrained": False})

        monkeypatch.setattr(timm, "create_model", recorded)
        model = made("timm:test_vit.r160_in1k@pretrained", pretrained=pretrained)
        options = {"pretrained": pretrained, "num_classes": 10, "in_chans": 3}
        assert calls == [("test_vit.r160_in1k", options)]
        assert model.size == (160, 160)

    def test_unknown_names(self) -> None:
        assert refused("timm:ResNet18d_").startswith(
            "unknown model 'timm:ResNet18d_'; nearest: 'timm:resnet18d'"
        )
        assert refused("timm:resnet18.zzz").startswith("model 'timm:resnet18.zzz': Invalid pretrained tag")


# ---------------------------------------------------------------- transformers


@pytest.mark.slow
class TestTransformers:
    def test_a_folder_gives_weights_size_and_normalisation(self, folders: Path) -> None:
        model = made(f"hf:{folders / 'vit'}")
        saved = load_file(folders / "vit" / "model.safetensors")
        assert torch.equal(model.state_dict()["model.classifier.weight"], saved["classifier.weight"])
        assert model.size == (16, 16)
        assert model.mean.flatten().tolist() == pytest.approx([0.5, 0.4, 0.3])
        assert made(f"hf:{folders / 'resnet'}").size is None
        fresh = made(f"hf:{folders / 'vit'}", pretrained=False)
        assert not torch.equal(fresh.state_dict()["model.classifier.weight"], saved["classifier.weight"])

    def test_a_new_classifier_only_where_asked(self, folders: Path) -> None:
        name = f"hf:{folders / 'vit'}"
        message = refused(name, 7)
        assert message.startswith(f"model '{name}': its weights have 10 classes, wanted 7; ")
        assert f"'{name}@pretrained'" in message
        model = made(f"{name}@pretrained", 7)
        saved = load_file(folders / "vit" / "model.safetensors")
        key = "vit.embeddings.position_embeddings"
        assert torch.equal(model.state_dict()[f"model.{key}"], saved[key])
        assert model(torch.rand(2, 3, 32, 32)).shape == (2, 7)

    def test_a_configuration_without_weights(self, folders: Path) -> None:
        model = made(f"hf:{folders / 'bare'}", 7, image_shape=(1, 8, 8))
        assert model(torch.rand(2, 1, 8, 8)).shape == (2, 7)
        assert model.mean.numel() == 0

    def test_weights_that_do_not_fit(self, folders: Path, tmp_path: Path) -> None:
        folder = tmp_path / "part"
        folder.mkdir()
        (folder / "config.json").write_bytes((folders / "vit" / "config.json").read_bytes())
        weights = load_file(folders / "vit" / "model.safetensors")
        del weights["vit.layernorm.weight"]
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
        message = refused(f"hf:{folder}")
        assert message.startswith(f"model 'hf:{folder}': ")
        assert message.endswith(" vit.layernorm.weight")
        vit = f"hf:{folders / 'vit'}"
        wrong = refused(vit, image_shape=(1, 32, 32))
        assert wrong == f"model '{vit}': its weights are for 3 channels, the images have 1"
        (folder / "model.safetensors").unlink()
        (folder / "pytorch_model.bin").write_bytes(b"")
        message = refused(f"hf:{folder}")
        assert "pickled weights are not read" in message
        assert message.endswith("model.safetensors")

    @pytest.mark.usefixtures("hf")
    def test_other_models_are_refused(self, tmp_path: Path) -> None:
        (tmp_path / "config.json").write_text('{"model_type": "bert"}', encoding="utf-8")
        assert refused(f"hf:{tmp_path}").startswith(
            f"model 'hf:{tmp_path}': Unrecognized configuration class"
        )
        (tmp_path / "config.json").unlink()
        assert refused(f"hf:{tmp_path}").startswith(f"model 'hf:{tmp_path}': ")


# ---------------------------------------------------------------- user functions


def test_function_with_or_without_the_image_shape(mine: str) -> None:
    path = list(sys.path)
    assert made(f"{mine}:net", image_shape=(1, 8, 8))(torch.rand(2, 1, 8, 8)).shape == (2, 10)
    assert made(f"{mine}:pooled")(torch.rand(2, 3, 9, 9)).shape == (2, 10)
    assert sys.path == path


@pytest.fixture
def builders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    (tmp_path / "builders.py").write_text(BUILDERS, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "builders", raising=False)
    return importlib.import_module("builders")


@pytest.mark.parametrize("function", BUILT)
def test_builders_that_pass_keywords_on(builders: ModuleType, function: str) -> None:
    model = made(f"builders:{function}", image_shape=(3, 8, 8))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        inner = builders.Net(10, width=32)
    images = torch.rand(2, 3, 8, 8)
    assert torch.equal(model(images), inner(images))
    assert model.classifier_path == "model.fc"


@pytest.mark.parametrize(
    ("function", "reason"), [("wants_shape", "KeyError"), ("wants_other_name", "TypeError")]
)
def test_a_failure_behind_passed_on_keywords_is_one_line(
    builders: ModuleType, function: str, reason: str
) -> None:
    message = refused(f"builders:{function}", image_shape=(3, 8, 8))
    assert message.startswith(f"model 'builders:{function}': failed when called with num_classes: {reason}: ")
    assert "image_shape is passed only to an argument of that name" in message


@pytest.mark.slow
@pytest.mark.usefixtures("schemas")
@pytest.mark.parametrize("function", ["resnet18", "squeezenet1_1", "mobilenet_v3_small", "regnet_x_400mf"])
def test_builders_of_torchvision(function: str) -> None:
    model = made(f"torchvision.models:{function}").eval()
    build = getattr(importlib.import_module("torchvision.models"), function)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        inner = build(num_classes=10).eval()
    images = torch.rand(2, 3, 64, 64)
    assert torch.equal(model(images), inner(images))


def test_unsuitable_functions_are_refused(mine: str, tmp_path: Path) -> None:
    head = f"model '{mine}:"
    assert refused(f"{mine}:text") == f"{head}text': must return a torch.nn.Module, got str"
    for name in ("nt", "number"):
        message = refused(f"{mine}:{name}")
        assert message.startswith(f"{head}{name}': ")
        assert f"'{mine}' has no function '{name}'" in message
    message = refused(f"{mine}:other")
    assert message.startswith(f"{head}other': ")
    assert "num_classes and image_shape, or num_classes alone" in message
    assert message.endswith("(classes)")
    assert refused("no_such.nets:net") == (
        "unknown model 'no_such.nets:net': no module 'no_such' in the current folder or on Python's path"
    )
    (tmp_path / "half_net.py").write_text("import no_such_library", encoding="utf-8")
    message = refused("half_net:net")
    assert message.startswith("model 'half_net:net': ")
    assert message.endswith(": No module named 'no_such_library'")
    with pytest.raises(BadInput, match=r"must return logits \[B, 10\], got tuple$"):
        create_external(f"{mine}:pair", 10)(torch.rand(2, 3, 8, 8))
