"""Where a model has the features that methods ask for, and how those of two models are paired.

A method names a *kind* of feature: ``"stages"``, ``"preacts"``, ``"last"`` or ``"pooled"``. A model says
where it has them by four attributes, which the zoo has and any ``nn.Module`` may have; who calls may say it
instead.

============  =========================================================================================
``stages``    ``stage_paths``: what each stage returns; the first of several is the stem and is left out
``preacts``   ``preact_paths``: the same in front of the stage's last ReLU; without such, ``stages``
``last``      the last of ``stages``
``pooled``    ``pooled_path``, else the input of ``classifier_path``: the vector that is classified
============  =========================================================================================
"""

from collections.abc import Mapping, Sequence

from torch import nn

from dotkd.errors import unknown
from dotkd.features.taps import INPUT

KINDS = ("stages", "preacts", "last", "pooled")
MANY = ("stages", "preacts")
"""The kinds that are several features; their names in a tap are ``stages.0``, ``stages.1``, ..."""

Where = str | Sequence[str]


def feature_paths(model: nn.Module, kind: str, role: str = "model") -> list[str]:
    """Ask a model where it has a kind of feature.

    Args:
        model: Any module; the attributes above say where its features are.
        kind: One of :data:`KINDS`.
        role: What the error text calls the model.

    Returns:
        Dotted paths for :class:`~dotkd.features.taps.Taps`, from images to logits; one for single kinds.

    Raises:
        ValueError: The model does not say.

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
            f"the {role}, a {type(model).__name__}, does not say where its feature {kind!r} is; say it: "
            f"taps={{{kind!r}: ...}} of the distiller, or the key {role}.{kind} of a recipe"
        )
    if kind == "last":
        return found[-1:]
    return found[1:] if kind in MANY and len(found) > 1 else found


def pair_paths(
    needs: Sequence[str],
    student: nn.Module,
    teacher: nn.Module,
    taps: Mapping[str, Where | tuple[Where, Where]],
) -> tuple[dict[str, str], dict[str, str]]:
    """Find the features of two models that a method compares.

    Where one model has more stages than the other, as many of them are taken at even distances, the last
    among them.

    Args:
        needs: Kinds, or names of the method's own.
        student: The one model.
        teacher: The other.
        taps: What is not to be asked of the models: kind or name -> path (a list of paths for ``stages`` and
            ``preacts``), or a pair (student's, teacher's); an empty string asks the model.

    Returns:
        Tap name -> path, for the student and for the teacher, with the same names.

    Raises:
        ValueError: A model does not say where a feature is, or a tap is given that no one needs.

    Example:
        >>> from dotkd.models import create_model
        >>> student, teacher = (create_model(name, 100) for name in ("resnet8x4", "vgg8"))
        >>> ours, theirs = pair_paths(["stages"], student, teacher, {})
        >>> ours["stages.0"], theirs["stages.0"], theirs["stages.2"]
        ('layer1', 'relu1', 'relu4')
    """
    for name in taps:
        if name not in needs:
            said = unknown("tap", name, needs) if needs else f"tap {name!r} is not needed"
            raise ValueError(f"{said}: the method reads {', '.join(needs) or 'no features'}")
    ours: dict[str, str] = {}
    theirs: dict[str, str] = {}
    for name in needs:
        given = taps.get(name, "")
        pair = given if isinstance(given, tuple) else (given, given)
        if len(pair) != 2:
            raise ValueError(f"tap {name!r} must be one path or a pair (student's, teacher's), got {given!r}")
        first, second = (
            _paths(name, where, model, role)
            for where, model, role in zip(pair, (student, teacher), ("student", "teacher"), strict=True)
        )
        if name not in MANY:
            ours[name], theirs[name] = first[0], second[0]
            continue
        count = min(len(first), len(second))
        for number, paths in enumerate(zip(_thinned(first, count), _thinned(second, count), strict=True)):
            ours[f"{name}.{number}"], theirs[f"{name}.{number}"] = paths
    return ours, theirs


def _paths(name: str, where: Where, model: nn.Module, role: str) -> list[str]:
    if where:
        if isinstance(where, str) == (name in MANY):
            wanted = "a list of paths" if name in MANY else "one path"
            raise ValueError(f"tap {name!r} must be {wanted}, got {where!r}")
        return [where] if isinstance(where, str) else list(where)
    if name in KINDS:
        return feature_paths(model, name, role)
    raise ValueError(
        f"the method needs the feature {name!r}; say where it is with taps={{{name!r}: 'dotted.path'}}"
    )


def _thinned(paths: list[str], count: int) -> list[str]:
    return [paths[(number + 1) * len(paths) // count - 1] for number in range(count)]
