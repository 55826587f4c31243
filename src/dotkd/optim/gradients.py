"""The gradient sets of several losses, from the backward passes to the update.

The set of the first stream, the *primary* one, is in ``.grad``, where every tool looks for a gradient. The
sets of the other streams are in :class:`GradientSets`, which also knows whether somebody else has written to
``.grad`` in the meantime. Clipping and what a GradScaler needs are functions of sets, at the end of the file.
"""

import math
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from enum import Enum
from itertools import zip_longest
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor
from torch.nn.utils import get_total_norm

from ._checks import check_not_negative, nearest

if TYPE_CHECKING:
    from torch.amp import GradScaler

Gradients = list[Tensor | None]
"""The gradients of one stream in the order of the parameters; None where the loss does not reach one."""

Sets = dict[str, Gradients]
"""The gradients of all streams, the primary one first."""

ClipMode = Literal["joint", "each"]


class Phase(Enum):
    """Where a step stands."""

    EMPTY = "no gradient of this step is known"
    COLLECTING = "gradients come in and add up"
    READY = "the sets are those of the update, averaged over the processes"
    STEPPED = "step() has used what is in .grad"


class Note(NamedTuple):
    """One parameter's ``.grad`` as it was left.

    ``void`` says that it counts as no gradient, ``fresh`` that a hook has noted it where there was none.
    """

    grad: Tensor
    version: int
    void: bool = False
    fresh: bool = False

    def holds(self, param: Tensor) -> bool:
        """Say whether ``.grad`` is this tensor, and nobody has written to it since."""
        return param.grad is self.grad and self.grad._version == self.version


