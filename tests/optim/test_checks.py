"""Every sentence that a user can read when a value is wrong, wherever the value comes in."""

import math

import pytest
import torch
import torch.distributed as dist
from torch import nn

from dotkd.optim import DOT, DOTAdamW, MultiMomentumSGD, matched_gains
from dotkd.optim._checks import nearest

NAN, INF = math.nan, math.inf


def weight(**options):
    return nn.Parameter(torch.ones(2, **options))


def multi(params, **options):
    return MultiMomentumSGD(params, **{"lr": 0.1, "momenta": {"task": 0.9, "hint": 0.5}, **options})


def dot(params, **options):
    return DOT(params, **{"lr": 0.1, **options})


FINITE = r"must be a finite number >= 0, got {}$"
WINDOW = (
    r"{0} - delta and {0} \+ delta must both lie in \[0, 1\), got {0}={1} and delta={2}, "
    r"which make {3} and {4}$"
)
SHARED = [
    ({"lr": -0.1}, "lr " + FINITE.format(r"-0\.1")),
    ({"lr": NAN}, "lr " + FINITE.format("nan")),
    ({"lr": INF}, "lr " + FINITE.format("inf")),
    ({"lr": torch.tensor(-1.0)}, "lr " + FINITE.format(r"-1\.0")),
    ({"lr": torch.tensor([0.1, 0.2])}, r"lr as a tensor must have one element, got shape \(2,\)$"),
    ({"weight_decay": -1e-4}, "weight_decay " + FINITE.format(r"-0\.0001")),
    ({"weight_decay": NAN}, "weight_decay " + FINITE.format("nan")),
]
MOMENTUM = [
    ({"dampening": 1.5}, r"dampening must lie in \[0, 1\], got 1\.5$"),
    ({"dampening": -0.5}, r"dampening must lie in \[0, 1\], got -0\.5$"),
    ({"dampening": NAN}, r"dampening must lie in \[0, 1\], got nan$"),
    (
        {"nesterov": True, "dampening": 0.1},
        r"nesterov needs a momentum > 0 and dampening 0, got momentum=0\.\d+ and dampening=0\.1$",
    ),
    ({"fused": True, "foreach": True}, "fused and foreach cannot both be True$"),
]
CASES = {
    dot: [
        *SHARED,
        *MOMENTUM,
        ({"momentum": 0.95}, WINDOW.format("momentum", r"0\.95", r"0\.075", r"0\.875", r"1\.025")),
        ({"momentum": 0.05}, WINDOW.format("momentum", r"0\.05", r"0\.075", r"-0\.025", r"0\.125")),
        ({"delta": 0.1}, WINDOW.format("momentum", r"0\.9", r"0\.1", r"0\.8", "1")),
        ({"delta": -0.2}, WINDOW.format("momentum", r"0\.9", r"-0\.2", r"1\.1", r"0\.7")),
        ({"delta": NAN}, WINDOW.format("momentum", r"0\.9", "nan", "nan", "nan")),
        ({"momentum": NAN}, WINDOW.format("momentum", "nan", r"0\.075", "nan", "nan")),
        ({"task_gain": -1.0}, "task_gain " + FINITE.format(r"-1\.0")),
        ({"distill_gain": INF}, "distill_gain " + FINITE.format("inf")),
        (
            {"nesterov": True, "momentum": 0.0, "delta": 0.0},
            r"nesterov needs a momentum > 0 and dampening 0, got momentum=0 and dampening=0$",
        ),
    ],
    multi: [
        *SHARED,
        *MOMENTUM,
        ({"momenta": {"task": 1.0, "hint": 0.5}}, r"momenta\['task'\] must lie in \[0, 1\), got 1\.0$"),
        ({"momenta": {"task": 0.9, "hint": -0.1}}, r"momenta\['hint'\] must lie in \[0, 1\), got -0\.1$"),
        ({"momenta": {"task": 0.9, "hint": NAN}}, r"momenta\['hint'\] must lie in \[0, 1\), got nan$"),
        ({"momentum": 1.0}, r"^momentum must lie in \[0, 1\), got 1\.0$"),
        ({"momentum": -0.5}, r"^momentum must lie in \[0, 1\), got -0\.5$"),
        ({"gains": {"hnt": 2.0}}, r"gains must name streams out of \['task', 'hint'\], got 'hnt'$"),
        ({"gains": {"hint": -2.0}}, r"gains\['hint'\] must be a finite number >= 0, got -2\.0$"),
        (
            {"nesterov": True, "momenta": {"task": 0.0, "hint": 0.0}},
            r"nesterov needs a momentum > 0 and dampening 0, got momentum=0 and dampening=0$",
        ),
    ],
    DOTAdamW: [
        *SHARED,
        ({"betas": (0.95, 0.999)}, WINDOW.format(r"betas\[0\]", r"0\.95", r"0\.075", r"0\.875", r"1\.025")),
        ({"delta": -0.91}, WINDOW.format(r"betas\[0\]", r"0\.9", r"-0\.91", r"1\.81", r"-0\.01")),
        ({"betas": (0.9, 1.0)}, r"betas\[1\] must lie in \[0, 1\), got 1\.0$"),
        ({"betas": (0.9, -0.1)}, r"betas\[1\] must lie in \[0, 1\), got -0\.1$"),
        ({"eps": -1e-8}, "eps " + FINITE.format("-1e-08")),
    ],
}
ROWS = [
    pytest.param(make, options, text, id=f"{getattr(make, '__name__', make)}-{i}")
    for make, rows in CASES.items()
    for i, (options, text) in enumerate(rows)
]


