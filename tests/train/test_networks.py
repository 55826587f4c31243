"""Weights from files: student files, checkpoints and published files, and their recipes."""

import pytest
import torch

from dotkd.errors import BadInput
from dotkd.models import create_model
from dotkd.recipe import load_recipe, recipe_text
from dotkd.recipe.load import make_recipe
from dotkd.runs import read_run
from dotkd.train import evaluate
from dotkd.train.loop import train
from dotkd.train.networks import build_student, build_teacher, load_student

SHORT = ["schedule.epochs=3", "student.model=small/mlp16"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("networks") / "run"
    train(load_recipe("quick/digits-plain", [*SHORT, "optimizer.lr=0.5"]), folder)
    return folder


def test_a_checkpoint_of_a_run_is_known_by_its_folder(run):
    last, recipe = load_student(run / "checkpoints" / "last.pt")
    whole = load_student(run)
    assert recipe_text(recipe) == recipe_text(whole[1])
    assert all(torch.equal(value, whole[0].state_dict()[key]) for key, value in last.state_dict().items())


def test_the_best_epoch_can_be_measured(run):
    best = read_run(run).results.best.model_dump()
    quality, images, *_ = evaluate(run / "checkpoints" / "best.pt")
    assert images == 397
    assert quality.accuracy == pytest.approx(best["test_accuracy"])
    assert quality.loss == pytest.approx(best["test_loss"])


def test_a_checkpoint_away_from_its_run_needs_its_recipe(run, tmp_path):
    moved = tmp_path / "best.pt"
    moved.write_bytes((run / "checkpoints" / "best.pt").read_bytes())
    with pytest.raises(BadInput, match=r"best\.pt: has no recipe in it; .*--recipe"):
        load_student(moved)
    found = load_student(moved, load_recipe("quick/digits-plain", SHORT))[0]
    kept = load_student(run / "checkpoints" / "best.pt")[0]
    assert torch.equal(found.fc.weight, kept.fc.weight)


@pytest.mark.parametrize("wrap", [lambda w: w, lambda w: {"model": w, "epoch": 240, "best_acc": 0.7}])
def test_a_published_file_is_measured_as_the_student_of_a_recipe(run, tmp_path, wrap):
    student, recipe = load_student(run)
    torch.save(wrap(student.state_dict()), tmp_path / "net.pth")
    quality, _, named, _ = evaluate(tmp_path / "net.pth", recipe)
    assert quality == evaluate(run)[0]
    assert named.name == recipe.name
    with pytest.raises(BadInput, match=r"net\.pth: does not fit MLP: .*other shape"):
        evaluate(tmp_path / "net.pth", load_recipe("quick/digits-teacher"))


def test_a_function_of_the_user_makes_the_model_when_the_user_gives_the_recipe(tmp_path, monkeypatch):
    (tmp_path / "ournet.py").write_text(
        "import torch\n\n\ndef make(num_classes):\n"
        "    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, num_classes))\n"
    )
    monkeypatch.chdir(tmp_path)
    recipe = load_recipe("quick/digits-plain", ["schedule.epochs=1", "student.model=ournet:make"])
    train(recipe, tmp_path / "run")
    with pytest.raises(BadInput, match=r"is not run: .*--recipe"):
        evaluate(tmp_path / "run")
    assert evaluate(tmp_path / "run", recipe)[0].accuracy == pytest.approx(
        read_run(tmp_path / "run").results.last.test_accuracy
    )


def test_a_recipe_beside_a_checkpoint_does_not_decide_what_code_is_run(run, tmp_path):
    recipe = load_recipe("quick/digits-plain", SHORT)
    raw = recipe.model_dump(exclude_none=True)
    raw["student"]["model"] = "os:getcwd"
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "recipe.toml").write_text(recipe_text(make_recipe(raw, "a stranger")))
    (tmp_path / "checkpoints" / "last.pt").write_bytes((run / "checkpoints" / "last.pt").read_bytes())
    with pytest.raises(BadInput, match="made by the function 'os:getcwd'"):
        load_student(tmp_path / "checkpoints" / "last.pt")


@pytest.fixture(scope="module")
def two_sets(tmp_path_factory):
    """A file with plain weights and their average, and both networks."""
    nets = [create_model("small/mlp16", 10, image_shape=(1, 8, 8)) for _ in range(2)]
    path = tmp_path_factory.mktemp("weights") / "net.pth"
    torch.save({"model": nets[0].state_dict(), "ema": nets[1].state_dict(), "epoch": 3}, path)
    return path, *nets