class GradientSets:
    r"""Keeps the gradients of several losses apart between ``backward()`` and ``step()``.

    The phases of a step::

                  backward, capture              synchronize
          EMPTY ------------------> COLLECTING ---------------> READY
            ^                        ^   |  <------------------   |
            |                        '---'   backward, capture    |
            |                       backward                      | step
            |                       capture                       v
            '-------------------------------------------------- STEPPED
              zero_grad, load_state_dict; also from COLLECTING and READY,
              and wherever somebody has emptied .grad (model.zero_grad())

    ``.grad`` belongs to the user as much as to the optimizer, so ``notes`` records how it was left: after
    ``backward``, by hooks on the user's own backward passes after ``capture``, and when it was zeroed.
    What differs later is somebody else's work. An emptied ``.grad`` drops all sets; an edited or replaced
    gradient is refused, because the other sets would not have been edited along with it. (Of a DTensor's
    gradient, torch counts no writes by foreach functions: such an edit is not seen.)

    Where sets are held and ``.grad`` is empty, one parameter gets a *marker*: a gradient of -0.0, the
    identity of IEEE addition, so that ``model.zero_grad()`` is seen and a GradScaler has a place to look at.
    A backward pass that adds to it leaves its own bits. Markers, and zeros of ``zero_grad``, are *void*: they
    count as no gradient until somebody writes to them.

    Args:
        streams: Names of the streams, the primary one first.
        spell: Returns how a user spells the capture of a stream, for messages.

    Attributes:
        phase: Where the step stands.
        kept: For each stream, the gradients that are not in ``.grad``; for the primary stream those that
            were put aside to make room for another backward pass.
        notes: How ``.grad`` was left, by parameter; after a step, of the smallest gradient alone.
        absent: Streams that are absent on purpose in this step.
        captured: Streams that may not be captured until the primary gradient is put aside.
        scaled: Whether a GradScaler is at work in this step; None before anything has said so.
        overflow: With a GradScaler: whether anything was not finite, a boolean scalar on the device.
        handed_over: Whether the user has asked for the sets, and so may edit them in place.
        hooks: Handles of the hooks that note the user's own backward passes, by parameter.
    """

    def __init__(self, streams: Sequence[str], spell: Callable[[str], str]) -> None:
        self.streams = tuple(streams)
        self.primary = self.streams[0]
        self._spell = spell
        self.hooks: dict[Tensor, Any] = {}
        self._forget()

    def _forget(self) -> None:
        self.phase = Phase.EMPTY
        self.kept: Sets = {name: [] for name in self.streams}
        self.notes: dict[Tensor, Note] = {}
        self.absent: frozenset[str] = frozenset()
        self.captured: frozenset[str] = frozenset()
        self.scaled: bool | None = None
        self.overflow: Tensor | None = None
        self.handed_over = False

    # ---------------------------------------------------------------- gradients in

    def backward(
        self,
        params: list[Tensor],
        losses: Mapping[str, Tensor],
        scaler: "GradScaler | None",
        any_rank: Callable[[Tensor], Tensor],
    ) -> None:
        """Run one backward pass per loss, the primary one last, and keep the gradients apart.

        Args:
            params: All parameters.
            losses: The losses that are not absent.
            scaler: The GradScaler, or None.
            any_rank: Returns whether a boolean scalar is true on any process.
        """
        self.look(params, adding=True)
        self._check_scaler(scaler)
        order = [name for name in (*self.streams[1:], self.primary) if name in losses]
        before, grads = {**vars(self), "kept": dict(self.kept)}, [param.grad for param in params]
        try:
            self._add(self.primary, self._take(params))
            for name in order:
                loss = losses[name] if scaler is None else scaler.scale(losses[name])
                torch.autograd.backward(loss, retain_graph=name != order[-1])
                if name != self.primary:
                    self._keep(params, name, scaler)
        except BaseException:  # out of memory, an interrupt: as if this call had not been made
            vars(self).update(before)
            for param, grad in zip(params, grads, strict=True):
                param.grad = grad
            raise
        self._unhook()
        self._unpark(params)
        self.phase, self.scaled = Phase.COLLECTING, scaler is not None
        self.absent |= {name for name in self.streams if name not in losses}
        self.captured = frozenset(self.streams[1:])  # .grad is taken: a capture must put it aside first
        if scaler is not None:
            self._find_overflow(self.live(params), params)
            self._share_overflow(any_rank)
        self._leave(params)

    def capture(
        self,
        params: list[Tensor],
        stream: str,
        scaler: "GradScaler | None",
        any_rank: Callable[[Tensor], Tensor],
    ) -> None:
        """Take what a backward pass left in ``.grad`` into a stream; put it aside for the primary one."""
        self.look(params, adding=True, capturing=stream)
        if stream == self.primary:
            self._add(self.primary, self._take(params))
            self.captured = frozenset()
        else:
            if stream in self.captured and present(self.live(params)):
                raise self._taken_twice(stream)
            self._check_scaler(scaler)
            self._keep(params, stream, scaler)
            self.scaled = scaler is not None
            self.captured |= {stream}
            if len(self.captured) == len(self.streams) - 1:
                self._unpark(params)
            if scaler is not None:
                self._share_overflow(any_rank)
        self.phase = Phase.COLLECTING
        self._hook(params)
        self._leave(params)

    def _taken_twice(self, stream: str) -> RuntimeError:
        return RuntimeError(
            f"{self._spell(stream)} came again while .grad may hold a {self.primary} gradient: call "
            f"{self._spell(self.primary)} after each {self.primary} backward pass but the last, or "
            "opt.zero_grad() to begin anew"
        )

    def _check_scaler(self, scaler: "GradScaler | None") -> None:
        if self.scaled not in (None, scaler is not None):
            raise ValueError(
                "pass the same GradScaler to every backward and capture of a step, or to none of them"
            )

    def _take(self, params: Sequence[Tensor]) -> Gradients:
        """Empty ``.grad`` of all parameters and return what it held."""
        taken = self.live(params)
        for i, (param, grad) in enumerate(zip(params, taken, strict=True)):
            param.grad = None
            # A view belongs to somebody's bucket, which the next backward pass may fill again.
            if grad is not None and grad._is_view():
                taken[i] = grad.clone()
        self.notes = {}
        return taken

    def _add(self, stream: str, grads: Gradients) -> None:
        self.kept[stream] = sum_of(self.kept[stream], grads)

    def _keep(self, params: list[Tensor], stream: str, scaler: "GradScaler | None") -> None:
        grads = self._take(params)
        if scaler is not None:
            grads = unscale(grads, scaler)
            self._find_overflow(grads, params)
        self._add(stream, grads)

    def _unpark(self, params: Sequence[Tensor]) -> None:
        """Bring the primary gradients that were put aside back to ``.grad``, added to what is there."""
        if self.kept[self.primary]:
            primary = sum_of(self.kept[self.primary], self.live(params))
            self.kept[self.primary] = []
            for param, grad in zip(params, primary, strict=True):
                param.grad = grad

    # ---------------------------------------------------------------- what others do to .grad

    def _leave(self, params: Sequence[Tensor]) -> None:
        """Note how ``.grad`` is left, with a marker where it is empty and an overflow where one was found."""
        grads = self.live(params)
        there = [i for i, grad in enumerate(grads) if grad is not None]
        marker = None
        if not there or self.overflow is not None:
            # The smallest: for a GradScaler, which looks for values that are not finite in .grad only.
            can_carry = [i for i, param in enumerate(params) if param.requires_grad and local(param).numel()]
            fit = [i for i in there if local(params[i]).numel()] or can_carry
            if fit:
                chosen = min(fit, key=lambda i: params[i].numel())
                param, grad = params[chosen], grads[chosen]
                shown = torch.full_like(param, -0.0) if grad is None else grad
                if self.overflow is not None:
                    shown = torch.where(self.overflow.to(param.device), torch.nan, shown).detach()
                param.grad, marker = shown, param if grad is None else None
        self.notes = {p: Note(p.grad, p.grad._version, p is marker) for p in params if p.grad is not None}

    def _hook(self, params: Sequence[Tensor]) -> None:
        """Have every backward pass of the user's own noted until the step."""
        weak = weakref.ref(self)  # a parameter must not keep the optimizer alive

        def note(param: Tensor) -> None:
            sets = weak()
            if sets is not None:
                sets._written(param)

        for param in params:
            if param not in self.hooks and param.requires_grad and param.is_leaf:
                self.hooks[param] = param.register_post_accumulate_grad_hook(note)  # type: ignore[no-untyped-call]

    def _unhook(self) -> None:
        hooks, self.hooks = self.hooks, {}
        for handle in hooks.values():
            handle.remove()

    def _written(self, param: Tensor) -> None:
        """Note that a backward pass of the user's own has added to ``.grad``."""
        note, grad = self.notes.get(param), param.grad
        if grad is None:
            return
        if note is not None and self._was_emptied(note, grad):
            if any(p.grad is n.grad for p, n in self.notes.items() if p is not param and not n.fresh):
                return  # not everywhere: an edit, which look() will find
            fresh = {p: n for p, n in self.notes.items() if n.fresh and n.holds(p)}
            self._forget()
            self.notes, note = fresh, None
        self.notes[param] = Note(grad, grad._version, fresh=note is None or note.fresh)

    @staticmethod
    def _was_emptied(note: Note, grad: Tensor) -> bool:
        """Say whether ``.grad`` was emptied before autograd wrote to it: in place, unless for a graph."""
        if grad is note.grad:
            # FSDP adds to the shard alone, which the DTensor does not count.
            return note.void and grad._version != note.version + (0 if is_sharded(grad) else 1)
        return not torch.is_grad_enabled()

    def look(self, params: Sequence[Tensor], *, adding: bool = False, capturing: str | None = None) -> None:
        """See what became of ``.grad`` since it was noted; drop all sets if somebody has emptied it.

        Args:
            params: All parameters.
            adding: Whether more gradients are about to come in.
            capturing: The stream whose gradient is in ``.grad`` now, from a backward pass of the user's own.

        Raises:
            RuntimeError: A gradient was edited or replaced, or is one that ``step()`` has used.
        """
        if self.phase is Phase.EMPTY:
            return
        touched = [
            (param, note)
            for param, note in self.notes.items()
            if param.grad is not note.grad or note.grad._version != note.version  # holds(), without a call
        ]
        if touched and self._zeroed_in_place(params, touched):
            self.clear()
            self.mark_zeroed(params)
        elif touched and self._taken_away(params, touched, capturing):
            for param, note in touched:
                if note.void and param.grad is note.grad:
                    param.grad = None  # a marker that was zeroed
            self.clear()
        elif self.phase is Phase.STEPPED:
            if adding and any(param.grad is note.grad for param, note in self.notes.items()):
                raise RuntimeError(
                    ".grad still holds the gradients that the last step() used: call opt.zero_grad() after "
                    "each step()"
                )
        elif any(self._is_edit(param, note) for param, note in touched) or self._has_new(params):
            if capturing in self.captured:
                raise self._taken_twice(capturing)
            raise RuntimeError(
                ".grad was edited or replaced since the backward passes, and the gradients of "
                f"{list(self.streams[1:])} were not. To clip, call opt.clip_grad_norm_() in place of torch's "
                "or a framework's clipping; to edit all sets alike, do it in place on the gradients that "
                "opt.gradients() yields; to begin anew, call opt.zero_grad()"
            )
        else:
            for param, note in touched:  # a marker that the owner of the sets has scaled along
                if note.void and param.grad is note.grad and all_zero([note.grad]):
                    self.notes[param] = Note(note.grad, note.grad._version, void=True)

    def _zeroed_in_place(self, params: Sequence[Tensor], touched: Sequence[tuple[Tensor, Note]]) -> bool:
        """Say whether somebody has filled ``.grad`` with zeros; waits for the device where all was edited."""
        if len(touched) < len(self.notes) or self.handed_over:
            return False
        if any(param.grad is not note.grad for param, note in touched):
            return False
        if any(note.void and not _is_zeroed(param, note) for param, note in touched):
            return False
        return all_zero([param.grad for param in params])

    def _taken_away(
        self, params: Sequence[Tensor], touched: Sequence[tuple[Tensor, Note]], capturing: str | None
    ) -> bool:
        """Say whether somebody has set ``.grad`` to None, and perhaps filled it anew."""
        if any(note.void and (param.grad is None or _is_zeroed(param, note)) for param, note in touched):
            return True
        # By a backward pass for another stream; where there are hooks, they have noted it as fresh.
        anew = capturing not in (None, self.primary) and not self.hooks
        fresh = {param for param, note in self.notes.items() if note.fresh and note.holds(param)}
        old = [(p, note) for p, note in self.notes.items() if p not in fresh and (anew or not note.void)]
        if not old or any(param.grad is note.grad for param, note in old):
            return False
        return anew or self.phase is Phase.STEPPED or all(p.grad is None or p in fresh for p in params)

    def _is_edit(self, param: Tensor, note: Note) -> bool:
        if param.grad is note.grad and self.handed_over:
            return False
        if len(self.streams) == 1:  # .grad is all there is
            return False
        # A void one may be filled: a gradient put there by hand.
        return not note.void or (param.grad is note.grad and all_zero([note.grad]))

    def _has_new(self, params: Sequence[Tensor]) -> bool:
        """Say whether ``.grad`` has come where there was none; after a capture it may."""
        if self.hooks or len(self.streams) == 1:
            return False
        noted = [param.grad for param in self.notes]
        return len(present([param.grad for param in params])) > len(present(noted))

    def mark_zeroed(self, params: Sequence[Tensor]) -> None:
        """Count what is in ``.grad`` now, zeros, as absent until somebody writes to it."""
        self.notes = {}
        for param in params:
            if param.grad is not None and is_sharded(param):
                param.grad = None  # of a DTensor nobody could tell whether somebody has written to it
            elif param.grad is not None:
                self.notes[param] = Note(param.grad, param.grad._version, void=True)

    # ---------------------------------------------------------------- gradients out

    def live(self, params: Sequence[Tensor]) -> Gradients:
        """Return what ``.grad`` holds, with None where it is void."""
        grads: Gradients = [param.grad for param in params]
        for grad in grads:
            if grad is not None and grad.layout is not torch.strided:
                raise RuntimeError(
                    f"sparse gradients are not supported, got one of shape {tuple(grad.shape)}"
                )
        void = {param for param, note in self.notes.items() if note.void and note.holds(param)}
        if void:
            grads = [None if param in void else grad for param, grad in zip(params, grads, strict=True)]
        return grads

    def all(self, params: Sequence[Tensor]) -> Sets:
        """Return all sets, each complete and as long as ``params``; nothing is moved."""
        absent: Gradients = [None] * len(params)
        kept = {name: sum_of(self.kept[name], absent) for name in self.streams[1:]}
        return {self.primary: sum_of(self.kept[self.primary], self.live(params)), **kept}

    def replace(self, params: Sequence[Tensor], sets: Sets) -> None:
        """Put other gradients in the place of all sets; the tensors that were there stay as they are."""
        void = {p: note for p, note in self.notes.items() if note.void and note.holds(p)}
        self.kept = {name: [] if name == self.primary else sets[name] for name in self.streams}
        for param, grad in zip(params, sets[self.primary], strict=True):
            if grad is not None:
                param.grad = grad
                void.pop(param, None)
        filled = [(p, p.grad) for p in params if p.grad is not None]
        self.notes = {p: void.get(p) or Note(grad, grad._version) for p, grad in filled}
        if self.phase is not Phase.EMPTY:
            self.captured = frozenset(self.streams[1:])  # what was put aside is in .grad again

    def end(self, params: Sequence[Tensor]) -> None:
        """Drop all sets after a step; remember one used gradient, to notice a missing ``zero_grad``."""
        for param, note in self.notes.items():
            if note.void and note.holds(param):
                param.grad = None
        self.clear()
        used = [param for param in params if param.grad is not None]
        if used:
            param = min(used, key=Tensor.numel)
            assert param.grad is not None
            self.notes = {param: Note(param.grad, param.grad._version)}
            self.phase = Phase.STEPPED

    def clear(self) -> None:
        """Drop all sets but what is in ``.grad``."""
        self._unhook()
        self._forget()

    # ---------------------------------------------------------------- the GradScaler's view

    def _find_overflow(self, grads: Gradients, params: Sequence[Tensor]) -> None:
        bad = nonfinite(grads, params[0].device)
        self.overflow = bad if self.overflow is None else self.overflow | bad

    def _share_overflow(self, any_rank: Callable[[Tensor], Tensor]) -> None:
        assert self.overflow is not None
        self.overflow = any_rank(self.overflow)


