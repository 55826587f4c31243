"""The command line: one function a verb. Heavy modules are imported by the verb that needs them."""

import errno
import functools
import io
import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ParamSpec

import typer

from dotkd.errors import BadInput, RunFailed

if TYPE_CHECKING:
    from dotkd.compare.sweep import Sweep
    from dotkd.compare.tune import Tuning

FAILED, BAD_INPUT = 1, 2
# Paths that the user gave and that cannot be what they are wanted for; a full disk is none of these.
_USERS = (
    errno.EACCES,
    errno.EEXIST,
    errno.EISDIR,
    errno.ENAMETOOLONG,
    errno.ENOENT,
    errno.ENOTDIR,
    errno.EPERM,
    errno.EROFS,
)
DEBUG = "DOTKD_DEBUG"

_P = ParamSpec("_P")


def ends_well(command: Callable[_P, None]) -> Callable[_P, None]:
    """Decorator of a command: an error becomes its message and an exit code, without a traceback.

    With ``--debug`` the error goes through as it is.

    Args:
        command: The command.

    Returns:
        The same command, ending well.
    """

    @functools.wraps(command)
    def run(*args: _P.args, **kwargs: _P.kwargs) -> None:
        try:
            command(*args, **kwargs)
        except (typer.Exit, typer.Abort):
            raise
        except BaseException as error:
            if os.environ.get(DEBUG):
                raise
            code = _report(error)
            if code is None:
                raise
            raise typer.Exit(code) from None

    return run


def _report(error: BaseException) -> int | None:
    """Say what went wrong; return the exit code, or None for what is nobody's error here."""
    if isinstance(error, BadInput):
        return _say(str(error), BAD_INPUT)
    if isinstance(error, RunFailed):
        return _say(str(error), FAILED)
    if isinstance(error, KeyboardInterrupt):
        return _say("stopped; a run goes on with the same command (train wants --resume)", FAILED)
    if isinstance(error, OSError) and error.filename is not None and error.errno in _USERS:
        return _say(f"{error.filename}: {error.strerror}", BAD_INPUT)
    if isinstance(error, Exception):
        return _say(f"{type(error).__name__}: {error}\n(dotkd --debug shows where)", FAILED)
    return None


def _say(text: str, code: int) -> int:
    print(f"dotkd: {text}", file=sys.stderr)
    return code


app = typer.Typer(
    name="dotkd",
    help="Distil neural networks: two losses, two gradients, two momenta (DOT).",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)

RecipeName = Annotated[
    str, typer.Argument(metavar="RECIPE", help="TOML file, or the name of a shipped recipe.")
]
Overrides = Annotated[list[str] | None, typer.Argument(metavar="[TABLE.KEY=VALUE]...")]
Output = Annotated[Path, typer.Option("--output", "-o", help="Folder to write to.")]
Resume = Annotated[bool, typer.Option("--resume", help="Go on where an earlier run in the folder stopped.")]
RunPath = Annotated[
    Path,
    typer.Argument(metavar="RUN", help="Run folder, its student.safetensors, or one of its checkpoints."),
]
Whose = Annotated[
    str,
    typer.Option("--recipe", help="Recipe whose student it is, for files that do not say; a .pth, for one."),
]


def main() -> None:
    """Run the command line; ``--debug`` may stand anywhere."""
    if "--debug" in sys.argv[1:]:
        os.environ[DEBUG] = "1"
        sys.argv = [word for word in sys.argv if word != "--debug"]
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal without a sign is no reason to fail
    app()


def _show_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        print(version("dotkd"))
        raise typer.Exit


@app.callback()
def _options(
    _debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    _version: Annotated[
        bool,
        typer.Option("--version", help="Show the version and end.", is_eager=True, callback=_show_version),
    ] = False,
) -> None:
    pass


def _example(text: str) -> str:
    return f"[bold]Example:[/bold] {text}"


@app.command(epilog=_example("dotkd demo --output demo"))
@ends_well
def demo(output: Output = Path("dotkd-demo")) -> None:
    """Compare plain training, KD, KD + DOT and its control on handwritten digits: no download, no GPU."""
    from dotkd.compare.run import DEMO

    _compare(list(DEMO), [], 5, output)


