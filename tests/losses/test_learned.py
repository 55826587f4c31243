"""Losses with learned parts (VID, OFD, ReviewKD): published numbers, numbers by hand, modules that learn."""

import math
import re

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from scipy.special import log_ndtr
from torch import nn

from dotkd.losses import (
    OverhaulConnectors,
    ReviewFusion,
    VariationalRegressor,
    hierarchical_context_loss,
    margin_from_batch_norm,
    margin_from_features,
    ofd_loss,
    vid_loss,
)

from .common import NoHostRead, Published, normal

MARGINS = [torch.full((5,), -0.8), torch.full((6,), -0.7)]
TWO = ([3, 4], [5, 6], [(4, 6), 2])
FOUR = ([2, 3, 4, 5], [3, 4, 5, 6], [8, 8, 3, 1])
pyramids = pytest.mark.parametrize("lists", [TWO, FOUR], ids=["two", "four"])


def maps(*shapes, dtype=torch.float32, seed=0):
    return normal(*shapes, dtype=dtype, seed=seed)


def regressor(**options):
    torch.manual_seed(0)
    return VariationalRegressor(4, 6, **options)


def connectors(margins=None):
    torch.manual_seed(0)
    return OverhaulConnectors([3, 4], [5, 6], margins)


def features(dtype=torch.float32, sizes=(8, 4, 8, 8), seed=0):
    """Student's and teacher's maps of two features, the teacher's second one of another size."""
    shapes = [(4, c, s, s) for c, s in zip((3, 4, 5, 6), sizes, strict=True)]
    drawn = maps(*shapes, dtype=dtype, seed=seed)
    return drawn[:2], drawn[2:]


def pyramid(student_channels, teacher_channels, sizes, **options):
    torch.manual_seed(0)
    return ReviewFusion(student_channels, teacher_channels, sizes, **options)


def pyramid_maps(channels, sizes, dtype=torch.float32, batch=3, seed=0):
    pairs = zip(channels, (s if isinstance(s, tuple) else (s, s) for s in sizes), strict=True)
    return maps(*((batch, c, *size) for c, size in pairs), dtype=dtype, seed=seed)


def moved_by_training(module, lr, steps, loss, optimizer=torch.optim.SGD, **options):
    """The losses of some steps."""
    optimizer, losses = optimizer(module.parameters(), lr=lr, **options), []
    for _ in range(steps):
        optimizer.zero_grad()
        losses.append(loss())
        losses[-1].backward()
        optimizer.step()
    return losses


# Published numbers -----------------------------------------------------------


def test_vid_equals_the_published_one():
    published = Published("vid")
    module = VariationalRegressor(6, 12, **published.options)
    weights = {f"regressor.{key}": weight for key, weight in published.weights().items()}
    module.load_state_dict({**weights, "log_scale": published.inputs["log_scale"]})
    published.assert_equal(module(published.inputs["student"], published.inputs["teacher"]))


def test_ofd_equals_the_published_one():
    published = Published("ofd")
    norms = [[published[f"module/teacher_bn.{i}.{name}"] for name in ("weight", "bias")] for i in range(2)]
    margins = [margin_from_batch_norm(*norm) for norm in norms]
    for number, margin in enumerate(margins):
        torch.testing.assert_close(margin, published[f"module/margin.{number}"], rtol=1e-6, atol=0)
    module = OverhaulConnectors([4, 6], [5, 7], margins)
    missing, unexpected = module.load_state_dict(published.weights("connectors."), strict=False)
    assert (missing, unexpected) == (["margin_0", "margin_1"], [])
    student, teacher = ([published.inputs[f"{who}{i}"] for i in range(2)] for who in ("student", "teacher"))
    published.assert_equal(module(student, teacher))


def test_reviewkd_equals_the_published_one():
    published = Published("reviewkd")
    options = published.options
    module = ReviewFusion(options["in_channels"], options["out_channels"], options["shapes"][::-1])
    module.load_state_dict({f"fusions.{key}": weight for key, weight in published.weights().items()})
    student, teacher = ([published.inputs[f"{who}{i}"] for i in range(3)] for who in ("student", "teacher"))
    published.assert_equal(hierarchical_context_loss(module(student), teacher))


# All modules -----------------------------------------------------------------


