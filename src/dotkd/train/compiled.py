"""The compiled step: what of a training step is handed to ``torch.compile``, and how it comes back.

Graphs are traced in plain operators from the run's own networks, taps and all, before the first epoch:

``parts``: the teacher's forward pass, and the student's, whose backward pass torch derives; method and
losses stay as they are. ``step``: the teacher's, and in one graph the student's forward pass, the losses, and
a backward pass for each gradient that the optimizer keeps apart. Augmentation, clipping and the optimizer's
update stay outside of both. A graph is made for one shape: a smaller last batch goes the usual way.
"""

import copy
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch._functorch import config as functorch
from torch.func import functional_call
from torch.fx.experimental.proxy_tensor import make_fx

from dotkd.distiller import Distiller, Losses, StreamLosses
from dotkd.errors import BadInput
from dotkd.methods.base import Outputs
from dotkd.optim import DOT, MultiMomentumSGD
from dotkd.taps import Taps
from dotkd.train.evaluate import autocast
from dotkd.train.objective import TaskLosses, TaskOnly

Objective = Distiller | TaskOnly
Grads = list[Tensor | None]
_MOMENTS = (0.0, 0.37, 1.0)  # of a run: what a method does must be one graph at all of them


class Example(NamedTuple):
    """A batch as the step gets it, after mixing.

    Attributes:
        images: [B, C, H, W].
        labels: [B] or [B, classes].
        numbers: [B], of the samples.
    """

    images: Tensor
    labels: Tensor
    numbers: Tensor


