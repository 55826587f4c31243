"""Variational information distillation: recorded numbers, the likelihood by hand, the learned variance."""

import json
import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from dotkd.losses import VariationalRegressor, vid_loss

GOLDEN = Path(__file__).parents[1] / "golden"
HYPER = json.loads((GOLDEN / "losses.json").read_text())
VECTORS = np.load(GOLDEN / "losses.npz")


def regressor(**options):
    torch.manual_seed(0)
    return VariationalRegressor(4, 6, **options)


def maps(*shapes, dtype=torch.float32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype) for shape in shapes]


# Recorded numbers ------------------------------------------------------------


def test_value_and_gradient_equal_the_published_ones():
    prefix = "vid/module/"
    weights = {
        f"regressor.{key.removeprefix(prefix)}": torch.from_numpy(VECTORS[key])
        for key in VECTORS
        if key.startswith(prefix)
    }
    student, teacher, log_scale = (torch.from_numpy(VECTORS[f"vid/in/{n}"]) for n in HYPER["vid"]["inputs"])
    module = VariationalRegressor(6, 12, **HYPER["vid"]["hyper"])
    module.load_state_dict({**weights, "log_scale": log_scale})
    loss = module(student.requires_grad_(), teacher)
    loss.backward()
    expected = torch.from_numpy(VECTORS["vid/grad/student"])
    torch.testing.assert_close(loss.item(), VECTORS["vid/loss"].item(), rtol=1e-5, atol=0)
    assert (student.grad - expected).norm() <= 1e-5 * expected.norm()
    torch.testing.assert_close(student.grad, expected, rtol=1e-5, atol=1e-6 * expected.abs().max().item())


# Numbers by hand -------------------------------------------------------------


def test_by_hand():
    # Two channels, errors 1 and 3, variances 1 and 2 (log(expm1(v)) is the softplus backwards).
    mean = torch.zeros(1, 2, 1, 1, dtype=torch.float64)
    teacher = torch.tensor([1.0, 3.0], dtype=torch.float64).reshape(1, 2, 1, 1)
    log_scale = torch.tensor([math.log(math.expm1(1 - 1e-5)), math.log(math.expm1(2 - 1e-5))]).double()
    expected = 0.5 * ((1 / 1 + math.log(1)) + (9 / 2 + math.log(2))) / 2
    assert vid_loss(mean, teacher, log_scale).item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("variance", [0.1, 4.0, 50.0])
def test_is_the_density_of_a_gaussian_up_to_a_constant(variance):
    mean, teacher = maps((3, 2, 2, 2), (3, 2, 2, 2), dtype=torch.float64)
    log_scale = torch.full((2,), math.log(math.expm1(variance)), dtype=torch.float64)
    density = torch.distributions.Normal(mean, math.sqrt(variance + 1e-9)).log_prob(teacher)
    expected = -density.mean() - 0.5 * math.log(2 * math.pi)
    torch.testing.assert_close(vid_loss(mean, teacher, log_scale, eps=1e-9), expected)


def test_the_best_variance_is_the_mean_squared_error():
    mean, teacher = maps((8, 3, 4, 4), (8, 3, 4, 4), dtype=torch.float64)
    teacher = teacher * torch.tensor([0.3, 1.0, 3.0]).reshape(1, 3, 1, 1)
    errors = (teacher - mean).square().mean(dim=(0, 2, 3))
    log_scale = (errors - 1e-5).expm1().log().requires_grad_()
    vid_loss(mean, teacher, log_scale).backward()
    assert log_scale.grad.abs().max() < 1e-12


# Gradients -------------------------------------------------------------------


def test_gradients_by_finite_differences():
    mean, teacher, log_scale = maps((2, 3, 2, 2), (2, 3, 2, 2), (3,), dtype=torch.float64)
    inputs = [tensor.requires_grad_() for tensor in (mean, teacher, log_scale)]
    assert torch.autograd.gradcheck(vid_loss, inputs)