@app.command(epilog=_example("dotkd train quick/digits-kd-dot optimizer.delta=0.05 --output runs/dot"))
@ends_well
def train(
    recipe: RecipeName,
    overrides: Overrides = None,
    output: Output = Path("run"),
    resume: Resume = False,
    tensorboard: Annotated[bool, typer.Option(help="Write TensorBoard events too (extra 'tb').")] = False,
) -> None:
    """Train the student of a recipe, after its teacher where that is a recipe too."""
    from dotkd.console import bars, console, show_epoch, show_results
    from dotkd.recipe import Recipe, load_recipe
    from dotkd.runs import RECIPE
    from dotkd.train.loop import train as train_recipe

    loaded = load_recipe(recipe, overrides or [])
    if resume and not (output / RECIPE).exists():
        console.print(f"nothing to resume in {output}: a new run")
    calls = [show_epoch]
    if tensorboard:
        from dotkd.train.tensorboard import TensorBoard

        calls.append(TensorBoard(output))
    with bars() as shown:

        def begin(started: Recipe) -> None:
            if started is loaded:
                shown.run(loaded.name, loaded.run.seed)
            else:
                shown.teacher(loaded.name, started.schedule.epochs)

        results = train_recipe(
            loaded, output, resume=resume, on_run=begin, on_epoch=calls, on_step=shown.step
        )
    show_results(results)


@app.command(epilog=_example("dotkd compare quick/digits-kd quick/digits-kd-dot --seeds 5 --output digits"))
@ends_well
def compare(
    recipes: Annotated[
        list[str], typer.Argument(metavar="RECIPE...", help="TABLE.KEY=VALUE among them holds for all.")
    ],
    seeds: Annotated[int, typer.Option(min=1, help="Seeds of each recipe: 0, 1, ...")] = 5,
    sweep: Annotated[
        str, typer.Option(metavar="KEY=V,V", help="An arm for each value, of each recipe that has the key.")
    ] = "",
    tune_lr: Annotated[
        str,
        typer.Option(metavar="LR,LR", help="Choose each arm's learning rate out of these, on validation."),
    ] = "",
    tune_seeds: Annotated[int, typer.Option(min=1, help="Seeds of each trial of --tune-lr: 100, ...")] = 3,
    jobs: Annotated[
        int, typer.Option(min=1, help="Runs at a time, on one device, each in a process of its own.")
    ] = 1,
    output: Output = Path("comparison"),
) -> None:
    """Train recipes x seeds into one folder; what is finished is skipped, what was stopped goes on."""
    from dotkd.compare.sweep import parse_sweep
    from dotkd.compare.tune import Tuning, parse_rates
    from dotkd.recipe import is_override

    overrides = [word for word in recipes if is_override(word)]
    named = [word for word in recipes if word not in overrides]
    tuning = Tuning(parse_rates(tune_lr), tune_seeds) if tune_lr else None
    _compare(named, overrides, seeds, output, parse_sweep(sweep) if sweep else None, tuning, jobs)


def _compare(
    recipes: list[str],
    overrides: list[str],
    seeds: int,
    output: Path,
    sweep: "Sweep | None" = None,
    tuning: "Tuning | None" = None,
    jobs: int = 1,
) -> None:
    from dotkd.compare.run import compare as compare_recipes
    from dotkd.compare.sweep import swept
    from dotkd.console import bars, console, show_summary
    from dotkd.recipe import load_recipe

    loaded = [load_recipe(recipe, overrides) for recipe in recipes]
    arms = len(loaded) if sweep is None else len(swept(loaded, sweep)[0])
    with bars(arms * (seeds + (len(tuning.trials()) if tuning else 0))) as shown:
        failures = compare_recipes(
            loaded,
            seeds,
            output,
            sweep=sweep,
            tuning=tuning,
            jobs=jobs,
            on_run=shown.run,
            on_teacher=shown.teacher,
            on_step=shown.step,
        )
    show_summary(output)
    for failure in failures:
        console.print(f"failed: {failure.arm}, seed {failure.seed}: {failure.reason}")
        if os.environ.get(DEBUG):
            traceback.print_exception(failure.error)
    if failures:
        raise typer.Exit(FAILED)


@app.command(epilog=_example("dotkd report comparison"))
@ends_well
def report(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Of a run or a comparison.")],
) -> None:
    """Write report.html from finished runs."""
    from dotkd.console import show_summary
    from dotkd.report import write_report

    write_report(folder)
    show_summary(folder)


