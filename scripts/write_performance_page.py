"""Write the tables of docs/performance.md; ``python scripts/write_performance_page.py``.

They come from benchmarks/results. What stands between ``<!-- from NAME -->`` and ``<!-- end -->`` is made by
the function of that name here; the prose around it is written by hand.
"""

import json
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "performance.md"
RESULTS = ROOT / "benchmarks" / "results"
_PLACE = re.compile(r"(<!-- from (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)

STEPS = {
    "exact_live": "float32, the teacher asked in each step",
    "exact_compiled": 'the same, compiled (`run.compile = "step"`)',
    "exact_cached": "float32, a teacher cache that knows every view",
    "bf16_teacher": "the teacher in bfloat16",
    "bf16": "both networks in bfloat16",
    "convolutions": "nothing but the convolutions of the float32 step",
}
PARTS = {
    "data": "images, augmentation",
    "teacher": "teacher",
    "student": "student",
    "losses": "losses",
    "backward_distill": "backward, distillation",
    "backward_task": "backward, task",
    "optimizer": "optimizer",
    "rest": "rest",
}
PROCESSES = {
    "imports": "nothing but imports",
    "published": "published trainer",
    "exact": "dotkd, DOT, float32",
    "cached": "the same with a teacher cache",
    "bf16": "dotkd, DOT, bfloat16",
    "kd": "dotkd, KD with SGD",
}
VIEWS = 162  # of an image: 9 x 9 places of a crop, mirrored or not
EPOCHS = (12, 60, 120, 240)


def page() -> str:
    """Return the text of the page, its tables made anew."""
    text = PAGE.read_text(encoding="utf-8")
    return _PLACE.sub(lambda place: place[1] + "\n" + TABLES[place[2]]() + "\n" + place[3], text)


def step_cost() -> str:
    """The whole step against the published trainer, with the memory of freed tensors given back or kept."""
    usual, kept = read("step_cost"), read("step_cost_memory_kept")
    plain = [("1.00", f"{run['seconds']['published']:.2f}") for run in (usual, kept)]
    rows = [["published trainer", *plain[0], *plain[1]]]
    for key, meaning in STEPS.items():
        if key in usual["ratios"]:  # some are measured on request
            rows.append([meaning, *_cost(usual, key), *_cost(kept, key)])
    head = ["to the published trainer", "CPU s", "memory kept: to the published trainer", "CPU s"]
    return table(["step of DOT", *head], rows) + measured_on(usual, f"{kept['rounds']} with memory kept")


def _cost(run: dict[str, Any], key: str) -> tuple[str, str]:
    """A ratio, and the seconds that it stands for; or why there is none."""
    ratio = run["ratios"].get(key)
    if ratio is None:
        return "-", run["reasons"].get(key, "")
    return f"{ratio:.2f}", f"{ratio * run['seconds']['published']:.2f}"


def dot_over_kd() -> str:
    """DOT against KD, both ours."""
    numbers = read("step_cost")
    rows = [["DOT", f"{numbers['ratios']['dot_over_kd']:.2f}"]]
    return table(["step", "to KD with SGD"], rows) + measured_on(numbers)


def phases() -> str:
    """Where the time of a step goes."""
    numbers = read("phases")
    results = numbers["results"]
    totals = {name: sum(parts.values()) for name, parts in results.items()}
    rows = []
    for part, meaning in PARTS.items():
        cells = [(parts[part], parts[part] / totals[name]) for name, parts in results.items()]
        rows.append([meaning, *(cell for ms, share in cells for cell in (f"{1e3 * ms:.1f}", f"{share:.1%}"))])
    rows.append(["all", *(cell for total in totals.values() for cell in (f"{1e3 * total:.0f}", ""))])
    head = [column for name in results for column in (f"{name}, CPU ms", "share")]
    return table(["", *head], rows) + measured_on(numbers)


def memory() -> str:
    """Peaks of fresh processes."""
    numbers = read("memory")
    peaks = numbers["peaks"]
    rows = [
        [
            PROCESSES[name],
            f"{peak:.0f}",
            f"{peak - peaks['published']:+.0f}",
            _range(numbers["readings"][name]),
        ]
        for name, peak in peaks.items()
    ]
    text = table(["process", "peak MiB", "to the published trainer", "least and most"], rows)
    return text + measured_on(numbers, f"one gradient set of the student is {numbers['gradients']:.1f} MiB")


def epoch() -> str:
    """Images per second."""
    numbers = read("epoch")
    what = {
        "data": f"{numbers['images']['data']:,} images, augmented, in batches",
        "training": "training, " + " -> ".join(f"`{name}`" for name in numbers["pair"]),
    }
    rows = [
        [what[part], name, f"{row['images_per_cpu_second']:,.0f}", f"{row['ratio']:.2f}"]
        for part, rows in numbers["results"].items()
        for name, row in rows.items()
    ]
    head = ["epoch", "trainer", "images per CPU second", "to the published trainer"]
    return table(head, rows) + measured_on(numbers)


def scaling() -> str:
    """DOT over KD by batch and width."""
    numbers = read("scaling")
    teacher, student = numbers["pair"]
    labels = {
        "batch": f"`{teacher}` -> `{student}`, batch {{}}",
        "width": f"`{teacher}` -> `small/cnn{{}}`, batch 64",
    }
    rows = [
        [label.format(number), f"{row['kd_ms']:.1f}", f"{row['dot_ms']:.1f}", f"{row['ratio']:.2f}"]
        for kind, label in labels.items()
        for number, row in numbers["results"][kind].items()
    ]
    return table(["step", "KD, CPU ms", "DOT, CPU ms", "ratio"], rows) + measured_on(numbers)


def processes() -> str:
    """The update on one and on two processes."""
    numbers = read("scaling")
    rows = [
        [count, name, f"{row['cpu_ms']:.2f}", f"{row['wall_ms']:.2f}", f"{row['reduced_bytes'] / 1024:,.0f}"]
        for count, optimizers in numbers["results"]["processes"].items()
        for name, row in optimizers.items()
    ]
    head = ["processes", "update", "CPU ms of one", "wall ms", "KiB reduced"]
    return table(head, rows) + measured_on(numbers, f"the parameters of `{numbers['pair'][1]}`; gloo")


def hit_rates() -> str:
    """What a teacher cache can save over a run: calculated, from the two figures of a step."""
    ratios = read("step_cost")["ratios"]
    live, cached = ratios["exact_live"], ratios["exact_cached"]
    rows = []
    for epochs in EPOCHS:
        known = [1 - (1 - 1 / VIEWS) ** epoch for epoch in range(epochs)]
        share = sum(known) / epochs
        step = share * cached + (1 - share) * live
        rows.append([str(epochs), f"{share:.1%}", f"{known[-1]:.1%}", f"{step:.2f}"])
    head = ["epochs", "views known, mean", "in the last epoch", "mean step, to the published trainer"]
    return table(head, rows) + f"\nCalculated: {VIEWS} views of an image, each as likely as the others.\n"


def optimizer_step() -> str:
    """The update alone."""
    numbers, kept = read("optimizer_step"), read("optimizer_step_memory_kept")
    rows = [
        [
            model,
            name,
            f"{row['milliseconds']:.2f}",
            f"{row['ratio']:.2f}",
            f"{kept['results'][model][name]['ratio']:.2f}",
        ]
        for model, variants in numbers["results"].items()
        for name, row in variants.items()
    ]
    head = ["parameters", "update", "ms", "ratio", "ratio where malloc keeps its memory"]
    return table(head, rows) + measured_on(numbers)


def read(name: str) -> dict[str, Any]:
    """Read the numbers of a benchmark."""
    numbers: dict[str, Any] = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
    return numbers


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """Lay out a table of Markdown."""
    head = list(head)
    return "\n".join(_lines(head, rows)) + "\n"


def _lines(head: list[str], rows: Iterable[Iterable[str]]) -> Iterator[str]:
    yield f"| {' | '.join(head)} |"
    yield "|" + "---|" * len(head)
    for row in rows:
        yield f"| {' | '.join(row)} |"


def measured_on(numbers: dict[str, Any], *more: str) -> str:
    """Say on what a table was measured."""
    processor = f"{numbers['processor']}, " if "processor" in numbers else ""
    amx = {True: " with AMX", False: " without AMX"}.get(numbers.get("amx"), "")
    cpus = f", {numbers['cpus']} CPUs" if "cpus" in numbers else ""
    facts = [f"{processor}{numbers['cpu']}{amx}{cpus}", f"torch {numbers['torch']}"]
    threads = numbers["threads"]
    facts.append("one thread" if threads == 1 else f"{threads} threads")
    if "load" in numbers:
        facts.append(f"load {numbers['load'][1]:.1f} over the last five minutes")
    if "rounds" in numbers:
        facts.append(f"medians of {numbers['rounds']} rounds")
    if "batch" in numbers:
        facts.append(f"batch {numbers['batch']}")
    return f"\nMeasured on {'; '.join([*facts, *more])}.\n"


def _range(values: list[float]) -> str:
    return f"{min(values):.0f} to {max(values):.0f}"


TABLES: dict[str, Callable[[], str]] = {
    function.__name__: function
    for function in (
        step_cost,
        dot_over_kd,
        phases,
        memory,
        epoch,
        scaling,
        processes,
        hit_rates,
        optimizer_step,
    )
}


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
