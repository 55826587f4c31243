"""Every mistake in a recipe has a line that names the key, the value, what is right, and the nearest word."""

import re
from pathlib import Path

import pytest

from dotkd.errors import BadInput
from dotkd.methods import method_names, method_options
from dotkd.recipe import load_recipe, parse_recipe, recipe_text
from dotkd.recipe.tables import tables

DOT, PLAIN = "quick/digits-kd-dot", "quick/digits-plain"
STEP = ("schedule.name=step", "schedule.epochs=40")
KEYS = "name, data, student, teacher, method, optimizer, schedule, run, published"

# Words of the machinery, none of a recipe's author.
JARGON = re.compile(
    r"pydantic|Traceback|dictionary|object to extract|tuple|\bString\b|\bInput\b|\ba integer\b|NoneType|"
    r"should match|\^\(|Error\b"
)


def said(recipe: str | Path, *overrides: str) -> list[str]:
    """The lines about a recipe, without the name of the recipe before each."""
    with pytest.raises(BadInput) as error:
        load_recipe(recipe, overrides)
    lines = str(error.value).splitlines()
    assert [line for line in lines if not line.startswith(f"{recipe}: ")] == [], "a line without its source"
    return [line.removeprefix(f"{recipe}: ") for line in lines]


UNKNOWN_WORDS = [
    # misspelt keys: of the file, a table, a variant, a method
    (DOT, "optimiser.lr=1", rf"optimiser: unknown key; did you mean 'optimizer'\? \(known: {KEYS}\)"),
    (DOT, "nam=x", rf"nam: unknown key; did you mean 'name'\? \(known: {KEYS}\)"),
    (DOT, "zzz=3", rf"zzz: unknown key \(known: {KEYS}\)"),
    (DOT, "data.batchsize=3", r"data\.batchsize: unknown key; did you mean 'batch_size'\? \(known: .*seed\)"),
    (DOT, "student.modle=x", r"student\.modle: unknown key; did you mean 'model'\? .*checkpoint.*"),
    (DOT, "teacher.recipi=x", r"teacher\.recipi: unknown key; did you mean 'recipe'\? .*"),
    (DOT, "run.precison=x", r"run\.precison: unknown key; did you mean 'precision'\? .*"),
    (
        DOT,
        "optimizer.weigth_decay=1",
        r"optimizer\.weigth_decay: unknown key of optimizer 'dot'; did you mean 'weight_decay'\? .*delta.*\)",
    ),
    (PLAIN, "optimizer.delta=0.1", r"optimizer\.delta: unknown key of optimizer 'sgd' \(known: [^)]*\)"),
    (
        DOT,
        "schedule.milestones=[1]",
        r"schedule\.milestones: unknown key of schedule 'constant' \(known: name, epochs, warmup\)",
    ),
    (
        DOT,
        "method.temprature=1",
        r"method\.temprature: unknown key( of method 'kd')?; did you mean 'temperature'\? .*warmup\)",
    ),
    # names of things
    (
        DOT,
        "optimizer.name=dott",
        r"optimizer\.name: unknown optimizer 'dott'; did you mean 'dot'\? .*control.*",
    ),
    (
        DOT,
        "optimizer.name=adam",
        r"optimizer\.name: unknown optimizer 'adam'; did you mean 'adamw'\? \(known: sgd, dot, .*dot-adamw\)",
    ),
    (
        DOT,
        "schedule.name=cosin",
        r"schedule\.name: unknown schedule 'cosin'; did you mean 'cosine'\? .*step.*",
    ),
    (DOT, "method.name=kdd", r"method\.name: unknown method 'kdd'; nearest: 'd?kd' \(known: .*kd.*\)"),
    (
        DOT,
        "student.model=smal/mlp32",
        r"student\.model: unknown model 'smal/mlp32'; nearest: 'small/mlp32'.* \(known: .*\)",
    ),
    (
        DOT,
        "data.name=digit",
        r"data\.name: unknown data set 'digit'; nearest: 'digits' \(known: .*cifar100.*\)",
    ),
    (
        DOT,
        "data.augment=flipp",
        r"data\.augment: unknown step 'flipp'; nearest: 'flip' \(known: .*crop-flip.*\)",
    ),
    (
        DOT,
        "data.augment=['rotate:x']",
        r"data\.augment: the number of 'rotate' must be a number from 0 to 180, got 'rotate:x'",
    ),
    (
        DOT,
        "data.augment=['cutout:1.5']",
        r"data\.augment: the number of 'cutout' must be a whole number from 0 to 4096, .*",
    ),
    (DOT, "data.augment=['flip:1']", r"data\.augment: the number of 'flip' must be none, got 'flip:1'"),
    (
        DOT,
        "data.augment=['mixup','flip']",
        r"data\.augment: mixup:0.2 mixes labels and must be the last step, .*",
    ),
    (DOT, "run.precision=bf61", r"run\.precision: unknown value 'bf61'; did you mean 'bf16'\? .*fp32.*"),
    (DOT, "run.device=gpu", r"run\.device: .*auto.*cpu.*cuda.*'gpu'"),
    (DOT, "run.device=cuda:x", r"run\.device: .*auto.*cpu.*cuda.*'cuda:x'"),
]