@app.command(
    epilog=_example("dotkd evaluate resnet32x4.pth --recipe cifar100/teacher/resnet32x4 --root data/cifar100")
)
@ends_well
def evaluate(
    run: RunPath,
    recipe: Whose = "",
    root: Annotated[str, typer.Option(help="Where the data are; default: where the recipe says.")] = "",
    device: Annotated[str, typer.Option(help="auto, cpu or cuda:N.")] = "auto",
) -> None:
    """Measure a network on the test images: top-1, top-5, negative log-likelihood."""
    from dotkd.console import show_scores
    from dotkd.recipe import load_recipe
    from dotkd.train.evaluation import evaluate as evaluate_student

    whose = load_recipe(recipe) if recipe else None
    scores, images, found = evaluate_student(run, whose, root=root, device=device)
    show_scores(found.name, scores, images)


@app.command(epilog=_example("dotkd export runs/dot --format onnx --output student.onnx"))
@ends_well
def export(
    run: RunPath,
    output: Annotated[Path, typer.Option("--output", "-o", help="File to write.")],
    file_format: Annotated[
        str, typer.Option("--format", "-f", help="safetensors, torch (torch.export) or onnx (extra 'onnx').")
    ] = "safetensors",
    recipe: Whose = "",
) -> None:
    """Write a student for use elsewhere, and check that it gives the same logits."""
    from dotkd.console import console
    from dotkd.export import export as export_student
    from dotkd.recipe import load_recipe

    difference = export_student(run, output, file_format, load_recipe(recipe) if recipe else None)
    console.print(f"{output}: checked, largest relative difference of a logit {difference:.1e}")


@app.command(epilog=_example("dotkd analyze comparison/kd/seed-0 comparison/kd-dot/seed-0 --parts landscape"))
@ends_well
def analyze(
    runs: Annotated[
        list[Path],
        typer.Argument(
            metavar="RUN...",
            help="Folders of finished runs; interpolation is from the first to each other one.",
        ),
    ],
    parts: Annotated[
        str,
        typer.Option(
            help="Out of landscape, sharpness, quality, cost and interpolation, separated by commas. "
            "Default: all, with several RUNs interpolation too."
        ),
    ] = "",
    images: Annotated[
        int, typer.Option(min=16, help="Images to measure on, of validation or, without it, test.")
    ] = 1000,
    grid: Annotated[int, typer.Option(min=3, help="Points along each side of a surface, odd.")] = 15,
    recipe: Whose = "",
) -> None:
    """Measure surfaces, curvature, calibration, robustness, cost, interpolation, into the run folders."""
    from dotkd.analyze import analyze as analyze_run
    from dotkd.analyze import plan
    from dotkd.console import bars, console
    from dotkd.recipe import load_recipe

    whose = load_recipe(recipe) if recipe else None
    plans = plan(runs, [part.strip() for part in parts.split(",")] if parts else None)
    with bars(sum(len(one.parts) for one in plans)) as shown:
        for run, wanted, reference in plans:

            def on_part(part: str, arm: str = f"{run.parent.name}/{run.name}") -> None:
                shown.run(f"{arm}: {part}", None)

            found = analyze_run(
                run, whose, parts=wanted, reference=reference, images=images, grid=grid, on_part=on_part
            )
            console.print(f"{run / 'analysis.json'}", soft_wrap=True)
            if reference is not None and (reason := found.get("interpolation", {}).get("reason")):
                console.print(f"{run}: no line from {reference}: {reason}", soft_wrap=True)


recipes_app = typer.Typer(
    help="List the shipped recipes with pair, data and published accuracy, or show one in full.",
    invoke_without_command=True,
    rich_markup_mode="rich",
    epilog=_example("dotkd recipes show quick/digits-kd-dot"),
)
app.add_typer(recipes_app, name="recipes")


@recipes_app.callback()
@ends_well
def recipes(
    context: typer.Context,
    only: Annotated[
        str, typer.Option(metavar="PREFIX", help="Those whose names begin so, such as imagenet.")
    ] = "",
) -> None:
    """List the shipped recipes with pair, data and published accuracy, or show one in full."""
    if context.invoked_subcommand is None:
        from dotkd.console import show_recipes

        show_recipes(only)


@recipes_app.command(epilog=_example("dotkd recipes show quick/digits-kd-dot optimizer.delta=0.05"))
@ends_well
def show(
    recipe: RecipeName,
    overrides: Overrides = None,
) -> None:
    """Print a recipe with all that it extends and all defaults: a file that can be trained as it is."""
    from dotkd.recipe import load_recipe, recipe_text

    print(recipe_text(load_recipe(recipe, overrides or [])), end="")
