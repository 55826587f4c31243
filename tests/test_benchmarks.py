"""Every benchmark runs, on networks so small that it says nothing; what it compares with is right."""

import importlib
import json
import math
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from dotkd import DOT, Distiller
from dotkd.data import crop_flip
from dotkd.models import create_model

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "benchmarks"
GOLDEN = ROOT / "tests" / "golden"
CASES = json.loads((GOLDEN / "optimizer.json").read_text())
VECTORS = np.load(GOLDEN / "optimizer.npz")
TINY = ["--teacher", "small/cnn8", "--student", "small/cnn4"]


@pytest.fixture(autouse=True)
def threads_as_before():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture
def script(monkeypatch):
    """Import a script as it would import its neighbours; the names are free again afterwards."""
    monkeypatch.syspath_prepend(str(FOLDER))
    names = {path.stem for path in FOLDER.glob("*.py")}
    before = {name: sys.modules.pop(name) for name in names & sys.modules.keys()}
    yield importlib.import_module
    for name in names:
        sys.modules.pop(name, None)
    sys.modules.update(before)


def written(main, tmp_path, *arguments):
    path = tmp_path / "numbers.json"
    assert main(["--quick", "--json", str(path), *arguments]) == 0
    numbers = json.loads(path.read_text())
    assert numbers["torch"] == torch.__version__
    return numbers


# ---------------------------------------------------------------- the published trainer


@pytest.mark.parametrize("case", CASES)
def test_the_plain_optimizer_walks_the_recorded_trajectory(case, script):
    options = CASES[case]
    names = ("lr", "momentum", "delta", "weight_decay", "dampening")
    params = [
        torch.nn.Parameter(torch.from_numpy(VECTORS[f"{case}/param/{i}"].copy()))
        for i in range(len(options["reach"]))
    ]
    optimizer = script("published").PlainDOT(params, **{name: options[name] for name in names})
    for step in range(options["steps"]):
        if step == options["lr_drop_at"]:
            optimizer.lr *= 0.1
        for stream in ("distill", "task"):
            optimizer.zero_grad()
            for i, (param, reach) in enumerate(zip(params, options["reach"], strict=True)):
                if reach in ("both", stream):
                    param.grad = torch.from_numpy(VECTORS[f"{case}/{stream}/{step}/{i}"].copy())
            if stream == "distill":
                optimizer.step_distill()
        optimizer.step()
        for i, param in enumerate(params):
            recorded = torch.from_numpy(VECTORS[f"{case}/after/{step}/{i}"])
            torch.testing.assert_close(param.detach(), recorded, rtol=1e-6, atol=1e-7)


def test_its_views_are_ours(script):
    published, trainers = script("published"), script("trainers")
    setting = trainers.Setting(images=40)
    images = published.OneByOne(published.channels_behind(setting.data.pixels), [0] * 40)
    views, numbers = crop_flip(setting.data.pixels, generator=torch.Generator().manual_seed(1))
    model = create_model("small/mlp16", 100, mean=published.MEAN, std=published.STD)
    ours = model.normalize(views / 255)
    for position, number in enumerate(numbers.tolist()):
        top, left, flip = number // 18, number // 2 % 9, bool(number % 2)
        torch.testing.assert_close(images.view(position, top, left, flip), ours[position])


def test_it_draws_every_view(script):
    published, trainers = script("published"), script("trainers")
    setting = trainers.Setting(images=1)
    images = published.OneByOne(published.channels_behind(setting.data.pixels), [3])
    torch.manual_seed(0)
    drawn = [images[0] for _ in range(1500)]
    assert {(label, number) for _, label, number in drawn} == {(3, 0)}
    assert len({view.numpy().tobytes() for view, _, _ in drawn}) == 162