WRONG_VALUES = [
    # types
    (DOT, "data.batch_size=1.5", r"data\.batch_size: must be an integer, got 1\.5"),
    (DOT, "data.batch_size='3'", r"data\.batch_size: must be an integer, got '3'"),
    (DOT, "data.batch_size=true", r"data\.batch_size: must be an integer, got [Tt]rue"),
    (DOT, "optimizer.lr='0.1'", r"optimizer\.lr: must be a number, got '0\.1'"),
    (DOT, "optimizer.lr=nan", r"optimizer\.lr: must be a finite number, got nan"),
    (DOT, "optimizer.lr=inf", r"optimizer\.lr: must be a finite number, got inf"),
    (DOT, "optimizer.nesterov=1", r"optimizer\.nesterov: must be .*(bool|true).*, got 1"),
    (DOT, "name=3", r"name: must be a string, got 3"),
    (DOT, "name=''", r"name: must .*(empty|character).*, got ''"),
    (DOT, "student.mean=0.1", r"student\.mean: must be a(n array| list).*, got 0\.1"),
    (DOT, "method.temperature='4'", r"method\.temperature: must be a number, got '4'"),
    # ranges
    (DOT, "optimizer.lr=-1", r"optimizer\.lr: must be (greater than or equal to|at least|>=) 0, got -1"),
    (DOT, "optimizer.momentum=1", r"optimizer\.momentum: must be (less than|below|<) 1, got 1"),
    (
        DOT,
        "optimizer.clip_grad_norm=0",
        r"optimizer\.clip_grad_norm: must be (greater than|above|>) 0, got 0",
    ),
    (DOT, "data.label_noise=2", r"data\.label_noise: must be (less than or equal to|at most|<=) 1, got 2"),
    (DOT, "data.seed=-1", r"data\.seed: must be .* 0, got -1"),
    (DOT, "schedule.epochs=0", r"schedule\.epochs: must be .* 1, got 0"),
    (DOT, "run.threads=-2", r"run\.threads: must be .* 0, got -2"),
    (DOT, "method.temperature=-1", r"method.*temperature must be a finite number > 0, got -1(\.0)?"),
    (DOT, "method.task_weight=-1", r"method.*task_weight must be a finite number >= 0, got -1(\.0)?"),
    (DOT, "method.warmup=2", r"method.*warmup must be a number from 0 to 1, got 2(\.0)?"),
    # not a table
    (DOT, "schedule=3", r"schedule: must be a table, got 3"),
    (DOT, "optimizer=sgd", r"optimizer: must be a table, got 'sgd'"),
    (DOT, "method=kd", r"method: must be a table, got 'kd'"),
    (DOT, "data=digits", r"data: must be a table, got 'digits'"),
    (DOT, "teacher=t", r"teacher: must be a table, got 't'"),
]

