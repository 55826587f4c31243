"""Features of any module by dotted path, read by forward hooks: the module's code is not touched.

A tap lives for one forward pass. Its hooks are set when the pass starts and removed when it ends,
however it ends, so that a tapped module can be copied, saved and deployed as if nothing had been
there, and no activation outlives the caller's interest in it.
"""

from collections.abc import Callable, Mapping
from difflib import get_close_matches
from typing import Any

import torch
from torch import Tensor, nn

INPUT = ":input"
"""Behind a path: not what the submodule returns, but what it gets."""


class Taps:
    """Call a module and read the outputs of some of its submodules on the way.

    Each tap must name one tensor. So a tapped submodule has to run exactly once per forward pass,
    return a tensor, and nobody may overwrite that tensor afterwards: an in-place activation behind
    a tapped batch norm would silently turn the feature into its rectified self. All three are
    errors (the last is invisible in a module compiled by inductor). Features keep their graph.

    Args:
        module: The module to call.
        paths: Feature name -> dotted path of a submodule, as ``module.named_modules()`` spells it;
            the empty path is the module itself. With ``:input`` behind it, what the submodule gets as
            its first argument is read instead of what it returns. May be empty.

    Raises:
        ValueError: If a path leads nowhere; the message lists the nearest paths that exist.

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
            *args: What the module takes.
            **kwargs: What the module takes.

        Returns:
            The module's output and the tapped features by name, in the order of ``paths``.

        Raises:
            RuntimeError: If a tapped submodule did not run exactly once, or its output was
                changed in place later in the pass.
        """
        recorded: dict[str, list[tuple[Tensor, int]]] = {name: [] for name in self.paths}
        handles = []
        try:
            for name, path in self.paths.items():
                # Looked up anew in each pass: the owner may have replaced a submodule since.
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
                raise RuntimeError(_how_often(name, path, len(recorded[name])))
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


# A forward hook that keeps the output and the number of in-place writes it has seen so far.
def _recorder(
    name: str, path: str, record: list[tuple[Tensor, int]]
) -> Callable[[nn.Module, Any, Any], None]:
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
    # Inference tensors keep no count. A compiler meets none here, and the question would make it
    # split its graph at every tap.
    if not torch.compiler.is_compiling() and tensor.is_inference():
        return 0
    return tensor._version


def _how_often(name: str, path: str, count: int) -> str:
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
