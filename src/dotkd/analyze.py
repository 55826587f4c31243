"""``analyze``: the expensive measurements on finished runs, kept beside them in ``analysis.json``.

Everything is measured on the weights of the last epoch and in evaluation mode: the surfaces of both losses,
the curvature, calibration, agreement with the teacher, robustness, cost. What is measured lives in
:mod:`dotkd.analysis`; here belongs the way from a run folder to those functions and back.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

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
    top_eigenvalues,
    worst_classes,
)
from dotkd.data import Batch, Images
from dotkd.data.randomness import random_stream
from dotkd.distiller import Distiller
from dotkd.errors import BadInput
from dotkd.networks import build_teacher, refuse_own_code
from dotkd.recipe import Recipe, load_recipe
from dotkd.runs import ANALYSIS, ENVIRONMENT, RECIPE, STUDENT, is_finished, read_json, write_json
from dotkd.train.environment import file_checksum
from dotkd.train.evaluate import in_evaluation_mode
from dotkd.train.session import Session, restore, start

PARTS = ("landscape", "sharpness", "quality", "cost")
_REACH, _RHO, _EPSILON, _TRACE_SAMPLES, _CURVED = 1.0, 0.05, 2 / 255, 32, 256


def analyze(
    folder: Path,
    recipe: Recipe | None = None,
    *,
    parts: Sequence[str] = PARTS,
    images: int = 1000,
    grid: int = 15,
    on_part: Callable[[str], None] = lambda _part: None,
) -> dict[str, Any]:
    """Measure a finished run, and write what was found into its folder.

    Args:
        folder: The run folder.
        recipe: Its recipe, where its student is a function of your own; None to read it from the folder.
        parts: Out of ``"landscape"``, ``"sharpness"``, ``"quality"`` and ``"cost"``; what an earlier call
            found of the others is kept.
        images: On how many images, of the validation split where there is one, else of the test split.
            Curvature is measured on 256 of them. The losses of a method that remembers training images
            are measured on these.
        grid: Points along each side of the surfaces, odd, so that the middle is the student itself.
        on_part: Called before each part.

    Returns:
        What ``analysis.json`` holds.

    Raises:
        BadInput: It is no finished run, its teacher is gone, or an option is wrong.
    """
    if not is_finished(folder):
        raise BadInput(f"{folder}: not the folder of a finished run")
    unknown_parts = [part for part in parts if part not in PARTS]
    if unknown_parts:
        raise BadInput(f"unknown part {unknown_parts[0]!r} (known: {', '.join(PARTS)})")
    if grid < 3 or grid % 2 == 0:
        raise BadInput(f"grid must be an odd number of at least 3, got {grid}")
    session = _session(folder, recipe)
    split = "test" if session.data.validation is None else "validation"
    judged = _some(getattr(session.data, split), images)
    # A method that remembers training images has no loss on others.
    remembers = isinstance(session.objective, Distiller) and "index" in session.objective.method.needs
    fitted = _some(session.data.train, images) if remembers else judged
    path = folder / ANALYSIS
    found = read_json(path) if path.exists() else {}
    found |= {"epoch": session.epoch, "split": split, "images": len(judged)}
    found["losses_split"] = "train" if remembers else split
    measure: dict[str, Callable[[], dict[str, Any]]] = {
        "landscape": partial(_landscape, session, fitted, grid),
        "sharpness": partial(_sharpness, session, fitted),
        "quality": partial(_quality, session, judged),
        "cost": partial(_cost, session, judged),
    }
    with in_evaluation_mode(session.objective):
        for part in parts:
            on_part(part)
            found[part] = measure[part]()
    write_json(path, found)
    return found


def _session(folder: Path, given: Recipe | None) -> Session:
    """Bring a run to the state at its end, with its teacher."""
    recipe = load_recipe(folder / RECIPE)
    if given is not None:
        run = given.run.model_copy(update={"seed": recipe.run.seed})
        recipe = given.model_copy(update={"run": run})
    else:
        refuse_own_code(recipe, folder)
    teacher = None if recipe.teacher is None else build_teacher(recipe, _teacher(folder))
    session = start(recipe, teacher)
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


def _some(data: Images, count: int) -> Images:
    order = torch.randperm(len(data), generator=random_stream(0, "analysis.images"))
    return data.subset(order[:count].to(data.device))


# ---------------------------------------------------------------- the losses


def _mean_losses(session: Session, data: Images) -> dict[str, Tensor]:
    """Mean losses over a data set, raw, and their sum as it is differentiated, in batches."""
    sums: dict[str, Tensor] = {}
    for batch in data.batches(session.recipe.data.batch_size):
        for name, value in _losses(session, batch).items():
            sums[name] = sums.get(name, value.new_zeros(())) + value * len(batch)
    return {name: value / len(data) for name, value in sums.items()}


def _losses(session: Session, batch: Batch) -> dict[str, Tensor]:
    losses = session.objective(batch.images, batch.labels, index=batch.index, progress=1.0)
    if losses.distill is None:
        return {"task": losses.raw_task, "total": losses.task}
    return {
        "task": losses.raw_task,
        "distill": losses.raw_distill,
        "total": losses.task + losses.distill,
    }


def _student_params(session: Session) -> list[nn.Parameter]:
    return [param for param in session.objective.student.parameters() if param.requires_grad]


def _landscape(session: Session, data: Images, grid: int) -> dict[str, Any]:
    """The surfaces around the student, on the plane of two directions drawn alike for all runs."""
    params = _student_params(session)
    generators = [random_stream(0, f"analysis.direction{number}") for number in range(2)]
    directions = [filter_normalized_direction(params, generator=generator) for generator in generators]
    steps = torch.linspace(-_REACH, _REACH, grid, dtype=torch.float64)
    steps[grid // 2] = 0.0
    with torch.no_grad():
        surfaces = loss_surface(lambda: _mean_losses(session, data), params, directions, steps.tolist())
    finite = {
        name: [[_finite(v) for v in row] for row in surface.tolist()] for name, surface in surfaces.items()
    }
    return {"steps": steps.tolist(), **finite}


def _sharpness(session: Session, data: Images) -> dict[str, Any]:
    """Largest eigenvalues, trace and SAM's sharpness of each loss at the student, on one batch."""
    batch = data.batch(torch.arange(min(_CURVED, len(data)), device=data.device))
    params = _student_params(session)
    kinds = ("task", "distill") if isinstance(session.objective, Distiller) else ("task",)
    found = {}
    for kind in kinds:
        weight = _weight(session, kind)
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
        }
    return found


