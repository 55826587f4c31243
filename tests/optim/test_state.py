"""States: saved, loaded, copied, pickled and scheduled, the run goes on to the same bits."""

import copy
import io
import pickle
import re
from functools import partial

import pytest
import torch
import torch.distributed.checkpoint as dcp
from torch import nn
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.optim import lr_scheduler

from dotkd.optim import DOT, DOTAdamW, MultiMomentumSGD, ReferenceDOT

from . import common
from .common import Student, equal, losses

BUFFERS = {"task_momentum_buffer", "distill_momentum_buffer"}
MAKERS = {
    "DOT": lambda params: DOT(params, lr=0.05, weight_decay=0.01, dampening=0.1),
    "DOT, groups": lambda params: DOT(
        [
            {"params": (rows := list(params))[:3], "lr": 0.02, "delta": 0.05},
            {"params": rows[3:], "momentum": 0.8},
        ],
        lr=0.05,
        weight_decay=0.01,
        nesterov=True,
    ),
    "DOT, tensor lr": lambda params: DOT(params, lr=torch.tensor(0.05), foreach=True),
    "MultiMomentumSGD": lambda params: MultiMomentumSGD(
        params, 0.05, {"task": 0.7, "distill": 0.95}, gains={"task": 0.5}, weight_decay=0.01
    ),
    "DOTAdamW": lambda params: DOTAdamW(params, lr=0.01, weight_decay=0.1),
}


@pytest.fixture
def student():
    torch.manual_seed(0)
    return Student()


@pytest.fixture(params=MAKERS)
def make(request):
    return MAKERS[request.param]


batches = partial(common.batches, dtype=torch.float32)


def train(student, opt, steps, scheduler=None):
    for batch in steps:
        task, distill = losses(student, batch)
        opt.backward(task=task, distill=distill)
        opt.step()
        opt.zero_grad()
        if scheduler is not None:
            scheduler.step()


def bits(student):
    return common.bits(student.parameters())


def other_student(student):
    """Return the student with the same weights in other tensors."""
    twin = Student()
    twin.load_state_dict(student.state_dict())
    return twin


# -------------------------------------------------------------------- the same class


def through_memory(state):
    return copy.deepcopy(state)


def through_a_file(state):
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


@pytest.mark.parametrize("travel", [through_memory, through_a_file])
def test_a_loaded_state_goes_on_to_the_same_bits(student, make, travel):
    first, second = batches(3), batches(3, seed=2)
    opt = make(student.parameters())
    train(student, opt, first)
    state, start = travel(opt.state_dict()), bits(student)
    twin = other_student(student)
    resumed = make(twin.parameters())
    resumed.load_state_dict(state)
    train(student, opt, second)
    train(twin, resumed, second)
    assert equal(bits(twin), bits(student))
    assert not equal(bits(twin), start)
    fresh_twin = other_student(student)
    for param, value in zip(fresh_twin.parameters(), start, strict=True):
        param.data.copy_(value)
    train(fresh_twin, make(fresh_twin.parameters()), second)
    assert not equal(bits(fresh_twin), bits(student))  # without the state it is another run


@pytest.mark.parametrize("name", ["DOT", "DOT, groups", "MultiMomentumSGD"])
def test_every_updated_parameter_has_all_buffers_from_the_first_step(student, name):
    opt = MAKERS[name](student.parameters())
    train(student, opt, batches(1))
    state = opt.state_dict()["state"]
    assert len(state) == 6
    for (key, param), buffers in zip(student.named_parameters(), state.values(), strict=True):
        assert set(buffers) == BUFFERS
        assert all(buffer.shape == param.shape for buffer in buffers.values())
        assert bool(buffers["task_momentum_buffer"].any()) != key.startswith("project")
        assert bool(buffers["distill_momentum_buffer"].any()) != key.startswith("head")


def test_a_parameter_that_no_loss_reached_has_no_state(student):
    opt = DOT(student.parameters(), lr=0.05)
    opt.backward(task=losses(student, batches(1)[0])[0], distill=None)
    opt.step()
    reached = {name for name, param in student.named_parameters() if opt.state.get(param)}
    assert reached == {"body.weight", "body.bias", "head.weight", "head.bias"}


