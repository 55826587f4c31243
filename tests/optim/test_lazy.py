"""The held task gradient: its steps against plain ones, and all that may happen between two refreshes."""

import copy
import io
import pickle

import pytest
import torch
import torch.distributed.checkpoint as dcp
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.nn import functional
from torch.nn.utils import get_total_norm

from dotkd.optim import DOT, DOTAdamW, MultiMomentumSGD, ReferenceDOT
from dotkd.recipe.tables import ControlTable, DOTTable
from dotkd.train.build import build_optimizer

OPTIONS = {"lr": 0.1, "weight_decay": 0.01}
KEYS = {"task_momentum_buffer", "distill_momentum_buffer", "held_task_gradient", "held_reach"}


class Student(nn.Module):
    """``body``: both losses reach it. ``head``: the task alone. ``project``: distillation alone."""

    def __init__(self):
        super().__init__()
        self.body, self.head, self.project = nn.Linear(5, 4), nn.Linear(4, 3), nn.Linear(4, 2)
        self.double()
        self.passes = 0

    def losses(self, batch):
        images, labels, target = batch
        hidden = torch.tanh(self.body(images))
        hidden.register_hook(self._count)
        task = functional.cross_entropy(self.head(hidden), labels)
        return {"task": task, "distill": 5 * functional.mse_loss(self.project(hidden), target)}

    def _count(self, _):
        self.passes += 1


class Plain:
    """The rule in plain steps, from the exact gradients of both losses."""

    def __init__(self, params, every, clip=None, **options):
        self.params, self.every, self.clip = list(params), every, clip
        self.dot = ReferenceDOT(self.params, **options)
        self.age, self.held = 0, []

    def step(self, task, distill, consent=False):
        lazy = 0 < self.age < self.every and not consent
        exact = list(zip(task, distill, strict=True))
        sets = (
            [self.divide(*row, *held) for row, held in zip(exact, self.held, strict=True)] if lazy else exact
        )
        if self.clip is not None:
            total = [t if d is None else d if t is None else t + d for t, d in sets]
            norm = get_total_norm([g for g in total if g is not None])
            factor = min(1.0, self.clip / (float(norm) + 1e-6))
            sets = [tuple(None if g is None else g * factor for g in row) for row in sets]
        self.dot.step([t for t, _ in sets], [d for _, d in sets])
        if lazy:
            self.age += 1
        else:
            self.age, self.held = int(not consent), exact

    @staticmethod
    def divide(task, distill, held, held_distill):
        if task is None and distill is None:
            return None, None
        total = task if distill is None else distill if task is None else task + distill
        if held is None:
            return None, total
        return (total, None) if held_distill is None else (held, total - held)


@pytest.fixture
def student():
    torch.manual_seed(0)
    return Student()


def batches(count, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return [
        (
            torch.randn(6, 5, generator=generator, dtype=torch.float64),
            torch.randint(3, (6,), generator=generator),
            torch.randn(6, 2, generator=generator, dtype=torch.float64),
        )
        for _ in range(count)
    ]


def exact_sets(student, batch):
    losses, params = student.losses(batch), list(student.parameters())
    return [
        torch.autograd.grad(losses[name], params, retain_graph=True, allow_unused=True)
        for name in ("task", "distill")
    ]


def train(student, opt, steps, *, micro=1, clip=None, scaler=None, set_to_none=True):
    for batch in steps:
        for part in zip(*(tensor.chunk(micro) for tensor in batch), strict=True):
            losses = {name: loss / micro for name, loss in student.losses(part).items()}
            opt.backward(**losses, scaler=scaler)
        if scaler is not None:
            scaler.unscale_(opt)
        if clip is not None:
            opt.clip_grad_norm_(clip)
        if scaler is None:
            opt.step()
        else:
            scaler.step(opt)
            scaler.update()
        opt.zero_grad(set_to_none=set_to_none)


def bits(student):
    return [param.detach().clone() for param in student.parameters()]


def equal(left, right):
    return all(torch.equal(a, b) for a, b in zip(left, right, strict=True))


def close(left, right):
    return all(torch.allclose(a, b, rtol=1e-12, atol=1e-12) for a, b in zip(left, right, strict=True))


def twin_of(student):
    twin = Student()
    twin.load_state_dict(student.state_dict())
    return twin


# -------------------------------------------------------------------- the rule


@pytest.mark.parametrize("every", [1, 2, 3, 7])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"nesterov": True},
        {"normalize": True, "maximize": True},
        {"delta": 0.0, "task_gain": 0.6, "distill_gain": 4.0, "dampening": 0.1},
    ],
)
@pytest.mark.parametrize("how", [{}, {"micro": 2}, {"clip": 0.5}, {"set_to_none": False}])
def test_equals_plain_steps(student, every, options, how):
    twin = twin_of(student)
    plain = Plain(twin.parameters(), every, how.get("clip"), **OPTIONS, **options)
    opt = DOT(student.parameters(), task_every=every, **OPTIONS, **options)
    for batch in batches(8):
        train(student, opt, [batch], **how)
        plain.step(*exact_sets(twin, batch))
    assert close(student.parameters(), plain.params)
    buffers = [opt.state[param]["distill_momentum_buffer"] for param in student.parameters()]
    expected = [
        torch.zeros_like(p) if v is None else v
        for p, v in zip(plain.params, plain.dot.distill_buffers, strict=True)
    ]
    assert close(buffers, expected)


