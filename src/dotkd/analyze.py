"""analyze: measure finished runs and store the numbers in analysis.json."""

import math
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from dotkd.analysis import (
    CORRUPTIONS,
    agreement,
    brier_score,
    corrupt,
    expected_calibration_error,
    fgsm,
    filter_normalized_direction,
    flops,
    hessian_trace,
    latency,
    loss_surface,
    negative_log_likelihood,
    parameter_count,
    reliability_diagram,
    sam_sharpness,
    spectral_density,
    top_eigenvalues,
    worst_classes,
)
from dotkd.analysis import interpolation as along_line
from dotkd.data import Batch, Images
from dotkd.errors import BadInput
from dotkd.recipe import Recipe, load_recipe
from dotkd.runs import ANALYSIS, ENVIRONMENT, LAST, RECIPE, STUDENT, is_finished, read_json, write_json
from dotkd.seeding import random_stream
from dotkd.train.build import build_run
from dotkd.train.environment import file_checksum
from dotkd.train.networks import refuse_own_code
from dotkd.train.scores import in_evaluation_mode
from dotkd.train.state import RunState, read_checkpoint, restore


def open_session(folder: Path, given: Recipe | None) -> RunState:
    """Bring a run to the state at its end, with its teacher.

    Args:
        folder: The run folder.
        given: Its recipe, where its student is a function of one's own; None to read it from the folder.

    Returns:
        The session.

    Raises:
        BadInput: Its teacher is gone, its student is code of one's own, or a file is broken.
    """
    recipe = load_recipe(folder / RECIPE)
    if given is not None:
        run = given.run.model_copy(update={"seed": recipe.run.seed})
        recipe = given.model_copy(update={"run": run})
    else:
        refuse_own_code(recipe, folder)
    session = build_run(recipe, None if recipe.teacher is None else _teacher(folder))
    restore(session, folder)
    return session


def _teacher(folder: Path) -> Path | None:
    """Find the file of a run's teacher by its checksum: where the recipe says, or where runs put it."""
    recipe = load_recipe(folder / RECIPE)
    wanted = read_json(folder / ENVIRONMENT).get("teacher_checksum")
    assert recipe.teacher is not None
    if wanted is None:  # its name brought its weights
        return None
    places = [Path(recipe.teacher.checkpoint)] if recipe.teacher.checkpoint else []
    places.append(folder / "teacher" / STUDENT)
    places += sorted(folder.parent.parent.glob(f"teachers/*/{STUDENT}"))
    for place in places:
        if place.is_file() and file_checksum(place) == wanted:
            return place
    raise BadInput(f"{folder}: its teacher (checksum {wanted}) is in none of {', '.join(map(str, places))}")


def some_of(data: Images, count: int) -> Images:
    """Choose images, the same ones for all runs on these data."""
    order = torch.randperm(len(data), generator=random_stream(0, "analysis.images"))
    return data.subset(order[:count].to(data.device))


# ---------------------------------------------------------------- the losses


def mean_losses(session: RunState, data: Images, *, accuracy: bool = False) -> dict[str, Tensor]:
    """Mean losses over a data set, in batches.

    Args:
        session: The run.
        data: The images.
        accuracy: Whether to give the share of right predictions too, of the same forward passes.

    Returns:
        ``task`` and ``distill``, raw, and their sum ``total`` as it is differentiated at the end of the run.
    """
    sums: dict[str, Tensor] = {}
    for batch in data.batches(session.recipe.data.batch_size):
        losses = session.objective(batch.images, batch.labels, index=batch.index, progress=1.0)
        found = {"task": losses.raw_task, "total": losses.task}
        if losses.distill is not None:
            found |= {"distill": losses.raw_distill, "total": losses.task + losses.distill}
        if accuracy:
            found["accuracy"] = (losses.logits.argmax(dim=1) == batch.labels).float().mean()
        for name, value in found.items():
            sums[name] = sums.get(name, value.new_zeros(())) + value * len(batch)
    return {name: value / len(data) for name, value in sums.items()}


def student_params(session: RunState) -> list[nn.Parameter]:
    """Give what training moved of the student."""
    return [param for param in session.objective.student.parameters() if param.requires_grad]


def weight_of(session: RunState, kind: str) -> float:
    """The factor between a raw loss and the one that is differentiated at the end of the run."""
    return session.objective.weights()[kind]


# ---------------------------------------------------------------- numbers for JSON


def plain(values: Tensor) -> list[float | None]:
    """Give the numbers of a vector, None for what is not finite."""
    return [finite(value) for value in values.tolist()]


def finite(value: float) -> float | None:
    """Give a number, None if it is not finite."""
    return value if math.isfinite(value) else None