def _is_zeroed(param: Tensor, note: Note) -> bool:
    """Say whether a marker was zeroed: scaled or clipped, it is still -0.0."""
    return param.grad is note.grad and all_zero([note.grad]) and not bool(local(note.grad).signbit().any())


# -------------------------------------------------------------------- functions of sets


def clip(
    sets: Sets, max_norm: float, mode: ClipMode, *, norm_type: float = 2.0, error_if_nonfinite: bool = False
) -> tuple[Sets, dict[str, Tensor]]:
    """Scale sets down to a largest norm, as :meth:`StreamOptimizer.clip_grad_norm_` describes it.

    Returns:
        The scaled sets and the norms before: ``{"joint": norm}``, or one for each stream.

    Raises:
        ValueError: Unknown mode, or ``max_norm`` is negative or not a number.
    """
    if mode not in get_args(ClipMode):
        raise ValueError(
            f"mode must be 'joint' or 'each', got {mode!r}{nearest(str(mode), get_args(ClipMode))}"
        )
    if max_norm != math.inf:  # which only measures
        check_not_negative("max_norm", max_norm)
    if mode == "joint":
        total: Gradients = []
        for grads in sets.values():
            total = sum_of(total, grads)
        measured = {"joint": total}
    else:
        measured = sets
    norms = {name: _norm(grads, norm_type, error_if_nonfinite) for name, grads in measured.items()}
    # The 1e-6 is that of torch.nn.utils.clip_grad_norm_, so that both clip alike.
    factors = {name: (max_norm / (norm + 1e-6)).clamp(max=1.0) for name, norm in norms.items()}
    clipped = {
        name: scaled(grads, factors["joint" if mode == "joint" else name]) for name, grads in sets.items()
    }
    return clipped, norms