def test_it_is_an_approximation(student):
    twin = twin_of(student)
    train(student, DOT(student.parameters(), task_every=4, **OPTIONS), batches(4))
    train(twin, DOT(twin.parameters(), **OPTIONS), batches(4))
    assert not torch.allclose(student.body.weight, twin.body.weight, atol=1e-4)


def test_one_is_exact_to_the_bit(student):
    twin = twin_of(student)
    one, default = (
        DOT(student.parameters(), task_every=1, **OPTIONS),
        DOT(twin.parameters(), **OPTIONS),
    )
    train(student, one, batches(5))
    train(twin, default, batches(5))
    assert equal(student.parameters(), twin.parameters())
    assert one.param_groups[0].keys() == default.param_groups[0].keys()
    assert all("task_age" not in group for group in one.param_groups)
    assert all(set(state) == KEYS - {"held_task_gradient", "held_reach"} for state in one.state.values())


@pytest.mark.parametrize(
    ("every", "steps", "passes"), [(1, 4, 8), (2, 4, 6), (4, 4, 5), (4, 8, 10), (4, 5, 7)]
)
def test_backward_passes(student, every, steps, passes):
    train(student, DOT(student.parameters(), task_every=every, **OPTIONS), batches(steps))
    assert student.passes == passes


def test_gradients_are_the_divided_sets_before_and_after_clipping(student):
    opt = DOT(student.parameters(), task_every=3, **OPTIONS)
    first, second = batches(2)
    held, _ = exact_sets(student, first)
    train(student, opt, [first], clip=0.1)  # which holds them unclipped
    task, distill = exact_sets(student, second)
    opt.backward(**student.losses(second))
    assert all(param.grad is None for param in student.parameters())
    want = [Plain.divide(*row) for row in zip(task, distill, held, distill, strict=True)]
    want[2:4] = [(t, None) for t in task[2:4]]
    for row, expected in zip(opt.gradients(), want, strict=True):
        for got, other in zip(row[1:], expected, strict=True):
            assert (got is None) == (other is None)
            assert got is None or torch.allclose(got, other, rtol=1e-12, atol=1e-12)
    norm = opt.clip_grad_norm_(0.1)["joint"]
    both = [t if d is None else d if t is None else t + d for t, d in zip(task, distill, strict=True)]
    assert torch.allclose(norm, get_total_norm(both))
    joint = [g for row in opt.gradients() for g in [sum(g for g in row[1:] if g is not None)]]
    assert float(get_total_norm(joint)) == pytest.approx(0.1, rel=1e-4)
    assert torch.allclose(student.body.weight.grad, held[0] * 0.1 / norm, rtol=1e-4)


REACH = st.sampled_from([(), ("task",), ("distill",), ("task", "distill"), ("task", "distill")])