TOGETHER = [
    (
        DOT,
        ["optimizer.delta=0.2"],
        r"optimizer.*: momentum - delta and momentum \+ delta must both lie in \[0, 1\), .* 0\.7 and 1\.1",
    ),
    (DOT, ["optimizer.name=control", "optimizer.delta=-0.1"], r"optimizer.*momentum=0\.9 and delta=-0\.1.*"),
    (DOT, ["optimizer.name=dot-adamw", "optimizer.delta=0.2"], r"optimizer: .*0\.9 and delta=0\.2.*"),
    (
        DOT,
        ["optimizer.name=adamw", "optimizer.betas=[0.9, 1.0]"],
        r"optimizer\.betas: must be two numbers in \[0, 1\), got \[0\.9, 1\.0\]",
    ),
    (
        PLAIN,
        ["optimizer.name=dot-adamw", "optimizer.delta=0"],
        r"optimizer 'dot-adamw' needs .*: use 'adamw', .*",
    ),
    (DOT, ["schedule.warmup=40"], r"schedule.*: warmup must end before epochs = 40, got 40"),
    (
        DOT,
        ["schedule.name=cosine", "schedule.warmup=99"],
        r"schedule.*: warmup must end before .* = 40, got 99",
    ),
    (
        DOT,
        [*STEP, "schedule.milestones=[30, 20]"],
        r"schedule.*: milestones must rise and lie before epochs = 40, got \[30, 20\]",
    ),
    (DOT, [*STEP, "schedule.milestones=[9, 9]"], r"schedule.*: milestones must rise .*, got \[9, 9\]"),
    (DOT, [*STEP, "schedule.milestones=[40]"], r"schedule.*: .* lie before epochs = 40, got \[40\]"),
    (DOT, [*STEP, "schedule.milestones=[0]"], r"schedule\.milestones\.0: must be .* 1, got 0"),
    (DOT, [*STEP, "schedule.milestones=[1, 2.5]"], r"schedule\.milestones\.1: must be an integer, got 2\.5"),
    (DOT, [*STEP, "schedule.milestones=[1]", "schedule.gamma=0"], r"schedule\.gamma: must be .* 0, got 0"),
    (DOT, ["student.mean=[0.5]"], r"student.*: mean and std must have one number for each channel, .* \[\]"),
    (DOT, ["student.mean=[0.5]", "student.std=[0]"], r"student.*: .* std > 0, got \[0\.5\] and \[0\.0\]"),
    (
        DOT,
        ["student.mean=[1, 2, 3]", "student.std=[1, 1, 1]"],
        r"student\.mean must have one number for each channel, and digits has 1, got \[1\.0, 2\.0, 3\.0\]",
    ),
    (PLAIN, ["teacher.checkpoint=t"], r"\[teacher\] needs a \[method\]: .*"),
    (PLAIN, ["method.name=kd"], r"\[method\] needs a \[teacher\]: .*"),
    (PLAIN, ["method.temperature=2"], r"method\.name: .* missing, such as 'kd'"),
    (
        PLAIN,
        ["optimizer.name=dot", "optimizer.delta=0.05"],
        r"optimizer 'dot' needs two losses, but there is no \[teacher\] .*: use 'sgd', or add both",
    ),
    (PLAIN, ["optimizer.name=control", "optimizer.delta=0.05"], r"optimizer 'control' needs two losses, .*"),
    (PLAIN, ["optimizer.name=dot"], r"optimizer\.delta: missing, .*"),
    (DOT, STEP, r"schedule\.milestones: missing, .*"),
]
ROWS = [(recipe, [o], line) for recipe, o, line in UNKNOWN_WORDS + WRONG_VALUES] + TOGETHER


@pytest.mark.parametrize(("recipe", "overrides", "line"), ROWS, ids=[" ".join(row[1]) for row in ROWS])
def test_one_mistake_is_one_line(recipe: str, overrides: list[str], line: str) -> None:
    (found,) = said(recipe, *overrides)
    assert re.fullmatch(line, found), found
    assert not JARGON.search(found), found


# ---------------------------------------------------------------- by rule, so that no new key escapes


def places() -> list[tuple[str, list[str], str]]:
    """(table or nothing, overrides that choose it, key) of every key of every table and method."""
    choose = {
        ("optimizer", "sgd"): (PLAIN, []),
        ("published",): (DOT, ["published.accuracy=1.0", "published.source=a paper"]),
        ("optimizer", "control"): (DOT, ["optimizer.name=control"]),
        ("optimizer", "adamw"): (PLAIN, ["optimizer.name=adamw"]),
        ("optimizer", "dot-adamw"): (DOT, ["optimizer.name=dot-adamw"]),
        ("optimizer", "deepkd"): (DOT, ["optimizer.name=deepkd", "method.name=deepkd"]),
        ("schedule", "step"): (DOT, [*STEP, "schedule.milestones=[3]"]),
        ("schedule", "cosine"): (DOT, ["schedule.name=cosine"]),
    }
    found = []
    for place, table in tables().items():
        recipe, overrides = choose.get(place, (DOT, []))
        found += [(recipe, overrides, ".".join([*place[:1], key])) for key in table.model_fields]
    # A method of other options than KD's leaves those out.
    for name in method_names():
        table = f'extends = "{PLAIN}"\n[teacher]\ncheckpoint = "t"\n[method]\nname = "{name}"\n'
        found += [(table, [], f"method.{option}") for option in method_options(name)]
    return found


