"""From files and overrides to a recipe, and back to the text of a file."""

import re
import tomllib
from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from dotkd.errors import BadInput
from dotkd.recipe import differing_keys, load_recipe, parse_recipe, recipe_names, recipe_text
from dotkd.recipe.load import make_recipe, recipe_folder
from dotkd.recipe.tables import DOTTable, Run

KD, DOT, PLAIN = "quick/digits-kd", "quick/digits-kd-dot", "quick/digits-plain"

WHOLE = """
name = "mine"
[data]
name = "digits"
validation = 200
batch_size = 128
[student]
model = "small/mlp16"
[optimizer]
name = "sgd"
lr = 0.03
[schedule]
name = "constant"
epochs = 3
"""


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


# ---------------------------------------------------------------- there and back


@pytest.mark.parametrize("name", recipe_names())
def test_shipped_recipe_survives_its_own_text(name: str, tmp_path: Path) -> None:
    recipe = load_recipe(name)
    text = recipe_text(recipe)
    assert parse_recipe(text, "text") == recipe
    assert recipe_text(parse_recipe(text, "text")) == text
    again = load_recipe(write(tmp_path / "elsewhere" / "r.toml", text))
    assert again == recipe
    assert recipe_text(again) == text


def test_every_shipped_file_is_a_recipe_or_a_part_of_one() -> None:
    files = {
        p.relative_to(recipe_folder()).with_suffix("").as_posix() for p in recipe_folder().rglob("*.toml")
    }
    assert {name for name in files if not name.rpartition("/")[2].startswith("_")} == set(recipe_names())
    assert {KD, DOT, PLAIN, "quick/digits-kd-control", "quick/digits-teacher"} <= set(recipe_names())


def test_resolved_text_has_all_defaults_and_no_base() -> None:
    raw = tomllib.loads(recipe_text(load_recipe(DOT, ["optimizer.lr=0.07", "run.threads=1"])))
    assert "extends" not in raw
    assert raw["optimizer"].keys() == set(DOTTable.model_fields) - {"clip_grad_norm"}  # None: no clipping
    assert (raw["optimizer"]["lr"], raw["optimizer"]["nesterov"]) == (0.07, False)
    assert raw["run"] == Run(threads=1).model_dump()
    assert (raw["run"]["precision"], raw["run"]["seed"]) == ("fp32", 0)
    assert raw["method"]["standardize"] is False


share = st.floats(0, 1)
rate = st.floats(0, 1e9)
seed = st.integers(0, 2**63 - 1)
count = st.integers(1, 10**6)
name = st.text(st.characters(codec="utf-8"), min_size=1, max_size=8)


@st.composite
def schedules(draw):
    epochs = draw(st.integers(2, 500))
    table = {"epochs": epochs, "warmup": draw(st.integers(0, epochs - 1))}
    kind = draw(st.sampled_from(["constant", "step", "cosine"]))
    if kind == "step":
        drops = draw(st.sets(st.integers(1, epochs - 1), max_size=4))
        table |= {"milestones": sorted(drops), "gamma": draw(st.floats(1e-9, 1))}
    return {"name": kind, **table}


@st.composite
def contents(draw):
    low, high = sorted((draw(st.floats(0, 0.999)), draw(st.floats(0, 0.999))))
    momentum, delta = (low + high) / 2, (high - low) / 2
    assume(momentum - delta >= 0)
    optimizer = {
        "lr": draw(rate),
        "momentum": momentum,
        "weight_decay": draw(rate),
        "nesterov": draw(st.booleans()),
    }
    if draw(st.booleans()):
        optimizer["clip_grad_norm"] = draw(st.floats(1e-9, 1e9))
    raw = {
        "name": draw(name),
        "data": {
            "name": "digits",
            "validation": draw(st.integers(0, 1399)),
            "label_noise": draw(share),
            "batch_size": draw(count),
            "seed": draw(seed),
            "augment": draw(st.sampled_from([[], ["crop-flip:4"], ["rotate:20", "flip", "mixup:0.2"]])),
        },
        "student": {"model": "small/mlp16"},
        "schedule": draw(schedules()),
        "run": {
            "seed": draw(seed),
            "precision": draw(st.sampled_from(["fp32", "bf16"])),
            "device": draw(st.sampled_from(["auto", "cpu", "cuda", "cuda:1"])),
            "threads": draw(st.integers(0, 64)),
        },
    }
    if draw(st.booleans()):
        raw["student"] |= {"mean": [draw(st.floats(-1, 1))], "std": [draw(st.floats(1e-6, 10))]}
    if not draw(st.booleans()):
        return {**raw, "optimizer": {"name": "sgd", **optimizer}}
    kind = draw(st.sampled_from(["dot", "control"]))
    return {
        **raw,
        "teacher": {"checkpoint": draw(name)},
        "method": {"name": "kd", "temperature": draw(st.floats(1e-3, 1e3)), "task_weight": draw(rate)},
        "optimizer": {"name": kind, "delta": delta, **optimizer},
    }


