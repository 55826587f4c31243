"""How gradients come in: backward passes, captures, and the GradScaler's view of them.

:class:`GradientSets` holds the gradients; :class:`Intake` fills it and remembers what was said about
them until the step: which streams are absent on purpose, which were captured, what was not finite.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .checks import check_loss, nearest
from .gradients import Gradients, GradientSets, Sets
from .scaling import active, nonfinite, unscale

if TYPE_CHECKING:
    from torch.amp import GradScaler

AnyRank = Callable[[Tensor], Tensor]


class Intake(GradientSets):
    """Gradient sets with the passes that fill them.

    Args:
        streams: Names of the streams, the primary one first.
        capture_call: How a user spells the capture of a stream, for error texts.
        any_rank: Returns whether a boolean scalar is true on any process.

    Attributes:
        consents: Streams that are absent on purpose in this step.
        captured: Streams captured since the primary one was last parked.
        by_hand: Whether some of the backward passes of this step were the caller's own.
        scaled: Whether a GradScaler is at work in this step; None before anything came in.
    """

    def __init__(
        self, streams: tuple[str, ...], capture_call: Callable[[str], str], any_rank: AnyRank
    ) -> None:
        super().__init__(streams)
        self._capture_call = capture_call
        self._any_rank = any_rank
        self._witness: tuple[Tensor, Tensor] | None = None
        self.clear()

    def clear(self) -> None:
        """Forget all gradients but what is in ``.grad``, and all that was said about them."""
        super().clear()
        self.consents: set[str] = set()
        self.captured: set[str] = set()
        self.by_hand = False
        self.scaled: bool | None = None
        self._bad: Tensor | None = None
        self._mark: tuple[Tensor, Tensor] | None = None
        self._primary_was_there = False

    def backward(
        self, params: list[Tensor], losses: Mapping[str, Tensor | None], scaler: "GradScaler | None"
    ) -> None:
        """Run one backward pass per loss, the primary one last, and keep the gradients apart."""
        given = self._check_losses(losses)
        self.refuse_leftovers()
        scaler = active(scaler)
        emptied = all(param.grad is None for param in params) and not self.kept[self.primary]
        if self._primary_was_there and emptied:
            self.clear()
        self._drop_if_emptied()
        self._note_scaling(scaler is not None)
        self.add(self.primary, self.take(params))
        self.consents.update(name for name in losses if name not in given)

        order = [name for name in (*self.streams[1:], self.primary) if name in given]
        for name in order:
            loss = given[name] if scaler is None else scaler.scale(given[name])
            loss.backward(retain_graph=name != order[-1])  # type: ignore[no-untyped-call]
            if name != self.primary:
                self._keep(params, name, scaler)
        self.unpark(params)
        self._primary_was_there = any(param.grad is not None for param in params)
        self.captured.update(self.streams[1:])  # .grad is taken: a capture must park it first
        if scaler is not None:
            self._note_nonfinite(self.live(params), params[0].device)
            self._show_nonfinite(params)

    def capture(self, params: list[Tensor], stream: str, scaler: "GradScaler | None") -> None:
        """Take what a backward pass left in ``.grad`` into a stream; the primary one is parked."""
        self.refuse_leftovers()
        self._drop_if_emptied()
        self.by_hand = True
        if stream == self.primary:
            self.add(self.primary, self.take(params))
            self.captured.clear()
            return
        scaler = active(scaler)
        if stream in self.captured and any(grad is not None for grad in self.live(params)):
            again, park = self._capture_call(stream), self._capture_call(self.primary)
            raise RuntimeError(
                f"{again} came again while .grad may hold a {self.primary} gradient: call {park} after each "
                f"{self.primary} backward pass but the last, or opt.zero_grad() to begin anew"
            )
        self._note_scaling(scaler is not None)
        self._keep(params, stream, scaler)
        self.captured.add(stream)
        if len(self.captured) == len(self.streams) - 1:
            self.unpark(params)
        if scaler is not None:
            self._show_nonfinite(params)

    def replace(self, params: Sequence[Tensor], sets: Sets) -> None:
        """Put other gradients in the place of all sets; the tensors that were there stay as they are."""
        super().replace(params, sets)
        if self._mark is not None and self._mark[0].grad is not None:
            self._mark = (self._mark[0], self._mark[0].grad)

    def _drop_if_emptied(self) -> None:
        """Drop all sets where somebody emptied ``.grad``, with ``model.zero_grad()`` after a skipped step."""
        if self._mark is not None and self._mark[0].grad is not self._mark[1]:
            self.clear()
        self._mark = None

    def end(self, primary: Gradients, params: list[Tensor]) -> None:
        """Forget everything after a step, but remember one gradient to notice a missing zero_grad."""
        self.clear()
        rows = [(grad.numel(), i) for i, grad in enumerate(primary) if grad is not None]
        if rows:
            _, i = min(rows)
            grad = primary[i]
            self._witness = None if grad is None else (params[i], grad)

    def refuse_leftovers(self) -> None:
        """Refuse to add to gradients that a step has used.

        Raises:
            RuntimeError: They are still in ``.grad``.
        """
        if self._witness is not None and self._witness[0].grad is self._witness[1]:
            raise RuntimeError(
                ".grad still holds the gradients that the last step() used: call opt.zero_grad() after "
                "each step()"
            )
        self._witness = None

    def drop(self) -> None:
        """Forget everything, as the caller is about to empty ``.grad``."""
        self.clear()
        self._witness = None

    def _check_losses(self, losses: Mapping[str, Tensor | None]) -> dict[str, Tensor]:
        for name in losses:
            if name not in self.streams:
                raise ValueError(f"unknown loss {name!r}{nearest(name, self.streams)}: one of {self.streams}")
        if absent := [name for name in self.streams if name not in losses]:
            raise ValueError(f"no loss given for {absent}: pass None for a stream that is absent on purpose")
        given = {name: loss for name, loss in losses.items() if loss is not None}
        if not given:
            raise ValueError(f"all losses are None: give at least one of {self.streams}")
        for name, loss in given.items():
            check_loss(name, loss)
        return given

    def _keep(self, params: list[Tensor], stream: str, scaler: "GradScaler | None") -> None:
        grads = self.take(params)
        if scaler is not None:
            grads = unscale(grads, scaler)
            self._note_nonfinite(grads, params[0].device)
        self.add(stream, grads)

    def _note_scaling(self, scaled: bool) -> None:
        if self.scaled not in (None, scaled):
            raise ValueError(
                "pass the same GradScaler to every backward and capture of a step, or to none of them"
            )
        self.scaled = scaled

    def _note_nonfinite(self, grads: Gradients, device: torch.device) -> None:
        bad = nonfinite(grads, device)
        self._bad = bad if self._bad is None else self._bad | bad

    def _show_nonfinite(self, params: list[Tensor]) -> None:
        """Put what was found, on any process, where the scaler looks."""
        if self._bad is None:
            raise AssertionError("nothing was looked at")
        self._bad = self._any_rank(self._bad)
        self._mark = self.signal(params, self._bad)
