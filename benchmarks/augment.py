"""Crop, flip and normalise 32 x 32 images on one thread: whole batches against Pillow, image by image.

Both make, from uint8 images and the same draws, the same float32 batch (checked to 1e-5 before the clock
runs): a border of 4 zeros, a crop of 32 x 32 at a random place, a flip for one half, (x / 255 - mean) / std.
``dotkd`` is what a training run does: ``crop_flip``, the division in ``ImageData`` and the normalisation in
``ImageModel``. ``in place`` does the same three steps of arithmetic in one float32 batch instead of four,
to the same bits. ``Pillow`` is what a data loader's worker does for each image, and the stack of the batch.
The variants take turns; the table shows medians of the process's CPU seconds and the ratio to Pillow.

A batch of float32 is 1.5 MB; on Linux malloc may hand it back to the system when it is freed and have its
pages cleared at the next one, which can cost more than the arithmetic. To see it without, keep the memory:

    MALLOC_TRIM_THRESHOLD_=4000000000 MALLOC_MMAP_THRESHOLD_=4000000000 python benchmarks/augment.py

    python benchmarks/augment.py [--quick] [--json FILE]
"""

import sys
from collections.abc import Callable
from functools import partial

import numpy as np
import PIL
import torch
from measuring import arguments, medians, take_turns, write
from PIL import Image
from torch import Tensor

from dotkd.data import crop_flip
from dotkd.models import ImageModel

BATCH, SIDE, PAD = 128, 32, 4
MEAN, STD = (0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)
BATCHES = 10  # for each reading of the clock, whose ticks are coarse on some systems

Variant = Callable[[torch.Generator], Tensor]


def dotkd_variant(pixels: Tensor) -> Variant:
    """Return a function that makes a batch of all images at once."""
    model = ImageModel(mean=MEAN, std=STD)

    def run(generator: torch.Generator) -> Tensor:
        views, _ = crop_flip(pixels, generator=generator, pad=PAD)
        return model.normalize(torch.div(views, 255))

    return run


def in_place_variant(pixels: Tensor) -> Variant:
    """Return a function that makes a batch of all images at once, with one float32 batch."""
    mean, std = (torch.tensor(values).reshape(-1, 1, 1) for values in (MEAN, STD))

    def run(generator: torch.Generator) -> Tensor:
        views, _ = crop_flip(pixels, generator=generator, pad=PAD)
        return views.to(torch.float32).div_(255).sub_(mean).div_(std)

    return run


def pillow_variant(pixels: Tensor) -> Variant:
    """Return a function that makes a batch of one image after the other."""
    images = [image.permute(1, 2, 0).contiguous().numpy() for image in pixels]
    mean, std = np.array(MEAN, np.float32), np.array(STD, np.float32)
    places, side = 2 * PAD + 1, SIDE + 2 * PAD

    def one(image: np.ndarray, view: int) -> Tensor:
        top, left = divmod(view // 2, places)
        padded = Image.new("RGB", (side, side))
        padded.paste(Image.fromarray(image), (PAD, PAD))
        crop = padded.crop((left, top, left + SIDE, top + SIDE))
        if view % 2:
            crop = crop.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        values = (np.asarray(crop, dtype=np.float32) / 255 - mean) / std
        return torch.from_numpy(values.transpose(2, 0, 1))

    def run(generator: torch.Generator) -> Tensor:
        views = torch.randint(2 * places**2, (len(images),), generator=generator).tolist()
        return torch.stack([one(image, view) for image, view in zip(images, views, strict=True)])

    return run


def measure(variants: dict[str, Variant], rounds: int) -> dict[str, dict[str, float]]:
    """Time all variants in turns; return the median images per CPU second and the ratio of each to Pillow."""
    generator = torch.Generator().manual_seed(1)

    def several(run: Variant) -> None:
        for _ in range(BATCHES):
            run(generator)

    found = medians(take_turns({name: partial(several, run) for name, run in variants.items()}, rounds))
    return {
        name: {
            "images_per_cpu_second": BATCH * BATCHES / median,
            "microseconds_per_image": 1e6 * median / (BATCH * BATCHES),
            "ratio": found["Pillow"] / median,
        }
        for name, median in found.items()
    }


def main() -> int:
    """Measure, print a table, and write it as JSON where asked."""
    options = arguments(__doc__).parse_args()
    torch.set_num_threads(1)
    source = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (BATCH, 3, SIDE, SIDE), generator=source).to(torch.uint8)
    variants = {
        "Pillow": pillow_variant(pixels),
        "dotkd": dotkd_variant(pixels),
        "in place": in_place_variant(pixels),
    }
    peer, here, same = (run(torch.Generator().manual_seed(2)) for run in variants.values())
    torch.testing.assert_close(here, peer, rtol=0, atol=1e-5)
    torch.testing.assert_close(same, here, rtol=0, atol=0)
    rounds = 11 if options.quick else 101
    results = measure(variants, rounds)
    print(f"{'':8} {'images/CPU s':>13} {'us/image':>9} {'ratio':>7}")
    for name, row in results.items():
        print(
            f"{name:8} {row['images_per_cpu_second']:13.0f} {row['microseconds_per_image']:9.2f} "
            f"{row['ratio']:7.2f}"
        )
    versions = {"numpy": np.__version__, "pillow": PIL.__version__}
    write(options.json, {**versions, "batch": BATCH, "side": SIDE, "rounds": rounds, "results": results})
    return 0


if __name__ == "__main__":
    sys.exit(main())
