"""What the user gave is wrong: exit code 2, a few lines that say so, and nothing written."""

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
import typer
from safetensors.torch import load_file, save_file

from dotkd import runs
from dotkd.cli import app

PLAIN, DOT = "quick/digits-plain", "quick/digits-kd-dot"
TINY = ["student.model=small/mlp16", "schedule.epochs=1"]


@pytest.fixture
def refused(dotkd, content, tmp_path, monkeypatch):
    """Run a command that must be refused without a trace; return what it says."""
    monkeypatch.chdir(tmp_path)

    def run(*words: object, says: str, lines: int = 2) -> str:
        before = content(tmp_path)
        code, out, err = dotkd(*words)
        assert code == 2, (code, out, err)
        assert "Traceback" not in out + err
        assert "pydantic" not in out + err
        assert err.startswith("dotkd: ")
        assert len(err.splitlines()) <= lines, err
        assert re.search(says, err), err
        assert content(tmp_path) == before
        return err

    return run


@pytest.fixture
def run(finished, tmp_path) -> Path:
    """A finished run of one's own."""
    return Path(shutil.copytree(finished, tmp_path / "run"))


@pytest.fixture
def stopped(run) -> Path:
    """A run that has a checkpoint but no end."""
    (run / runs.RESULTS).unlink()
    (run / runs.STUDENT).unlink()
    return run


# ---------------------------------------------------------------- recipes

MISTAKES = [
    (["optimiser.lr=1"], "optimiser: unknown key; did you mean 'optimizer'"),
    (
        ["optimizer.name=adam"],
        r"optimizer\.name: unknown optimizer 'adam'; did you mean 'adamw'\? \(known: sgd, dot, .*dot-adamw\)",
    ),
    (["method.name=kdd"], r"method\.name: unknown method 'kdd'; nearest: 'd?kd'"),
    (["student.model=mlp16"], r"student\.model: unknown model 'mlp16'; nearest: 'small/mlp16'"),
    (["data.name=mnist"], r"data\.name: unknown data set 'mnist'"),
    (["optimizer.lr=-1"], r"optimizer\.lr: must .*, got -1"),
    (["optimizer.lr='1'"], r"optimizer\.lr: must be a number, got '1'"),
    (["optimizer.delta=0.5"], r"momentum=0\.9 and delta=0\.5"),
    (["optimizer.nesterov=true", "optimizer.momentum=0", "optimizer.delta=0"], "nesterov .* momentum > 0"),
    (["method.task_weight=0", "method.distill_weight=0"], r"task_weight .*distill_weight are both 0"),
    (["schedule.warmup=99"], "warmup must end before epochs"),
    (["student.mean=[1]"], "mean and std must have one number for each channel"),
    (["data.root=somewhere"], r"root must be '' for digits"),
    (["data.train_images=50"], "train_images must be 0 for digits"),
    (["data.validation=1400"], "validation must be an integer from 0 to 1399, got 1400"),
    (["run.device=cuda:99"], r"run\.device: no device 'cuda:99' here"),
    (["run.device=mps"], r"run\.device: must be 'auto', 'cpu', 'cuda' or 'cuda:N', got 'mps'"),
    (["student.checkpoint=gone.safetensors"], r"no file '.*gone\.safetensors'"),
    (["teacher.checkpoint=gone.safetensors"], r"no file '.*gone\.safetensors'"),
    (["teacher.recipe=quick/gone"], "no recipe 'quick/gone'"),
    (["teacher.recipe=quick/digits-kd"], r"teacher\.recipe: quick/digits-kd has a teacher itself"),
    (["teacher.recipe=quick/cifar100-cpu-teacher"], r"teacher\.recipe: .* is for cifar100"),
]


@pytest.mark.parametrize(("overrides", "says"), MISTAKES, ids=[row[0][0] for row in MISTAKES])
@pytest.mark.parametrize("verb", ["train", "compare"])
def test_mistakes_in_a_recipe(refused, verb: str, overrides: list[str], says: str) -> None:
    refused(verb, DOT, *overrides, "--output", "out", says=says)


def test_an_override_without_a_value(refused) -> None:
    refused("train", DOT, "lr", "-o", "out", says="'lr' is no override: write table.key=value")
    refused("compare", DOT, "lr", "-o", "out", says="no recipe 'lr'")


# ---------------------------------------------------------------- what is read is used


def options() -> list[tuple[str, str]]:
    """Every option of every verb that takes a value."""
    found = []
    for name, command in typer.main.get_command(app).commands.items():
        given = [param for param in command.params if param.param_type_name == "option"]
        found += [(name, param.opts[0]) for param in given if not (param.is_flag or param.multiple)]
    return found