def vid_case(dtype=torch.float32):
    module, inputs = regressor(), maps((2, 4, 4, 4), (2, 6, 2, 2), dtype=dtype)
    return module, lambda module=module: module(*inputs)


def ofd_case(dtype=torch.float32):
    module, inputs = connectors(MARGINS).eval(), features(dtype)
    return module, lambda module=module: module(*inputs)


def ofd_measured_case(dtype=torch.float32):
    module, inputs = connectors(), features(dtype)
    return module, lambda module=module: module(*inputs)


def review_case(dtype=torch.float32):
    module = pyramid(*FOUR).eval()
    student, teacher = pyramid_maps(FOUR[0], FOUR[2], dtype), pyramid_maps(FOUR[1], FOUR[2], dtype, seed=1)
    return module, lambda module=module: hierarchical_context_loss(module(student), teacher)


CASES = {"vid": vid_case, "ofd": ofd_case, "ofd, measured": ofd_measured_case, "reviewkd": review_case}
every_module = pytest.mark.parametrize("case", CASES.values(), ids=CASES)


@every_module
def test_nothing_waits_for_the_device(case):
    _, loss = case()
    with NoHostRead():
        loss().backward()


@pytest.mark.slow
@every_module
def test_compiles_in_one_piece(case):
    module, loss = case()
    expected = loss()
    torch._dynamo.reset()
    compiled = torch.compile(module, backend="eager", fullgraph=True)
    torch.testing.assert_close(loss(compiled), expected)


@every_module
def test_half_precision_is_computed_in_float32(case):
    _, loss = case(torch.bfloat16)
    assert loss().dtype == torch.float32


@every_module
def test_autocast_changes_nothing(case):
    _, loss = case()
    expected = loss()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(case()[1](), expected)


# VID -------------------------------------------------------------------------


def test_vid_by_hand():
    # Two channels, errors 1 and 3, variances 1 and 2 (log(expm1(v)) is the softplus backwards).
    mean = torch.zeros(1, 2, 1, 1, dtype=torch.float64)
    teacher = torch.tensor([1.0, 3.0], dtype=torch.float64).reshape(1, 2, 1, 1)
    log_scale = torch.tensor([math.log(math.expm1(1 - 1e-5)), math.log(math.expm1(2 - 1e-5))]).double()
    expected = 0.5 * ((1 / 1 + math.log(1)) + (9 / 2 + math.log(2))) / 2
    assert vid_loss(mean, teacher, log_scale).item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("variance", [0.1, 4.0, 50.0])
def test_vid_is_the_density_of_a_gaussian_up_to_a_constant(variance):
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


def test_gradients_of_vid_by_finite_differences():
    mean, teacher, log_scale = maps((2, 3, 2, 2), (2, 3, 2, 2), (3,), dtype=torch.float64)
    inputs = [tensor.requires_grad_() for tensor in (mean, teacher, log_scale)]
    assert torch.autograd.gradcheck(vid_loss, inputs)


@pytest.mark.parametrize("teacher_size", [(4, 4), (2, 3), (6, 2)])
def test_gradients_of_the_regressor_by_finite_differences(teacher_size):
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
    losses = moved_by_training(module, 0.05, 60, lambda: module(student, teacher), torch.optim.Adam)
    variance = torch.nn.functional.softplus(module.log_scale)
    assert losses[-1] < losses[0]
    assert (variance < 3.5).all()  # from 5 on the way to about 1, the teacher's own variance


@pytest.mark.parametrize("variance", [1e-4, 1.0, 5.0, 1e4])
def test_the_regressor_starts_with_the_variance_it_is_told(variance):
    module = regressor(initial_variance=variance)
    started = torch.nn.functional.softplus(module.log_scale) + 1e-5
    torch.testing.assert_close(started, torch.full((6,), variance), rtol=1e-5, atol=0)


@pytest.mark.parametrize(
    ("student_size", "teacher_size", "common"),
    [((4, 4), (8, 8), (4, 4)), ((8, 8), (4, 4), (4, 4)), ((6, 2), (3, 4), (3, 2)), ((5, 5), (1, 1), (1, 1))],
)
def test_the_regressor_averages_the_larger_map_to_the_smaller(student_size, teacher_size, common):
    module = regressor()
    student, teacher = maps((2, 4, *student_size), (2, 6, *teacher_size))
    pool = torch.nn.AdaptiveAvgPool2d(common)
    by_hand = vid_loss(module.regressor(pool(student)), pool(teacher), module.log_scale)
    torch.testing.assert_close(module(student, teacher), by_hand)


