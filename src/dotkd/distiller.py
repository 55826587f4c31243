"""Distiller: a student, a frozen teacher and a method; images and labels in, named losses out.

The same class trains students without a teacher: their losses have one stream, the task loss.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from dotkd.features import FeaturePath, Taps, pair_paths
from dotkd.losses._numerics import full_precision, task_loss
from dotkd.methods.base import Method, Outputs, Setting, TaskMethod
from dotkd.methods.registry import as_method, create_method

__all__ = ["Distiller", "Losses"]

_ROUNDED_ROW = 0.01  # how far bfloat16 may move the sum of a row of probabilities


@dataclass(frozen=True, eq=False)
class Losses:
    r"""The losses of one batch, kept apart by name.

    Each stream is :math:`w_s \, r(t) \, L_s`, with the raw loss :math:`L_s` = ``raw[s]``, its weight
    :math:`w_s` and, for distillation losses, the ramp :math:`r(t)` of the method. A stream of weight 0 has no
    graph.

    Args:
        streams: Weighted losses by name, scalars attached to the graph: ``"task"`` first, then the
            distillation losses. Without a teacher ``"task"`` is alone.
        raw: The same losses before weight and ramp, detached. Without a teacher the cross entropy, whatever
            loss took its place.
        logits: The student's logits ``[B, C]``, attached to the graph.

    Attributes:
        task: Weighted task loss.
        distill: Weighted distillation loss, the sum of all streams but the first; None without a teacher.
        raw_task: Task loss before its weight, detached.
        raw_distill: Distillation loss before weight and ramp, detached; None without a teacher.

    Example:
        >>> weight = torch.ones((), requires_grad=True)
        >>> streams = {"task": 2 * weight, "target": 3 * weight, "others": 5 * weight}
        >>> raw = {name: loss.detach() for name, loss in streams.items()}
        >>> losses = Losses(streams, raw, torch.zeros(1, 2))
        >>> losses.task.item(), losses.distill.item()
        (2.0, 8.0)
    """

    streams: dict[str, Tensor]
    raw: dict[str, Tensor]
    logits: Tensor

    @property
    def task(self) -> Tensor:
        """Weighted task loss."""
        return self.streams["task"]

    @property
    def distill(self) -> Tensor | None:
        """Weighted distillation loss; None without a teacher."""
        return _distillation(self.streams)

    @property
    def raw_task(self) -> Tensor:
        """Task loss before its weight, detached."""
        return self.raw["task"]

    @property
    def raw_distill(self) -> Tensor | None:
        """Distillation loss before weight and ramp, detached; None without a teacher."""
        return _distillation(self.raw)


def _distillation(streams: Mapping[str, Tensor]) -> Tensor | None:
    others = [loss for name, loss in streams.items() if name != "task"]
    if len(others) > 1:
        return torch.stack(others).sum()
    return others[0] if others else None


class Distiller(nn.Module):
    """A student, a teacher frozen for good, and the method that connects them.

    The teacher stays outside of the module tree: ``to()`` moves it along with everything else, but
    ``parameters()``, ``state_dict()``, ``train()`` and ``requires_grad_()`` do not see it. So a
    training checkpoint does not carry it, an optimizer over ``parameters()`` cannot move it, and
    its normalisation statistics stay fixed. It runs in evaluation mode under ``torch.no_grad`` and its
    parameters no longer require gradients. (``inference_mode`` saved 0 to 2 % of a ResNet32x4 on a CPU,
    within the noise, and no loss could save its tensors for a backward pass.)

    Under autocast both models run as the user asked; the losses, with the method's learned parts, are
    computed in float32.

    Attributes:
        student_paths: Feature path of each feature that the method reads, in the student.
        teacher_paths: The same in the teacher.
        teacher_dtype: As given; may be set later.

    Args:
        student: Maps images to logits ``[B, C]``. A plain module: several processes average their
            gradients in the optimizer.
        teacher: Maps the same images to logits; shares nothing with the student. None: a plain student,
            or a teacher in training.
        method: The name of a registered method, or a method. None: ``"kd"`` with a teacher, the cross
            entropy without. Without a teacher also a :class:`~dotkd.methods.TaskMethod` or its name.
        taps: Feature -> dotted path of a submodule, one for both models or a pair (student's, teacher's);
            a list of paths for ``stages`` and ``preacts``. Overrides the paths that a model finds by
            itself; see :mod:`dotkd.features.paths`.
        teacher_dtype: ``torch.bfloat16`` or ``torch.float16``: the teacher runs under autocast to it,
            and its outputs are compared in float32. None: it runs as the student does.
        example: ``[B, ...]`` images, such as two of zeros, for methods with learned parts: one forward
            pass of both models, in evaluation mode, gives them the shapes.
        labels: ``[N]`` int64, the class of each sample number of the training data (-1: not among them),
            for methods that draw negatives from other classes.
        **method_options: Options of a method given by name.

    Raises:
        ValueError: If the student is wrapped for data parallelism, if the two models share a
            module or parameter, if a tap is missing, unneeded or leads nowhere, if an example is
            missing, if a method and a teacher do not go together, or if the method's name or an option is
            unknown.
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
        >>> plain = Distiller(nn.Linear(4, 3))
        >>> list(plain(torch.randn(8, 4), torch.zeros(8, dtype=torch.int64)).streams)
        ['task']
    """

    teacher: nn.Module | None
    method: Method | TaskMethod | None

    def __init__(
        self,
        student: nn.Module,
        teacher: nn.Module | None = None,
        method: str | Method | TaskMethod | None = None,
        *,
        taps: Mapping[str, FeaturePath | tuple[FeaturePath, FeaturePath]] | None = None,
        teacher_dtype: torch.dtype | None = None,
        example: Tensor | None = None,
        labels: Tensor | None = None,
        **method_options: Any,
    ) -> None:
        super().__init__()
        _refuse_parallel_wrappers(student)
        self.student = student
        self.teacher = teacher
        self.teacher_dtype = teacher_dtype
        self.student_paths: dict[str, str] = {}
        self.teacher_paths: dict[str, str] = {}
        self._checked_rows = False
        if teacher is None:
            if taps:
                raise ValueError(f"taps {sorted(taps)} are for methods with a teacher, and there is none")
            self.method = _task_method(method, method_options)
            return
        _refuse_sharing("student", student, teacher)
        self.method = found = as_method("kd" if method is None else method, method_options)  # type: ignore[arg-type]
        _refuse_sharing("method", found, teacher)
        features = found.feature_names
        self.student_paths, self.teacher_paths = pair_paths(features, student, teacher, taps or {})
        Taps(student, self.student_paths)  # raises for a wrong path
        Taps(teacher, self.teacher_paths)
        if found.learns:
            self.prepare(example, labels)

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "teacher":
            # Past nn.Module.__setattr__, which would register it as a submodule.
            self.__dict__["teacher"] = None if value is None else value.requires_grad_(False).eval()
        else:
            super().__setattr__(name, value)

    @property
    def needs(self) -> tuple[str, ...]:
        """Inputs that the method reads beside images, as in :class:`~dotkd.Method`."""
        if isinstance(self.method, Method):
            return self.method.needs
        return () if self.method is None else ("target",)

    def weights(self, progress: float = 1.0) -> dict[str, float]:
        """The factors between the raw losses and the weighted ones.

        Args:
            progress: Share of the run that is over, in [0, 1].

        Returns:
            ``"task"`` and, with a teacher, ``"distill"``: its weight times the ramp.
        """
        method = self.method
        if not isinstance(method, Method):
            return {"task": 1.0}
        return {"task": method.task_weight, "distill": method.distill_weight * method.ramp(progress)}

    def forward(
        self,
        images: Tensor,
        labels: Tensor,
        *,
        index: Tensor | None = None,
        progress: float = 0.0,
        teacher_outputs: Outputs | None = None,
    ) -> Losses:
        """Compute the losses of one batch.

        Args:
            images: ``[B, ...]``, the input of both models.
            labels: ``[B]`` int64 class numbers, -100 for images without a label; or ``[B, C]``
                floating-point probabilities (mixed labels) with a method that reads no labels. The task
                loss, and the loss of a method that reads labels, is the mean over the labelled images.
            index: ``[B]`` int64 numbers of the samples in their data set, for methods with memory.
            progress: Share of the run that is over, in [0, 1]; drives the warm-up.
            teacher_outputs: Outputs of the teacher for these images, as :meth:`teach` returned them.
                None: the teacher runs.

        Returns:
            The weighted losses by stream, the student's logits and the raw losses.

        Raises:
            ValueError: If ``progress`` lies outside [0, 1], the labels or the two models' logits
                do not fit together, a row of labels is no probabilities, ``teacher_outputs`` are of
                other images or lack a feature that the method reads, or the method does not return a
                scalar.
            TypeError: If a model returns something other than a tensor.
        """
        student = _outputs("student", self.student, self.student_paths, images)
        if labels.shape == student.logits.shape:
            self._check_rows(labels)
        if self.teacher is None:
            return self.compare(student, None, labels)
        teacher = self.teach(images) if teacher_outputs is None else self._given(teacher_outputs, images)
        return self.compare(student, teacher, labels, index=index, progress=progress)

    def compare(
        self,
        student: Outputs,
        teacher: Outputs | None,
        labels: Tensor,
        *,
        index: Tensor | None = None,
        progress: float = 0.0,
    ) -> Losses:
        """Compute the losses from the outputs of the two models: the second half of :meth:`forward`.

        Args:
            student: The student's outputs, attached to its graph.
            teacher: The teacher's, as of :meth:`teach`; None without a teacher.
            labels: As in :meth:`forward`.
            index: Likewise.
            progress: Likewise.

        Returns:
            As :meth:`forward`.

        Raises:
            ValueError: As in :meth:`forward`.
        """
        if not 0.0 <= progress <= 1.0:
            raise ValueError(f"progress must be the share of the run that is over, in [0, 1], got {progress}")
        self._check_fit(student, teacher, labels)
        method = self.method
        with full_precision(student.logits.device.type):
            if not isinstance(method, Method) or teacher is None:
                logits = student.logits
                logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
                raw = {"task": task_loss(logits, labels)}
                task = raw["task"] if method is None else method(logits, labels)
                return Losses({"task": task}, {"task": raw["task"].detach()}, student.logits)
            ours = student.in_float32()
            weights = self.weights(progress)
            logits = method.task_logits(ours)
            raw = {"task": task_loss(logits, labels)}
            raw |= _checked(
                method, method(ours, teacher.in_float32(), labels, index=index, progress=progress)
            )
            # A loss of weight 0 has no gradient, not one of zeros: it reaches no parameter.
            live = {"task": method.task_weight, "distill": method.distill_weight}
            streams = {}
            for name, loss in raw.items():
                side = "task" if name == "task" else "distill"
                streams[name] = weights[side] * (loss if live[side] else loss.detach())
        logits = student.logits if logits is ours.logits else logits
        return Losses(streams, {name: loss.detach() for name, loss in raw.items()}, logits)

    def teach(self, images: Tensor) -> Outputs:
        """Run the teacher alone: in evaluation mode and without a graph.

        Args:
            images: ``[B, ...]``, the input of both models.

        Returns:
            Its logits ``[B, C]`` and the features that the method reads, for :meth:`forward`; at least
            float32.

        Raises:
            ValueError: If there is no teacher, or its logits are not ``[B, C]``.
            TypeError: If the teacher returns something other than a tensor.

        Example:
            >>> distiller = Distiller(nn.Linear(4, 3), nn.Linear(4, 3))
            >>> images, labels = torch.randn(8, 4), torch.zeros(8, dtype=torch.int64)
            >>> known = distiller.teach(images)
            >>> losses = distiller(images, labels, teacher_outputs=known)
            >>> bool(losses.distill == distiller(images, labels).distill), known.logits.requires_grad
            (True, False)
        """
        teacher = self.teacher
        if teacher is None:
            raise ValueError("this distiller has no teacher")
        # train() of this module never reaches the teacher, but its owner may have called it.
        if any(module.training for module in teacher.modules()):
            teacher.eval()
        dtype = self.teacher_dtype
        cast = nullcontext() if dtype is None else torch.autocast(images.device.type, dtype=dtype)
        with torch.no_grad(), cast:
            outputs = _outputs("teacher", teacher, self.teacher_paths, images)
        return outputs.in_float32()

    def prepare(self, example: Tensor | None, labels: Tensor | None = None) -> None:
        """Make the method's learned parts anew, with weights from torch's generator.

        The constructor calls it. Call it again after the teacher's weights have changed.

        Args:
            example: As in the constructor; both models are left as they are.
            labels: Likewise.

        Raises:
            ValueError: If the example is missing, or the models' features do not suit the method.
        """
        method, teacher = self.method, self.teacher
        if not isinstance(method, Method) or teacher is None or not method.learns:
            return
        if example is None:
            raise ValueError(
                f"method {type(method).__name__} makes learned parts that fit the two models: pass "
                "example=images, a small batch such as torch.zeros(2, 3, 32, 32)"
            )
        training = [module for module in self.student.modules() if module.training]
        self.student.eval()
        try:
            with torch.no_grad():
                student = _outputs("student", self.student, self.student_paths, example).in_float32()
        finally:
            for module in training:
                module.training = True
        outputs = student, self.teach(example).in_float32()
        paths = self.student_paths, self.teacher_paths
        method.prepare(Setting(self.student, teacher, *outputs, *paths, labels))
        method.to(student.logits.device, student.logits.dtype)
        _refuse_sharing("method", method, teacher)

    def trainable_parameters(self) -> list[nn.Parameter]:
        """The parameters for the optimizer: the student's and those of the method's learned parts.

        Returns:
            Each parameter that requires a gradient, once; never one of the teacher's.
        """
        return [parameter for parameter in self.parameters() if parameter.requires_grad]

    def deployable(self) -> nn.Module:
        """The module to ship: the student, unless the method trains parts that inference needs.

        Returns:
            ``method.deployable(student)``.
        """
        return self.method.deployable(self.student) if isinstance(self.method, Method) else self.student

    def extra_repr(self) -> str:
        """Name the teacher, which the module tree does not show.

        Returns:
            One line.
        """
        return "teacher=None" if self.teacher is None else f"teacher={type(self.teacher).__name__} (frozen)"

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

    def _check_fit(self, student: Outputs, teacher: Outputs | None, labels: Tensor) -> None:
        shape = student.logits.shape
        if teacher is not None and "logits" in self.needs and shape != teacher.logits.shape:
            raise ValueError(
                f"method {type(self.method).__name__} compares logits, but the student returns "
                f"{list(shape)} and the teacher {list(teacher.logits.shape)}; "
                "both need the same classes"
            )
        numbers = labels.dtype == torch.int64 and labels.shape == shape[:1]
        mixable = self.method is None or not self.method.needs_hard_labels
        probabilities = mixable and labels.is_floating_point() and labels.shape == shape
        if not (numbers or probabilities):
            either = f" or probabilities {list(shape)}" if mixable else ""
            raise ValueError(
                f"labels must be int64 class numbers {list(shape[:1])}{either}, got {labels.dtype} "
                f"{list(labels.shape)}"
            )

    def _check_rows(self, labels: Tensor) -> None:
        """Refuse rows that are no probabilities, such as several classes at 1."""
        # Reading the values waits for the device: beside a CPU the first batch stands for the others.
        # A tensor that is traced is of another type and has no values.
        if not labels.is_floating_point() or torch.compiler.is_compiling() or type(labels) is not Tensor:
            return
        if labels.device.type != "cpu":
            if self._checked_rows:
                return
            self._checked_rows = True
        sums = labels.float().sum(dim=1)
        wrong = ((labels < 0).any(dim=1) | ~((sums - 1).abs() <= _ROUNDED_ROW)).nonzero()
        if len(wrong):
            row = int(wrong[0])
            raise ValueError(
                "labels must be class numbers, or rows of probabilities (>= 0, with the sum 1), got "
                f"row {row} with the least entry {labels[row].min():g} and the sum {sums[row]:g}"
            )

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "Distiller":
        # to(), cuda(), double() and the like all come through here.
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        if self.teacher is not None:
            self.teacher._apply(fn, recurse)  # type: ignore[no-untyped-call]
        return self


def _refuse_parallel_wrappers(student: nn.Module) -> None:
    """Guards against DDP-wrapped students."""
    wrappers = (nn.parallel.DistributedDataParallel, nn.DataParallel)
    for module in student.modules():
        if isinstance(module, wrappers):
            raise ValueError(
                f"the student is wrapped in {type(module).__name__}, which averages the gradients "
                "of only the first of two backward passes; pass the plain module and "
                "DOT(process_group=...)"
            )


def _refuse_sharing(role: str, module: nn.Module, teacher: nn.Module) -> None:
    """Guards against a trained module that shares a part or a parameter with the teacher."""
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
        # By storage: load_state_dict(assign=True) leaves two parameters over one storage.
        # Meta, lazy and sharded parameters have no address.
        plain = type(parameter) is nn.Parameter
        address = parameter.untyped_storage().data_ptr() if plain else 0
        yield (("storage", address) if address else ("parameter", id(parameter))), name


def _task_method(method: object, options: dict[str, Any]) -> TaskMethod | None:
    """The loss of a student without a teacher; None for the cross entropy."""
    found = create_method(method, **options) if isinstance(method, str) else method
    if isinstance(found, Method):
        named = method if isinstance(method, str) else type(method).__name__
        raise ValueError(f"method {named!r} needs a teacher, and there is none")
    if found is not None and not isinstance(found, TaskMethod):
        raise TypeError(f"method must be a name, a TaskMethod or None without a teacher, got {method!r}")
    if options and not isinstance(method, str):
        raise ValueError(f"options {sorted(options)} go with a method's name")
    return found


def _outputs(role: str, model: nn.Module, paths: Mapping[str, str], images: Tensor) -> Outputs:
    logits, features = Taps(model, paths)(images) if paths else (model(images), {})
    if not isinstance(logits, Tensor):
        raise TypeError(
            f"the {role} returned a {type(logits).__name__}; it must return its logits alone, "
            "a tensor [B, C] (wrap it in a module that picks them)"
        )
    if logits.ndim != 2:
        raise ValueError(f"the {role}'s logits must be [B, C], got shape {list(logits.shape)}")
    return Outputs(logits, features)


def _checked(method: Method, losses: Any) -> dict[str, Tensor]:
    """The losses of a method by stream; a single loss is the stream ``"distill"``."""
    named = losses if isinstance(losses, dict) else {"distill": losses}
    if tuple(named) != (method.streams or ("distill",)) or isinstance(losses, dict) != bool(method.streams):
        wanted = f"a dictionary of {', '.join(method.streams)}" if method.streams else "a scalar tensor"
        got = f"a dictionary of {', '.join(named)}" if isinstance(losses, dict) else type(losses).__name__
        raise ValueError(f"method {type(method).__name__} must return {wanted}, got {got}")
    for loss in named.values():
        if not isinstance(loss, Tensor) or loss.ndim != 0:
            kind = str(list(loss.shape)) if isinstance(loss, Tensor) else type(loss).__name__
            raise ValueError(f"method {type(method).__name__} must return a scalar tensor, got {kind}")
    return named