@pytest.mark.parametrize("first", ["task", "distill"])
def test_a_loss_that_comes_late_finds_its_buffer(student, first):
    """The state was saved when one loss alone had been seen."""
    early, late = batches(1), batches(3, seed=2)
    opt = MAKERS["DOT"](student.parameters())
    given = dict(zip(("task", "distill"), losses(student, early[0]), strict=True))
    opt.backward(**{name: loss if name == first else None for name, loss in given.items()})
    opt.step()
    opt.zero_grad()
    assert all(set(buffers) == BUFFERS for buffers in opt.state.values())
    twin = other_student(student)
    resumed = MAKERS["DOT"](twin.parameters())
    resumed.load_state_dict(through_a_file(opt.state_dict()))
    train(student, opt, late)
    train(twin, resumed, late)
    assert equal(bits(twin), bits(student))


def test_loading_drops_pending_gradients(student):
    opt = DOT(student.parameters(), lr=0.05)
    train(student, opt, batches(1))
    state = opt.state_dict()
    task, distill = losses(student, batches(1)[0])
    opt.backward(task=task, distill=distill)
    opt.load_state_dict(state)
    assert all(row[2] is None for row in opt.gradients())


def test_group_values_are_loaded(student):
    opt = MAKERS["DOT, groups"](student.parameters())
    rows = list(other_student(student).parameters())
    resumed = DOT([{"params": rows[:3]}, {"params": rows[3:]}], lr=1.0)
    resumed.load_state_dict(opt.state_dict())
    assert [group["lr"] for group in resumed.param_groups] == [0.02, 0.05]
    assert [group["delta"] for group in resumed.param_groups] == [0.05, 0.075]
    assert [group["momentum"] for group in resumed.param_groups] == [0.9, 0.8]
    assert [group["nesterov"] for group in resumed.param_groups] == [True, True]


def test_named_parameters_keep_their_names(student):
    opt = DOT(student.named_parameters(), lr=0.05)
    train(student, opt, batches(1))
    twin = other_student(student)
    resumed = DOT(twin.named_parameters(), lr=0.05)
    resumed.load_state_dict(through_memory(opt.state_dict()))
    assert resumed.param_groups[0]["param_names"] == [name for name, _ in student.named_parameters()]
    train(student, opt, batches(2))
    train(twin, resumed, batches(2))
    assert equal(bits(twin), bits(student))


# -------------------------------------------------------------------- copies and pickles


def test_deep_copies_go_on_alike(student, make):
    opt = make(student.parameters())
    train(student, opt, batches(2))
    twin, clone = copy.deepcopy((student, opt))
    assert type(clone) is type(opt)
    assert clone.param_groups[0]["params"][0] is next(twin.parameters())
    more = batches(3, seed=2)
    before = bits(student)
    train(twin, clone, more)
    assert equal(bits(student), before)  # a copy shares nothing
    train(student, opt, more)
    assert equal(bits(twin), bits(student))


def test_a_deep_copy_keeps_the_process_group(student):
    group = object()
    opt = DOT(student.parameters(), lr=0.1, process_group=group)
    _, clone = copy.deepcopy((student, opt))
    assert clone.process_group is group


def test_pickles_go_on_alike(student, make):
    opt = make(student.parameters())
    train(student, opt, batches(2))
    twin, clone = pickle.loads(pickle.dumps((student, opt)))
    assert clone.param_groups[0]["params"][0] is next(twin.parameters())
    more = batches(3, seed=2)
    train(twin, clone, more)
    train(student, opt, more)
    assert equal(bits(twin), bits(student))


def test_a_process_group_does_not_pickle(student):
    opt = DOT(student.parameters(), lr=0.1, process_group=lambda: None)  # which no pickle takes
    clone = pickle.loads(pickle.dumps(opt))
    with pytest.raises(
        RuntimeError, match=r"was pickled, and a process group cannot be: set opt\.process_group"
    ):
        clone.synchronize()
    params = clone.param_groups[0]["params"]
    loss = sum(param.sum() for param in params)
    clone.backward(task=loss, distill=loss)
    before = [param.detach().clone() for param in params]
    with pytest.raises(RuntimeError, match="process group cannot be"):
        clone.step()
    assert equal(params, before)
    clone.process_group = None
    clone.synchronize()
    clone.step()
    assert not equal(params, before)
    assert pickle.loads(pickle.dumps(clone)).process_group is None


# -------------------------------------------------------------------- other optimizers' states