@pytest.mark.parametrize(("make", "options", "text"), ROWS)
def test_a_value_in_the_constructor(make, options, text):
    with pytest.raises(ValueError, match=text):
        make([weight()], **options)


@pytest.mark.parametrize(("make", "options", "text"), ROWS)
def test_a_value_in_a_group_of_the_constructor(make, options, text):
    if "momenta" in options and set(options["momenta"].values()) == {0.0}:
        options = {**options, "momentum": 0.0}
    with pytest.raises(ValueError, match=text):
        make([{"params": [weight()]}, {"params": [weight()], **options}])


@pytest.mark.parametrize(("make", "options", "text"), ROWS)
def test_a_value_in_a_group_added_later(make, options, text):
    opt = make([weight()])
    with pytest.raises(ValueError, match=text):
        opt.add_param_group({"params": [weight()], **options})
    assert len(opt.param_groups) == 1


@pytest.mark.parametrize(("make", "options", "text"), [row for row in ROWS if "lr" not in row.values[1]])
def test_a_value_written_into_a_group(make, options, text):
    """What a scheduler wrote is checked at the step, before anything moves."""
    first, second = weight(), weight()
    opt = make([{"params": [first]}, {"params": [second]}])
    loss = first.sum() + second.sum()
    opt.backward(**dict.fromkeys(opt.streams, loss))
    opt.param_groups[1].update(options)
    # A value of the window, and a momentum, may come from a scheduler: the sentence goes on with advice.
    with pytest.raises(ValueError, match=text.removesuffix("$")):
        opt.step()
    assert first.tolist() == second.tolist() == [1.0, 1.0]
    assert not opt.state


@pytest.mark.parametrize(
    ("make", "write"),
    [
        (dot, {"momentum": 0.95}),
        (dot, {"delta": 0.2}),
        (DOTAdamW, {"betas": (0.95, 0.9)}),
        (DOTAdamW, {"delta": 0.2}),
    ],
)
def test_a_window_left_by_a_scheduler_names_the_way_out(make, write):
    param = weight()
    opt = make([param])
    opt.backward(task=param.sum(), distill=param.sum())
    opt.param_groups[0].update(write)
    text = "; a scheduler that cycles the momentum, such as OneCycleLR, needs cycle_momentum=False$"
    with pytest.raises(ValueError, match=text):
        opt.step()


