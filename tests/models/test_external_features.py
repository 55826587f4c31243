"""Features of outside models: found at creation, in the forms that methods expect, for both roles."""

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
from dotkd.models import External, ImageModel, create_model
from dotkd.models.wrap import find_classifier, readable

KINDS = ["stages", "pooled", "last", "preacts"]
SHAPE = (3, 32, 32)
# Model -> shapes of its stages for images of 32x32.
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
    """Folders with the settings of tiny models of transformers, without weights."""
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


# All of them -----------------------------------------------------------------


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


@pytest.mark.parametrize(
    "asked",
    ["timm:test_vit", "timm:test_mambaout", "timm:mobilenetv3_small_100", *(f"hf:{name}" for name in HF)],
)
def test_looking_for_them_leaves_no_trace(asked: str, request: pytest.FixtureRequest) -> None:
    name = full(asked, request)
    bare = name.partition(":")[2]
    torch.manual_seed(0)
    if asked.startswith("timm:"):
        import timm

        timm.create_model(bare, num_classes=10)
        if bare == "test_vit":  # one of a fixed size is made a second time, for the images
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


# Layouts ---------------------------------------------------------------------


@pytest.mark.usefixtures("timm")
def test_channels_come_first() -> None:
    model, images = made("timm:test_mambaout").eval(), torch.rand(2, *SHAPE)
    inner = ["stages.0:input", "stages.0", "stages.1", "stages.2", "stages.3"]
    _, raw = Taps(model.model, {path: path for path in inner})(model.prepare(images))
    _, features = Taps(model, {path: path for path in model.stage_paths})(images)
    for before, after in zip(raw.values(), features.values(), strict=True):
        assert torch.equal(before.permute(0, 3, 1, 2), after)


def test_hidden_states_are_the_stages(settings: Path) -> None:
    for name in ("vit", "resnet", "convnext", "swin", "deit"):
        model, images = made(f"hf:{settings / name}").eval(), torch.rand(2, *SHAPE)
        _, features = Taps(model, {path: path for path in model.stage_paths})(images)
        output = copy.deepcopy(model.model)(model.prepare(images), output_hidden_states=True)
        expected = output.get("reshaped_hidden_states", output.hidden_states)
        assert len(expected) == len(features)
        assert all(map(torch.equal, features.values(), expected))


def test_a_map_of_swin_is_its_tokens(settings: Path) -> None:
    model = made(f"hf:{settings / 'swin'}").eval()
    _, raw = Taps(model.model, {"tokens": "swin.layernorm:input"})(torch.rand(2, *SHAPE))
    assert torch.equal(as_map(raw["tokens"]), model.get_submodule("views.2").form(raw["tokens"]))


