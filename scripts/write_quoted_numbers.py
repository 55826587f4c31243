"""Write the numbers that documents quote from their files; ``python scripts/write_quoted_numbers.py``.

A measured number is followed by a comment, unseen by readers, with its file and its place in the file:

    0.89<!-- benchmarks/results/step_cost.json ratios.exact_live -->
    22.28<!-- studies/results/cifar100-small/results.json arms[name=KD].test.mean x100 --> %

A dot leads to a key, ``[0]`` to an item of a list, ``[name=KD]`` to the item with that value. ``x100``
multiplies; ``x-1`` turns the sign, for "2 points below". The number keeps its decimals, commas and plus.
Whatever else looks measured belongs in a block that a script writes, and a setting in code.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
SOURCES = tuple(ROOT / place / "results" for place in ("benchmarks", "studies"))
DOCUMENTS = (
    *(ROOT / name for name in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "studies/README.md")),
    *sorted((ROOT / "docs").glob("*.md")),
)

_QUOTED = re.compile(
    r"(?<![\w.])((?:(?<!\+)[+\u2212-])?\d[\d,]*(?:\.(\d+))?)<!-- (\S+\.json) (.+?)(?: x(-?\d+))? -->"
)
_STEP = re.compile(r"\[(\w+)=([^]]*)\]|\[(\d+)\]|([^.\[]+)")
_UNITS = "%|points?|times|x|ms|s|seconds?|minutes?|hours?|[KMG]i?B|images"
_MEASURED = re.compile(rf"(?<!\d)(?<![A-Za-z]-)\d[\d,]*(?:\.\d+|\s*(?:{_UNITS})(?!\w))")
_NOT_PROSE = re.compile(
    r"""
      <!--\ (?:from|table|summary)\ [^>]*-->.*?<!--\ end\ -->  # written by a script
    | ^(```+).*?^\1 | (?<=\n\n)(?:\ {4}[^\n]*\n)+             # code
    | `(?:[^`\n]|\n(?!\n))+` | \$\$.*?\$\$ | \$[^$\n]+\$        # code in a line, formulas
    | \]\([^)]*\) | https?://\S+                              # addresses
    """,
    re.DOTALL | re.MULTILINE | re.VERBOSE,
)
_NOT_MEASURED = re.compile(
    r"""
      \b(?:Python|torch|CUDA|CC\ BY)\ \d+(?:\.\d+)* | \b\d+\.\d+\.\d+      # versions
    | (?:\barXiv[\ :]|\[)\d{4}\.\d{4,5}
    | \b(?:[Ss]ections?|[Ee]quations?|[Tt]ables?|[Ff]igures?)\ \(?\d+(?:\.\d+)*
    | \b95\ %\ (?:confidence\ )?intervals?
    """,
    re.VERBOSE,
)


def rewritten(text: str) -> str:
    """Return the text with every quoted number as its file has it."""
    return _QUOTED.sub(lambda quoted: _number(quoted) + quoted[0][len(quoted[1]) :], text)


def _number(quoted: re.Match[str]) -> str:
    number, decimals, file, place, factor = quoted.groups()
    path = (ROOT / file).resolve()
    if not any(path.is_relative_to(folder) for folder in SOURCES):
        raise ValueError(f"{file} is neither in benchmarks/results nor in studies/results")
    value = _look_up(json.loads(path.read_text(encoding="utf-8")), place) * int(factor or 1)
    sign = "+" if number.startswith("+") else ""
    separator = "," if "," in number else ""
    return f"{value:{sign}{separator}.{len(decimals or '')}f}".replace("-", "\u2212")


def _look_up(found: Any, place: str) -> float:
    for key, value, index, name in _STEP.findall(place):
        if key:
            (found,) = (item for item in found if str(item[key]) == value)
        else:
            found = found[int(index)] if index else found[name]
    if isinstance(found, bool) or not isinstance(found, int | float):
        raise TypeError(f"{place} is no number, but {found!r}")
    return found


def unmarked(text: str) -> Iterator[str]:
    """Yield what looks like a measured number and names no file."""
    for pattern in (_NOT_PROSE, _QUOTED, _NOT_MEASURED):
        text = pattern.sub(" ; ", text)
    for match in _MEASURED.finditer(text):
        yield text[max(0, match.start() - 40) : match.end() + 10].replace("\n", " ")


if __name__ == "__main__":
    for document in DOCUMENTS:
        document.write_text(rewritten(document.read_text(encoding="utf-8")), encoding="utf-8")
