"""Published numbers of the losses, random inputs, and a device that no operation may wait for."""

import json
from pathlib import Path

import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode

GOLDEN = Path(__file__).parents[1] / "golden"
_CASES = json.loads((GOLDEN / "losses.json").read_text())
_VECTORS = np.load(GOLDEN / "losses.npz")


class Published:
    """One recorded case of the published code: options, inputs, weights, value and gradients."""

    def __init__(self, case):
        self.case = case
        self.options = dict(_CASES[case]["hyper"])
        self.learns = _CASES[case]["grads"]  # the inputs of which the gradient is recorded
        self.inputs = {name: self[f"in/{name}"] for name in _CASES[case]["inputs"]}
        for name in self.learns:
            self.inputs[name].requires_grad_()

    def __getitem__(self, key):
        return torch.from_numpy(_VECTORS[f"{self.case}/{key}"].copy())

    def weights(self, prefix=""):
        """The ``state_dict`` of the learned part, of keys with a prefix."""
        start = f"{self.case}/module/"
        keys = [key.removeprefix(start) for key in _VECTORS if key.startswith(start + prefix)]
        return {key: self[f"module/{key}"] for key in keys}

    def assert_equal(self, loss, *, gradients=1e-5, elementwise=True):
        """Compare a loss of ``inputs`` and its gradients with the recorded ones."""
        loss.backward()
        torch.testing.assert_close(loss.item(), self["loss"].item(), rtol=1e-5, atol=0)
        for name in self.learns:
            ours, expected = self.inputs[name].grad, self[f"grad/{name}"]
            assert (ours - expected).norm() <= gradients * expected.norm()
            if elementwise:
                atol = 1e-6 * expected.abs().max().item()
                torch.testing.assert_close(ours, expected, rtol=1e-5, atol=atol)


class NoHostRead(TorchDispatchMode):
    """Fails on operations with results that the host must wait for."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        waits = ("_local_scalar_dense", "nonzero", "masked_select", "aten.index.")
        assert not any(word in str(func) for word in waits), func
        return func(*args, **(kwargs or {}))


def normal(*shapes, seed=0, dtype=torch.float64):
    """A tensor of normal numbers for each shape, drawn in float64 from one generator."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype) for shape in shapes]
