"""A teacher that remembers: the same bits for the student, fewer questions, and no answer of another one."""

import json
import math
import signal
import subprocess
import sys
import time

import pytest
import torch
from torch import nn

from dotkd.compare import compare
from dotkd.data import Batch
from dotkd.distiller import Distiller
from dotkd.errors import BadInput
from dotkd.methods.base import Outputs
from dotkd.recipe import differing_keys, load_recipe, recipe_text
from dotkd.runs import ENVIRONMENT, LAST, METRICS, STUDENT
from dotkd.train.build import build_data, build_method, build_run, check_recipe
from dotkd.train.cache_rows import MemoryRows
from dotkd.train.loop import train
from dotkd.train.run_cache import check_teacher_cache, open_teacher_cache
from dotkd.train.state import read_checkpoint
from dotkd.train.teacher_cache import Layout, TeacherCache

VIEWS = 18  # of crop-flip:1
# 517 of 1400 images are left to train on: eight batches of 64, and one of 5.
SMALL = ["data.validation=883", "data.batch_size=64", "data.augment=crop-flip:1", "student.model=small/cnn8"]
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    folder = tmp_path_factory.mktemp("teacher") / "run"
    train(load_recipe("quick/digits-teacher", ["student.model=small/cnn16", "schedule.epochs=2"]), folder)
    return folder / STUDENT


def recipe_of(teacher, cache, *more, epochs=3, arm="kd-dot"):
    given = [*SMALL, f"teacher.checkpoint={teacher}", f"schedule.epochs={epochs}", *more]
    return load_recipe(f"quick/digits-{arm}", [*given, f"run.teacher_cache={cache}"])


def lines(folder):
    """All but the seconds, which are the machine's."""
    found = [json.loads(line) for line in (folder / METRICS).read_text().splitlines()]
    return [{key: value for key, value in line.items() if key != "seconds"} for line in found]


def rates(folder):
    return [line["teacher_cache_hit_rate"] for line in lines(folder)]


def assert_same_run(one, other):
    """Compare every number of two runs and every bit of their students, but not how they came about."""
    kept = [
        [{k: v for k, v in line.items() if k != "teacher_cache_hit_rate"} for line in lines(folder)]
        for folder in (one, other)
    ]
    assert kept[0] == kept[1]
    ours, theirs = (read_checkpoint(folder / LAST)["objective"] for folder in (one, other))
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        assert torch.equal(tensor, theirs[name]), name


# ---------------------------------------------------------------- the same bits


@pytest.mark.slow
@pytest.mark.parametrize(
    "more",
    [
        [],
        ["run.precision=bf16"],
        ["run.precision=bf16-teacher", "optimizer.name=sgd"],
        ["run.channels_last=false"],
        ["method.name=crd", "method.negatives=64", "optimizer.lr=0.005"],  # reads the pooled vector as well
        ["data.augment=none", "teacher.checkpoint={other}"],
    ],
    ids=lambda more: " ".join(more) or "plain",
)
def test_a_run_with_a_cache_ends_in_the_bits_of_one_without(more, teacher, tmp_path):
    more = [word.format(other=teacher) for word in more]
    for name, cache in (("off", "off"), ("run", "run"), ("cold", tmp_path / "c"), ("warm", tmp_path / "c")):
        train(recipe_of(teacher, cache, *more), tmp_path / name)
    for name in ("run", "cold", "warm"):
        assert_same_run(tmp_path / "off", tmp_path / name)
    assert rates(tmp_path / "off") == [None] * 3
    assert rates(tmp_path / "run") == rates(tmp_path / "cold")
    assert rates(tmp_path / "run")[0] == 0 < rates(tmp_path / "run")[-1]
    # The last 5 of 517 images are a batch so small that the teacher answers in bits of its own.
    assert set(rates(tmp_path / "warm")) == {512 / 517}


@pytest.mark.slow
def test_hits_come_as_often_as_views_are_drawn_again(teacher, tmp_path):
    train(recipe_of(teacher, "run", epochs=12), tmp_path / "run")
    for epoch, rate in enumerate(rates(tmp_path / "run")):
        expected = 512 / 517 * (1 - ((VIEWS - 1) / VIEWS) ** epoch)
        assert abs(rate - expected) < 4 * math.sqrt(expected * (1 - expected) / 512) + 1e-12, epoch


