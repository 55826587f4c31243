"""Write the tables of the real-size results into README and docs; ``python scripts/write_results_page.py``.

They come from studies/results. What stands between ``<!-- from NAME -->`` and
``<!-- end -->`` is made by the function of that name here; the prose around it is written by hand.
"""

import json
import re
import statistics
from collections.abc import Iterable, Sequence
from decimal import ROUND_HALF_UP, Decimal
from pathlib import Path
from typing import Any

from scipy.stats import t

ROOT = Path(__file__).parents[1]
PAGES = tuple(ROOT / name for name in ("README.md", "docs/results.md", "docs/which-optimizer.md"))
RESULTS = ROOT / "studies" / "results"
ARMS = {"kd": "KD", "dot": "DOT", "control": "Control"}
PASSES = {"kd": 1, "dot": 2, "control": 1}
_PLACE = re.compile(
    r"(<!-- from (headline|accuracy|differences|curvature|published|next) -->\n).*?(<!-- end -->)", re.DOTALL
)

RUN = json.loads((RESULTS / "cifar100-h200.json").read_text(encoding="utf-8"))
PUBLISHED = json.loads((RESULTS / "published.json").read_text(encoding="utf-8"))
NEXT = {  # students to train at the epochs of the run, and what each part answers
    "KD over four learning rates and three weight decays": (12, "Is KD behind because its rate is too high?"),
    "One factor of the control at a time": (
        6,
        "Is it the distillation weight, the task weight or the decay?",
    ),
    "Seeds 2 to 4 of the three arms": (9, "How large are the differences?"),
    "The three arms under a stronger teacher": (9, "Is the teacher the ceiling?"),
    "DKD and standardised KD, each alone, with DOT and with its control": (
        12,
        "Does DOT add to better methods?",
    ),
}


def page(path: Path) -> str:
    """Return the text of a page, its tables made anew."""
    text = path.read_text(encoding="utf-8")
    return _PLACE.sub(lambda place: f"{place[1]}\n{TABLES[place[2]]()}\n{place[3]}", text)


def headline() -> str:
    """Four rows: three students and their teacher, with the published numbers."""
    published = PUBLISHED["pairs"][0]
    rows = [
        [name, spread(RUN["arms"][arm]["test_accuracy_percent"]), PASSES[arm], number(published.get(arm))]
        for arm, name in ARMS.items()
    ]
    teacher = RUN["teacher"]["test_accuracy_percent"]
    rows.append(["Teacher (ours)", f"{teacher:.2f}", "", number(published["teacher"])])
    titles = (
        f"Test accuracy after {RUN['epochs']} epochs, % (SD)",
        "Backward passes per step",
        "Published, 240 epochs",
    )
    shown = table("CIFAR-100, resnet32x4 teaches resnet8x4", titles, rows)
    found = "; ".join(interval(*pair) for pair in (("dot", "kd"), ("control", "kd"), ("dot", "control")))
    how = "Points, with 95 % intervals of the t distribution, paired by seed"
    return f"{seeds()}{shown}\n{how}: {found}.\n"


def accuracy() -> str:
    """Accuracy and losses of the last epoch."""
    titles = {
        "test_accuracy_percent": ("Test accuracy, %", 2),
        "test_task_loss": ("Test task loss", 3),
        "test_distill_loss": ("Test distillation loss", 3),
        "train_task_loss": ("Training task loss", 3),
        "train_distill_loss": ("Training distillation loss", 3),
    }
    rows = [
        [name, *(spread(RUN["arms"][arm][key], digits) for key, (_, digits) in titles.items())]
        for arm, name in ARMS.items()
    ]
    curves = RUN["test_accuracy_percent_by_epoch"]
    chosen = [place for place, epoch in enumerate(curves["epochs"]) if 10 <= epoch <= 63]
    early = []
    for arm, name in ARMS.items():
        found = [curves[f"{arm}-{seed}"][place] for seed in RUN["seeds"] for place in chosen]
        early.append(f"{name} {statistics.fmean(found):.1f}")
    shown = table("Last epoch, mean over seeds (SD)", [title for title, _ in titles.values()], rows)
    before = "Test accuracy at epochs 10 to 63, before the first drop of the learning rate, mean in %"
    return f"{seeds()}{shown}\n{before}: {', '.join(early)}.\n"


def differences() -> str:
    """Paired differences of the test accuracies with their intervals."""
    pairs = ("dot", "kd"), ("control", "kd"), ("dot", "control")
    return "".join(f"- {interval(*pair)}\n" for pair in pairs)


