"""Overrides of the command line are read as the file is, and as strictly."""

from pathlib import Path

import pytest

from dotkd.errors import BadInput
from dotkd.recipe import load_recipe, parse_recipe, recipe_text

DOT = "quick/digits-kd-dot"
STEP = ["schedule.name=step", "schedule.milestones=[10, 20]"]

FLOATS = [
    "optimizer.lr",
    "optimizer.momentum",
    "optimizer.weight_decay",
    "optimizer.clip_grad_norm",
    "optimizer.delta",
    "data.label_noise",
    "schedule.gamma",
    "method.temperature",
    "method.task_weight",
    "method.distill_weight",
    "method.warmup",
]
INTS = [
    "data.validation",
    "data.train_images",
    "data.batch_size",
    "data.seed",
    "schedule.epochs",
    "schedule.warmup",
    "run.seed",
    "run.threads",
]
BOOLS = ["optimizer.nesterov", "method.standardize"]
STRINGS = [
    "name",
    "data.name",
    "data.root",
    "student.model",
    "student.checkpoint",
    "run.device",
    "method.name",
]


def value(key: str, override: str, *more: str):
    """What a recipe holds after an override."""
    place = load_recipe(DOT, [*STEP, *more, override])
    for word in key.split("."):
        place = place[word] if isinstance(place, dict) else getattr(place, word)
    return place


@pytest.mark.parametrize(
    ("key", "text", "expected"),
    [
        ("name", "KD at 4", "KD at 4"),
        ("name", '"KD"', "KD"),
        ("name", "'3'", "3"),
        ("name", "a=b", "a=b"),
        ("name", "1.5x", "1.5x"),
        ("student.model", "small/cnn4", "small/cnn4"),
        ("student.model", '"small/cnn4"', "small/cnn4"),
        ("data.root", "", ""),
        ("data.root", "some/where", "some/where"),
        ("optimizer.lr", "0.05", 0.05),
        ("optimizer.lr", "5e-2", 0.05),
        ("optimizer.lr", "1", 1.0),
        ("optimizer.lr", " 0.05", 0.05),
        ("optimizer.nesterov", "true", True),
        ("data.batch_size", "64", 64),
        ("data.batch_size", "1_0", 10),
        ("schedule.milestones", "[3]", (3,)),
        ("schedule.milestones", "[3, 9]", (3, 9)),
        ("student.mean", "[0.5]", (0.5,)),
        ("student.std", "[2]", (2.0,)),
        ("run.device", "cuda:0", "cuda:0"),
        ("method.temperature", "2", 2.0),
        ("method.standardize", "true", True),
    ],
)
def test_values_are_typed_as_in_a_file(key: str, text: str, expected: object) -> None:
    other = {"student.mean": "student.std=[1]", "student.std": "student.mean=[0]"}.get(key)
    found = value(key, f"{key}={text}", *([other] if other else []))
    assert found == expected
    assert type(found) is type(expected)


def test_spaces_around_the_key_do_not_matter() -> None:
    assert value("optimizer.lr", "optimizer.lr = 0.07") == 0.07


def test_the_last_override_wins() -> None:
    assert value("optimizer.lr", "optimizer.lr=0.07", "optimizer.lr=0.05") == 0.07


def test_a_table_can_be_added() -> None:
    checkpoint = str(Path("t").resolve())
    recipe = load_recipe("quick/digits-plain", ["teacher.checkpoint=t", "method.name=dkd", "method.beta=2"])
    assert (recipe.teacher.checkpoint, recipe.method["name"], recipe.method["beta"]) == (
        checkpoint,
        "dkd",
        2.0,
    )


@pytest.mark.parametrize(
    "override", ["x", "lr 0.1", "=3", " =3", ".lr=3", "optimizer.=3", "a.b.c=3", "..=", "", "--lr"]
)
def test_malformed_overrides(override: str) -> None:
    with pytest.raises(BadInput) as error:
        load_recipe(DOT, [override])
    assert str(error.value) == (
        f"{override!r} is no override: write table.key=value, such as optimizer.lr=0.1"
    )


def test_an_override_holds_one_value() -> None:
    with pytest.raises(BadInput):  # the second line must not vanish
        load_recipe(DOT, ["optimizer.lr=0.5\nmomentum=0.1"])


def test_overrides_are_checked_like_the_file() -> None:
    with pytest.raises(
        BadInput, match=r"^quick/digits-kd-dot: optimiser: unknown key; did you mean 'optimizer'"
    ):
        load_recipe(DOT, ["optimiser.lr=1"])


# ---------------------------------------------------------------- strictness


def refused(key: str, text: str) -> None:
    with pytest.raises(BadInput) as error:
        load_recipe(DOT, [*STEP, f"{key}={text}"])
    assert str(error.value).startswith(f"{DOT}: {key}: ")
    assert len(str(error.value).splitlines()) == 1
    # A resolved file is read as strictly.
    table, _, last = key.rpartition(".")
    lines = [
        line for line in recipe_text(load_recipe(DOT, STEP)).splitlines() if not line.startswith(f"{last} =")
    ]
    if table:
        lines.insert(lines.index(f"[{table}]") + 1, f"{last} = {text}")
        with pytest.raises(BadInput):
            parse_recipe("\n".join(lines), "file")


@pytest.mark.parametrize("key", FLOATS)
@pytest.mark.parametrize("text", ["'0.1'", "true", "nan", "inf", "-inf", "[0.1]", "{x = 1}", "1979-05-27"])
def test_what_is_no_float(key: str, text: str) -> None:
    refused(key, text)


@pytest.mark.parametrize("key", INTS)
@pytest.mark.parametrize("text", ["1.0", "1.5", "'3'", "true", "[3]", "nan"])
def test_what_is_no_integer(key: str, text: str) -> None:
    refused(key, text)


@pytest.mark.parametrize("key", BOOLS)
@pytest.mark.parametrize("text", ["1", "0", "'true'", "True", "yes"])
def test_what_is_no_bool(key: str, text: str) -> None:
    with pytest.raises(BadInput, match=key.replace(".", r"\.")):
        load_recipe(DOT, [f"{key}={text}"])


@pytest.mark.parametrize("key", STRINGS)
@pytest.mark.parametrize("text", ["3", "true", "[1]"])
def test_what_is_no_string(key: str, text: str) -> None:
    refused(key, text)


@pytest.mark.parametrize("key", ["schedule.milestones", "student.mean"])
@pytest.mark.parametrize("text", ["3", "'3'", "true", "['3']", "[true]", "[[3]]", "[nan]", "{x = 3}"])
def test_what_is_no_list_of_numbers(key: str, text: str) -> None:
    with pytest.raises(BadInput) as error:
        load_recipe(DOT, [*STEP, f"{key}={text}"])
    assert str(error.value).startswith(f"{DOT}: {key}")


@pytest.mark.parametrize("key", FLOATS)
def test_an_integer_is_a_float(key: str) -> None:
    text = {"optimizer.momentum": "0", "optimizer.delta": "0"}.get(key, "1")
    more = ["optimizer.delta=0"] if key == "optimizer.momentum" else []
    found = value(key, f"{key}={text}", *more)
    assert type(found) is float
    assert found == int(text)


def test_a_number_that_no_float_holds_is_refused() -> None:
    refused("optimizer.lr", "9" * 400)


def test_a_seed_of_any_length_stays_as_it_is() -> None:
    assert value("run.seed", f"run.seed={'9' * 40}") == int("9" * 40)