@pytest.mark.parametrize("low", [0.825, 0.5])
def test_the_published_optimizers_state_goes_on(student, low):
    student.double()
    params = list(student.parameters())
    generator = torch.Generator().manual_seed(5)

    def noise(param):
        return torch.randn(param.shape, generator=generator, dtype=torch.float64)

    # Both losses will reach the body: its buffers that are missing here must be zeros, not leftovers.
    no_task, no_distill = ("project", "body.weight"), ("head", "body.bias")
    task = [None if name.startswith(no_task) else noise(p) for name, p in student.named_parameters()]
    distill = [None if name.startswith(no_distill) else noise(p) for name, p in student.named_parameters()]
    both = 0 if low == 0.5 else 1  # and one of them has both buffers
    task[both], distill[both] = noise(params[both]), noise(params[both])
    state = {
        i: {
            key: buffer
            for key, buffer in (("momentum_buffer", task[i]), ("momentum_kd_buffer", distill[i]))
            if buffer is not None
        }
        for i in range(len(params))
    }
    assert {tuple(buffers) for buffers in state.values()} == {
        ("momentum_buffer",),
        ("momentum_kd_buffer",),
        ("momentum_buffer", "momentum_kd_buffer"),
    }
    published = {
        "state": state,
        "param_groups": [
            {
                "lr": 0.03,
                "momentum": low,
                "momentum_kd": 0.975,
                "dampening": 0,
                "weight_decay": 0.02,
                "nesterov": False,
                "params": list(range(len(params))),
            }
        ],
    }
    twin = copy.deepcopy(student)
    saved = copy.deepcopy(published)
    middle, half = (low + 0.975) / 2, (0.975 - low) / 2
    dot = ReferenceDOT(list(twin.parameters()), lr=0.03, momentum=middle, delta=half, weight_decay=0.02)
    for i, param in enumerate(params):
        dot.task_buffers[i] = torch.zeros_like(param) if task[i] is None else task[i].clone()
        dot.distill_buffers[i] = torch.zeros_like(param) if distill[i] is None else distill[i].clone()

    opt = DOT(params, lr=1.0, momentum=0.1, delta=0.0, foreach=True)
    opt.load_state_dict(through_a_file(published))
    group = opt.param_groups[0]
    assert (group["momentum"], group["delta"]) == pytest.approx((middle, half))
    assert (group["lr"], group["weight_decay"], group["foreach"]) == (0.03, 0.02, True)
    assert "momentum_kd" not in group
    assert all(set(opt.state[param]) == BUFFERS for param in params)
    for batch in batches(3):
        batch = [tensor.double() if tensor.is_floating_point() else tensor for tensor in batch]
        one, two = losses(twin, batch)
        rows = list(twin.parameters())
        dot.step(
            torch.autograd.grad(one, rows, retain_graph=True, allow_unused=True),
            torch.autograd.grad(two, rows, allow_unused=True),
        )
        train(student, opt, [batch])
    for (name, a), b in zip(student.named_parameters(), twin.parameters(), strict=True):
        assert torch.allclose(a, b, rtol=1e-12, atol=1e-12), name
    assert published["param_groups"] == saved["param_groups"]  # the dictionary given stays as it was
    assert all(set(published["state"][i]) == set(saved["state"][i]) for i in saved["state"])


def test_a_published_state_without_buffers(student):
    group = {"lr": 0.1, "momentum": 0.8, "momentum_kd": 0.9, "params": [0, 1, 2, 3, 4, 5]}
    opt = DOT(student.parameters(), lr=1.0)
    with pytest.raises(ValueError, match="not a state of the published optimizer: parameter 2 has no buffer"):
        opt.load_state_dict({"state": {2: {"momentum_buffer": None}}, "param_groups": [group]})
    opt.load_state_dict({"state": {}, "param_groups": [group]})  # saved before its first step
    assert opt.param_groups[0]["delta"] == pytest.approx(0.05)


FOREIGN = {
    "SGD": lambda params: torch.optim.SGD(params, lr=0.1, momentum=0.9),
    "AdamW": lambda params: torch.optim.AdamW(params, lr=0.1),
    "RMSprop": lambda params: torch.optim.RMSprop(params, lr=0.1),
    "Adagrad": lambda params: torch.optim.Adagrad(params, lr=0.1),
}
OWN = ["DOT", "MultiMomentumSGD", "DOTAdamW"]


