"""A teacher before it teaches: what it knows, its classifier, the size of its images, its classes."""

import json
import math
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from torch import nn
from torch.nn.functional import interpolate, one_hot

from dotkd import Distiller
from dotkd.compare import arms
from dotkd.data import ImageData, Splits
from dotkd.errors import BadInput
from dotkd.methods import KD
from dotkd.models import create_model
from dotkd.recipe import load_recipe
from dotkd.runs import ENVIRONMENT, METRICS, STUDENT, read_json, read_run
from dotkd.train import evaluate, loop
from dotkd.train.build import build_data, build_run, check_recipe
from dotkd.train.loop import provide_teacher, train
from dotkd.train.networks import build_teacher, load_student
from dotkd.train.scores import score
from dotkd.train.teacher import ask_teacher

SHORT = ["schedule.epochs=1", "student.model=small/cnn4", "data.label_noise=0"]
PRETRAINED = "hf:{}@pretrained"


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    """A run of small/cnn8 that knows the digits."""
    folder = tmp_path_factory.mktemp("teacher") / "run"
    given = ["student.model=small/cnn8", "schedule.epochs=4", "data.label_noise=0"]
    train(load_recipe("quick/digits-teacher", given), folder)
    return folder


def taught_by(path, *more, method="kd"):
    given = [f"teacher.checkpoint={path}", "teacher.model=small/cnn8", f"method.name={method}"]
    return load_recipe("quick/digits-kd", [*SHORT, *given, *more])


def changed(teacher, folder, kind):
    """A file of a teacher of which something is wrong."""
    network = load_student(teacher)[0]
    with torch.no_grad():
        if kind == "untrained":
            torch.manual_seed(0)
            network = create_model("small/cnn8", 10, image_shape=(1, 8, 8))
        elif kind == "classes in another order":
            network.fc.weight.copy_(network.fc.weight.roll(1, 0))
            network.fc.bias.copy_(network.fc.bias.roll(1, 0))
        elif kind == "no numbers":
            network.fc.weight[3] = math.nan
        elif kind == "a masked class":
            network.fc.bias[3] = -math.inf
    torch.save(network.state_dict(), folder / "teacher.pth")
    return folder / "teacher.pth"


# ---------------------------------------------------------------- asked


@pytest.mark.parametrize("validation", [200, 0])
def test_its_accuracy_is_recorded(teacher, tmp_path, validation):
    recipe = load_recipe(
        "quick/digits-kd",
        [*SHORT, f"teacher.checkpoint={teacher / STUDENT}", f"data.validation={validation}"],
    )
    seen = []
    train(recipe, tmp_path / "run", on_teacher=seen.append)
    found = read_json(tmp_path / "run" / ENVIRONMENT)["teacher"]
    assert found == seen[0].model_dump()
    data = build_data(recipe.data)
    asked = data.validation or data.train.subset(torch.arange(1000) * 1400 // 1000)
    assert found["accuracy"] == pytest.approx(score(load_student(teacher)[0], asked).accuracy)
    assert found["accuracy"] > 0.6
    answers = load_student(teacher)[0](asked.batch(range(len(asked))).images).argmax(dim=1)
    shares = [labels.bincount(minlength=10) / len(asked) for labels in (answers, asked.labels)]
    assert found["chance"] == pytest.approx(float(shares[0] @ shares[1]))
    assert (found["split"], found["images"]) == (("validation", 200) if validation else ("train", 1000))


@pytest.mark.parametrize("kind", ["untrained", "classes in another order", "no numbers"])
def test_a_teacher_that_knows_nothing_is_refused(teacher, tmp_path, kind):
    file = changed(teacher, tmp_path, kind)
    says = "logits are not finite" if kind == "no numbers" else r"right for \d+\.\d % of 200 validation"
    with pytest.raises(BadInput, match=says) as caught:
        train(taught_by(file), tmp_path / "run")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("kind", "method", "more"),
    [
        ("untrained", "kd", ["teacher.verify=false"]),
        ("untrained", "rkd", []),
        ("a masked class", "kd", []),
        ("no numbers", "kd", ["teacher.verify=false"]),
        ("no numbers", "rkd", []),
        ("untrained", "simkd", []),
    ],
)
def test_what_a_method_needs_to_know(teacher, tmp_path, kind, method, more):
    recipe = taught_by(changed(teacher, tmp_path, kind), *more, method=method)
    prepared = check_recipe(recipe)
    if kind == "no numbers" or method == "simkd":
        with pytest.raises(BadInput, match=r"finite|right for"):
            ask_teacher(recipe, prepared.distiller, prepared.data)
        return
    found = ask_teacher(recipe, prepared.distiller, prepared.data)
    assert (found.accuracy > 0.5) == (kind != "untrained")


