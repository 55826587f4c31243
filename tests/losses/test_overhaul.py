"""Overhaul of feature distillation: recorded numbers, margins against scipy, and connectors that learn."""

import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from scipy.special import log_ndtr
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from dotkd.losses import OverhaulConnectors, margin_from_batch_norm, margin_from_features, ofd_loss

GOLDEN = Path(__file__).parents[1] / "golden"
VECTORS = np.load(GOLDEN / "losses.npz")


def golden(key):
    return torch.from_numpy(VECTORS[f"ofd/{key}"].copy())


def connectors(margins=None):
    torch.manual_seed(0)
    return OverhaulConnectors([3, 4], [5, 6], margins)


def features(dtype=torch.float32, sizes=(8, 4, 8, 8), seed=0):
    """Student's and teacher's maps of two features, the teacher's second one of another size."""
    generator = torch.Generator().manual_seed(seed)
    shapes = [(4, c, s, s) for c, s in zip((3, 4, 5, 6), sizes, strict=True)]
    drawn = [torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype) for shape in shapes]
    return drawn[:2], drawn[2:]


# Recorded numbers ------------------------------------------------------------


def test_value_and_gradient_equal_the_published_ones():
    margins = [
        margin_from_batch_norm(golden(f"module/teacher_bn.{i}.weight"), golden(f"module/teacher_bn.{i}.bias"))
        for i in range(2)
    ]
    module = OverhaulConnectors([4, 6], [5, 7], margins)
    prefix = "ofd/module/connectors."
    weights = {key.removeprefix("ofd/module/"): VECTORS[key] for key in VECTORS if key.startswith(prefix)}
    weights = {key: torch.from_numpy(value) for key, value in weights.items()}
    missing, unexpected = module.load_state_dict(weights, strict=False)
    assert (missing, unexpected) == (["margin_0", "margin_1"], [])

    student = [golden(f"in/student{i}").requires_grad_() for i in range(2)]
    loss = module(student, [golden(f"in/teacher{i}") for i in range(2)])
    loss.backward()
    torch.testing.assert_close(loss.item(), VECTORS["ofd/loss"].item(), rtol=1e-5, atol=0)
    for number, feature in enumerate(student):
        expected = golden(f"grad/student{number}")
        assert (feature.grad - expected).norm() <= 1e-5 * expected.norm()
        torch.testing.assert_close(feature.grad, expected, rtol=1e-5, atol=1e-6 * expected.abs().max().item())


@pytest.mark.parametrize("number", [0, 1])
def test_margins_equal_the_published_ones(number):
    weight, bias = (golden(f"module/teacher_bn.{number}.{name}") for name in ("weight", "bias"))
    margin = margin_from_batch_norm(weight, bias)
    torch.testing.assert_close(margin, golden(f"module/margin.{number}"), rtol=1e-6, atol=0)


# Margins ---------------------------------------------------------------------


@settings(max_examples=100, deadline=None)
@given(std=st.floats(1e-3, 1e3), z=st.floats(-8, 8), sign=st.sampled_from([-1, 1]))
def test_margin_is_the_expectation_of_a_truncated_normal(std, z, sign):
    weight, bias = (torch.tensor([value], dtype=torch.float64) for value in (sign * std, z * std))
    expected = stats.truncnorm.mean(-np.inf, -z, loc=z * std, scale=std)
    assert margin_from_batch_norm(weight, bias).item() == pytest.approx(expected, rel=1e-9)


def far_margin(z):
    """The expectation for std 1 by logarithms, which scipy keeps exact to about z * z rounding errors."""
    return z - math.exp(-0.5 * z * z - 0.5 * math.log(2 * math.pi) - log_ndtr(-z))


@pytest.mark.parametrize("z", [-40.0, -9.0, 9.0, 37.0, 40.0, 49.999, 50.001, 100.0])
def test_margin_in_the_tails(z):
    one = torch.ones(1, dtype=torch.float64)
    margin = margin_from_batch_norm(one, z * one).item()
    assert margin == pytest.approx(far_margin(z), rel=1e-6)
    narrow = margin_from_batch_norm(one.float(), z * one.float()).item()
    assert narrow == pytest.approx(margin, rel=1e-6)