@settings(
    derandomize=True,
    deadline=None,
    max_examples=80,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(data=st.data())
def test_whatever_reaches_what(data, linear_loss):
    every, count = data.draw(st.integers(1, 4)), data.draw(st.integers(1, 4))
    reach = [[data.draw(REACH) for _ in range(count)] for _ in range(data.draw(st.integers(1, 7)))]
    params = [nn.Parameter(torch.ones(2, dtype=torch.float64)) for _ in range(count)]
    opt = DOT(params, task_every=every, **OPTIONS)
    plain = Plain([p.detach().clone() for p in params], every, **OPTIONS)
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 99)))
    for row in reach:
        grads = {
            name: [
                torch.randn(2, generator=generator, dtype=torch.float64) if name in names else None
                for names in row
            ]
            for name in ("task", "distill")
        }
        losses = {name: linear_loss(params, rows) for name, rows in grads.items()}
        if all(loss is None for loss in losses.values()):
            continue
        opt.backward(**losses)
        if not missing(opt, losses):
            opt.step()
            plain.step(grads["task"], grads["distill"], consent=None in losses.values())
        opt.zero_grad()
    assert close(params, plain.params)


def missing(opt, losses):
    """Whether a loss that was given comes out as no gradient at all: step() raises, as it says."""
    rows = [row[1:] for row in opt.gradients()]
    names = [name for i, name in enumerate(opt.streams) if all(row[i] is None for row in rows)]
    if not any(losses[name] is not None for name in names):
        return False
    with pytest.raises(RuntimeError, match=r"step\(\) has .* gradients but no"):
        opt.step()
    return True


# -------------------------------------------------------------------- what interrupts the rhythm


@pytest.mark.parametrize("absent", ["task", "distill"])
@pytest.mark.parametrize("at", [0, 1, 3])
def test_a_step_without_a_loss_is_exact_and_the_next_one_refreshes(student, absent, at):
    twin = twin_of(student)
    plain = Plain(twin.parameters(), 3, **OPTIONS)
    opt = DOT(student.parameters(), task_every=3, **OPTIONS)
    for i, batch in enumerate(batches(7)):
        losses, (task, distill) = student.losses(batch), exact_sets(twin, batch)
        if i == at:
            losses[absent] = None
            task, distill = (
                [None] * 6 if name == absent else grads
                for name, grads in (("task", task), ("distill", distill))
            )
        student.passes = 0
        opt.backward(**losses)
        assert student.passes == (1 if i == at or 0 < plain.age < 3 else 2)
        opt.step()
        opt.zero_grad()
        plain.step(task, distill, consent=i == at)
    assert close(student.parameters(), plain.params)


def test_a_loss_that_is_missing_in_a_later_micro_batch(student):
    """The step is of one pass by then: the total keeps what came, and the next step refreshes."""
    opt = DOT(student.parameters(), task_every=3, **OPTIONS)
    first, second, third = batches(3)
    held, _ = exact_sets(student, first)
    train(student, opt, [first])
    (task, distill), (_, more) = exact_sets(student, second), exact_sets(student, third)
    opt.backward(**student.losses(second))
    opt.backward(task=None, distill=student.losses(third)["distill"])
    row = next(iter(opt.gradients()))
    assert torch.equal(row[1], held[0])
    assert torch.allclose(row[2], task[0] + distill[0] + more[0] - held[0], rtol=1e-12)
    opt.step()
    opt.zero_grad()
    student.passes = 0
    opt.backward(**student.losses(first))
    assert student.passes == 2


def test_an_exact_step_stays_exact_for_all_its_micro_batches(student):
    opt = DOT(student.parameters(), task_every=3, **OPTIONS)
    first, second, third = batches(3)
    train(student, opt, [first])
    student.passes = 0
    opt.backward(task=None, distill=student.losses(second)["distill"])
    opt.backward(**student.losses(third))
    assert student.passes == 3
    want = exact_sets(student, third)[0][0]
    assert torch.allclose(next(iter(opt.gradients()))[1], want, rtol=1e-12)


def test_gradients_after_clipping_make_the_next_step_a_refresh(student):
    opt = DOT(student.parameters(), task_every=3, **OPTIONS)
    first, second, third = batches(3)
    opt.backward(**student.losses(first))
    opt.clip_grad_norm_(0.1)
    opt.backward(**student.losses(second))
    opt.step()
    opt.zero_grad()
    student.passes = 0
    train(student, opt, [third])
    assert student.passes == 2