def test_shape_of_the_regressor():
    weights = [tuple(w.shape) for name, w in regressor(hidden_channels=5).named_parameters() if "reg" in name]
    assert weights == [(5, 4, 1, 1), (5, 5, 1, 1), (6, 5, 1, 1)]
    assert "4, 6, eps=1e-05" in repr(regressor())


def test_state_round_trip_of_the_regressor():
    module, other = regressor(), VariationalRegressor(4, 6, initial_variance=1.0)
    other.load_state_dict(module.state_dict())
    inputs = maps((2, 4, 3, 3), (2, 6, 3, 3))
    assert torch.equal(module(*inputs), other(*inputs))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
@settings(max_examples=20, deadline=None)
@given(
    student=st.sampled_from([-6e4, -1.0, 0.0, 1e-4, 6e4]),
    teacher=st.sampled_from([-6e4, -1.0, 0.0, 1e-4, 6e4]),
    scale=st.sampled_from([-1e4, -100.0, 0.0, 1e4]),
)
def test_extremes_of_vid_stay_finite(dtype, student, teacher, scale):
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


# OFD: margins ----------------------------------------------------------------


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


# OFD: loss and connectors -----------------------------------------------------


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
def test_ofd_by_hand(student, teacher, expected):
    ours, theirs = (torch.full((2, 1, 1, 3), value, dtype=torch.float64) for value in (student, teacher))
    loss = ofd_loss(ours, theirs, torch.tensor([-0.5]))
    assert loss.item() == pytest.approx(3 * expected, rel=1e-6)  # summed over 3 elements, mean of 2 samples


def test_rectified_teachers_only_pull_down_where_they_are_zero():
    student = torch.tensor([-2.0, 0.5]).reshape(1, 1, 1, 2)
    loss = ofd_loss(student, torch.zeros(1, 1, 1, 2), margin_from_features(torch.rand(4, 1, 2, 2)))
    assert loss.item() == 0.25


def test_ofd_has_nothing_to_learn_from_oneself():
    student = features()[0][0].requires_grad_()
    margin = torch.full((3,), -100.0)
    loss = ofd_loss(student, student.detach().clone(), margin)
    loss.backward()
    assert loss.item() == 0
    assert student.grad.abs().max() == 0


def test_gradients_of_ofd_by_finite_differences():
    (student, _), _ = features(torch.float64)
    (teacher, _), _ = features(torch.float64, seed=1)
    margin = torch.full((3,), -0.8, dtype=torch.float64)
    pair = (student[:2, :, :3, :3].requires_grad_(), teacher[:2, :, :3, :3].requires_grad_())
    assert torch.autograd.gradcheck(lambda s, t: ofd_loss(s, t, margin), pair)


def test_deeper_features_weigh_more():
    module = connectors(MARGINS)
    student, teacher = features(sizes=(8, 4, 8, 4))
    adapted = [connector(feature) for connector, feature in zip(module.connectors, student, strict=True)]
    shallow = ofd_loss(adapted[0], teacher[0], module.margin_0)
    deep = ofd_loss(adapted[1], teacher[1], module.margin_1)
    torch.testing.assert_close(module(student, teacher), shallow / 2 + deep)


@pytest.mark.parametrize("sizes", [(8, 8, 4, 4), (4, 4, 8, 8), (5, 3, 2, 7)])
def test_connectors_take_any_sizes(sizes):
    module = connectors(MARGINS)
    student, teacher = features(sizes=sizes)
    expected = 0
    for number, pair in enumerate(zip(student, teacher, strict=True)):
        pool = nn.AdaptiveAvgPool2d(min(map(len, (pair[0][0, 0], pair[1][0, 0]))))
        ours, theirs = pool(module.connectors[number](pair[0])), pool(pair[1])
        expected += ofd_loss(ours, theirs, module.get_buffer(f"margin_{number}")) / 2 ** (1 - number)
    torch.testing.assert_close(module(student, teacher), expected)


def test_gradients_of_the_connectors_by_finite_differences():
    module = connectors(MARGINS).double()
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


def test_connectors_learn():
    module, (student, teacher) = connectors(), features()
    losses = moved_by_training(module, 1e-3, 40, lambda: module(student, teacher), momentum=0.9)
    assert losses[-1] < 0.8 * losses[0]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
