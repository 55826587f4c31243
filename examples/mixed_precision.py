"""DOT under autocast with a GradScaler, on a GPU or a CPU, and what an overflow does.

The scaler goes to ``opt.backward``; from there on the loop is torch's usual one. In one step the
distillation loss overflows on purpose. The task gradient in ``.grad`` knows nothing of it, yet the scaler
is told: that step is skipped, the student stays, and the scale is halved.
"""

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from dotkd.data import load_digits
from dotkd.losses import kd_loss
from dotkd.optim import DOT

EPOCHS, OVERFLOW = 4, 20


def mlp(width: int, generator: torch.Generator) -> nn.Module:
    """Make a network that owes nothing to torch's global generator."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, width), nn.ReLU(), nn.Linear(width, 10))
    for parameter in net.parameters():
        nn.init.normal_(parameter, std=0.1, generator=generator)
    return net


def main() -> None:
    """Train for a few epochs, with one overflow."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = torch.float16 if device == "cuda" else torch.bfloat16  # what each computes fast
    generator = torch.Generator().manual_seed(0)
    teacher, student = (mlp(width, generator).to(device) for width in (256, 32))  # mechanics only: untrained
    opt = DOT(student.parameters(), lr=0.02, momentum=0.9, delta=0.075, weight_decay=5e-4)
    scaler = torch.amp.GradScaler(device, init_scale=2.0**10)
    data = load_digits().train.to(device)
    batches = [batch for _ in range(EPOCHS) for batch in data.batches(64, generator=generator)]

    losses, skipped = [], []
    for number, batch in enumerate(batches):
        with torch.autocast(device, dtype=dtype):
            logits = student(batch.images)
            with torch.no_grad():
                teacher_logits = teacher(batch.images)
            task = cross_entropy(logits, batch.labels)
            distill = 0.1 * kd_loss(logits, teacher_logits, temperature=4.0)
        if number == OVERFLOW:
            distill = distill * torch.inf

        opt.zero_grad()
        opt.backward(task=task, distill=distill, scaler=scaler)
        scaler.unscale_(opt)
        opt.clip_grad_norm_(5.0)
        before = [parameter.detach().clone() for parameter in student.parameters()]
        scale = scaler.get_scale()
        scaler.step(opt)
        scaler.update()

        losses.append(task.item())
        if all(torch.equal(old, new) for old, new in zip(before, student.parameters(), strict=True)):
            assert scaler.get_scale() == scale / 2
            skipped.append(number)

    print(f"{device}, {dtype}: task loss {losses[0]:.3f} -> {losses[-1]:.3f}, skipped steps: {skipped}")
    assert skipped == [OVERFLOW]
    assert 0 < losses[-1] < losses[0] < float("inf")


if __name__ == "__main__":
    main()
