"""Contrastive representation distillation (CRD): the loss, the memory of all samples, and its negatives."""

import hashlib
import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from dotkd._validate import (
    check_below_one,
    check_count,
    check_int64_vector,
    check_integer,
    check_positive,
    checked_embeddings,
    checked_floats,
    describe,
    in_one_dtype,
)
from dotkd.losses._numerics import in_full_precision, unit


@in_full_precision
def crd_loss(
    embedding: Tensor,
    memory: Tensor,
    contrast_index: Tensor,
    log_normalizer: Tensor,
    *,
    temperature: float = 0.07,
) -> Tensor:
    r"""Contrastive representation distillation: find the sample's own row of the memory among K negatives.

    .. math::
        L = -\frac{1}{B} \sum_b \Big( \log h(b, i_{b0}) + \sum_{k=1}^{K} \log(1 - h(b, i_{bk})) \Big),
        \qquad
        h(b, i) = \frac{p(b, i)}{p(b, i) + K / N}, \quad
        p(b, i) = \frac{e^{\langle v_b, m_i \rangle / T}}{Z}

    with v = ``embedding``, m = ``memory``, i = ``contrast_index`` (the sample's own number, then K
    negatives), T = ``temperature``, Z the exponential of ``log_normalizer`` and N the rows of the memory. h
    is computed as the logistic function of its log-odds, so that no exponential overflows. (The published
    code adds 1e-7 to each denominator.)

    Gradients flow to ``embedding`` and ``memory``. This is one direction: the published loss adds the
    student's embedding against the teacher's memory and the reverse, see :class:`ContrastMemory`.

    Args:
        embedding: ``[B, D]``, floating point, of norm 1.
        memory: ``[N, D]``, floating point: the other network's embeddings, of norm 1.
        contrast_index: ``[B, 1 + K]``, int64 rows of the memory, K >= 1; the first column is the positive.
        log_normalizer: A scalar tensor, a constant to the gradient.
        temperature: T > 0.

    Returns:
        A scalar, at least float32.

    Raises:
        ValueError: If shapes or dtypes do not fit, or the temperature is not positive.

    Example:
        >>> embedding, memory = torch.tensor([[1.0, 0.0]]), torch.tensor([[1.0, 0.0], [0.0, 1.0]])
        >>> log_normalizer = torch.tensor(2.0).log()  # p is e / 2 and 1 / 2, K / N is 1 / 2
        >>> loss = crd_loss(embedding, memory, torch.tensor([[0, 1]]), log_normalizer, temperature=1.0)
        >>> round(loss.item(), 4)  # log(1 + 1 / e) + log(2)
        1.0064

    Reference:
        Tian, Krishnan and Isola, "Contrastive Representation Distillation", ICLR 2020,
        arXiv 1910.10699, section 3.2; the normalizer is that of Wu et al., "Unsupervised Feature
        Learning via Non-Parametric Instance Discrimination", CVPR 2018, arXiv 1805.01978.
    """
    if log_normalizer.ndim != 0:
        raise ValueError(f"log_normalizer must be a scalar tensor, got shape {list(log_normalizer.shape)}")
    scores = _scores(embedding, memory, contrast_index, temperature)
    return _nce(scores, log_normalizer, memory.shape[0])


def _nce(scores: Tensor, log_normalizer: Tensor, num_samples: int) -> Tensor:
    """The loss from the scores; the log-odds of h are log p - log(K / N)."""
    negatives = scores.shape[1] - 1
    odds = scores - log_normalizer.detach() - math.log(negatives / num_samples)
    right = functional.logsigmoid(odds[:, 0]).sum() + functional.logsigmoid(-odds[:, 1:]).sum()
    return -right / scores.shape[0]


