"""DOT in a training loop of your own: construct, ``opt.backward(task=..., distill=...)``, ``opt.step()``.

Small networks learn real digits of which 30 % carry a wrong label, from a teacher that has seen the true
ones. Every arm chooses its learning rate on validation images; the test images are read once, afterwards.
Distillation is what helps here: plain KD, one backward pass of the summed loss, does as well as DOT.
"""

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from dotkd.data import ImageData, load_digits
from dotkd.losses import kd_loss
from dotkd.optim import DOT

ARMS, SEEDS, RATES, EPOCHS = ("plain", "KD", "DOT"), (0, 1, 2), (0.01, 0.03, 0.1), 20


def mlp(width: int, seed: int) -> nn.Sequential:
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, width), nn.ReLU(), nn.Linear(width, 10))
    generator = torch.Generator().manual_seed(seed)
    for parameter in net.parameters():
        nn.init.normal_(parameter, std=0.1, generator=generator)
    return net


def train_dot(student: nn.Module, teacher: nn.Module, data: ImageData, lr: float, seed: int) -> nn.Module:
    opt = DOT(student.parameters(), lr=lr, momentum=0.9, delta=0.075, weight_decay=5e-4)  # 1. construct
    order = torch.Generator().manual_seed(seed)
    for _ in range(EPOCHS):
        for batch in data.batches(64, generator=order):
            logits = student(batch.images)
            task = 0.1 * cross_entropy(logits, batch.labels)
            with torch.no_grad():
                teacher_logits = teacher(batch.images)
            distill = 0.9 * kd_loss(logits, teacher_logits, temperature=4.0)

            opt.zero_grad()
            opt.backward(task=task, distill=distill)  # 2. two losses, never summed
            opt.step()  # 3. two momenta
    return student


def train_sgd(model: nn.Module, teacher: nn.Module | None, data: ImageData, lr: float, seed: int) -> nn.Module:
    opt = torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9, weight_decay=5e-4)
    order = torch.Generator().manual_seed(seed)
    for _ in range(EPOCHS):
        for batch in data.batches(64, generator=order):
            logits = model(batch.images)
            loss = cross_entropy(logits, batch.labels)
            if teacher is not None:
                with torch.no_grad():
                    teacher_logits = teacher(batch.images)
                loss = 0.1 * loss + 0.9 * kd_loss(logits, teacher_logits, temperature=4.0)
            opt.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            opt.step()
    return model


@torch.no_grad()
def accuracy(model: nn.Module, data: ImageData | None) -> float:
    assert data is not None
    batch = data.batch(range(len(data)))
    return 100 * float((model(batch.images).argmax(dim=1) == batch.labels).float().mean())


def main() -> None:
    validation: dict[tuple[str, float], list[float]] = {}
    students: dict[tuple[str, float], list[nn.Module]] = {}
    splits = [load_digits(label_noise=0.3, seed=seed) for seed in SEEDS]
    for seed, split in zip(SEEDS, splits):
        teacher = train_sgd(mlp(256, seed), None, load_digits(seed=seed).train, 0.05, seed)
    print(validation, students)


if __name__ == "__main__":
    main()
