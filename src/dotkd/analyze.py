"""Measures finished runs, part by part, and writes ``analysis.json`` into their folders.

A part is a function of an opened run and of images, an entry of :data:`PARTS`, and a field of
:class:`dotkd.records.Analysis`.
"""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from dotkd import analysis, records
from dotkd._validate import UNLABELLED
from dotkd.data import Batch, Images
from dotkd.errors import BadInput, first_line
from dotkd.recipe import Recipe, load_recipe
from dotkd.runs import (
    ANALYSIS,
    ENVIRONMENT,
    LAST,
    RECIPE,
    STUDENT,
    is_finished,
    read_json,
    read_record,
    write_json,
)
from dotkd.seeding import random_stream
from dotkd.train.build import build_run
from dotkd.train.environment import file_checksum
from dotkd.train.networks import read_made_for, refuse_own_code
from dotkd.train.scores import in_evaluation_mode
from dotkd.train.state import RunState, read_checkpoint, restore

# ---------------------------------------------------------------- finished runs


def _open(folder: Path, given: Recipe | None) -> RunState:
    """Rebuild a run at its last epoch; ``given`` is its recipe if the student is made by a function."""
    recipe = load_recipe(folder / RECIPE)
    if given is not None:
        seeded = given.run.model_copy(update={"seed": recipe.run.seed})
        recipe = given.model_copy(update={"run": seeded})
    else:
        refuse_own_code(recipe, folder)
    teacher = None if recipe.teacher is None else _teacher_file(folder, recipe)
    made_for = read_made_for(folder)
    run = build_run(recipe, teacher, None if made_for is None else made_for.configuration)
    restore(run, folder)
    return run


def _teacher_file(folder: Path, recipe: Recipe) -> Path | None:
    """Find the teacher's weights by checksum, where the recipe says or where runs put them."""
    wanted = read_json(folder / ENVIRONMENT).get("teacher_checksum")
    if wanted is None:  # pretrained weights, by the name of the model
        return None
    given = recipe.teacher.checkpoint if recipe.teacher else None
    places = [Path(given)] if given else []
    places += [folder / "teacher" / STUDENT, *sorted(folder.parent.parent.glob(f"teachers/*/{STUDENT}"))]
    for place in places:
        if place.is_file() and file_checksum(place) == wanted:
            return place
    raise BadInput(f"{folder}: its teacher (checksum {wanted}) is in none of {', '.join(map(str, places))}")


def _student_state(folder: Path) -> dict[str, Tensor]:
    """State of the student in the last checkpoint of a run."""
    state = read_checkpoint(folder / LAST)["objective"]
    mark = "student."
    return {name.removeprefix(mark): value for name, value in state.items() if name.startswith(mark)}


class _Opened(NamedTuple):
    """A run at its last epoch, with the options of the parts."""

    state: RunState
    grid: int
    reference: Path | None
    reasons: dict[str, str]

    def params(self) -> list[nn.Parameter]:
        """Trainable parameters of the student."""
        return [param for param in self.state.distiller.student.parameters() if param.requires_grad]

    def mean_losses(self, data: Images, *, accuracy: bool = False) -> dict[str, Tensor]:
        """Mean losses: raw ``task`` and ``distill``, and the ``total`` that is differentiated."""
        sums: dict[str, Tensor] = {}
        for batch in data.batches(self.state.recipe.data.batch_size):
            losses = self.state.distiller(batch.images, batch.labels, index=batch.index, progress=1.0)
            found = {"task": losses.raw_task, "total": losses.task}
            if losses.distill is not None:
                found |= {"distill": losses.raw_distill, "total": losses.task + losses.distill}
            if accuracy:
                found["accuracy"] = (losses.logits.argmax(dim=1) == batch.labels).float().mean()
            for name, value in found.items():
                sums[name] = sums.get(name, value.new_zeros(())) + value * len(batch)
        return {name: value / len(data) for name, value in sums.items()}


def _numbers(values: Tensor) -> tuple[float, ...]:
    return tuple(values.tolist())


# ---------------------------------------------------------------- landscape

GRID = 15
"""Points along each side of a loss surface, by default."""
_REACH = 1.0