@pytest.mark.parametrize(("verb", "option"), options())
def test_an_option_that_is_given_twice(dotkd, verb: str, option: str) -> None:
    code, _, err = dotkd(verb, option, "1", option, "1", "here")
    assert code == 2
    assert f"{option} is given 2 times" in err


def test_a_short_name_and_a_long_one_are_one_option(dotkd) -> None:
    code, _, err = dotkd("train", PLAIN, "-o", "one", "--output", "two")
    assert code == 2
    assert "--output is given 2 times" in err


UNUSED = [
    (["train", DOT, "optimizer.lr=1", "optimizer.lr=2", "-o", "out"], r"optimizer\.lr: is given 2 times"),
    (["compare", DOT, "name=a", "run.threads=1", "name=b", "-o", "out"], "name: is given 2 times"),
    (["recipes", "show", DOT, "run.seed=1", "run.seed=1"], r"run\.seed: is given 2 times"),
    (["compare", DOT, "--tune-seeds", "2", "-o", "out"], "--tune-seeds 2: .*--tune-lr"),
    (
        ["compare", DOT, "optimizer.lr=1", "--tune-lr", "1,2", "-o", "out"],
        r"optimizer\.lr and --tune-lr ",
    ),
    (["recipes", "--only", "quick", "show", DOT], "--only quick: .*show"),
    (
        ["train", DOT, "student.model=timm:resnet18@pretrained", "student.checkpoint=a.pth", "-o", "out"],
        r"student: checkpoint has the weights, .*'timm:resnet18@pretrained'.* take 'timm:resnet18'",
    ),
    (
        ["train", DOT, "teacher.model=timm:resnet18@pretrained", "teacher.checkpoint=a.pth", "-o", "out"],
        r"teacher: checkpoint has the weights, .*'timm:resnet18@pretrained'.* take 'timm:resnet18'",
    ),
]


@pytest.mark.parametrize(("words", "says"), UNUSED, ids=[row[1] for row in UNUSED])
def test_what_would_not_be_used(refused, words: list[str], says: str) -> None:
    refused(*words, says=says)


def test_a_grid_without_a_landscape(refused, run) -> None:
    refused("analyze", run, "--parts", "cost,quality", "--grid", "5", says="--grid 5: .*landscape")


def test_several_mistakes_are_told_at_once(refused) -> None:
    err = refused("recipes", "show", DOT, "data.sed=1", "run.seed=x", "optimizer.lr=-1", says="seed", lines=3)
    assert len(err.splitlines()) == 3


@pytest.mark.parametrize("verb", ["train", "compare"])
def test_missing_recipe(refused, verb: str) -> None:
    refused(
        verb,
        "quick/digits-kdd",
        "-o",
        "out",
        says="no recipe 'quick/digits-kdd'.*did you mean 'quick/digits-kd",
    )
    refused(
        verb, "mine.toml", "-o", "out", says=r"no recipe 'mine\.toml': neither a file nor a shipped recipe"
    )


def test_two_arms_of_one_name_and_an_arm_in_the_place_of_the_teachers(refused) -> None:
    refused("compare", PLAIN, PLAIN, "-o", "out", says="'plain' and 'plain' would share the folder 'plain'")
    refused("compare", PLAIN, "name=Teachers", "-o", "out", says="name 'Teachers'.*reserved")


def test_a_comparison_of_nothing(refused) -> None:
    refused("compare", "optimizer.lr=0.1", "-o", "out", says="recipe")


# ---------------------------------------------------------------- output folders


@pytest.mark.parametrize("words", [["train", PLAIN], ["compare", PLAIN, "--seeds", "1"], ["demo"]])
def test_output_that_is_a_file(refused, tmp_path, words) -> None:
    (tmp_path / "out").write_text("mine", encoding="utf-8")
    tiny = TINY if words[0] != "demo" else []
    refused(*words, *tiny, "--output", "out", says="out.* (is a file|[Nn]ot a directory)")


def test_an_existing_run_is_not_overwritten(refused, run) -> None:
    refused("train", PLAIN, *TINY, "-o", run, says="holds a run already: .*--resume")


@pytest.mark.parametrize("resume", [[], ["--resume"]])
def test_a_folder_of_another_recipe(refused, run, resume) -> None:
    refused("train", PLAIN, *TINY, "optimizer.lr=0.5", "-o", run, *resume, says="holds a run")