@pytest.mark.parametrize("z", [40.0, 60.0, 1e4, 1e30])
def test_margin_of_a_channel_that_is_never_negative(z):
    # What is left of the series once z is large: -1 / z + 2 / z ** 3.
    one = torch.ones(1, dtype=torch.float64)
    margin = margin_from_batch_norm(one, z * one).item()
    assert margin == pytest.approx(-1 / z + 2 / z**3, rel=10 / z**4 + 1e-10)


@pytest.mark.parametrize(("bias", "margin"), [(-2.0, -2.0), (0.0, 0.0), (3.0, 0.0)])
def test_margin_of_a_constant_channel(bias, margin):
    assert margin_from_batch_norm(torch.zeros(1), torch.tensor([bias])).item() == pytest.approx(
        margin, abs=1e-30
    )


def test_margin_takes_a_batch_norm_as_it_is():
    norm = nn.BatchNorm2d(3)
    margin = margin_from_batch_norm(norm.weight, norm.bias)
    assert not margin.requires_grad
    torch.testing.assert_close(margin, torch.full((3,), -math.sqrt(2 / math.pi)))


def test_margin_from_features_is_that_of_their_statistics():
    generator = torch.Generator().manual_seed(0)
    weight, bias = torch.tensor([0.5, 1.0, 2.0]), torch.tensor([1.0, 0.0, -1.0])
    drawn = torch.randn(64, 3, 32, 32, generator=generator)
    drawn = drawn * weight.reshape(1, 3, 1, 1) + bias.reshape(1, 3, 1, 1)
    margin = margin_from_features(drawn)
    torch.testing.assert_close(margin, margin_from_batch_norm(weight, bias), rtol=0.02, atol=0)
    negative = [drawn[:, c][drawn[:, c] < 0].mean() for c in range(3)]  # what a margin means
    torch.testing.assert_close(margin, torch.stack(negative), rtol=0.02, atol=0)


def test_margin_from_features_asks_no_batch_norm():
    rectified = torch.relu(features()[0][0])
    constant = torch.ones(2, 3, 4, 4)
    assert margin_from_features(rectified).isfinite().all()
    assert (margin_from_features(rectified) < 0).all()
    assert margin_from_features(constant).tolist() == pytest.approx([0, 0, 0], abs=1e-30)


# The loss of one feature -----------------------------------------------------


@pytest.mark.parametrize(
    ("student", "teacher", "expected"),
    [
        (3.0, 1.0, 4.0),  # the teacher is positive: agree
        (-3.0, 1.0, 16.0),
        (1.0, -0.2, 1.44),  # not positive, above the margin: no higher than the teacher
        (-0.1, -0.2, 0.01),
        (-0.3, -0.2, 0.0),
        (0.5, -3.0, 1.0),  # below the margin of -0.5: no higher than the margin
        (-0.5, -3.0, 0.0),
        (-9.0, -3.0, 0.0),
        (0.5, 0.0, 0.25),
        (-0.5, 0.0, 0.0),
    ],
)
def test_by_hand(student, teacher, expected):
    ours, theirs = (torch.full((2, 1, 1, 3), value, dtype=torch.float64) for value in (student, teacher))
    loss = ofd_loss(ours, theirs, torch.tensor([-0.5]))
    assert loss.item() == pytest.approx(3 * expected, rel=1e-6)  # summed over 3 elements, mean of 2 samples


def test_rectified_teachers_only_pull_down_where_they_are_zero():
    student = torch.tensor([-2.0, 0.5]).reshape(1, 1, 1, 2)
    loss = ofd_loss(student, torch.zeros(1, 1, 1, 2), margin_from_features(torch.rand(4, 1, 2, 2)))
    assert loss.item() == 0.25


def test_nothing_to_learn_from_oneself():
    student = features()[0][0].requires_grad_()
    margin = torch.full((3,), -100.0)
    loss = ofd_loss(student, student.detach().clone(), margin)
    loss.backward()
    assert loss.item() == 0
    assert student.grad.abs().max() == 0


