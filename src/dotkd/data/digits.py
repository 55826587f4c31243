"""The embedded digits: a real task without a download.

Here belongs the way from the file in the package to splits. Source, licence and checksum of the
file are written down in DIGITS.md beside it; scripts/write_digits.py makes it.
"""

from importlib import resources

import numpy as np
import torch

from dotkd.data.images import ImageData
from dotkd.data.splits import Splits, divide, make_splits, stratified_sample

_TEST_IMAGES = 397


def load_digits(*, validation: int = 200, label_noise: float = 0.0, seed: int = 0) -> Splits[ImageData]:
    """Load the 1,797 handwritten digits that ship with the package.

    Grey images of 8x8 pixels in ten classes, pixel values 0 to 16. The test split is 397 images,
    the same for every seed: within each class, images at even distances along the file. The other
    1,400 are training and validation images, drawn by ``seed`` in the shares of their classes, so
    the default leaves 1,200 to train on. ``Batch.index`` is the position in the file.

    The noise touches training labels only, and its stream is another than that of the split. The
    same call with ``label_noise=0`` gives the true labels of the same training images.

    Args:
        validation: how many images to set aside for validation, from 0 to 1399.
        label_noise: share of the training labels to replace by a wrong class, in [0, 1]; see
            :func:`dotkd.data.add_label_noise`.
        seed: draws the validation split and, in a stream of its own, the noise; at least 0.

    Returns:
        The splits, each in the order of the file; ``validation`` is None where it is 0 images.

    Raises:
        ValueError: if an argument lies outside its range.

    Example:
        >>> splits = load_digits(label_noise=0.3)
        >>> splits.train
        ImageData(1200 images of [1, 8, 8], 10 classes)
        >>> len(splits.validation), len(splits.test)
        (200, 397)
        >>> int((splits.train.labels != load_digits().train.labels).sum())
        360

    References:
        E. Alpaydin and C. Kaynak (1998), Optical Recognition of Handwritten Digits, UCI Machine
        Learning Repository, https://doi.org/10.24432/C50P49. Licence: CC BY 4.0. Changed: only the
        writer-independent test images of the original, repacked.
    """
    digits = _read()
    test, rest = divide(digits, stratified_sample(digits.labels, _TEST_IMAGES))
    return make_splits(rest, test, validation=validation, label_noise=label_noise, seed=seed)


def _read() -> ImageData:
    # Read anew each time: no two callers share a tensor that one of them may write to.
    with (
        resources.files("dotkd.data").joinpath("digits.npz").open("rb") as file,
        np.load(file, allow_pickle=False) as arrays,
    ):
        images, labels = torch.from_numpy(arrays["images"]), torch.from_numpy(arrays["labels"])
    names = tuple(str(digit) for digit in range(10))
    return ImageData(images.unsqueeze(1), labels.to(torch.int64), names, max_value=16)
