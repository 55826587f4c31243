"""How an optimizer travels: its state saved and loaded, copies of it, pickles."""

import copy
from abc import abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import Tensor
from torch.optim import Optimizer

from .intake import Intake

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

_LOST = "lost"  # in the place of a process group that could not be pickled


class Portable(Optimizer):
    """An optimizer whose states, copies and pickles go on to the same bits; pending gradients stay behind.

    Attributes:
        process_group: The processes, None for a single one, or a word in place of the lost group after
            unpickling.
    """

    param_groups: list[dict[str, Any]]
    process_group: "ProcessGroup | str | None"
    _intake: Intake

    @abstractmethod
    def _start(self) -> None:
        """Begin with no gradients: after construction, unpickling and loading."""

    @abstractmethod
    def _new_state(self, param: Tensor) -> dict[str, Any]:
        """Return the state of a parameter before its first update."""

    def _params(self) -> list[Tensor]:
        return [p for group in self.param_groups for p in group["params"]]

    def __getstate__(self) -> dict[str, Any]:
        return {
            **super().__getstate__(),
            "process_group": None if self.process_group is None else _LOST,
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self.defaults.pop("differentiable", None)  # torch adds it here; it is no option of ours
        self._start()

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        clone = self.__class__.__new__(self.__class__)
        memo[id(self)] = clone
        clone.__setstate__(copy.deepcopy(self.__getstate__(), memo))
        clone.process_group = self.process_group
        return clone

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a state that :meth:`state_dict` of the same class returned; pending gradients are dropped.

        Raises:
            ValueError: The state is another optimizer's.
        """
        self._check_state_dict(state_dict)
        intake = self._intake
        super().load_state_dict(state_dict)
        intake.clear()
        self._intake = intake  # it knows which zeros in .grad no backward pass has written
        for param in self._params():
            for key, value in self.state.get(param, {}).items():
                if isinstance(value, Tensor) and value.stride() != param.stride():
                    # The fused kernels need the parameter's own layout, channels_last say.
                    self.state[param][key] = torch.empty_like(param).copy_(value)

    def _check_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        name = type(self).__name__
        for group in state_dict["param_groups"]:
            if missing := [key for key in self.defaults if key not in group]:
                raise ValueError(
                    f"not a state of {name}: its parameter groups lack {missing}, they have "
                    f"{sorted(key for key in group if key != 'params')}"
                )
        expected = set(self._new_state(torch.zeros(())))
        for index, state in state_dict["state"].items():
            if set(state) != expected:
                raise ValueError(
                    f"not a state of {name}: parameter {index} has {sorted(state)} where "
                    f"{sorted(expected)} belong"
                )