@given(contents())
def test_any_recipe_survives_its_own_text(raw) -> None:
    recipe = make_recipe(raw, "here")
    text = recipe_text(recipe)
    again = parse_recipe(text, "there")
    assert again == recipe
    assert recipe_text(again) == text
    for table, values in raw.items():  # and says what was asked for
        dumped = again.model_dump()[table]
        for key, value in values.items() if isinstance(values, dict) else ():
            assert (list(dumped[key]) if isinstance(value, list) else dumped[key]) == value


# ---------------------------------------------------------------- extends


def test_overlay_goes_key_by_key_and_the_nearest_file_wins(tmp_path: Path) -> None:
    write(tmp_path / "a.toml", WHOLE + "\n[run]\nseed = 1\nthreads = 2\n")
    write(tmp_path / "b.toml", 'extends = "a.toml"\n[run]\nseed = 5\n[optimizer]\nlr = 0.5\nmomentum = 0.5\n')
    path = write(tmp_path / "c.toml", 'extends = "b.toml"\nname = "c"\n[optimizer]\nlr = 0.7\n')
    recipe = load_recipe(path, ["optimizer.weight_decay=1", "optimizer.weight_decay=2"])
    assert (recipe.name, recipe.run.seed, recipe.run.threads) == ("c", 5, 2)
    assert (recipe.optimizer.lr, recipe.optimizer.momentum, recipe.optimizer.weight_decay) == (0.7, 0.5, 2.0)
    assert load_recipe(tmp_path / "b.toml").name == "mine"


def test_a_list_replaces_a_list(tmp_path: Path) -> None:
    step = 'name = "step"\nepochs = 9\nmilestones = [2, 4, 6]\n'
    write(tmp_path / "a.toml", WHOLE.partition("[schedule]")[0] + "[schedule]\n" + step)
    path = write(tmp_path / "b.toml", 'extends = "a.toml"\n[schedule]\nmilestones = [3]\n')
    assert load_recipe(path).schedule.milestones == (3,)


def test_base_in_another_folder_and_shipped_base(tmp_path: Path) -> None:
    write(tmp_path / "deep" / "base.toml", WHOLE)
    assert load_recipe(write(tmp_path / "sub" / "r.toml", 'extends = "../deep/base.toml"')).name == "mine"
    mine = load_recipe(write(tmp_path / "mine.toml", f'extends = "{KD}"\nname = "mine"'))
    assert mine == load_recipe(KD, ["name=mine"])


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"a.toml": 'extends = "a.toml"'}, r".*a\.toml: extends itself, by way of a\.toml"),
        (
            {
                "a.toml": 'extends = "b.toml"',
                "b.toml": 'extends = "c.toml"',
                "c.toml": 'extends = "./a.toml"',
            },
            r".*a\.toml: extends itself, by way of a\.toml -> b\.toml -> c\.toml",
        ),
        ({"a.toml": 'extends = "gone.toml"'}, r"no recipe 'gone\.toml'.*"),
        ({"a.toml": 'extends = "digits-kd"'}, r"no recipe 'digits-kd'.*did you mean 'quick/digits-kd'\?"),
        ({"a.toml": "extends = 3"}, r".*a\.toml: extends must be the path of one other recipe, got 3"),
        (
            {"a.toml": 'extends = ["b.toml"]'},
            r".*a\.toml: extends must be the path of one other recipe, got \['b\.toml'\]",
        ),
        ({"a.toml": 'extends = "b.toml"', "b.toml": "x = "}, r".*b\.toml: not valid TOML: .+"),
    ],
)
def test_bases_that_cannot_be(tmp_path: Path, files: dict[str, str], message: str) -> None:
    for file, text in files.items():
        write(tmp_path / file, text)
    with pytest.raises(BadInput) as error:
        load_recipe(tmp_path / "a.toml")
    assert re.fullmatch(message, str(error.value)), str(error.value)


