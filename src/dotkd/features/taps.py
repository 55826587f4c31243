"""Taps: features of any module by dotted path, read with forward hooks.

Hooks are set when a forward pass starts and removed when it ends, also by an exception, so that a tapped
module can be copied, saved and deployed like any other, and no activation is kept.
"""

from collections.abc import Callable, Mapping
from difflib import get_close_matches
from typing import Any

import torch
from torch import Tensor, nn

INPUT = ":input"
"""Suffix of a path: read the submodule's input instead of its output."""


class Taps:
    """Calls a module and reads the outputs of some of its submodules.

    Each tap must name one tensor: a tapped submodule must run exactly once per forward pass and return a
    tensor that nothing overwrites afterwards (an in-place activation behind a tapped batch norm would
    rectify the feature). Otherwise the call raises; in-place changes are invisible in a module compiled by
    inductor. Features keep their graph.

    Args:
        module: The module to call.
        paths: Feature name -> dotted path of a submodule, as in ``module.named_modules()``; the empty path
            is the module itself. With the suffix ``:input`` the submodule's first argument is read instead
            of its output. May be empty.

    Raises:
        ValueError: If there is no submodule at a path; the message lists the nearest paths.

    Example:
        >>> net = nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 2))
        >>> taps = Taps(net, {"hidden": "1"})
        >>> output, features = taps(torch.zeros(5, 4))
        >>> output.shape, features["hidden"].shape
        (torch.Size([5, 2]), torch.Size([5, 3]))
    """

    def __init__(self, module: nn.Module, paths: Mapping[str, str]) -> None:
        self.module = module
        self.paths = dict(paths)
        for name, path in self.paths.items():
            _submodule(module, name, path)

    def __call__(self, *args: Any, **kwargs: Any) -> tuple[Any, dict[str, Tensor]]:
        """Run one forward pass.

        Args:
            *args: Arguments of the module.
            **kwargs: Keyword arguments of the module.

        Returns:
            The module's output and the tapped features by name, in the order of ``paths``.

        Raises:
            RuntimeError: If a tapped submodule did not run exactly once, or its output was changed in place
                later in the pass.
        """
        recorded: dict[str, list[tuple[Tensor, int]]] = {name: [] for name in self.paths}
        handles = []
        try:
            for name, path in self.paths.items():
                # Looked up in each pass: a submodule may have been replaced.
                target = _submodule(self.module, name, path)
                hook = _recorder(name, path, recorded[name])
                if path.endswith(INPUT):
                    handles.append(target.register_forward_pre_hook(_on_input(hook)))
                else:
                    handles.append(target.register_forward_hook(hook))
            output = self.module(*args, **kwargs)
        finally:
            for handle in handles:
                handle.remove()
        features = {}
        for name, path in self.paths.items():
            if len(recorded[name]) != 1:
                raise RuntimeError(_run_count_message(name, path, len(recorded[name])))
            feature, version = recorded[name][0]
            if _version(feature) != version:
                raise RuntimeError(
                    f"tap {name!r}: the output of {path!r} was changed in place after it was "
                    "computed; tap the module that changed it, or build it with inplace=False"
                )
            features[name] = feature
        return output, features

    def __repr__(self) -> str:
        return f"Taps({type(self.module).__name__}, {self.paths})"


def _submodule(module: nn.Module, name: str, path: str) -> nn.Module:
    path = path.removesuffix(INPUT)
    try:
        return module.get_submodule(path)
    except AttributeError:
        known = [known for known, _ in module.named_modules() if known]
        nearest = get_close_matches(path, known, n=5, cutoff=0.0)
        raise ValueError(
            f"tap {name!r}: {type(module).__name__} has no submodule {path!r}; "
            f"nearest: {', '.join(map(repr, nearest)) or 'none, it has no submodules'}"
        ) from None


def _recorder(
    name: str, path: str, record: list[tuple[Tensor, int]]
) -> Callable[[nn.Module, Any, Any], None]:
    """A forward hook that records the output and its version counter."""

    def hook(_module: nn.Module, _inputs: Any, output: Any) -> None:
        if not isinstance(output, Tensor):
            verb = "gets" if path.endswith(INPUT) else "returns"
            raise TypeError(
                f"tap {name!r}: {path!r} {verb} a {type(output).__name__}, not a tensor; "
                f"tap a submodule that {verb} one"
            )
        record.append((output, _version(output)))

    return hook


def _on_input(hook: Callable[[nn.Module, Any, Any], None]) -> Callable[[nn.Module, Any], None]:
    def before(module: nn.Module, inputs: Any) -> None:
        hook(module, inputs, inputs[0] if inputs else None)

    return before


def _version(tensor: Tensor) -> int:
    # Inference tensors have no version counter. Under a compiler, which sees none of them, the question would
    # split the graph at every tap.
    if not torch.compiler.is_compiling() and tensor.is_inference():
        return 0
    return tensor._version


def _run_count_message(name: str, path: str, count: int) -> str:
    if count == 0:
        return (
            f"tap {name!r}: {path!r} did not run in this forward pass, or ran inside a graph that "
            "torch.compile made before it was tapped; for the latter set "
            "torch._dynamo.config.skip_nnmodule_hook_guards = False before compiling"
        )
    return (
        f"tap {name!r}: {path!r} ran {count} times in this forward pass, so its output is not one "
        "tensor; tap a submodule that runs once, such as the block around it"
    )
