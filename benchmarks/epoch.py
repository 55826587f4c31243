"""Images per second over a whole epoch, one thread: the images alone, and training where networks are small.

``data`` goes through an epoch of images of CIFAR's size in batches of 64, in a new order, augmented and
normalised: dotkd as in training, against the published loader with no worker processes. ``training`` is an
epoch of DOT on small networks, where what is not a network weighs most. Trainers take turns; the figures are
medians of images per CPU second of the process.

    python benchmarks/epoch.py [--quick] [--json FILE]
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from functools import partial

import torch
from measuring import arguments, medians, take_turns, write
from published import MEAN, STD, OneByOne, channels_behind
from torch.utils.data import DataLoader
from trainers import KD, Ours, Setting, Trainer, published

from dotkd.data import crop_flip
from dotkd.models import ImageModel

Results = dict[str, dict[str, float]]


def loaders(setting: Setting) -> dict[str, Callable[[], None]]:
    """Return functions that go through all images, ready for a network."""
    model, draws = ImageModel(mean=MEAN, std=STD), torch.Generator().manual_seed(0)
    augment = partial(crop_flip, generator=draws)
    images = OneByOne(channels_behind(setting.data.pixels), setting.data.labels.tolist())
    loader = DataLoader(images, batch_size=setting.batch, shuffle=True, num_workers=0)

    def ours() -> None:
        for batch in setting.data.batches(setting.batch, generator=draws, augment=augment):
            model.normalize(batch.images)

    def theirs() -> None:
        for _ in loader:
            pass

    return {"published": theirs, "dotkd": ours}


def trainers(setting: Setting) -> dict[str, Callable[[], None]]:
    """Return functions that train for an epoch."""
    made: dict[str, Trainer] = {
        "published": published(setting),
        "dotkd": Ours(setting),
        "dotkd, KD": Ours(setting, optimizer=KD),
    }
    return {name: trainer.epoch for name, trainer in made.items()}


def rates(variants: dict[str, Callable[[], None]], images: int, rounds: int) -> Results:
    """Return images per CPU second, and the ratio to the published trainer's, by name."""
    found = medians(take_turns(variants, rounds, warmup=1))
    return {
        name: {"images_per_cpu_second": images / median, "ratio": found["published"] / median}
        for name, median in found.items()
    }


def options_of(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = arguments(__doc__)
    parser.add_argument("--teacher", default="small/cnn64", help="another network")
    parser.add_argument("--student", default="small/cnn16", help="another network")
    parser.add_argument("--images", type=int, help="in an epoch (2,000 with --quick, else 50,000)")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print a table, and write it as JSON where asked."""
    options = options_of(argv)
    torch.set_num_threads(1)
    images = options.images or (2_000 if options.quick else 50_000)
    rounds = 3 if options.quick else 5
    setting = Setting(options.teacher, options.student, images=images)
    small = Setting(options.teacher, options.student, images=max(images // 5, setting.batch))
    results = {
        "data": rates(loaders(setting), setting.images, rounds),
        "training": rates(trainers(small), small.images, rounds),
    }
    print(f"{'':10} {'':12} {'images/CPU s':>13} {'ratio':>7}")
    for part, rows in results.items():
        for name, row in rows.items():
            print(f"{part:10} {name:12} {row['images_per_cpu_second']:13.0f} {row['ratio']:7.2f}")
    write(
        options.json,
        {
            "pair": [setting.teacher, setting.student],
            "batch": setting.batch,
            "images": {"data": setting.images, "training": small.images},
            "rounds": rounds,
            "results": results,
        },
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
