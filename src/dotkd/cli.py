"""The command line: one function a verb. Verbs import heavy modules themselves: `--help` loads no torch."""

import errno
import functools
import io
import os
import sys
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ParamSpec

import typer
from typer.core import TyperCommand, TyperGroup

from dotkd.errors import BadInput, RunFailed

if TYPE_CHECKING:
    from dotkd.compare import RateSearch, SweepAxis
    from dotkd.recipe import Recipe

FAILED, BAD_INPUT = 1, 2
"""Exit codes: something failed while it ran; the input is wrong. 0 is success."""
DEBUG = "DOTKD_DEBUG"
"""Environment variable that ``--debug`` sets: errors keep their traceback."""

# Errors of paths that the user gave. A full disk is not one of these.
_PATH_ERRORS = (
    errno.EACCES,
    errno.EEXIST,
    errno.EISDIR,
    errno.ENAMETOOLONG,
    errno.ENOENT,
    errno.ENOTDIR,
    errno.EPERM,
    errno.EROFS,
)

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
RunPath = Annotated[
    Path,
    typer.Argument(metavar="RUN", help="Run folder, its student.safetensors, or one of its checkpoints."),
]
StudentRecipe = Annotated[
    str,
    typer.Option("--recipe", help="Recipe of the student, for files without metadata, such as a .pth."),
]

_P = ParamSpec("_P")


