"""The training step of DOT's publication in plain PyTorch: what the benchmarks hold dotkd against.

Written for the comparison, from what the published trainer does and with none of its code. In each step:
images are opened, cropped, mirrored, turned into tensors and normalised one at a time, with Pillow, in the
process that trains; both networks run in float32 on contiguous tensors; the teacher runs without a graph; the
distillation loss is differentiated first, its gradients are set aside, then the cross entropy; a loop over
the parameters moves two momentum buffers for each; loss and accuracy are read for the log. The networks are
those of ``dotkd.models``, whose layers are the published ones.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset

MEAN, STD = (0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761)
TASK_WEIGHT, DISTILL_WEIGHT, TEMPERATURE = 0.1, 0.9, 4.0


class PlainDOT:
    """Two momentum buffers for each parameter, one parameter after the other.

    With the gradients ``g_task`` (weight decay in it) and ``g_distill``, buffers that start as the first
    gradient, and m the ``momentum``::

        v_task = (m - delta) v_task + (1 - dampening) g_task
        v_distill = (m + delta) v_distill + (1 - dampening) g_distill
        p = p - lr (v_task + v_distill)

    A parameter that one loss alone reaches keeps one buffer, with m itself; the decay then enters what there
    is, but for the first step of one that only distillation reaches: a slip of the published code.

    Args:
        params: What is updated.
        lr: Learning rate.
        momentum: m.
        delta: Distance of the two momenta from m.
        weight_decay: Of the parameters, into the task gradient.
        dampening: As in ``torch.optim.SGD``.
    """

    def __init__(
        self,
        params: Sequence[nn.Parameter],
        lr: float,
        momentum: float = 0.9,
        delta: float = 0.075,
        weight_decay: float = 0.0,
        dampening: float = 0.0,
    ) -> None:
        self.params, self.lr = list(params), lr
        self.momentum, self.delta = momentum, delta
        self.weight_decay, self.dampening = weight_decay, dampening
        self._distill: dict[nn.Parameter, Tensor] = {}
        self._buffers: dict[nn.Parameter, dict[str, Tensor]] = {param: {} for param in self.params}

    def zero_grad(self) -> None:
        """Drop what is in ``.grad``."""
        for param in self.params:
            param.grad = None

    def step_distill(self) -> None:
        """Set the gradients of the distillation loss aside."""
        self._distill = {param: param.grad for param in self.params if param.grad is not None}

    @torch.no_grad()
    def step(self) -> None:
        """Update every parameter by the gradients set aside and by those in ``.grad``."""
        for param in self.params:
            task, distill = param.grad, self._distill.get(param)
            both = task is not None and distill is not None
            spread = self.delta if both else 0.0
            if task is not None:
                if self.weight_decay:
                    task.add_(param, alpha=self.weight_decay)
                self._apply(param, "task", task, self.momentum - spread)
            if distill is not None:
                if self.weight_decay and not both and "distill" in self._buffers[param]:
                    distill.add_(param, alpha=self.weight_decay)
                self._apply(param, "distill", distill, self.momentum + spread)

    def _apply(self, param: nn.Parameter, name: str, grad: Tensor, momentum: float) -> None:
        buffers = self._buffers[param]
        if name not in buffers:
            buffers[name] = grad.clone()
        else:
            buffers[name].mul_(momentum).add_(grad, alpha=1 - self.dampening)
        param.add_(buffers[name], alpha=-self.lr)


class OneByOne(Dataset[tuple[Tensor, int, int]]):
    """Images that are augmented one at a time, as they are asked for.

    Args:
        pixels: [N, H, W, 3], uint8.
        labels: [N] class numbers.
        pad: Width of the border of zeros from which a crop of the old size is taken.
    """

    def __init__(self, pixels: NDArray[np.uint8], labels: Sequence[int], pad: int = 4) -> None:
        self.pixels, self.labels, self.pad = pixels, labels, pad

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, position: int) -> tuple[Tensor, int, int]:
        """Return a new view of an image, its label and its number."""
        top, left = (int(torch.randint(2 * self.pad + 1, (1,))) for _ in range(2))
        flip = bool(torch.rand(1) < 0.5)
        return self.view(position, top, left, flip), self.labels[position], position

    def view(self, position: int, top: int, left: int, flip: bool) -> Tensor:
        """Return one view [3, H, W] of an image, normalised."""
        image = ImageOps.expand(Image.fromarray(self.pixels[position]), border=self.pad, fill=0)
        height, width = self.pixels.shape[1:3]
        image = image.crop((left, top, left + width, top + height))
        if flip:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        planes = torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()
        mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (MEAN, STD))
        return planes.float().div(255).sub_(mean).div_(std)


class PublishedTrainer:
    """Student, teacher, images and optimizer, and the steps of an epoch.

    Args:
        teacher: Maps normalised images to logits.
        student: Likewise; is trained.
        images: What it is trained on.
        batch: Images in a step.
        lr: Learning rate.
        weight_decay: As the recipes of the field have it.
    """

    def __init__(
        self,
        teacher: nn.Module,
        student: nn.Module,
        images: Dataset[tuple[Tensor, int, int]],
        *,
        batch: int = 64,
        lr: float = 0.05,
        weight_decay: float = 5e-4,
    ) -> None:
        self.teacher, self.student = teacher.eval(), student.train()
        self.loader = DataLoader(images, batch_size=batch, shuffle=True, num_workers=0)
        self.optimizer = PlainDOT(list(student.parameters()), lr, weight_decay=weight_decay)
        self.log: dict[str, float] = {}

    def epoch(self) -> None:
        """Take a step for each batch."""
        for images, labels in self.batches():
            self.step(images, labels)

    def batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Go once through the images, in an order of chance."""
        return ((images, labels) for images, labels, _ in self.loader)

    def step(self, images: Tensor, labels: Tensor) -> None:
        """Update the student once."""
        logits = self.ask_student(images)
        task, distill = self.losses(logits, self.ask_teacher(images), labels)
        self.optimizer.zero_grad()
        distill.backward(retain_graph=True)  # type: ignore[no-untyped-call]
        self.optimizer.step_distill()
        self.optimizer.zero_grad()
        task.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        highest = logits.detach().topk(min(5, logits.shape[1])).indices == labels[:, None]
        self.log = {
            "loss": float(task.detach() + distill.detach()),
            "top1": float(highest[:, 0].float().mean()),
            "top5": float(highest.any(dim=1).float().mean()),
        }

    def ask_student(self, images: Tensor) -> Tensor:
        """Compute the student's logits."""
        logits: Tensor = self.student(images)
        return logits

    def ask_teacher(self, images: Tensor) -> Tensor:
        """Compute the teacher's logits, without a graph."""
        with torch.no_grad():
            logits: Tensor = self.teacher(images)
        return logits

    def losses(self, logits: Tensor, teacher_logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Compute the weighted cross entropy and the weighted distillation loss."""
        task = TASK_WEIGHT * functional.cross_entropy(logits, labels)
        ours = functional.log_softmax(logits / TEMPERATURE, dim=1)
        theirs = functional.softmax(teacher_logits / TEMPERATURE, dim=1)
        divergence = functional.kl_div(ours, theirs, reduction="none").sum(dim=1).mean()
        return task, DISTILL_WEIGHT * TEMPERATURE**2 * divergence


def channels_behind(pixels: Tensor) -> NDArray[np.uint8]:
    """Bring uint8 images [N, 3, H, W] to the layout that Pillow takes, [N, H, W, 3]."""
    array: NDArray[Any] = pixels.permute(0, 2, 3, 1).contiguous().numpy()
    return array