def _scores(embedding: Tensor, memory: Tensor, contrast_index: Tensor, temperature: float) -> Tensor:
    """<v, m> / T for the rows in ``contrast_index``, ``[B, 1 + K]``."""
    check_positive("temperature", temperature)
    checked_floats("embedding", embedding, "[B, D]", embedding.ndim == 2)
    checked_floats(
        "memory", memory, f"[N, D] with D = {embedding.shape[1]}", memory.shape[1:] == embedding.shape[1:]
    )
    rows, shape = embedding.shape[0], contrast_index.shape
    if contrast_index.dtype != torch.int64 or len(shape) != 2 or shape[0] != rows or shape[1] < 2:
        raise ValueError(
            f"contrast_index must be a tensor of int64 [{rows}, 1 + K], K >= 1, "
            f"got {describe(contrast_index)}"
        )
    embedding, memory = in_one_dtype(embedding, memory)
    # All N products and a choice of them: copying (1 + K) * D numbers for each sample costs many times as
    # much.
    return (embedding @ memory.mT).gather(1, contrast_index) / temperature


# ---------------------------------------------------------------- memory of all samples


class ContrastMemory(nn.Module):
    r"""Contrasts each sample's student feature with remembered teacher features, and the reverse.

    A linear map brings both features to ``embed_dim`` dimensions and norm 1. The loss is :func:`crd_loss`
    of the student's embedding against the teacher's memory plus that of the teacher's against the
    student's. The first batch in training mode sets the two normalizers, :math:`Z = N \cdot
    \mathrm{mean}(e^{\langle v, m \rangle / T})`, for good.

    In training mode the memories are updated after the loss: :math:`m_i \leftarrow \mathrm{unit}(\mu m_i +
    (1 - \mu) v_b)` for sample i at place b of the batch. A sample that occurs twice in a batch is updated
    once, from its last place. An embedding that is not finite leaves its row unchanged. In evaluation mode
    nothing changes, and every call draws the same negatives.

    The ``state_dict`` holds all that a resumed run needs for the same bits: embeddings, memories,
    normalizers, and as extra state the seed and the number of training batches, from which each batch's
    generator is made. It is made on the device of ``index``, so another kind of device draws other
    negatives. Each process has memories of its own.

    Args:
        student_dim: Length of the student's feature vectors, >= 1.
        teacher_dim: Length of the teacher's, >= 1.
        num_samples: N, the samples in the data set; their numbers are the rows of the memories.
        embed_dim: D, the length of the embeddings, >= 1.
        negatives: K, negatives for each sample, >= 1, drawn with replacement.
        temperature: T > 0.
        momentum: :math:`\mu` in [0, 1): share of a row that an update keeps.
        seed: Seed of the negatives, >= 0.

    Raises:
        ValueError: If an option is out of range.

    Example:
        >>> memory = ContrastMemory(8, 16, num_samples=100, embed_dim=4, negatives=32)
        >>> labels = torch.arange(100) % 10
        >>> student, teacher = torch.randn(5, 8), torch.randn(5, 16)
        >>> loss = memory(student, teacher, torch.tensor([7, 3, 99, 0, 1]), labels=labels)
        >>> loss.backward()

    Reference:
        Tian, Krishnan and Isola, "Contrastive Representation Distillation", ICLR 2020,
        arXiv 1910.10699, section 3.2. There the negatives of a sample are drawn without replacement.
    """

    memory_student: Tensor
    memory_teacher: Tensor
    log_normalizer_student: Tensor
    log_normalizer_teacher: Tensor

    def __init__(
        self,
        student_dim: int,
        teacher_dim: int,
        *,
        num_samples: int,
        embed_dim: int = 128,
        negatives: int = 16384,
        temperature: float = 0.07,
        momentum: float = 0.5,
        seed: int = 0,
    ) -> None:
        super().__init__()
        counts = {"student_dim": student_dim, "teacher_dim": teacher_dim, "num_samples": num_samples}
        for name, value in {**counts, "embed_dim": embed_dim, "negatives": negatives}.items():
            check_count(name, value)
        check_positive("temperature", temperature)
        check_below_one("momentum", momentum)
        check_integer("seed", seed, low=0, high=2**63 - 1)
        self.num_samples = num_samples
        self.negatives = negatives
        self.temperature = temperature
        self.momentum = momentum
        self.embed_student = _Embedding(student_dim, embed_dim)
        self.embed_teacher = _Embedding(teacher_dim, embed_dim)
        for name in ("student", "teacher"):
            self.register_buffer(f"memory_{name}", unit(torch.randn(num_samples, embed_dim), dim=1))
            self.register_buffer(f"log_normalizer_{name}", torch.tensor(math.nan))  # not measured yet
        self._seed = seed
        self._step = 0
        self._sorted: tuple[Tensor, int, _ClassBlocks] | None = None

    @in_full_precision
    def forward(
        self,
        student: Tensor,
        teacher: Tensor,
        index: Tensor,
        *,
        labels: Tensor | None = None,
        contrast_index: Tensor | None = None,
    ) -> Tensor:
        """Compute the loss of one batch; in training mode, remember the batch.

        Args:
            student: ``[B, student_dim]``, floating point.
            teacher: ``[B, teacher_dim]``, floating point.
            index: ``[B]``, int64 sample numbers in [0, N); torch enforces the range.
            labels: ``[N]``, int64 classes of all samples, from which negatives of other classes are drawn;
                -1 for samples that are never drawn. Sorted once: pass the same tensor at every call.
            contrast_index: ``[B, 1 + K]`` instead of ``labels``: the sample's own number, then its negatives.

        Returns:
            A scalar, at least float32.

        Raises:
            ValueError: If shapes or dtypes do not fit, or not exactly one of ``labels`` and
                ``contrast_index`` is given.
        """
        student, teacher = checked_embeddings(student, teacher)
        check_int64_vector("index", index, length=student.shape[0])
        if labels is not None and contrast_index is None:
            contrast_index = torch.cat([index.unsqueeze(1), self._draw(index, labels)], dim=1)
        elif labels is not None or contrast_index is None:
            raise ValueError("exactly one of labels and contrast_index must be given, got both or neither")

        ours, theirs = self.embed_student(student), self.embed_teacher(teacher)
        our_scores = _scores(ours, self.memory_teacher, contrast_index, self.temperature)
        their_scores = _scores(theirs, self.memory_student, contrast_index, self.temperature)
        our_normalizer = _known_or_measured(self.log_normalizer_student, our_scores, self.num_samples)
        their_normalizer = _known_or_measured(self.log_normalizer_teacher, their_scores, self.num_samples)
        if self.training:
            # New tensors: the graph still needs the values of the old ones.
            memory_student = _remembered(self.memory_student, index, ours, self.momentum)
            memory_teacher = _remembered(self.memory_teacher, index, theirs, self.momentum)
            self.memory_student, self.memory_teacher = memory_student, memory_teacher
            self.log_normalizer_student = our_normalizer
            self.log_normalizer_teacher = their_normalizer
            self._step += 1
        our_loss = _nce(our_scores, our_normalizer, self.num_samples)
        return our_loss + _nce(their_scores, their_normalizer, self.num_samples)

    def get_extra_state(self) -> Tensor:
        """The seed and the number of training batches so far, ``[2]`` int64 on the CPU."""
        return torch.tensor([self._seed, self._step], device="cpu")

    def set_extra_state(self, state: Tensor) -> None:
        """Continue with the negatives of the module that was saved."""
        self._seed, self._step = state.tolist()

    def extra_repr(self) -> str:
        """Sizes and options, for ``repr``."""
        return (
            f"num_samples={self.num_samples}, negatives={self.negatives}, "
            f"temperature={self.temperature:g}, momentum={self.momentum:g}, seed={self._seed}"
        )

    def _draw(self, index: Tensor, labels: Tensor) -> Tensor:
        check_int64_vector("labels", labels, length=self.num_samples)
        if self._sorted is None or self._sorted[0] is not labels or self._sorted[1] != labels._version:
            self._sorted = (labels, labels._version, class_blocks(labels))
        moment = str(self._step) if self.training else "evaluation"
        digest = hashlib.sha256(f"{self._seed}:{moment}".encode()).digest()
        generator = torch.Generator(index.device)
        generator.manual_seed(int.from_bytes(digest[:8], "big") >> 1)  # it takes a signed number
        return draw_negatives(index, self._sorted[2], self.negatives, generator)