@pytest.mark.parametrize("teacher_size", [(4, 4), (2, 3), (6, 2)])
def test_gradients_of_the_module_by_finite_differences(teacher_size):
    module = regressor().double()
    student, teacher = maps((2, 4, 4, 4), (2, 6, *teacher_size), dtype=torch.float64)
    names, values = zip(*module.named_parameters(), strict=True)

    def call(student, teacher, *values):
        return torch.func.functional_call(module, dict(zip(names, values, strict=True)), (student, teacher))

    assert torch.autograd.gradcheck(call, (student.requires_grad_(), teacher.requires_grad_(), *values))


def test_an_optimizer_over_the_parameters_moves_the_variance():
    module = regressor()
    student, teacher = maps((8, 4, 3, 3), (8, 6, 3, 3))
    assert "log_scale" in dict(module.named_parameters())
    optimizer = torch.optim.Adam(module.parameters(), lr=0.05)
    before = module(student, teacher).item()
    for _ in range(60):
        optimizer.zero_grad()
        loss = module(student, teacher)
        loss.backward()
        optimizer.step()
    variance = torch.nn.functional.softplus(module.log_scale)
    assert loss.item() < before
    assert (variance < 3.5).all()  # from 5 on the way to about 1, the teacher's own variance


# The module ------------------------------------------------------------------


@pytest.mark.parametrize("variance", [1e-4, 1.0, 5.0, 1e4])
def test_starts_with_the_variance_it_is_told(variance):
    module = regressor(initial_variance=variance)
    started = torch.nn.functional.softplus(module.log_scale) + 1e-5
    torch.testing.assert_close(started, torch.full((6,), variance), rtol=1e-5, atol=0)


@pytest.mark.parametrize(
    ("student_size", "teacher_size", "common"),
    [((4, 4), (8, 8), (4, 4)), ((8, 8), (4, 4), (4, 4)), ((6, 2), (3, 4), (3, 2)), ((5, 5), (1, 1), (1, 1))],
)
def test_the_larger_map_is_averaged_to_the_smaller(student_size, teacher_size, common):
    module = regressor()
    student, teacher = maps((2, 4, *student_size), (2, 6, *teacher_size))
    pool = torch.nn.AdaptiveAvgPool2d(common)
    by_hand = vid_loss(module.regressor(pool(student)), pool(teacher), module.log_scale)
    torch.testing.assert_close(module(student, teacher), by_hand)


def test_shape_of_the_regressor():
    weights = [tuple(w.shape) for name, w in regressor(hidden_channels=5).named_parameters() if "reg" in name]
    assert weights == [(5, 4, 1, 1), (5, 5, 1, 1), (6, 5, 1, 1)]
    assert "4, 6, eps=1e-05" in repr(regressor())


def test_state_round_trip():
    module, other = regressor(), VariationalRegressor(4, 6, initial_variance=1.0)
    other.load_state_dict(module.state_dict())
    inputs = maps((2, 4, 3, 3), (2, 6, 3, 3))
    assert torch.equal(module(*inputs), other(*inputs))


# Extremes, dtypes, devices ---------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
@settings(max_examples=20, deadline=None)
@given(
    student=st.sampled_from([-6e4, -1.0, 0.0, 1e-4, 6e4]),
    teacher=st.sampled_from([-6e4, -1.0, 0.0, 1e-4, 6e4]),
    scale=st.sampled_from([-1e4, -100.0, 0.0, 1e4]),
)
def test_extremes_stay_finite(dtype, student, teacher, scale):
    module = regressor()
    with torch.no_grad():
        module.log_scale.fill_(scale)
    ours = torch.full((2, 4, 3, 3), student, dtype=dtype, requires_grad=True)
    loss = module(ours, torch.full((2, 6, 3, 3), teacher, dtype=dtype))
    loss.backward()
    assert loss.dtype == torch.float32
    assert loss.isfinite()
    for parameter in module.parameters():
        assert parameter.grad.isfinite().all()
    if dtype != torch.float16 or scale >= 0:  # 6e4 over a variance of 1e-5 is no number in float16
        assert ours.grad.isfinite().all()


