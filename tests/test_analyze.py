"""The numbers in ``analysis.json`` agree with the run and with each other; bad input is refused."""

import json
import math
import shutil
import sys

import pytest
import torch
from torch.func import functional_call
from torch.nn.functional import cross_entropy

from dotkd import runs
from dotkd.analysis import hessian_trace, top_eigenvalues
from dotkd.analyze import PARTS, Plan, analyze, plan
from dotkd.compare import compare
from dotkd.errors import BadInput
from dotkd.recipe import load_recipe
from dotkd.records import Analysis, MeasuredOn
from dotkd.report import write_report
from dotkd.runs import ANALYSIS, LAST, RESULTS, STUDENT, read_record
from dotkd.seeding import random_stream
from dotkd.train.build import build_data
from dotkd.train.loop import provide_teacher, train
from dotkd.train.networks import load_student
from dotkd.train.scores import score

slow = pytest.mark.slow
SHORT = ["schedule.epochs=3", "student.model=small/mlp16"]
METHODS = {"kd": [], "crd": ["method.name=crd", "method.negatives=16"], "simkd": ["method.name=simkd"]}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A comparison of a plain student and KD + DOT, and the analysis of its first runs."""
    folder = tmp_path_factory.mktemp("comparison")
    assert (
        compare([load_recipe(f"quick/digits-{name}", SHORT) for name in ("plain", "kd-dot")], 1, folder) == []
    )
    analyze([folder / arm / "seed-0" for arm in ("plain", "kd-dot")], images=150, grid=3)
    return folder


def told(folder, arm):
    return json.loads((folder / arm / "seed-0" / ANALYSIS).read_text())


@slow
def test_the_middle_of_the_surface_is_the_student(folder):
    found = told(folder, "kd-dot")
    student, recipe = load_student(folder / "kd-dot" / "seed-0")
    held_out = build_data(recipe.data).validation
    assert (found["epoch"], found["split"], found["images"]) == (3, "validation", 150)
    assert len(held_out) == 200
    surface = found["landscape"]
    assert surface["steps"] == [-1.0, 0.0, 1.0]
    assert surface["task"][1][1] == pytest.approx(found["quality"]["nll"], rel=1e-5)
    total = 0.1 * surface["task"][1][1] + 0.9 * surface["distill"][1][1]
    assert surface["total"][1][1] == pytest.approx(total, rel=1e-5)
    assert score(student, held_out).loss == pytest.approx(surface["task"][1][1], rel=0.3)  # 150 of 200 images


@slow
def test_a_plain_student_has_no_distillation_loss(folder):
    found = told(folder, "plain")
    assert "distill" not in found["landscape"]
    assert set(found["sharpness"]) == {"task"}
    assert "agreement" not in found["quality"]


@slow
def test_every_number_is_finite_and_in_range(folder):
    for arm in ("plain", "kd-dot"):
        found = told(folder, arm)
        for curvature in found["sharpness"].values():
            values = [
                *curvature["eigenvalues"],
                curvature["trace"],
                curvature["trace_error"],
                curvature["epsilon_sharpness"],
                *curvature["filter_normalized"].values(),
            ]
            assert all(map(math.isfinite, values))
            assert curvature["eigenvalues"] == sorted(curvature["eigenvalues"], key=abs, reverse=True)
            assert curvature["epsilon_sharpness"] > 0
        robustness = found["quality"]["robustness"]
        assert all(0 <= share <= 1 for kind in robustness for share in robustness[kind] if kind != "fgsm")
        assert robustness["fgsm"]["accuracy"] <= robustness["gaussian_noise"][0] + 0.05
        assert sum(found["quality"]["reliability"]["count"]) == 150
        assert found["cost"]["parameters"] == runs.read_run(folder / arm / "seed-0").results.parameters


@slow
def test_the_run_itself_stays_as_it_was(folder):
    run = folder / "kd-dot" / "seed-0"
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file() and path.name != ANALYSIS}
    found = analyze([run], parts=["cost"], images=50)[run]
    assert found == Analysis.model_validate_json((run / ANALYSIS).read_bytes())
    assert found.on("cost") == MeasuredOn(split="validation", images=50)
    assert before == {path: path.read_bytes() for path in before}
    assert set(PARTS) <= set(told(folder, "kd-dot")), "what was found before is kept"


@slow
def test_the_line_ends_at_both_students(folder):
    line, first, last = told(folder, "kd-dot")["interpolation"], told(folder, "plain"), told(folder, "kd-dot")
    assert "interpolation" not in first
    assert (line["arm"], line["seed"]) == ("plain", 0)
    assert (line["steps"][0], line["steps"][8], line["steps"][-1]) == (0.0, 0.5, 1.0)
    assert line["task"][0] == pytest.approx(first["quality"]["nll"], rel=1e-5)
    assert line["task"][-1] == pytest.approx(last["quality"]["nll"], rel=1e-5)
    assert line["distill"][-1] == last["landscape"]["distill"][1][1]
    assert line["distill"][0] > line["distill"][-1]
    accuracy = [150 * value for value in line["accuracy"]]
    assert accuracy == pytest.approx([round(value) for value in accuracy], abs=1e-4)
    middle = halfway(folder)
    recipe = load_recipe(folder / "plain" / "seed-0" / "recipe.toml")
    order = torch.randperm(200, generator=random_stream(0, "analysis.images"))[:150]
    found = score(middle, build_data(recipe.data).validation.subset(order))
    assert (line["task"][8], line["accuracy"][8]) == pytest.approx((found.loss, found.accuracy), rel=1e-5)


def halfway(folder):
    """The student between the two, made by hand."""
    (one, _), (two, _) = (load_student(folder / arm / "seed-0") for arm in ("plain", "kd-dot"))
    theirs = two.state_dict()
    one.load_state_dict({name: (value + theirs[name]) / 2 for name, value in one.state_dict().items()})
    return one


@slow
def test_the_spectrum_agrees_with_the_eigenvalues(folder):
    for kind, found in told(folder, "kd-dot")["sharpness"].items():
        spectrum = found["spectrum"]
        # Both ends of the spectrum are nodes of the quadrature, up to what the steps left open.
        assert max(spectrum["nodes"]) == pytest.approx(found["eigenvalues"][0], rel=0.01), kind
        assert sum(spectrum["weights"]) == pytest.approx(1)
        step = spectrum["grid"][1] - spectrum["grid"][0]
        assert step * sum(spectrum["density"]) == pytest.approx(1, abs=1e-3)
        # Hutchinson's estimate and the mean of the nodes are of the same trace.
        size = told(folder, "kd-dot")["cost"]["parameters"]
        mean = sum(w * x for w, x in zip(spectrum["weights"], spectrum["nodes"], strict=True))
        assert size * mean == pytest.approx(found["trace"], rel=0.5)


@slow
def test_filter_normalised_curvature_is_that_of_rescaled_weights(folder):
    """Against the loss as a function of weights divided by the norms of their filters."""
    run, found = folder / "kd-dot" / "seed-0", told(folder, "kd-dot")["sharpness"]["task"]
    student, recipe = load_student(run)
    order = torch.randperm(200, generator=random_stream(0, "analysis.images"))[:150]
    batch = build_data(recipe.data).validation.subset(order).batch(range(150))
    weights = {name: value.detach() for name, value in student.named_parameters() if value.ndim > 1}
    norms = {
        name: value.norm(dim=tuple(range(1, value.ndim)), keepdim=True) for name, value in weights.items()
    }
    units = {name: (value / norms[name]).requires_grad_() for name, value in weights.items()}

    def loss():
        scaled = {name: one * norms[name] for name, one in units.items()}
        return cross_entropy(functional_call(student.eval(), scaled, batch.images), batch.labels)

    largest = top_eigenvalues(loss, list(units.values())).item()
    assert found["filter_normalized"]["eigenvalue"] == pytest.approx(largest, rel=1e-3)
    noise = torch.Generator().manual_seed(1)
    trace = hessian_trace(loss, list(units.values()), num_samples=16, generator=noise)
    error = math.hypot(trace.standard_error, found["filter_normalized"]["trace_error"])
    assert abs(found["filter_normalized"]["trace"] - trace.trace) < 4 * error
    squares = sum(value.square().sum().item() for value in weights.values())
    assert found["weight_norm"] ** 2 == pytest.approx(squares, rel=1e-5)


@slow
def test_parts_are_written_as_they_come_and_say_their_images(folder, tmp_path):
    run = shutil.copytree(folder / "plain" / "seed-0", tmp_path / "plain")
    (run / ANALYSIS).unlink()
    analyze([run], parts=["sharpness"], images=50)
    found = json.loads((run / ANALYSIS).read_text())
    del found["measured_on"], found["losses_split"]  # as an older version left it
    (run / ANALYSIS).write_text(json.dumps(found))

    def stop(where, part):
        assert where == run
        if part == "quality":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        analyze([run], parts=["landscape", "quality"], images=20, grid=3, on_part=stop)
    found = json.loads((run / ANALYSIS).read_text())
    assert "quality" not in found
    assert found["measured_on"] == {
        "sharpness": {"split": "validation", "images": 50},
        "landscape": {"split": "validation", "images": 20},
    }
    analyze([run], parts=["sharpness"], images=1000)
    found = json.loads((run / ANALYSIS).read_text())
    assert found["measured_on"]["sharpness"]["images"] == 200  # all there are
    assert found["measured_on"]["landscape"]["images"] == 20
    (run / ANALYSIS).write_text('{"landscape": {"steps": 3}}')
    with pytest.raises(BadInput, match=r"analysis\.json: broken: "):
        analyze([run], parts=["cost"])


@slow
def test_students_that_are_not_alike_have_no_line(folder, tmp_path):
    recipe = load_recipe("quick/digits-plain", ["schedule.epochs=1", "student.model=small/mlp32"])
    train(recipe, tmp_path / "wide")
    first = folder / "plain" / "seed-0"
    (tmp_path / "wide" / ANALYSIS).write_text("{}")
    assert line(first, tmp_path / "wide") == {
        "arm": "plain",
        "seed": 0,
        "reason": "the students differ: hidden.weight is [16, 64] and [32, 64]",
    }
    recipe = load_recipe("quick/digits-plain", ["schedule.epochs=1", "student.model=small/cnn4"])
    train(recipe, tmp_path / "cnn")
    assert line(first, tmp_path / "cnn")["reason"].startswith("the students differ: only one of them has ")
    larger = shutil.copytree(first, tmp_path / "larger")
    for number, said in ((1, "1 more tensor"), (2, "2 more tensors")):
        state = torch.load(larger / LAST, weights_only=True)
        state["objective"][f"student.extra{number}"] = torch.zeros(2, 3)
        torch.save(state, larger / LAST)
        assert line(larger, first)["reason"] == f"the students differ: one of them has {said}"


def line(reference, run):
    """The interpolation part of ``analysis.json`` of a run."""
    analyze([reference, run], parts=["interpolation"], images=50)
    return json.loads((run / ANALYSIS).read_text())["interpolation"]


def test_the_first_of_several_runs_is_the_reference(tmp_path):
    one, two, three = (finished(tmp_path / name) for name in "abc")
    *alone, last = PARTS
    assert last == "interpolation"
    assert plan([one]) == [Plan(one, tuple(alone), None)]
    whole = [Plan(run, tuple(PARTS), one) for run in (two, three)]
    assert plan([one, two, three]) == [Plan(one, tuple(alone), None), *whole]
    assert plan([one, two], ["interpolation"]) == [(two, ("interpolation",), one)]
    assert plan([one, two], ["cost"]) == [(one, ("cost",), None), (two, ("cost",), None)]
    with pytest.raises(BadInput, match="interpolation needs two runs"):
        plan([one], ["cost", "interpolation"])
    with pytest.raises(BadInput, match="at least one folder of a finished run, got none"):
        plan([])
    with pytest.raises(BadInput, match="no line leads from a student to itself"):
        plan([one, two, one])
    with pytest.raises(BadInput, match=r"unknown part 'landscap' \(known: landscape"):
        plan([one], ["landscap"])
    for missing in (RESULTS, STUDENT):
        (finished(three) / missing).unlink()
        with pytest.raises(BadInput, match="c: not the folder of a finished run"):
            plan([one, three])


def finished(folder):
    """A folder with the files by which a finished run is known."""
    folder.mkdir(exist_ok=True)
    for name in (RESULTS, STUDENT):
        (folder / name).touch()
    return folder


@slow
@pytest.mark.parametrize("name", METHODS)
def test_learned_parts_come_back_with_the_run(name, tmp_path):
    given = ["schedule.epochs=1", "student.model=small/cnn4", *METHODS[name]]
    recipe = load_recipe("quick/digits-kd-dot", given)
    teacher_recipe = tmp_path / "teacher.toml"
    teacher_recipe.write_text(
        'extends = "quick/digits-teacher"\nstudent.model = "small/cnn8"\nschedule.epochs = 1\n'
    )
    recipe = recipe.model_copy(
        update={"teacher": recipe.teacher.model_copy(update={"recipe": str(teacher_recipe)})}
    )
    teacher = provide_teacher(recipe, tmp_path / "run" / "teacher")
    train(recipe, tmp_path / "run", teacher=teacher)
    run = tmp_path / "run"
    found = analyze([run], images=300, grid=3)[run]
    assert ("task" in found.sharpness) == (name != "simkd")
    splits = {part: on.split for part, on in found.measured_on.items()}
    of_losses = "train" if name == "crd" else "validation"
    assert splits == {**dict.fromkeys(("landscape", "sharpness"), of_losses), "quality": "validation",
                      "cost": "validation"}  # fmt: skip
    images = {part: on.images for part, on in found.measured_on.items()}
    held_out = 300 if name == "crd" else 200
    assert images == {"landscape": held_out, "sharpness": min(256, held_out), "quality": 200, "cost": 200}
    again = analyze([run], parts=["landscape", "sharpness", "quality"], images=300, grid=3)[run]
    assert again == found


UNUSUAL = """
import torch
from torch.utils.checkpoint import checkpoint