class _Embedding(nn.Module):
    """A linear map to vectors of norm 1."""

    def __init__(self, features: int, embed_dim: int) -> None:
        super().__init__()
        self.linear = nn.Linear(features, embed_dim)

    def forward(self, features: Tensor) -> Tensor:
        return unit(self.linear(features), dim=1)


def _known_or_measured(known: Tensor, scores: Tensor, num_samples: int) -> Tensor:
    """The known log Z, or this batch's where it is not finite yet; decided on the device, without a wait."""
    scores = scores.detach()
    count = torch.full_like(known, scores.numel())  # a tensor, for exports with a batch of any size
    measured = scores.flatten().logsumexp(dim=0) - count.log() + math.log(num_samples)
    return torch.where(known.isfinite(), known, measured.to(known.dtype))


@torch.no_grad()
def _remembered(memory: Tensor, index: Tensor, embedding: Tensor, momentum: float) -> Tensor:
    """A copy of the memory with the rows of a batch moved towards its embeddings."""
    places = torch.arange(index.shape[0], device=index.device)
    last = ((index.unsqueeze(1) == index) * places).amax(dim=1)  # of a sample in this batch
    old = memory.index_select(0, index)
    new = unit(momentum * old + (1 - momentum) * embedding.index_select(0, last), dim=1)
    has_direction = new.square().sum(dim=1, keepdim=True) > 0.5  # neither zero nor NaN
    return memory.index_copy(0, index, torch.where(has_direction, new, old))