def test_gradients_after_clipping_join_a_step_of_one_pass(student):
    opt = DOT(student.parameters(), task_every=3, **OPTIONS)
    first, second, third = batches(3)
    train(student, opt, [first])
    opt.backward(**student.losses(second))
    opt.clip_grad_norm_(0.1)
    (_, before_task, before) = next(iter(opt.gradients()))
    task, distill = exact_sets(student, third)
    opt.backward(**student.losses(third))
    (_, after_task, after) = next(iter(opt.gradients()))
    assert torch.equal(after_task, before_task)
    assert torch.allclose(after, before + task[0] + distill[0], rtol=1e-12)
    opt.step()


def test_a_new_group_makes_the_next_step_a_refresh(student):
    twin = twin_of(student)
    opt = DOT([student.body.weight, *student.head.parameters()], task_every=4, **OPTIONS)
    train(student, opt, batches(2))
    assert student.passes == 3
    opt.add_param_group({"params": [student.body.bias, *student.project.parameters()], "lr": 0.01})
    student.passes = 0
    train(student, opt, batches(5, seed=2))
    assert student.passes == 5 + 2  # steps 1 and 5
    assert not equal(bits(student), bits(twin))
    assert all(set(opt.state[param]) == KEYS for param in student.parameters())
    assert [group["task_age"] for group in opt.param_groups] == [1, 1]


@pytest.mark.parametrize("at", [0, 1])
def test_pending_gradients_that_are_dropped_change_nothing(student, at):
    twin = twin_of(student)
    steps = batches(4)
    opts = [DOT(model.parameters(), task_every=3, **OPTIONS) for model in (student, twin)]
    train(student, opts[0], steps[:at])
    train(twin, opts[1], steps[:at])
    opts[0].backward(**student.losses(steps[3]))
    opts[0].clip_grad_norm_(0.1)
    opts[0].zero_grad()
    train(student, opts[0], steps)
    train(twin, opts[1], steps)
    assert equal(student.parameters(), twin.parameters())
    assert student.passes > twin.passes


@pytest.mark.parametrize("at", [0, 1])
def test_a_failed_pass_leaves_all_as_it_was(student, at):
    class Failing(torch.autograd.Function):
        @staticmethod
        def forward(_, value):
            return value.clone()

        @staticmethod
        def backward(*_):
            raise MemoryError("out of it")

    twin = twin_of(student)
    steps = batches(4)
    opts = [DOT(model.parameters(), task_every=3, **OPTIONS) for model in (student, twin)]
    train(student, opts[0], steps[:at])
    train(twin, opts[1], steps[:at])
    losses = student.losses(steps[3])
    losses["task"] = Failing.apply(losses["task"])
    with pytest.raises(MemoryError):
        opts[0].backward(**losses)
    assert all(row[1:] == (None, None) for row in opts[0].gradients())
    train(student, opts[0], steps)
    train(twin, opts[1], steps)
    assert equal(student.parameters(), twin.parameters())


def test_a_gradient_by_another_hand_counts_once(student):
    """What a backward pass of the user's own leaves in .grad each step is in the held gradient too."""
    twin = twin_of(student)
    opt = DOT(student.parameters(), task_every=3, **OPTIONS)
    plain = Plain(twin.parameters(), 3, **OPTIONS)
    for batch in batches(5):
        (0.1 * student.body.weight.square().sum()).backward()
        opt.backward(**student.losses(batch))
        opt.step()
        opt.zero_grad()
        task, distill = exact_sets(twin, batch)
        plain.step([task[0] + 0.2 * twin.body.weight.detach(), *task[1:]], distill)
    assert close(student.parameters(), plain.params)


# -------------------------------------------------------------------- GradScaler


@pytest.mark.parametrize("clip", [None, 0.5])
def test_scaled_losses_take_the_same_path(student, clip):
    twin = twin_of(student)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, growth_interval=3)
    train(student, DOT(student.parameters(), task_every=3, **OPTIONS), batches(7), scaler=scaler, clip=clip)
    train(twin, DOT(twin.parameters(), task_every=3, **OPTIONS), batches(7), clip=clip)
    assert scaler.get_scale() > 1024.0
    assert close(student.parameters(), twin.parameters())
    assert student.passes == twin.passes == 7 + 3


