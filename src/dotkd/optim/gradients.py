"""The gradient sets: one per loss, kept apart between the backward passes and the update.

The set of the first stream, the primary one, lives where every tool looks for a gradient: in ``.grad``.
The sets of the other streams live in :class:`GradientSets`, which also parks the primary set while
another backward pass needs ``.grad``.
"""

from collections.abc import Sequence
from itertools import zip_longest

import torch
from torch import Tensor

Gradients = list[Tensor | None]
"""The gradients of one stream in the order of the parameters; None where the loss did not reach one."""

Sets = dict[str, Gradients]
"""The gradients of all streams, the primary one first."""


class GradientSets:
    """Named sets of gradients of the same parameters.

    Args:
        streams: Their names; the first is the primary one, whose set is ``.grad``.

    Attributes:
        streams: The names.
        primary: The first of them.
        kept: For each stream, the gradients that are not in ``.grad``, or an empty list. For the primary
            stream these are the parked ones.
    """

    def __init__(self, streams: Sequence[str]) -> None:
        self.streams = tuple(streams)
        self.primary = self.streams[0]
        self.kept: Sets = {name: [] for name in self.streams}
        self._zeroed: dict[Tensor, tuple[Tensor, int]] = {}
        self._signals: dict[Tensor, Tensor] = {}

    def live(self, params: Sequence[Tensor]) -> Gradients:
        """Return what ``.grad`` holds, with None where nothing in it is a gradient of this step.

        Args:
            params: The parameters.

        Returns:
            Their gradients.

        Raises:
            RuntimeError: A gradient is sparse.
        """
        grads: Gradients = [param.grad for param in params]
        for grad in grads:
            if grad is not None and grad.layout is not torch.strided:
                raise RuntimeError(
                    f"sparse gradients are not supported, got one of shape {tuple(grad.shape)}"
                )
        if self._zeroed or self._signals:
            grads = [
                None if grad is None or self._is_void(param, grad) else grad
                for param, grad in zip(params, grads, strict=True)
            ]
        return grads

    def _is_void(self, param: Tensor, grad: Tensor) -> bool:
        """Say whether a tensor in ``.grad`` is zeros of ours that no backward pass has written to since."""
        zeroed = self._zeroed.get(param)
        if zeroed is not None and zeroed[0] is grad and zeroed[1] == grad._version:
            return True
        return self._signals.get(param) is grad and bool(local(grad).signbit().all())

    def take(self, params: Sequence[Tensor]) -> Gradients:
        """Empty ``.grad`` of all parameters and return what it held."""
        taken = self.live(params)
        for i, (param, grad) in enumerate(zip(params, taken, strict=True)):
            param.grad = None
            # A view belongs to somebody's bucket, which the next backward pass may fill again.
            if grad is not None and grad._is_view():
                taken[i] = grad.clone()
        self._zeroed, self._signals = {}, {}
        return taken

    def add(self, stream: str, grads: Gradients) -> None:
        """Add gradients to the kept ones of a stream."""
        self.kept[stream] = sum_of(self.kept[stream], grads)

    def unpark(self, params: Sequence[Tensor]) -> None:
        """Bring the parked primary gradients back to ``.grad``, added to what is there."""
        if self.kept[self.primary]:
            primary = sum_of(self.kept[self.primary], self.live(params))
            self.kept[self.primary] = []
            for param, grad in zip(params, primary, strict=True):
                param.grad = grad

    def all(self, params: Sequence[Tensor]) -> Sets:
        """Return all sets, each complete and as long as ``params``; nothing is moved."""
        absent: Gradients = [None] * len(params)
        kept = {name: sum_of(self.kept[name], absent) for name in self.streams[1:]}
        return {self.primary: sum_of(self.kept[self.primary], self.live(params)), **kept}

    def replace(self, params: Sequence[Tensor], sets: Sets) -> None:
        """Put other gradients in the place of all sets; the tensors that were there stay as they are."""
        for name in self.streams:
            self.kept[name] = [] if name == self.primary else sets[name]
        for param, grad in zip(params, sets[self.primary], strict=True):
            if grad is not None:
                param.grad = grad

    def signal(self, params: Sequence[Tensor], bad: Tensor) -> None:
        """Make one small gradient in ``.grad`` NaN where ``bad`` is true, without waiting for the device.

        A GradScaler looks for non-finite values in ``.grad`` and nowhere else. Where no parameter has a
        gradient there yet, one gets -0.0, the identity of IEEE addition: a backward pass that adds to it
        leaves its own bits, a scaler that multiplies it leaves -0.0, and a gradient that is -0.0
        everywhere counts as absent.

        Args:
            params: The parameters, one of which gets the signal.
            bad: Boolean scalar on any device.
        """
        grads = self.live(params)
        can_carry = [i for i, param in enumerate(params) if param.requires_grad and local(param).numel()]
        candidates = [i for i in can_carry if grads[i] is not None] or can_carry
        chosen = min(candidates, key=lambda i: params[i].numel())
        param, grad = params[chosen], grads[chosen]
        there = torch.full_like(param, -0.0) if grad is None else grad
        param.grad = shown = torch.where(bad.to(param.device), torch.nan, there)
        if grad is None:
            self._signals[param] = shown

    def mark_zeroed(self, params: Sequence[Tensor]) -> None:
        """Count what is in ``.grad`` now, filled with zeros, as absent until somebody writes to it."""
        self._zeroed = {p: (p.grad, p.grad._version) for p in params if p.grad is not None}

    def clear(self) -> None:
        """Forget all sets but what is in ``.grad``."""
        self.kept = {name: [] for name in self.streams}
        self._signals = {}


def sum_of(first: Gradients, second: Gradients) -> Gradients:
    """Return the sum of two sets; neither is written to.

    The shorter one lacks gradients for the last parameters: an empty one has none at all, and one from
    before ``add_param_group`` none for the new parameters.
    """
    if not first or not second:
        return first or second
    return [a if b is None else b if a is None else a + b for a, b in zip_longest(first, second)]


def all_zero(grads: Gradients) -> bool:
    """Say whether every element of every gradient is zero; waits for the device once."""
    filled = [local(grad) for grad in present(grads) if local(grad).numel()]
    if not filled:
        return True
    largest = torch._foreach_norm(filled, torch.inf)
    return not bool(torch.stack([norm.to(filled[0].device) for norm in largest]).any())


def present(grads: Gradients) -> list[Tensor]:
    """Return the gradients that are there."""
    return [grad for grad in grads if grad is not None]


def scaled(grads: Gradients, factor: Tensor) -> Gradients:
    """Return gradients times a scalar tensor; the tensors given stay as they are."""
    rows: dict[torch.device, list[int]] = {}
    for i, grad in enumerate(grads):
        if grad is not None:
            rows.setdefault(grad.device, []).append(i)
    out = list(grads)
    for device, indices in rows.items():
        products = torch._foreach_mul(present([grads[i] for i in indices]), factor.to(device))
        for i, product in zip(indices, products, strict=True):
            out[i] = product
    return out


def local(tensor: Tensor) -> Tensor:
    """Return this process's shard of a sharded tensor, and a plain tensor as it is."""
    shard: Tensor = tensor.to_local() if hasattr(tensor, "to_local") else tensor
    return shard