# ---------------------------------------------------------------- negatives


class _ClassBlocks(NamedTuple):
    """Training samples sorted by class, and the block of each sample's class among them."""

    order: Tensor  # [M] int64, numbers of the M training samples, sorted by class
    first: Tensor  # [N] int64, start of the block of each sample's class in ``order``
    size: Tensor  # [N] int64, size of that block; 0 for a sample without a class


def class_blocks(labels: Tensor) -> _ClassBlocks:
    """Sort samples by class for :func:`draw_negatives`. Waits for the device, once per data set.

    Args:
        labels: ``[N]``, int64 class by sample number; -1 for a sample that is never drawn.

    Returns:
        The blocks, on the device of the labels.

    Raises:
        ValueError: If shape or dtype does not fit, a label is below -1, or there are not two classes.

    Example:
        >>> class_blocks(torch.tensor([1, 0, -1, 1])).order.tolist()
        [1, 0, 3]
    """
    check_int64_vector("labels", labels)
    lowest, highest = torch.stack(labels.aminmax()).tolist()
    if lowest < -1:
        raise ValueError(f"labels must be >= -1 (-1: not a training sample), got {lowest}")
    order = labels.argsort(stable=True)[(labels < 0).sum().item() :]
    by_class = labels.index_select(0, order)
    first = torch.searchsorted(by_class, labels)
    size = torch.searchsorted(by_class, labels, right=True) - first
    if order.numel() <= size.max().item():
        raise ValueError(
            f"labels must name at least two classes, or there is no negative; got {highest} alone"
        )
    return _ClassBlocks(order, first, size)


def draw_negatives(index: Tensor, blocks: _ClassBlocks, count: int, generator: torch.Generator) -> Tensor:
    """Draw training samples of other classes for each sample: uniformly, with replacement.

    The drawn number is a rank among the samples outside of the class, counted past the class's block. (The
    remainder of a 63-bit number is uniform to one part in 10 ** 12 for a million samples.)

    Args:
        index: ``[B]``, int64 sample numbers. A sample without a class gets any training sample.
        blocks: From :func:`class_blocks`.
        count: K, negatives for each sample.
        generator: On the device of ``index``; advances by B * K numbers.

    Returns:
        ``[B, K]``, int64 sample numbers.

    Example:
        >>> blocks = class_blocks(torch.tensor([1, 0, -1, 1]))
        >>> draw_negatives(torch.tensor([0, 3]), blocks, 2, torch.Generator().manual_seed(0)).tolist()
        [[1, 1], [1, 1]]
    """
    first = blocks.first.index_select(0, index).unsqueeze(1)
    size = blocks.size.index_select(0, index).unsqueeze(1)
    largest = torch.iinfo(torch.int64).max
    numbers = torch.randint(largest, (index.shape[0], count), generator=generator, device=index.device)
    ranks = numbers % (blocks.order.numel() - size)
    return blocks.order.take(ranks + size * (ranks >= first))