def test_a_comparison_over_another_one(refused, finished, tmp_path) -> None:
    shutil.copytree(finished, tmp_path / "out" / "plain" / "seed-0")
    says = "holds a run of another recipe"
    refused("compare", PLAIN, *TINY, "optimizer.lr=0.5", "--seeds", "1", "-o", "out", says=says)


# ---------------------------------------------------------------- files that are no data


class Payload:
    """Pickled, it makes a file when it is read by an unpickler that runs code."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self):
        return Path.touch, (self.target,)


def wicked(path: Path, target: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"objective": {}, "epoch": 0, "code": Payload(target)}, path)
    torch.load(path, weights_only=False)  # it does run where it is allowed to
    assert target.exists()
    target.unlink()


@pytest.mark.parametrize("key", ["teacher.checkpoint", "student.checkpoint"])
def test_a_pickle_as_checkpoint_of_a_recipe_does_not_run(refused, tmp_path, key) -> None:
    wicked(tmp_path / "evil.pt", tmp_path / "ran")
    says = r"evil\.pt: has no recipe in it; .*--recipe"
    for own in ([], ["teacher.model=small/mlp16"]):
        given = [f"{key}=evil.pt", *(own if key == "teacher.checkpoint" else [])]
        code = r"evil\.pt: refused, loading it would run code"
        refused(
            "train",
            DOT,
            *TINY,
            *given,
            "-o",
            "out",
            says=code if len(given) > 1 or "student" in key else says,
        )
    refused("evaluate", "evil.pt", says=says)
    refused("export", "evil.pt", "-o", "x.onnx", "-f", "onnx", says=says)
    assert not (tmp_path / "ran").exists()


def test_a_pickle_as_checkpoint_of_a_run_does_not_run(refused, stopped, tmp_path) -> None:
    wicked(stopped / runs.LAST, tmp_path / "ran")
    says = r"last\.pt: not a checkpoint of a run"
    refused("train", PLAIN, *TINY, "-o", stopped, "--resume", says=says)
    assert not (tmp_path / "ran").exists()


JUNK = {
    "empty": b"",
    "text": b"hello, this is a text\n",
    "zip": b"PK\x03\x04" + bytes(40),
    "pop from an empty stack": b"R.",
    "get from an empty memo": b"\x80\x02]s.",
    "half a number": b"\x80\x02K\x01J\x01",
}


@pytest.mark.parametrize("junk", JUNK.values(), ids=JUNK)
def test_junk_as_checkpoint_of_a_run(refused, stopped, junk: bytes) -> None:
    (stopped / runs.LAST).write_bytes(junk)
    says = r"last\.pt: not a checkpoint"
    refused("train", PLAIN, *TINY, "-o", stopped, "--resume", says=says)


@pytest.mark.parametrize("share", [0.01, 0.5, 0.99])
def test_a_truncated_checkpoint(refused, stopped, share: float) -> None:
    whole = (stopped / runs.LAST).read_bytes()
    (stopped / runs.LAST).write_bytes(whole[: int(share * len(whole))])
    refused("train", PLAIN, *TINY, "-o", stopped, "--resume", says=r"last\.pt: not a checkpoint")


def test_a_checkpoint_of_another_student(refused, stopped, tmp_path, dotkd) -> None:
    assert (
        dotkd("train", PLAIN, "student.model=small/mlp32", "schedule.epochs=1", "-o", tmp_path / "b").code
        == 0
    )
    shutil.copy(tmp_path / "b" / runs.LAST, stopped / runs.LAST)
    refused("train", PLAIN, *TINY, "-o", stopped, "--resume", says=r"last\.pt: not a checkpoint of this run")


@pytest.mark.parametrize("other", ["run.seed=1", "optimizer.nesterov=true", "schedule.epochs=2"])
def test_a_checkpoint_of_another_recipe_of_the_same_student(refused, stopped, tmp_path, dotkd, other) -> None:
    others = [word for word in TINY if word.partition("=")[0] != other.partition("=")[0]]
    assert dotkd("train", PLAIN, *others, other, "-o", tmp_path / "b").code == 0
    shutil.copy(tmp_path / "b" / runs.LAST, stopped / runs.LAST)
    refused("train", PLAIN, *TINY, "-o", stopped, "--resume", says=r"last\.pt: not a checkpoint of this run")


@pytest.mark.parametrize(
    "change", [{"optimizer": {}}, {"optimizer": 3}, {"order": None}, {"epoch": "x"}, {"best": 3}]
)
def test_a_checkpoint_with_a_part_that_is_wrong(refused, stopped, change) -> None:
    state = torch.load(stopped / runs.LAST, weights_only=True)
    torch.save(state | change, stopped / runs.LAST)
    refused("train", PLAIN, *TINY, "-o", stopped, "--resume", says=r"last\.pt: not a checkpoint of this run")


@pytest.mark.parametrize(
    "junk", [*JUNK.values(), b"\xff" * 8 + b"{}", (8).to_bytes(8, "little") + b"notjson!"]
)
def test_junk_as_student(refused, run, junk: bytes) -> None:
    (run / runs.STUDENT).write_bytes(junk)
    says = r"student\.safetensors: not a safetensors file"
    refused("evaluate", run, says=says)
    refused("export", run, "-o", "x", says=says)
    refused("train", DOT, *TINY, f"teacher.checkpoint={run / runs.STUDENT}", "-o", "out", says=says)


def test_a_student_that_no_run_wrote(refused, run) -> None:
    path = run / runs.STUDENT
    weights = load_file(path)
    save_file(weights, path)
    refused("evaluate", run, says="has no recipe in it; .*--recipe for evaluate")
    save_file(weights, path, metadata={"recipe": "name = "})
    refused("evaluate", run, says=r"student\.safetensors, recipe: not valid TOML")
    text = (run / runs.RECIPE).read_text(encoding="utf-8")
    save_file(weights, path, metadata={"recipe": text.replace("mlp16", "mlp64")})
    refused(
        "evaluate", run, says=r"does not fit MLP: other shape: hidden\.weight \[16, 64\], wanted \[64, 64\]"
    )


@pytest.mark.parametrize("verb", ["evaluate", "export"])
def test_no_student(refused, tmp_path, verb) -> None:
    (tmp_path / "empty").mkdir()
    words = ["-o", "x"] if verb == "export" else []
    refused(
        verb, "gone", *words, says="no file 'gone': wanted a student.safetensors or the folder of a finished"
    )
    refused(verb, "empty", *words, says=r"no file '.*student\.safetensors'")


def test_options_of_evaluate_and_export(refused, run) -> None:
    refused("export", run, "-o", "x", "--format", "onx", says=r"unknown format 'onx' \(known: .*onnx\)")
    refused("export", run, "-o", run, says="[Ii]s a (directory|folder)")
    refused("export", run, "-o", run / runs.RECIPE / "x", says="recipe.toml")
    refused("evaluate", run, "--root", "somewhere", says="root must be '' for digits")
    refused("evaluate", run, "--device", "cuda:99", says="no device 'cuda:99' here")


@pytest.mark.parametrize("device", ["gpu", "cuda:x", ""])
def test_a_device_that_is_none(refused, run, device) -> None:
    refused("evaluate", run, "--device", device, says=f"device.*'{device}'")


# ---------------------------------------------------------------- reports


def test_nothing_to_report_on(refused, tmp_path) -> None:
    (tmp_path / "empty").mkdir()
    refused("report", "empty", says="empty: no finished run in this folder or below it")
    refused("report", "gone", says="no folder 'gone'")
    (tmp_path / "file").touch()
    refused("report", "file", says="no folder 'file'")


@pytest.mark.parametrize("file", [runs.RESULTS, runs.ENVIRONMENT, runs.METRICS, runs.RECIPE])
@pytest.mark.parametrize("text", ["{", "\udcff", "3", "[]", '"x"', ""])
def test_a_broken_file_of_a_run_is_named(refused, run, file, text) -> None:
    (run / file).write_bytes(text.encode(errors="surrogateescape"))
    refused("report", run, says=rf"run/{re.escape(file)}(, line \d+)?: ")


@pytest.mark.parametrize("key", ["last", "seconds"])
def test_results_that_lack_a_number(refused, run, key) -> None:
    results = json.loads((run / runs.RESULTS).read_text(encoding="utf-8"))
    del results[key]
    (run / runs.RESULTS).write_text(json.dumps(results), encoding="utf-8")
    refused("report", run, says=key)


# ---------------------------------------------------------------- words of the command line


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["trian", PLAIN], "trian"),
        (["train", PLAIN, "--outptu", "x"], "--outptu"),
        (["train"], "RECIPE"),
        (["compare", PLAIN, "--seeds", "0"], "'--seeds'"),
        (["compare", PLAIN, "--seeds", "x"], "'--seeds'"),
        (["recipes", "shwo", PLAIN], "shwo"),
        (["export", "run"], "--output"),
    ],
)
def test_unknown_words(dotkd, content, tmp_path, monkeypatch, words, says) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "120")
    code, out, err = dotkd(*words)
    assert code == 2
    assert out == ""
    assert says in err
    assert "Traceback" not in err
    assert len(err.splitlines()) <= 6
    assert content(tmp_path) == {".": None}