@pytest.mark.parametrize("stepped", [False, True])
@pytest.mark.parametrize(
    ("own", "other"), [(own, other) for own in OWN for other in (*FOREIGN, *OWN) if own != other]
)
def test_foreign_states_are_refused(student, own, other, stepped):
    opt, twin = MAKERS[own](student.parameters()), other_student(student)
    stranger = {**MAKERS, **FOREIGN}[other](twin.parameters())
    if stepped and other in OWN:
        train(twin, stranger, batches(1))
    elif stepped:
        sum(losses(twin, batches(1)[0])).backward()
        stranger.step()
    with pytest.raises(
        ValueError, match=rf"not a state of {own}: its parameter groups lack \['.*they have \['"
    ):
        opt.load_state_dict(stranger.state_dict())
    assert not opt.state


def test_a_state_with_other_buffers_is_refused(student):
    opt = DOT(student.parameters(), lr=0.1)
    train(student, opt, batches(1))
    state = opt.state_dict()
    del state["state"][0]["distill_momentum_buffer"]
    text = (
        r"not a state of DOT: parameter 0 has \['task_momentum_buffer'\] where "
        r"\['distill_momentum_buffer', 'task_momentum_buffer'\] belong"
    )
    with pytest.raises(ValueError, match=text):
        opt.load_state_dict(state)


def test_a_state_of_other_streams_is_refused():
    weight = nn.Parameter(torch.ones(2))
    opt = MultiMomentumSGD([weight], 0.1, {"task": 0.9, "hint": 0.5})
    opt.backward(task=weight.sum(), hint=weight.sum())
    opt.step()
    other = MultiMomentumSGD([nn.Parameter(torch.ones(2))], 0.1, {"task": 0.9, "relation": 0.5})
    with pytest.raises(
        ValueError, match=r"parameter 0 has .*hint_momentum_buffer.* where .*relation_momentum_buffer"
    ):
        other.load_state_dict(opt.state_dict())


def test_a_state_of_other_groups_is_refused(student):
    opt = DOT(student.parameters(), lr=0.1)
    twin = MAKERS["DOT, groups"](other_student(student).parameters())
    with pytest.raises(ValueError, match="different number of parameter groups"):
        twin.load_state_dict(opt.state_dict())


# -------------------------------------------------------------------- torch.distributed.checkpoint


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
@pytest.mark.parametrize("name", ["DOT", "DOT, groups", "MultiMomentumSGD", "DOTAdamW"])
def test_distributed_checkpoint(student, tmp_path, name):
    make = MAKERS[name]
    opt = make(student.parameters())
    train(student, opt, batches(3))
    model_state, optim_state = get_state_dict(student, opt)
    assert set(optim_state["state"]) == set(dict(student.named_parameters()))
    dcp.save({"model": model_state, "optim": optim_state}, checkpoint_id=tmp_path)

    torch.manual_seed(99)
    twin = Student()
    resumed = make(twin.parameters())
    start = bits(twin)
    model_state, optim_state = get_state_dict(twin, resumed)  # creates the state with lr 0
    assert equal(bits(twin), start)
    dcp.load({"model": model_state, "optim": optim_state}, checkpoint_id=tmp_path)
    set_state_dict(twin, resumed, model_state_dict=model_state, optim_state_dict=optim_state)
    assert equal(bits(twin), bits(student))
    for one, other in zip(student.parameters(), twin.parameters(), strict=True):
        assert set(opt.state[one]) == set(resumed.state[other])
        for key, value in opt.state[one].items():
            got = resumed.state[other][key]
            assert torch.equal(got, value) if isinstance(value, torch.Tensor) else got == value, key
    if name != "DOTAdamW":  # the classifier under a feature loss has both buffers, one of zeros
        assert set(resumed.state[twin.head.weight]) == BUFFERS
        assert resumed.state[twin.head.weight]["task_momentum_buffer"].any()
        assert not resumed.state[twin.head.weight]["distill_momentum_buffer"].any()
    more = batches(3, seed=2)
    train(student, opt, more)
    train(twin, resumed, more)
    assert equal(bits(twin), bits(student))