class NoHostRead(TorchDispatchMode):
    """Fails on operations whose result the host must wait for."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        waits = ("_local_scalar_dense", "nonzero", "masked_select", "aten.index.")
        assert not any(word in str(func) for word in waits), func
        return func(*args, **(kwargs or {}))


def test_nothing_waits_for_the_device():
    with NoHostRead():
        regressor()(*maps((2, 4, 4, 4), (2, 6, 2, 2))).backward()


def test_compiles_in_one_piece():
    module, inputs = regressor(), maps((2, 4, 4, 4), (2, 6, 2, 2))
    compiled = torch.compile(module, backend="eager", fullgraph=True)
    assert torch.equal(compiled(*inputs), module(*inputs))


# Wrong input -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("mean", "teacher", "log_scale", "message"),
    [
        ((2, 3), (2, 3), (3,), "mean must be [B, C, H, W], not empty, got shape [2, 3]"),
        ((0, 3, 1, 1), (0, 3, 1, 1), (3,), "mean must be [B, C, H, W], not empty, got shape [0, 3, 1, 1]"),
        (
            (2, 3, 1, 1),
            (2, 3, 2, 2),
            (3,),
            "mean and teacher must have the same shape, got [2, 3, 1, 1] and [2, 3, 2, 2]",
        ),
        ((2, 3, 1, 1), (2, 3, 1, 1), (1,), "log_scale must be [C] = [3], floating point, got shape [1]"),
    ],
)
def test_shapes_are_checked(mean, teacher, log_scale, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        vid_loss(torch.zeros(mean), torch.zeros(teacher), torch.zeros(log_scale))


def test_features_are_floating_point():
    whole = torch.zeros(2, 3, 1, 1, dtype=torch.int64)
    with pytest.raises(ValueError, match=r"teacher must be floating point, got torch\.int64"):
        vid_loss(torch.zeros(2, 3, 1, 1), whole, torch.zeros(3))


@pytest.mark.parametrize("eps", [0.0, -1.0, math.nan])
def test_eps_is_checked(eps):
    with pytest.raises(ValueError, match=r"eps must be a finite number > 0, got"):
        vid_loss(torch.zeros(1, 1, 1, 1), torch.zeros(1, 1, 1, 1), torch.zeros(1), eps=eps)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"initial_variance": 1e-6}, "initial_variance must be a finite number > eps = 1e-05, got 1e-06"),
        ({"initial_variance": math.inf}, "initial_variance must be a finite number > eps = 1e-05, got inf"),
        ({"hidden_channels": 0}, "hidden_channels must be an integer >= 1, got 0"),
        ({"eps": 0.0}, "eps must be a finite number > 0, got 0.0"),
    ],
)
def test_options_are_checked(options, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        VariationalRegressor(4, 6, **options)


def test_widths_are_checked():
    with pytest.raises(ValueError, match=r"student_channels must be an integer >= 1, got 0"):
        VariationalRegressor(0, 6)
    with pytest.raises(ValueError, match=r"teacher_channels must be an integer >= 1, got 1\.5"):
        VariationalRegressor(4, 1.5)
    with pytest.raises(
        ValueError, match=re.escape("student must be [B, 4, H, W], not empty, got shape [2, 5")
    ):
        regressor()(torch.zeros(2, 5, 3, 3), torch.zeros(2, 6, 3, 3))
    with pytest.raises(
        ValueError, match=re.escape("teacher must be [B, 6, H, W], not empty, got shape [2, 5")
    ):
        regressor()(torch.zeros(2, 4, 3, 3), torch.zeros(2, 5, 3, 3))
