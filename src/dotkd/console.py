"""What the verbs print: progress bars while something runs, tables when it is done."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table

if TYPE_CHECKING:
    from dotkd.train.evaluate import Quality

console = Console(markup=False, emoji=False)  # names come from users


class Bars:
    """A bar over the runs of a comparison, where there are several, and one over the steps of a run."""

    def __init__(self, progress: Progress, runs: int) -> None:
        self._progress = progress
        self._all: TaskID | None = progress.add_task("runs", total=runs) if runs > 1 else None
        self._run = progress.add_task("", total=None)
        self._started, self._total = 0, runs

    def run(self, arm: str, seed: int | None) -> None:
        """Show that a run, or a part of the work on one, begins."""
        if self._all is not None:
            self._progress.update(self._all, completed=self._started)
        self._started += 1
        named = arm if seed is None else f"{arm}, seed {seed}"
        self._progress.update(self._run, description=named, completed=0)
        if not console.is_terminal and self._total > 1:
            console.print(f"run {self._started} of {self._total}: {named}", soft_wrap=True)

    def teacher(self, arm: str, epochs: int) -> None:
        """Show that the teacher of an arm is trained first, and for how many epochs."""
        named = f"teacher of {arm} ({epochs} epochs)"
        self._progress.update(self._run, description=named, completed=0)
        console.print(f"first the {named}; overrides are the student's alone", soft_wrap=True)

    def step(self, done: int, total: int) -> None:
        """Show how far the current run is."""
        self._progress.update(self._run, completed=done, total=total)

    def end(self) -> None:
        """Show that all is done."""
        if self._all is not None:
            self._progress.update(self._all, completed=self._started)


@contextmanager
def bars(runs: int = 1) -> Iterator[Bars]:
    """Show progress while the block runs; on a terminal only, so that logs stay short.

    Args:
        runs: How many runs there are.

    Yields:
        What to call.
    """
    columns = (
        TextColumn("{task.description:<24}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(elapsed_when_finished=True),
    )
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        shown = Bars(progress, runs)
        yield shown
        shown.end()


def show_epoch(metrics: dict[str, Any]) -> None:
    """Print an epoch on one line."""
    parts = [f"epoch {metrics['epoch']:>3}", f"task {metrics['train_task_loss']:.4f}"]
    if metrics["train_distill_loss"] is not None:
        parts.append(f"distill {metrics['train_distill_loss']:.4f}")
        cosine = metrics["gradient_cosine"]
        parts.append("cosine    -  " if cosine is None else f"cosine {cosine:+.3f}")
    if metrics["validation_accuracy"] is not None:
        parts.append(f"validation {100 * metrics['validation_accuracy']:.2f} %")
    parts.append(f"{metrics['seconds']:.1f} s")
    console.print("  ".join(parts), soft_wrap=True)


def show_results(results: dict[str, Any]) -> None:
    """Print what a run came to."""
    table = Table(title=f"{results['name']}, seed {results['seed']}")
    for column in ("", "epoch", "test accuracy", "test loss", "validation accuracy"):
        table.add_column(column, justify="right" if column else "left")
    for label in ("last", "best"):
        row = results[label]
        if row is not None:
            found = row["validation_accuracy"]
            table.add_row(
                f"{label} epoch",
                str(row["epoch"]),
                f"{100 * row['test_accuracy']:.2f} %",
                f"{row['test_loss']:.4f}",
                "-" if found is None else f"{100 * found:.2f} %",
            )
    console.print(table)


def show_quality(name: str, quality: "Quality", images: int) -> None:
    """Print what an evaluation found."""
    table = Table(title=f"{name}: {images} test images")
    for column in ("top-1", "top-5", "NLL"):
        table.add_column(column, justify="right")
    table.add_row(f"{100 * quality.accuracy:.2f} %", f"{100 * quality.top5:.2f} %", f"{quality.loss:.4f}")
    console.print(table)


def show_summary(folder: Path) -> None:
    """Print the table of a comparison, what it says, and where the rest is."""
    from dotkd.report import lead, read_comparison, summarize

    comparison = read_comparison(folder)
    summary, said = summarize(comparison), lead(comparison)
    table = Table(title="test accuracy after the last epoch")
    for column in ("arm", "seeds", "mean", "standard error", f"difference to {summary.baseline}"):
        table.add_column(column, justify="left" if column == "arm" else "right")
    differences = {difference.arm: difference for difference in summary.to_baseline}
    for arm in summary.arms:
        found = differences.get(arm.name)
        interval = (
            "" if found is None or found.low is None else f" [{_points(found.low)}, {_points(found.high)}]"
        )
        table.add_row(
            arm.name,
            str(arm.test.n),
            f"{100 * arm.test.mean:.2f} %",
            "-" if arm.test.error is None else f"{100 * arm.test.error:.2f}",
            "-" if found is None or found.mean is None else _points(found.mean) + interval,
        )
    console.print(table)
    for text in (*said, *(f"Note: {note}" for note in summary.notes)):
        console.print(text)
    console.print(f"{folder / 'report.html'}", soft_wrap=True)


def _interval(low: float, high: float | None) -> str:
    return f" [{_points(low)}, {_points(high)}]"


def _points(share: float | None) -> str:
    from dotkd.report.tables import points

    return "-" if share is None else points(share)


def show_recipes(prefix: str) -> None:
    """Print the shipped recipes whose names begin so: data, pair, method, optimizer, published accuracy."""
    from dotkd.errors import BadInput, unknown
    from dotkd.recipe import load_recipe, recipe_names
    from dotkd.train.teacher import teacher_recipe

    names = [name for name in recipe_names() if name.startswith(prefix)]
    if not names:
        raise BadInput(unknown("recipe", prefix, recipe_names()))
    rows = [("recipe", "data", "teacher -> student", "method", "optimizer", "published")]
    for name in names:
        recipe = load_recipe(name)
        taught_by = teacher_recipe(recipe)
        student = recipe.student.model.rpartition("/")[2]
        pair = student if taught_by is None else f"{taught_by.student.model.rpartition('/')[2]} -> {student}"
        method = recipe.method["name"] if recipe.method else "-"
        published = f"{recipe.published.accuracy:.2f} %" if recipe.published else "-"
        rows.append((name, recipe.data.name, pair, method, recipe.optimizer.name, published))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:  # no frame and no crop: the longest names are wider than a narrow terminal
        console.print("  ".join(map(str.ljust, row, widths)).rstrip(), soft_wrap=True)