def _norm(grads: Gradients, norm_type: float, error_if_nonfinite: bool) -> Tensor:
    """Return the norm of a set, a plain tensor; sharded and plain gradients may be mixed."""
    parts = []
    for kind in (
        [g for g in present(grads) if not is_sharded(g)],
        [g for g in present(grads) if is_sharded(g)],
    ):
        if kind:
            norm = get_total_norm(kind, norm_type, error_if_nonfinite)
            parts.append(norm.full_tensor() if is_sharded(norm) else norm)  # type: ignore[attr-defined]
    if len(parts) == 1:
        return parts[0]
    return get_total_norm(parts, norm_type, error_if_nonfinite)  # of no gradients: 0


def unscale(grads: Gradients, scaler: "GradScaler") -> Gradients:
    """Return the gradients divided by the scale; the tensors given stay as they are."""
    found = present(grads)
    if not found:
        return grads
    scale = scaler.scale(torch.ones((), dtype=torch.float32, device=found[0].device))
    # As GradScaler does it: the reciprocal of a scale that is no power of two wants the wider type.
    return scaled(grads, scale.double().reciprocal().float())


def nonfinite(grads: Gradients, device: torch.device) -> Tensor:
    """Return a boolean scalar on ``device``: whether any gradient holds an infinity or a NaN."""
    bad = torch.zeros((), dtype=torch.bool, device=device)
    for norms in _largest(grads):
        bad |= (~norms.isfinite()).any().to(device)
    return bad


