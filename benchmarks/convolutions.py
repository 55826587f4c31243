"""The convolutions of a training step and nothing else: what remains of it if all the rest were free.

A layer between two convolutions can be made cheaper, joined with its neighbours, left out. The
convolutions stay: one forward pass of the teacher, and of the student one forward and, with DOT, two
backward passes. Here they run one after the other on tensors of the step's shapes, channels innermost, by
the same library and in the same precision.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional
from trainers import Setting


@dataclass(frozen=True)
class Shape:
    """What a convolution of a network meets.

    Args:
        images: Shape of its input.
        weight: Shape of its weight.
        stride: In both directions.
        padding: In both directions.
        groups: Of channels.
        first: Whether its input is the image, of which nobody wants the gradient.
        backwards: How often its gradients are taken.
    """

    images: tuple[int, ...]
    weight: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    groups: int
    first: bool
    backwards: int

    def call(self) -> Callable[[], None]:
        """Return a function that does all of it once."""
        x, weight = (
            torch.randn(shape).to(memory_format=torch.channels_last) for shape in (self.images, self.weight)
        )
        if self.backwards:
            x.requires_grad_(not self.first)
            weight.requires_grad_()
        wanted = [tensor for tensor in (x, weight) if tensor.requires_grad]

        def forward() -> Tensor:
            return functional.conv2d(x, weight, None, self.stride, self.padding, groups=self.groups)

        cotangent = torch.randn_like(forward())

        def run() -> None:
            out = forward()
            for number in range(self.backwards):
                last = number == self.backwards - 1
                torch.autograd.grad(out, wanted, cotangent, retain_graph=not last)

        return run


def shapes(network: nn.Module, images: Tensor, backwards: int) -> Counter[Shape]:
    """Count the convolutions of a network by what they meet.

    Args:
        network: Is called once.
        images: [B, C, H, W].
        backwards: As of :class:`Shape`.

    Returns:
        How many there are of each shape.
    """
    found: Counter[Shape] = Counter()

    def note(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        assert isinstance(layer, nn.Conv2d)
        assert not isinstance(layer.padding, str)
        seen = tuple(inputs[0].shape), tuple(layer.weight.shape)
        found[Shape(*seen, layer.stride, layer.padding, layer.groups, not found, backwards)] += 1

    layers = [module for module in network.modules() if isinstance(module, nn.Conv2d)]
    handles = [layer.register_forward_pre_hook(note) for layer in layers]
    with torch.no_grad():
        network(images)
    for handle in handles:
        handle.remove()
    return found


class Convolutions:
    """All convolutions of a step of DOT.

    Args:
        setting: What would be trained.
    """

    def __init__(self, setting: Setting) -> None:
        teacher, student = setting.networks
        images = setting.data.batch(torch.arange(setting.batch)).images
        student.eval()
        counted = [shapes(teacher, images, 0), shapes(student, images, 2)]
        student.train()
        self.calls = [(shape.call(), count) for counts in counted for shape, count in counts.items()]

    def epoch(self) -> None:
        """Run each of them as often as the networks have it."""
        for call, count in self.calls:
            for _ in range(count):
                call()