def test_gradients_by_finite_differences():
    (student, _), _ = features(torch.float64)
    (teacher, _), _ = features(torch.float64, seed=1)
    margin = torch.full((3,), -0.8, dtype=torch.float64)
    pair = (student[:2, :, :3, :3].requires_grad_(), teacher[:2, :, :3, :3].requires_grad_())
    assert torch.autograd.gradcheck(lambda s, t: ofd_loss(s, t, margin), pair)


# The connectors --------------------------------------------------------------


def test_deeper_features_weigh_more():
    module = connectors([torch.full((5,), -0.8), torch.full((6,), -0.7)])
    student, teacher = features(sizes=(8, 4, 8, 4))
    adapted = [connector(feature) for connector, feature in zip(module.connectors, student, strict=True)]
    shallow = ofd_loss(adapted[0], teacher[0], module.margin_0)
    deep = ofd_loss(adapted[1], teacher[1], module.margin_1)
    torch.testing.assert_close(module(student, teacher), shallow / 2 + deep)


@pytest.mark.parametrize("sizes", [(8, 8, 4, 4), (4, 4, 8, 8), (5, 3, 2, 7)])
def test_any_sizes_meet(sizes):
    module = connectors([torch.full((5,), -0.8), torch.full((6,), -0.7)])
    student, teacher = features(sizes=sizes)
    expected = 0
    for number, pair in enumerate(zip(student, teacher, strict=True)):
        pool = nn.AdaptiveAvgPool2d(min(map(len, (pair[0][0, 0], pair[1][0, 0]))))
        ours, theirs = pool(module.connectors[number](pair[0])), pool(pair[1])
        expected += ofd_loss(ours, theirs, module.get_buffer(f"margin_{number}")) / 2 ** (1 - number)
    torch.testing.assert_close(module(student, teacher), expected)


def test_gradients_of_the_module_by_finite_differences():
    module = connectors([torch.full((5,), -0.8), torch.full((6,), -0.7)]).double()
    student, teacher = features(torch.float64, sizes=(2, 3, 2, 2))
    inputs = [feature.requires_grad_() for feature in student + teacher]
    assert torch.autograd.gradcheck(lambda *f: module(f[:2], f[2:]), inputs)
    module(student, teacher).backward()
    assert all(p.grad.abs().sum() > 0 for name, p in module.named_parameters() if "0.weight" in name)


def test_margins_left_out_are_measured_once_in_training():
    module = connectors([None, torch.full((6,), -0.25)])
    first, second = features(seed=1), features(seed=2)
    module(*first)
    torch.testing.assert_close(module.margin_0, margin_from_features(first[1][0]))
    measured = module.margin_0.clone()
    module(*second)
    assert torch.equal(module.margin_0, measured)
    assert module.margin_1.tolist() == [-0.25] * 6


def test_evaluation_measures_and_keeps_nothing():
    module = connectors().eval()
    student, teacher = features()
    loss = module(student, teacher)
    assert loss.isfinite()
    assert module.margin_0.isnan().all()
    told = connectors([margin_from_features(feature) for feature in teacher]).eval()
    assert torch.equal(loss, told(student, teacher))


def test_state_round_trip_carries_the_margins():
    module, other = connectors(), OverhaulConnectors([3, 4], [5, 6])
    module(*features(seed=1))
    other.load_state_dict(module.state_dict())
    batch = features(seed=2)
    assert torch.equal(module(*batch), other(*batch))
    assert torch.equal(module.margin_1, other.margin_1)
    assert "[3, 4], [5, 6]" in repr(module)


def test_the_callers_margins_are_copied():
    margin = torch.full((5,), -0.5)
    module = OverhaulConnectors([3], [5], [margin])
    margin.fill_(0)
    assert module.margin_0.tolist() == [-0.5] * 5


def test_convolutions_start_scaled_to_what_goes_out():
    torch.manual_seed(0)
    weight = OverhaulConnectors([64], [256]).connectors[0][0].weight
    assert weight.std().item() == pytest.approx(math.sqrt(2 / 256), rel=0.03)


def test_learns():
    module, (student, teacher) = connectors(), features()
    optimizer = torch.optim.SGD(module.parameters(), lr=1e-3, momentum=0.9)
    losses = []
    for _ in range(40):
        optimizer.zero_grad()
        losses.append(module(student, teacher))
        losses[-1].backward()
        optimizer.step()
    assert losses[-1] < 0.8 * losses[0]


