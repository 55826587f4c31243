"""Write the embedded digits: src/dotkd/data/digits.npz, from scikit-learn's copy of the UCI file.

Run it only to make the file anew, and copy the checksum it prints into src/dotkd/data/DIGITS.md.
The archive holds two arrays and no dates, so the same zlib gives the same bytes.

    python scripts/write_digits.py [OUTPUT]
"""

import hashlib
import sys
from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits

OUTPUT = Path(__file__).resolve().parents[1] / "src" / "dotkd" / "data" / "digits.npz"


def write(output: Path) -> str:
    """Write the archive to ``output``.

    Args:
        output: where the file goes; replaced whole, never left half-written.

    Returns:
        The SHA-256 of the file, in hexadecimal.

    Raises:
        ValueError: if scikit-learn's images are not whole numbers from 0 to 16.
    """
    source = load_digits()
    images, labels = source.images.astype(np.uint8), source.target.astype(np.uint8)
    if not np.array_equal(images, source.images) or images.max() > 16:
        raise ValueError("scikit-learn's digits are no longer whole numbers from 0 to 16")
    beside = output.with_name(output.name + ".part")
    with beside.open("wb") as file:
        np.savez_compressed(file, images=images, labels=labels)
    beside.replace(output)
    return hashlib.sha256(output.read_bytes()).hexdigest()


if __name__ == "__main__":
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else OUTPUT
    print(f"{write(target)}  {target.name}  {target.stat().st_size} bytes")
