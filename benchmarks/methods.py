"""What a training step costs under each method, against KD: resnet32x4 -> resnet8x4, DOT, one thread.

A step is the teacher's forward pass, the student's, the losses, both backward passes and the update, on
random images of CIFAR-100's size. All methods take turns; the table shows medians of the process's CPU time,
the ratio to KD, and the parameters that a method learns beside the student's. CRD remembers 50,000 images.

    python benchmarks/methods.py [--quick] [--json FILE]
"""

import sys
from collections.abc import Callable

import torch
from measuring import arguments, medians, take_turns, write

from dotkd import DOT, Distiller
from dotkd.methods import has_teacher, method_names
from dotkd.models import create_model
from dotkd.train.differentiate import differentiate

BATCH, IMAGES, CLASSES = 64, 50_000, 100


def step_of(method: str) -> tuple[Callable[[], None], int]:
    """Return a function that takes one step under a method, and the number of parameters it learns."""
    teacher, student = (create_model(name, CLASSES) for name in ("resnet32x4", "resnet8x4"))
    images, index = torch.rand(BATCH, 3, 32, 32), torch.arange(BATCH)
    labels = torch.randint(CLASSES, (IMAGES,))
    distiller = Distiller(student, teacher, method, example=images[:4], labels=labels)
    optimizer = DOT(distiller.trainable_parameters(), lr=1e-4)

    def step() -> None:
        losses = distiller(images, labels[:BATCH], index=index, progress=0.5)
        differentiate(optimizer, losses)
        optimizer.step()
        optimizer.zero_grad()

    learned = sum(
        p.numel()
        for name, p in distiller.named_parameters()
        if name.startswith("method.") and p.requires_grad
    )
    return step, learned


def main() -> int:
    """Measure, print a table, and write it as JSON where asked."""
    options = arguments(__doc__).parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(1)
    made = {name: step_of(name) for name in method_names() if has_teacher(name)}
    rounds = 3 if options.quick else 9
    found = medians(take_turns({name: step for name, (step, _) in made.items()}, rounds, warmup=1))
    results = {
        name: {"seconds": found[name], "ratio": found[name] / found["kd"], "learned_parameters": learned}
        for name, (_, learned) in made.items()
    }
    print(f"{'method':10} {'CPU s':>7} {'to KD':>7} {'learned parameters':>20}")
    for name, row in sorted(results.items(), key=lambda item: item[1]["ratio"]):
        print(f"{name:10} {row['seconds']:7.2f} {row['ratio']:7.2f} {row['learned_parameters']:20,}")
    write(options.json, {"batch": BATCH, "rounds": rounds, "results": results})
    return 0


if __name__ == "__main__":
    sys.exit(main())
