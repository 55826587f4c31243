"""Write the table of docs/methods.md; ``python scripts/write_methods_page.py``.

The registry is the only list of methods: names, inputs and references come from the registered classes and
functions, costs from benchmarks/results/methods.json. Below are published accuracies, as far as known.
"""

import inspect
import json
import re
from pathlib import Path

from dotkd.methods import FunctionMethod, Method, create_method, method_names

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "methods.md"
COSTS = ROOT / "benchmarks" / "results" / "methods.json"
BEGIN, END = "<!-- from the methods -->", "<!-- end -->"
HEAD = "| name | method | reads | learns | step, to KD | paper | published |\n|---|---|---|---|---|---|---|"

# Top-1 of resnet32x4 -> resnet8x4 on CIFAR-100, and its source.
REP, MD, LS = "RepDistiller", "mdistiller", "logit-standardization-KD"
PUBLISHED = {
    "at": (73.44, REP),
    "crd": (75.51, REP),
    "dkd": (76.32, MD),
    "fitnet": (73.50, REP),
    "kd": (73.33, REP),
    "mlkd": (77.08, f"{LS}; 480 epochs, two views"),
    "nst": (73.30, REP),
    "pkt": (73.64, REP),
    "rkd": (71.90, REP),
    "sp": (72.94, REP),
    "vid": (73.09, REP),
}


def page() -> str:
    """Return the text of the page with a new table."""
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    after = rest.partition(END)[2]
    return "\n".join([before + BEGIN, "", HEAD, *map(_row, method_names()), "", END + after])


def _row(name: str) -> str:
    method = create_method(name)
    title, paper = _title_and_paper(method)
    reads = ", ".join(f"`{kind}`" for kind in method.needs) if isinstance(method, Method) else "`target`"
    costs = json.loads(COSTS.read_text(encoding="utf-8"))["results"].get(name, {})
    learned = costs.get("learned_parameters")
    learns = f"{learned / 1e6:.2f} M" if learned else "-"
    cost = f"{costs['ratio']:.2f}" if costs else "-" if isinstance(method, Method) else "no teacher"
    published = "{:.2f} ({})".format(*PUBLISHED[name]) if name in PUBLISHED else "-"
    return f"| `{name}` | {title} | {reads} | {learns} | {cost} | {paper} | {published} |"


def _title_and_paper(method: object) -> tuple[str, str]:
    """The headline of a method's docstring, and its reference up to the arXiv number."""
    function = getattr(method, "function", None) if isinstance(method, FunctionMethod) else None
    text = inspect.getdoc(getattr(function, "func", function) or type(method)) or ""
    title = text.partition("\n")[0].partition(", see")[0].rstrip(".")
    reference = " ".join(text.partition("\nReference:")[2].split()).partition(";")[0].rstrip(".")
    return title, re.sub(r"arXiv (\d+\.\d+)", r"[\1](https://arxiv.org/abs/\1)", reference) or "-"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