def test_a_teacher_of_other_outputs_has_no_accuracy(tmp_path):
    torch.manual_seed(0)
    recipe = load_recipe(
        "quick/digits-kd", [*SHORT, "method.name=rkd", "teacher.recipe=quick/digits-teacher"]
    )
    prepared = check_recipe(recipe, create_model("small/cnn8", 7, image_shape=(1, 8, 8)))
    assert ask_teacher(recipe, prepared.distiller, prepared.data).accuracy is None


class Answers(nn.Module):
    """Says the class that each 8 x 8 image has in its first pixel, or its mirror image, or always 0."""

    def __init__(self, kind):
        super().__init__()
        self.kind, self.scale = kind, nn.Parameter(torch.ones(()))

    def forward(self, images):
        told = (images[:, 0, 0, 0] * 255).round().long()
        said = {"perfect": told, "swapped": 1 - told, "constant": torch.zeros_like(told)}[self.kind]
        return 9 * self.scale * one_hot(said, 2).float()


def asked_of(kind, labels, known=True):
    """What a teacher of two classes is found to know on images of these labels."""
    labels = torch.tensor(labels)
    pixels = labels.to(torch.uint8).reshape(-1, 1, 1, 1).expand(-1, 1, 8, 8).contiguous()
    images = ImageData(pixels, labels if known else torch.full_like(labels, -100), ("a", "b"))
    recipe = load_recipe("quick/digits-kd", ["data.label_noise=0"])
    distiller = Distiller(create_model("small/cnn4", 2, image_shape=(1, 8, 8)), Answers(kind), KD())
    return ask_teacher(recipe, distiller, Splits(images, None, images))


@pytest.mark.parametrize("labels", [[0, 0, 0, 1, 1, 1], [0] * 40, [0] * 95 + [1] * 5, [0] * 990 + [1] * 10])
def test_a_perfect_teacher_is_never_refused(labels):
    ones = sum(labels) / len(labels)
    found = asked_of("perfect", labels)
    assert (found.accuracy, found.images) == (1, len(labels))
    assert found.chance == pytest.approx(ones**2 + (1 - ones) ** 2)


@pytest.mark.parametrize("kind", ["constant", "swapped"])
@pytest.mark.parametrize("labels", [[0, 1] * 8, [0] * 95 + [1] * 5, [0] * 990 + [1] * 10])
def test_chance_is_no_knowledge(kind, labels):
    with pytest.raises(BadInput, match="chance"):
        asked_of(kind, labels)


def test_no_teacher_is_refused_where_a_perfect_one_would_be():
    assert asked_of("constant", [0, 0, 0, 1, 1, 1]).accuracy == 0.5
    assert asked_of("swapped", [0] * 40).accuracy == 0


def test_images_without_labels_are_asked_for_finite_outputs():
    found = asked_of("constant", [0, 1] * 20, known=False)
    assert (found.accuracy, found.chance, found.images) == (None, None, 40)