class _OptionsOnce:
    """Refuses an option with a value that is given twice: the first value would be dropped."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        given = self.make_parser(ctx).parse_args(args=list(args))[2]  # type: ignore[attr-defined]
        for option in given:
            if given.count(option) > 1 and not (option.multiple or option.is_flag):
                ctx.fail(f"{max(option.opts, key=len)} is given {given.count(option)} times: give it once")
        parsed: list[str] = super().parse_args(ctx, args)  # type: ignore[misc]
        return parsed


class _Command(_OptionsOnce, TyperCommand):
    pass


class _Group(_OptionsOnce, TyperGroup):
    pass


def main() -> None:
    """Run the command line; ``--debug`` may stand anywhere."""
    if "--debug" in sys.argv[1:]:
        os.environ[DEBUG] = "1"
        sys.argv = [word for word in sys.argv if word != "--debug"]
    warnings.formatwarning = _one_line
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # terminals that lack a character
    app()


_default_format = warnings.formatwarning


def _one_line(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, line: str | None = None
) -> str:
    """Word a warning of this package like an error, without a place in the code."""
    if Path(filename).is_relative_to(Path(__file__).parent):
        return f"dotkd: {message}\n"
    return _default_format(message, category, filename, lineno, line)


def verb(example: str, group: typer.Typer = app) -> Callable[[Callable[_P, None]], Callable[_P, None]]:
    """Decorator: add a command to the command line, with an example in its help."""

    def decorate(command: Callable[_P, None]) -> Callable[_P, None]:
        return group.command(cls=_Command, epilog=_epilog(example))(exit_codes(command))

    return decorate


def _epilog(example: str) -> str:
    return f"[bold]Example:[/bold] {example}"


def exit_codes(command: Callable[_P, None]) -> Callable[_P, None]:
    """Decorator: turn an exception into one message and an exit code; with ``--debug`` let it through."""

    @functools.wraps(command)
    def run(*args: _P.args, **kwargs: _P.kwargs) -> None:
        try:
            command(*args, **{name: _expanded(value) for name, value in kwargs.items()})  # type: ignore[arg-type]
        except (typer.Exit, typer.Abort):
            raise
        except BaseException as error:
            known = _message(error)
            if known is None or os.environ.get(DEBUG):
                raise
            text, code = known
            print(f"dotkd: {text}", file=sys.stderr)
            raise typer.Exit(code) from None

    return run


def _expanded(value: object) -> object:
    """Put the home folder for ``~`` in paths: shells leave it in ``--output=~/x``."""
    if isinstance(value, list):
        return [_expanded(one) for one in value]
    # The method of Path raises for a user that does not exist.
    return Path(os.path.expanduser(value)) if isinstance(value, Path) else value  # noqa: PTH111


def _message(error: BaseException) -> tuple[str, int] | None:
    if isinstance(error, BadInput):
        return str(error), BAD_INPUT
    if isinstance(error, RunFailed):
        return str(error), FAILED
    if isinstance(error, KeyboardInterrupt):
        return "stopped; the same command resumes a comparison, `train` needs --resume", FAILED
    if isinstance(error, OSError) and error.filename is not None and error.errno in _PATH_ERRORS:
        return f"{error.filename}: {error.strerror}", BAD_INPUT
    if isinstance(error, Exception):
        return f"{type(error).__name__}: {error}\n(dotkd --debug shows where)", FAILED
    return None


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        print(version("dotkd"))
        raise typer.Exit


@app.callback()
def _global_options(
    _debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    _version: Annotated[
        bool,
        typer.Option("--version", help="Print the version and exit.", is_eager=True, callback=_print_version),
    ] = False,
) -> None:
    pass


def _once(overrides: list[str] | None) -> list[str]:
    """Overrides of the command line; a key that is given twice is refused: one value would be dropped."""
    words = overrides or []
    keys = [word.partition("=")[0].strip() for word in words]
    if twice := next((key for key in keys if keys.count(key) > 1), None):
        raise BadInput(f"{twice}: is given {keys.count(twice)} times: give it once")
    return words


def _recipe_or_none(name: str) -> "Recipe | None":
    from dotkd.recipe import load_recipe

    return load_recipe(name) if name else None


# ---------------------------------------------------------------- verbs


@verb("dotkd demo --output demo")
def demo(output: Output = Path("dotkd-demo")) -> None:
    """Compare plain training, KD, KD + DOT and its control on handwritten digits: no download, no GPU."""
    from dotkd.compare import DEMO

    _compare(list(DEMO), [], 5, output)


@verb("dotkd train quick/digits-kd-dot optimizer.delta=0.05 --output runs/dot")
def train(
    recipe: RecipeName,
    overrides: Overrides = None,
    output: Output = Path("run"),
    resume: Annotated[bool, typer.Option("--resume", help="Resume the run in the output folder.")] = False,
    tensorboard: Annotated[bool, typer.Option(help="Write TensorBoard events too (extra 'tb').")] = False,
) -> None:
    """Train the student of a recipe, and first its teacher if the teacher is a recipe too."""
    from dotkd.console import bars, console, show_epoch, show_results, show_teacher
    from dotkd.recipe import Recipe, load_recipe
    from dotkd.runs import RECIPE
    from dotkd.train import train as train_recipe

    loaded = load_recipe(recipe, _once(overrides))
    if resume and not (output / RECIPE).exists():
        console.print(f"nothing to resume in {output}: a new run")
    callbacks = [show_epoch]
    if tensorboard:
        from dotkd.train.tensorboard import TensorBoard

        callbacks.append(TensorBoard(output))
    with bars() as progress:

        def on_run(started: Recipe) -> None:
            if started is loaded:
                progress.run(loaded.name, loaded.run.seed)
            else:
                progress.teacher(loaded.name, started.schedule.epochs)

        results = train_recipe(
            loaded,
            output,
            resume=resume,
            on_run=on_run,
            on_teacher=show_teacher,
            on_epoch=callbacks,
            on_step=progress.step,
        )
    show_results(results)


@verb("dotkd compare quick/digits-kd quick/digits-kd-dot --seeds 5 --output digits")
def compare(
    recipes: Annotated[
        list[str], typer.Argument(metavar="RECIPE...", help="Recipes, and TABLE.KEY=VALUE for all of them.")
    ],
    seeds: Annotated[int, typer.Option(min=1, help="Number of seeds: 0, 1, ...")] = 5,
    sweep: Annotated[
        str, typer.Option(metavar="KEY=V,V", help="One arm for each value, of each recipe that has the key.")
    ] = "",
    tune_lr: Annotated[
        str,
        typer.Option(metavar="LR,LR", help="Choose each arm's learning rate on validation images."),
    ] = "",
    tune_seeds: Annotated[
        int | None, typer.Option(min=1, help="Seeds of each --tune-lr trial: 100, ...; default: 3.")
    ] = None,
    jobs: Annotated[
        int, typer.Option(min=1, help="Runs at a time, on one device, each in its own process.")
    ] = 1,
    output: Output = Path("comparison"),
) -> None:
    """Train recipes x seeds into one folder and write a report; the same command resumes."""
    from dotkd.compare import TUNE_SEEDS, RateSearch, parse_rates, parse_sweep
    from dotkd.recipe import is_override

    overrides = _once([word for word in recipes if is_override(word)])
    names = [word for word in recipes if word not in overrides]
    if tune_seeds is not None and not tune_lr:
        raise BadInput(f"--tune-seeds {tune_seeds}: are of --tune-lr, which is not given")
    search = RateSearch(parse_rates(tune_lr), tune_seeds or TUNE_SEEDS) if tune_lr else None
    if tune_lr and any(word.partition("=")[0] == "optimizer.lr" for word in overrides):
        raise BadInput("optimizer.lr and --tune-lr both set the learning rate: give one of them")
    _compare(names, overrides, seeds, output, parse_sweep(sweep) if sweep else None, search, jobs)


def _compare(
    recipes: list[str],
    overrides: list[str],
    seeds: int,
    output: Path,
    sweep: "SweepAxis | None" = None,
    search: "RateSearch | None" = None,
    jobs: int = 1,
) -> None:
    from dotkd.compare import compare as compare_recipes
    from dotkd.compare import sweep_arms
    from dotkd.console import bars, console, show_summary
    from dotkd.recipe import load_recipe

    loaded = [load_recipe(recipe, overrides) for recipe in recipes]
    arms = len(loaded) if sweep is None else len(sweep_arms(loaded, sweep)[0])
    with bars(arms * (seeds + (len(search.trials()) if search else 0))) as progress:
        failures = compare_recipes(
            loaded,
            seeds,
            output,
            sweep=sweep,
            search=search,
            jobs=jobs,
            on_run=progress.run,
            on_teacher=progress.teacher,
            on_step=progress.step,
        )
    show_summary(output)
    for failure in failures:
        console.print(f"failed: {failure.arm}, seed {failure.seed}: {failure.reason}")
        if os.environ.get(DEBUG):
            traceback.print_exception(failure.error)
    if failures:
        raise typer.Exit(FAILED)


@verb("dotkd report comparison")
def report(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Folder of a run or a comparison.")],
) -> None:
    """Write report.html from finished runs."""
    from dotkd.console import show_summary
    from dotkd.report import write_report

    write_report(folder)
    show_summary(folder)


@verb("dotkd evaluate resnet32x4.pth --recipe cifar100/teacher/resnet32x4 --root data/cifar100")
def evaluate(
    run: RunPath,
    recipe: StudentRecipe = "",
    root: Annotated[str, typer.Option(help="Folder of the data; default: the recipe's data.root.")] = "",
    device: Annotated[str, typer.Option(help="auto, cpu or cuda:N.")] = "auto",
) -> None:
    """Measure a network on the test images: top-1, top-5, negative log-likelihood."""
    from dotkd.console import console, show_scores
    from dotkd.train import evaluate as evaluate_student

    found = evaluate_student(run, _recipe_or_none(recipe), root=root, device=device)
    if found.warning:
        console.print(f"warning: {found.warning}", soft_wrap=True)
    show_scores(found.recipe.name, found.scores, found.images)


@verb("dotkd export runs/dot --format onnx --output student.onnx")
def export(
    run: RunPath,
    output: Annotated[Path, typer.Option("--output", "-o", help="File to write.")],
    file_format: Annotated[
        str, typer.Option("--format", "-f", help="safetensors, torch (torch.export) or onnx (extra 'onnx').")
    ] = "safetensors",
    recipe: StudentRecipe = "",
) -> None:
    """Write a student in another format and compare its logits with the original's."""
    from dotkd.console import console
    from dotkd.export import export as export_student

    difference = export_student(run, output, file_format, _recipe_or_none(recipe))
    console.print(f"{output}: checked, largest relative difference of a logit {difference:.1e}")


