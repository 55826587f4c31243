"""The recipes of the field: all there, with the published settings, and each of them runs."""

import math

import pytest
import torch

from dotkd.data import ImageData, Splits
from dotkd.recipe import load_recipe, recipe_names
from dotkd.recipe.tables import ControlTable, DOTTable
from dotkd.train import build
from dotkd.train.networks import build_model
from dotkd.train.step import lr_factor, train_epoch
from dotkd.train.teacher import teacher_recipe

FIELD = ("cifar100", "tiny_imagenet", "imagenet")
NAMES = [name for name in recipe_names() if name.startswith("cifar100/")]
OTHERS = [name for name in recipe_names() if name.startswith(FIELD[1:])]
PAIRS = sorted({name.rpartition("/")[0] for name in (*NAMES, *OTHERS) if "-" in name.split("/")[1]})
# KD, KD + DOT, DKD in percent (teacher-student), from the tables of RepDistiller and mdistiller.
PUBLISHED = {
    "tiny_imagenet/ResNet18-MobileNetV2": (58.35, 64.01, None),
    "tiny_imagenet/ResNet18-ShuffleV2": (62.26, 65.75, None),
    "imagenet/ResNet34-ResNet18": (71.03, 71.72, 71.70),
    "imagenet/ResNet50-MobileNetV1": (70.50, 73.09, 72.05),
    "cifar100/resnet32x4-resnet8x4": (73.33, 75.12, 76.32),
    "cifar100/vgg13-vgg8": (72.98, 73.77, 74.68),
    "cifar100/resnet32x4-ShuffleV2": (74.45, 75.55, 77.07),
    "cifar100/wrn_40_2-wrn_16_2": (74.92, None, 76.24),
    "cifar100/wrn_40_2-wrn_40_1": (73.54, None, 74.81),
    "cifar100/resnet56-resnet20": (70.66, None, 71.97),
    "cifar100/resnet110-resnet32": (73.08, None, 74.11),
    "cifar100/resnet110-resnet20": (70.67, None, 71.06),
    "cifar100/resnet32x4-ShuffleV1": (74.07, None, 76.45),
    "cifar100/wrn_40_2-ShuffleV1": (74.83, None, 76.70),
    "cifar100/vgg13-MobileNetV2": (67.37, None, 69.71),
    "cifar100/ResNet50-MobileNetV2": (67.35, None, 70.35),
}
SLOW = ("MobileNetV2", "ShuffleV1", "ShuffleV2")


def test_every_pair_has_every_arm():
    assert sorted(PUBLISHED) == PAIRS
    arms = ("kd", "kd-dot", "kd-control", "dkd", "dkd-dot")
    wanted = {f"{pair}/{arm}" for pair in PAIRS for arm in arms}
    assert wanted == {name for name in (*NAMES, *OTHERS) if name.rpartition("/")[0] in PAIRS}


@pytest.mark.parametrize("pair", PAIRS)
def test_a_pair_names_its_networks_and_its_published_numbers(pair):
    data, _, names = pair.partition("/")
    teacher, student = names.split("-")
    for arm, number in zip(("kd", "kd-dot", "dkd"), PUBLISHED[pair], strict=True):
        recipe = load_recipe(f"{pair}/{arm}")
        assert recipe.data.name == data
        assert recipe.student.model == f"{data}/{student}"
        assert teacher_recipe(recipe).student.model == f"{data}/{teacher}"
        assert (recipe.published.accuracy if recipe.published else None) == number
        assert recipe.published is None or recipe.published.source
    assert load_recipe(f"{pair}/kd-control").published is None


@pytest.mark.parametrize("pair", PAIRS)
def test_every_network_of_a_pair_has_a_plain_recipe(pair):
    data, _, names = pair.partition("/")
    teacher, student = names.split("-")
    for kind, network in (("teacher", teacher), ("plain", student)):
        recipe = load_recipe(f"{data}/{kind}/{network}")
        assert (recipe.student.model, recipe.teacher) == (f"{data}/{network}", None)