@pytest.mark.usefixtures("timm")
@pytest.mark.parametrize("twin", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_views_of_a_copy_are_the_copys(twin) -> None:
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


# The classifier --------------------------------------------------------------


class Heads(nn.Module):
    def __init__(self, mode):
        super().__init__()
        self.hidden = nn.Linear(6, 4)
        self.first = nn.Linear(4, 4)
        self.second = nn.Linear(4, 4)
        self.mode = mode

    def forward(self, x):
        x = self.hidden(x).relu()
        if self.mode == "chain":
            return self.second(self.first(x))
        if self.mode == "scaled":
            return 3 * self.first(x)
        if self.mode == "tokens":
            return self.first(torch.stack([x, 2 * x], dim=1)).mean(1)
        if self.mode == "twice":
            return self.first(self.first(x))
        return (self.first(x) + self.second(x)) / 2


@pytest.mark.parametrize(
    ("mode", "said", "path"),
    [
        ("chain", "", "second"),
        ("mean", "", "first"),
        ("mean", "second", "second"),
        ("mean", "unheard", "first"),
        ("scaled", "", ""),
        ("twice", "", ""),
        ("tokens", "", "first"),
    ],
)
def test_which_layer_classifies(mode, said, path) -> None:
    torch.manual_seed(0)
    net, x = Heads(mode).eval(), torch.randn(3, 6)
    found = find_classifier(net, x, said)
    assert found.get("classifier_path", "") == path
    assert ("pooled_path" in found) == (mode == "tokens")
    if mode == "tokens":
        pooled = found["forms"]["first:input"](Taps(net, {"x": "first:input"})(x)[1]["x"])
        torch.testing.assert_close(net.first(pooled), net(x))


@pytest.mark.usefixtures("timm")
def test_of_two_averaged_classifiers_the_first() -> None:
    assert made("timm:deit_tiny_distilled_patch16_224").classifier_path == "model.head"


# What cannot be read ---------------------------------------------------------


class Odd(nn.Module):
    def __init__(self):
        super().__init__()
        self.plain, self.norm, self.pair, self.twice = (nn.Linear(4, 4) for _ in range(4))
        self.relu = nn.ReLU(inplace=True)
        self.pair.register_forward_hook(lambda _module, _inputs, output: (output, output))
        self.unused, self.turned = nn.Linear(4, 4), nn.Identity()

    def forward(self, x):
        x = self.relu(self.norm(self.plain(x)))
        x, _ = self.pair(x)
        self.turned(x.T)
        return self.twice(self.twice(x))


def test_only_what_taps_can_read_is_a_stage() -> None:
    asked = ["plain", "norm", "relu", "pair", "pair:input", "twice", "unused", "nowhere", "turned"]
    found = readable(Odd(), torch.randn(3, 4), asked)
    assert list(found) == ["plain", "relu", "pair:input"]


# The user's own --------------------------------------------------------------


def test_what_the_users_model_says_counts(mine: str) -> None:
    model = made(f"{mine}:talkative").eval()
    assert model.stage_paths == model.preact_paths == ("model.0", "model.1")
    assert (model.norm_paths, model.pooled_path, model.classifier_path) == ((), "model.pool", "model.head")


def test_what_the_users_model_does_not_say_is_found(mine: str) -> None:
    model, images = made(f"{mine}:net").eval(), torch.rand(2, *SHAPE)
    assert (model.stage_paths, model.classifier_path) == (("model.0", "model.1"), "model.head")
    logits, features = Taps(model, {"pooled": feature_paths(model, "pooled")[0]})(images)
    pooled = features["pooled"]
    assert pooled.shape == (2, 6)  # the classifier, a convolution, gets [2, 6, 1, 1]
    torch.testing.assert_close(model.model.head(pooled[:, :, None, None]).flatten(1), logits)


def test_wrong_words_of_the_users_model(mine: str) -> None:
    with pytest.raises(
        BadInput, match=r"'my_features:astray': tap 'pooled_path': Net has no submodule 'pol'"
    ):
        made(f"{mine}:astray")
    message = "'my_features:untold': stage_paths must be a list of paths of submodules, got '0'"
    with pytest.raises(BadInput, match=message):
        made(f"{mine}:untold")


def test_a_model_that_does_not_take_the_example_is_made_anyway(mine: str) -> None:
    model = made(f"{mine}:choosy")
    assert (model.stage_paths, model.classifier_path) == (("model.0", "model.1"), "")
    assert model(torch.rand(2, 3, 90, 90)).shape == (2, 10)
    with pytest.raises(ValueError, match="the model, a External, does not say where its feature 'pooled' is"):
        feature_paths(model, "pooled")


def test_lazy_parameters_stay_so(mine: str) -> None:
    model = made(f"{mine}:lazy")
    assert isinstance(model.model[1], nn.LazyLinear)


# Teacher and student ---------------------------------------------------------


class AlignAll(Method):
    """Every feature of every kind predicts the teacher's."""

    needs = tuple(KINDS)
    learns = True

    def prepare(self, setting):
        ours, theirs = setting.student_outputs.features, setting.teacher_outputs.features
        self.aligners = nn.ModuleList(make_aligner(ours[name], theirs[name]) for name in ours)

    def forward(self, student, teacher, *_, **__):
        pairs = zip(self.aligners, student.features.values(), teacher.features.values(), strict=True)
        return sum(functional.mse_loss(align(ours), align.target(theirs)) for align, ours, theirs in pairs)


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


def test_external_takes_paths_and_forms() -> None:
    inner = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Flatten(), nn.Linear(16, 5))
    model = External(
        inner,
        5,
        "mine:net",
        stage_paths=["0"],
        preact_paths=["0:input"],
        norm_paths=["0"],
        pooled_path="1",
        classifier_path="2",
        forms={"0:input": lambda images: 2 * images},
    )
    assert model.stage_paths == model.norm_paths == ("model.0",)
    assert (model.preact_paths, model.pooled_path) == (("views.0",), "model.1")
    images = torch.rand(2, 3, 2, 2)
    _, features = Taps(model, {"double": "views.0"})(images)
    assert torch.equal(features["double"], 2 * images)
    assert list(model.state_dict()) == ["model.0.weight", "model.0.bias", "model.2.weight", "model.2.bias"]
    assert "0:input" in repr(model)
    with pytest.raises(ValueError, match="tap '3:input': Sequential has no submodule '3'; nearest: '"):
        External(inner, 5, "mine:net", forms={"3:input": as_map})