def test_a_recipe_chooses_among_the_weights_of_a_file(two_sets):
    path, plain, average = two_sets
    start = [*SHORT, f"student.checkpoint={path}"]
    with pytest.warns(UserWarning, match="took the weights 'model'; checkpoint_key = 'ema'"):
        student = build_student(load_recipe("quick/digits-plain", start))
    assert torch.equal(student.fc.weight, plain.fc.weight)
    chosen = load_recipe("quick/digits-plain", [*start, "student.checkpoint_key=ema"])
    assert torch.equal(build_student(chosen).fc.weight, average.fc.weight)
    assert torch.equal(load_student(path, chosen)[0].fc.weight, average.fc.weight)
    given = ["teacher.model=small/mlp16", f"teacher.checkpoint={path}", "teacher.checkpoint_key=ema"]
    taught = load_recipe("quick/digits-kd", given)
    assert torch.equal(build_teacher(taught, path).fc.weight, average.fc.weight)


def test_the_key_of_a_start_does_not_choose_in_the_runs_own_files(two_sets, tmp_path):
    path, _, average = two_sets
    start = [*SHORT, "schedule.epochs=1", f"student.checkpoint={path}", "student.checkpoint_key=ema"]
    recipe = load_recipe("quick/digits-plain", [*start, "optimizer.lr=1e-9"])
    train(recipe, tmp_path / "run")
    for file in ("", "checkpoints/last.pt"):
        student = load_student(tmp_path / "run" / file, recipe)[0]
        torch.testing.assert_close(student.fc.weight, average.fc.weight)


@pytest.mark.parametrize("table", ["student", "teacher"])
def test_a_key_without_its_file_is_refused(table):
    with pytest.raises(BadInput, match=rf"{table}: checkpoint_key goes with"):
        load_recipe("quick/digits-kd", [f"{table}.checkpoint_key=ema"])


def test_another_file_or_network_does_not_keep_the_key(tmp_path):
    base = tmp_path / "base.toml"
    base.write_text(
        'extends = "quick/digits-plain"\n[student]\ncheckpoint = "a.pth"\ncheckpoint_key = "ema"\n'
    )
    assert load_recipe(base).student.checkpoint_key == "ema"
    for change in ("student.checkpoint=b.pth", "student.model=small/mlp64"):
        assert load_recipe(base, [change]).student.checkpoint_key is None


SHARING = {  # and how many tensors of the student have no memory of their own
    "one_weight_in_two_layers": ("net[3].weight = net[1].weight", 1),
    "one_layer_twice": ("net[3] = net[1]", 2),
    "one_layer_with_two_names": ("relu.other = net[1]", 2),
    "one_buffer_in_two_layers": ("net[1].register_buffer('a', t); net[3].register_buffer('b', t)", 1),
    "two_weights_in_one_memory": ("net[1].weight, net[3].weight = map(torch.nn.Parameter, t.unbind())", 1),
}


@pytest.mark.parametrize("kind", SHARING)
def test_tensors_that_share_memory_are_saved_and_share_it_again(kind, tmp_path, monkeypatch):
    share, without_their_own = SHARING[kind]
    (tmp_path / f"{kind}.py").write_text(
        "import torch\n\n\ndef make(num_classes):\n"
        "    layers = [torch.nn.Linear(64, 64) for _ in range(2)]\n"
        "    flat, relu, last = torch.nn.Flatten(), torch.nn.ReLU(), torch.nn.Linear(64, num_classes)\n"
        "    net = torch.nn.Sequential(flat, layers[0], relu, layers[1], last)\n"
        f"    t = torch.randn(2, 64, 64)\n    {share}\n    return net\n"
    )
    monkeypatch.chdir(tmp_path)
    recipe = load_recipe("quick/digits-plain", ["schedule.epochs=2", f"student.model={kind}:make"])
    results = train(recipe, tmp_path / "run")
    student = load_student(tmp_path / "run", recipe)[0]
    last = load_student(tmp_path / "run" / "checkpoints" / "last.pt", recipe)[0]
    images = torch.rand(7, 1, 8, 8)
    assert torch.equal(student(images), last(images))
    assert evaluate(tmp_path / "run", recipe)[0].accuracy == pytest.approx(results.last.test_accuracy)
    addresses = [tensor.untyped_storage().data_ptr() for tensor in student.state_dict().values()]
    assert len(addresses) - len(set(addresses)) == without_their_own
    assert results.parameters == sum(parameter.numel() for parameter in student.parameters())