@pytest.mark.slow
@pytest.mark.parametrize("cache", ["run", "folder"])
def test_a_run_stopped_after_each_epoch_is_the_run_left_alone(cache, teacher, tmp_path):
    where = tmp_path / "cache" if cache == "folder" else cache
    train(recipe_of(teacher, "off"), tmp_path / "alone")

    def stop(_):
        raise KeyboardInterrupt

    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            train(recipe_of(teacher, where), tmp_path / "run", resume=True, on_epoch=[stop])
    train(recipe_of(teacher, "off"), tmp_path / "run", resume=True)  # how it came about is no part of a run
    assert_same_run(tmp_path / "alone", tmp_path / "run")


@pytest.mark.slow
@pytest.mark.processes
def test_two_runs_at_once_share_a_folder_and_one_is_killed_with_9(teacher, tmp_path):
    cache, words = tmp_path / "cache", [*SMALL, f"teacher.checkpoint={teacher}", "schedule.epochs=6"]

    def begin(seed):
        overrides = [*words, f"run.teacher_cache={cache}", f"run.seed={seed}", "run.threads=1"]
        command = [sys.executable, "-m", "dotkd", "train", "quick/digits-kd-dot", *overrides, "--resume"]
        return subprocess.Popen(
            [*command, "--output", str(tmp_path / f"seed{seed}")], stdout=subprocess.DEVNULL
        )

    killed, other = begin(0), begin(1)
    while not (tmp_path / "seed0" / METRICS).exists() or not lines(tmp_path / "seed0"):
        assert killed.poll() is None, "the run ended before it was killed"
        time.sleep(0.001)
    killed.kill()
    assert killed.wait() == -signal.SIGKILL
    assert other.wait() == 0
    for seed in (0, 1):
        given = {"run.teacher_cache": cache, "run.seed": seed, "run.threads": 1}
        overrides = [*words, *(f"{key}={value}" for key, value in given.items())]
        train(load_recipe("quick/digits-kd-dot", overrides), tmp_path / f"seed{seed}", resume=True)
        train(load_recipe("quick/digits-kd-dot", [*overrides, "run.teacher_cache=off"]), tmp_path / f"{seed}")
        assert_same_run(tmp_path / f"{seed}", tmp_path / f"seed{seed}")
    assert len(list(cache.iterdir())) == 1
    assert rates(tmp_path / "seed0")[-1] > 0.2, "it goes on with what others remember"


# ---------------------------------------------------------------- what the teacher is asked


class Teacher(nn.Module):
    """Linear, with bits that depend on how many images there are, or on the place of an image."""

    def __init__(self, same=None, by_place=0.0):
        super().__init__()
        self.fc, self.by_place, self.asked = nn.Linear(64, 10), by_place, []
        self.same = same or (lambda _: True)
        nn.init.normal_(self.fc.weight, generator=torch.Generator().manual_seed(0))
        nn.init.zeros_(self.fc.bias)

    def forward(self, images):
        self.asked.append(len(images))
        logits = images.flatten(1).double() @ self.fc.weight.double().T
        place = torch.arange(len(images))[:, None] * self.by_place
        return (logits + (0 if self.same(len(images)) else 1e-3) + place).float()


def opened(net, *more, cache="run"):
    recipe = recipe_of("unread", cache, "data.validation=888", *more)
    data = build_data(recipe.data).train
    found = open_teacher_cache(recipe, Distiller(nn.Linear(64, 10), net), data, CPU)
    net.asked.clear()
    return found, data


@pytest.mark.parametrize(
    ("same", "sizes"),
    [
        (None, {16, 24, 32, 40, 48, 56, 64}),
        (lambda count: count >= 32, {32, 40, 48, 56, 64}),
        (lambda count: count in (48, 64), {48, 64}),
        (lambda count: count == 64, {64}),
    ],
)
def test_the_teacher_is_asked_only_in_numbers_that_give_the_bits_of_a_whole_batch(same, sizes):
    net = Teacher(same)
    cache, data = opened(net)
    generator = torch.Generator().manual_seed(0)
    for epoch in range(12):
        for batch in cache.follow(data.batches(64, generator=generator)):
            found = cache.outputs(batch.images, Distiller(nn.Linear(64, 10), net).teach)
            asked, net.asked = net.asked, []
            assert torch.equal(found.logits, net(batch.images))
            assert found.features == {}
            assert set(asked) <= sizes, epoch
            net.asked = []