class Checkpointed(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.body = torch.nn.Linear(16, 16)

    def forward(self, hidden):
        if not hidden.requires_grad:
            return self.body(hidden)
        return checkpoint(self.body, hidden, use_reentrant=True)


def net(middle, num_classes):
    first, last = torch.nn.Linear(64, 16), torch.nn.Linear(16, num_classes)
    return torch.nn.Sequential(torch.nn.Flatten(), first, middle, last)


def hardsigmoid(num_classes):
    return net(torch.nn.Hardsigmoid(), num_classes)


def reentrant(num_classes):
    return net(Checkpointed(), num_classes)
"""
MISSING = {  # the part or number that torch cannot compute, and a word of the reason
    "hardsigmoid": {"sharpness": "hardsigmoid_backward"},
    "reentrant": {"sharpness": "use_reentrant", "quality.robustness.fgsm": "use_reentrant"},
}


@slow
@pytest.mark.parametrize("kind", MISSING)
def test_a_part_that_cannot_be_measured_has_a_reason_and_the_others_stay(kind, tmp_path, monkeypatch, capsys):
    from dotkd.cli import main

    (tmp_path / "unusual.py").write_text(UNUSUAL)
    monkeypatch.chdir(tmp_path)
    recipe = load_recipe("quick/digits-plain", ["schedule.epochs=1", f"student.model=unusual:{kind}"])
    results = train(recipe, tmp_path / "run")
    (tmp_path / "own.toml").write_text('extends = "run/recipe.toml"\n')
    words = ["analyze", "run", "--recipe", "own.toml", "--images", "200", "--grid", "3"]
    monkeypatch.setattr(sys, "argv", ["dotkd", *words])
    with pytest.raises(SystemExit) as ended:
        main()
    assert not ended.value.code
    said = " ".join(capsys.readouterr().out.split())
    found = read_record(tmp_path / "run" / ANALYSIS, Analysis)
    assert found.reasons.keys() == MISSING[kind].keys()
    for what, word in MISSING[kind].items():
        assert word in found.reasons[what]
        assert f"no {what}: {found.reasons[what][:40]}" in said
    assert found.sharpness is None
    assert found.landscape.task[1][1] == pytest.approx(found.quality.nll, rel=1e-5)
    assert found.quality.nll == pytest.approx(results.last.validation_loss, rel=1e-5)
    assert found.cost.parameters == results.parameters
    attacked = found.quality.robustness["fgsm"].accuracy
    assert (attacked is None) == ("quality.robustness.fgsm" in MISSING[kind])
    again = analyze([tmp_path / "run"], recipe, parts=["cost"])[tmp_path / "run"]
    assert again.reasons == found.reasons  # of parts that are not measured anew
    page = " ".join(write_report(tmp_path / "run").read_text().split())
    assert f"plain, seed 0: no sharpness ({found.reasons['sharpness'][:20]}" in page


@slow
def test_what_cannot_be_analyzed(folder, tmp_path):
    with pytest.raises(BadInput, match="not the folder of a finished run"):
        analyze([tmp_path])
    run = folder / "kd-dot" / "seed-0"
    with pytest.raises(BadInput, match=r"grid .*odd .*at least 3, got 4"):
        analyze([run], grid=4)
    shutil.copytree(run, tmp_path / "away" / "kd-dot" / "seed-0")
    with pytest.raises(BadInput, match=r"its teacher \(checksum [0-9a-f]{16}\) is in none of"):
        analyze([tmp_path / "away" / "kd-dot" / "seed-0"])


@slow
def test_the_command_line(folder, capsys, monkeypatch):
    from dotkd.cli import main

    first, other = (str(folder / arm / "seed-0") for arm in ("plain", "kd-dot"))
    words = ["analyze", first, other, "--parts", "cost,interpolation", "--images", "20"]
    monkeypatch.setattr(sys, "argv", ["dotkd", *words])
    with pytest.raises(SystemExit) as ended:
        main()
    said = capsys.readouterr()
    assert not ended.value.code, said.err
    assert said.out.count("analysis.json") == 2
    assert "no line from" not in said.out