@pytest.mark.parametrize("bad", [0, 1, 3])
@pytest.mark.parametrize("where", ["task", "distill"])
def test_a_skipped_step_is_taken_again_as_what_it_was(student, bad, where):
    twin = twin_of(student)
    steps = batches(5)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    opt = DOT(student.parameters(), task_every=3, **OPTIONS)
    train(student, opt, steps[:bad], scaler=scaler)
    losses = student.losses(steps[bad])
    losses[where] = losses[where] * float("inf")
    before = bits(student)
    opt.backward(**losses, scaler=scaler)
    scaler.step(opt)
    scaler.update()
    opt.zero_grad()
    assert equal(student.parameters(), before)
    assert scaler.get_scale() == 512.0
    student.passes = 0
    train(student, opt, steps[bad:], scaler=scaler)
    train(twin, DOT(twin.parameters(), task_every=3, **OPTIONS), steps)
    assert close(student.parameters(), twin.parameters())
    assert student.passes == sum(2 if i % 3 == 0 else 1 for i in range(bad, 5))


# -------------------------------------------------------------------- states


def through_a_file(state):
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


@pytest.mark.parametrize("stop", range(6))
@pytest.mark.parametrize("travel", [copy.deepcopy, through_a_file])
def test_a_loaded_state_goes_on_to_the_same_bits(student, stop, travel):
    make = lambda model: DOT(model.parameters(), task_every=4, **OPTIONS)  # noqa: E731
    opt = make(student)
    train(student, opt, batches(stop))
    twin = twin_of(student)
    resumed = make(twin)
    resumed.load_state_dict(travel(opt.state_dict()))
    for model, each in ((student, opt), (twin, resumed)):
        model.passes = 0
        train(model, each, batches(5, seed=2))
    assert equal(student.parameters(), twin.parameters())
    assert student.passes == twin.passes
    states = opt.state_dict()["state"]
    assert all(set(state) == KEYS for state in states.values())
    assert [state["held_reach"] for state in states.values()] == [3, 3, 1, 1, 2, 2]


@pytest.mark.parametrize("how", [copy.deepcopy, lambda pair: pickle.loads(pickle.dumps(pair))])
def test_copies_go_on_alike(student, how):
    opt = DOT(student.parameters(), task_every=4, **OPTIONS)
    train(student, opt, batches(2))
    twin, clone = how((student, opt))
    assert clone.task_every == 4
    train(student, opt, batches(5, seed=2))
    train(twin, clone, batches(5, seed=2))
    assert equal(student.parameters(), twin.parameters())
    assert twin.passes == student.passes


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
def test_distributed_checkpoint(student, tmp_path):
    make = lambda model: DOT(model.parameters(), task_every=3, **OPTIONS)  # noqa: E731
    opt, twin = make(student), Student()
    train(student, opt, batches(2))
    model_state, optim_state = get_state_dict(student, opt)
    dcp.save({"model": model_state, "optim": optim_state}, checkpoint_id=tmp_path)
    resumed = make(twin)
    model_state, optim_state = get_state_dict(twin, resumed)
    dcp.load({"model": model_state, "optim": optim_state}, checkpoint_id=tmp_path)
    set_state_dict(twin, resumed, model_state_dict=model_state, optim_state_dict=optim_state)
    train(student, opt, batches(4, seed=2))
    train(twin, resumed, batches(4, seed=2))
    assert equal(student.parameters(), twin.parameters())
    assert twin.passes == 1 + 2 + 1 + 1


