"""The compiled step: what of a training step is handed to ``torch.compile``, and how it comes back.

Graphs are traced in plain operators from the run's own networks, taps and all, before the first epoch:

``parts``: the teacher's forward pass, and the student's, whose backward pass torch derives; method and
losses stay as they are, and the optimizer decides how many backward passes there are. ``step``: the
teacher's, and in one graph the student's forward pass, the losses, and a backward pass for each gradient that
the optimizer keeps apart. Augmentation, clipping and the optimizer's update stay outside of both, and so does
a cached teacher. A graph is made for one shape: a smaller last batch is not compiled.
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

from dotkd.distiller import Distiller, Losses
from dotkd.errors import BadInput
from dotkd.features.taps import Taps
from dotkd.methods.base import Method, Outputs
from dotkd.train.carried import Grads, Reach, differentiable, on_demand, values_of, with_gradients
from dotkd.train.differentiate import SUM, separate
from dotkd.train.scores import autocast

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
        distiller: Student, teacher and method, in training mode; nothing in it moves now.
        optimizer: Says which gradients are kept apart.
        example: A batch of the shapes to compile for; its values do not matter.
        precision: ``run.precision``.
        whole: ``step``; else ``parts``.
        ask_teacher: Whether the teacher is asked here, and so compiled. False: the outputs are always given.
        gains: As for :func:`dotkd.train.differentiate.separate`.

    Attributes:
        seconds: What tracing and compiling took.

    Raises:
        BadInput: It cannot be traced or compiled.
    """

    def __init__(
        self,
        distiller: Distiller,
        optimizer: torch.optim.Optimizer,
        example: Example,
        *,
        precision: str,
        whole: bool,
        ask_teacher: bool = True,
        gains: tuple[float, float] | None = None,
    ) -> None:
        begun = time.perf_counter()
        self._distiller, self._precision, self._whole = distiller, precision, whole
        self._optimizer, self._gains = optimizer, gains
        self._shapes = [tensor.shape for tensor in example]
        self._params = {name: p for name, p in distiller.named_parameters() if p.requires_grad}
        frozen = {name: p for name, p in distiller.named_parameters() if not p.requires_grad}
        self._rest = {**frozen, **dict(distiller.named_buffers())}
        _stay_in_place([*self._params.values(), *self._rest.values()])
        device = example.images.device
        with _in_one_line(), torch.random.fork_rng([device] if device.type == "cuda" else []):
            self._teacher = self._teacher_graph(example.images) if ask_teacher else None
            known = _copied(self.teach(example.images))
            self._student = self._step_graph(example, known) if whole else self._student_graph(example)
            self._reach = {} if whole else self._find_reach(example, known)
            self._warm_up(example, known)
        self.seconds = time.perf_counter() - begun

    def fits(self, *batch: Tensor) -> bool:
        """Whether images, labels and index are of the shapes that were compiled."""
        return [tensor.shape for tensor in batch] == self._shapes

    def teach(self, images: Tensor) -> Outputs | None:
        """What the teacher says, as :meth:`dotkd.Distiller.teach` has it; None without one."""
        if self._teacher is not None:
            with torch.no_grad():
                return Outputs(*self._teacher(images))
        if self._distiller.teacher is None:
            return None
        with autocast(images.device, self._precision):
            return self._distiller.teach(images)

    def losses(self, batch: Example, progress: float, known: Outputs | None = None) -> Losses:
        """Compute the losses, each with a graph through which it brings its gradients.

        Args:
            batch: Of the shapes that were compiled.
            progress: How much of the run is over, in [0, 1].
            known: What the teacher says, where that is known.

        Returns:
            What the distiller returns. In a whole step each loss brings its gradients once, and ``task``
            brings all of it where one gradient of the sum is wanted.
        """
        _begin_step(batch.images.device)
        known = self.teach(batch.images) if known is None else known
        params, rest = list(self._params.values()), list(self._rest.values())
        if self._whole:
            values, grads = self._step(params, rest, batch, known, progress)
            return with_gradients(values, grads, params)
        student = Outputs(*self._student(params, rest, batch.images))
        return on_demand(self._compare(student, batch, known, progress), self._reach, params)

    # ---------------------------------------------------------------- a call

    def _step(
        self,
        params: Sequence[Tensor],
        rest: Sequence[Tensor],
        batch: Example,
        known: Outputs | None,
        progress: float,
    ) -> tuple[dict[str, Tensor], dict[str, Grads]]:
        method = self._distiller.method
        ramp = method.ramp(progress) if isinstance(method, Method) else 1.0
        scale = torch.full((), ramp, device=batch.images.device)
        with torch.no_grad():
            values, grads = self._student(params, rest, tuple(batch), scale, _plain(known))
        return values, grads

    def _compare(self, student: Outputs, batch: Example, known: Outputs | None, progress: float) -> Losses:
        return self._distiller.compare(student, known, batch.labels, index=batch.numbers, progress=progress)

    def _find_reach(self, example: Example, known: Outputs | None) -> dict[str, Reach]:
        """Ask a copy, in the usual way, which loss reaches which parameter."""
        twin = copy.deepcopy(self._distiller)
        with autocast(example.images.device, self._precision):
            losses = _forward(twin, example, known, 1.0)
        params = [param for param in twin.parameters() if param.requires_grad]
        found = {name: _gradients(loss, params) for name, loss in differentiable(losses).items()}
        return {name: [grad is not None for grad in grads] for name, grads in found.items()}

    def _warm_up(self, example: Example, known: Outputs | None) -> None:
        """Run the graphs, so that they are compiled, and put back what they move: the buffers."""
        params, rest = list(self._params.values()), list(self._rest.values())
        before = [tensor.detach().clone() for tensor in rest]
        try:
            for _ in range(2):  # CUDA graphs are recorded by the second call
                self._run_once(params, rest, example, known)
        finally:
            with torch.no_grad():
                for tensor, old in zip(rest, before, strict=True):
                    tensor.copy_(old)

    def _run_once(
        self, params: Sequence[Tensor], rest: Sequence[Tensor], example: Example, known: Outputs | None
    ) -> None:
        _begin_step(example.images.device)
        known = known if self._teacher is None else self.teach(example.images)
        if self._whole:
            self._step(params, rest, example, known, 1.0)
            return
        # Two passes may go through one graph, so it must not give its buffers away in the first.
        with functorch.patch(donated_buffer=False):
            logits, features = self._student(params, rest, example.images)
            total = torch.stack([output.float().sum() for output in (logits, *features.values())]).sum()
            # The first gradients stay while the second come, as in a step: else theirs is the same memory.
            first = torch.autograd.grad(total, params, retain_graph=True, allow_unused=True)
            torch.autograd.grad(total, params, allow_unused=True)
            del first

    # ---------------------------------------------------------------- graphs

    def _teacher_graph(self, images: Tensor) -> Any:
        distiller = self._distiller
        if distiller.teacher is None:
            return None

        def teach(images: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
            with autocast(images.device, self._precision):
                outputs = distiller.teach(images)
            return outputs.logits, outputs.features

        with torch.no_grad():
            return _compiled(_traced(teach, images), images.device)

    def _student_graph(self, example: Example) -> Any:
        distiller = self._distiller
        tapped = _Tapped(distiller.student, distiller.student_paths)

        def student(params: Sequence[Tensor], rest: Sequence[Tensor], images: Tensor) -> Any:
            state = dict(zip((*self._params, *self._rest), (*params, *rest), strict=True))
            mine = {name: tensor for name, tensor in state.items() if name.startswith("student.")}
            with autocast(images.device, self._precision):
                return functional_call(tapped, mine, (images,))

        params, rest = list(self._params.values()), list(self._rest.values())
        return _compiled(_traced(student, params, rest, example.images), example.images.device)

    def _step_graph(self, example: Example, known: Outputs | None) -> Any:
        method = self._distiller.method
        if "index" in self._distiller.needs:
            raise BadInput(
                f"run.compile: 'step' is not for {type(method).__name__}, which remembers what it has seen: "
                "take 'parts'"
            )
        scale = torch.ones((), device=example.images.device)
        params, rest = list(self._params.values()), list(self._rest.values())
        inputs = (params, rest, tuple(example), scale, _plain(known))
        moments = _MOMENTS[:1] if self._distiller.teacher is None else _MOMENTS
        graphs = [_traced(self._whole_step(moment), *inputs) for moment in moments]
        if len({graph.code for graph in graphs}) > 1:
            raise BadInput(
                f"run.compile: 'step' is not for {type(method).__name__}, which changes as a run goes on: "
                "take 'parts'"
            )
        return _compiled(graphs[0], example.images.device)

    def _whole_step(self, progress: float) -> Any:
        distiller = self._distiller

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
            with _ramp(distiller, scale), autocast(batch[0].device, self._precision):
                losses = functional_call(
                    distiller,
                    state,
                    batch[:2],
                    {"index": batch[2], "progress": progress, "teacher_outputs": outputs},
                )
            grads = {
                _carrier(name, losses): _gradients(loss, leaves)
                for name, loss in separate(self._optimizer, losses, self._gains).items()
            }
            values = {name: value.detach() for name, value in values_of(losses).items()}
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


def _carrier(root: str, losses: Losses) -> str:
    """The stream that brings the gradient of a loss: of a sum of streams, the first of them."""
    if root in losses.streams:
        return root
    return "task" if root == SUM else list(losses.streams)[1]


def _gradients(loss: Tensor, params: Sequence[Tensor]) -> Grads:
    """The gradient of each parameter; None where the loss does not reach it."""
    if not loss.requires_grad:
        return [None] * len(params)
    return list(torch.autograd.grad(loss, params, retain_graph=True, allow_unused=True))


def _forward(distiller: Distiller, batch: Example, known: Outputs | None, progress: float) -> Any:
    return distiller(
        batch.images, batch.labels, index=batch.numbers, progress=progress, teacher_outputs=known
    )


def _plain(known: Outputs | None) -> tuple[Tensor, dict[str, Tensor]] | None:
    return None if known is None else (known.logits, known.features)


def _copied(known: Outputs | None) -> Outputs | None:
    """Copy outputs out of the memory of a CUDA graph, whose next run writes over it."""
    if known is None:
        return None
    return Outputs(known.logits.clone(), {name: each.clone() for name, each in known.features.items()})


def _begin_step(device: torch.device) -> None:
    """Let CUDA graphs write over what those of the step before returned, and over nothing of this step.

    Without being told, they take each call of another graph for a new step: the student's would free what the
    teacher's has returned.
    """
    if device.type == "cuda":
        torch.compiler.cudagraph_mark_step_begin()  # type: ignore[no-untyped-call]


def _stay_in_place(tensors: Sequence[Tensor]) -> None:
    """Promise that tensors keep their addresses: CUDA graphs then neither copy nor refuse to change them."""
    for tensor in tensors:
        torch._dynamo.mark_static_address(tensor)


@contextmanager
def _ramp(distiller: Distiller, scale: Tensor) -> Iterator[None]:
    """Have the ramp of a method be an input of the graph."""
    method = distiller.method
    if not isinstance(method, Method):
        yield
        return
    method.__dict__["ramp"] = lambda _progress: scale
    try:
        yield
    finally:
        del method.__dict__["ramp"]


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
