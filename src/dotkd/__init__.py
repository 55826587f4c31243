"""Knowledge distillation seen from the optimizer's side: two losses, two gradients, two momenta.

The names are loaded on first use, so that ``import dotkd.optim`` stays as light as torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dotkd.data import Batch, load_digits
    from dotkd.distiller import Distiller, Losses
    from dotkd.methods import Method, Outputs, create_method
    from dotkd.optim import DOT, DOTAdamW, MultiMomentumSGD
    from dotkd.train import load_student

    __version__: str

_HOME = {
    "DOT": "dotkd.optim",
    "DOTAdamW": "dotkd.optim",
    "MultiMomentumSGD": "dotkd.optim",
    "Distiller": "dotkd.distiller",
    "Losses": "dotkd.distiller",
    "Method": "dotkd.methods",
    "Outputs": "dotkd.methods",
    "create_method": "dotkd.methods",
    "Batch": "dotkd.data",
    "load_digits": "dotkd.data",
    "load_student": "dotkd.train",
}

__all__ = [
    "DOT",
    "Batch",
    "DOTAdamW",
    "Distiller",
    "Losses",
    "Method",
    "MultiMomentumSGD",
    "Outputs",
    "__version__",
    "create_method",
    "load_digits",
    "load_student",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("dotkd")
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module 'dotkd' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