def _raw(session: Session, batch: Batch, kind: str, weight: float) -> Tensor:
    """One raw loss of a batch with its graph, which the raw values that are logged do not have."""
    losses = session.objective(batch.images, batch.labels, index=batch.index, progress=1.0)
    value: Tensor = getattr(losses, kind)
    return value / weight


def _weight(session: Session, kind: str) -> float:
    """The factor between a raw loss and the one that is differentiated at the end of the run."""
    if not isinstance(session.objective, Distiller):
        return 1.0
    method = session.objective.method
    return method.task_weight if kind == "task" else method.distill_weight * method.ramp(1.0)


# ---------------------------------------------------------------- what the student is worth


def _quality(session: Session, data: Images) -> dict[str, Any]:
    model, classes = session.deployable.eval(), len(data.classes)
    logits, target = _logits(model, data)
    diagram = reliability_diagram(logits, target)
    found: dict[str, Any] = {
        "ece": expected_calibration_error(logits, target),
        "nll": negative_log_likelihood(logits, target),
        "brier": brier_score(logits, target),
        "reliability": {
            "confidence": _plain(diagram.confidence),
            "accuracy": _plain(diagram.accuracy),
            "count": diagram.samples.tolist(),
        },
        "worst_classes": [
            {"class": data.classes[row.label], "accuracy": row.accuracy, "count": row.samples}
            for row in worst_classes(logits, target, classes)
        ],
        "robustness": _robustness(model, data),
    }
    if isinstance(session.objective, Distiller):
        theirs, _ = _logits(session.objective.teacher, data)
        if theirs.shape == logits.shape:
            both = agreement(logits, theirs, target)
            found["agreement"] = {
                "top1": both.top1,
                "kl": both.kl,
                "student_right": _finite(both.student_right),
                "teacher_right": _finite(both.teacher_right),
                "neither": _finite(both.neither_right),
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
def _logits(model: nn.Module, data: Images) -> tuple[Tensor, Tensor]:
    pairs = [(model(batch.images).float(), batch.labels) for batch in data.batches(256)]
    logits, labels = (torch.cat(each) for each in zip(*pairs, strict=True))
    return logits, labels


def _cost(session: Session, data: Images) -> dict[str, Any]:
    model, one = session.deployable.eval(), data.batch([0]).images
    return {
        "parameters": parameter_count(model),
        "flops": flops(model, one),
        "latency_seconds": latency(model, one).median,
    }


def _plain(values: Tensor) -> list[float | None]:
    return [_finite(value) for value in values.tolist()]


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
