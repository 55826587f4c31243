"""Wrong labels on purpose: a task on which a teacher has something to add.

Here belong functions over labels alone; which split gets the noise is the source's decision.
"""

import torch
from torch import Tensor

from dotkd.data._checks import check_int64_vector, check_integer, check_range, check_share


def add_label_noise(labels: Tensor, share: float, *, num_classes: int, generator: torch.Generator) -> Tensor:
    """Replace an exact share of the labels by wrong ones (symmetric label noise).

    ``round(share * N)`` labels, chosen without replacement, become

        y' = (y + k) mod num_classes,    k uniform on 1, ..., num_classes - 1,

    so a replaced label is never the one it was, and every other class is equally likely. As many
    random numbers are drawn for every share; the noise is therefore nested: from one state of the
    generator, the labels that are wrong at share 0.2 are wrong in the same way at share 0.4.

    Args:
        labels: [N], int64, class numbers in [0, num_classes); not changed.
        share: how many of the labels become wrong, in [0, 1].
        num_classes: the number of classes, at least 2.
        generator: where the random numbers come from; it moves on.

    Returns:
        [N], int64, on the device of ``labels``: a new tensor, whatever the share.

    Raises:
        ValueError: if an argument lies outside its range or ``labels`` is not such a tensor.

    Example:
        >>> labels = torch.arange(10)
        >>> generator = torch.Generator().manual_seed(0)
        >>> noisy = add_label_noise(labels, 0.3, num_classes=10, generator=generator)
        >>> int((noisy != labels).sum())
        3

    References:
        Zhang, Bengio, Hardt, Recht, Vinyals (2017), Understanding deep learning requires
        rethinking generalization, arXiv 1611.03530: partially corrupted labels. There each label
        is drawn anew with a probability and may come out right; here the count is exact and a
        replaced label is wrong.
    """
    check_int64_vector("labels", labels)
    num_classes = check_integer("num_classes", num_classes, low=2)
    check_share("share", share)
    check_range("labels", labels, num_classes - 1, f"num_classes={num_classes}")
    count, device = round(share * len(labels)), generator.device
    order = torch.randperm(len(labels), generator=generator, device=device)
    shift = torch.randint(1, num_classes, (len(labels),), generator=generator, device=device)
    chosen, shift = order[:count].to(labels.device), shift[:count].to(labels.device)
    noisy = labels.clone()
    noisy[chosen] = (labels[chosen] + shift) % num_classes
    return noisy