def test_label_noise_is_none_of_the_teachers(teacher):
    def found(noise):
        given = ["data.validation=0", f"data.label_noise={noise}"]
        recipe = taught_by(teacher / STUDENT, *given)
        prepared = check_recipe(recipe)
        return ask_teacher(recipe, prepared.distiller, prepared.data)

    assert found(0.95) == found(0)


@pytest.mark.slow
def test_a_comparison_asks_each_teacher_once(teacher, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(arms, "ask_teacher", lambda recipe, *_: asked.append(recipe.name))
    same = changed(teacher, tmp_path, "none")
    (tmp_path / "copy.pth").write_bytes(same.read_bytes())
    files = [same, tmp_path / "copy.pth", teacher / STUDENT]
    arms.check_arms([taught_by(file, f"name=t{number}") for number, file in enumerate(files)])
    assert asked == ["t0", "t2"]


@pytest.mark.slow
def test_a_weak_teacher_of_a_recipe_is_refused_after_its_training(tmp_path):
    weak = tmp_path / "weak.toml"
    weak.write_text('extends = "quick/digits-teacher"\n[optimizer]\nlr = 0.0\n[schedule]\nepochs = 1\n')
    given = [*SHORT, f"teacher.recipe={weak}"]
    with pytest.raises(BadInput, match=r"right for .* teacher\.verify = false"):
        train(load_recipe("quick/digits-kd", given), tmp_path / "run")
    train(load_recipe("quick/digits-kd", [*given, "teacher.verify=false"]), tmp_path / "run")


def test_the_question_changes_nothing(teacher, tmp_path, monkeypatch):
    recipe = load_recipe("quick/digits-kd-dot", [*SHORT, f"teacher.checkpoint={teacher / STUDENT}"])
    train(recipe, tmp_path / "asked")
    monkeypatch.setattr(loop, "ask_teacher", lambda *_: None)
    train(recipe, tmp_path / "not")
    files = [tmp_path / name / STUDENT for name in ("asked", "not")]
    assert files[0].read_bytes() == files[1].read_bytes()
    lines = [json.loads((tmp_path / name / METRICS).read_text()) for name in ("asked", "not")]
    assert {**lines[0], "seconds": 0} == {**lines[1], "seconds": 0}


# ---------------------------------------------------------------- its classifier


@pytest.fixture
def pretrained(hf_folder):
    """A folder of transformers for 10 classes, with a preprocessor."""
    normalisation = {"image_mean": [0.5], "image_std": [0.25]}
    size = {"image_processor_type": "ViTImageProcessor", "size": {"height": 16, "width": 16}}
    settings = {**normalisation, **size}
    (hf_folder / "preprocessor_config.json").write_text(json.dumps(settings))
    return hf_folder


def seven_classes(folder):
    """Make the weights of a folder those of seven classes."""
    from transformers import ResNetForImageClassification

    ResNetForImageClassification.from_pretrained(
        folder, num_labels=7, ignore_mismatched_sizes=True
    ).save_pretrained(folder)
    return PRETRAINED.format(folder)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["kd", "simkd"])
def test_a_random_classifier_is_not_read(pretrained, method):
    given = [f"teacher.model={seven_classes(pretrained)}", f"method.name={method}"]
    with pytest.raises(BadInput, match=rf"new classifier is random, and method '{method}'"):
        check_recipe(load_recipe("quick/digits-kd", [*SHORT, *given]))


@pytest.mark.slow
def test_a_random_classifier_that_is_not_read_is_the_same_each_time(pretrained, tmp_path):
    given = [f"teacher.model={seven_classes(pretrained)}", "method.name=rkd"]
    recipe = load_recipe("quick/digits-kd", [*SHORT, *given])
    for number, name in enumerate(("one", "two")):
        torch.manual_seed(number)
        train(recipe, tmp_path / name)
    assert (tmp_path / "one" / STUDENT).read_bytes() == (tmp_path / "two" / STUDENT).read_bytes()
    environments = [read_json(tmp_path / name / ENVIRONMENT) for name in ("one", "two")]
    assert environments[0]["teacher_head_checksum"] == environments[1]["teacher_head_checksum"]