def source(recipe: str, tmp_path: Path) -> str | Path:
    if "\n" not in recipe:
        return recipe
    (tmp_path / "r.toml").write_text(recipe, encoding="utf-8")
    return tmp_path / "r.toml"


PLACES = places()
IDS = [f"{key} {' '.join(overrides[:1])}" for _, overrides, key in PLACES]


@pytest.mark.parametrize(("recipe", "overrides", "key"), PLACES, ids=IDS)
def test_a_letter_too_many_names_the_right_key(recipe, overrides, key, tmp_path) -> None:
    (line,) = said(source(recipe, tmp_path), *overrides, f"{key}x=1")
    assert line.startswith(f"{key}x: unknown key")
    assert f"did you mean '{key.rpartition('.')[2]}'?" in line


@pytest.mark.parametrize(("recipe", "overrides", "key"), PLACES, ids=IDS)
def test_a_value_of_no_possible_type_names_its_key(recipe, overrides, key, tmp_path) -> None:
    lines = said(source(recipe, tmp_path), *overrides, f"{key}=[[1]]")
    assert len(lines) == 1
    assert re.match(rf"{re.escape(key)}(\.0|\.name)?: ", lines[0]), lines
    assert "[" in lines[0], "the value is not named"


# ---------------------------------------------------------------- several, missing, and no TOML


def test_several_mistakes_are_several_lines() -> None:
    found = said(DOT, "optimiser.lr=1", "student.model=mlp", "data.seed=-1", "run.device=gpu", "name=1")
    assert len(found) == 5
    starts = ["optimiser: ", "student.model: ", "data.seed: ", "run.device: ", "name: "]
    assert all(sum(line.startswith(start) for line in found) == 1 for start in starts), found


def test_several_mistakes_in_a_method_are_several_lines_with_their_source() -> None:
    found = said(DOT, "method.temprature=1", "method.warmup='1'", "data.seed=-1")
    assert sorted(line.partition(":")[0] for line in found) == [
        "data.seed",
        "method.temprature",
        "method.warmup",
    ]


MISSING = {
    "": {"name", "data", "student", "optimizer", "schedule"},
    "name = 'x'": {"data", "student", "optimizer", "schedule"},
    f"extends = '{PLAIN}'\nname = 'x'": set(),
    "name='x'\n[data]\n[student]\n[optimizer]\n[schedule]": {
        *("data.name", "data.validation", "data.batch_size", "student.model"),
        *("optimizer.name", "schedule.name"),
    },
    "name='x'\n[data]\nname='digits'\nvalidation=1\nbatch_size=1\n[student]\nmodel='small/mlp16'\n[optimizer]\n"
    "name='dot'\n[schedule]\nname='step'": {
        *("optimizer.lr", "optimizer.delta"),
        *("schedule.epochs", "schedule.milestones"),
    },
}


@pytest.mark.parametrize(("text", "missing"), MISSING.items(), ids=range(len(MISSING)))
def test_what_is_missing_is_named(text: str, missing: set[str], tmp_path: Path) -> None:
    path = tmp_path / "r.toml"
    path.write_text(text, encoding="utf-8")
    if not missing:
        assert load_recipe(path).name == "x"
        return
    found = said(path)
    assert {line.partition(":")[0] for line in found} == missing
    assert all("missing" in line and not JARGON.search(line) for line in found)


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (b"name = ", r"not valid TOML: .+"),
        (b"name = 'x'\nname = 'y'\n\n", r"not valid TOML: .*line 2.*"),
        (b"[data\n", r"not valid TOML: .*line 1.*"),
        (b"\xff\xfe\x00", r"not valid TOML: .+"),
        (b"PK\x03\x04", r"not valid TOML: .+"),
    ],
)
def test_no_toml(content: bytes, line: str, tmp_path: Path) -> None:
    path = tmp_path / "r.toml"
    path.write_bytes(content)
    (found,) = said(path)
    assert re.fullmatch(line, found)


def test_a_resolved_text_that_is_broken_names_its_source() -> None:
    with pytest.raises(BadInput, match=r"^run/recipe\.toml: not valid TOML: "):
        parse_recipe("name = ", "run/recipe.toml")
    text = recipe_text(load_recipe(PLAIN)).replace('"small/', '"smal/')
    with pytest.raises(BadInput, match=r"^run/recipe\.toml: student\.model: unknown model 'smal/"):
        parse_recipe(text, "run/recipe.toml")
