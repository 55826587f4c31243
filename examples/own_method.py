"""A distillation method of your own: a class in ten lines, with a learned part, under DOT.

python examples/own_method.py
"""

# ruff: noqa: ARG002  (a method need not read all of its inputs)

from typing import Any

import torch
from torch import Tensor, nn

from dotkd import DOT, Distiller, Method, Outputs, load_digits
from dotkd.methods import Setting, register
from dotkd.models import create_model


@register("channel_means")
class ChannelMeans(Method):
    """A learned linear map of the last stage's channel means predicts the teacher's channel means."""

    # Zoo, timm and transformers models know the path of "last"; others: taps={"last": "path.of.module"}.
    needs = ("last",)
    learns = True

    def prepare(self, setting: Setting) -> None:
        """Make the learned part from the shapes of one batch."""
        ours, theirs = setting.student_outputs.features["last"], setting.teacher_outputs.features["last"]
        self.project = nn.Linear(ours.shape[1], theirs.shape[1])

    def forward(self, student: Outputs, teacher: Outputs, target: Tensor, **_: Any) -> Tensor:
        """Return the raw loss; the distiller applies the weight."""
        ours, theirs = (outputs.features["last"].mean(dim=(2, 3)) for outputs in (student, teacher))
        return nn.functional.mse_loss(self.project(ours), theirs)


def main() -> None:
    """Distill a small network for one epoch."""
    torch.manual_seed(0)
    digits, images = load_digits().train, torch.zeros(2, 1, 8, 8)
    student, teacher = (create_model(f"small/cnn{width}", 10, image_shape=(1, 8, 8)) for width in (8, 32))
    distiller = Distiller(student, teacher, "channel_means", example=images, distill_weight=10.0)
    opt = DOT(distiller.trainable_parameters(), lr=0.02)
    for step, batch in enumerate(digits.batches(64, generator=torch.Generator().manual_seed(0))):
        losses = distiller(batch.images, batch.labels)
        opt.backward(task=losses.task, distill=losses.distill)
        opt.step()
        opt.zero_grad()
        if step % 7 == 0:
            print(f"step {step:2}: task {losses.raw_task:.3f}, distillation {losses.raw_distill:.4f}")


if __name__ == "__main__":
    main()
