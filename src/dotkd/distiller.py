"""Where a student, a frozen teacher and a method meet: images and labels in, two losses out.

Two things are promised here and kept everywhere below. The task loss and the distillation loss
leave as two values, never as a sum. And nothing that happens in training moves the teacher.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from dotkd.errors import unknown
from dotkd.methods.base import Method, Outputs
from dotkd.methods.registry import as_method
from dotkd.taps import Taps


class Losses(NamedTuple):
    """What one batch gives; a distillation optimizer wants the first two as they are.

    Args:
        task: Weighted cross entropy, a scalar.
        distill: Weighted and ramped distillation loss, a scalar.
        logits: The student's logits ``[B, C]``, as it returned them, still attached to the graph.
        raw_task: The cross entropy before its weight, detached: for logs and plots.
        raw_distill: The distillation loss before weight and ramp, detached.
    """

    task: Tensor
    distill: Tensor
    logits: Tensor
    raw_task: Tensor
    raw_distill: Tensor


class Distiller(nn.Module):
    """A student, a teacher frozen for good, and the method that connects them.

    The teacher stays outside of the module tree: ``to()`` moves it along with everything else, but
    ``parameters()``, ``state_dict()``, ``train()`` and ``requires_grad_()`` do not see it. So a
    training checkpoint does not carry it, an optimizer over ``parameters()`` cannot move it, and
    its normalisation statistics stay what they were. It runs in evaluation mode under
    ``torch.no_grad`` (not ``inference_mode``, whose tensors no loss could save for its backward
    pass), and its parameters no longer require gradients.

    Under autocast both models run as the user asked and the losses, with the method's learned
    parts, are computed in float32.

    Args:
        student: Maps images to logits ``[B, C]``. A plain module: several processes average their
            gradients in the optimizer.
        teacher: Maps the same images to logits; may share nothing with the student.
        method: The name of a registered method, or a method.
        taps: Feature name -> dotted path of a submodule, one for both models or a pair (student's
            path, teacher's path). One for each feature that the method needs, no more.
        **method_options: Options of a method given by name.

    Raises:
        ValueError: If the student is wrapped for data parallelism, if the two models share a
            module or parameter, if a tap is missing, unneeded or leads nowhere, or if the
            method's name or an option is unknown.
        TypeError: If ``method`` is neither a name nor a method.

    Example:
        >>> _ = torch.manual_seed(0)
        >>> distiller = Distiller(nn.Linear(4, 3), nn.Linear(4, 3), "kd", temperature=2.0)
        >>> optimizer = torch.optim.SGD(distiller.trainable_parameters(), lr=0.1)
        >>> losses = distiller(torch.randn(8, 4), torch.zeros(8, dtype=torch.int64))
        >>> losses.task.requires_grad, losses.distill.requires_grad, losses.raw_task.requires_grad
        (True, True, False)
        >>> len(distiller.trainable_parameters())  # the student's weight and bias
        2
    """

    teacher: nn.Module

    def __init__(
        self,
        student: nn.Module,
        teacher: nn.Module,
        method: str | Method = "kd",
        *,
        taps: Mapping[str, str | tuple[str, str]] | None = None,
        **method_options: Any,
    ) -> None:
        super().__init__()
        _refuse_parallel_wrappers(student)
        _refuse_sharing("student", student, teacher)
        self.method = as_method(method, method_options)
        _refuse_sharing("method", self.method, teacher)
        self.student = student
        self.teacher = teacher

        paths = _paired_paths(self.method, taps or {})
        self._student_paths = {name: pair[0] for name, pair in paths.items()}
        self._teacher_paths = {name: pair[1] for name, pair in paths.items()}
        Taps(student, self._student_paths)  # a wrong path is an error now, not in the first step
        Taps(teacher, self._teacher_paths)

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "teacher":
            # Past nn.Module.__setattr__, which would register it as a submodule.
            self.__dict__["teacher"] = value.requires_grad_(False).eval()
        else:
            super().__setattr__(name, value)

    def forward(
        self,
        images: Tensor,
        labels: Tensor,
        *,
        index: Tensor | None = None,
        progress: float = 0.0,
    ) -> Losses:
        """Compute both losses of one batch.

        Args:
            images: ``[B, ...]``, what both models take.
            labels: ``[B]`` int64 class numbers, or ``[B, C]`` floating-point probabilities (mixed
                labels) with a method that reads no labels.
            index: ``[B]`` int64 numbers of the samples in their data set, for methods with memory.
            progress: How much of the run is over, in [0, 1]; drives the warm-up.

        Returns:
            The two weighted losses apart, the student's logits and the two raw losses.

        Raises:
            ValueError: If ``progress`` lies outside [0, 1], the labels or the two models' logits
                do not fit together, or the method does not return a scalar.
            TypeError: If a model returns something other than a tensor.
        """
        if not 0.0 <= progress <= 1.0:
            raise ValueError(f"progress must be the share of the run that is over, in [0, 1], got {progress}")
        student = _outputs("student", Taps(self.student, self._student_paths), images)
        teacher = self._ask_teacher(images)
        self._check_fit(student, teacher, labels)

        with _full_precision(student.logits.device.type):
            ours, theirs = student.in_float32(), teacher.in_float32()
            raw_task = functional.cross_entropy(ours.logits, labels)
            raw_distill = self.method(ours, theirs, labels, index=index, progress=progress)
            _check_scalar(self.method, raw_distill)
            task = self.method.task_weight * raw_task
            distill = self.method.distill_weight * self.method.ramp(progress) * raw_distill
        return Losses(task, distill, student.logits, raw_task.detach(), raw_distill.detach())

    def trainable_parameters(self) -> list[nn.Parameter]:
        """What the optimizer gets: the student's parameters and the method's learned parts.

        Returns:
            Each parameter that requires a gradient, once; never one of the teacher's.
        """
        return [parameter for parameter in self.parameters() if parameter.requires_grad]

    def deployable(self) -> nn.Module:
        """The module to ship: the student, unless the method trains parts that inference needs.

        Returns:
            What ``method.deployable(student)`` says.
        """
        return self.method.deployable(self.student)

    def extra_repr(self) -> str:
        """Name the teacher, which the module tree does not show.

        Returns:
            One line.
        """
        return f"teacher={type(self.teacher).__name__} (frozen)"

    def _ask_teacher(self, images: Tensor) -> Outputs:
        # train() of this module never reaches the teacher, but its owner may have called it.
        if any(module.training for module in self.teacher.modules()):
            self.teacher.eval()
        with torch.no_grad():
            return _outputs("teacher", Taps(self.teacher, self._teacher_paths), images)

    def _check_fit(self, student: Outputs, teacher: Outputs, labels: Tensor) -> None:
        shape = student.logits.shape
        if "logits" in self.method.needs and shape != teacher.logits.shape:
            raise ValueError(
                f"method {type(self.method).__name__} compares logits, but the student returns "
                f"{list(shape)} and the teacher {list(teacher.logits.shape)}; "
                "both need the same classes"
            )
        numbers = labels.dtype == torch.int64 and labels.shape == shape[:1]
        probabilities = labels.is_floating_point() and labels.shape == shape
        if not (numbers or probabilities):
            raise ValueError(
                f"labels must be int64 class numbers {list(shape[:1])} or probabilities "
                f"{list(shape)}, got {labels.dtype} {list(labels.shape)}"
            )

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "Distiller":
        # to(), cuda(), double() and the like all come through here.
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self.teacher._apply(fn, recurse)  # type: ignore[no-untyped-call]
        return self


def _outputs(role: str, taps: Taps, images: Tensor) -> Outputs:
    logits, features = taps(images)
    if not isinstance(logits, Tensor):
        raise TypeError(
            f"the {role} returned a {type(logits).__name__}; it must return its logits alone, "
            "a tensor [B, C] (wrap it in a module that picks them)"
        )
    if logits.ndim != 2:
        raise ValueError(f"the {role}'s logits must be [B, C], got shape {list(logits.shape)}")
    return Outputs(logits, features)


def _paired_paths(method: Method, taps: Mapping[str, str | tuple[str, str]]) -> dict[str, tuple[str, str]]:
    features = [name for name in method.needs if name != "logits"]
    kind = type(method).__name__
    for name in taps:
        if name not in features:
            known = unknown("tap", name, features) if features else f"tap {name!r} is not needed"
            raise ValueError(f"{known}: method {kind} reads {', '.join(method.needs)}")
    for name in features:
        if name not in taps:
            raise ValueError(
                f"method {kind} needs the feature {name!r}; "
                f"say where it is with taps={{{name!r}: 'dotted.path'}}"
            )
    paths = {}
    for name in features:
        where = taps[name]
        pair = (where, where) if isinstance(where, str) else tuple(where)
        if len(pair) != 2:
            raise ValueError(
                f"tap {name!r} must be one dotted path or a pair (student's, teacher's), got {where!r}"
            )
        paths[name] = pair
    return paths


def _refuse_parallel_wrappers(student: nn.Module) -> None:
    wrappers = (nn.parallel.DistributedDataParallel, nn.DataParallel)
    for module in student.modules():
        if isinstance(module, wrappers):
            raise ValueError(
                f"the student is wrapped in {type(module).__name__}, which averages the gradients "
                "of only the first of two backward passes; pass the plain module and "
                "DOT(process_group=...)"
            )


def _refuse_sharing(role: str, module: nn.Module, teacher: nn.Module) -> None:
    if module is teacher:
        raise ValueError(f"{role} and teacher are the same object; give one a copy.deepcopy of the other")
    theirs = dict(_members(teacher))
    for identity, name in _members(module):
        if identity in theirs:
            raise ValueError(
                f"{role} and teacher share memory ({name!r} is the teacher's {theirs[identity]!r}), "
                "so that training one would move the other; use copy.deepcopy"
            )


def _members(module: nn.Module) -> Iterator[tuple[tuple[str, int], str]]:
    for name, submodule in module.named_modules():
        yield ("module", id(submodule)), name
    for name, parameter in module.named_parameters():
        # Two parameters over one storage, as load_state_dict(assign=True) leaves them, count too.
        # Meta, lazy and sharded parameters have no address to compare.
        plain = type(parameter) is nn.Parameter
        address = parameter.untyped_storage().data_ptr() if plain else 0
        yield (("storage", address) if address else ("parameter", id(parameter))), name


def _check_scalar(method: Method, loss: Any) -> None:
    if not isinstance(loss, Tensor) or loss.ndim != 0:
        got = list(loss.shape) if isinstance(loss, Tensor) else type(loss).__name__
        raise ValueError(f"method {type(method).__name__} must return a scalar tensor, got {got}")


def _full_precision(device_type: str) -> AbstractContextManager[Any]:
    if torch.amp.is_autocast_available(device_type):
        return torch.autocast(device_type, enabled=False)
    return nullcontext()
