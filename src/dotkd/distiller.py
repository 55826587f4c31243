"""Distiller: a student, a frozen teacher and a method; images and labels in, named losses out."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from dotkd.features import FeaturePath, Taps, pair_paths
from dotkd.methods.base import Method, Outputs, Setting
from dotkd.methods.registry import as_method


def refuse_parallel_wrappers(student: nn.Module) -> None:
    """Refuse a student that something else averages the gradients of.

    Args:
        student: Any module.

    Raises:
        ValueError: It or a part of it is wrapped for data parallelism.
    """
    wrappers = (nn.parallel.DistributedDataParallel, nn.DataParallel)
    for module in student.modules():
        if isinstance(module, wrappers):
            raise ValueError(
                f"the student is wrapped in {type(module).__name__}, which averages the gradients "
                "of only the first of two backward passes; pass the plain module and "
                "DOT(process_group=...)"
            )


def refuse_sharing(role: str, module: nn.Module, teacher: nn.Module) -> None:
    """Refuse a module that training would move together with the teacher.

    Args:
        role: What the module is, for the error text.
        module: What is trained.
        teacher: What must stay.

    Raises:
        ValueError: They have a module, a parameter or its memory in common.

    Example:
        >>> teacher = nn.Linear(4, 3)
        >>> refuse_sharing("student", nn.Linear(4, 3), teacher)
        >>> refuse_sharing("student", teacher, teacher)
        Traceback (most recent call last):
        ...
        ValueError: student and teacher are the same object; give one a copy.deepcopy of the other
    """
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


class Losses(NamedTuple):
    """What one batch gives; a distillation optimizer wants the first two as they are.

    Args:
        task: Weighted cross entropy, a scalar; without a graph where its weight is 0.
        distill: Weighted and ramped distillation loss, a scalar; likewise.
        logits: The student's logits ``[B, C]``, as it returned them, still attached to the graph.
        raw_task: The cross entropy before its weight, detached: for logs and plots.
        raw_distill: The distillation loss before weight and ramp, detached.
    """

    task: Tensor
    distill: Tensor
    logits: Tensor
    raw_task: Tensor
    raw_distill: Tensor


class StreamLosses(Losses):
    """What one batch gives where a method has several distillation losses; ``distill`` is their sum.

    Attributes:
        streams: Each of them by name, weighted and ramped.

    Example:
        >>> losses = StreamLosses(*torch.ones(5))
        >>> losses.streams = {"target": torch.zeros(()), "others": torch.ones(())}
        >>> task, distill, *_ = losses
    """

    streams: dict[str, Tensor]


class Distiller(nn.Module):
    """A student, a teacher frozen for good, and the method that connects them.

    The teacher stays outside of the module tree: ``to()`` moves it along with everything else, but
    ``parameters()``, ``state_dict()``, ``train()`` and ``requires_grad_()`` do not see it. So a
    training checkpoint does not carry it, an optimizer over ``parameters()`` cannot move it, and
    its normalisation statistics stay what they were. It runs in evaluation mode under
    ``torch.no_grad`` and its parameters no longer require gradients. (``inference_mode`` saved
    0 to 2 % of a ResNet32x4 on a CPU, within the noise, and no loss could save its tensors for
    a backward pass.)

    Under autocast both models run as the user asked and the losses, with the method's learned
    parts, are computed in float32.

    Attributes:
        student_paths: Where each feature that the method reads is in the student.
        teacher_paths: Where each is in the teacher.
        teacher_dtype: As given; may be set later.

    Args:
        student: Maps images to logits ``[B, C]``. A plain module: several processes average their
            gradients in the optimizer.
        teacher: Maps the same images to logits; may share nothing with the student.
        method: The name of a registered method, or a method.
        taps: Feature -> dotted path of a submodule, one for both models or a pair (student's, teacher's);
            a list of paths for ``stages`` and ``preacts``. For features that a model does not find by
            itself, or not as wanted; see :mod:`dotkd.features.paths`.
        teacher_dtype: ``torch.bfloat16`` or ``torch.float16``: the teacher runs under autocast to it,
            whatever the student does, and is compared in float32. None: it runs as the student does.
        example: ``[B, ...]`` images, such as two of zeros, for methods with learned parts: one forward
            pass through both models, in evaluation mode, tells them the shapes.
        labels: ``[N]`` int64, the class of each sample number of the training data (-1: not among them),
            for methods that draw from other classes.
        **method_options: Options of a method given by name.

    Raises:
        ValueError: If the student is wrapped for data parallelism, if the two models share a
            module or parameter, if a tap is missing, unneeded or leads nowhere, if an example is
            missing, or if the method's name or an option is unknown.
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
        taps: Mapping[str, FeaturePath | tuple[FeaturePath, FeaturePath]] | None = None,
        teacher_dtype: torch.dtype | None = None,
        example: Tensor | None = None,
        labels: Tensor | None = None,
        **method_options: Any,
    ) -> None:
        super().__init__()
        refuse_parallel_wrappers(student)
        refuse_sharing("student", student, teacher)
        self.method = as_method(method, method_options)
        refuse_sharing("method", self.method, teacher)
        self.student = student
        self.teacher = teacher
        self.teacher_dtype = teacher_dtype

        features = self.method.feature_names
        self.student_paths, self.teacher_paths = pair_paths(features, student, teacher, taps or {})
        Taps(student, self.student_paths)  # a wrong path is an error now, not in the first step
        Taps(teacher, self.teacher_paths)
        if self.method.learns:
            self._prepare(example, labels)

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
        teacher_outputs: Outputs | None = None,
    ) -> Losses:
        """Compute both losses of one batch.

        Args:
            images: ``[B, ...]``, what both models take.
            labels: ``[B]`` int64 class numbers, or ``[B, C]`` floating-point probabilities (mixed
                labels) with a method that reads no labels.
            index: ``[B]`` int64 numbers of the samples in their data set, for methods with memory.
            progress: How much of the run is over, in [0, 1]; drives the warm-up.
            teacher_outputs: What the teacher says of these images, where that is known already: as
                :meth:`teach` returned it, now or earlier. None: the teacher is asked.

        Returns:
            The two weighted losses apart, the student's logits and the two raw losses.

        Raises:
            ValueError: If ``progress`` lies outside [0, 1], the labels or the two models' logits
                do not fit together, ``teacher_outputs`` are of other images or lack a feature that the
                method reads, or the method does not return a scalar.
            TypeError: If a model returns something other than a tensor.
        """
        student = _outputs("student", Taps(self.student, self.student_paths), images)
        teacher = self.teach(images) if teacher_outputs is None else self._given(teacher_outputs, images)
        return self.compare(student, teacher, labels, index=index, progress=progress)

    def compare(
        self,
        student: Outputs,
        teacher: Outputs,
        labels: Tensor,
        *,
        index: Tensor | None = None,
        progress: float = 0.0,
    ) -> Losses:
        """Compute both losses from what the two models returned: the second half of :meth:`forward`.

        Args:
            student: The student's outputs, attached to its graph.
            teacher: The teacher's, as of :meth:`teach`.
            labels: As in :meth:`forward`.
            index: Likewise.
            progress: Likewise.

        Returns:
            What :meth:`forward` returns.

        Raises:
            ValueError: As in :meth:`forward`.
        """
        if not 0.0 <= progress <= 1.0:
            raise ValueError(f"progress must be the share of the run that is over, in [0, 1], got {progress}")
        self._check_fit(student, teacher, labels)

        method = self.method
        weight = method.distill_weight * method.ramp(progress)
        with _full_precision(student.logits.device.type):
            ours, theirs = student.in_float32(), teacher.in_float32()
            logits = method.task_logits(ours)
            raw_task = functional.cross_entropy(logits, labels)
            raw = _checked(method, method(ours, theirs, labels, index=index, progress=progress))
            raw_distill = torch.stack(list(raw.values())).sum() if method.streams else raw[""]
            # A loss of weight 0 has no gradient, not one of zeros: it reaches no parameter.
            task = method.task_weight * (raw_task if method.task_weight else raw_task.detach())
            distill = weight * (raw_distill if method.distill_weight else raw_distill.detach())
        logits = student.logits if logits is ours.logits else logits
        losses = (task, distill, logits, raw_task.detach(), raw_distill.detach())
        if not method.streams:
            return Losses(*losses)
        several = StreamLosses(*losses)
        several.streams = {name: weight * loss for name, loss in raw.items()}
        return several

    def teach(self, images: Tensor) -> Outputs:
        """Ask the teacher alone: in evaluation mode and without a graph.

        Args:
            images: ``[B, ...]``, what both models take.

        Returns:
            Its logits ``[B, C]`` and the features that the method reads, for :meth:`forward`; at least
            float32.

        Raises:
            ValueError: If the logits are not ``[B, C]``.
            TypeError: If the teacher returns something other than a tensor.

        Example:
            >>> distiller = Distiller(nn.Linear(4, 3), nn.Linear(4, 3))
            >>> images, labels = torch.randn(8, 4), torch.zeros(8, dtype=torch.int64)
            >>> known = distiller.teach(images)
            >>> losses = distiller(images, labels, teacher_outputs=known)
            >>> bool(losses.distill == distiller(images, labels).distill), known.logits.requires_grad
            (True, False)
        """
        # train() of this module never reaches the teacher, but its owner may have called it.
        if any(module.training for module in self.teacher.modules()):
            self.teacher.eval()
        dtype = self.teacher_dtype
        cast = nullcontext() if dtype is None else torch.autocast(images.device.type, dtype=dtype)
        with torch.no_grad(), cast:
            outputs = _outputs("teacher", Taps(self.teacher, self.teacher_paths), images)
        return outputs.in_float32()

    def _prepare(self, example: Tensor | None, labels: Tensor | None) -> None:
        """Show the method one batch, so that it can make its learned parts; both models stay as they are."""
        if example is None:
            raise ValueError(
                f"method {type(self.method).__name__} makes learned parts that fit the two models: pass "
                "example=images, a small batch such as torch.zeros(2, 3, 32, 32)"
            )
        training = [module for module in self.student.modules() if module.training]
        self.student.eval()
        try:
            with torch.no_grad():
                student = _outputs("student", Taps(self.student, self.student_paths), example)
        finally:
            for module in training:
                module.training = True
        teacher = self.teach(example)
        outputs = student.in_float32(), teacher.in_float32()
        paths = self.student_paths, self.teacher_paths
        self.method.prepare(Setting(self.student, self.teacher, *outputs, *paths, labels))
        self.method.to(outputs[0].logits.device, outputs[0].logits.dtype)
        refuse_sharing("method", self.method, self.teacher)

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

    def _given(self, outputs: Outputs, images: Tensor) -> Outputs:
        missing = [name for name in self.teacher_paths if name not in outputs.features]
        if missing:
            raise ValueError(f"teacher_outputs lack what the method reads: {', '.join(missing)}")
        if outputs.logits.shape[:1] != images.shape[:1]:
            raise ValueError(
                f"teacher_outputs must be of the same {len(images)} images, got logits "
                f"{list(outputs.logits.shape)}"
            )
        return outputs

    def _check_fit(self, student: Outputs, teacher: Outputs, labels: Tensor) -> None:
        shape = student.logits.shape
        if "logits" in self.method.needs and shape != teacher.logits.shape:
            raise ValueError(
                f"method {type(self.method).__name__} compares logits, but the student returns "
                f"{list(shape)} and the teacher {list(teacher.logits.shape)}; "
                "both need the same classes"
            )
        numbers = labels.dtype == torch.int64 and labels.shape == shape[:1]
        mixable = not self.method.needs_hard_labels
        probabilities = mixable and labels.is_floating_point() and labels.shape == shape
        if not (numbers or probabilities):
            either = f" or probabilities {list(shape)}" if mixable else ""
            raise ValueError(
                f"labels must be int64 class numbers {list(shape[:1])}{either}, got {labels.dtype} "
                f"{list(labels.shape)}"
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


def _checked(method: Method, losses: Any) -> dict[str, Tensor]:
    """Bring what a method returned to one form: its streams by name, or the one loss under no name."""
    named = losses if isinstance(losses, dict) else {"": losses}
    if tuple(named) != (method.streams or ("",)):
        wanted = f"a dictionary of {', '.join(method.streams)}" if method.streams else "a scalar tensor"
        got = f"a dictionary of {', '.join(named)}" if isinstance(losses, dict) else type(losses).__name__
        raise ValueError(f"method {type(method).__name__} must return {wanted}, got {got}")
    for loss in named.values():
        if not isinstance(loss, Tensor) or loss.ndim != 0:
            kind = str(list(loss.shape)) if isinstance(loss, Tensor) else type(loss).__name__
            raise ValueError(f"method {type(method).__name__} must return a scalar tensor, got {kind}")
    return named


def _full_precision(device_type: str) -> AbstractContextManager[Any]:
    if torch.amp.is_autocast_available(device_type):
        return torch.autocast(device_type, enabled=False)
    return nullcontext()
