"""``export``: a student in another format, read back and checked against the student itself."""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dotkd.errors import BadInput, RunFailed, missing_extra
from dotkd.recipe import Recipe
from dotkd.runs import write_atomically
from dotkd.train.networks import StudentFile, read_student, save_student


def export(source: Path, target: Path, file_format: str, recipe: Recipe | None = None) -> float:
    """Write a student in another format and compare its logits with those of the written file.

    The check uses random images in a batch of another size than the export saw.

    Args:
        source: ``student.safetensors``, the folder of a finished run, or a checkpoint of one.
        target: The file to write.
        file_format: ``"safetensors"``: weights, with the recipe in the metadata. ``"torch"``: a program of
            ``torch.export``, which needs neither this package nor the model's code. ``"onnx"``: the extra
            ``onnx``. Both programs take images [B, C, H, W] in [0, 1] for any B and return logits.
        recipe: The recipe of the student; None: the one in the file or beside it.

    Returns:
        The largest difference of a logit, relative to the largest logit.

    Raises:
        BadInput: Unknown format, no such student, or a library is missing.
        RunFailed: The logits differ by more than 1e-4; nothing was written.
    """
    if file_format not in FORMATS:
        raise BadInput(f"unknown format {file_format!r} (known: {', '.join(FORMATS)})")
    if target.is_dir():
        raise BadInput(f"{target} is a folder, and a file is wanted, such as {target / 'student.onnx'}")
    student = read_student(source, recipe)
    shape = (5, student.made_for.channels, student.made_for.height, student.made_for.width)
    images = torch.rand(shape, generator=torch.Generator().manual_seed(0))
    differences: list[float] = []

    def write(path: Path) -> None:
        written = _WRITERS[file_format](student, images[:2], path)
        with torch.no_grad():
            ours, theirs = student.network(images), written(images)
        differences.append(float((ours - theirs).abs().max() / ours.abs().max()))
        if not differences[0] <= 1e-4:
            raise RunFailed(f"{target}: not written, its logits differ by {differences[0]:.1e} (relative)")

    write_atomically(target, write)
    return differences[0]


Logits = Callable[[Tensor], Tensor]


def _safetensors(student: StudentFile, _images: Tensor, path: Path) -> Logits:
    save_student(*student, path)
    return read_student(path, student.recipe, student.made_for).network


def _torch(student: StudentFile, images: Tensor, path: Path) -> Logits:
    batch = {0: torch.export.Dim("batch")}
    program = torch.export.export(student.network, (images,), dynamic_shapes=(batch,))
    with path.open("wb") as file:  # torch wants another suffix for a path
        torch.export.save(program, file)
    with path.open("rb") as file:
        module: Logits = torch.export.load(file).module()
    return module


def _onnx(student: StudentFile, images: Tensor, path: Path) -> Logits:
    try:
        import onnx
        import onnxscript  # noqa: F401 (torch.onnx needs it)
        from onnx.reference import ReferenceEvaluator
    except ImportError:
        raise missing_extra("format 'onnx'", "onnx") from None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's warnings about itself
        program: Any = torch.onnx.export(
            student.network,
            (images,),
            input_names=["images"],
            output_names=["logits"],
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            dynamo=True,
            verbose=False,
        )
    onnx.save(program.model_proto, str(path))
    session = ReferenceEvaluator(str(path))

    def run(batch: Tensor) -> Tensor:
        outputs: Any = session.run(None, {"images": batch.numpy()})
        return torch.from_numpy(outputs[0])

    return run


_WRITERS: dict[str, Callable[[StudentFile, Tensor, Path], Logits]] = {
    "safetensors": _safetensors,
    "torch": _torch,
    "onnx": _onnx,
}
FORMATS = tuple(_WRITERS)
