"""Write tables and figures of docs/evidence.md and docs/delta.md; ``python scripts/write_evidence_pages.py``.

Both come from the runs in studies/results, by the code that writes every report. A page has a table or a
summary between two lines, and names the figures that it shows:

    <!-- table STUDY NAME -->        ...  <!-- end -->
    <!-- summary STUDY -->           ...  <!-- end -->
    ![...](images/evidence/STUDY-FIGURE.svg)

``<!-- from momenta -->`` is the table of what delta does to momenta, memories and long-run weights.
"""

import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from dotkd.optim import matched_gains
from dotkd.report import read_comparison
from dotkd.report.page import Report, compose, plain, to_markdown

ROOT = Path(__file__).parents[1]
STUDIES = ROOT / "studies" / "results"
DOCS = ROOT / "docs"
PAGES = ("evidence.md", "delta.md")
IMAGES = "images/evidence"
BLOCK = re.compile(r"(<!-- (table|summary|from) (\S+) ?(\S*) -->\n).*?(<!-- end -->)", re.DOTALL)
FIGURE = re.compile(rf"\({IMAGES}/(\S+?)\.svg\)")


@cache
def report(study: str) -> Report:
    """Compose the report of a study."""
    return compose(read_comparison(STUDIES / study))


def page(name: str) -> str:
    """Return a page with its tables and summaries."""

    def block(match: re.Match[str]) -> str:
        begin, kind, study, table, end = match.groups()
        if (kind, study) == ("from", "momenta"):
            return f"{begin}\n{momenta()}\n\n{end}"
        if kind == "summary":
            return f"{begin}{' '.join(map(plain, report(study).lead))}\n{end}"
        return f"{begin}\n{to_markdown(report(study).tables[table])}\n\n{end}"

    return BLOCK.sub(block, (DOCS / name).read_text(encoding="utf-8"))


def momenta() -> str:
    """What delta does, at momentum 0.9: momenta, steps remembered and long-run weights of both gradients."""
    head = "delta | task momentum | distillation momentum | steps remembered {both} | long-run weight {both}"
    lines = [f"| {head.format(both='(task, distillation)')} |", "|---|---|---|---|---|"]
    for delta in (0, 0.025, 0.05, 0.075, 0.09):
        gains = matched_gains(0.9, delta)
        steps, weights = (", ".join(f"{factor * gain:.3g}" for gain in gains) for factor in (10, 1))
        lines.append(f"| {delta:g} | {0.9 - delta:g} | {0.9 + delta:g} | {steps} | {weights} |")
    return "\n".join(lines)


def figures(name: str) -> Iterator[tuple[Path, str]]:
    """Yield path and content of each figure that a page shows."""
    for wanted in dict.fromkeys(FIGURE.findall((DOCS / name).read_text(encoding="utf-8"))):
        study = max((path.name for path in STUDIES.iterdir() if wanted.startswith(path.name)), key=len)
        yield DOCS / IMAGES / f"{wanted}.svg", report(study).figures[wanted.removeprefix(f"{study}-")].svg


if __name__ == "__main__":
    for name in PAGES:
        (DOCS / name).write_text(page(name), encoding="utf-8")
        for path, text in figures(name):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