def test_it_learns_what_dotkd_learns(script):
    published, trainers = script("published"), script("trainers")
    setting = trainers.Setting("small/cnn8", "small/cnn4", batch=16, images=16)
    trainer = trainers.published(setting)
    teacher, student = (
        create_model(name, 100, mean=published.MEAN, std=published.STD)
        for name in (setting.teacher, setting.student)
    )
    for ours, theirs in zip((teacher, student), setting.networks, strict=True):
        ours.load_state_dict(theirs.state_dict())
    distiller = Distiller(student, teacher, "kd", task_weight=0.1, distill_weight=0.9, temperature=4.0)
    optimizer = DOT(student.parameters(), lr=trainers.LR, weight_decay=trainers.WEIGHT_DECAY)
    batch = setting.data.batch(torch.arange(16))
    for _ in range(5):
        trainer.step(student.normalize(batch.images), batch.labels)
        losses = distiller(batch.images, batch.labels)
        optimizer.backward(task=losses.task, distill=losses.distill)
        optimizer.step()
        optimizer.zero_grad()
        assert trainer.log["loss"] == pytest.approx(float((losses.task + losses.distill).detach()), rel=1e-4)
    start = create_model(setting.student, 100)
    start.load_state_dict(setting.networks[1].state_dict())
    triples = zip(student.parameters(), trainer.student.parameters(), start.parameters(), strict=True)
    for ours, theirs, before in triples:
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)
        assert not torch.equal(ours, before)


# ---------------------------------------------------------------- the scripts


def test_step_cost(script, tmp_path):
    module = script("step_cost")
    numbers = written(module.main, tmp_path, *TINY, "--batch", "16")
    ratios = numbers["ratios"]
    wanted = {"exact_live", "exact_cached", "bf16", "dot_over_kd"}
    assert wanted <= ratios.keys()
    for name, ratio in ratios.items():
        assert name in numbers["reasons"] if ratio is None else ratio > 0
    assert {len(readings) for readings in numbers["readings"].values()} == {4}
    assert numbers["teacher_cache_hit_rate"] == 1


def test_step_cost_says_why_there_is_no_figure(script, tmp_path, monkeypatch):
    module = script("step_cost")
    monkeypatch.setattr(module, "has_bf16", lambda: False)
    numbers = written(module.main, tmp_path, *TINY, "--batch", "16")
    assert numbers["ratios"]["bf16"] is None
    assert "bfloat16" in numbers["reasons"]["bf16"]


def test_step_cost_gives_a_quick_run_as_the_reason_where_it_is_one(script, monkeypatch):
    module = script("step_cost")
    monkeypatch.setattr(module, "has_bf16", lambda: False)
    assert module.reason("convolutions") == module.QUICK
    assert module.reason("bf16_teacher") == module.NO_BF16


def test_the_convolutions_are_those_of_the_step(script):
    trainers, convolutions = script("trainers"), script("convolutions")
    setting = trainers.Setting("resnet8", "small/cnn4", batch=4, images=4)
    counts = []
    for made in (convolutions.Convolutions(setting), trainers.Ours(setting)):
        with FlopCounterMode(display=False) as counter:
            made.epoch()
        flops = counter.get_flop_counts()["Global"]
        kinds = (torch.ops.aten.convolution, torch.ops.aten.convolution_backward)
        counts.append([flops[kind] for kind in kinds])
        assert all(counts[-1])
    assert counts[0] == counts[1]


def test_phases(script, tmp_path):
    module = script("phases")
    results = written(module.main, tmp_path, *TINY, "--batch", "16")["results"]
    for phases in results.values():
        assert set(phases) == set(module.PHASES)
        assert all(seconds > 0 for seconds in phases.values())


def test_a_stopwatch_runs_for_the_innermost_phase_alone(script):
    now = SimpleNamespace(seconds=0.0)
    watch = script("stopwatch").Stopwatch(clock=lambda: now.seconds)

    def wait(seconds):
        now.seconds += seconds
        return seconds

    inner = watch.timed("inner", wait)
    with watch.phase("outer"):
        wait(1)
        assert inner(5) == 5
        wait(2)
    wait(100)
    assert list(watch.each("items", (wait(n) for n in (3, 4)))) == [3, 4]
    assert watch.seconds == {"outer": 3, "inner": 5, "items": 7}
    watch.reset()
    assert not watch.seconds


