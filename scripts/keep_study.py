"""Copy a comparison into studies/results without weights; ``python scripts/keep_study.py FOLDER NAME``.

The files that a report reads are kept: ``dotkd report studies/results/NAME`` writes it again. Paths of the
machine are shortened to their last parts.
"""

import argparse
import re
import shutil
from pathlib import Path

from dotkd import runs

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "studies" / "results"
KEPT = (
    *(runs.RECIPE, runs.ENVIRONMENT, runs.METRICS, runs.GRADIENTS, runs.RESULTS, runs.ANALYSIS),
    *(runs.SWEEP, runs.TUNING),
)


def keep(folder: Path, target: Path) -> None:
    """Replace a folder of results by a comparison.

    Args:
        folder: The folder of the comparison.
        target: The folder of the results.
    """
    shutil.rmtree(target, ignore_errors=True)
    for path in sorted(folder.rglob("*")):
        place = path.relative_to(folder)
        if path.name in KEPT and runs.TRIALS not in place.parts:
            text = path.read_text(encoding="utf-8")
            # Six digits are more than any page shows, and half the size.
            text = re.sub(r"-?\d+\.\d{7,}(e-?\d+)?", lambda number: f"{float(number[0]):.6g}", text)
            text = re.sub(r'"/[^"\n]*/studies/', '"studies/', text)
            text = re.sub(r'(root = )"/[^"\n]*/([^"/\n]+)"', r'\1"\2"', text)
            (target / place).parent.mkdir(parents=True, exist_ok=True)
            (target / place).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("name")
    given = parser.parse_args()
    keep(given.folder, RESULTS / given.name)