def interval(one: str, other: str) -> str:
    """The mean difference of two arms, paired by seed, with its t interval."""
    values = [RUN["arms"][arm]["test_accuracy_percent"] for arm in (one, other)]
    found = [mine - theirs for mine, theirs in zip(*values, strict=True)]
    mean = statistics.fmean(found)
    half = t.ppf(0.975, len(found) - 1) * statistics.stdev(found) / len(found) ** 0.5
    within = f"{signed(mean - half)} to {signed(mean + half)}"
    return f"{ARMS[one]} \N{MINUS SIGN} {ARMS[other]} {signed(mean)} ({within})"


def curvature() -> str:
    """Curvature of the task loss, raw and filter-normalised, on many images and on few."""
    measured = json.loads((RESULTS / "cifar100-h200-curvature.json").read_text(encoding="utf-8"))
    few, many = RUN["curvature_of_128_images"], measured["arms"]
    rows = []
    for images, of in ((128, few), (measured["images"], many)):
        for arm, name in ARMS.items():
            found = of[arm]
            traces = (found["trace"], found["trace_filter_normalized"])
            raw, normalized = (f"{one['trace']:,.0f} ({one['standard_error']:,.0f})" for one in traces)
            sharpest = found["largest_eigenvalue"], found["largest_eigenvalue_filter_normalized"]
            norm = f"{many[arm]['squared_norm_of_convolutions']:,.0f}"
            row = [name, f"{images:,}", f"{found['task_loss']:.3f}", f"{sharpest[0]:.1f}", raw]
            rows.append([*row, f"{sharpest[1]:.0f}", normalized, norm])
    titles = [
        "Images",
        "Task loss",
        "Largest eigenvalue",
        "Trace",
        "Largest eigenvalue, filter-normalised",
        "Trace, filter-normalised",
        "Squared norm of the convolutions",
    ]
    ratios = ", ".join(
        f"{ratio(many, other, 'largest_eigenvalue'):.1f} and {ratio(many, other, 'trace'):.1f} raw, "
        f"{ratio(many, other, 'largest_eigenvalue_filter_normalized'):.2f} and "
        f"{ratio(many, other, 'trace_filter_normalized'):.2f} filter-normalised (KD over {name})"
        for other, name in list(ARMS.items())[1:]
    )
    shown = table("Seed 0 (standard error)", titles, rows)
    return f"{shown}\nRatios of eigenvalues and of traces on {measured['images']:,} images: {ratios}.\n"


def ratio(arms: dict[str, Any], other: str, name: str) -> float:
    """A curvature of KD over that of another arm."""
    kd, theirs = (arms[arm][name] for arm in ("kd", other))
    return kd["trace"] / theirs["trace"] if isinstance(kd, dict) else kd / theirs


def published() -> str:
    """Published accuracies of KD with DOT beside those of other methods."""
    columns = {"kd": "KD", "dot": "KD + DOT", "dkd": "DKD", "standardized_kd": "standardised KD"}
    rows = [[one["pair"], *(number(one.get(column)) for column in columns)] for one in PUBLISHED["pairs"]]
    return table("Published test accuracy, %", columns.values(), rows)


def runs_next() -> str:
    """What to run next, with the minutes that it takes side by side on the same card."""
    together = RUN["milliseconds_a_step"]["six_runs_in_lockstep"] / 6
    minutes = together * RUN["steps_per_epoch"] * RUN["epochs"] / 60_000
    rows = [[what, runs, f"{runs * minutes:.0f}", why] for what, (runs, why) in NEXT.items()]
    return table("To be run", ("Students", "Minutes", "Question"), rows)


TABLES = {
    "headline": headline,
    "accuracy": accuracy,
    "differences": differences,
    "curvature": curvature,
    "published": published,
    "next": runs_next,
}


def seeds() -> str:
    """The caution that stands above every table until there are four seeds."""
    count = len(RUN["seeds"])
    return f"**First measurement, {count} seeds**\n\n" if count < 4 else ""


def spread(values: Sequence[float], digits: int = 2) -> str:
    """Mean and standard deviation."""
    mean = Decimal(f"{statistics.fmean(values):.9f}").quantize(Decimal(1).scaleb(-digits), ROUND_HALF_UP)
    return f"{mean} ({statistics.stdev(values):.{digits}f})"


def number(value: float | None) -> str:
    """Two decimals, or a dash."""
    return "\N{EN DASH}" if value is None else f"{value:.2f}"


def signed(value: float) -> str:
    """Two decimals with a plus or a minus."""
    return f"{value:+.2f}".replace("-", "\N{MINUS SIGN}")


def table(corner: str, titles: Iterable[str], rows: Iterable[Sequence[Any]]) -> str:
    """Markdown, all but the first column to the right."""
    titles = list(titles)
    lines = [[corner, *titles], ["---", *["---:"] * len(titles)], *rows]
    return "".join(f"| {' | '.join(map(str, line))} |\n" for line in lines)


if __name__ == "__main__":
    for path in PAGES:
        path.write_text(page(path), encoding="utf-8")
