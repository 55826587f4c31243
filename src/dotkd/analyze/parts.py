"""The verb: opens a run, measures the parts that are asked for, and writes what was found."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from dotkd.analyze.cost import cost
from dotkd.analyze.interpolation import interpolation
from dotkd.analyze.landscape import landscape
from dotkd.analyze.quality import quality
from dotkd.analyze.sharpness import CURVED, sharpness
from dotkd.analyze.subject import open_session, some_of
from dotkd.distiller import Distiller
from dotkd.errors import BadInput
from dotkd.recipe import Recipe
from dotkd.runs import ANALYSIS, is_finished, read_json, write_json
from dotkd.train.evaluate import in_evaluation_mode

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
    remembers = isinstance(session.objective, Distiller) and "index" in session.objective.method.needs
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
