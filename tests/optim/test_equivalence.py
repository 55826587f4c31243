"""What DOT must equal: torch's own optimizers where the momenta agree, and the identities of the paper."""

import copy

import pytest
import torch
from torch.nn.functional import cross_entropy

from dotkd.losses import kd_loss
from dotkd.optim import DOT, DOTAdamW, MultiMomentumSGD, matched_gains

STEPS = 30
EXACT = {"rtol": 1e-12, "atol": 1e-14}


def problem(seed=0, dtype=torch.float64):
    """A network, and the task and distillation losses of fresh data in every step."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)

    net = torch.nn.Sequential(
        torch.nn.Linear(6, 5, bias=False, dtype=dtype),
        torch.nn.BatchNorm1d(5, dtype=dtype),
        torch.nn.Tanh(),
        torch.nn.Linear(5, 4, dtype=dtype),
    )
    with torch.no_grad():
        for param in net.parameters():
            param.copy_(normal(*param.shape) * 0.5)
    data = [(normal(8, 6), normal(8, 4), normal(8, 4).argmax(1)) for _ in range(STEPS)]

    def losses(model, step):
        images, teacher, labels = data[step]
        logits = model(images)
        return cross_entropy(logits, labels), kd_loss(logits, teacher)

    return net, losses


def two_groups(net, **second):
    params = list(net.parameters())
    return [{"params": params[:2]}, {"params": params[2:], **second}]


def assert_same(model, other, **tolerance):
    for (name, mine), theirs in zip(model.named_parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, **tolerance, msg=lambda text, name=name: f"{name}: {text}")


def race(make, make_other, *, weights=(1.0, 1.0), max_norm=None, scheduler=None):
    """Train two copies of a network, the second one on the weighted sum of the losses, and compare."""
    model, losses = problem()
    start = copy.deepcopy(model)
    other = copy.deepcopy(model)
    opt, plain = make(model), make_other(other)
    schedulers = [scheduler(o) for o in (opt, plain)] if scheduler else []
    for step in range(STEPS):
        task, distill = losses(model, step)
        opt.backward(task=task, distill=distill)
        if max_norm:
            norm = opt.clip_grad_norm_(max_norm)["joint"]
        opt.step()
        opt.zero_grad()

        task, distill = losses(other, step)
        (weights[0] * task + weights[1] * distill).backward()
        if max_norm:
            theirs = torch.nn.utils.clip_grad_norm_(other.parameters(), max_norm)
            assert theirs > max_norm  # or nothing would be clipped
            torch.testing.assert_close(norm, theirs, **EXACT)
        plain.step()
        plain.zero_grad()

        for each in schedulers:
            each.step()
        assert_same(model, other, **EXACT)
    assert all(
        (p - q).abs().max() > 1e-3 for p, q in zip(model.parameters(), start.parameters(), strict=True)
    )


def decays(optimizer):
    return torch.optim.lr_scheduler.MultiStepLR(optimizer, [10, 20], gamma=0.1)


def cycles(optimizer):
    # Cycles momentum or betas as well.
    return torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.05, total_steps=STEPS + 1)


# ------------------------------------------------------------------------------------------- torch.optim.SGD

SGD_CASES = {
    "plain": {},
    "no momentum": {"momentum": 0.0},
    "weight decay": {"weight_decay": 0.01},
    "dampening": {"dampening": 0.3, "weight_decay": 0.01},
    "nesterov": {"nesterov": True, "weight_decay": 0.01},
    "maximize": {"maximize": True, "weight_decay": 0.01},
    "tensor lr": {"lr": torch.tensor(0.02, dtype=torch.float64), "weight_decay": 0.01},
}


def sgd_pair(options, second=None):
    options = {"lr": 0.02, "momentum": 0.9, **options}

    def groups(net):
        return net.parameters() if second is None else two_groups(net, **second)

    return (
        lambda net: DOT(groups(net), delta=0.0, **copy.deepcopy(options)),
        lambda net: torch.optim.SGD(groups(net), **copy.deepcopy(options), foreach=False),
    )


@pytest.mark.parametrize("options", SGD_CASES.values(), ids=SGD_CASES)
def test_delta_zero_is_sgd_on_the_sum(options, kernels):
    for kernel in kernels.values():
        make, make_other = sgd_pair(options)

        def make_with_kernel(net, make=make, kernel=kernel):
            opt = make(net)
            opt.param_groups[0].update(kernel)
            return opt

        race(make_with_kernel, make_other)


def test_delta_zero_is_sgd_group_by_group():
    race(*sgd_pair({"weight_decay": 0.01}, second={"lr": 0.05, "momentum": 0.5, "weight_decay": 0.1}))


def test_joint_clipping_is_clipping_of_the_sum():
    race(*sgd_pair({"weight_decay": 0.01}), max_norm=0.1)


@pytest.mark.parametrize("scheduler", [decays, cycles])
@pytest.mark.parametrize("lr", [0.02, torch.tensor(0.02, dtype=torch.float64)], ids=["float", "tensor"])
def test_schedulers_move_both_alike(scheduler, lr):
    race(*sgd_pair({"lr": lr, "weight_decay": 0.01}), scheduler=scheduler)


def test_sgd_would_notice_another_delta():
    make, make_other = sgd_pair({})

    def shifted(net):
        opt = make(net)
        opt.param_groups[0]["delta"] = 1e-6
        return opt

    with pytest.raises(AssertionError, match="not close"):
        race(shifted, make_other)


# ----------------------------------------------------------------------------------------- torch.optim.AdamW

ADAMW_CASES = {
    "plain": ({}, {}),
    "weight decay": ({"weight_decay": 0.1}, {}),
    "betas and eps": ({"betas": (0.8, 0.95), "eps": 1e-3}, {}),
    "no memory": ({"betas": (0.0, 0.0)}, {}),
    "maximize": ({"maximize": True}, {}),
    "tensor lr": ({"lr": torch.tensor(0.01, dtype=torch.float64)}, {}),
    "clipping": ({}, {"max_norm": 0.1}),
    "lr schedule": ({}, {"scheduler": decays}),
    "lr and betas schedule": ({}, {"scheduler": cycles}),
}


def adamw_pair(options, second=None):
    options = {"lr": 0.01, "weight_decay": 0.01, "eps": 1e-6, **options}

    def groups(net):
        return net.parameters() if second is None else two_groups(net, **second)

    return (
        lambda net: DOTAdamW(groups(net), delta=0.0, **copy.deepcopy(options)),
        lambda net: torch.optim.AdamW(groups(net), **copy.deepcopy(options), foreach=False),
    )


@pytest.mark.parametrize(("options", "how"), ADAMW_CASES.values(), ids=ADAMW_CASES)
def test_adamw_at_delta_zero_is_adamw_on_the_sum(options, how):
    race(*adamw_pair(options), **how)


def test_adamw_at_delta_zero_is_adamw_group_by_group():
    second = {"lr": 0.03, "betas": (0.5, 0.9), "eps": 1e-4, "weight_decay": 0.2}
    race(*adamw_pair({}, second=second))


# -------------------------------------------------------------------------- the control, and normalize


@pytest.mark.parametrize(
    ("momentum", "delta", "gains"),
    [
        (0.9, 0.075, (4 / 7, 4.0)),
        (0.9, 0.09, (10 / 19, 10.0)),
        (0.5, -0.25, (2.0, 2 / 3)),
        (0.9, 0.0, (1, 1)),
    ],
)
def test_matched_gains_by_hand(momentum, delta, gains):
    assert matched_gains(momentum, delta) == pytest.approx(gains, rel=1e-12)


@pytest.mark.parametrize("nesterov", [False, True])
def test_the_control_is_sgd_with_rescaled_losses(nesterov):
    a, b = 4 / 7, 4.0  # momentum 0.9, delta 0.075
    options = {"lr": 0.02, "momentum": 0.9, "nesterov": nesterov}
    task_gain, distill_gain = matched_gains(0.9, 0.075)
    gains = {"task_gain": task_gain, "distill_gain": distill_gain}
    race(
        lambda net: DOT(net.parameters(), delta=0.0, weight_decay=0.01, **gains, **options),
        lambda net: torch.optim.SGD(net.parameters(), weight_decay=a * 0.01, **options, foreach=False),
        weights=(a, b),
    )


SETTLED = {
    "dot": ({}, 1 / (1 - 0.825), 1 / (1 - 0.975)),
    "normalize": ({"normalize": True}, 1 / (1 - 0.9), 1 / (1 - 0.9)),
    "control": ({"delta": 0.0, "task_gain": 4 / 7, "distill_gain": 4.0}, 1 / (1 - 0.825), 1 / (1 - 0.975)),
}


@pytest.mark.parametrize(("options", "task_gain", "distill_gain"), SETTLED.values(), ids=SETTLED)
def test_where_buffers_settle_under_constant_gradients(options, task_gain, distill_gain, linear_loss):
    weight = torch.nn.Parameter(torch.zeros(2, dtype=torch.float64))
    task, distill = (torch.tensor(g, dtype=torch.float64) for g in ([1.0, -2.0], [0.5, 3.0]))
    opt = DOT([weight], lr=1e-3, **options)
    for _ in range(1500):  # 0.975 ** 1500 is below 1e-16
        opt.backward(task=linear_loss([weight], [task]), distill=linear_loss([weight], [distill]))
        opt.step()
        opt.zero_grad()
    state = opt.state[weight]
    tolerance = {"rtol": 1e-12, "atol": 0.0}
    torch.testing.assert_close(state["task_momentum_buffer"], task_gain * task, **tolerance)
    torch.testing.assert_close(state["distill_momentum_buffer"], distill_gain * distill, **tolerance)


# --------------------------------------------------------------------------------------------- the kernels

OPTIONS = {
    "plain": {},
    "everything": {"weight_decay": 0.01, "nesterov": True, "maximize": True, "task_gain": 0.5},
    "dampening": {"weight_decay": 0.01, "dampening": 0.3, "normalize": True},
    "one momentum zero": {"momentum": 0.4, "delta": 0.4},
}


def walk(options, dtype, make=DOT):
    model, losses = problem(dtype=dtype)
    opt = make(model.parameters(), lr=0.01, **options)
    for step in range(STEPS):
        task, distill = losses(model, step)
        opt.backward(task=task, distill=distill.to(dtype))
        opt.step()
        opt.zero_grad()
    return model, [dict(opt.state[p]) for p in model.parameters()]


@pytest.mark.parametrize(("dtype", "eps"), [(torch.float32, 1e-5), (torch.float64, 1e-13)], ids=str)
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_all_kernels_agree_to_rounding(options, dtype, eps, kernels):
    model, state = walk({**options, **kernels["loop"]}, dtype)
    for name in ("default", "fused", "foreach"):
        other, other_state = walk({**options, **kernels[name]}, dtype)
        assert_same(other, model, rtol=eps, atol=eps)
        torch.testing.assert_close(other_state, state, rtol=eps, atol=eps)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_the_loop_is_chosen_in_half_precision_and_foreach_agrees_to_rounding(
    options, dtype, kernels, linear_loss
):
    def numbers(**kernel):
        generator = torch.Generator().manual_seed(0)
        param = torch.nn.Parameter(torch.randn(64, generator=generator).to(dtype))
        opt = DOT([param], lr=0.01, **options, **kernel)
        for _ in range(5):
            task, distill = torch.randn(2, 64, generator=generator).to(dtype)
            opt.backward(task=linear_loss([param], [task]), distill=linear_loss([param], [distill]))
            opt.step()
            opt.zero_grad()
        return torch.stack([param.detach(), *opt.state[param].values()]).double()

    loop, foreach = numbers(**kernels["loop"]), numbers(**kernels["foreach"])
    assert torch.equal(numbers(), loop)
    # Not to the bit: on a CPU torch's foreach rounds the momentum itself to the narrow type.
    rounding = 4 * torch.finfo(dtype).eps * loop.abs().max().item()
    torch.testing.assert_close(foreach, loop, rtol=0.0, atol=rounding)


# -------------------------------------------------------------------------------------- MultiMomentumSGD


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_multi_momentum_with_two_streams_is_dot_to_the_bit(options, kernel):
    options = {"momentum": 0.9, "delta": 0.075, "weight_decay": 0.0, **options}
    rest = {k: v for k, v in options.items() if k not in ("delta", "task_gain", "distill_gain")}
    momentum, delta = options["momentum"], options["delta"]
    own = {
        "momenta": {"task": momentum - delta, "distill": momentum + delta},
        "gains": {"task": options.get("task_gain", 1.0)},
    }
    model, state = walk({**options, **kernel}, torch.float32)
    other, other_state = walk({**rest, **own, **kernel}, torch.float32, MultiMomentumSGD)
    assert_same(other, model, rtol=0.0, atol=0.0)
    torch.testing.assert_close(other_state, state, rtol=0.0, atol=0.0)


def quadratic(model, centre):
    return sum(((p - centre) ** 2).sum() for p in model.parameters())


@pytest.mark.parametrize("options", [{}, {"nesterov": True}, {"dampening": 0.3}, {"maximize": True}], ids=str)
def test_three_equal_momenta_are_sgd_on_the_sum(options, kernel):
    model, losses = problem()
    other = copy.deepcopy(model)
    options = {"lr": 0.01, "weight_decay": 0.01, **options}
    momenta = dict.fromkeys(("task", "hint", "relation"), 0.9)
    opt = MultiMomentumSGD(model.parameters(), momenta=momenta, **options, **kernel)
    plain = torch.optim.SGD(other.parameters(), momentum=0.9, **options, foreach=False)
    for step in range(STEPS):
        task, hint = losses(model, step)
        opt.backward(task=task, hint=hint, relation=0.1 * quadratic(model, 1.0))
        opt.step()
        opt.zero_grad()
        (sum(losses(other, step)) + 0.1 * quadratic(other, 1.0)).backward()
        plain.step()
        plain.zero_grad()
        assert_same(model, other, **EXACT)


REACHES = ["a", "b", "c", "ab", "ac", "bc", "abc"]


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("momentum", [None, 0.8])
def test_a_parameter_reached_by_some_of_three_streams(momentum, normalize, kernel, linear_loss):
    momenta, gains = {"a": 0.5, "b": 0.9, "c": 0.7}, {"a": 0.5, "c": 2.0}
    lr, decay, plain = 0.1, 0.2, 0.7 if momentum is None else momentum
    generator = torch.Generator().manual_seed(0)

    def normal():
        return torch.randn(3, generator=generator, dtype=torch.float64)

    params = [torch.nn.Parameter(normal()) for _ in REACHES]
    opt = MultiMomentumSGD(
        params,
        lr,
        momenta,
        momentum=momentum,
        gains=gains,
        normalize=normalize,
        weight_decay=decay,
        **kernel,
    )
    expected = [p.detach().clone() for p in params]
    buffers = [{stream: torch.zeros(3, dtype=torch.float64) for stream in momenta} for _ in REACHES]
    for _ in range(4):
        grads = {stream: [normal() if stream in reach else None for reach in REACHES] for stream in momenta}
        opt.backward(**{stream: linear_loss(params, grads[stream]) for stream in momenta})
        opt.step()
        opt.zero_grad()
        for i, reach in enumerate(REACHES):
            before = expected[i].clone()
            for stream in reach:
                alone = len(reach) == 1
                m = plain if alone else momenta[stream]
                gain = 1.0 if alone else gains.get(stream, 1.0) * ((1 - m) / (1 - plain) if normalize else 1)
                grad = grads[stream][i] + (decay * before if stream == reach[0] else 0)
                buffers[i][stream] = m * buffers[i][stream] + gain * grad
                expected[i] = expected[i] - lr * buffers[i][stream]
    for param, value, own in zip(params, expected, buffers, strict=True):
        torch.testing.assert_close(param.detach(), value, **EXACT)
        assert set(opt.state[param]) == {f"{stream}_momentum_buffer" for stream in momenta}
        for stream in momenta:
            torch.testing.assert_close(opt.state[param][f"{stream}_momentum_buffer"], own[stream], **EXACT)


# ------------------------------------------------------------------------------------ the paper's identity


@pytest.mark.parametrize("delta", [0.075, -0.05])
@pytest.mark.parametrize("weight_decay", [0.0, 0.01])
def test_one_step_from_shared_buffers_differs_from_sgd_by_delta_times_their_difference(
    delta, weight_decay, kernel
):
    model, losses = problem()
    options = {"lr": 0.02, "momentum": 0.9, "weight_decay": weight_decay}
    opt = DOT(model.parameters(), delta=delta, **options, **kernel)

    def step(number):
        task, distill = losses(model, number)
        opt.backward(task=task, distill=distill)
        opt.step()
        opt.zero_grad()

    for number in range(5):
        step(number)
    before = [{key: value.clone() for key, value in opt.state[p].items()} for p in model.parameters()]

    other = copy.deepcopy(model)
    plain = torch.optim.SGD(other.parameters(), **options)
    for p, state in zip(other.parameters(), before, strict=True):
        shared = state["task_momentum_buffer"] + state["distill_momentum_buffer"]
        plain.state[p]["momentum_buffer"] = shared
    sum(losses(other, 5)).backward()
    plain.step()
    step(5)

    for p, q, state in zip(model.parameters(), other.parameters(), before, strict=True):
        gap = delta * (state["distill_momentum_buffer"] - state["task_momentum_buffer"])
        v_dot = opt.state[p]["task_momentum_buffer"] + opt.state[p]["distill_momentum_buffer"]
        v_sgd = plain.state[q]["momentum_buffer"]
        tolerance = {"rtol": 0.0, "atol": 1e-14 * max(1.0, v_dot.abs().max().item())}
        torch.testing.assert_close(v_dot - v_sgd, gap, **tolerance)
        torch.testing.assert_close((p - q).detach(), -0.02 * gap, **tolerance)
        assert gap.abs().max() > 1e-3


# ----------------------------------------------------------------------------------------- AdamW's odd inputs


@pytest.mark.parametrize("maximize", [False, True])
def test_adamw_of_complex_parameters_is_adamw_of_their_parts(maximize):
    start = torch.tensor([1 + 2j, -3 + 0.5j], dtype=torch.complex128)
    mine, theirs = (torch.nn.Parameter(start.clone()) for _ in range(2))
    opt = DOTAdamW([mine], lr=0.1, delta=0.0, maximize=maximize)
    plain = torch.optim.AdamW([theirs], lr=0.1, maximize=maximize)
    for step in range(1, 4):
        loss = (mine * mine.conj()).real.sum()
        opt.backward(task=0.25 * step * loss, distill=0.75 * step * loss)
        opt.step()
        opt.zero_grad()
        (step * (theirs * theirs.conj()).real.sum()).backward()
        plain.step()
        plain.zero_grad()
        torch.testing.assert_close(mine.detach(), theirs.detach(), **EXACT)
    assert opt.state[mine]["exp_avg_sq"].is_complex()


@pytest.mark.parametrize("shape", [(), (1,)])
def test_adamw_takes_tensor_betas(shape):
    def run(betas):
        weight = torch.nn.Parameter(torch.tensor([1.0, -2.0], dtype=torch.float64))
        opt = DOTAdamW([weight], lr=0.1, betas=betas)
        for _ in range(3):
            opt.backward(task=weight.square().sum(), distill=weight.sum())
            opt.step()
            opt.zero_grad()
        assert opt.momenta() == pytest.approx({"task": 0.725, "distill": 0.875})
        return weight.detach()

    tensors = tuple(torch.full(shape, beta, dtype=torch.float64) for beta in (0.8, 0.99))
    assert torch.equal(run(tensors), run((0.8, 0.99)))
    with pytest.raises(ValueError, match=r"got betas\[0\]=0\.95 and delta=0\.075"):
        run((torch.full(shape, 0.95), 0.99))