@pytest.mark.parametrize("role", ["student", "teacher"])
def test_weights_of_other_classes_are_loaded_without_their_classifier(tmp_path, role):
    other = create_model("small/cnn8", 7, image_shape=(1, 8, 8))
    torch.save(other.state_dict(), tmp_path / "seven.pth")
    given = [f"{role}.checkpoint={tmp_path / 'seven.pth'}", f"{role}.model=small/cnn8"]
    given += ["method.name=rkd"] if role == "teacher" else []
    name = "quick/digits-kd" if role == "teacher" else "quick/digits-plain"
    with pytest.raises(BadInput, match=r"fc\.weight"):
        check_recipe(load_recipe(name, given))
    network = getattr(check_recipe(load_recipe(name, [*given, f"{role}.new_head=true"])).distiller, role)
    assert torch.equal(network.stages[0][0].weight.cpu(), other.stages[0][0].weight)
    assert network.fc.weight.shape[0] == 10
    if role == "teacher":
        with pytest.raises(BadInput, match="is random, and method 'kd'"):
            check_recipe(load_recipe(name, [*given, "method.name=kd", "teacher.new_head=true"]))


# ---------------------------------------------------------------- the size of its images


@pytest.mark.slow
def test_a_model_of_transformers_sees_the_size_and_the_normalisation_of_its_training(pretrained):
    recipe = load_recipe("quick/digits-kd", [*SHORT, f"teacher.model={PRETRAINED.format(pretrained)}"])
    teacher, images = build_teacher(recipe, None), torch.rand(4, 1, 8, 8)
    large = interpolate(images, (16, 16), mode="bilinear", antialias=True)
    wanted = teacher.model((large - 0.5) / 0.25).logits
    torch.testing.assert_close(teacher(images), wanted)


def test_a_run_of_another_image_size_teaches_and_is_measured_at_its_own(tmp_path):
    root = colours(tmp_path / "images", ("blue", "green", "red"))
    train(of_colours(root, "data.image_size=16"), tmp_path / "run")
    network, images = load_student(tmp_path / "run")[0], torch.rand(3, 3, 8, 8)
    large = interpolate(images, (16, 16), mode="bilinear", antialias=True)
    assert torch.equal(network(images), network(large))
    for more, side in (([], 16), (["teacher.image_size=12"], 12)):
        given = [f"teacher.checkpoint={tmp_path / 'run' / STUDENT}", "method.name=kd", *more]
        teacher = check_recipe(of_colours(root, "data.image_size=8", *given)).distiller.teacher
        sized = interpolate(images, (side, side), mode="bilinear", antialias=True)
        torch.testing.assert_close(teacher(images), network.eval().fc(network.pool(network.stages(sized))))


def test_a_size_for_a_published_file(teacher, tmp_path):
    file = changed(teacher, tmp_path, "nothing")
    built, images = build_teacher(taught_by(file, "teacher.image_size=8"), file), torch.rand(2, 1, 12, 12)
    small = interpolate(images, (8, 8), mode="bilinear", antialias=True)
    torch.testing.assert_close(built(images), load_student(teacher)[0](small))
    with pytest.raises(BadInput, match="image_size goes with 'checkpoint' or 'model'"):
        load_recipe("quick/digits-kd", ["teacher.image_size=8"])


# ---------------------------------------------------------------- its classes

COLOURS = {"red": (200, 30, 30), "green": (30, 200, 30), "blue": (30, 30, 200)}


