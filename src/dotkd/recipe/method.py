"""The ``[method]`` table: its keys are the options of the method that it names."""

import inspect
from typing import Annotated, Any, get_origin

from pydantic import ConfigDict, Strict, ValidationError, create_model

from dotkd.errors import BadInput
from dotkd.methods import create_method, method_options
from dotkd.recipe.messages import lines


def complete_method(table: dict[str, Any]) -> dict[str, Any]:
    """Check a method's name, option names, types and ranges, and fill in the defaults.

    Args:
        table: ``name`` and options, as the file has them.

    Returns:
        ``name`` and all options.

    Raises:
        BadInput: Something is wrong with them.

    Example:
        >>> complete_method({"name": "kd", "temperature": 2.0})["task_weight"]
        0.1
    """
    options = {key: value for key, value in table.items() if key != "name"}
    name = table.get("name")
    if not isinstance(name, str):
        raise BadInput("method.name: a method's name is missing, such as 'kd'")
    try:
        known = method_options(name)
    except ValueError as error:
        raise BadInput(f"method.name: {error}") from None
    fields: dict[str, Any] = {
        option: (
            _type(parameter),
            ... if parameter.default is parameter.empty else parameter.default,
        )
        for option, parameter in known.items()
    }
    config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)
    try:
        full = create_model(f"method {name!r}", __config__=config, **fields)(**options).model_dump()
        create_method(name, **full)
    except ValidationError as error:
        raise BadInput("\n".join(lines(error, {(): list(known)}, ("method",)))) from None
    except ValueError as error:
        raise BadInput(f"method: {error}") from None
    return {"name": name, **full}


def _type(parameter: inspect.Parameter) -> Any:
    """The type of an option, or of its default; a list of the file may become a tuple, all else is strict."""
    annotation = parameter.annotation
    if annotation is parameter.empty:
        annotation = Any if parameter.default in (parameter.empty, None) else type(parameter.default)
    return Annotated[annotation, Strict(False)] if get_origin(annotation) is tuple else annotation