@pytest.mark.parametrize(
    ("make", "options"),
    [
        (dot, {"lr": 0.0, "momentum": 0.0, "delta": 0.0, "weight_decay": 0.0, "task_gain": 0.0}),
        (dot, {"delta": -0.075, "dampening": 1.0}),
        (dot, {"momentum": 0.5, "delta": 0.4999, "nesterov": True}),
        (dot, {"lr": torch.tensor([0.1]), "foreach": True}),
        (multi, {"momentum": 0.0, "gains": {"hint": 0.0}}),
        (DOTAdamW, {"betas": (0.0, 0.0), "delta": 0.0, "eps": 0.0}),
    ],
)
def test_values_on_the_border_are_fine(make, options):
    assert make([weight()], **options).param_groups[0]["lr"] is not None


@pytest.mark.parametrize(
    ("make", "key", "hint"),
    [
        (dot, "weigth_decay", "weight_decay"),
        (dot, "momentun", "momentum"),
        (dot, "detla", "delta"),
        (dot, "task_gian", "task_gain"),
        (dot, "nestrov", "nesterov"),
        (multi, "momentas", "momenta"),
        (multi, "gain", "gains"),
        (DOTAdamW, "beta", "betas"),
    ],
)
def test_a_misspelt_key_of_a_group(make, key, hint):
    text = f"unknown key {key!r} in a parameter group; did you mean {hint!r}\\?"
    with pytest.raises(ValueError, match=text):
        make([{"params": [weight()], key: 0.5}])
    opt = make([weight()])
    with pytest.raises(ValueError, match=text):
        opt.add_param_group({"params": [weight()], key: 0.5})
    assert len(opt.param_groups) == 1


def test_other_unknown_keys_pass():
    notes = {"name": "head", "initial_lr": 0.5, "lr_scale": 0.1, "layer": 3, "max_lr": 1.0}
    opt = dot([{"params": [weight()], **notes}])
    assert notes.items() <= opt.param_groups[0].items()


def test_misspelt_arguments_of_the_constructor():
    for make, options in (
        (dot, {"weigth_decay": 0.1}),
        (multi, {"gain": {}}),
        (DOTAdamW, {"beta": (0.9, 0.9)}),
    ):
        with pytest.raises(TypeError, match=next(iter(options))):
            make([weight()], **options)


def test_no_parameters():
    for make in CASES:
        with pytest.raises(ValueError, match="empty parameter list"):
            make([])


def test_a_group_that_is_no_dictionary():
    opt = dot([weight()])
    with pytest.raises(TypeError, match="must be a dict"):
        opt.add_param_group([weight()])


def test_a_parameter_in_two_groups():
    param = weight()
    opt = dot([param])
    with pytest.raises(ValueError, match="more than one parameter group"):
        opt.add_param_group({"params": [param]})


def test_momenta_name_at_least_one_stream():
    with pytest.raises(ValueError, match="momenta must name at least one stream, got none"):
        multi([weight()], momenta={})


@pytest.mark.parametrize(
    "momenta", [{"hint": 0.5, "task": 0.9}, {"task": 0.9}, {"task": 0.9, "hint": 0.5, "more": 0.1}, {}]
)
def test_momenta_of_a_group_name_the_same_streams_in_the_same_order(momenta):
    names = str(list(momenta)).replace("[", r"\[").replace("]", r"\]")
    text = rf"momenta must name the streams \['task', 'hint'\] in this order, got {names}$"
    with pytest.raises(ValueError, match=text):
        multi([{"params": [weight()], "momenta": momenta}])
    param = weight()
    opt = multi([param])
    opt.backward(task=param.sum(), hint=param.sum())
    opt.param_groups[0]["momenta"] = momenta
    with pytest.raises(ValueError, match=text):
        opt.step()


