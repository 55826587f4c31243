"""DOT in a training loop of your own: construct, ``opt.backward(task=..., distill=...)``, ``opt.step()``.

Small students learn real digits of which 30 % carry a wrong label, from a teacher that saw the true ones.
Each arm takes the learning rate that is best on validation images; test images are read once, afterwards.
Distillation is what helps here: plain KD, one backward pass of the summed loss, does as well as DOT.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from dotkd.data import ImageData, load_digits
from dotkd.losses import kd_loss
from dotkd.optim import DOT

SEEDS, EPOCHS, RATES = (0, 1, 2), 30, (0.01, 0.03, 0.1)


def mlp(width: int, seed: int) -> nn.Module:
    """Make a network that owes nothing to torch's global generator."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, width), nn.ReLU(), nn.Linear(width, 10))
    generator = torch.Generator().manual_seed(seed)
    for parameter in net.parameters():
        nn.init.normal_(parameter, std=0.1, generator=generator)
    return net


def train(net: nn.Module, data: ImageData, arm: str, lr: float, seed: int, teacher: nn.Module) -> nn.Module:
    """Train by "plain" (which has no use for the teacher), "KD" or "DOT"."""
    opt: torch.optim.Optimizer = torch.optim.SGD(net.parameters(), lr, momentum=0.9, weight_decay=5e-4)
    if arm == "DOT":
        opt = DOT(net.parameters(), lr, momentum=0.9, delta=0.075, weight_decay=5e-4)  # DOT, 1 of 3
    order = torch.Generator().manual_seed(seed)
    for batch in (batch for _ in range(EPOCHS) for batch in data.batches(128, generator=order)):
        logits, teacher_logits = net(batch.images), teacher(batch.images).detach()
        task, distill = cross_entropy(logits, batch.labels), kd_loss(logits, teacher_logits, temperature=4.0)
        opt.zero_grad()
        if isinstance(opt, DOT):
            opt.backward(task=0.1 * task, distill=0.9 * distill)  # 2 of 3: two losses, never summed
        else:
            loss = task if arm == "plain" else 0.1 * task + 0.9 * distill
            loss.backward()  # type: ignore[no-untyped-call]
        opt.step()  # 3 of 3
    return net


@torch.no_grad()
def accuracy(nets: list[nn.Module], parts: list[ImageData | None]) -> Tensor:
    """Compute each network's accuracy on its part of the data, in percent."""
    pairs = [(net, part.batch(range(len(part)))) for net, part in zip(nets, parts, strict=True) if part]
    return 100 * torch.stack([(net(b.images).argmax(dim=1) == b.labels).float().mean() for net, b in pairs])


def main() -> None:
    """Train the teachers, then three arms over all rates and seeds; print the test accuracies."""
    torch.set_num_threads(1)  # so small are the networks
    splits = [load_digits(label_noise=0.3, seed=seed) for seed in SEEDS]
    teachers = [train(net := mlp(256, s), load_digits(seed=s).train, "plain", 0.05, s, net) for s in SEEDS]
    test = {}
    for arm in ("plain", "KD", "DOT"):
        nets = {r: [train(mlp(32, s), splits[s].train, arm, r, s, teachers[s]) for s in SEEDS] for r in RATES}
        best = max(RATES, key=lambda rate: float(accuracy(nets[rate], [s.validation for s in splits]).mean()))
        test[arm] = accuracy(nets[best], [s.test for s in splits])
        print(f"{arm:5}  lr {best:<4}  mean {test[arm].mean():.1f} %  seeds {test[arm].numpy().round(1)}")
    assert (test["DOT"] - test["plain"]).mean() > 1.5


if __name__ == "__main__":
    main()