def test_extends_is_no_key_of_a_table_or_an_override(tmp_path: Path) -> None:
    path = write(tmp_path / "a.toml", WHOLE + '\n[run]\nextends = "b.toml"\n')
    with pytest.raises(BadInput, match=r"run\.extends: unknown key"):
        load_recipe(path)
    with pytest.raises(BadInput, match="extends: unknown key"):
        load_recipe(KD, ["extends=quick/digits-plain"])


# ---------------------------------------------------------------- paths and names


def test_paths_are_relative_to_the_file_that_wrote_them(tmp_path: Path, monkeypatch) -> None:
    base = WHOLE + '\n[teacher]\nrecipe = "teach.toml"\n[method]\nname = "kd"\n'
    write(tmp_path / "base" / "teach.toml", WHOLE)
    write(tmp_path / "base" / "base.toml", base)
    write(tmp_path / "top" / "teach.toml", WHOLE)  # not this one
    write(tmp_path / "start.safetensors", "")
    write(
        tmp_path / "top" / "r.toml",
        'extends = "../base/base.toml"\n[student]\ncheckpoint = "../start.safetensors"\n[data]\nroot = "."\n',
    )
    monkeypatch.chdir(tmp_path / "top")
    for recipe in (load_recipe("r.toml"), load_recipe(tmp_path / "top" / "r.toml")):
        assert recipe.teacher.recipe == str((tmp_path / "base" / "teach.toml").resolve())
        assert recipe.student.checkpoint == str((tmp_path / "start.safetensors").resolve())
        assert recipe.data.root == str((tmp_path / "top").resolve())
    monkeypatch.chdir(tmp_path)
    assert load_recipe("top/r.toml") == recipe


def test_paths_in_overrides_are_relative_to_the_working_directory(tmp_path: Path, monkeypatch) -> None:
    write(tmp_path / "here" / "t.safetensors", "")
    write(tmp_path / "there" / "t.safetensors", "")
    write(tmp_path / "there" / "r.toml", WHOLE + '\n[method]\nname = "kd"\n')
    monkeypatch.chdir(tmp_path / "here")
    recipe = load_recipe("../there/r.toml", ["teacher.checkpoint=t.safetensors"])
    assert recipe.teacher.checkpoint == str((tmp_path / "here" / "t.safetensors").resolve())


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ("hf:vit", "hf:{base}/vit"),
        ("hf:vit@pretrained", "hf:{base}/vit@pretrained"),
        ("hf:./vit", "hf:{base}/vit"),
        ("hf:../nets/v i t@pretrained", "hf:{above}/nets/v i t@pretrained"),
        ("hf:owner/there", "hf:{base}/owner/there"),
        ("hf:owner/on-the-hub", "hf:owner/on-the-hub"),
        ("timm:resnet18@pretrained", "timm:resnet18@pretrained"),
        ("nets:make", "nets:make"),
    ],
)
def test_the_folder_of_a_model_is_relative_to_the_recipe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: str, found: str
) -> None:
    base = tmp_path / "recipes"
    (base / "owner" / "there").mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    wanted = found.format(base=base, above=tmp_path)
    (base / "w.pth").touch()
    weights = "" if given.endswith("@pretrained") else 'checkpoint = "w.pth"\n'
    text = f'extends = "{KD}"\n[student]\nmodel = "{given}"\n[teacher]\nmodel = "{given}"\n{weights}'
    recipe = load_recipe(write(base / "r.toml", text))
    assert (recipe.student.model, recipe.teacher.model) == (wanted, wanted)
    monkeypatch.chdir(base)
    assert load_recipe(PLAIN, [f"student.model={given}"]).student.model == wanted


@pytest.mark.parametrize("key", ["teacher.checkpoint", "student.checkpoint"])
def test_a_missing_checkpoint_is_not_taken_from_the_working_directory(
    tmp_path: Path, monkeypatch, key: str
) -> None:
    table, _, last = key.partition(".")
    text = WHOLE.replace("[student]\n", '[student]\ncheckpoint = "w.safetensors"\n')
    if table == "teacher":
        text = WHOLE + '\n[teacher]\ncheckpoint = "w.safetensors"\n[method]\nname = "kd"\n'
    write(tmp_path / "there" / "r.toml", text)
    write(tmp_path / "here" / "w.safetensors", "another file of the same name")
    monkeypatch.chdir(tmp_path / "here")
    given = getattr(getattr(load_recipe("../there/r.toml"), table), last)
    assert not Path(given).exists(), f"{given} in the working directory is not what the file meant"


