"""Feature paths of external models: found at creation, with the shapes that methods expect."""

import copy
import pickle
import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional

from dotkd import Distiller
from dotkd.errors import BadInput
from dotkd.features.paths import feature_paths, pair_paths
from dotkd.features.shapes import as_map, make_aligner
from dotkd.features.taps import Taps
from dotkd.methods import Method
from dotkd.models import ImageModel, create_model

KINDS = ["stages", "pooled", "last", "preacts"]
SHAPE = (3, 32, 32)
# Model -> shapes of its stages for 32x32 images.
TIMM = {
    "resnet18": [(64, 8, 8), (128, 4, 4), (256, 2, 2), (512, 1, 1)],
    "vit_tiny_patch16_224": [(5, 192)] * 12,
    "swin_tiny_patch4_window7_224": [(96, 8, 8), (192, 4, 4), (384, 2, 2), (768, 1, 1)],
    "convnext_atto": [(40, 8, 8), (80, 4, 4), (160, 2, 2), (320, 1, 1)],
    "mobilenetv3_small_100": [(16, 8, 8), (24, 4, 4), (48, 2, 2), (576, 1, 1)],
    "efficientnet_b0": [(24, 8, 8), (40, 4, 4), (112, 2, 2), (320, 1, 1)],
    "mixer_s16_224": [(4, 512)] * 8,
    "regnety_002": [(24, 8, 8), (56, 4, 4), (152, 2, 2), (368, 1, 1)],
    "test_mambaout": [(16, 8, 8), (32, 4, 4), (48, 2, 2), (64, 1, 1)],
}
HF = {
    "vit": [(17, 16)] * 2,
    "deit": [(18, 16)] * 2,
    "resnet": [(8, 8, 8), (16, 4, 4)],
    "convnext": [(8, 8, 8), (16, 4, 4)],
    "swin": [(16, 8, 8), (16, 8, 8)],
    "mobilenet_v2": [(8, 8, 8), (8, 4, 4), (24, 2, 2), (80, 1, 1)],
}
OWN = """
import torch
from torch import nn

class Net(nn.Module):
    stage_paths = ["0", "1"]
    norm_paths = ()

    def __init__(self, classes):
        super().__init__()
        self.add_module("0", nn.Conv2d(3, 4, 3))
        self.add_module("1", nn.Conv2d(4, 6, 3, stride=2))
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.drop = nn.Dropout(0.5)
        self.head = nn.Conv2d(6, classes, 1)

    def forward(self, images):
        first, second = self.get_submodule("0"), self.get_submodule("1")
        return self.head(self.drop(self.pool(second(first(images))))).flatten(1)

def net(num_classes):
    return Net(num_classes)

def talkative(num_classes):
    net = Net(num_classes)
    net.preact_paths = ("0", "1")
    net.pooled_path = "pool"
    net.classifier_path = "head"
    return net

def astray(num_classes):
    net = Net(num_classes)
    net.pooled_path = "pol"
    return net

def untold(num_classes):
    net = Net(num_classes)
    net.stage_paths = "0"
    return net

def choosy(num_classes):
    net = Net(num_classes)
    net.pool = nn.MaxPool2d(40)
    return net

def lazy(num_classes):
    return nn.Sequential(nn.Flatten(), nn.LazyLinear(num_classes))
"""