@settings(max_examples=20, deadline=None)
@given(
    student=st.sampled_from([-6e4, -1.0, 0.0, 1e-4, 6e4]),
    teacher=st.sampled_from([-6e4, -1.0, 0.0, 1e-4, 6e4]),
)
def test_extremes_of_ofd_stay_finite(dtype, student, teacher):
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


# ReviewKD --------------------------------------------------------------------


def plain(module):
    """Every convolution a constant, every batch norm the identity: levels can be worked by hand."""
    for part in module.modules():
        if isinstance(part, nn.Conv2d):
            nn.init.zeros_(part.weight)
            part.weight.data[:, :, part.kernel_size[0] // 2, part.kernel_size[1] // 2] = 1
        if isinstance(part, nn.BatchNorm2d):
            part.eps = 0.0
    return module.eval()


def test_fusion_by_hand():
    module = plain(pyramid([1, 1], [1, 1], [4, 2]))
    attention = module.fusions[1].att_conv[0]
    attention.weight.data.zero_()
    attention.bias.data.copy_(torch.tensor([0.0, -torch.log(torch.tensor(3.0))]))  # 1 / 2 and 1 / 4
    deep = torch.tensor([[1.0, 2.0], [3.0, 4.0]]).reshape(1, 1, 2, 2)
    shallow, fused_deep = module([torch.full((1, 1, 4, 4), 10.0), deep])
    assert torch.equal(fused_deep, deep)
    repeated = deep.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
    torch.testing.assert_close(shallow, 10 / 2 + repeated / 4)


def test_attention_looks_at_both_levels():
    module = plain(pyramid([1, 1], [1, 1], [1, 1]))
    attention = module.fusions[1].att_conv[0]
    attention.weight.data = torch.tensor([[1.0, 0.0], [0.0, 1.0]]).reshape(2, 2, 1, 1)
    attention.bias.data.zero_()
    shallow, _ = module([torch.full((1, 1, 1, 1), 2.0), torch.full((1, 1, 1, 1), -1.0)])
    two, minus_one = torch.tensor(2.0), torch.tensor(-1.0)
    assert shallow.item() == pytest.approx((2 * two.sigmoid() - minus_one.sigmoid()).item(), rel=1e-6)


@pyramids
@pytest.mark.parametrize("scale", [1, 2])
def test_outputs_are_shaped_like_the_teachers(lists, scale):
    student_channels, teacher_channels, sizes = lists
    own_sizes = [tuple(scale * side for side in ((s, s) if isinstance(s, int) else s)) for s in sizes]
    outputs = pyramid(*lists)(pyramid_maps(student_channels, own_sizes))
    pairs = [(s, s) if isinstance(s, int) else s for s in sizes]
    assert [tuple(o.shape) for o in outputs] == [
        (3, c, *p) for c, p in zip(teacher_channels, pairs, strict=True)
    ]


@pyramids
def test_a_shallow_output_depends_on_all_deeper_features_and_a_deep_one_on_no_shallower(lists):
    module = pyramid(*lists)
    features = [f.requires_grad_() for f in pyramid_maps(lists[0], lists[2])]
    for level, output in enumerate(module(features)):
        gradients = torch.autograd.grad(
            output.square().sum() + output.sum(), features, retain_graph=True, allow_unused=True
        )
        reached = [gradient is not None and gradient.abs().sum() > 0 for gradient in gradients]
        assert reached == [other >= level for other in range(len(features))]


@pytest.mark.parametrize(
    ("channels", "options", "width"),
    [([8, 16], {}, 16), ([8, 600], {}, 512), ([600, 8], {}, 8), ([8, 16], {"hidden_channels": 5}, 5)],
)
def test_the_width_in_which_features_are_fused(channels, options, width):
    module = pyramid(channels, [3, 3], [2, 1], **options)
    assert [fusion.conv1[0].out_channels for fusion in module.fusions] == [width, width]
    assert f"hidden_channels={width}" in repr(module)


def test_gradients_of_the_fusion_by_finite_differences():
    module = pyramid([2, 2, 3], [2, 3, 2], [3, 2, 1]).double()
    teacher = pyramid_maps([2, 3, 2], [3, 2, 1], torch.float64, batch=2, seed=1)
    student = pyramid_maps([2, 2, 3], [4, 2, 2], torch.float64, batch=2)
    inputs = [feature.requires_grad_() for feature in student]
    assert torch.autograd.gradcheck(lambda *f: hierarchical_context_loss(module(f), teacher), inputs)


def test_every_weight_of_the_fusion_learns():
    module, student = pyramid(*FOUR), pyramid_maps(FOUR[0], FOUR[2])
    teacher = pyramid_maps(FOUR[1], FOUR[2], seed=1)
    hierarchical_context_loss(module(student), teacher).backward()
    assert all(parameter.grad is not None for parameter in module.parameters())
    loss = lambda: hierarchical_context_loss(module(student), teacher)  # noqa: E731
    losses = moved_by_training(module, 0.1, 20, loss, momentum=0.9)
    assert losses[-1] < 0.9 * losses[0]


def test_state_round_trip_of_the_fusion():
    module, other = pyramid(*FOUR), ReviewFusion(*FOUR)
    features = pyramid_maps(FOUR[0], FOUR[2])
    module(features)  # moves the running statistics
    other.load_state_dict(module.state_dict())
    for ours, theirs in zip(module.eval()(features), other.eval()(features), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize("scale", [0.0, 1e-7, 1.0, 1e4])
def test_extremes_of_the_fusion_stay_finite(dtype, scale):
    module = pyramid(*FOUR)
    student = [(scale * f).to(dtype).requires_grad_() for f in pyramid_maps(FOUR[0], FOUR[2])]
    teacher = [(scale * f).to(dtype) for f in pyramid_maps(FOUR[1], FOUR[2], seed=1)]
    outputs = module(student)
    loss = hierarchical_context_loss(outputs, teacher)
    loss.backward()
    assert all(output.dtype == torch.float32 for output in outputs)
    assert loss.isfinite()
    for tensor in (*student, *module.parameters()):
        assert tensor.grad.isfinite().all()


# Wrong input -----------------------------------------------------------------

FEATURES, LISTS = features(), "student_features must be a list of 2 maps with [3, 4] channels, got "
ENTRIES = "student_channels and teacher_channels must have one entry for each feature, got "


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: regressor(eps=0.0), "eps must be a finite number > 0, got 0.0"),
        (
            lambda: regressor(initial_variance=1e-6),
            "initial_variance must be a finite number > eps = 1e-05, got 1e-06",
        ),
        (lambda: regressor(initial_variance=math.inf), "must be a finite number > eps = 1e-05, got inf"),
        (lambda: regressor(hidden_channels=0), "hidden_channels must be an integer >= 1, got 0"),
        (lambda: VariationalRegressor(0, 6), "student_channels must be an integer >= 1, got 0"),
        (lambda: VariationalRegressor(4, 1.5), "teacher_channels must be an integer >= 1, got 1.5"),
        (lambda: OverhaulConnectors([3], [5, 6]), ENTRIES + "[3] and [5, 6]"),
        (lambda: OverhaulConnectors([], []), ENTRIES + "[] and []"),
        (lambda: OverhaulConnectors([3, 0], [5, 6]), "student_channels[1] must be an integer >= 1, got 0"),
        (
            lambda: OverhaulConnectors([3], [5], []),
            "margins must have one entry for each of 1 features, got 0",
        ),
        (
            lambda: OverhaulConnectors([3], [5], [torch.zeros(4)]),
            "margins[0] must be a floating-point tensor [C] = [5]",
        ),
        (lambda: ReviewFusion([3], [5, 6], [2, 1]), ENTRIES + "[3] and [5, 6]"),
        (lambda: ReviewFusion([3, 4], [5, 0], [2, 1]), "teacher_channels[1] must be an integer >= 1, got 0"),
        (
            lambda: ReviewFusion([3, 4], [5, 6], [2]),
            "sizes must have one entry for each of 2 features, got [2]",
        ),
        (lambda: ReviewFusion([3, 4], [5, 6], [2, 0]), "sizes[1] must be an integer >= 1, got 0"),
        (
            lambda: ReviewFusion([3, 4], [5, 6], [(2, 2, 2), 1]),
            "sizes[0] must be a number or a pair (height, width), got (2, 2, 2)",
        ),
        (
            lambda: ReviewFusion([3], [5], [2], hidden_channels=0),
            "hidden_channels must be an integer >= 1, got 0",
        ),
    ],
)
def test_options_are_checked(make, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        make()


@pytest.mark.parametrize(
    ("student", "teacher", "message"),
    [
        (FEATURES[0][0], FEATURES[1], LISTS + "a tensor of float32 [4, 3, 8, 8]"),
        (FEATURES[0][:1], FEATURES[1], LISTS + "a list of 1"),
        (
            FEATURES[0],
            FEATURES[1][::-1],
            "teacher_features[0] must be a floating-point tensor [B, 5, H, W], not",
        ),
        (
            FEATURES[0],
            [f.long() for f in FEATURES[1]],
            "[B, 5, H, W], not empty, got a tensor of int64 [4, 5, 8, 8]",
        ),
        (
            FEATURES[0],
            [f[:2] for f in FEATURES[1]],
            "must have the same shape, got [4, 5, 8, 8] and [2, 5, 8, 8]",
        ),
    ],
)
def test_features_of_the_connectors_are_checked(student, teacher, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        connectors()(student, teacher)


def test_features_of_the_fusion_are_checked():
    drawn = pyramid_maps(TWO[0], TWO[2])
    for wrong, message in [
        (drawn[0], LISTS + "a tensor of float32 [3, 3, 4, 6]"),
        (drawn[:1], LISTS + "a list of 1"),
        (drawn[::-1], "student_features[0] must be a floating-point tensor [B, 3, H, W], not empty"),
        ([drawn[0], drawn[1].long()], "student_features[1] must be a floating-point tensor [B, 4, H, W]"),
    ]:
        with pytest.raises(ValueError, match=re.escape(message)):
            pyramid(*TWO)(wrong)


MAPS, CHANNELS, ONE = torch.zeros(2, 3, 1, 1), torch.zeros(3), torch.ones(2)
FLOATS = "must be a floating-point tensor"


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: vid_loss(CHANNELS, CHANNELS, CHANNELS), f"mean {FLOATS} [B, C, H, W], not empty, got a"),
        (lambda: vid_loss(MAPS[:0], MAPS[:0], CHANNELS), "not empty, got a tensor of float32 [0, 3, 1, 1]"),
        (lambda: vid_loss(MAPS, MAPS[:1], CHANNELS), "same shape, got [2, 3, 1, 1] and [1, 3, 1, 1]"),
        (lambda: vid_loss(MAPS, MAPS, ONE[:1]), f"log_scale {FLOATS} [C] = [3], not empty, got a tensor of"),
        (lambda: vid_loss(MAPS, MAPS.long(), CHANNELS), f"teacher {FLOATS} [B, C, H, W]"),
        (lambda: vid_loss(MAPS, MAPS, CHANNELS, eps=0.0), "eps must be a finite number > 0, got 0.0"),
        (lambda: vid_loss(MAPS, MAPS, CHANNELS, eps=-1.0), "eps must be a finite number > 0, got -1.0"),
        (lambda: vid_loss(MAPS, MAPS, CHANNELS, eps=math.nan), "eps must be a finite number > 0, got nan"),
        (lambda: regressor()(MAPS, torch.zeros(2, 6, 1, 1)), f"student {FLOATS} [B, 4, H, W], not empty"),
        (
            lambda: regressor()(torch.zeros(2, 4, 1, 1), MAPS),
            "[B, 6, H, W], not empty, got a tensor of float",
        ),
        (lambda: ofd_loss(MAPS, MAPS[:, :1], CHANNELS), "student and teacher must have the same shape"),
        (
            lambda: ofd_loss(MAPS, MAPS, CHANNELS[:1]),
            f"margin {FLOATS} [C] = [3], not empty, got a tensor of",
        ),
        (lambda: ofd_loss(MAPS[0], MAPS[0], CHANNELS), f"student {FLOATS} [B, C, H, W]"),
        (lambda: margin_from_features(MAPS[0]), "[B, C, H, W], not empty, got a tensor of float32 [3, 1, 1]"),
        (lambda: margin_from_batch_norm(ONE, torch.ones(3)), f"bias {FLOATS} [C] = [2], not empty, got a"),
        (lambda: margin_from_batch_norm(ONE[:, None], ONE), f"weight {FLOATS} [C]"),
        (lambda: margin_from_batch_norm(ONE, ONE.int()), f"bias {FLOATS} [C]"),
    ],
)
def test_arguments_of_the_functions_are_checked(call, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        call()