# Extremes, dtypes, devices ---------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
@settings(max_examples=20, deadline=None)
@given(
    student=st.sampled_from([-6e4, -1.0, 0.0, 1e-4, 6e4]),
    teacher=st.sampled_from([-6e4, -1.0, 0.0, 1e-4, 6e4]),
)
def test_extremes_stay_finite(dtype, student, teacher):
    module = connectors()
    (ours, deep), theirs = features(dtype)
    ours = (ours * 0 + student).requires_grad_()
    theirs = [theirs[0] * 0 + teacher, theirs[1]]
    loss = module([ours, deep], theirs)
    loss.backward()
    assert loss.dtype == torch.float32
    assert loss.isfinite()
    for tensor in (ours, *module.parameters()):
        assert tensor.grad.isfinite().all()


class NoHostRead(TorchDispatchMode):
    """Fails on operations whose result the host must wait for."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        waits = ("_local_scalar_dense", "nonzero", "masked_select", "aten.index.")
        assert not any(word in str(func) for word in waits), func
        return func(*args, **(kwargs or {}))


def test_nothing_waits_for_the_device():
    module = connectors()
    with NoHostRead():
        module(*features()).backward()


def test_compiles_in_one_piece():
    module, batch = connectors([torch.full((5,), -0.8), torch.full((6,), -0.7)]).eval(), features()
    compiled = torch.compile(module, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(*batch), module(*batch))


# Wrong input -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ([3], [5, 6]),
            "student_channels and teacher_channels must have one entry for each feature, got [3]",
        ),
        (([], []), "must have one entry for each feature, got [] and []"),
        (([3, 0], [5, 6]), "student_channels[1] must be an integer >= 1, got 0"),
        (([3], [5], []), "margins must have one entry for each of 1 features, got 0"),
        (([3], [5], [torch.zeros(4)]), "margins[0] must be [C] = [5], floating point, got shape [4]"),
    ],
)
def test_options_are_checked(arguments, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        OverhaulConnectors(*arguments)


def test_features_are_checked():
    student, teacher = features()
    for arguments, message in [
        ((student[0], teacher), "student_features must be a list of 2 maps with [3, 4] channels, got Tensor"),
        (
            (student[:1], teacher),
            "student_features must be a list of 2 maps with [3, 4] channels, got a list of 1",
        ),
        (
            (student, teacher[::-1]),
            "teacher_features[0] must be [B, 5, H, W], not empty, got shape [4, 6, 8, 8]",
        ),
        (
            (student, [f.long() for f in teacher]),
            "teacher_features[0] must be floating point, got torch.int64",
        ),
        ((student, [f[:2] for f in teacher]), "must have the same shape, got [4, 5, 8, 8] and [2, 5, 8, 8]"),
    ]:
        with pytest.raises(ValueError, match=re.escape(message)):
            connectors()(*arguments)


def test_arguments_of_the_functions_are_checked():
    maps = torch.zeros(2, 3, 1, 1)
    for call, message in [
        (lambda: ofd_loss(maps, maps[:, :1], torch.zeros(3)), "student and teacher must have the same shape"),
        (
            lambda: ofd_loss(maps, maps, torch.zeros(1)),
            "margin must be [C] = [3], floating point, got shape [1]",
        ),
        (lambda: ofd_loss(maps[0], maps[0], torch.zeros(3)), "student must be [B, C, H, W], not empty"),
        (
            lambda: margin_from_features(maps[0]),
            "features must be [B, C, H, W], not empty, got shape [3, 1, 1]",
        ),
        (
            lambda: margin_from_batch_norm(torch.ones(2), torch.ones(3)),
            "weight and bias must have the same shape",
        ),
        (
            lambda: margin_from_batch_norm(torch.ones(2, 1), torch.ones(2)),
            "weight must be [C], floating point",
        ),
        (
            lambda: margin_from_batch_norm(torch.ones(2), torch.ones(2).int()),
            "bias must be [C], floating point",
        ),
    ]:
        with pytest.raises(ValueError, match=re.escape(message)):
            call()
