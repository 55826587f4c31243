"""What a result depends on beside its recipe: versions, hardware, data."""

import hashlib
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from dotkd.data import ImageData, Splits

_PACKAGES = ("dotkd", "torch", "numpy", "scipy", "safetensors")


def environment(device: torch.device, data: Splits) -> dict[str, Any]:
    """Describe where a run takes place.

    Args:
        device: Where its networks are.
        data: What it learns from and is judged by.

    Returns:
        Names to text and numbers, for JSON.
    """
    return {
        "python": platform.python_version(),
        **{name: _version(name) for name in _PACKAGES},
        "commit": _commit(),
        "platform": platform.platform(),
        "cpu": _cpu(),
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        **{f"{name}_checksum": _checksum(part) for name, part in data._asdict().items() if part is not None},
    }


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _commit() -> str:
    """Return the commit of the checkout that this file is in; empty for an installed package."""
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
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


def _checksum(data: ImageData) -> str:
    digest = hashlib.sha256()
    for tensor in (data.pixels, data.labels, data.index):
        digest.update(tensor.numpy().data)
    return digest.hexdigest()[:16]