def colours(root, classes, names=None):
    """Folders of images of plain colours, 16x16, each class under a name of its own."""
    rng = np.random.default_rng(0)
    for part, count in (("train", 24), ("test", 8)):
        for colour, name in zip(classes, names or classes, strict=True):
            (root / part / name).mkdir(parents=True)
            for number in range(count):
                pixels = np.array(COLOURS[colour]) + rng.normal(0, 20, (16, 16, 3))
                Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(
                    root / part / name / f"{number}.png"
                )
    return root


def of_colours(root, *more):
    given = [f"data.root={root}", "data.name=folder", "data.validation=0", "data.label_noise=0"]
    given += ["data.batch_size=8", "optimizer.lr=0.05", "schedule.epochs=3", "student.model=small/cnn8"]
    return load_recipe("quick/digits-plain", [*given, *more])


@pytest.fixture(scope="module")
def painter(tmp_path_factory):
    """A run that knows the three colours, and the folder of its images."""
    folder = tmp_path_factory.mktemp("colours")
    train(of_colours(colours(folder / "images", ("blue", "green", "red"))), folder / "run")
    assert read_run(folder / "run").results.last.test_accuracy == 1.0
    return folder


def test_class_names_are_stored_with_every_student(painter, tmp_path):
    run, classes = painter / "run", ["blue", "green", "red"]
    assert read_json(run / ENVIRONMENT)["made_for"]["classes"] == classes
    with safe_open(run / STUDENT, "pt") as file:
        assert 'classes = [\n    "blue",\n    "green",\n    "red",\n]' in file.metadata()["recipe"]


@pytest.mark.parametrize("file", ["student.safetensors", "checkpoints/last.pt"])
def test_evaluate_compares_class_names(painter, tmp_path, file):
    source = painter / "run" / file
    assert (
        evaluate(source, root=str(colours(tmp_path / "same", ("red", "blue", "green")))).scores.accuracy == 1
    )
    upper = colours(tmp_path / "upper", ("red", "blue", "green"), ("Red", "blue", "green"))  # Red comes first
    assert evaluate(source, root=str(upper)).scores.accuracy == 1
    renamed = colours(tmp_path / "other", ("red", "green", "blue"), ("a_red", "b_green", "c_blue"))
    other = evaluate(source, root=str(renamed))
    for name in ("blue", "green", "red", "a_red", "b_green", "c_blue"):
        assert repr(name) in other.warning
    assert other.scores.accuracy == pytest.approx(1 / 3)  # only green has the same number
    assert "\n" not in other.warning
    numbers = evaluate(source, root=str(colours(tmp_path / "numbers", ("blue", "green", "red"), "012")))
    assert (numbers.scores.accuracy, numbers.warning) == (1, "")
    with pytest.raises(BadInput, match=r"\(3: 'red'\) .* \(2: 'blue', 'green'\)"):
        evaluate(source, root=str(colours(tmp_path / "two", ("blue", "green"))))


def test_evaluate_reads_the_test_images_alone(painter, tmp_path):
    train(of_colours(painter / "images", "data.validation=6", "schedule.epochs=1"), tmp_path / "run")
    root = colours(tmp_path / "with_val", ("blue", "green", "red"))
    shutil.copytree(root / "test", root / "val")
    for file in root.glob("val/*/*.png"):
        Image.open(file).transpose(Image.Transpose.ROTATE_180).save(file)  # of other content
    found = evaluate(tmp_path / "run", root=str(root))
    assert found.images == 24
    assert found.scores.accuracy == read_run(tmp_path / "run").results.last.test_accuracy


@pytest.mark.parametrize("method", ["kd", "simkd"])
def test_a_teacher_with_its_classes_in_another_order(painter, tmp_path, method):
    root = colours(tmp_path / "upper", ("red", "blue", "green"), ("Red", "blue", "green"))
    given = [f"teacher.checkpoint={painter / 'run' / STUDENT}", f"method.name={method}"]
    train(of_colours(root, *given), tmp_path / "run")
    assert read_json(tmp_path / "run" / ENVIRONMENT)["teacher"]["accuracy"] == 1
    assert read_run(tmp_path / "run").results.last.test_accuracy == 1