def _landscape(run: _Opened, data: Images) -> records.Landscape:
    """Loss surfaces on the plane of two filter-normalized directions, drawn alike for all runs."""
    params = run.params()
    generators = [random_stream(0, f"analysis.direction{number}") for number in range(2)]
    directions = [analysis.filter_normalized_direction(params, generator=each) for each in generators]
    steps = torch.linspace(-_REACH, _REACH, run.grid, dtype=torch.float64)
    steps[run.grid // 2] = 0.0
    with torch.no_grad():
        surfaces = analysis.loss_surface(lambda: run.mean_losses(data), params, directions, steps.tolist())
    rows = {name: tuple(map(_numbers, surface)) for name, surface in surfaces.items()}
    return records.Landscape(steps=_numbers(steps), **rows)


# ---------------------------------------------------------------- sharpness

_CURVED = 256  # images: curvature is measured on one batch
_RHO, _TRACE_SAMPLES = 0.05, 16
_RESIDUAL = 1e-2  # of eigenvalues, whose own error is nearer to its square
# Half as many products as the rest of this part. With many parameters one random vector is nearly as good as
# several, and both ends of the spectrum need steps.
_DENSITY_SAMPLES, _DENSITY_STEPS, _DENSITY_POINTS = 1, 26, 201


def _sharpness(run: _Opened, data: Images) -> dict[str, records.Sharpness]:
    """Curvature of each raw loss at the student."""
    distiller = run.state.distiller
    weights = distiller.weights()
    batch = data.batch(torch.arange(len(data), device=data.device))

    def raw(kind: str) -> Tensor:  # with its graph, which the logged raw losses lack
        losses = distiller(batch.images, batch.labels, index=batch.index, progress=1.0)
        value: Tensor = getattr(losses, kind)
        return value / weights[kind]

    used = [kind for kind, weight in weights.items() if weight]  # SimKD does not use its task loss
    return {kind: _curvature(partial(raw, kind), run.params(), kind) for kind in used}


def _curvature(loss: Callable[[], Tensor], params: list[nn.Parameter], kind: str) -> records.Sharpness:
    density = analysis.spectral_density(
        loss,
        params,
        num_samples=_DENSITY_SAMPLES,
        steps=_DENSITY_STEPS,
        points=_DENSITY_POINTS,
        generator=random_stream(0, f"analysis.spectrum.{kind}"),
    )
    norms = analysis.filter_norms(params)
    raw, normalized = (
        analysis.hessian_trace(
            loss,
            params,
            scale=scale,
            num_samples=_TRACE_SAMPLES,
            generator=random_stream(0, f"analysis.trace.{kind}"),
        )
        for scale in (None, norms)
    )
    [sharpest] = _numbers(analysis.top_eigenvalues(loss, params, scale=norms, tolerance=_RESIDUAL))
    weights = [param.detach().double() for param in params if param.ndim > 1]
    return records.Sharpness(
        eigenvalues=_numbers(analysis.top_eigenvalues(loss, params, k=3, tolerance=_RESIDUAL)),
        trace=raw.trace,
        trace_error=raw.standard_error,
        filter_normalized=records.NormalizedCurvature(
            eigenvalue=sharpest, trace=normalized.trace, trace_error=normalized.standard_error
        ),
        weight_norm=sum(float(weight.square().sum()) for weight in weights) ** 0.5,
        epsilon_sharpness=analysis.sam_sharpness(loss, params, rho=_RHO),
        rho=_RHO,
        spectrum=records.Spectrum(
            grid=_numbers(density.grid),
            density=_numbers(density.density),
            nodes=_numbers(density.nodes),
            weights=_numbers(density.weights),
        ),
    )


# ---------------------------------------------------------------- quality

_EPSILON = 2 / 255
_BATCH = 256


def _quality(run: _Opened, data: Images) -> records.Quality:
    """Calibration, proper scores, robustness and worst classes; with a teacher, agreement with it."""
    model, distiller = run.state.deployable.eval(), run.state.distiller
    logits, target = _logits(model, data)
    diagram = analysis.reliability_diagram(logits, target)
    found: dict[str, Any] = {}
    if distiller.teacher is not None:
        teach = distiller.teach
        theirs, _ = _logits(lambda images: teach(images).logits, data)
        if theirs.shape == logits.shape:
            found["agreement"] = _agreement(logits, theirs, target)
    return records.Quality(
        ece=analysis.expected_calibration_error(logits, target),
        nll=analysis.negative_log_likelihood(logits, target),
        brier=analysis.brier_score(logits, target),
        reliability=records.Reliability(
            confidence=_numbers(diagram.confidence),
            accuracy=_numbers(diagram.accuracy),
            count=tuple(diagram.samples.tolist()),
        ),
        worst_classes=tuple(
            records.WorstClass(name=data.classes[row.label], accuracy=row.accuracy, count=row.samples)
            for row in analysis.worst_classes(logits, target, len(data.classes))
        ),
        robustness=_robustness(model, data, run.reasons),
        **found,
    )


@torch.no_grad()
def _logits(model: Callable[[Tensor], Tensor], data: Images) -> tuple[Tensor, Tensor]:
    pairs = [(model(batch.images).float(), batch.labels) for batch in data.batches(_BATCH)]
    logits, labels = (torch.cat(each) for each in zip(*pairs, strict=True))
    return logits, labels


def _agreement(student: Tensor, teacher: Tensor, target: Tensor) -> records.Agreement:
    both = analysis.agreement(student, teacher, target)
    return records.Agreement(
        top1=both.top1,
        kl=both.kl,
        student_right=both.student_right,
        teacher_right=both.teacher_right,
        neither=both.neither_right,
    )


def _robustness(
    model: nn.Module, data: Images, reasons: dict[str, str]
) -> dict[str, records.Attack | tuple[float | None, ...]]:
    """Accuracy at strengths 1 to 5 of each corruption, and under FGSM."""

    def corrupted(batch: Batch, kind: str, strength: int, noise: torch.Generator) -> Tensor:
        return analysis.corrupt(batch.images, kind, strength, generator=noise)

    def attacked(batch: Batch) -> Tensor:
        def loss(images: Tensor) -> Tensor:
            return cross_entropy(model(images), batch.labels)

        return analysis.fgsm(loss, batch.images, epsilon=_EPSILON)

    found: dict[str, records.Attack | tuple[float | None, ...]] = {}
    for kind in analysis.CORRUPTIONS:
        changes = [
            partial(corrupted, kind=kind, strength=strength, noise=random_stream(0, f"analysis.{kind}"))
            for strength in range(1, 6)
        ]
        found[kind] = tuple(_accuracy(model, data, change) for change in changes)
    try:
        under_attack = _accuracy(model, data, attacked)
    except RuntimeError as error:
        under_attack, reasons["quality.robustness.fgsm"] = None, first_line(error)
    found["fgsm"] = records.Attack(epsilon=_EPSILON, accuracy=under_attack)
    return found


def _accuracy(model: nn.Module, data: Images, change: Callable[[Batch], Tensor]) -> float:
    """Accuracy on changed images."""
    right = torch.zeros((), device=data.device)
    for batch in data.batches(_BATCH):
        images = change(batch)
        with torch.no_grad():
            right += (model(images).argmax(dim=1) == batch.labels).sum()
    return float(right) / len(data)


# ---------------------------------------------------------------- cost


def _cost(run: _Opened, data: Images) -> records.Cost:
    """Parameters, FLOPs and latency of the deployable student on one image."""
    model, image = run.state.deployable.eval(), data.batch([0]).images
    return records.Cost(
        parameters=analysis.parameter_count(model),
        flops=analysis.flops(model, image),
        latency_seconds=analysis.latency(model, image).median,
    )


# ---------------------------------------------------------------- interpolation

_STEPS = 16  # a power of two: each step and its complement to 1 are exact


def _interpolation(run: _Opened, data: Images) -> records.Interpolation:
    """Losses and accuracy from the reference's student, at 0, to this run's, at 1."""
    assert run.reference is not None
    recipe = load_recipe(run.reference / RECIPE)
    ours = run.state.distiller.student.state_dict(keep_vars=True)
    theirs = _student_state(run.reference)
    if reason := _difference(ours, theirs):
        return records.Interpolation(arm=recipe.name, seed=recipe.run.seed, reason=reason)
    distinct = {id(value): name for name, value in ours.items()}.values()  # a tensor may have several names
    weights = [name for name in distinct if isinstance(ours[name], nn.Parameter)]
    buffers = [name for name in distinct if name not in weights]
    steps = [step / _STEPS for step in range(_STEPS + 1)]
    # Both ends are the students themselves; teacher and method are this run's along the whole line.
    curves = analysis.interpolation(
        lambda: run.mean_losses(data, accuracy=True),
        [ours[name] for name in weights],
        [theirs[name].to(run.state.device) for name in weights],
        [1 - step for step in steps],
        buffers_a=[ours[name] for name in buffers],
        buffers_b=[theirs[name].to(run.state.device) for name in buffers],
    )
    found = {name: _numbers(values) for name, values in curves.items()}
    return records.Interpolation.model_validate(
        {"arm": recipe.name, "seed": recipe.run.seed, "steps": tuple(steps), **found}
    )


def _difference(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> str:
    """Why there is no straight line between two students; empty if there is one."""
    if missing := next((name for name in ours if name not in theirs), None):
        return f"the students differ: only one of them has {missing}"
    if extra := len(theirs) - len(ours):
        return f"the students differ: one of them has {extra} more tensor{'s' * (extra > 1)}"
    for name, value in ours.items():
        if value.shape != theirs[name].shape:
            return f"the students differ: {name} is {list(theirs[name].shape)} and {list(value.shape)}"
    return ""


# ---------------------------------------------------------------- the verb


class _Part(NamedTuple):
    """How a part is measured.

    ``of_losses``: on training images where the method remembers them, and so has no loss on others.
    """

    measure: Callable[[_Opened, Images], records.Record | dict[str, records.Sharpness]]
    of_losses: bool = False
    needs_reference: bool = False
    most_images: int | None = None


PARTS = {
    "landscape": _Part(_landscape, of_losses=True),
    "sharpness": _Part(_sharpness, of_losses=True, most_images=_CURVED),
    "quality": _Part(_quality),
    "cost": _Part(_cost),
    "interpolation": _Part(_interpolation, of_losses=True, needs_reference=True),
}
"""All parts by name, in the order in which they are measured."""


class Plan(NamedTuple):
    """The parts to measure on a run, and the run from whose student the interpolation starts."""

    run: Path
    parts: tuple[str, ...]
    reference: Path | None


def plan(runs: Sequence[Path], parts: Sequence[str] | None = None) -> list[Plan]:
    """Parts to measure on each of several runs; the first run is the reference of the others.

    Args:
        runs: Run folders, at least one.
        parts: Names out of :data:`PARTS`; None for all that can be measured.

    Returns:
        A plan for each run that has a part to measure.

    Raises:
        BadInput: A folder is not a finished run, or a part is unknown or needs a second run.
    """
    wanted = tuple(PARTS if parts is None else parts)
    if unknown := [part for part in wanted if part not in PARTS]:
        raise BadInput(f"unknown part {unknown[0]!r} (known: {', '.join(PARTS)})")
    if not runs:
        raise BadInput("runs must be at least one folder of a finished run, got none")
    for run in runs:
        if not is_finished(run):
            raise BadInput(f"{run}: not the folder of a finished run")
    first, *others = runs
    alone = tuple(part for part in wanted if not PARTS[part].needs_reference)
    between = [part for part in wanted if part not in alone]
    if between and not others and parts is not None:
        raise BadInput(f"{between[0]} needs two runs: the one from whose student the lines start comes first")
    if between and any(run.resolve() == first.resolve() for run in others):
        raise BadInput(f"{first}: given twice, and no line leads from a student to itself")
    reference = first if between else None
    found = [Plan(first, alone, None), *(Plan(run, wanted, reference) for run in others)]
    return [one for one in found if one.parts]


def analyze(
    runs: Sequence[Path],
    recipe: Recipe | None = None,
    *,
    parts: Sequence[str] | None = None,
    images: int = 1000,
    grid: int = GRID,
    on_part: Callable[[Path, str], None] = lambda _run, _part: None,
) -> dict[Path, records.Analysis]:
    """Measure finished runs, and write ``analysis.json`` into each folder after each part.

    Parts that an earlier call measured are kept.

    Args:
        runs: Run folders, at least one. ``"interpolation"`` is on the line from the student of the first to
            the student of each other.
        recipe: Recipe of the runs if their student is made by a function of your own; None reads it from the
            folders.
        parts: Names out of ``"landscape"``, ``"sharpness"``, ``"quality"``, ``"cost"`` and
            ``"interpolation"``; None for all, the last one only with several runs.
        images: Number of images of the validation split or, without one, of the test split. At most 256 of
            them for curvature. A method that remembers training images has its losses measured on those.
        grid: Points along each side of a loss surface, odd, >= 3: the middle is the student itself.
        on_part: Called with the run and the part before each measurement.

    Returns:
        The content of ``analysis.json`` of each run with a part to measure; ``measured_on`` says for each
        part the split and the number of images, and ``reasons`` why a part is missing. If two students differ
        in their tensors, ``interpolation`` holds the reason.

    Raises:
        BadInput: A folder is not a finished run, its teacher is gone, or an option is wrong.

    Example:
        >>> from dotkd.recipe import load_recipe
        >>> from dotkd.train import train
        >>> _ = train(load_recipe("quick/digits-plain", ["schedule.epochs=1"]), Path("run"))
        >>> found = analyze([Path("run")], parts=["quality", "cost"], images=100)
        >>> found[Path("run")].on("quality")
        MeasuredOn(split='validation', images=100)
    """
    plans = plan(runs, parts)
    if grid < 3 or grid % 2 == 0:
        raise BadInput(f"grid must be an odd number of at least 3, got {grid}")
    return {one.run: _measure(one, recipe, images, grid, on_part) for one in plans}


def _measure(
    wanted: Plan, recipe: Recipe | None, images: int, grid: int, on_part: Callable[[Path, str], None]
) -> records.Analysis:
    folder = wanted.run
    state = _open(folder, recipe)
    split = "test" if state.data.validation is None else "validation"
    remembers = "index" in state.distiller.needs
    losses_split = "train" if remembers else split
    found = _kept(folder / ANALYSIS).model_copy(
        update={
            "epoch": state.epoch,
            "split": split,
            "images": min(images, len(getattr(state.data, split))),
            "losses_split": losses_split,
        }
    )
    with in_evaluation_mode(state.distiller):
        for name in wanted.parts:
            on_part(folder, name)
            part = PARTS[name]
            source = losses_split if part.of_losses else split
            count = images if part.most_images is None else min(images, part.most_images)
            data = _choose(getattr(state.data, source), count)
            on = records.MeasuredOn(split=source, images=len(data))
            reasons = {key: why for key, why in found.reasons.items() if key.partition(".")[0] != name}
            try:
                value = part.measure(_Opened(state, grid, wanted.reference, reasons), data)
            except BadInput:
                raise
            except (RuntimeError, ValueError) as error:  # no second derivative, a loss that is not finite
                value, reasons[name] = None, first_line(error)
            found = found.model_copy(
                update={name: value, "measured_on": {**found.measured_on, name: on}, "reasons": reasons}
            )
            write_json(folder / ANALYSIS, found.model_dump(mode="json", by_alias=True, exclude_unset=True))
    return found


def _choose(data: Images, count: int) -> Images:
    """Random images, the same ones for all runs on these data."""
    order = torch.randperm(len(data), generator=random_stream(0, "analysis.images"))
    order = order[(data.labels.cpu() != UNLABELLED)[order]]
    return data.subset(order[:count].to(data.device))


def _kept(path: Path) -> records.Analysis:
    """Parts that earlier calls measured, with their images."""
    if not path.exists():
        return records.Analysis()
    found = read_record(path, records.Analysis)
    on = {part: found.on(part) for part in PARTS if getattr(found, part) is not None}
    return found.model_copy(update={"measured_on": on})