@pytest.mark.processes
@pytest.mark.slow
def test_memory(script, tmp_path):
    numbers = written(script("memory").main, tmp_path, *TINY, "--batch", "16", "--only", "exact")
    assert numbers["peaks"]["exact"] > 50  # MiB: torch alone
    student = create_model("small/cnn4", 100)
    assert numbers["gradients"] == 4 * sum(p.numel() for p in student.parameters()) / 2**20


def test_epoch(script, tmp_path):
    results = written(script("epoch").main, tmp_path, *TINY, "--images", "640")["results"]
    assert results["data"].keys() == {"published", "dotkd"}
    for rows in results.values():
        assert rows["published"]["ratio"] == 1
        assert all(row["images_per_cpu_second"] > 0 for row in rows.values())


@pytest.mark.processes
@pytest.mark.slow
def test_scaling(script, tmp_path):
    numbers = written(script("scaling").main, tmp_path, *TINY, "--batches", "16", "--widths", "4")
    assert math.isfinite(numbers["results"]["batch"]["16"]["ratio"])
    assert math.isfinite(numbers["results"]["width"]["4"]["ratio"])
    params = sum(p.numel() for p in create_model("small/cnn4", 100).parameters())
    one, two = (numbers["results"]["processes"][n] for n in ("1", "2"))
    assert {row["reduced_bytes"] for row in one.values()} == {0}
    assert two["SGD"]["reduced_bytes"] == 4 * params
    assert 8 * params <= two["DOT"]["reduced_bytes"] < 9 * params


def test_methods(script, tmp_path, monkeypatch):
    module, path = script("methods"), tmp_path / "numbers.json"
    monkeypatch.setattr(module, "create_model", lambda _, classes: create_model("small/cnn4", classes))
    monkeypatch.setattr(module, "method_names", lambda: ["kd", "label_smoothing", "fitnet"])
    monkeypatch.setattr(sys, "argv", ["methods.py", "--quick", "--json", str(path)])
    assert module.main() == 0
    results = json.loads(path.read_text())["results"]
    assert results["kd"] == {"seconds": results["kd"]["seconds"], "ratio": 1.0, "learned_parameters": 0}
    assert results["fitnet"]["learned_parameters"] > 0
    assert results.keys() == {"kd", "fitnet"}


def test_augment(script, monkeypatch):
    module = script("augment")
    monkeypatch.setattr(module, "BATCHES", 1)
    pixels = torch.randint(256, (module.BATCH, 3, module.SIDE, module.SIDE), dtype=torch.uint8)
    results = module.measure(
        {"Pillow": module.pillow_variant(pixels), "dotkd": module.dotkd_variant(pixels)}, 1
    )
    assert results["Pillow"]["ratio"] == 1
    assert results["dotkd"]["images_per_cpu_second"] > 0


def test_optimizer_step(script):
    results = script("optimizer_step").measure([(3, 4), (5,)], rounds=1)
    assert results["SGD foreach"]["ratio"] == 1
    adamw, ours = results["AdamW foreach"], results["DOTAdamW"]
    assert ours["ratio"] == pytest.approx(ours["milliseconds"] / adamw["milliseconds"])


def test_every_benchmark_has_a_test():
    helpers = {"convolutions", "measuring", "published", "stopwatch", "trainers"}
    scripts = {path.stem for path in FOLDER.glob("*.py")} - helpers
    assert {f"test_{name}" for name in scripts} <= globals().keys()


# ---------------------------------------------------------------- the page


def test_the_page_is_what_the_script_writes():
    path = ROOT / "scripts" / "write_performance_page.py"
    spec = importlib.util.spec_from_file_location(path.stem, path)
    writer = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(writer)
    assert writer.page() == writer.PAGE.read_text(encoding="utf-8"), f"run python scripts/{path.name}"