def test_one_missing_image_is_not_asked_about_alone_and_none_is_no_question():
    asked = []

    def teach(images):
        asked.append(len(images))
        return Outputs(images.flatten(1)[:, :2])

    images = torch.rand(20, 1, 2, 2)

    def batch(chosen):
        return Batch(images[chosen], torch.zeros(len(chosen), dtype=torch.int64), torch.tensor(chosen))

    cache = TeacherCache(MemoryRows(20, 2, 20), Layout(2, ()), views=1, sizes=[8, 4], key={})
    for chosen in ([0, 1, 2, 3, 4, 5, 6, 7], [7, 6, 5, 4, 3, 2, 1, 8], [8, 7, 6, 5, 4, 3, 2, 1], [9, 0]):
        for given in cache.follow([batch(chosen)]):
            found = cache.outputs(given.images, teach)
            assert torch.equal(found.logits, given.images.flatten(1)[:, :2])
    # Seven are known: three of them come along. All are known. Two are too few for the bits of others.
    assert asked == [8, 4, 2]
    assert cache.hit_rate() == 15 / 26
    assert cache.hit_rate() == 0


def test_features_come_back_in_their_shapes():
    layout = Layout.of(Outputs(torch.zeros(4, 3), {"pooled": torch.zeros(4, 5, 2)}))
    outputs = Outputs(torch.rand(6, 3).bfloat16(), {"pooled": torch.rand(6, 5, 2)})
    found = layout.unpack(layout.pack(outputs))
    assert layout.width == 13
    assert torch.equal(found.logits, outputs.logits.float())
    assert torch.equal(found.features["pooled"], outputs.features["pooled"])


def test_a_teacher_whose_answer_depends_on_the_place_in_the_batch_is_refused():
    with pytest.raises(BadInput, match=r"run\.teacher_cache: the teacher gives an image other outputs at"):
        opened(Teacher(by_place=0.1))


# ---------------------------------------------------------------- one file for each key


def key_of(net, folder, *more):
    return opened(net, *more, cache=folder)[0].key


def test_each_teacher_and_set_of_images_has_a_file_and_labels_and_seeds_change_nothing(tmp_path):
    net, folder = Teacher(), tmp_path / "cache"
    first = key_of(net, folder)
    for same in (["run.seed=3"], ["data.label_noise=0.2"], ["optimizer.lr=0.5"], ["schedule.epochs=9"]):
        assert key_of(net, folder, *same) == first, same
    assert len(list(folder.iterdir())) == 1
    others = {
        "augment": ["data.augment=crop-flip:2"],
        "images": ["data.validation=889"],
        "batch_size": ["data.batch_size=32"],
        "form": ["run.channels_last=false"],
    }
    for name, more in others.items():
        assert key_of(net, folder, *more)[name] != first[name]
    nn.init.ones_(net.fc.bias)  # on which no answer depends
    changed = key_of(net, folder)
    assert {name for name in first if first[name] != changed[name]} == {"teacher"}
    nn.init.zeros_(net.fc.weight)
    assert key_of(net, folder)["answers"] != first["answers"]
    assert len(list(folder.iterdir())) == 2 + len(others) + 1


def test_a_file_under_the_name_of_another_is_refused(tmp_path):
    opened(Teacher(), cache=tmp_path)
    (one,) = tmp_path.iterdir()
    opened(Teacher(), "data.validation=889", cache=tmp_path)
    (other,) = set(tmp_path.iterdir()) - {one}
    other.replace(one)
    with pytest.raises(BadInput, match=r"run\.teacher_cache: .* differs in .*images"):
        opened(Teacher(), cache=tmp_path)


@pytest.mark.slow
def test_the_environment_of_a_run_holds_the_key(teacher, tmp_path):
    train(recipe_of(teacher, "run", epochs=1), tmp_path / "run")
    key = json.loads((tmp_path / "run" / ENVIRONMENT).read_text())["teacher_cache"]
    assert key["views"] == VIEWS
    assert key["augment"] == ["crop-flip:1"]


@pytest.mark.slow
def test_arms_and_seeds_of_a_comparison_share_a_folder_and_a_plain_arm_may_name_it(teacher, tmp_path):
    words = [*SMALL, "schedule.epochs=1", "data.augment=none", f"run.teacher_cache={tmp_path / 'cache'}"]
    arms = [load_recipe("quick/digits-plain", words)]
    words.append(f"teacher.checkpoint={teacher}")
    arms += [load_recipe(f"quick/digits-{arm}", words) for arm in ("kd", "kd-dot")]
    assert compare(arms, 2, tmp_path / "out") == []
    found = {run.parent.name: rates(run) for run in (tmp_path / "out").glob("*/seed-1")}
    # The last 5 images of seed 0 are not remembered; five others are the last ones of seed 1.
    assert found == {"plain": [None], "kd": [507 / 517], "kd-dot": [512 / 517]}
    assert len(list((tmp_path / "cache").iterdir())) == 1