@pytest.fixture(scope="module")
def settings(hf: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders with configurations of tiny transformers models, without weights."""
    import transformers as library

    tokens = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16}
    patches = {"image_size": 32, "patch_size": 8, **tokens}
    two = {"hidden_sizes": [8, 16], "depths": [1, 1]}
    swin = {"image_size": 32, "patch_size": 2, "embed_dim": 8, "depths": [1, 1], "num_heads": [2, 2]}
    configs = {
        "vit": library.ViTConfig(**patches),
        "deit": library.DeiTConfig(**patches),
        "resnet": library.ResNetConfig(embedding_size=8, layer_type="basic", **two),
        "convnext": library.ConvNextConfig(image_size=32, num_stages=2, **two),
        "swin": library.SwinConfig(window_size=4, **swin),
        "mobilenet_v2": library.MobileNetV2Config(image_size=32, depth_multiplier=0.25),
    }
    root = tmp_path_factory.mktemp("settings")
    for name, config in configs.items():
        config.save_pretrained(root / name)
    return root


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "my_features.py").write_text(OWN, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "my_features", raising=False)
    return "my_features"


def full(name: str, request: pytest.FixtureRequest) -> str:
    source, _, rest = name.partition(":")
    if source == "timm":
        request.getfixturevalue("timm")
    return f"hf:{request.getfixturevalue('settings') / rest}" if source == "hf" else name


def made(name: str) -> ImageModel:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return create_model(name, 10, image_shape=SHAPE)


@pytest.fixture(params=[*(f"timm:{name}" for name in TIMM), *(f"hf:{name}" for name in HF)])
def asked(request: pytest.FixtureRequest) -> str:
    return str(request.param)


# ---------------------------------------------------------------- every model


@pytest.mark.slow
def test_features_are_found_and_train(asked: str, request: pytest.FixtureRequest) -> None:
    model, images = made(full(asked, request)), torch.rand(3, *SHAPE)
    assert model.training
    paths = feature_paths(model, "stages")
    _, features = Taps(model, {path: path for path in paths})(images)
    expected = (TIMM | HF)[asked.partition(":")[2]]
    assert [tuple(feature.shape[1:]) for feature in features.values()] == expected
    sum(feature.square().mean() for feature in features.values()).backward()
    assert feature_paths(model, "last") == paths[-1:]
    assert feature_paths(model, "preacts") == paths

    model.eval()
    logits, features = Taps(model, {"pooled": feature_paths(model, "pooled")[0]})(images)
    assert features["pooled"].ndim == 2
    assert torch.equal(model.get_submodule(model.classifier_path)(features["pooled"]), logits)


@pytest.mark.slow
@pytest.mark.parametrize(
    "asked",
    ["timm:test_vit", "timm:test_mambaout", "timm:mobilenetv3_small_100", *(f"hf:{name}" for name in HF)],
)
def test_probing_leaves_no_trace(asked: str, request: pytest.FixtureRequest) -> None:
    name = full(asked, request)
    bare = name.partition(":")[2]
    torch.manual_seed(0)
    if asked.startswith("timm:"):
        import timm

        timm.create_model(bare, num_classes=10)
        if bare == "test_vit":  # created a second time, for the size of the images
            timm.create_model(bare, num_classes=10, img_size=SHAPE[1:])
    else:
        from transformers import AutoConfig, AutoModelForImageClassification

        config = AutoConfig.from_pretrained(bare, architectures=[], num_labels=10)
        AutoModelForImageClassification.from_config(config)
    state = torch.random.get_rng_state()
    torch.manual_seed(0)
    model = create_model(name, 10, image_shape=SHAPE)
    assert torch.equal(torch.random.get_rng_state(), state)
    hooks = [hook for module in model.modules() for hook in module._forward_hooks.values()]
    hooks += [hook for module in model.modules() for hook in module._forward_pre_hooks.values()]
    assert len(hooks) == len(model.views)
    assert all(module.training for module in model.modules())
    assert all(key.startswith("model.") for key in model.state_dict())
    moved = [value for key, value in model.state_dict().items() if key.endswith("num_batches_tracked")]
    assert not any(value.item() for value in moved)


# ---------------------------------------------------------------- layouts


@pytest.mark.slow
@pytest.mark.usefixtures("timm")
def test_channels_come_first() -> None:
    model, images = made("timm:test_mambaout").eval(), torch.rand(2, *SHAPE)
    inner = ["stages.0:input", "stages.0", "stages.1", "stages.2", "stages.3"]
    _, raw = Taps(model.model, {path: path for path in inner})(model.prepare(images))
    _, features = Taps(model, {path: path for path in model.stage_paths})(images)
    for before, after in zip(raw.values(), features.values(), strict=True):
        assert torch.equal(before.permute(0, 3, 1, 2), after)


@pytest.mark.slow
def test_hidden_states_are_the_stages(settings: Path) -> None:
    for name in ("vit", "resnet", "convnext", "swin", "deit"):
        model, images = made(f"hf:{settings / name}").eval(), torch.rand(2, *SHAPE)
        _, features = Taps(model, {path: path for path in model.stage_paths})(images)
        output = copy.deepcopy(model.model)(model.prepare(images), output_hidden_states=True)
        expected = output.get("reshaped_hidden_states", output.hidden_states)
        assert len(expected) == len(features)
        assert all(map(torch.equal, features.values(), expected))


@pytest.mark.slow
def test_swin_tokens_are_tapped_as_maps(settings: Path) -> None:
    model = made(f"hf:{settings / 'swin'}").eval()
    _, raw = Taps(model.model, {"tokens": "swin.layernorm:input"})(torch.rand(2, *SHAPE))
    assert torch.equal(as_map(raw["tokens"]), model.get_submodule("views.2").form(raw["tokens"]))


@pytest.mark.slow
@pytest.mark.usefixtures("timm")
@pytest.mark.parametrize("twin", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_views_of_a_copy_read_the_copy(twin) -> None:
    model, images = made("timm:test_mambaout").eval(), torch.rand(2, *SHAPE)
    other = twin(model)
    with torch.no_grad():
        for parameter in model.model.stages[0].parameters():
            parameter.zero_()
    paths = {path: path for path in feature_paths(model, "stages")}
    ours, theirs = Taps(model, paths)(images)[1], Taps(other, paths)(images)[1]
    assert not torch.equal(ours["views.1"], theirs["views.1"])
    assert torch.equal(
        theirs["views.4"], Taps(made("timm:test_mambaout").eval(), paths)(images)[1]["views.4"]
    )


@pytest.mark.slow
@pytest.mark.usefixtures("timm")
def test_a_compiled_model_with_views_is_one_graph() -> None:
    graphs = []

    def backend(graph, _):
        graphs.append(graph)
        return graph.forward

    model, images = made("timm:test_mambaout").eval(), torch.rand(2, *SHAPE)
    paths = {path: path for path in feature_paths(model, "stages")}
    taps = Taps(torch.compile(model, backend=backend), paths)
    for _ in range(2):
        _, features = taps(images)
    assert len(graphs) == 1
    _, expected = Taps(model, paths)(images)
    torch.testing.assert_close(features, expected)


@pytest.mark.slow
@pytest.mark.usefixtures("timm")
def test_the_first_of_two_averaged_classifiers_is_taken() -> None:
    assert made("timm:deit_tiny_distilled_patch16_224").classifier_path == "model.head"


# ---------------------------------------------------------------- user functions


def test_declared_paths_are_taken(mine: str) -> None:
    model = made(f"{mine}:talkative").eval()
    assert model.stage_paths == model.preact_paths == ("model.0", "model.1")
    assert (model.norm_paths, model.pooled_path, model.classifier_path) == ((), "model.pool", "model.head")


def test_undeclared_paths_are_found(mine: str) -> None:
    model, images = made(f"{mine}:net").eval(), torch.rand(2, *SHAPE)
    assert (model.stage_paths, model.classifier_path) == (("model.0", "model.1"), "model.head")
    logits, features = Taps(model, {"pooled": feature_paths(model, "pooled")[0]})(images)
    pooled = features["pooled"]
    assert pooled.shape == (2, 6)  # the classifier, a convolution, gets [2, 6, 1, 1]
    torch.testing.assert_close(model.model.head(pooled[:, :, None, None]).flatten(1), logits)


def test_wrong_declarations_are_refused(mine: str) -> None:
    with pytest.raises(
        BadInput, match=r"'my_features:astray': tap 'pooled_path': Net has no submodule 'pol'"
    ):
        made(f"{mine}:astray")
    message = "'my_features:untold': stage_paths must be a list of paths.*, got '0'"
    with pytest.raises(BadInput, match=message):
        made(f"{mine}:untold")


def test_a_model_whose_probe_fails_is_created(mine: str) -> None:
    model = made(f"{mine}:choosy")
    assert (model.stage_paths, model.classifier_path) == (("model.0", "model.1"), "")
    assert model(torch.rand(2, 3, 90, 90)).shape == (2, 10)
    with pytest.raises(ValueError, match="the model, a External, names no path of the feature 'pooled'"):
        feature_paths(model, "pooled")


def test_lazy_parameters_stay_lazy(mine: str) -> None:
    model = made(f"{mine}:lazy")
    assert isinstance(model.model[1], nn.LazyLinear)


# ---------------------------------------------------------------- distillation


class AlignAll(Method):
    """Predicts each teacher feature, of every kind, from the student's."""

    needs = tuple(KINDS)
    learns = True

    def prepare(self, setting):
        ours, theirs = setting.student_outputs.features, setting.teacher_outputs.features
        self.aligners = nn.ModuleList(make_aligner(ours[name], theirs[name]) for name in ours)

    def forward(self, student, teacher, *_, **__):
        pairs = zip(self.aligners, student.features.values(), teacher.features.values(), strict=True)
        return sum(functional.mse_loss(align(ours), align.target(theirs)) for align, ours, theirs in pairs)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("student", "teacher"),
    [
        ("cifar100/resnet8", "timm:test_mambaout"),
        ("timm:test_mambaout", "cifar100/resnet8"),
        ("cifar100/resnet8", "hf:vit"),
        ("hf:vit", "cifar100/resnet8"),
        ("timm:test_vit", "hf:swin"),
        ("hf:swin", "timm:test_vit"),
        ("timm:test_resnet", "timm:test_vit"),
        ("hf:mobilenet_v2", "hf:resnet"),
        ("timm:test_efficientnet", "hf:convnext"),
        ("hf:deit", "timm:test_convnext"),
    ],
)
def test_all_features_of_any_pair_distill(student: str, teacher: str, request: pytest.FixtureRequest) -> None:
    ours, theirs = made(full(student, request)), made(full(teacher, request))
    first, second = pair_paths(KINDS, ours, theirs, {})
    assert list(first) == list(second)
    assert sum(name.startswith("stages.") for name in first) > 1
    before = copy.deepcopy(theirs.state_dict())
    torch.manual_seed(0)
    images, labels = torch.rand(8, *SHAPE), torch.arange(8)
    distiller = Distiller(ours, theirs, AlignAll(), example=images)
    optimizer = torch.optim.Adam(distiller.trainable_parameters(), lr=3e-3)
    seen = []
    for _ in range(8):
        losses = distiller(images, labels)
        seen.append(losses.distill.item())
        optimizer.zero_grad()
        losses.distill.backward()
        optimizer.step()
    assert all(parameter.grad is not None for parameter in distiller.method.parameters())
    assert seen[-1] < 0.9 * seen[0]
    assert all(torch.equal(value, before[key]) for key, value in theirs.state_dict().items())
