"""Feature paths: dotted paths of the submodules whose outputs methods compare.

A method names a *kind* of feature. A model tells its path by an attribute, which the zoo has and any
``nn.Module`` may have; the caller may give another path instead.

============  =========================================================================================
``stages``    ``stage_paths``: outputs of the stages; the first of several is the stem and is left out
``preacts``   ``preact_paths``: the same in front of each stage's last ReLU; without them, ``stages``
``last``      the last of ``stages``
``pooled``    ``pooled_path``, else the input of ``classifier_path``: the vector that is classified
============  =========================================================================================
"""

from collections.abc import Mapping, Sequence

from torch import nn

from dotkd.errors import unknown
from dotkd.features.taps import INPUT

KINDS = ("stages", "preacts", "last", "pooled")
LIST_KINDS = ("stages", "preacts")
"""Kinds that are several features, named ``stages.0``, ``stages.1``, ... in :class:`~dotkd.features.Taps`."""

FeaturePath = str | Sequence[str]
"""A dotted path, or a list of them for a kind in :data:`LIST_KINDS`."""


def feature_paths(model: nn.Module, kind: str, role: str = "model") -> list[str]:
    """Look up the paths of a kind of feature in a model's own attributes.

    Args:
        model: Any module with the attributes above.
        kind: One of :data:`KINDS`.
        role: Name of the model in the error text.

    Returns:
        Dotted paths for :class:`~dotkd.features.Taps`, from images to logits; one for single kinds.

    Raises:
        ValueError: The model has no attribute for this kind.

    Example:
        >>> from dotkd.models import create_model
        >>> feature_paths(create_model("resnet8x4", 100), "stages")
        ['layer1', 'layer2', 'layer3']
    """
    stages = list(getattr(model, "stage_paths", ()))
    if kind == "pooled":
        classifier = getattr(model, "classifier_path", "")
        found = [getattr(model, "pooled_path", "") or (classifier and classifier + INPUT)]
    elif kind == "preacts":
        found = list(getattr(model, "preact_paths", ())) or stages
    else:
        found = stages
    found = [path for path in found if path]
    if not found:
        raise ValueError(
            f"the {role}, a {type(model).__name__}, names no path of the feature {kind!r}; give one: "
            f"taps={{{kind!r}: ...}} of the distiller, or the key {role}.{kind} of a recipe"
        )
    if kind == "last":
        return found[-1:]
    return found[1:] if kind in LIST_KINDS and len(found) > 1 else found


def pair_paths(
    needs: Sequence[str],
    student: nn.Module,
    teacher: nn.Module,
    taps: Mapping[str, FeaturePath | tuple[FeaturePath, FeaturePath]],
) -> tuple[dict[str, str], dict[str, str]]:
    """Pair the feature paths of two models for a method.

    Of the longer of two lists, as many paths as the shorter has are taken at even distances, the last among
    them.

    Args:
        needs: Kinds, or names of the method's own.
        student: The student.
        teacher: The teacher.
        taps: Paths that replace the models' own: kind or name -> path (a list of paths for ``stages`` and
            ``preacts``), or a pair (student's, teacher's); an empty string asks the model.

    Returns:
        Feature name -> path, for the student and for the teacher, with the same names.

    Raises:
        ValueError: A path is missing, or one is given that the method does not need.

    Example:
        >>> from dotkd.models import create_model
        >>> student, teacher = (create_model(name, 100) for name in ("resnet8x4", "vgg8"))
        >>> ours, theirs = pair_paths(["stages"], student, teacher, {})
        >>> ours["stages.0"], theirs["stages.0"], theirs["stages.2"]
        ('layer1', 'relu1', 'relu4')
    """
    for name in taps:
        if name not in needs:
            problem = unknown("tap", name, needs) if needs else f"tap {name!r} is not needed"
            raise ValueError(f"{problem}: the method reads {', '.join(needs) or 'no features'}")
    ours: dict[str, str] = {}
    theirs: dict[str, str] = {}
    for name in needs:
        given = taps.get(name, "")
        pair = given if isinstance(given, tuple) else (given, given)
        if len(pair) != 2:
            raise ValueError(f"tap {name!r} must be one path or a pair (student's, teacher's), got {given!r}")
        first, second = _paths(name, pair[0], student, "student"), _paths(name, pair[1], teacher, "teacher")
        if name not in LIST_KINDS:
            ours[name], theirs[name] = first[0], second[0]
            continue
        count = min(len(first), len(second))
        for number, paths in enumerate(zip(_thinned(first, count), _thinned(second, count), strict=True)):
            ours[f"{name}.{number}"], theirs[f"{name}.{number}"] = paths
    return ours, theirs


def _paths(name: str, given: FeaturePath, model: nn.Module, role: str) -> list[str]:
    """The given paths of a feature, or else the model's own."""
    if given:
        if isinstance(given, str) == (name in LIST_KINDS):
            wanted = "a list of paths" if name in LIST_KINDS else "one path"
            raise ValueError(f"tap {name!r} must be {wanted}, got {given!r}")
        return [given] if isinstance(given, str) else list(given)
    if name in KINDS:
        return feature_paths(model, name, role)
    raise ValueError(
        f"the method needs the feature {name!r}; give its path: taps={{{name!r}: 'dotted.path'}}"
    )


def _thinned(paths: list[str], count: int) -> list[str]:
    return [paths[(number + 1) * len(paths) // count - 1] for number in range(count)]
