"""The run folder: files whole or not at all, typed records, and broken files named with their key."""

import json
from pathlib import Path

import pytest

from dotkd import runs
from dotkd.errors import BadInput
from dotkd.records import EpochMetrics, EpochScores, Quality, Results, Sweep, SweptArm, WorstClass

RECIPE = 'name = "plain"\n[run]\nseed = 3\n'
METRICS = [{"epoch": epoch, "lr": 0.1, "train_task_loss": 1.0} for epoch in (1, 2)]
RESULTS = {
    "name": "plain",
    "seed": 3,
    "seconds": 1.0,
    "parameters": 3,
    "last": {"epoch": 2, "test_accuracy": 0.5},
    "best": None,
}


def make(folder: Path, *, finished: bool = True, text: str = RECIPE) -> Path:
    folder.mkdir(parents=True)
    (folder / runs.RECIPE).write_text(text, encoding="utf-8")
    (folder / runs.ENVIRONMENT).write_text('{"torch": "2"}', encoding="utf-8")
    lines = "".join(json.dumps(line) + "\n" for line in METRICS)
    (folder / runs.METRICS).write_text(lines, encoding="utf-8")
    if finished:
        (folder / runs.RESULTS).write_text(json.dumps(RESULTS), encoding="utf-8")
        (folder / runs.STUDENT).write_bytes(b"")
    return folder


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


# ---------------------------------------------------------------- writing


def test_a_file_is_written_into_a_new_folder_and_nothing_beside_it(tmp_path: Path) -> None:
    runs.write_text(tmp_path / "a" / "b" / "x.txt", "é\n")
    assert (tmp_path / "a" / "b" / "x.txt").read_bytes() == "é\n".encode()
    assert files(tmp_path) == ["a/b/x.txt"]