@pytest.mark.parametrize(("momentum", "delta"), [(0.9, 0.1), (0.95, 0.075), (0.05, 0.075), (NAN, 0.0)])
def test_matched_gains(momentum, delta):
    with pytest.raises(ValueError, match=r"momentum - delta and momentum \+ delta must both lie in \[0, 1\)"):
        matched_gains(momentum, delta)


def test_nearest():
    assert nearest("weigth_decay", ["lr", "weight_decay"]) == "; did you mean 'weight_decay'?"
    assert nearest("zzz", ["lr", "weight_decay"]) == ""
    assert nearest("hints", ["hint", "task"], cutoff=0.95) == ""


def test_fused_where_there_is_no_correct_kernel():
    param = weight(dtype=torch.bfloat16)
    opt = dot([param], fused=True)
    opt.backward(task=param.sum(), distill=param.sum())
    with pytest.raises(
        RuntimeError, match=r"fused=True cannot update a parameter of dtype torch\.bfloat16 on 'cpu'"
    ):
        opt.step()


# -------------------------------------------------------------------- processes


@pytest.fixture
def one_process():
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield dist.group.WORLD
    dist.destroy_process_group()


def test_captures_with_a_scaler_and_processes_want_synchronize(one_process):
    param = weight()
    opt, scaler = dot([param], process_group=one_process), torch.amp.GradScaler("cpu", init_scale=8.0)
    for late in (False, True):
        scaler.scale(3 * param.sum()).backward()
        opt.capture_distill(scaler=scaler)
        scaler.scale(2 * param.sum()).backward()
        if late:
            opt.synchronize()
            scaler.unscale_(opt)
            opt.clip_grad_norm_(1e3)
            assert [[g[0].item() for g in row[1:]] for row in opt.gradients()] == [[2.0, 3.0]]
            scaler.step(opt)
            assert param.tolist() == pytest.approx([0.5, 0.5])
            continue
        text = r"with a GradScaler and several processes call opt\.synchronize\(\) before scaler\.unscale_"
        with pytest.raises(RuntimeError, match=text):
            opt.step()
        with pytest.raises(RuntimeError, match=text):
            opt.clip_grad_norm_(1.0)
        assert param.tolist() == [1.0, 1.0]
        opt.zero_grad()


@pytest.mark.parametrize("stream", ["task", "distill"])
def test_a_missing_set_raises_with_a_process_group_too(one_process, stream):
    param = weight()
    opt = dot([param], process_group=one_process)
    param.sum().backward()
    if stream == "distill":
        opt.capture_distill()
    names = {"task": "task", "distill": "distillation"}
    with pytest.raises(RuntimeError, match=rf"step\(\) has {names[stream]} gradients but no "):
        opt.step()


def test_a_group_copied_after_one_cycle_is_accepted() -> None:
    opt = DOT([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
    torch.optim.lr_scheduler.OneCycleLR(opt, max_lr=0.2, total_steps=5, max_momentum=0.9)
    opt.add_param_group({**opt.param_groups[0], "params": [torch.nn.Parameter(torch.zeros(1))]})
    assert opt.param_groups[1]["max_momentum"] == 0.9


@pytest.mark.parametrize("bad", [float("nan"), -0.1])
def test_a_bad_learning_rate_from_a_schedule_is_seen_at_the_step(bad):
    param = weight()
    opt = dot([param])
    opt.backward(task=param.sum(), distill=param.sum())
    opt.param_groups[0]["lr"] = bad
    with pytest.raises(ValueError, match="lr must be a finite number >= 0"):
        opt.step()
    assert param.tolist() == [1.0] * 2


def test_notes_in_a_group_that_contain_a_known_key_are_no_slip():
    opt = DOT([{"params": [nn.Parameter(torch.ones(1))], "no_weight_decay": True}], lr=0.1)
    assert opt.param_groups[0]["no_weight_decay"] is True
