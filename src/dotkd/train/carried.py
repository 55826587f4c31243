"""Losses whose gradients are known already, or computed on demand from another graph.

To an optimizer they are losses like any others. A parameter that a loss does not reach gets no gradient from
it, where a graph of torch's compiler would give zeros.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from dotkd.distiller import Losses

Grads = list[Tensor | None]
Reach = list[bool]
"""For each parameter, whether a loss reaches it."""


def values_of(losses: Losses) -> dict[str, Tensor]:
    """Return the tensors of losses by name: streams as they are, raw losses as ``raw.NAME``."""
    raw = {f"raw.{name}": loss for name, loss in losses.raw.items()}
    return {**losses.streams, **raw, "logits": losses.logits}


def differentiable(losses: Losses) -> dict[str, Tensor]:
    """Return by name what an optimizer may differentiate."""
    return {name: loss for name, loss in losses.streams.items() if loss.requires_grad}


def with_gradients(
    values: Mapping[str, Tensor], grads: Mapping[str, Grads], params: Sequence[Tensor]
) -> Losses:
    """Make losses whose gradients are there already.

    Args:
        values: All tensors of the losses, as of :func:`values_of`.
        grads: For some of the streams the gradient of each parameter.
        params: The parameters.

    Returns:
        The losses; a backward pass through one of those hands its gradients out.
    """
    plain = {name: value.detach() for name, value in values.items()}
    live = {
        name: _Given.apply(plain[name], some, *params)  # type: ignore[no-untyped-call]
        for name, some in grads.items()
    }
    return _together(plain, live)


def on_demand(losses: Losses, reach: Mapping[str, Reach], params: Sequence[Tensor]) -> Losses:
    """Make losses that are differentiated when a backward pass asks for them, those of one pass at once.

    Args:
        losses: Attached to a graph.
        reach: For each of :func:`differentiable` the parameters that it reaches.
        params: The parameters.

    Returns:
        The losses. One pass through several of them is one pass through the graph.
    """
    named = differentiable(losses)
    plain = {name: value.detach() for name, value in values_of(losses).items()}
    if not named:
        return _together(plain, {})
    given = list(named.values()), [reach[name] for name in named]
    live = _OnDemand.apply(*given, *params)  # type: ignore[no-untyped-call]
    return _together(plain, dict(zip(named, live, strict=True)))


class _Given(torch.autograd.Function):
    """A loss whose gradients are known: its backward pass hands them out."""

    @staticmethod
    def forward(ctx: Any, loss: Tensor, grads: Grads, *_params: Tensor) -> Tensor:
        ctx.grads = grads
        return loss.detach().clone()

    @staticmethod
    def backward(ctx: Any, *_: Any) -> Any:
        return None, None, *ctx.grads


class _OnDemand(torch.autograd.Function):
    """Losses as one node, so that what one backward pass asks of them comes together."""

    @staticmethod
    def forward(ctx: Any, losses: list[Tensor], reach: list[Reach], *params: Tensor) -> Any:
        ctx.set_materialize_grads(False)  # None: not asked for
        ctx.losses, ctx.reach, ctx.params = losses, reach, params
        return tuple(loss.detach().clone() for loss in losses)

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor | None) -> Any:
        asked = [number for number, grad in enumerate(upstream) if grad is not None]
        reached = [any(of) for of in zip(*(ctx.reach[number] for number in asked), strict=True)]
        wanted = [param for param, yes in zip(ctx.params, reached, strict=True) if yes]
        grads = iter(
            torch.autograd.grad(
                [ctx.losses[number] for number in asked],
                wanted,
                [upstream[number] for number in asked],
                retain_graph=True,  # the other losses may be asked for later; it goes with the losses
                allow_unused=True,
            )
        )
        return None, None, *(next(grads) if yes else None for yes in reached)


def _together(plain: Mapping[str, Tensor], live: Mapping[str, Tensor]) -> Losses:
    """Put losses together again, with those that have gradients."""
    raw = {name.removeprefix("raw."): value for name, value in plain.items() if name.startswith("raw.")}
    return Losses({name: live.get(name, plain[name]) for name in raw}, raw, plain["logits"])
