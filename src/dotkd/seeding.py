"""Named random streams: independent generators from one seed."""

import hashlib

import torch

from dotkd._validate import check_integer


def random_stream(seed: int, name: str) -> torch.Generator:
    """Return the generator of a seed and a purpose.

    Purposes under one seed have independent streams: drawing more or fewer numbers for one never
    changes another. The stream starts from the first 63 bits of SHA-256("name:seed"), the same on
    every machine and for every version of Python and torch. Torch's global generator is neither read
    nor advanced.

    Args:
        seed: seed of the run or of the data; at least 0.
        name: purpose of the numbers, for example ``"data.split"``.

    Returns:
        A fresh CPU generator at the start of its stream.

    Raises:
        ValueError: if the seed is not an integer of at least 0.

    Example:
        >>> a = torch.rand(2, generator=random_stream(0, "data.split"))
        >>> b = torch.rand(2, generator=random_stream(0, "data.label_noise"))
        >>> c = torch.rand(2, generator=random_stream(0, "data.split"))
        >>> torch.equal(a, b), torch.equal(a, c)
        (False, True)
    """
    seed = check_integer("seed", seed, low=0)
    digest = hashlib.sha256(f"{name}:{seed}".encode()).digest()
    start = int.from_bytes(digest[:8], "big") >> 1  # manual_seed takes a signed 64-bit number
    return torch.Generator().manual_seed(start)
