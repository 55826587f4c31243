"""What a result depends on beside its recipe: versions, hardware, data."""

import hashlib
import platform
import subprocess
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from dotkd.data import Images, Splits
from dotkd.errors import BadInput

_PACKAGES = ("dotkd", "torch", "numpy", "scipy", "safetensors")


def environment(device: torch.device, data: Splits[Images], files: Mapping[str, Path]) -> dict[str, Any]:
    """Describe where a run takes place.

    Args:
        device: Where its networks are.
        data: What it learns from and is judged by.
        files: Students of other runs that it starts from or learns from, by the part they play.

    Returns:
        Names to text and numbers, for JSON.
    """
    return {
        "python": platform.python_version(),
        **{name: _version(name) for name in _PACKAGES},
        **({"commit": commit} if (commit := _commit()) else {}),
        "platform": platform.platform(),
        "cpu": _cpu(),
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        **{f"{name}_checksum": part.checksum() for name, part in data._asdict().items() if part is not None},
        **{f"{name}_checksum": file_checksum(path) for name, path in files.items()},
    }


def changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, Any]:
    """Compare the environment of a run with that in which it goes on.

    Args:
        before: As the run folder has it.
        now: As it is now.

    Returns:
        What is different now: threads, a version, hardware.

    Raises:
        BadInput: The data, the teacher or the weights to start from are different: not the same run.
    """
    different = {key: value for key, value in now.items() if before.get(key) != value}
    for key in different:
        if key.endswith("_checksum"):
            part = key.removesuffix("_checksum")
            raise BadInput(
                f"{part}: not what it was when this run began (checksum {before.get(key)}, now {now[key]})"
            )
    return different


def file_checksum(path: Path) -> str:
    """Return the first 16 digits of a file's SHA-256."""
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _commit() -> str:
    """Return the commit of this package's own checkout, marked where it was changed; else nothing."""
    root = Path(__file__).parents[3]
    if not (root / ".git").exists():  # installed, perhaps into an environment inside another repository
        return ""
    command = ["git", "-C", str(root), "describe", "--always", "--abbrev=40", "--dirty", "--exclude=*"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, check=False, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return found.stdout.strip()


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()