@pytest.mark.parametrize(("before", "after"), [(1, 3), (3, 1), (3, 2), (2, 4)])
def test_a_state_of_another_task_every_loads(student, before, after):
    opt = DOT(student.parameters(), task_every=before, **OPTIONS)
    train(student, opt, batches(2))
    state = opt.state_dict()
    saved = copy.deepcopy(state)
    twin = twin_of(student)
    resumed = DOT(twin.parameters(), task_every=after, **OPTIONS)
    resumed.load_state_dict(state)
    assert set(state["param_groups"][0]) == set(saved["param_groups"][0])
    assert [set(s) for s in state["state"].values()] == [set(s) for s in saved["state"].values()]
    assert all((set(s) == KEYS) == (after > 1) for s in resumed.state_dict()["state"].values())
    assert all(("task_age" in group) == (after > 1) for group in resumed.param_groups)
    train(twin, resumed, batches(1, seed=2))
    # A held gradient of age 2 serves K = 4 for another step; elsewhere both losses are differentiated.
    assert twin.passes == (1 if after == 4 else 2)


def test_a_published_state_loads(student):
    twin = twin_of(student)
    opt = DOT(student.parameters(), task_every=3, **OPTIONS)
    train(twin, exact := DOT(twin.parameters(), **OPTIONS), batches(2))
    student.load_state_dict(twin.state_dict())
    group = {"lr": 0.1, "momentum": 0.825, "momentum_kd": 0.975, "weight_decay": 0.01}
    group |= {"dampening": 0, "nesterov": False, "params": list(range(6))}
    buffers = {
        i: {
            "momentum_buffer": exact.state[param]["task_momentum_buffer"].clone(),
            "momentum_kd_buffer": exact.state[param]["distill_momentum_buffer"].clone(),
        }
        for i, param in enumerate(twin.parameters())
    }
    opt.load_state_dict({"state": buffers, "param_groups": [group]})
    for model, each in ((student, opt), (twin, exact)):
        model.passes = 0
        train(model, each, batches(1, seed=3))
    assert student.passes == twin.passes == 2
    assert close(student.parameters(), twin.parameters())
    train(student, opt, batches(1, seed=4))
    assert student.passes == 3


def test_half_a_held_state_is_refused(student):
    opt = DOT(student.parameters(), task_every=3, **OPTIONS)
    train(student, opt, batches(1))
    state = opt.state_dict()
    del state["state"][0]["held_reach"]
    with pytest.raises(
        ValueError, match=r"parameter 0 has .* where \['distill_momentum_buffer', 'held_reach'"
    ):
        opt.load_state_dict(state)


# -------------------------------------------------------------------- what is refused


@pytest.mark.parametrize("value", [0, -1, 2.0, True, "4", None])
def test_no_number_of_steps(student, value):
    with pytest.raises(
        ValueError, match=r"task_every must be a whole number of steps >= 1 \(1: exact\), got"
    ):
        DOT(student.parameters(), lr=0.1, task_every=value)


def test_captures_are_refused(student):
    opt = DOT(student.parameters(), task_every=4, **OPTIONS)
    student.losses(batches(1)[0])["distill"].backward()
    with pytest.raises(RuntimeError, match=r"capture_distill\(\) and task_every=4 do not go together"):
        opt.capture_distill()
    with pytest.raises(RuntimeError, match=r"capture_task\(\) and task_every=4"):
        opt.capture_task()


@pytest.mark.parametrize("kind", [DOT, DOTAdamW])
def test_a_group_cannot_have_its_own(student, kind):
    with pytest.raises(ValueError, match="task_every is for all parameters: give it to the optimizer"):
        kind([{"params": list(student.parameters()), "task_every": 4}], lr=0.1)


@pytest.mark.parametrize(
    "make",
    [
        lambda params: DOTAdamW(params, task_every=2),
        lambda params: MultiMomentumSGD(params, 0.1, {"task": 0.9, "distill": 0.9}, task_every=2),
    ],
)
def test_others_do_not_know_the_option(student, make):
    with pytest.raises(TypeError, match="task_every"):
        make(student.parameters())


# -------------------------------------------------------------------- recipes


@pytest.mark.parametrize("table", [DOTTable, ControlTable])
def test_a_recipe_says_how_often(student, table):
    read = {"name": table.__name__.removesuffix("Table").lower(), "lr": 0.1, "delta": 0.05}
    assert build_optimizer(table(**read), list(student.parameters())).task_every == 1
    opt = build_optimizer(table(**read, task_every=4), list(student.parameters()))
    train(student, opt, batches(4))
    assert student.passes == 5
    with pytest.raises(ValueError, match="task_every"):
        table(**read, task_every=0)