def cost(session: RunState, data: Images) -> dict[str, Any]:
    """Parameters, FLOPs and latency of what is deployed."""
    model, one = session.deployable.eval(), data.batch([0]).images
    return {
        "parameters": parameter_count(model),
        "flops": flops(model, one),
        "latency_seconds": latency(model, one).median,
    }


_REACH = 1.0


def landscape(session: RunState, data: Images, grid: int) -> dict[str, Any]:
    """The surfaces around the student, on the plane of two directions drawn alike for all runs."""
    params = student_params(session)
    generators = [random_stream(0, f"analysis.direction{number}") for number in range(2)]
    directions = [filter_normalized_direction(params, generator=generator) for generator in generators]
    steps = torch.linspace(-_REACH, _REACH, grid, dtype=torch.float64)
    steps[grid // 2] = 0.0
    with torch.no_grad():
        surfaces = loss_surface(lambda: mean_losses(session, data), params, directions, steps.tolist())
    found = {name: [plain(row) for row in surface] for name, surface in surfaces.items()}
    return {"steps": steps.tolist(), **found}


CURVED = 256
"""On how many images curvature is measured at most."""
_RHO, _TRACE_SAMPLES = 0.05, 32
# Half the products that the rest of this part takes. Many parameters make one random vector nearly as good
# as several, while both ends of the spectrum want steps.
_DENSITY_SAMPLES, _DENSITY_STEPS, _DENSITY_POINTS = 1, 26, 201


def sharpness(session: RunState, data: Images) -> dict[str, Any]:
    """Largest eigenvalues, trace, density and SAM's sharpness of each loss at the student, on one batch."""
    batch = data.batch(torch.arange(min(CURVED, len(data)), device=data.device))
    params = student_params(session)
    kinds = ("task", "distill") if session.objective.teacher is not None else ("task",)
    found = {}
    for kind in kinds:
        weight = weight_of(session, kind)
        if not weight:  # SimKD does not use its task loss
            continue
        loss = partial(_raw, session, batch, kind, weight)
        trace = hessian_trace(
            loss, params, num_samples=_TRACE_SAMPLES, generator=random_stream(0, f"analysis.trace.{kind}")
        )
        found[kind] = {
            "eigenvalues": top_eigenvalues(loss, params, k=3, tolerance=1e-3).tolist(),
            "trace": trace.trace,
            "trace_error": trace.standard_error,
            "epsilon_sharpness": sam_sharpness(loss, params, rho=_RHO),
            "rho": _RHO,
            "spectrum": _spectrum(loss, params, kind),
        }
    return found


def _spectrum(loss: Callable[[], Tensor], params: list[nn.Parameter], kind: str) -> dict[str, Any]:
    """The density of the eigenvalues, with the nodes and weights from which any other width can be drawn."""
    density = spectral_density(
        loss,
        params,
        num_samples=_DENSITY_SAMPLES,
        steps=_DENSITY_STEPS,
        points=_DENSITY_POINTS,
        generator=random_stream(0, f"analysis.spectrum.{kind}"),
    )
    return {name: values.tolist() for name, values in density._asdict().items()}


def _raw(session: RunState, batch: Batch, kind: str, weight: float) -> Tensor:
    """One raw loss of a batch with its graph, which the raw values that are logged do not have."""
    losses = session.objective(batch.images, batch.labels, index=batch.index, progress=1.0)
    value: Tensor = getattr(losses, kind)
    return value / weight


_EPSILON = 2 / 255


def quality(session: RunState, data: Images) -> dict[str, Any]:
    """Calibration, proper scores, robustness, weak classes; with a teacher, agreement with it."""
    model, classes = session.deployable.eval(), len(data.classes)
    logits, target = _logits(model, data)
    diagram = reliability_diagram(logits, target)
    found: dict[str, Any] = {
        "ece": expected_calibration_error(logits, target),
        "nll": negative_log_likelihood(logits, target),
        "brier": brier_score(logits, target),
        "reliability": {
            "confidence": plain(diagram.confidence),
            "accuracy": plain(diagram.accuracy),
            "count": diagram.samples.tolist(),
        },
        "worst_classes": [
            {"class": data.classes[row.label], "accuracy": row.accuracy, "count": row.samples}
            for row in worst_classes(logits, target, classes)
        ],
        "robustness": _robustness(model, data),
    }
    if session.objective.teacher is not None:
        teach = session.objective.teach
        theirs, _ = _logits(lambda images: teach(images).logits, data)
        if theirs.shape == logits.shape:
            both = agreement(logits, theirs, target)
            found["agreement"] = {
                "top1": both.top1,
                "kl": both.kl,
                "student_right": finite(both.student_right),
                "teacher_right": finite(both.teacher_right),
                "neither": finite(both.neither_right),
            }
    return found


def _robustness(model: nn.Module, data: Images) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for kind in CORRUPTIONS:
        found[kind] = []
        for strength in range(1, 6):
            noise = random_stream(0, f"analysis.{kind}")
            changed = partial(_corrupted, kind=kind, strength=strength, generator=noise)
            found[kind].append(_accuracy(model, data, changed))

    def attack(batch: Batch) -> Tensor:
        return fgsm(lambda images: cross_entropy(model(images), batch.labels), batch.images, epsilon=_EPSILON)

    found["fgsm"] = {"epsilon": _EPSILON, "accuracy": _accuracy(model, data, attack)}
    return found


def _corrupted(batch: Batch, *, kind: str, strength: int, generator: torch.Generator) -> Tensor:
    return corrupt(batch.images, kind, strength, generator=generator)


def _accuracy(model: nn.Module, data: Images, change: Callable[[Batch], Tensor]) -> float:
    right = torch.zeros((), device=data.device)
    for batch in data.batches(256):
        images = change(batch)
        with torch.no_grad():
            right += (model(images).argmax(dim=1) == batch.labels).sum()
    return float(right) / len(data)


@torch.no_grad()
def _logits(model: Callable[[Tensor], Tensor], data: Images) -> tuple[Tensor, Tensor]:
    pairs = [(model(batch.images).float(), batch.labels) for batch in data.batches(256)]
    logits, labels = (torch.cat(each) for each in zip(*pairs, strict=True))
    return logits, labels


_STEPS = 16  # a power of two: each step and what it leaves to 1 are exact


def interpolation(session: RunState, data: Images, reference: Path) -> dict[str, Any]:
    """Losses and accuracy from the student of another run, at 0, to this one's, at 1.

    The statistics of batch norm are interpolated like the weights, so that both ends are the students
    themselves. Everything but the student is this run's all along: its teacher, its method and what that
    has learned.

    Args:
        session: This run at its end.
        data: The images.
        reference: Folder of the other run.

    Returns:
        Arm and seed of the other run, with ``steps``, ``task``, ``distill``, ``total`` and ``accuracy``; or
        with ``reason``, why there is no such line.
    """
    recipe = load_recipe(reference / RECIPE)
    against = {"arm": recipe.name, "seed": recipe.run.seed}
    ours = session.objective.student.state_dict(keep_vars=True)
    state = read_checkpoint(reference / LAST)["objective"]
    theirs = {name: state[f"student.{name}"] for name in ours if f"student.{name}" in state}
    extra = sum(name.startswith("student.") for name in state) - len(theirs)
    if reason := _unlike(ours, theirs, extra):
        return {**against, "reason": reason}
    live = {id(value): name for name, value in ours.items()}.values()  # a tensor may go by several names
    moved = [name for name in live if isinstance(ours[name], nn.Parameter)]
    kept = [name for name in live if name not in moved]
    steps = [step / _STEPS for step in range(_STEPS + 1)]
    found = along_line(
        lambda: mean_losses(session, data, accuracy=True),
        [ours[name] for name in moved],
        [theirs[name].to(session.device) for name in moved],
        [1 - step for step in steps],
        buffers_a=[ours[name] for name in kept],
        buffers_b=[theirs[name].to(session.device) for name in kept],
    )
    return {**against, "steps": steps, **{name: plain(values) for name, values in found.items()}}


def _unlike(ours: dict[str, Tensor], theirs: dict[str, Tensor], extra: int) -> str:
    """Say why there is no straight line between two students; nothing if there is one."""
    if missing := next((name for name in ours if name not in theirs), None):
        return f"the students differ: only one of them has {missing}"
    if extra:
        return f"the students differ: one of them has {extra} more tensor{'s' * (extra > 1)}"
    for name, value in ours.items():
        if value.shape != theirs[name].shape:
            shapes = f"{list(theirs[name].shape)} and {list(value.shape)}"
            return f"the students differ: {name} is {shapes}"
    return ""


PARTS = ("landscape", "sharpness", "quality", "cost", "interpolation")
LINE = PARTS[-1]
"""The part that needs another run."""
_OF_LOSSES = ("landscape", "sharpness", LINE)


class Plan(NamedTuple):
    """What to measure on a run, and the run from whose student the line starts."""

    folder: Path
    parts: tuple[str, ...]
    reference: Path | None


def plan(folders: Sequence[Path], parts: Sequence[str] | None = None) -> list[Plan]:
    """Say what to measure on each of several runs, of which the first is what others are held against.

    Args:
        folders: The run folders.
        parts: As :func:`analyze` takes them; None for all, the line between students where there are two.

    Returns:
        A plan for each run on which there is something to measure.

    Raises:
        BadInput: A part is unknown, or needs a second run.
    """
    reference = folders[0] if len(folders) > 1 else None
    wanted = _checked(parts, reference)
    reference = reference if LINE in wanted else None
    alone = tuple(part for part in wanted if part != LINE)
    found = [Plan(folders[0], alone, None), *(Plan(folder, wanted, reference) for folder in folders[1:])]
    return [one for one in found if one.parts]


def analyze(
    folder: Path,
    recipe: Recipe | None = None,
    *,
    parts: Sequence[str] | None = None,
    reference: Path | None = None,
    images: int = 1000,
    grid: int = 15,
    on_part: Callable[[str], None] = lambda _part: None,
) -> dict[str, Any]:
    """Measure a finished run, and write what was found into its folder, part by part.

    Args:
        folder: The run folder.
        recipe: Its recipe, where its student is a function of your own; None to read it from the folder.
        parts: Out of ``"landscape"``, ``"sharpness"``, ``"quality"``, ``"cost"`` and ``"interpolation"``;
            what an earlier call found of the others is kept. None for all that can be measured, which is all
            but the last without a reference.
        reference: Folder of another finished run: ``"interpolation"`` is on the line from its student to
            this one's.
        images: On how many images, of the validation split where there is one, else of the test split.
            Curvature is measured on 256 of them. The losses of a method that remembers training images
            are measured on these.
        grid: Points along each side of the surfaces, odd, so that the middle is the student itself.
        on_part: Called before each part.

    Returns:
        What ``analysis.json`` holds: the parts, and for each under ``measured_on`` the ``split`` and how many
        ``images`` of it, which need not be those of another call. Where two students are not alike,
        ``interpolation`` holds the reason.

    Raises:
        BadInput: It is no finished run, its teacher is gone, or an option is wrong.
    """
    if not is_finished(folder):
        raise BadInput(f"{folder}: not the folder of a finished run")
    wanted = _checked(parts, reference)
    if reference is not None and LINE in wanted:
        if not is_finished(reference):
            raise BadInput(f"{reference}: not the folder of a finished run")
        if reference.resolve() == folder.resolve():
            raise BadInput(f"{folder}: no line leads from a student to itself")
    if grid < 3 or grid % 2 == 0:
        raise BadInput(f"grid must be an odd number of at least 3, got {grid}")
    session = open_session(folder, recipe)
    split = "test" if session.data.validation is None else "validation"
    judged = some_of(getattr(session.data, split), images)
    # A method that remembers training images has no loss on others.
    remembers = "index" in session.objective.needs
    fitted = some_of(session.data.train, images) if remembers else judged
    found = _kept(folder / ANALYSIS) | {"epoch": session.epoch, "split": split, "images": len(judged)}
    found["losses_split"] = "train" if remembers else split
    measure: dict[str, Callable[[], dict[str, Any]]] = {
        "landscape": partial(landscape, session, fitted, grid),
        "sharpness": partial(sharpness, session, fitted),
        "quality": partial(quality, session, judged),
        "cost": partial(cost, session, judged),
    }
    if reference is not None:
        measure[LINE] = partial(interpolation, session, fitted, reference)
    with in_evaluation_mode(session.objective):
        for part in wanted:
            on_part(part)
            found[part] = measure[part]()
            found["measured_on"][part] = _on(part, found)
            write_json(folder / ANALYSIS, found)  # what took long is not lost with what comes after it
    return found


def _kept(path: Path) -> dict[str, Any]:
    """What earlier calls found, each part with the images that it was measured on."""
    found = read_json(path) if path.exists() else {}
    on = {part: _on(part, found) for part in PARTS if part in found}
    return {**found, "measured_on": {**on, **found.get("measured_on", {})}}


def _on(part: str, found: dict[str, Any]) -> dict[str, Any]:
    split, images = found.get("losses_split") if part in _OF_LOSSES else None, found.get("images")
    if part == "sharpness" and images is not None:
        images = min(CURVED, images)
    return {"split": split or found.get("split"), "images": images}


def _checked(parts: Sequence[str] | None, reference: Path | None) -> tuple[str, ...]:
    """Give the parts to measure."""
    if parts is None:
        return PARTS if reference is not None else tuple(part for part in PARTS if part != LINE)
    if unknown := [part for part in parts if part not in PARTS]:
        raise BadInput(f"unknown part {unknown[0]!r} (known: {', '.join(PARTS)})")
    if LINE in parts and reference is None:
        raise BadInput(f"{LINE} needs two runs: the one from whose student the lines start comes first")
    return tuple(parts)