@pytest.mark.parametrize("name", OTHERS)
def test_the_settings_of_the_large_sets_are_the_published_ones(name):
    recipe = load_recipe(name)
    data, optimizer, method = recipe.data, recipe.optimizer, recipe.method or {}
    tiny = data.name == "tiny_imagenet"
    assert (data.validation, data.train_images) == (0, 0)
    assert data.batch_size == (256 if tiny else 512)
    assert data.augment == (("rotate:20", "flip") if tiny else ("resized-crop:0.08", "flip"))
    assert recipe.student.mean == ((0.4802, 0.4481, 0.3975) if tiny else (0.485, 0.456, 0.406))
    assert recipe.student.std == ((0.2302, 0.2265, 0.2262) if tiny else (0.229, 0.224, 0.225))
    assert (optimizer.lr, optimizer.momentum, optimizer.weight_decay) == (0.2, 0.9, 5e-4 if tiny else 1e-4)
    if isinstance(optimizer, DOTTable | ControlTable):
        assert optimizer.delta == (0.075 if tiny else 0.09)
    drops = (60, 120, 160) if tiny else (30, 60, 90)
    assert (recipe.schedule.milestones, recipe.schedule.epochs) == (drops, 200 if tiny else 100)
    if method.get("name") == "kd":
        kept = [method[key] for key in ("temperature", "task_weight", "distill_weight")]
        assert kept == ([4.0, 0.1, 0.9] if tiny else [1.0, 0.5, 0.5])
    if method.get("name") == "dkd":
        beta = 8.0 if tiny else 2.0 if "ResNet50" in name else 0.5
        assert (method["alpha"], method["beta"], method["temperature"]) == (1, beta, 4 if tiny else 1)
        assert method["warmup"] * recipe.schedule.epochs == pytest.approx(20 if tiny else 1)


@pytest.mark.parametrize("name", NAMES)
def test_the_settings_are_the_published_ones(name):
    recipe = load_recipe(name)
    data, schedule, optimizer = recipe.data, recipe.schedule, recipe.optimizer
    assert (data.validation, data.batch_size, data.augment, data.train_images) == (0, 64, ("crop-flip:4",), 0)
    assert recipe.student.mean == (0.5071, 0.4867, 0.4408)
    assert recipe.student.std == (0.2675, 0.2565, 0.2761)
    assert optimizer.lr == (0.01 if recipe.student.model.endswith(SLOW) else 0.05)
    assert (optimizer.momentum, optimizer.weight_decay) == (0.9, 5e-4)
    if isinstance(optimizer, DOTTable | ControlTable):
        assert optimizer.delta == 0.075
    factors = [lr_factor(schedule, epoch + 0.5) for epoch in (149, 150, 179, 180, 209, 210, 239)]
    assert factors == pytest.approx([1, 0.1, 0.1, 0.01, 0.01, 0.001, 0.001])
    if recipe.method and recipe.method["name"] == "kd":
        kept = {key: recipe.method[key] for key in ("temperature", "task_weight", "distill_weight")}
        assert kept == {"temperature": 4.0, "task_weight": 0.1, "distill_weight": 0.9}
    if recipe.method and recipe.method["name"] == "dkd":
        pair = name.split("/")[1]
        beta = 2 if pair in ("resnet56-resnet20", "resnet110-resnet32") else 8
        beta = 6 if pair.split("-")[0] in ("vgg13", "wrn_40_2") and not pair.endswith("ShuffleV1") else beta
        assert (recipe.method["alpha"], recipe.method["beta"], recipe.method["temperature"]) == (1, beta, 4)
        assert recipe.method["warmup"] * schedule.epochs == pytest.approx(20)


@pytest.mark.slow
@pytest.mark.parametrize("name", [*NAMES, *OTHERS])
def test_every_recipe_takes_two_steps(name, monkeypatch):
    def fake(table):
        facts = table.facts()
        pixels = torch.randint(0, 256, (4, 3, facts.height, facts.width), dtype=torch.uint8)
        data = ImageData(pixels, torch.arange(4), tuple(map(str, range(facts.num_classes))))
        return Splits(data, None, data)

    monkeypatch.setattr(build, "build_data", fake)
    overrides = ["data.batch_size=2", "run.device=cpu", "run.threads=1"]
    recipe = load_recipe(name, overrides)
    taught_by = teacher_recipe(recipe)
    with torch.random.fork_rng():
        table = taught_by and taught_by.student
        teacher = table and build_model(table.model, table, taught_by.data.facts())
        session = build.build_run(recipe, teacher)
        before = [param.detach().clone() for param in session.params]
        metrics = train_epoch(session)
    assert math.isfinite(metrics["train_task_loss"])
    assert teacher is None or math.isfinite(metrics["train_distill_loss"])
    assert any(not torch.equal(old, new) for old, new in zip(before, session.params, strict=True))
