"""Measured numbers in the documents are those of the files that they name."""

import importlib.util
import json
import re
from pathlib import Path

import pytest

PATH = Path(__file__).parents[1] / "scripts" / "write_quoted_numbers.py"
SPEC = importlib.util.spec_from_file_location(PATH.stem, PATH)
quotes = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(quotes)

documents = pytest.mark.parametrize(
    "path", quotes.DOCUMENTS, ids=lambda path: str(path.relative_to(quotes.ROOT))
)


@documents
def test_a_quoted_number_is_that_of_its_file(path):
    text = path.read_text(encoding="utf-8")
    assert quotes.rewritten(text) == text, "run python scripts/write_quoted_numbers.py"


@documents
def test_a_measured_number_names_its_file(path):
    assert list(quotes.unmarked(path.read_text(encoding="utf-8"))) == []


def test_what_no_script_measures_anymore_says_where_and_how_it_was():
    tried = json.loads((quotes.ROOT / "benchmarks/results/tried.json").read_text(encoding="utf-8"))
    for name, entry in tried.items():
        assert all(entry[key] for key in ("what", "where", "how")), name


# ---------------------------------------------------------------- the check itself


def test_no_digit_of_a_quoted_number_can_change_unseen():
    changed = 0
    for path in quotes.DOCUMENTS:
        for line in path.read_text(encoding="utf-8").splitlines():
            for digit in re.finditer(r"\d(?=[\d.,]*<!-- \S+\.json )", line):
                other = f"{line[: digit.start()]}{(int(digit[0]) + 1) % 10}{line[digit.end() :]}"
                assert quotes.rewritten(other) == line
                changed += 1
    assert changed


@pytest.fixture
def source(tmp_path, monkeypatch):
    folder = tmp_path / "benchmarks" / "results"
    folder.mkdir(parents=True)
    content = {
        "ratio": 0.8893,
        "SGD loop": {"ms": 1470.02, "readings": [1.25, 3]},
        "arms": [
            {"name": "KD + DOT, delta 0.05", "test": 0.2228, "gain": -0.0167},
            {"name": "KD", "test": 0.2},
        ],
        "flag": True,
    }
    (folder / "a.json").write_text(json.dumps(content))
    (tmp_path / "elsewhere.json").write_text(json.dumps(content))
    monkeypatch.setattr(quotes, "ROOT", tmp_path)
    monkeypatch.setattr(quotes, "SOURCES", (folder,))


@pytest.mark.parametrize(
    ("number", "place", "right"),
    [
        ("0.1", "ratio", "0.9"),
        ("0.10", "ratio", "0.89"),
        ("7", "SGD loop.ms", "1470"),
        ("7,000", "SGD loop.ms", "1,470"),
        ("1", "SGD loop.readings[1]", "3"),
        ("1.1", "arms[name=KD + DOT, delta 0.05].test x100", "22.3"),
        ("+1.1", "arms[name=KD].test x100", "+20.0"),
        ("+1.1", "arms[name=KD + DOT, delta 0.05].gain x100", "\u22121.7"),
        ("-1.1", "arms[name=KD + DOT, delta 0.05].gain x100", "\u22121.7"),
        ("+-1.1", "arms[name=KD + DOT, delta 0.05].gain x-100", "+-1.7"),
        ("0.5-1.1", "SGD loop.readings[0]", "0.5-1.2"),
        ("1", "arms[name=KD + DOT, delta 0.05].gain x-100", "2"),
    ],
)
def test_a_number_is_written_with_the_digits_that_it_is_quoted_with(source, number, place, right):
    mark = f"<!-- benchmarks/results/a.json {place} -->"
    assert quotes.rewritten(f"from 1.5 to {number}{mark} %") == f"from 1.5 to {right}{mark} %"


@pytest.mark.parametrize(
    ("mark", "error"),
    [
        ("elsewhere.json ratio", ValueError),
        ("benchmarks/results/b.json ratio", FileNotFoundError),
        ("benchmarks/results/a.json ratios", KeyError),
        ("benchmarks/results/a.json SGD loop.readings[2]", IndexError),
        ("benchmarks/results/a.json arms[name=DKD].test", ValueError),
        ("benchmarks/results/a.json arms[0].name", TypeError),
        ("benchmarks/results/a.json flag", TypeError),
    ],
)
def test_a_mark_without_a_number_behind_it_is_an_error(source, mark, error):
    with pytest.raises(error):
        quotes.rewritten(f"0.5<!-- {mark} -->")


@pytest.mark.parametrize(
    "text",
    [
        "it took 0.89 of the time",
        "| KD | 73.24 |",
        "30 % of it",
        "30%",
        "4 points above",
        "12 times as fast",
        "3x",
        "31 ms",
        "27 s, then",
        "2\nminutes",
        "735 MiB",
        "a ` that is alone\n\n0.5, `code`",
        "2,048 images",
        "0.89<!-- a note -->",
        "a `0.5` and 0.6",
        "so:\n\n    dotkd train optimizer.lr=0.4\n\nin 0.5",
        "```\n0.1\n```\n0.5\n```\n0.1\n```",
        "from 1 to 1.5$ and 2$",
        "<!-- end -->0.5<!-- from x --> <!-- end -->",
    ],
)
def test_measured(text):
    assert len(list(quotes.unmarked(text))) == 1


@pytest.mark.parametrize(
    "text",
    [
        "0.89<!-- benchmarks/results/a.json ratio --> of the time",
        "74.9<!-- studies/results/a.json arms[name=KD + DOT, 0.5].test x100 --> % (`delta = 0.075`)",
        "<!-- from steps -->\n\n| 0.89 |\n\n<!-- end -->",
        "<!-- table study results -->\n| 0.89 |\n<!-- end -->",
        "so:\n\n    dotkd train optimizer.lr=0.4\n",
        "```python\nlr = 0.05\n```",
        "$\\mu = 0.9$",
        "Python 3.11, torch 2.13, version 0.1.0, CC BY 4.0",
        "arXiv 2307.08436, [2307.08436](https://arxiv.org/abs/2307.08436)",
        "section 3.2, equation (5)",
        "95 % interval, 95 % intervals",
        "5 seeds, 240 epochs, 8x8, resnet32x4, CIFAR-100 images",
    ],
)
def test_not_measured(text):
    assert list(quotes.unmarked(text)) == []