def test_a_teacher_of_other_classes(painter, tmp_path):
    root = colours(tmp_path / "other", ("red", "green", "blue"), ("a_red", "b_green", "c_blue"))
    given = [f"teacher.checkpoint={painter / 'run' / STUDENT}", "method.name=kd"]
    with pytest.raises(BadInput, match=r"teacher: .*'blue', .*'a_red', .*teacher\.verify = false"):
        check_recipe(of_colours(root, *given))
    check_recipe(of_colours(root, *given, "teacher.verify=false"))
    check_recipe(of_colours(root, *given, "method.name=rkd"))


@pytest.mark.slow
def test_the_labels_of_a_model_of_transformers_are_its_class_names(pretrained, tmp_path):
    config = json.loads((pretrained / "config.json").read_text())
    order = [3, 1, 4, 0, 5, 9, 2, 6, 8, 7]
    config["id2label"] = {str(number): str(digit) for number, digit in enumerate(order)}
    recipe = load_recipe("quick/digits-kd", [*SHORT, f"teacher.model={PRETRAINED.format(pretrained)}"])
    before, images = build_teacher(recipe, None), torch.rand(4, 1, 8, 8)
    assert all(name.startswith("LABEL_") for name in before.class_names)
    (pretrained / "config.json").write_text(json.dumps(config))
    teacher = check_recipe(recipe).distiller.teacher
    torch.testing.assert_close(
        teacher(images), before(images)[:, [order.index(digit) for digit in range(10)]]
    )


# ---------------------------------------------------------------- a folder without normalisation


@pytest.mark.slow
def test_weights_without_normalisation(hf_folder, tmp_path):
    given = [*SHORT, f"teacher.model={PRETRAINED.format(hf_folder)}"]
    with pytest.raises(BadInput, match=r"no preprocessor_config\.json"):
        check_recipe(load_recipe("quick/digits-kd", given))
    known = load_recipe("quick/digits-kd", [*given, "teacher.mean=[0.5]", "teacher.std=[0.1]"])
    assert check_recipe(known).distiller.teacher.mean.item() == 0.5
    student = load_recipe("quick/digits-plain", [*SHORT, f"student.model={PRETRAINED.format(hf_folder)}"])
    results = train(student, tmp_path / "run")
    pixels = build_data(student.data).train.batch(range(1000)).images
    stored = read_json(tmp_path / "run" / ENVIRONMENT)["made_for"]
    assert stored["mean"] == pytest.approx([pixels.mean().item()], abs=0.01)
    assert stored["std"] == pytest.approx([pixels.std().item()], abs=0.01)
    assert load_student(tmp_path / "run")[0].mean.item() == pytest.approx(stored["mean"][0])
    assert evaluate(tmp_path / "run").scores.accuracy == pytest.approx(results.last.test_accuracy)


def test_a_teacher_of_the_run_itself_keeps_what_its_file_says(tmp_path):
    """Trained first, or found trained: the same teacher, with its normalisation and its class names."""
    short = tmp_path / "teacher.toml"
    short.write_text(
        'extends = "quick/digits-teacher"\n[student]\nmodel = "small/mlp16"\nmean = [0.3]\nstd = [0.4]\n'
        "[schedule]\nepochs = 1\n"
    )
    recipe = load_recipe("quick/digits-kd", [f"teacher.recipe={short}", "student.model=small/mlp16"])
    file = provide_teacher(recipe, tmp_path / "teacher")
    prepared = check_recipe(recipe)
    prepared.load_teacher(file)
    teachers = [prepared.distiller.teacher, build_run(recipe, file).distiller.teacher]
    described = [(one.class_names, one.made_for, one.mean.tolist(), one.std.tolist()) for one in teachers]
    assert described[0] == described[1]
    assert described[0][0] == prepared.data.train.classes
    assert described[0][1] is not None
