"""The environment of a run: versions, hardware and checksums of the data."""

import hashlib
import platform
import subprocess
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from dotkd.errors import BadInput
from dotkd.models import ImageModel
from dotkd.recipe.tables import ControlTable
from dotkd.train.networks import MADE_FOR, describe_student
from dotkd.train.state import RunState

_PACKAGES = ("dotkd", "torch", "numpy", "scipy", "safetensors")


def environment(run: RunState) -> dict[str, Any]:
    """Describe the environment of a run.

    Args:
        run: The run.

    Returns:
        Names to text and numbers, for JSON: versions, hardware, checksums of data and files, and the form of
        a control: ``"sgd"`` on rescaled losses, or ``"two-stream"``; ``teacher`` and ``made_for``, records.
    """
    device = run.device
    found: dict[str, Any] = {
        "python": platform.python_version(),
        **{name: _version(name) for name in _PACKAGES},
        **({"commit": commit} if (commit := _commit()) else {}),
        "platform": platform.platform(),
        "cpu": _cpu(),
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        **{
            f"{name}_checksum": part.checksum()
            for name, part in run.data._asdict().items()
            if part is not None
        },
        **{f"{name}_checksum": file_checksum(path) for name, path in run.files.items()},
    }
    if isinstance(run.recipe.optimizer, ControlTable):
        found["control"] = "two-stream" if run.gains is None else "sgd"
    if run.teacher_cache is not None:
        found["teacher_cache"] = run.teacher_cache.key
    teacher = run.distiller.teacher
    if isinstance(teacher, ImageModel) and teacher.new_head:
        found["teacher_head_checksum"] = _head_checksum(teacher)
    if run.teacher_accuracy is not None:
        found["teacher"] = run.teacher_accuracy.model_dump()
    made_for = describe_student(run.distiller.student, run.facts, run.data.train.classes)
    found[MADE_FOR] = made_for.model_dump(mode="json")
    return found


def changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, Any]:
    """Compare the stored environment of a run with the present one.

    Args:
        before: The stored environment.
        now: The present one.

    Returns:
        Entries that differ, with their present values: threads, a version, hardware.

    Raises:
        BadInput: The data, the teacher, the start weights or the form of the control differ: not the same
            run.
    """
    different = {key: value for key, value in now.items() if key != MADE_FOR and before.get(key) != value}
    if "control" in different:  # torch.optim.SGD would take another optimizer's state without a word
        raise BadInput(
            f"optimizer: this run began with the control as {before.get('control')!r}, which is now "
            f"{now['control']!r}: give another --output"
        )
    for key in different:
        if key.endswith("_checksum"):
            part = key.removesuffix("_checksum")
            raise BadInput(
                f"{part}: not what it was when this run began (checksum {before.get(key)}, now {now[key]})"
            )
    return different


def file_checksum(path: Path) -> str:
    """The first 16 digits of a file's SHA-256."""
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]


def _head_checksum(teacher: ImageModel) -> str:
    """The first 16 digits of the SHA-256 of a classifier, or of all weights where it is not one layer."""
    digest = hashlib.sha256()
    for name, tensor in teacher.state_dict().items():
        if name.startswith(teacher.classifier_path):
            digest.update(tensor.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _commit() -> str:
    """The commit of this package's checkout, marked ``-dirty`` if changed; empty without one."""
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
