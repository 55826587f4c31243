"""What several files of optimizer tests use: the four ways to a kernel, and gradients made to measure."""

from collections.abc import Callable, Iterator, Sequence

import pytest
import torch
from torch import Tensor

KERNELS: dict[str, dict[str, bool]] = {
    "default": {},
    "fused": {"fused": True},
    "foreach": {"foreach": True},
    "loop": {"foreach": False, "fused": False},
}


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Tensors this small gain nothing from threads, which on a busy machine wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session", params=KERNELS.values(), ids=KERNELS)
def kernel(request: pytest.FixtureRequest) -> dict[str, bool]:
    """The options that select an implementation."""
    return dict(request.param)


@pytest.fixture(scope="session")
def kernels() -> dict[str, dict[str, bool]]:
    """All of them by name."""
    return {name: dict(options) for name, options in KERNELS.items()}


@pytest.fixture(scope="session")
def linear_loss() -> Callable[[Sequence[Tensor], Sequence[Tensor | None]], Tensor | None]:
    """A loss whose gradients are the given ones to the bit; None where no gradient is given."""

    def loss(params: Sequence[Tensor], grads: Sequence[Tensor | None]) -> Tensor | None:
        terms = [(p * g).sum() for p, g in zip(params, grads, strict=True) if g is not None]
        return sum(terms[1:], start=terms[0]) if terms else None

    return loss