@pytest.mark.parametrize("tensor", [False, True])
@pytest.mark.parametrize("name", ["DOT", "DOT, groups", "MultiMomentumSGD", "DOTAdamW"])
def test_a_step_of_rate_0_creates_the_state_and_moves_nothing(student, name, tensor):
    opt = MAKERS[name](student.parameters())
    expected = set(opt._new_state(torch.zeros(1)))
    start = bits(student)
    for group in opt.param_groups:
        group["lr"] = torch.tensor(0.0) if tensor else 0.0
        for param in group["params"]:
            param.grad = torch.ones_like(param)
    opt.step(closure=None)
    assert equal(bits(student), start)
    for param in student.parameters():
        assert set(opt.state[param]) == expected
        assert not any(torch.as_tensor(value).any() for value in opt.state[param].values())


def test_rate_0_in_one_group_only_is_no_excuse(student):
    opt = MAKERS["DOT, groups"](student.parameters())
    opt.param_groups[0]["lr"] = 0.0
    for param in student.parameters():
        param.grad = torch.ones_like(param)
    with pytest.raises(RuntimeError, match="no distillation gradient"):
        opt.step()
    assert not opt.state


def test_rate_0_with_both_losses_fills_the_buffers(student):
    opt = DOT(student.parameters(), lr=0.0)
    start = bits(student)
    train(student, opt, batches(1))
    assert equal(bits(student), start)
    assert opt.state[student.body.weight]["task_momentum_buffer"].any()
    assert opt.state[student.body.weight]["distill_momentum_buffer"].any()


# -------------------------------------------------------------------- schedulers

