"""What does not fit together is found before anything is trained, and what a file needs is in the file."""

import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from dotkd.compare import RateSearch, compare
from dotkd.errors import BadInput, RunFailed
from dotkd.models import create_model, load_weights
from dotkd.recipe import load_recipe
from dotkd.runs import TUNING, read_json
from dotkd.train.build import check_recipe
from dotkd.train.loop import train
from dotkd.train.networks import build_model, build_teacher, load_student
from dotkd.train.teacher import teacher_recipe

SHORT = ["schedule.epochs=1", "student.model=small/cnn4"]


def folder_of_images(root, classes=("a", "b", "c")):
    rng = np.random.default_rng(0)
    for part, count in (("train", 8), ("test", 3)):
        for name in classes:
            (root / part / name).mkdir(parents=True)
            for number in range(count):
                pixels = rng.integers(0, 255, (10 + number, 12, 3)).astype(np.uint8)
                Image.fromarray(pixels).save(root / part / name / f"{number}.png")
    return root


def of_folder(root, *more):
    given = [
        f"data.root={root}",
        "data.name=folder",
        "data.image_size=8",
        "data.validation=0",
        "data.batch_size=8",
    ]
    return load_recipe("quick/digits-plain", [*given, "data.label_noise=0", *SHORT, *more])


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (["method.name=at", "student.stages=['nope']"], "no submodule 'nope'"),
        (["method.name=fitnet", "method.stage=9"], "stage must be at most 1"),
        (["method.name=dkd", "data.augment=mixup"], "mixes images, and DKD reads the class or the number"),
        (["method.name=crd", "data.augment=cutmix"], "mixes images, and CRD reads the class or the number"),
        (["method.name=dist", "method.temperature=-1.0"], "temperature must be a finite number > 0, got -1"),
        (
            ["method.name=mlkd", "method.temperatures=[]"],
            "temperatures must be a list of at least one number",
        ),
        (["method.name=pkt", "method.eps=0.0"], "eps must be a finite number > 0"),
        (["method.name=kdsvd", "method.k=0"], "k must be"),
    ],
)
def test_a_method_that_does_not_fit_is_refused_before_its_teacher_is_trained(given, says, tmp_path):
    recipe = load_recipe("quick/digits-kd", [*SHORT, *given])
    with pytest.raises(BadInput, match=says):
        check_recipe(recipe)
    with pytest.raises(BadInput, match=says):
        compare([recipe], 1, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_batch_norm_of_a_learned_part_counts_for_the_last_batch():
    given = ["student.model=small/mlp32", "method.name=reviewkd", "data.batch_size=109"]
    with pytest.raises(BadInput, match=r"data\.batch_size: 109 leaves one of 1200 images"):
        check_recipe(load_recipe("quick/digits-kd", given))


def test_a_student_of_a_folder_needs_no_folder_afterwards(tmp_path):
    root = folder_of_images(tmp_path / "images")
    train(of_folder(root), tmp_path / "run")
    shutil.move(root, tmp_path / "moved")
    student, recipe = load_student(tmp_path / "run")
    assert student(torch.rand(2, 3, 8, 8)).shape == (2, 3)
    assert recipe.data.root == str(root)
    taught = of_folder(tmp_path / "moved").model_dump(exclude_none=True)
    assert (
        build_teacher(of_folder(tmp_path / "moved"), tmp_path / "run" / "student.safetensors").training
        is False
    )
    assert taught["data"]["image_size"] == 8


def test_a_teacher_sees_images_of_the_student_s_form(tmp_path):
    root = folder_of_images(tmp_path / "images")
    plain = tmp_path / "teacher.toml"
    data = '[data]\nname = "folder"\nroot = "images"\nimage_size = 16\nlabel_noise = 0.0\n'
    plain.write_text(f'extends = "quick/digits-teacher"\n{data}')
    given = ["method.name=kd", f"teacher.recipe={plain}"]
    recipe = of_folder(root, *given)
    assert teacher_recipe(recipe).data.image_size == 8


def test_a_published_teacher_says_how_its_images_were_normalised(tmp_path):
    torch.save({"model": create_model("cifar100/resnet8", 100).state_dict()}, tmp_path / "t.pth")
    given = [f"teacher.checkpoint={tmp_path / 't.pth'}", "teacher.model=cifar100/resnet8"]
    with pytest.raises(BadInput, match=r"teacher\.mean and teacher\.std are missing: .*0\.5071"):
        load_recipe("cifar100/resnet32x4-resnet8x4/kd-dot", given)
    given += ["teacher.mean=[0.4,0.4,0.4]", "teacher.std=[0.2,0.2,0.2]"]
    recipe = load_recipe("cifar100/resnet32x4-resnet8x4/kd-dot", given)
    teacher = build_teacher(recipe, tmp_path / "t.pth")
    assert teacher.mean.flatten().tolist() == pytest.approx([0.4] * 3)


def test_weights_of_a_model_from_outside_fit_as_its_own_library_saves_them(tmp_path, monkeypatch):
    (tmp_path / "theirnet.py").write_text(
        "import torch\n\n\ndef make(num_classes):\n"
        "    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, num_classes))\n"
    )
    monkeypatch.chdir(tmp_path)
    model = create_model("theirnet:make", 10, image_shape=(1, 8, 8))
    torch.save(model.model.state_dict(), "own.pth")
    torch.save(model.state_dict(), "ours.pth")
    for name in ("own.pth", "ours.pth"):
        other = create_model("theirnet:make", 10, image_shape=(1, 8, 8))
        load_weights(other, name)
        assert torch.equal(other.model[1].weight, model.model[1].weight)
    torch.save({"else": torch.zeros(1)}, "else.pth")
    with pytest.raises(BadInput, match=r"does not fit theirnet:make: missing: 1\.weight"):
        load_weights(model, "else.pth")


@pytest.mark.slow
def test_a_pretrained_model_teaches_by_its_name_alone(tmp_path, monkeypatch):
    from dotkd.models import registry

    made = []

    def outside(name, num_classes, **options):
        made.append((name, options["pretrained"]))
        return create_model("small/cnn8", num_classes, image_shape=options["image_shape"])

    monkeypatch.setattr(registry, "create_external", outside)
    recipe = load_recipe(
        "quick/digits-kd-dot", [*SHORT, "teacher.model=timm:resnet18@pretrained", "teacher.verify=false"]
    )
    assert (recipe.teacher.recipe, recipe.teacher.checkpoint) == (None, None)
    check_recipe(recipe)
    train(recipe, tmp_path / "run")
    assert set(made) == {("timm:resnet18@pretrained", True)}
    with pytest.raises(BadInput, match="exactly one of the keys 'recipe' and 'checkpoint'"):
        load_recipe("quick/digits-plain", ["teacher.model=small/cnn8", "method.name=kd"])


@pytest.mark.slow
def test_only_divergence_takes_a_rate_out(tmp_path, monkeypatch):
    from dotkd.compare import jobs

    def dies(*_args, **_options):
        raise RunFailed("a worker that decodes images has died")

    monkeypatch.setattr(jobs, "train", dies)
    with pytest.raises(RunFailed, match="a worker that decodes images has died"):
        compare(
            [load_recipe("quick/digits-plain", SHORT)], 1, tmp_path / "out", search=RateSearch((0.05,), 1)
        )


@pytest.mark.slow
def test_trials_of_a_rate_do_not_read_the_test_images(tmp_path):
    compare([load_recipe("quick/digits-plain", SHORT)], 1, tmp_path / "out", search=RateSearch((0.05,), 1))
    assert read_json(tmp_path / "out" / TUNING)["arms"]["plain"]["chosen"] == 0.05
    (trial,) = (tmp_path / "out" / "tuning").rglob("results.json")
    assert read_json(trial)["last"]["test_accuracy"] is None
    assert read_json(trial)["best"] is None


def test_a_published_number_is_for_the_recipe_as_it_is():
    name = "cifar100/resnet32x4-resnet8x4/kd-dot"
    for kept in ("run.seed=3", "data.root=elsewhere", "run.device=cpu"):
        assert load_recipe(name, [kept]).published.accuracy == 75.12
    for changed in ("method.name=crd", "optimizer.lr=0.1", "data.train_images=100", "schedule.epochs=241"):
        assert load_recipe(name, [changed]).published is None


def test_a_student_from_outside_keeps_its_own_normalisation():
    recipe = load_recipe("cifar100/plain/resnet20", ["student.model=timm:resnet18"])
    assert recipe.student.mean == ()
    given = ["student.model=timm:resnet18", "student.mean=[0.1,0.1,0.1]", "student.std=[1.0,1.0,1.0]"]
    assert load_recipe("cifar100/plain/resnet20", given).student.mean == (0.1, 0.1, 0.1)


@pytest.mark.slow
def test_learned_parts_follow_the_networks_to_their_type():
    from dotkd import Distiller

    student, teacher = (
        create_model(f"small/cnn{width}", 10, image_shape=(1, 8, 8)).double() for width in (4, 8)
    )
    images, labels = torch.rand(4, 1, 8, 8, dtype=torch.float64), torch.arange(4)
    for name in ("vid", "ofd", "reviewkd", "simkd", "fitnet"):
        distiller = Distiller(student, teacher, name, example=images)
        assert {p.dtype for p in distiller.method.parameters()} == {torch.float64}
        assert distiller(images, labels).raw_distill.isfinite()


def test_a_network_for_data_is_made_without_opening_them():
    from dotkd.data import DataFacts

    recipe = load_recipe("quick/digits-plain")
    model = build_model("small/cnn4", recipe.student, DataFacts(3, 8, 8, 7, 1, 1))
    assert isinstance(model, nn.Module)
    assert model(torch.rand(2, 3, 8, 8)).shape == (2, 7)
