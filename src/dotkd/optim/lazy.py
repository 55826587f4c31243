"""The task gradient held between refreshes: most steps with one backward pass instead of two."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .gradients import Sets, present, sum_of
from .pair import TaskAndDistill

if TYPE_CHECKING:
    from torch.amp import GradScaler

HELD, REACH = "held_task_gradient", "held_reach"  # keys of a parameter's state
AGE = "task_age"  # key of every group: steps since the task gradient was last computed, 0: none is held
_TASK, _DISTILL = 1, 2  # the bits of REACH: which losses reached the parameter in that step
_VOTE = "one pass"


class LazyTask(TaskAndDistill):
    r"""Two streams, of which the task gradient may be computed in every K-th step only.

    An approximation, never the default. Let :math:`K` = ``task_every``, :math:`G_t` the gradient of
    ``task + distill`` in step :math:`t`, and :math:`h` the task gradient of the last *refresh*, a step in
    which both losses were differentiated apart. A step of another kind runs one backward pass, for
    :math:`G_t`, and what enters the streams is

    .. math::
        g_{task} := h, \qquad g_{distill} := G_t - h .

    Their sum is exact. What is approximated is which stream remembers :math:`e = g_{task, t} - h`, the
    change of the task gradient since the refresh: the distillation stream takes it in, with its momentum
    and gain, and the task stream lacks it. So it hinges on :math:`|g_{task}| \ll |g_{distill}|`, as with the
    usual weights of 0.1 and 0.9 x T^2, where e is small beside the noise of the distillation gradient. (To
    hold the distillation gradient instead does harm, already at K = 2.)

    K steps then take K + 1 backward passes in place of 2K. In a prototype (a small CNN on
    CIFAR-100 images of 16x16 pixels, 20 classes, weights 0.1 and 0.9, T = 4, |task| / |distill| = 0.12,
    936 steps, ten seeds) test accuracy differed from exact DOT's by 0.03 +- 0.36, 0.18 +- 0.39 and
    -0.08 +- 0.46 percentage points at K = 2, 4, 8 (95 % intervals of paired differences) and a whole step
    took 0.90, 0.78 and 0.74 of the time. That is no proof of equivalence, and no other losses or weights
    were tried.

    What a step of one pass does with a parameter follows from who reached it in the refresh: where one loss
    did, its stream gets :math:`G_t`; where none did, the distillation stream. Over micro-batches
    :math:`G_t` accumulates and :math:`h`, of all micro-batches of the refresh, counts once. h is not
    clipped; with several processes it is the mean, or each process's own with ``local_buffers``. A step in
    which a loss is None is exact (of several processes: on those where it is None), and the next one
    refreshes, as do the first one after a new parameter group and the one after an overflow in a refresh.

    Attributes:
        task_every: :math:`K`.
    """

    task_every: int = 1

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "task_every": self.task_every}

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group of parameters; with ``task_every > 1`` the next step refreshes the task gradient.

        Raises:
            ValueError: A value is out of range, or a key is one slip away from a known one.
        """
        if isinstance(param_group, dict) and self.task_every > 1:
            param_group[AGE] = 0  # unlike the others', if they have one
        super().add_param_group(param_group)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a state that was saved with this ``task_every`` or another; pending gradients are dropped.

        A state without a held task gradient (``task_every=1``) makes the next step a refresh.

        Raises:
            ValueError: The state is another optimizer's.
        """
        super().load_state_dict(self._fitted(state_dict))

    def _fitted(self, state_dict: Mapping[str, Any]) -> dict[str, Any]:
        """Return a state with what this ``task_every`` holds; the one given stays as it is."""
        ours = {HELD, REACH} if self.task_every > 1 else set()
        states, groups = {}, []
        for index, state in state_dict["state"].items():
            kept = {key: value for key, value in state.items() if key not in {HELD, REACH} - ours}
            like = next((value for value in state.values() if isinstance(value, Tensor)), None)
            if ours and like is not None and not ours & set(state):
                kept.update(nothing_held(like))
            states[index] = kept
        complete = all(ours <= set(state) for state in state_dict["state"].values())
        for group in state_dict["param_groups"]:
            age = {AGE: group.get(AGE, 0) if complete else 0} if ours else {}
            groups.append({**{key: value for key, value in group.items() if key != AGE}, **age})
        return {**state_dict, "state": states, "param_groups": groups}

    def capture(self, stream: str, *, scaler: "GradScaler | None" = None) -> None:
        """Take the gradients in ``.grad`` into a stream; only with ``task_every=1``.

        Raises:
            RuntimeError: With another ``task_every``, or as in the base class.
        """
        if self.task_every > 1:
            raise RuntimeError(
                f"{self._capture_call(stream)} and task_every={self.task_every} do not go together: "
                "opt.backward(task=..., distill=...) must choose the backward passes itself. Call that, or "
                "use task_every=1"
            )
        super().capture(stream, scaler=scaler)

    def _age(self) -> int:
        ages = {int(group.get(AGE, 0)) for group in self.param_groups}
        return ages.pop() if len(ages) == 1 else 0

    def _one_pass(self) -> bool:
        return 0 < self._age() < self.task_every

    def _votes(self) -> dict[str, bool]:
        votes = super()._votes()
        return votes if self.task_every == 1 else {**votes, _VOTE: self._intake.whole}

    def _lazy_share(self) -> float:
        """Return the share of processes that ran one pass for both losses in this step."""
        return float(self._intake.whole) if self._agreed is None else self._agreed.get(_VOTE, 0.0)

    def _sets(self, params: list[Tensor]) -> Sets:
        sets, share = super()._sets(params), self._lazy_share()
        if not share or self._intake.divided:
            return sets
        return self._divided(params, sets, share)

    def _final_sets(self, params: list[Tensor]) -> Sets:
        sets, intake = self._sets(params), self._intake
        if self._lazy_share():
            intake.replace(params, sets)
            intake.divided = True
        elif self.task_every > 1 and intake.unclipped is None:
            intake.unclipped = sets["task"]
        return sets

    @torch.no_grad()
    def _divided(self, params: list[Tensor], sets: Sets, share: float) -> Sets:
        """Divide the gradient of both losses, in the distillation set, between the sets."""
        task, distill = list(sets["task"]), list(sets["distill"])
        if share == 1.0:  # what is in .grad by another hand was in h as well
            task, distill = [None] * len(params), sum_of(distill, task)
        # Where a process told the losses apart, because one was None there, only the others count as h.
        weight = float(self._intake.whole) if self._local else share
        both = []
        for i, param in enumerate(params):
            total, reach = distill[i], self.state.get(param, {}).get(REACH, 0)
            if total is not None and reach == _TASK:
                (task[i],), distill[i] = sum_of([task[i]], [total]), None
            elif total is not None and reach == _TASK | _DISTILL:
                both.append(i)
        if both:
            held = torch._foreach_mul([self.state[params[i]][HELD] for i in both], weight)
            rest = torch._foreach_sub(present([distill[i] for i in both]), held)
            for i, part, other in zip(both, held, rest, strict=True):
                (task[i],), distill[i] = sum_of([task[i]], [part]), other
        return {"task": task, "distill": distill}

    def _after_update(self, params: list[Tensor], sets: Sets) -> None:
        if self.task_every == 1:
            return
        share, task = self._lazy_share(), self._intake.unclipped
        for param in params:
            state = self.state.get(param)
            if state and HELD not in state:
                state.update(nothing_held(param))
        age = 0
        if not self._intake.consents:
            if share == 1.0:
                age = self._age() + 1
            elif not share and task:  # an empty one: gradients that came in after clipping are mixed into it
                age = 1
                self._hold(params, {**sets, "task": task})
        for group in self.param_groups:
            group[AGE] = age

    def _hold(self, params: list[Tensor], sets: Sets) -> None:
        rows = zip(params, sets["task"], sets["distill"], strict=True)
        for param, task, distill in rows:
            state = self.state.get(param)
            if not state:
                continue
            state[REACH] = _TASK * (task is not None) | _DISTILL * (distill is not None)
            if task is None:
                state[HELD].zero_()
            else:
                state[HELD].copy_(task)


def nothing_held(param: Tensor) -> dict[str, Any]:
    """Return what a parameter's state has of the held gradient before there is one."""
    return {HELD: torch.zeros_like(param), REACH: 0}


def check_task_every(value: int) -> None:
    """Refuse what is no number of steps.

    Raises:
        ValueError: It is not.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"task_every must be a whole number of steps >= 1 (1: exact), got {value!r}")