def test_a_file_wins_over_a_shipped_name(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert load_recipe(KD).name == "KD"
    assert load_recipe("recipes/quick/digits-kd.toml").name == "KD"  # as it is called in a checkout
    write(tmp_path / "recipes" / "quick" / "digits-kd.toml", WHOLE)
    assert load_recipe("recipes/quick/digits-kd.toml").name == "mine"
    write(tmp_path / "quick" / "digits-kd", WHOLE)
    assert load_recipe(KD).name == "mine"


def test_a_part_of_other_recipes_is_no_name() -> None:
    assert not any(name.rpartition("/")[2].startswith("_") for name in recipe_names())
    with pytest.raises(BadInput, match="no recipe 'quick/_digits'"):
        load_recipe("quick/_digits")


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("quick/digits-kd-dott", "did you mean 'quick/digits-kd-dot'?"),
        ("digits-plain", "did you mean 'quick/digits-plain'?"),
        ("zzzz", "`dotkd recipes` lists those"),
    ],
)
def test_unknown_recipe_names_the_nearest(name: str, hint: str) -> None:
    with pytest.raises(BadInput) as error:
        load_recipe(name)
    assert str(error.value) == f"no recipe {name!r}: neither a file nor a shipped recipe; {hint}"


def test_a_folder_is_no_recipe(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="neither a file nor a shipped recipe"):
        load_recipe(tmp_path)


# ---------------------------------------------------------------- teachers


def test_the_later_teacher_replaces_the_earlier(tmp_path: Path) -> None:
    by_file = load_recipe(KD, ["teacher.checkpoint=t.safetensors"]).teacher
    assert by_file.recipe is None
    assert by_file.checkpoint == str(Path("t.safetensors").resolve())
    path = write(tmp_path / "r.toml", f'extends = "{KD}"\n[teacher]\ncheckpoint = "t.safetensors"\n')
    assert load_recipe(path).teacher.recipe is None
    by_recipe = load_recipe(path, ["teacher.recipe=quick/digits-plain"]).teacher
    assert (by_recipe.recipe, by_recipe.checkpoint) == ("quick/digits-plain", None)


def test_a_teacher_from_two_sources_in_one_file_is_refused(tmp_path: Path) -> None:
    both = f'extends = "{KD}"\n[teacher]\ncheckpoint = "t.safetensors"\nrecipe = "quick/digits-plain"\n'
    with pytest.raises(BadInput, match="exactly one of the keys 'recipe' and 'checkpoint'"):
        load_recipe(write(tmp_path / "r.toml", both))


def test_a_new_variant_takes_along_only_the_keys_that_it_reads_and_a_method_none():
    sgd = load_recipe("quick/digits-kd-dot", ["optimizer.name=sgd"]).optimizer
    assert (sgd.name, sgd.lr, sgd.weight_decay) == ("sgd", 0.05, 5e-4)
    dkd = load_recipe("quick/digits-kd", ["method.beta=2", "method.name=dkd"]).method
    assert (dkd["name"], dkd["beta"], dkd["task_weight"]) == ("dkd", 2, 1.0)
    with pytest.raises(BadInput, match=r"optimizer\.delta: unknown key of optimizer 'sgd'"):
        load_recipe("quick/digits-kd-dot", ["optimizer.name=sgd", "optimizer.delta=0.05"])


def test_a_key_that_is_younger_than_a_file_has_its_default():
    text = recipe_text(load_recipe("quick/digits-kd"))
    older = text.replace('precision = "fp32"\n', "").replace("nesterov = false\n", "")
    assert older.count("\n") == text.count("\n") - 2
    assert differing_keys(older, text) == differing_keys(text, older) == []
    assert differing_keys(older, text.replace("nesterov = false", "nesterov = true")) == [
        "optimizer.nesterov"
    ]


def test_what_is_no_recipe_here_is_compared_as_it_stands():
    assert differing_keys("[run]\nseed = 1\n", "[run]\nseed = 2\nnews = 3\n") == ["run.news", "run.seed"]