class Compiled:
    """The losses of a batch by way of compiled graphs, ready for the optimizer's backward passes.

    Args:
        objective: Student, teacher and method, in training mode; nothing in it moves now.
        optimizer: Says which gradients are kept apart.
        example: A batch of the shapes to compile for; its values do not matter.
        precision: ``run.precision``.
        whole: ``step``; else ``parts``.

    Attributes:
        seconds: What tracing and compiling took.

    Raises:
        BadInput: It cannot be traced or compiled.
    """

    def __init__(
        self,
        objective: Objective,
        optimizer: torch.optim.Optimizer,
        example: Example,
        *,
        precision: str,
        whole: bool,
    ) -> None:
        begun = time.perf_counter()
        self._objective, self._precision, self._whole = objective, precision, whole
        self._apart = _kept_apart(optimizer)
        self._shapes = [tensor.shape for tensor in example]
        self._params = {name: p for name, p in objective.named_parameters() if p.requires_grad}
        frozen = {name: p for name, p in objective.named_parameters() if not p.requires_grad}
        self._rest = {**frozen, **dict(objective.named_buffers())}
        device = example.images.device
        with _in_one_line(), torch.random.fork_rng([device] if device.type == "cuda" else []):
            self._teacher = self._teacher_graph(example.images)
            known = self.teach(example.images)
            self._student = self._step_graph(example, known) if whole else self._student_graph(example)
            self._reach = {} if whole else self._find_reach(example, known)
            self._warm_up(example, known)
        self.seconds = time.perf_counter() - begun

    def fits(self, *batch: Tensor) -> bool:
        """Whether images, labels and index are of the shapes that were compiled."""
        return [tensor.shape for tensor in batch] == self._shapes

    def teach(self, images: Tensor) -> Outputs | None:
        """What the teacher says, as :meth:`dotkd.Distiller.teach` has it; None without one."""
        if self._teacher is None:
            return None
        with torch.no_grad():
            return Outputs(*self._teacher(images))

    def losses(self, batch: Example, progress: float, known: Outputs | None = None) -> Losses | TaskLosses:
        """Compute the losses, each with a graph through which it brings its gradients once.

        Args:
            batch: Of the shapes that were compiled.
            progress: How much of the run is over, in [0, 1].
            known: What the teacher says, where that is known.

        Returns:
            What the objective returns. Where one gradient of the sum is wanted, ``task`` brings all of it.
        """
        known = self.teach(batch.images) if known is None else known
        params, rest = list(self._params.values()), list(self._rest.values())
        if self._whole:
            values, grads = self._step(params, rest, batch, known, progress)
        else:
            student = Outputs(*self._student(params, rest, batch.images))
            losses = self._compare(student, batch, known, progress)
            values, grads = _values(losses), self._differentiate(losses, params)
        return _carrying(values, grads, params)

    # ---------------------------------------------------------------- a call

    def _step(
        self,
        params: Sequence[Tensor],
        rest: Sequence[Tensor],
        batch: Example,
        known: Outputs | None,
        progress: float,
    ) -> tuple[dict[str, Tensor], dict[str, Grads]]:
        ramp = self._objective.method.ramp(progress) if isinstance(self._objective, Distiller) else 1.0
        scale = torch.full((), ramp, device=batch.images.device)
        with torch.no_grad():
            values, grads = self._student(params, rest, tuple(batch), scale, _plain(known))
        return values, grads

    def _compare(
        self, student: Outputs, batch: Example, known: Outputs | None, progress: float
    ) -> Losses | TaskLosses:
        objective = self._objective
        if isinstance(objective, Distiller):
            assert known is not None
            return objective.compare(student, known, batch.labels, index=batch.numbers, progress=progress)
        return objective.compare(student.logits, batch.labels)

    def _differentiate(self, losses: Losses | TaskLosses, params: Sequence[Tensor]) -> dict[str, Grads]:
        """Differentiate each loss where it reaches: a derived backward pass has zeros for the rest."""
        named = {name: loss for name, loss in self._apart(losses).items() if loss.requires_grad}
        found: dict[str, Grads] = {}
        for number, (name, loss) in enumerate(named.items(), start=1):
            wanted = [param for param, reached in zip(params, self._reach[name], strict=True) if reached]
            grads = iter(torch.autograd.grad(loss, wanted, retain_graph=number < len(named)))
            found[name] = [next(grads) if reached else None for reached in self._reach[name]]
        return found

    def _find_reach(self, example: Example, known: Outputs | None) -> dict[str, list[bool]]:
        """Ask a copy, in the usual way, which loss reaches which parameter."""
        twin = copy.deepcopy(self._objective)
        with autocast(example.images.device, self._precision):
            losses = _forward(twin, example, known, 1.0)
        params = [param for param in twin.parameters() if param.requires_grad]
        found = {name: _gradients(loss, params) for name, loss in self._apart(losses).items()}
        return {name: [grad is not None for grad in grads] for name, grads in found.items()}

    def _warm_up(self, example: Example, known: Outputs | None) -> None:
        """Run the graphs on copies of all that moves: now they are compiled."""
        params = [param.detach().clone().requires_grad_() for param in self._params.values()]
        rest = [tensor.detach().clone() for tensor in self._rest.values()]
        for _ in range(2):  # CUDA graphs are recorded by the second call
            if self._whole:
                self._step(params, rest, example, known, 1.0)
                continue
            logits, features = self._student(params, rest, example.images)
            total = torch.stack([output.float().sum() for output in (logits, *features.values())]).sum()
            # Two passes through one graph, so it may not give its buffers away in the first.
            with functorch.patch(donated_buffer=False):
                torch.autograd.grad(total, params, retain_graph=True, allow_unused=True)

    # ---------------------------------------------------------------- graphs

    def _teacher_graph(self, images: Tensor) -> Any:
        objective = self._objective
        if not isinstance(objective, Distiller):
            return None

        def teach(images: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
            with autocast(images.device, self._precision):
                outputs = objective.teach(images)
            return outputs.logits, outputs.features

        with torch.no_grad():
            return _compiled(_traced(teach, images), images.device)

    def _student_graph(self, example: Example) -> Any:
        objective = self._objective
        paths = objective.student_paths if isinstance(objective, Distiller) else {}
        tapped = _Tapped(objective.student, paths)

        def student(params: Sequence[Tensor], rest: Sequence[Tensor], images: Tensor) -> Any:
            state = dict(zip((*self._params, *self._rest), (*params, *rest), strict=True))
            mine = {name: tensor for name, tensor in state.items() if name.startswith("student.")}
            with autocast(images.device, self._precision):
                return functional_call(tapped, mine, (images,))

        params, rest = list(self._params.values()), list(self._rest.values())
        graph = _traced(student, params, rest, example.images)
        with functorch.patch(donated_buffer=False):
            return _compiled(graph, example.images.device)

    def _step_graph(self, example: Example, known: Outputs | None) -> Any:
        method = getattr(self._objective, "method", None)
        if "index" in getattr(method, "needs", ()):
            raise BadInput(
                f"run.compile: 'step' is not for {type(method).__name__}, which remembers what it has seen: "
                "take 'parts'"
            )
        scale = torch.ones((), device=example.images.device)
        params, rest = list(self._params.values()), list(self._rest.values())
        inputs = (params, rest, tuple(example), scale, _plain(known))
        moments = _MOMENTS if isinstance(self._objective, Distiller) else _MOMENTS[:1]
        graphs = [_traced(self._whole_step(moment), *inputs) for moment in moments]
        if len({graph.code for graph in graphs}) > 1:
            raise BadInput(
                f"run.compile: 'step' is not for {type(method).__name__}, which changes as a run goes on: "
                "take 'parts'"
            )
        return _compiled(graphs[0], example.images.device)

    def _whole_step(self, progress: float) -> Any:
        objective = self._objective

        def step(
            params: Sequence[Tensor],
            rest: Sequence[Tensor],
            batch: tuple[Tensor, Tensor, Tensor],
            scale: Tensor,
            known: tuple[Tensor, dict[str, Tensor]] | None,
        ) -> tuple[dict[str, Tensor], dict[str, Grads]]:
            leaves = [param.detach().requires_grad_() for param in params]
            state = dict(zip((*self._params, *self._rest), (*leaves, *rest), strict=True))
            outputs = None if known is None else Outputs(*known)
            with _ramp(objective, scale), autocast(batch[0].device, self._precision):
                losses = functional_call(
                    objective,
                    state,
                    batch[:2],
                    {"index": batch[2], "progress": progress, "teacher_outputs": outputs},
                )
            grads = {name: _gradients(loss, leaves) for name, loss in self._apart(losses).items()}
            values = {name: value.detach() for name, value in _values(losses).items()}
            return values, {name: some for name, some in grads.items() if some.count(None) < len(some)}

        return step


class _Tapped(nn.Module):
    def __init__(self, student: nn.Module, paths: Mapping[str, str]) -> None:
        super().__init__()
        self.student = student
        self.paths = paths

    def forward(self, images: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        logits, features = Taps(self.student, self.paths)(images)
        return logits, features


class _Given(torch.autograd.Function):
    """A loss whose gradients are known: its backward pass hands them out."""

    @staticmethod
    def forward(ctx: Any, loss: Tensor, grads: Grads, *_params: Tensor) -> Tensor:
        ctx.grads = grads
        return loss.detach().clone()

    @staticmethod
    def backward(ctx: Any, *_: Any) -> Any:
        return None, None, *ctx.grads


def _carrying(
    values: Mapping[str, Tensor], grads: Mapping[str, Grads], params: Sequence[Tensor]
) -> Losses | TaskLosses:
    """Put losses together again, those with gradients as what brings them."""
    plain = {name: value.detach() for name, value in values.items()}
    live = {
        name: _Given.apply(plain[name], some, *params)  # type: ignore[no-untyped-call]
        for name, some in grads.items()
    }
    task, logits, raw = live.get("task", plain["task"]), plain["logits"], plain["raw_task"]
    if "distill" not in plain:
        return TaskLosses(task, None, logits, raw, None)
    parts = (task, live.get("distill", plain["distill"]), logits, raw, plain["raw_distill"])
    streams = {name.partition(".")[2]: live.get(name, plain[name]) for name in plain if "streams." in name}
    if not streams:
        return Losses(*parts)
    several = StreamLosses(*parts)
    several.streams = streams
    return several


def _values(losses: Losses | TaskLosses) -> dict[str, Tensor]:
    """The numbers of losses by name."""
    streams = losses.streams if isinstance(losses, StreamLosses) else {}
    named = {**losses._asdict(), **{f"streams.{name}": loss for name, loss in streams.items()}}
    return {name: value for name, value in named.items() if value is not None}


def _kept_apart(optimizer: torch.optim.Optimizer) -> Any:
    """Return what lists the losses that an optimizer differentiates, as ``differentiate`` does."""

    def apart(losses: Losses | TaskLosses) -> dict[str, Tensor]:
        values = _values(losses)
        if isinstance(optimizer, DOT):
            return {name: values[name] for name in ("task", "distill") if name in values}
        if isinstance(optimizer, MultiMomentumSGD):
            streams = {name: loss for name, loss in values.items() if name.startswith("streams.")}
            return {"task": values["task"], **(streams or {"distill": values["distill"]})}
        return {"task": values["task"] + values["distill"] if "distill" in values else values["task"]}

    return apart


def _gradients(loss: Tensor, params: Sequence[Tensor]) -> Grads:
    """The gradient of each parameter; None where the loss does not reach it."""
    if not loss.requires_grad:
        return [None] * len(params)
    return list(torch.autograd.grad(loss, params, retain_graph=True, allow_unused=True))


def _forward(objective: Objective, batch: Example, known: Outputs | None, progress: float) -> Any:
    return objective(
        batch.images, batch.labels, index=batch.numbers, progress=progress, teacher_outputs=known
    )


def _plain(known: Outputs | None) -> tuple[Tensor, dict[str, Tensor]] | None:
    return None if known is None else (known.logits, known.features)


@contextmanager
def _ramp(objective: Objective, scale: Tensor) -> Iterator[None]:
    """Have the ramp of a method be an input of the graph."""
    if not isinstance(objective, Distiller):
        yield
        return
    objective.method.__dict__["ramp"] = lambda _progress: scale
    try:
        yield
    finally:
        del objective.method.__dict__["ramp"]


def _traced(function: Any, *inputs: Any) -> torch.fx.GraphModule:
    return make_fx(function, tracing_mode="fake", _allow_non_fake_inputs=True)(*inputs)


def _compiled(graph: torch.fx.GraphModule, device: torch.device) -> Any:
    # Random numbers as without compiling; CUDA graphs are what pays on a GPU.
    options: dict[str, Any] = {"fallback_random": True}
    if device.type == "cuda":
        options["triton.cudagraphs"] = True
    return torch.compile(graph, fullgraph=True, dynamic=False, options=options)


@contextmanager
def _in_one_line() -> Iterator[None]:
    """Say in one line what a compiler says in a hundred."""
    try:
        yield
    except BadInput:
        raise
    except Exception as error:  # dynamo, inductor and the compilers below each have their own
        text = str(error).strip()
        if "C++ compiler" in text:
            raise BadInput("run.compile: needs a C++ compiler (g++ or clang++), and none is here") from None
        first = " ".join(text.split("\n")[:2])[:200] or type(error).__name__  # who failed, and of what
        raise BadInput(f"run.compile: cannot be compiled, take 'none': {first}") from error