SCHEDULERS = {
    "StepLR": lambda opt: lr_scheduler.StepLR(opt, step_size=2, gamma=0.1),
    "CosineAnnealingLR": lambda opt: lr_scheduler.CosineAnnealingLR(opt, T_max=6),
    "OneCycleLR": lambda opt: lr_scheduler.OneCycleLR(opt, max_lr=0.1, total_steps=6, cycle_momentum=False),
    "LinearLR": lambda opt: lr_scheduler.LinearLR(opt, total_iters=4),
}


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_schedulers_write_the_rate_that_a_step_uses(student, scheduler):
    student.double()
    steps = [
        [tensor.double() if tensor.is_floating_point() else tensor for tensor in batch]
        for batch in batches(5)
    ]
    twin = copy.deepcopy(student)
    opt = DOT(student.parameters(), lr=0.05, weight_decay=0.01)
    schedule = SCHEDULERS[scheduler](opt)
    params = list(twin.parameters())
    dot = ReferenceDOT(params, lr=0.05, weight_decay=0.01)
    rates = []
    for batch in steps:
        dot.lr = opt.param_groups[0]["lr"]
        rates.append(dot.lr)
        one, two = losses(twin, batch)
        dot.step(
            torch.autograd.grad(one, params, retain_graph=True, allow_unused=True),
            torch.autograd.grad(two, params, allow_unused=True),
        )
        train(student, opt, [batch], schedule)
    assert len(set(rates)) > 2
    for a, b in zip(student.parameters(), params, strict=True):
        assert torch.allclose(a, b, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("name", ["DOT", "DOTAdamW"])
def test_one_cycle_with_its_momentum_is_refused_at_the_step(student, name):
    opt = MAKERS[name](student.parameters())
    lr_scheduler.OneCycleLR(opt, max_lr=0.1, total_steps=6)
    start = bits(student)
    what = "momentum" if name == "DOT" else r"betas\[0\]"
    text = (
        rf"{what} - delta and {what} \+ delta must both lie in \[0, 1\), got {what}=0\.95 and delta=0\.075, "
        r"which make 0\.875 and 1\.025; .*OneCycleLR, needs cycle_momentum=False"
    )
    with pytest.raises(ValueError, match=text):
        train(student, opt, batches(1))
    assert equal(bits(student), start)
    assert not opt.state


def test_one_cycle_with_a_momentum_that_fits(student):
    opt = DOT(student.parameters(), lr=0.05)
    schedule = lr_scheduler.OneCycleLR(opt, max_lr=0.1, total_steps=6, base_momentum=0.8, max_momentum=0.92)
    seen = []
    for batch in batches(5):
        seen.append(opt.param_groups[0]["momentum"])
        train(student, opt, [batch], schedule)
    assert max(seen) == pytest.approx(0.92)
    assert min(seen) < 0.85


def test_reduce_on_plateau(student):
    opt = DOT(student.parameters(), lr=0.08)
    schedule = lr_scheduler.ReduceLROnPlateau(opt, factor=0.5, patience=0)
    for batch in batches(3):
        train(student, opt, [batch])
        schedule.step(1.0)
    assert opt.param_groups[0]["lr"] == pytest.approx(0.02)


def test_a_scheduled_run_resumes_to_the_same_bits(student):
    opt = DOT(student.parameters(), lr=0.05)
    schedule = lr_scheduler.CosineAnnealingLR(opt, T_max=6)
    train(student, opt, batches(3), schedule)
    twin = other_student(student)
    resumed = DOT(twin.parameters(), lr=0.05)
    again = lr_scheduler.CosineAnnealingLR(resumed, T_max=6)
    resumed.load_state_dict(through_a_file(opt.state_dict()))
    again.load_state_dict(through_a_file(schedule.state_dict()))
    train(student, opt, batches(3, seed=2), schedule)
    train(twin, resumed, batches(3, seed=2), again)
    assert equal(bits(twin), bits(student))
    assert resumed.param_groups[0]["lr"] == opt.param_groups[0]["lr"]


@pytest.mark.parametrize("kind", [DOT, DOTAdamW])
def test_a_state_loads_twice_and_into_copies(kind: type[DOT] | type[DOTAdamW]) -> None:
    weight = torch.nn.Parameter(torch.ones(1))
    opt = kind([weight], lr=0.1)
    opt.backward(task=weight.sum(), distill=weight.sum())
    opt.step()
    state = copy.deepcopy(opt.state_dict())
    for target in (opt, opt, copy.deepcopy(opt), pickle.loads(pickle.dumps(opt))):
        target.load_state_dict(copy.deepcopy(state))
        assert target.state_dict() == state


def test_groups_of_momenta_are_scheduled_apart() -> None:
    weights = [torch.nn.Parameter(torch.ones(1)) for _ in range(2)]
    opt = MultiMomentumSGD([{"params": [w]} for w in weights], lr=0.1, momenta={"a": 0.9, "b": 0.5})
    opt.param_groups[0]["momenta"]["a"] = 0.1
    assert opt.param_groups[1]["momenta"] == opt.defaults["momenta"] == {"a": 0.9, "b": 0.5}


# -------------------------------------------------------------------- other models, keys of wrappers

KINDS = ["DOT", "MultiMomentumSGD", "DOTAdamW"]


def stepped(name, weight):
    opt = MAKERS[name]([weight])
    opt.backward(task=weight.sum(), distill=weight.sum())
    opt.step()
    opt.zero_grad()
    return opt


@pytest.mark.parametrize("wanted", [(100, 64), (64, 10), (640,), (10, 64, 1)])
@pytest.mark.parametrize("name", KINDS)
def test_a_state_of_another_shape_is_refused(name, wanted):
    state = stepped(name, nn.Parameter(torch.ones(10, 64))).state_dict()
    opt = MAKERS[name]([nn.Parameter(torch.ones(wanted))])
    key = "distill_exp_avg" if name == "DOTAdamW" else "distill_momentum_buffer"
    text = rf"{key} of parameter 0 has shape \(10, 64\) where the parameter has {re.escape(str(wanted))}"
    with pytest.raises(ValueError, match=text):
        opt.load_state_dict(state)
    assert not opt.state


def test_the_published_optimizers_state_of_another_shape_is_refused():
    group = {"lr": 0.1, "momentum": 0.8, "momentum_kd": 0.9, "params": [0]}
    state = {"state": {0: {"momentum_buffer": torch.ones(3)}}, "param_groups": [group]}
    opt = DOT([nn.Parameter(torch.ones(4))], lr=1.0)
    with pytest.raises(ValueError, match=r"has shape \(3,\) where the parameter has \(4,\)"):
        opt.load_state_dict(state)


@pytest.mark.parametrize("before", [False, True])
@pytest.mark.parametrize("name", KINDS)
def test_a_wrappers_keys_in_the_state_are_kept(name, before):
    """Lookahead, ScheduleFreeWrapper and others keep a copy of the weights there."""
    weight, other = nn.Parameter(torch.ones(3)), nn.Parameter(torch.full((3,), 2.0))
    opt, plain = (
        MAKERS[name]([weight, other]),
        MAKERS[name]([w := nn.Parameter(torch.ones(3)), o := nn.Parameter(torch.full((3,), 2.0))]),
    )
    for step in range(3):
        if step or before:
            for param in (weight, other):
                opt.state[param]["slow_buffer"] = torch.full((2, 2), float(step))
                opt.state[param]["note"] = 7
        for each, (a, b) in ((opt, (weight, other)), (plain, (w, o))):
            task, distill = a.square().sum(), a.sum() + (b.sum() if step == 2 else 0.0)
            each.backward(task=task, distill=distill)
            each.step()
            each.zero_grad()
        again = MAKERS[name]([weight, other])
        again.load_state_dict(through_a_file(opt.state_dict()))
        if step or before:
            for each in (opt, again, copy.deepcopy(opt)):
                for param in each.param_groups[0]["params"]:
                    assert each.state[param]["slow_buffer"].tolist() == [[float(step)] * 2] * 2
                    assert each.state[param]["note"] == 7
        opt = again
    assert equal((weight, other), (w, o))
    ours = set(plain.state[w])
    for one, theirs in ((weight, w), (other, o)):
        assert set(opt.state[one]) == {*ours, "slow_buffer", "note"}
        for key in ours:
            assert torch.equal(
                torch.as_tensor(opt.state[one][key]), torch.as_tensor(plain.state[theirs][key])
            )


def test_a_wrappers_state_of_no_parameter_is_kept():
    weight = nn.Parameter(torch.ones(3))
    opt = stepped("DOT", weight)
    opt.state["wrapper"] = 7
    again = MAKERS["DOT"]([weight])
    again.load_state_dict(opt.state_dict())
    assert again.state["wrapper"] == 7


@pytest.mark.parametrize("name", KINDS)
def test_a_group_key_that_a_checkpoint_lacks_keeps_its_value(name):
    """As in checkpoints of a version that did not have the key yet."""
    state = stepped(name, nn.Parameter(torch.ones(3))).state_dict()
    twins = [nn.Parameter(torch.ones(3)) for _ in range(2)]
    opts = [MAKERS[name]([twin]) for twin in twins]
    opts[0].defaults["later"] = "of the class"
    opts[0].param_groups[0]["later"] = "of the group"
    for opt, twin in zip(opts, twins, strict=True):
        opt.load_state_dict(through_memory(state))
        opt.backward(task=twin.sum(), distill=twin.square().sum())
        opt.step()
    assert opts[0].param_groups[0]["later"] == "of the group"
    assert "later" not in state["param_groups"][0]
    assert equal(twins[:1], twins[1:])
    for key in {"maximize", "weight_decay"}:
        old = through_memory(state)
        del old["param_groups"][0][key]
        opts[1].param_groups[0][key] = 0.25
        opts[1].load_state_dict(old)
        assert opts[1].param_groups[0][key] == 0.25


def test_a_state_of_all_other_streams_is_refused():
    weight = nn.Parameter(torch.ones(2))
    opt = MultiMomentumSGD([weight], 0.1, {"a": 0.9, "b": 0.5})
    opt.backward(a=weight.sum(), b=weight.sum())
    opt.step()
    other = MultiMomentumSGD([nn.Parameter(torch.ones(2))], 0.1, {"task": 0.9, "hint": 0.5})
    with pytest.raises(ValueError, match=r"its streams are \['a', 'b'\], not \['task', 'hint'\]"):
        other.load_state_dict(opt.state_dict())


@pytest.mark.parametrize(
    "scheduler",
    [
        lambda opt: lr_scheduler.OneCycleLR(opt, max_lr=0.1, total_steps=6),
        lambda opt: lr_scheduler.CyclicLR(opt, base_lr=0.01, max_lr=0.1),
    ],
    ids=["OneCycleLR", "CyclicLR"],
)
@pytest.mark.parametrize("momentum", [None, 0.8])
def test_a_cycled_momentum_that_no_stream_follows_is_refused_at_the_step(scheduler, momentum):
    weight = nn.Parameter(torch.ones(2))
    opt = MultiMomentumSGD([weight], 0.1, {"task": 0.7, "hint": 0.95}, momentum=momentum)
    scheduler(opt)
    opt.backward(task=weight.sum(), hint=weight.sum())
    moved = opt.param_groups[0]["momentum"]
    text = (
        rf"momentum, now {moved:.6g}, .*'task': 0\.7, 'hint': 0\.95.*OneCycleLR, needs cycle_momentum=False"
    )
    with pytest.raises(ValueError, match=text):
        opt.step()
    assert weight.tolist() == [1.0, 1.0]
    assert not opt.state
