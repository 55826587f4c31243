"""Methods by name: ``@register`` adds one, ``create_method`` makes one.

This is the only list of methods: recipes, the documentation and the tests read it. An unknown name or
option is an error that names the nearest valid one.
"""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar, cast

from dotkd.errors import unknown
from dotkd.methods.base import CONTEXT, FunctionMethod, Method, TaskMethod

_Registered = TypeVar("_Registered", bound=Callable[..., Any])


@dataclass(frozen=True)
class _Entry:
    build: Callable[..., Method | TaskMethod]
    options: dict[str, inspect.Parameter]
    has_teacher: bool = True


_ENTRIES: dict[str, _Entry] = {}


def register(
    name: str, *, needs: tuple[str, ...] | None = None, **weights: float
) -> Callable[[_Registered], _Registered]:
    """Class or function decorator: make a method available by name.

    A class must be a :class:`~dotkd.methods.Method` or a :class:`~dotkd.methods.TaskMethod`; its options
    are the keyword arguments of its constructor (and of its bases' where it passes ``**kwargs`` on). A
    function must suit :class:`~dotkd.methods.FunctionMethod`; its options are its keyword-only arguments
    except ``index`` and ``progress``, and the three weights. The docstring's Reference appears in
    ``docs/methods.md``.

    Args:
        name: A name that is not taken.
        needs: Inputs of a function, by default the logits. A class sets its attribute ``needs``.
        **weights: Defaults of a function's ``task_weight``, ``distill_weight`` and ``warmup``.

    Returns:
        A decorator that returns its argument unchanged.

    Raises:
        ValueError: If the name is taken.

    Example:
        >>> @register("logit_l1")
        ... def logit_l1(student, teacher, target, *, scale=1.0):
        ...     return scale * (student.logits - teacher.logits).abs().mean()
        >>> create_method("logit_l1", scale=2.0, warmup=0.1)
        FunctionMethod(logit_l1, task_weight=1, distill_weight=1, warmup=0.1)
    """
    if name in _ENTRIES:
        raise ValueError(f"a method named {name!r} is registered already; choose another name")

    def decorate(method: _Registered) -> _Registered:
        if isinstance(method, type):
            if not issubclass(method, Method | TaskMethod):
                raise TypeError(f"{method.__name__} must be a subclass of Method or a function")
            if needs is not None:
                raise TypeError(f"{method.__name__} is a class: set its attribute needs instead")
            if weights:
                raise TypeError(f"{method.__name__} is a class: give its constructor other defaults instead")
            _ENTRIES[name] = _Entry(method, _class_options(method), issubclass(method, Method))
        else:
            _ENTRIES[name] = _function_entry(method, needs or ("logits",), weights)
        return method

    return decorate


def method_names() -> list[str]:
    """List the names of all methods.

    Returns:
        The names in alphabetical order.

    Example:
        >>> "kd" in method_names()
        True
    """
    return sorted(_ENTRIES)


def has_teacher(name: str) -> bool:
    """Whether a method distills from a teacher; otherwise it replaces the cross entropy of a plain student.

    Args:
        name: A registered name.

    Returns:
        True if it has a teacher.

    Raises:
        ValueError: If the name is unknown; the message names the nearest.

    Example:
        >>> has_teacher("kd"), has_teacher("label_smoothing")
        (True, False)
    """
    return _entry(name).has_teacher


def method_options(name: str) -> dict[str, inspect.Parameter]:
    """List the options of a method, with their defaults and annotations.

    Args:
        name: A registered name.

    Returns:
        Option name -> parameter, in the order of the constructor.

    Raises:
        ValueError: If the name is unknown; the message names the nearest.

    Example:
        >>> method_options("kd")["temperature"].default
        4.0
    """
    return dict(_entry(name).options)


def create_method(name: str, **options: Any) -> Method | TaskMethod:
    """Make a method from its name and options.

    Args:
        name: A registered name.
        **options: The method's own options and weights.

    Returns:
        A new method.

    Raises:
        ValueError: If the name or an option is unknown (the message names the nearest valid one), a required
            option is missing, or a value is out of range.

    Example:
        >>> create_method("kd", temperature=2.0).temperature
        2.0
    """
    known = method_options(name)
    for option in options:
        if option not in known:
            raise ValueError(unknown(f"option of method {name!r}", option, known))
    for option, parameter in known.items():
        if parameter.default is parameter.empty and option not in options:
            raise ValueError(f"method {name!r} needs the option {option!r}")
    return _ENTRIES[name].build(**options)


def as_method(method: str | Method, options: dict[str, Any]) -> Method:
    """Return a method given by name with options, or one that is made already."""
    if isinstance(method, str):
        if not has_teacher(method):
            raise ValueError(f"method {method!r} has one loss and no teacher, so a Distiller cannot use it")
        return cast("Method", create_method(method, **options))
    if not isinstance(method, Method):
        raise TypeError(
            f"method must be a name or a Method, got {method!r}; "
            "FunctionMethod(function) makes a method of a function"
        )
    if options:
        raise ValueError(
            f"options {sorted(options)} go with a method's name; "
            f"this {type(method).__name__} is made already, pass them to its constructor"
        )
    return method


def _entry(name: str) -> _Entry:
    if name not in _ENTRIES:
        raise ValueError(unknown("method", name, _ENTRIES))
    return _ENTRIES[name]


def _class_options(cls: type) -> dict[str, inspect.Parameter]:
    """Keyword arguments of the constructor, and of its bases' for as long as it passes ``**kwargs`` on."""
    options: dict[str, inspect.Parameter] = {}
    for base in cls.__mro__:
        if "__init__" not in vars(base):
            continue
        parameters = list(inspect.signature(vars(base)["__init__"], eval_str=True).parameters.values())[1:]
        passes_on = any(p.kind is p.VAR_KEYWORD for p in parameters)
        for parameter in parameters:
            if parameter.kind not in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL):
                options.setdefault(parameter.name, parameter)
        if not passes_on:
            break
    return options


def _function_entry(
    function: Callable[..., Any], needs: tuple[str, ...], defaults: dict[str, float]
) -> _Entry:
    """The entry of a function: its keyword-only arguments and the weights are options."""
    own = {
        name: parameter
        for name, parameter in inspect.signature(function, eval_str=True).parameters.items()
        if parameter.kind is parameter.KEYWORD_ONLY and name not in CONTEXT
    }
    weights = _class_options(Method)
    for name, value in defaults.items():
        weights[name] = weights[name].replace(default=value)
    if taken := own.keys() & weights.keys():
        raise ValueError(f"{sorted(taken)} belong to every method; rename the function's argument")

    def build(**options: Any) -> Method:
        bound = {name: value for name, value in options.items() if name in own}
        rest = {name: value for name, value in options.items() if name not in own}
        call = partial(function, **bound) if bound else function
        return FunctionMethod(call, needs=needs, **{**defaults, **rest})

    return _Entry(build, own | weights)