@pytest.mark.parametrize("error", [ValueError, OSError, KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("old", ["old", None])
def test_a_writer_that_fails_leaves_the_old_file_and_no_rest(tmp_path: Path, error, old) -> None:
    path = tmp_path / "x.txt"
    if old is not None:
        path.write_text(old, encoding="utf-8")

    def write(beside: Path) -> None:
        assert beside.parent == path.parent, "a rename is whole only within a file system"
        beside.write_text("half of the n", encoding="utf-8")
        assert (path.read_text(encoding="utf-8") if path.exists() else None) == old
        raise error("full disk")

    with pytest.raises(error, match="full disk"):
        runs.write_atomically(path, write)
    assert files(tmp_path) == (["x.txt"] if old is not None else [])
    assert old is None or path.read_text(encoding="utf-8") == old


def test_a_writer_that_writes_nothing_leaves_the_old_file(tmp_path: Path) -> None:
    runs.write_text(tmp_path / "x.txt", "old")
    with pytest.raises(FileNotFoundError):
        runs.write_atomically(tmp_path / "x.txt", lambda _beside: None)
    assert (tmp_path / "x.txt").read_text(encoding="utf-8") == "old"


def test_a_new_file_replaces_the_old_one_in_one_move(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    runs.write_json(path, {"a": 1})
    with path.open(encoding="utf-8") as reader:  # who reads the old one reads it to its end
        runs.write_json(path, {"a": [2, None, "é"]})
        assert json.load(reader) == {"a": 1}
    assert json.loads(path.read_text(encoding="utf-8")) == {"a": [2, None, "é"]}
    assert files(tmp_path) == ["x.json"]


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_no_json_has_a_number_that_json_does_not_know(tmp_path: Path, number: float) -> None:
    runs.write_json(tmp_path / "x.json", 1)
    with pytest.raises(ValueError, match="JSON"):
        runs.write_json(tmp_path / "x.json", {"a": number})
    with pytest.raises(ValueError, match="JSON"):
        runs.append_line(tmp_path / runs.METRICS, {"a": number})
    assert (tmp_path / "x.json").read_text(encoding="utf-8") == "1\n"
    assert not (tmp_path / runs.METRICS).exists() or (tmp_path / runs.METRICS).read_bytes() == b""


# ---------------------------------------------------------------- records


RECORDS = [
    Results(name="KD", seed=0, parameters=3, seconds=1.0, last=EpochScores(epoch=2), best=None),
    Sweep(
        keys=("optimizer.lr",), arms=(SweptArm(name="KD 1", base="KD", values=(0.1,)),), unswept={"KD": (1,)}
    ),
    Quality(worst_classes=(WorstClass(name="cat", accuracy=0.5),), robustness={"blur": (0.9, None)}),
]


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: type(record).__name__)
def test_a_record_is_read_as_it_was_written(tmp_path: Path, record) -> None:
    runs.write_record(tmp_path / "x.json", record)
    assert runs.read_record(tmp_path / "x.json", type(record)) == record
    runs.append_record(tmp_path / "x.jsonl", record)
    runs.append_record(tmp_path / "x.jsonl", record)
    assert runs.read_records(tmp_path / "x.jsonl", type(record)) == (record, record)


def test_a_record_has_the_keys_of_its_file() -> None:
    assert WorstClass(name="cat").model_dump() == {"class": "cat", "accuracy": None, "count": None}


def test_a_number_that_is_not_finite_is_none(tmp_path: Path) -> None:
    assert EpochMetrics(epoch=1, lr=0.1, gradient_cosine=float("nan")).gradient_cosine is None
    (tmp_path / "x.jsonl").write_text('{"epoch": 1, "lr": 0.1}\n{"epoch": 2, "lr": NaN}\n')
    with pytest.raises(BadInput, match=r"x\.jsonl, line 2: broken: lr: must be a finite number"):
        runs.read_records(tmp_path / "x.jsonl", EpochMetrics)


# ---------------------------------------------------------------- metrics


def test_metrics_grow_by_a_line_and_are_cut_to_the_checkpoint(tmp_path: Path) -> None:
    for epoch in range(1, 5):
        runs.append_line(tmp_path / runs.METRICS, {"epoch": epoch, "name": "a\nb"})
    assert [line["epoch"] for line in runs.read_lines(tmp_path / runs.METRICS)] == [1, 2, 3, 4]
    for keep in (4, 2, 2, 0):
        runs.truncate_lines(tmp_path / runs.METRICS, keep)
        assert [line["epoch"] for line in runs.read_lines(tmp_path / runs.METRICS)] == list(
            range(1, keep + 1)
        )
    assert files(tmp_path) == [runs.METRICS]


def test_half_a_line_of_a_killed_run_goes(tmp_path: Path) -> None:
    (tmp_path / runs.METRICS).write_text('{"epoch": 1}\n{"epo', encoding="utf-8")
    with pytest.raises(BadInput, match=r"metrics\.jsonl: broken"):
        runs.read_lines(tmp_path / runs.METRICS)
    runs.truncate_lines(tmp_path / runs.METRICS, 1)
    assert runs.read_lines(tmp_path / runs.METRICS) == [{"epoch": 1}]


def test_a_line_separator_inside_a_text_is_no_new_epoch(tmp_path: Path) -> None:
    for note in ("a\u2028b", "c"):
        runs.append_line(tmp_path / runs.METRICS, {"note": note})
    runs.truncate_lines(tmp_path / runs.METRICS, 2)
    assert [line["note"] for line in runs.read_lines(tmp_path / runs.METRICS)] == ["a\u2028b", "c"]


def test_metrics_that_are_missing_cannot_be_cut(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"metrics\.jsonl: 0 epochs, but the checkpoint was written after 2"):
        runs.truncate_lines(tmp_path / runs.METRICS, 2)
    runs.append_line(tmp_path / runs.METRICS, {"epoch": 1})
    before = (tmp_path / runs.METRICS).read_bytes()
    with pytest.raises(BadInput, match="1 epochs, but"):
        runs.truncate_lines(tmp_path / runs.METRICS, 2)
    assert (tmp_path / runs.METRICS).read_bytes() == before


# ---------------------------------------------------------------- reading


def test_a_run_is_read_as_it_was_written(tmp_path: Path) -> None:
    run = runs.read_run(make(tmp_path / "r"))
    assert (run.path, run.name, run.seed, run.is_teacher) == (tmp_path / "r", "plain", 3, False)
    assert run.recipe_text == RECIPE
    assert run.metrics == tuple(EpochMetrics(**line) for line in METRICS)
    assert run.results == Results(**RESULTS | {"last": EpochScores(epoch=2, test_accuracy=0.5)})
    assert (run.gradients, run.analysis) == ((), None)
    assert run.environment == {"torch": "2"}


def test_runs_are_found_in_the_order_of_their_paths_with_the_teachers_marked(tmp_path: Path) -> None:
    for place in ("b/seed-1", "b/seed-0", "a/seed-0", "teachers/big-1234", "c/teacher"):
        make(tmp_path / place)
    make(tmp_path / "d" / "unfinished", finished=False)
    found = runs.find_runs(tmp_path)
    assert [(str(run.path.relative_to(tmp_path)), run.is_teacher) for run in found] == [
        ("a/seed-0", False),
        ("b/seed-0", False),
        ("b/seed-1", False),
        ("c/teacher", True),
        ("teachers/big-1234", True),
    ]


def test_a_run_with_its_own_teacher_inside(tmp_path: Path) -> None:
    make(tmp_path / "run")
    make(tmp_path / "run" / "teacher")
    assert [run.is_teacher for run in runs.find_runs(tmp_path / "run")] == [False, True]
    assert [run.is_teacher for run in runs.find_runs(tmp_path / "run" / "teacher")] == [False]


def test_a_folder_above_that_is_named_teacher_makes_no_teachers(tmp_path: Path) -> None:
    make(tmp_path / "teacher" / "runs" / "a")
    assert [run.is_teacher for run in runs.find_runs(tmp_path / "teacher" / "runs")] == [False]


@pytest.mark.parametrize("left_out", [runs.RESULTS, runs.STUDENT])
def test_a_run_without_its_end_is_not_finished(tmp_path: Path, left_out: str) -> None:
    folder = make(tmp_path / "r")
    assert runs.is_finished(folder)
    (folder / left_out).unlink()
    assert not runs.is_finished(folder)
    # Without its weights it can still be reported on.
    assert [run.path for run in runs.find_runs(tmp_path)] == ([folder] if left_out == runs.STUDENT else [])


def test_the_results_of_a_comparison_are_no_run(tmp_path: Path) -> None:
    folder = make(tmp_path / "arm" / "seed-0")
    (tmp_path / runs.RESULTS).write_text("{}")
    assert [run.path for run in runs.find_runs(tmp_path)] == [folder]


@pytest.mark.parametrize("file", [runs.RECIPE, runs.ENVIRONMENT, runs.METRICS, runs.RESULTS])
@pytest.mark.parametrize("content", [b"{", b"\xff\xfe\xff", b"<html>", None])
def test_a_broken_or_missing_file_is_named(tmp_path: Path, file: str, content: bytes | None) -> None:
    folder = make(tmp_path / "r")
    if content is None:
        (folder / file).unlink()
    else:
        (folder / file).write_bytes(content)
    with pytest.raises(BadInput, match=f"{file}(, line 1)?: (broken|cannot be read): "):
        runs.read_run(folder)


@pytest.mark.parametrize("file", [runs.ENVIRONMENT, runs.METRICS, runs.RESULTS])
@pytest.mark.parametrize("content", ["3", '"text"', "[1]", "null"])
def test_json_of_another_shape_is_broken_too(tmp_path: Path, file: str, content: str) -> None:
    folder = make(tmp_path / "r")
    (folder / file).write_text(content, encoding="utf-8")
    with pytest.raises(BadInput, match=f"{file}(, line 1)?: broken: must be an object"):
        runs.read_run(folder)


@pytest.mark.parametrize("missing", ["last", "best", "seconds", "parameters"])
def test_results_that_lack_something_are_broken(tmp_path: Path, missing: str) -> None:
    folder = make(tmp_path / "r")
    rest = {key: value for key, value in RESULTS.items() if key != missing}
    (folder / runs.RESULTS).write_text(json.dumps(rest), encoding="utf-8")
    with pytest.raises(BadInput, match=rf"results\.json: broken: {missing}: Field required"):
        runs.read_run(folder)


@pytest.mark.parametrize("value", ["0.9", {}, [], True, float("nan")])
@pytest.mark.parametrize(
    "place", [("last", "test_accuracy"), ("best", "epoch"), ("seconds",), ("parameters",)]
)
def test_what_is_no_number_in_the_results_is_named(
    tmp_path: Path, place: tuple[str, ...], value: object
) -> None:
    folder = make(tmp_path / "r")
    content = json.loads(json.dumps(RESULTS | {"best": RESULTS["last"]}))
    inner = content[place[0]] if len(place) > 1 else content
    inner[place[-1]] = value
    (folder / runs.RESULTS).write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(BadInput, match=rf"results\.json: broken: {'.'.join(place)}: must be a "):
        runs.read_run(folder)


def test_a_finished_run_without_an_epoch_is_broken(tmp_path: Path) -> None:
    folder = make(tmp_path / "r")
    (folder / runs.METRICS).write_text("", encoding="utf-8")
    with pytest.raises(BadInput, match=r"metrics\.jsonl: broken: it has no epoch"):
        runs.read_run(folder)


@pytest.mark.parametrize("text", ["", 'name = "x"', "name = 'x'\nrun = 3", "name='x'\n[run]\nseed = 'a'"])
def test_a_recipe_without_name_or_seed_is_no_recipe_of_a_run(tmp_path: Path, text: str) -> None:
    with pytest.raises(BadInput, match=r"recipe\.toml: not the recipe of a run: it lacks a name or a seed"):
        runs.read_run(make(tmp_path / "r", text=text))


def test_no_folder(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="no folder"):
        runs.find_runs(tmp_path / "gone")
    assert runs.find_runs(tmp_path) == []
