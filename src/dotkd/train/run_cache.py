"""The teacher cache of a run: whether it can have one, what its outputs depend on, and where it is."""

import hashlib
from pathlib import Path

import torch
from torch import nn

from dotkd.data import Images, StreamedImages
from dotkd.data.augment import Augmentation
from dotkd.distiller import Distiller
from dotkd.errors import BadInput
from dotkd.methods import Method, TaskMethod
from dotkd.recipe import Recipe
from dotkd.recipe.tables import NO_FOLDERS
from dotkd.train.cache_rows import FileRows, MemoryRows, Rows
from dotkd.train.frozen import teacher_form
from dotkd.train.scores import autocast
from dotkd.train.teacher_cache import Layout, Teach, TeacherCache

_KEY = "run.teacher_cache"
_OFF, _RUN = NO_FOLDERS
_FEWEST, _STEP, _MOST_SIZES = 16, 8, 8  # images; below 16 CPUs compute in another way
_SMALL = ("pooled",)  # features of a few hundred numbers; a map has tens of thousands


def check_teacher_cache(recipe: Recipe, method: Method | TaskMethod | None, data: Images) -> None:
    """Refuse to remember what cannot be found again, or is too much.

    The key is about teachers: a run without one may have it, so that all arms of a comparison can share it.

    Args:
        recipe: The recipe.
        method: Its method.
        data: The training images.

    Raises:
        BadInput: Views have no numbers, the images are streamed, the method reads maps, or the place is a
            file.
    """
    where = recipe.run.teacher_cache
    if where == _OFF or not isinstance(method, Method):
        return
    if isinstance(data, StreamedImages):
        raise BadInput(
            f"{_KEY}: the images of {recipe.data.name} are streamed and too many: 'off' is for them"
        )
    if Augmentation(recipe.data.augment).num_views is None:
        raise BadInput(
            f"{_KEY}: the views of data.augment = {list(recipe.data.augment)} cannot be numbered: none comes "
            "twice; take 'off', or one of crop-flip, flip and none"
        )
    large = [name for name in method.feature_names if name not in _SMALL]
    if large:
        raise BadInput(
            f"{_KEY}: method {(recipe.method or {})['name']!r} reads the teacher's {' and '.join(large)}, "
            "too large to keep for each view of an image; take 'off', or a method of logits"
        )
    if where != _RUN and Path(where).exists() and not Path(where).is_dir():
        raise BadInput(f"{_KEY}: {where} is a file, and a folder is wanted")


def open_teacher_cache(
    recipe: Recipe, distiller: Distiller, data: Images, device: torch.device
) -> TeacherCache | None:
    """Open the teacher cache of a run.

    In a folder there is a file for each teacher, set of images, way of computing and kind of machine, so that
    whatever is compared can share one folder and nothing is used where it does not belong.

    Args:
        recipe: The recipe, for which :func:`check_teacher_cache` passed.
        distiller: Of the run; its teacher runs on the first batch.
        data: The training images, on the device.
        device: Where the teacher is.

    Returns:
        The cache; None where it is off or there is no teacher.

    Raises:
        BadInput: Memory or disk do not suffice, the file is not what its name says, or the teacher gives
            an image other outputs at another place of the batch.
    """
    where = recipe.run.teacher_cache
    if where == _OFF or distiller.teacher is None:
        return None
    augmentation = Augmentation(recipe.data.augment)
    views = augmentation.num_views
    assert views is not None
    with autocast(device, recipe.run.precision):
        layout, sizes, answers = _try(distiller.teach, data, recipe.data.batch_size)
    key = {
        "teacher": _checksum(distiller.teacher),
        "answers": answers,
        # Another label is not another image: label noise changes nothing here.
        "images": data.with_labels(torch.zeros_like(data.labels)).checksum(),
        "augment": list(map(str, augmentation.steps)),
        "views": views,
        "classes": layout.classes,
        "features": {name: list(shape) for name, shape in layout.features},
        "batch_size": recipe.data.batch_size,
        "form": teacher_form(recipe),
        "torch": torch.__version__,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
    }
    count = (int(data.index.max()) + 1) * views
    most = min(views, recipe.schedule.epochs) * len(data)
    try:
        if where == _RUN:
            rows: Rows = MemoryRows(count, layout.width, most)
        else:
            mark = hashlib.sha256(repr(sorted(key.items())).encode()).hexdigest()[:16]
            path = Path(where, f"teacher-{mark}.cache")
            rows = FileRows(path, key, count, layout.width, most)
    except BadInput as error:
        raise BadInput(f"{_KEY}: {error}") from None
    return TeacherCache(rows, layout, views=views, sizes=sizes, key=key)


@torch.no_grad()
def _try(teach: Teach, data: Images, batch_size: int) -> tuple[Layout, list[int], str]:
    """Ask the teacher about the first batch: as a whole, in another order, and about parts of it.

    Returns:
        The layout of its outputs, the numbers of images with which it gives the bits of the whole batch, that
        included, and a checksum of these bits.

    Raises:
        BadInput: An output depends on the place of the image in the batch.
    """
    whole = min(batch_size, len(data))
    images = data.batch(torch.arange(whole, device=data.device)).images
    layout = Layout.of(taught := teach(images))
    rows, last = layout.pack(taught), len(data) % batch_size
    backwards = torch.arange(whole - 1, -1, -1, device=data.device)

    def agrees(size: int) -> bool:
        part = backwards[:size]
        return torch.equal(layout.pack(teach(images[part])), rows[part])

    if not agrees(whole):
        raise BadInput(
            f"{_KEY}: the teacher gives an image other outputs at another place of the batch, so that none "
            "is the right one: take 'off'"
        )
    step = _STEP * -(-whole // (_STEP * _MOST_SIZES))
    parts = {size for size in (*range(step, whole, step), last) if _FEWEST <= size < whole}
    digest = hashlib.sha256(rows.cpu().numpy().tobytes()).hexdigest()[:16]
    return layout, [*(size for size in sorted(parts) if agrees(size)), whole], digest


def _checksum(module: nn.Module) -> str:
    """Tell a teacher from others by its structure, its weights and its normalisation."""
    digest = hashlib.sha256(f"{type(module)} {module}".encode())
    for name, tensor in (*module.named_parameters(), *module.named_buffers()):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()[:16]
