"""How models from outside of the zoo are called: what can be told of a name without importing anything."""

import re

from dotkd.errors import BadInput

PRETRAINED = "@pretrained"
LIBRARIES = {"timm": "timm", "hf": "transformers"}
_OWN = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*")


def is_external(name: str) -> bool:
    """Tell whether a name has the form of a model from outside of the zoo; nothing is imported.

    Args:
        name: The name.

    Returns:
        True for ``timm:NAME``, ``hf:NAME_OR_FOLDER`` and ``module:function``.

    Raises:
        BadInput: Nothing, or what is no name, after ``timm:`` or ``hf:``.

    Example:
        >>> [is_external(name) for name in ("timm:resnet18@pretrained", "my.nets:small", "resnet8x4")]
        [True, True, False]
    """
    source, _, rest = name.partition(":")
    if source not in LIBRARIES or ":" not in name:
        return _OWN.fullmatch(name) is not None
    bare = rest.removesuffix(PRETRAINED)
    if not bare.strip() or (source == "timm" and not re.fullmatch(r"[\w.]+", bare)):
        wanted = {"timm": "'timm:resnet18'", "hf": "'hf:microsoft/resnet-18' or 'hf:FOLDER'"}[source]
        raise BadInput(f"unknown model {name!r}: wanted such as {wanted}, '{PRETRAINED}' behind it or not")
    return True


def runs_own_code(name: str) -> bool:
    """Tell whether a name is a ``module:function``, which is imported and called to make the model."""
    return is_external(name) and name.partition(":")[0] not in LIBRARIES
