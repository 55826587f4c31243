"""How gradients come in: backward passes, captures, and the GradScaler's view of them.

:class:`GradientSets` holds the gradients; :class:`Intake` fills it and remembers what was said about
them until the step: which streams are absent on purpose, which were captured, what was not finite.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .checks import check_loss, nearest
from .gradients import Gradients, GradientSets, Sets, all_zero
from .scaling import active, nonfinite, unscale

if TYPE_CHECKING:
    from torch.amp import GradScaler

AnyRank = Callable[[Tensor], Tensor]


class Intake(GradientSets):
    """Gradient sets with the passes that fill them.

    Args:
        streams: Names of the streams, the primary one first.
        capture_call: How a user spells the capture of a stream, for error texts.

    Attributes:
        consents: Streams that are absent on purpose in this step.
        captured: Streams that may not be captured until the primary one is parked.
        by_hand: Whether some of the backward passes of this step were the caller's own.
        scaled: Whether a GradScaler is at work in this step; None before anything came in.
        whole: Whether the last stream has the gradient of all losses together, from one pass.
        divided: Whether that has been divided among the streams.
        unclipped: The primary gradients of this step before clipping; empty where some came in after it,
            None where nobody asked.
    """

    def __init__(self, streams: tuple[str, ...], capture_call: Callable[[str], str]) -> None:
        super().__init__(streams)
        self._capture_call = capture_call
        self._stepped = False
        self._seen: tuple[Tensor, Tensor, int] | None = None
        self.clear()

    def clear(self) -> None:
        """Forget all gradients but what is in ``.grad``, and all that was said about them."""
        super().clear()
        self.consents: set[str] = set()
        self.captured: set[str] = set()
        self.by_hand = False
        self.scaled: bool | None = None
        self.whole = self.divided = False
        self.unclipped: Gradients | None = None
        self._bad: Tensor | None = None

    def backward(
        self,
        params: list[Tensor],
        losses: Mapping[str, Tensor | None],
        scaler: "GradScaler | None",
        any_rank: AnyRank,
        *,
        one_pass: bool = False,
    ) -> None:
        """Run one backward pass per loss, the primary one last, and keep the gradients apart.

        Args:
            params: The parameters.
            losses: A loss, or None, for each stream.
            scaler: The GradScaler, or None.
            any_rank: Returns whether a boolean scalar is true on any process.
            one_pass: Run one pass for all losses instead and give what comes out to the last stream. The
                first call of a step decides for all of them, and only where no loss is None.
        """
        given = self._check_losses(losses)
        scaler = active(scaler)
        self.look(params)
        self._check_scaling(scaler is not None)
        whole = self.whole if self.scaled is not None else one_pass and len(given) == len(self.streams)
        before = self.kept.copy(), self._bad, [param.grad for param in params]
        roots = {name: [given[name]] for name in (*self.streams[1:], self.primary) if name in given}
        if whole:
            roots = {self.streams[-1]: list(given.values())}
        last = list(roots)[-1]
        try:
            self.add(self.primary, self.take(params))
            for name, of_pass in roots.items():
                scaled = of_pass if scaler is None else [scaler.scale(loss) for loss in of_pass]
                torch.autograd.backward(scaled, retain_graph=name != last)
                if name != self.primary:
                    self._keep(params, name, scaler)
        except BaseException:  # out of memory, an interrupt: as if this call had not been made
            self.kept, self._bad, grads = before
            for param, grad in zip(params, grads, strict=True):
                param.grad = grad
            self._note(params, grads)
            raise
        self.unpark(params)
        self.scaled, self.whole = scaler is not None, whole
        if self.unclipped is not None:
            self.unclipped = []
        self.consents.update(name for name in losses if name not in given)
        self.captured.update(self.streams[1:])  # .grad is taken: a capture must park it first
        if scaler is not None:
            self.find_overflow(params, any_rank)
        self._note(params, [param.grad for param in params])

    def capture(
        self, params: list[Tensor], stream: str, scaler: "GradScaler | None", any_rank: AnyRank
    ) -> None:
        """Take what a backward pass left in ``.grad`` into a stream; the primary one is parked."""
        replaced = self.look(params)
        self.by_hand = True
        if stream == self.primary:
            self.add(self.primary, self.take(params))
            self.captured.clear()
            return
        scaler = active(scaler)
        if stream in self.captured and any(grad is not None for grad in self.live(params)):
            if not replaced:
                raise self._taken_twice(stream)
            self.clear()  # emptied after a skipped step, and filled anew
            self.by_hand = True
        self._check_scaling(scaler is not None)
        self.scaled = scaler is not None
        self._keep(params, stream, scaler)
        self.captured.add(stream)
        if len(self.captured) == len(self.streams) - 1:
            self.unpark(params)
        if scaler is not None:
            self._show_nonfinite(params, any_rank)
        self._note(params, [param.grad for param in params])

    def _taken_twice(self, stream: str) -> RuntimeError:
        again, park = self._capture_call(stream), self._capture_call(self.primary)
        return RuntimeError(
            f"{again} came again while .grad may hold a {self.primary} gradient: call {park} after each "
            f"{self.primary} backward pass but the last, or opt.zero_grad() to begin anew"
        )

    def replace(self, params: Sequence[Tensor], sets: Sets) -> None:
        """Put other gradients in the place of all sets; the tensors that were there stay as they are."""
        super().replace(params, sets)
        self.captured.update(self.streams[1:])  # what was parked is in .grad again
        self._note(params, [param.grad for param in params])

    def end(self, primary: Gradients, params: list[Tensor]) -> None:
        """Forget everything after a step, but remember one gradient to notice a missing zero_grad."""
        self.clear()
        self._note(params, primary)
        self._stepped = True

    def drop(self) -> None:
        """Forget everything, as the caller is about to empty ``.grad``."""
        self.clear()
        self._seen, self._stepped, self._zeroed = None, False, {}

    def look(self, params: list[Tensor]) -> bool:
        """See what became of ``.grad`` since the last call, before anything is added.

        Where somebody emptied it, with ``model.zero_grad()`` after a skipped step, the other sets go too.

        Returns:
            Whether another gradient is where the remembered one was.

        Raises:
            RuntimeError: It still holds the gradients that a step has used.
        """
        seen, self._seen = self._seen, None
        stepped, self._stepped = self._stepped, False
        if seen is None:
            return False
        param, grad, version = seen
        touched = param.grad is not grad or grad._version != version
        there = [p.grad for p in params]
        if touched and (param.grad is None or param.grad is grad) and all_zero(there):
            self.clear()
            self.mark_zeroed(params)
        elif stepped and param.grad is grad:
            self._seen, self._stepped = seen, stepped
            raise RuntimeError(
                ".grad still holds the gradients that the last step() used: call opt.zero_grad() after "
                "each step()"
            )
        return param.grad is not None and param.grad is not grad

    def _note(self, params: Sequence[Tensor], grads: Gradients) -> None:
        """Remember the smallest of some gradients, to see later what became of them."""
        found = [(grad.numel(), i) for i, grad in enumerate(grads) if grad is not None]
        self._seen = None
        if found:
            _, i = min(found)
            grad = grads[i]
            assert grad is not None
            self._seen = (params[i], grad, grad._version)

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

    def _check_scaling(self, scaled: bool) -> None:
        if self.scaled not in (None, scaled):
            raise ValueError(
                "pass the same GradScaler to every backward and capture of a step, or to none of them"
            )

    def find_overflow(self, params: list[Tensor], any_rank: AnyRank) -> None:
        """Look at what is in ``.grad``, and put what was found, on any process, where the scaler looks."""
        self._note_nonfinite(self.live(params), params[0].device)
        self._show_nonfinite(params, any_rank)

    def _note_nonfinite(self, grads: Gradients, device: torch.device) -> None:
        bad = nonfinite(grads, device)
        self._bad = bad if self._bad is None else self._bad | bad

    def _show_nonfinite(self, params: list[Tensor], any_rank: AnyRank) -> None:
        """Put what was found, on any process, where the scaler looks."""
        if self._bad is None:
            raise AssertionError("nothing was looked at")
        self._bad = any_rank(self._bad)
        self.signal(params, self._bad)
