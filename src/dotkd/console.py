"""Terminal output of the verbs: progress bars and tables."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table

if TYPE_CHECKING:
    from dotkd.records import EpochMetrics, Results, TeacherAccuracy
    from dotkd.train import Scores

console = Console(markup=False, emoji=False)  # recipe names are no markup


class Bars:
    """Progress bars: over the runs of a comparison if there are several, and over the steps of a run."""

    def __init__(self, progress: Progress, runs: int) -> None:
        self._progress = progress
        self._all: TaskID | None = progress.add_task("runs", total=runs) if runs > 1 else None
        self._run = progress.add_task("", total=None)
        self._started, self._total = 0, runs

    def run(self, arm: str, seed: int | None) -> None:
        """Begin a run, or a part of an analysis."""
        if self._all is not None:
            self._progress.update(self._all, completed=self._started)
        self._started += 1
        named = arm if seed is None else f"{arm}, seed {seed}"
        self._progress.update(self._run, description=named, completed=0)
        if not console.is_terminal and self._total > 1:
            console.print(f"run {self._started} of {self._total}: {named}", soft_wrap=True)

    def teacher(self, arm: str, epochs: int) -> None:
        """Announce the training of an arm's teacher."""
        named = f"teacher of {arm} ({epochs} epochs)"
        self._progress.update(self._run, description=named, completed=0)
        console.print(f"first the {named}; overrides apply to the student only", soft_wrap=True)

    def step(self, done: int, total: int) -> None:
        """Update the current run."""
        self._progress.update(self._run, completed=done, total=total)

    def end(self) -> None:
        """Complete the bars."""
        if self._all is not None:
            self._progress.update(self._all, completed=self._started)


@contextmanager
def bars(runs: int = 1) -> Iterator[Bars]:
    """Show progress bars over a number of runs; on a terminal only, so that logs stay short."""
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


def show_teacher(found: "TeacherAccuracy") -> None:
    """Print on one line what a teacher knows before it teaches."""
    console.print(f"teacher: {found}", soft_wrap=True)


def show_epoch(metrics: "EpochMetrics") -> None:
    """Print the metrics of an epoch on one line."""
    parts = [f"epoch {metrics.epoch:>3}", f"task {metrics.train_task_loss:.4f}"]
    if metrics.train_distill_loss is not None:
        parts.append(f"distill {metrics.train_distill_loss:.4f}")
        cosine = metrics.gradient_cosine
        parts.append("cosine    -  " if cosine is None else f"cosine {cosine:+.3f}")
    if metrics.validation_accuracy is not None:
        parts.append(f"validation {100 * metrics.validation_accuracy:.2f} %")
    parts.append(f"{metrics.seconds:.1f} s")
    if metrics.gradient_reason is not None:
        parts.append(f"no gradients to compare: {metrics.gradient_reason}")
    console.print("  ".join(parts), soft_wrap=True)


def show_results(results: "Results") -> None:
    """Print the results of a run."""
    table = Table(title=f"{results.name}, seed {results.seed}")
    for column in ("", "epoch", "test accuracy", "test loss", "validation accuracy"):
        table.add_column(column, justify="right" if column else "left")
    for label, row in (("last", results.last), ("best", results.best)):
        if row is not None and row.test_accuracy is not None:
            found = row.validation_accuracy
            table.add_row(
                f"{label} epoch",
                str(row.epoch),
                f"{100 * row.test_accuracy:.2f} %",
                f"{row.test_loss:.4f}",
                "-" if found is None else f"{100 * found:.2f} %",
            )
    console.print(table)


def show_scores(name: str, scores: "Scores", images: int) -> None:
    """Print the numbers of an evaluation."""
    table = Table(title=f"{name}: {images} test images")
    for column in ("top-1", "top-5", "NLL"):
        table.add_column(column, justify="right")
    table.add_row(f"{100 * scores.accuracy:.2f} %", f"{100 * scores.top5:.2f} %", f"{scores.loss:.4f}")
    console.print(table)


def show_summary(folder: Path) -> None:
    """Print the table and the summary of a comparison, and the path of its report."""
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


def _points(share: float | None) -> str:
    from dotkd.report.tables import points

    return "-" if share is None else points(share)


def show_recipes(prefix: str) -> None:
    """Print the shipped recipes with a prefix: data, pair, method, optimizer, published accuracy."""
    from dotkd.errors import BadInput, unknown
    from dotkd.recipe import load_recipe, recipe_names
    from dotkd.train.teacher import teacher_recipe

    names = [name for name in recipe_names() if name.startswith(prefix)]
    if not names:
        raise BadInput(unknown("recipe", prefix, recipe_names()))
    rows = [("recipe", "data", "teacher -> student", "method", "optimizer", "published")]
    for name in names:
        recipe = load_recipe(name)
        teacher = teacher_recipe(recipe)
        student = recipe.student.model.rpartition("/")[2]
        pair = student if teacher is None else f"{teacher.student.model.rpartition('/')[2]} -> {student}"
        method = recipe.method["name"] if recipe.method else "-"
        published = f"{recipe.published.accuracy:.2f} %" if recipe.published else "-"
        rows.append((name, recipe.data.name, pair, method, recipe.optimizer.name, published))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:  # no frame, no cropping: long names may exceed a narrow terminal
        console.print("  ".join(map(str.ljust, row, widths)).rstrip(), soft_wrap=True)