def all_zero(grads: Gradients) -> bool:
    """Say whether every element of every gradient is zero; waits for the device."""
    return not any(bool(norms.any()) for norms in _largest(grads))


def _largest(grads: Gradients) -> Iterable[Tensor]:
    """Yield the largest absolute value of each gradient, stacked by device."""
    by_device: dict[torch.device, list[Tensor]] = {}
    for grad in present(grads):
        if local(grad).numel():
            by_device.setdefault(grad.device, []).append(local(grad))
    for shards in by_device.values():
        yield torch.stack(torch._foreach_norm(shards, torch.inf))


def sum_of(first: Gradients, second: Gradients) -> Gradients:
    """Return the sum of two sets; neither is written to.

    The shorter one lacks gradients for the last parameters: an empty one has none, and one from before
    ``add_param_group`` none for the new parameters.
    """
    if not first or not second:
        return first or second
    return [a if b is None else b if a is None else a + b for a, b in zip_longest(first, second)]


def scaled(grads: Gradients, factor: Tensor) -> Gradients:
    """Return gradients times a scalar tensor; the tensors given stay as they are."""
    rows: dict[tuple[torch.device, bool], list[int]] = {}
    for i, grad in enumerate(grads):
        if grad is not None:
            rows.setdefault((grad.device, is_sharded(grad)), []).append(i)
    out = list(grads)
    for (device, _), indices in rows.items():
        products = torch._foreach_mul(present([grads[i] for i in indices]), factor.to(device))
        for i, product in zip(indices, products, strict=True):
            out[i] = product
    return out


def present(grads: Iterable[Tensor | None]) -> list[Tensor]:
    """Return the gradients that are there."""
    return [grad for grad in grads if grad is not None]


def is_sharded(tensor: Tensor) -> bool:
    """Say whether a tensor is a DTensor, whose gradients FSDP averages."""
    return type(tensor) not in _PLAIN and hasattr(tensor, "device_mesh")


def local(tensor: Tensor) -> Tensor:
    """Return this process's shard of a DTensor, and a plain tensor as it is."""
    shard: Tensor = tensor.to_local() if is_sharded(tensor) else tensor  # type: ignore[attr-defined]
    return shard


_PLAIN = (Tensor, torch.nn.Parameter)