@verb("dotkd analyze comparison/kd/seed-0 comparison/kd-dot/seed-0 --parts landscape")
def analyze(
    runs: Annotated[
        list[Path],
        typer.Argument(
            metavar="RUN...",
            help="Folders of finished runs; interpolation runs from the first to each other run.",
        ),
    ],
    parts: Annotated[
        str,
        typer.Option(
            help="Any of landscape, sharpness, quality, cost and interpolation, separated by commas. "
            "Default: all; interpolation only with several RUNs."
        ),
    ] = "",
    images: Annotated[
        int, typer.Option(min=16, help="Number of images: of validation, or of test without validation.")
    ] = 1000,
    grid: Annotated[
        int | None, typer.Option(min=3, help="Points along each side of a loss surface, odd; default: 15.")
    ] = None,
    recipe: StudentRecipe = "",
) -> None:
    """Measure surfaces, curvature, calibration, robustness, cost and interpolation of finished runs."""
    from dotkd.analyze import GRID, plan
    from dotkd.analyze import analyze as analyze_run
    from dotkd.console import bars, console

    names = [part.strip() for part in parts.split(",")] if parts else None
    if names and grid is not None and "landscape" not in names:
        raise BadInput(f"--grid {grid}: is of the part landscape, and --parts is {parts}")
    plans = plan(runs, names)
    with bars(sum(len(one.parts) for one in plans)) as progress:

        def on_part(run: Path, part: str) -> None:
            progress.run(f"{run.parent.name}/{run.name}: {part}", None)

        found = analyze_run(
            runs, _recipe_or_none(recipe), parts=names, images=images, grid=grid or GRID, on_part=on_part
        )
    for run, _, reference in plans:
        console.print(f"{run / 'analysis.json'}", soft_wrap=True)
        for part, reason in found[run].reasons.items():
            console.print(f"{run}: no {part}: {reason}", soft_wrap=True)
        line = found[run].interpolation if reference is not None else None
        if line is not None and line.reason:
            console.print(f"{run}: no interpolation from {reference}: {line.reason}", soft_wrap=True)


recipes_app = typer.Typer(
    cls=_Group,
    help="List the shipped recipes with pair, data and published accuracy, or show one in full.",
    invoke_without_command=True,
    rich_markup_mode="rich",
    epilog=_epilog("dotkd recipes show quick/digits-kd-dot"),
)
app.add_typer(recipes_app, name="recipes")


@recipes_app.callback()
@exit_codes
def recipes(
    context: typer.Context,
    only: Annotated[
        str, typer.Option(metavar="PREFIX", help="Only names with this prefix, such as imagenet.")
    ] = "",
) -> None:
    """List the shipped recipes with pair, data and published accuracy, or show one in full."""
    if context.invoked_subcommand is None:
        from dotkd.console import show_recipes

        show_recipes(only)
    elif only:
        raise BadInput(f"--only {only}: is for the list, not for {context.invoked_subcommand}")


@verb("dotkd recipes show quick/digits-kd-dot optimizer.delta=0.05", recipes_app)
def show(recipe: RecipeName, overrides: Overrides = None) -> None:
    """Print a recipe with everything it extends and all defaults: a file that can be trained as it is."""
    from dotkd.recipe import load_recipe, recipe_text

    print(recipe_text(load_recipe(recipe, _once(overrides))), end="")