@pytest.mark.slow
def test_a_second_arm_of_a_seed_finds_every_view_and_another_seed_does_not(teacher, tmp_path):
    words = [*SMALL, "schedule.epochs=1", "data.augment=crop-flip:2", f"teacher.checkpoint={teacher}"]
    words.append(f"run.teacher_cache={tmp_path / 'cache'}")
    for arm, seed, found in (("kd", 0, 0.0), ("kd-dot", 0, 512 / 517), ("kd", 1, None)):
        run = tmp_path / f"{arm}-{seed}"
        train(load_recipe(f"quick/digits-{arm}", [*words, f"run.seed={seed}"]), run)
        assert rates(run) == [found] if found is not None else 0 < rates(run)[0] < 0.1


# ---------------------------------------------------------------- the recipe


@pytest.mark.parametrize(
    ("more", "text"),
    [
        (["data.augment=['rotate:20']"], r"views of data\.augment = \['rotate:20'\] cannot be numbered"),
        (["data.augment=['crop-flip', 'mixup']"], r"\['crop-flip:4', 'mixup:0\.2'\] cannot be numbered"),
        (["method.name=fitnet"], r"method 'fitnet' reads the teacher's stages, too large to keep"),
        (["method.name=simkd"], r"method 'simkd' reads the teacher's last, too large to keep"),
        (["run.teacher_cache={file}"], r"model is a file, and a folder is wanted"),
    ],
)
def test_what_cannot_be_remembered_is_refused_before_training(more, text, teacher, tmp_path):
    (tmp_path / "model").write_bytes(b"")
    more = [word.format(file=tmp_path / "model") for word in more]
    with pytest.raises(BadInput, match=r"run\.teacher_cache: .*" + text):
        check_recipe(load_recipe("quick/digits-kd", [*recipe_words(teacher), "run.teacher_cache=run", *more]))


def recipe_words(teacher):
    return [*SMALL, f"teacher.checkpoint={teacher}"]


def test_streamed_images_are_refused(tmp_path):
    from PIL import Image

    for split in ("train", "test"):
        for name in ("a", "b"):
            (tmp_path / split / name).mkdir(parents=True)
            for number in range(3):
                Image.new("RGB", (8, 8)).save(tmp_path / split / name / f"{number}.png")
    words = ["data.name=folder", f"data.root={tmp_path}", "data.stream=true", "data.image_size=8"]
    recipe = recipe_of("unread", "run", *words, "data.label_noise=0", "data.validation=0")
    with pytest.raises(BadInput, match=r"run\.teacher_cache: the images of folder are streamed"):
        check_teacher_cache(recipe, build_method(recipe), build_data(recipe.data).train)


def test_a_run_that_would_not_fit_in_memory_is_refused(monkeypatch):
    monkeypatch.setattr("dotkd.train.cache_rows._free_memory", lambda: 1000)
    with pytest.raises(BadInput, match=r"run\.teacher_cache: it may take 0\.00 GiB of memory in this run"):
        opened(Teacher())


def test_a_folder_is_relative_to_the_file_and_an_override_to_the_working_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "deep").mkdir()
    text = 'extends = "quick/digits-kd"\n[run]\nteacher_cache = "{}"\n'
    for written, wanted in (("c", str(tmp_path / "deep/c")), ("off", "off"), ("run", "run")):
        (tmp_path / "deep" / "r.toml").write_text(text.format(written))
        assert load_recipe(tmp_path / "deep" / "r.toml").run.teacher_cache == wanted
    assert load_recipe("quick/digits-kd", ["run.teacher_cache=c"]).run.teacher_cache == str(tmp_path / "c")


def test_it_is_no_part_of_what_makes_two_recipes_differ():
    one, other = (load_recipe("quick/digits-kd", [f"run.teacher_cache={c}"]) for c in ("off", "run"))
    assert differing_keys(recipe_text(one), recipe_text(other)) == []


def test_without_a_teacher_there_is_no_cache():
    recipe = load_recipe("quick/digits-plain", ["run.teacher_cache=run", "data.augment=['rotate:9']"])
    assert build_run(recipe).teacher_cache is None
