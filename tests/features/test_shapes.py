"""Shapes: every form of feature to every other, and the published regressors to the digit."""

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from dotkd.features import Aligner, ConvRegressor, as_map, as_vector, make_aligner

VECTORS = np.load(Path(__file__).parents[1] / "golden" / "losses.npz")
MAP, TOKENS, VECTOR = (2, 6, 4, 4), (2, 17, 6), (2, 6)

side = st.integers(1, 12)
width = st.integers(1, 5)
maps = st.tuples(st.just(3), width, side, side)
tokens = st.tuples(st.just(3), st.integers(1, 30), width)
vectors = st.tuples(st.just(3), width)
shapes = st.one_of(maps, tokens, vectors)


def rand(shape, seed=0, dtype=torch.float32):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


# Forms -----------------------------------------------------------------------


def test_forms_of_one_image_agree():
    image = rand(MAP)
    patches = image.flatten(2).transpose(1, 2)
    assert as_map(image) is image
    assert torch.equal(as_map(patches), image)
    torch.testing.assert_close(as_vector(patches), as_vector(image))
    vector = rand(VECTOR)
    assert as_vector(vector) is vector
    assert torch.equal(as_vector(as_map(vector)), vector)


@pytest.mark.parametrize("extra", [1, 2, 4, 5, 8, 9])
def test_tokens_in_front_are_no_patches(extra):
    image = rand((2, 6, 14, 14))
    patches = image.flatten(2).transpose(1, 2)
    front = torch.full((2, extra, 6), 7.0)
    assert torch.equal(as_map(torch.cat([front, patches], dim=1)), image)


@pytest.mark.parametrize("count", [2, 3, 8, 12, 28, 48])
def test_tokens_that_are_no_square_become_a_row_of_all(count):
    feature = rand((2, count, 6))
    row = as_map(feature)
    assert row.shape == (2, 6, 1, count)
    assert torch.equal(row[:, :, 0].transpose(1, 2), feature)


@given(shapes)
def test_forms_for_every_shape(shape):
    feature = rand(shape)
    channels = shape[1] if len(shape) == 4 else shape[-1]
    assert as_map(feature).shape[:2] == (3, channels)
    assert as_vector(feature).shape == (3, channels)
    assert as_map(feature).untyped_storage().data_ptr() == feature.untyped_storage().data_ptr()


@pytest.mark.parametrize("form", [as_map, as_vector])
@pytest.mark.parametrize("shape", [(), (3,), (2, 3, 4, 5, 6)])
def test_forms_refuse_other_ranks(form, shape):
    message = (
        r"feature must be a map \[B, C, H, W\] or tokens \[B, N, D\] or a vector \[B, D\], got a tensor of"
    )
    with pytest.raises(ValueError, match=message):
        form(torch.zeros(shape))


# The published regressor -----------------------------------------------------


@pytest.mark.parametrize("case", ["fitnet_same", "fitnet_down", "fitnet_up"])
def test_value_and_gradient_equal_the_published_ones(case):
    student, teacher = (torch.from_numpy(VECTORS[f"{case}/in/{name}"]) for name in ("student", "teacher"))
    regressor = ConvRegressor(student.shape, teacher.shape)
    keys = [key.removeprefix(f"{case}/module/") for key in VECTORS if key.startswith(f"{case}/module/")]
    assert set(keys) == set(regressor.state_dict())
    regressor.load_state_dict({key: torch.from_numpy(VECTORS[f"{case}/module/{key}"]) for key in keys})
    student.requires_grad_()
    loss = functional.mse_loss(regressor(student), teacher)
    loss.backward()
    torch.testing.assert_close(loss.item(), VECTORS[f"{case}/loss"].item(), rtol=1e-5, atol=0)
    expected = torch.from_numpy(VECTORS[f"{case}/grad/student"])
    torch.testing.assert_close(student.grad, expected, rtol=1e-5, atol=1e-5 * expected.abs().max().item())


@pytest.mark.parametrize(
    ("ours", "theirs", "kernel", "resized"),
    [
        ((8, 8), (8, 8), (1, 1), False),
        ((8, 6), (4, 3), (3, 3), False),
        ((4, 3), (8, 6), (4, 4), False),
        ((9, 8), (7, 8), (3, 1), False),
        ((14, 14), (8, 8), (7, 7), False),
        ((15, 15), (8, 8), (1, 1), True),  # the kernel would be 8
        ((8, 8), (4, 8), (5, 1), False),  # twice as large in one direction only
        ((3, 3), (8, 8), (1, 1), True),
        ((4, 8), (8, 4), (1, 1), True),
    ],
)
def test_the_convolution_follows_the_sides(ours, theirs, kernel, resized):
    regressor = ConvRegressor((1, 3, *ours), (1, 4, *theirs))
    assert regressor.conv.kernel_size == kernel
    assert (regressor.size is not None) == resized
    assert set(regressor.state_dict()) == set(ConvRegressor(MAP, MAP).state_dict())


def test_resizing_is_averaging_down_and_interpolating_up():
    down = ConvRegressor((2, 3, 12, 12), (2, 4, 3, 3), relu=False).eval()
    feature = rand((2, 3, 12, 12))
    torch.testing.assert_close(down(feature), down.bn(down.conv(functional.avg_pool2d(feature, 4))))
    up = ConvRegressor((2, 3, 1, 1), (2, 4, 5, 5), relu=False).eval()
    predicted = up(feature[:, :, :1, :1])
    torch.testing.assert_close(predicted, predicted[:, :, :1, :1].expand_as(predicted))


def test_relu_is_a_choice():
    feature = rand(MAP)
    with_relu = ConvRegressor(MAP, MAP)
    without = ConvRegressor(MAP, MAP, relu=False)
    without.load_state_dict(with_relu.state_dict())
    assert without(feature).min() < 0
    assert torch.equal(with_relu(feature), without(feature).relu())
    assert "relu=False" in repr(without)


def test_the_regressor_refuses_what_is_no_map_of_its_channels():
    with pytest.raises(ValueError, match=r"student_shape must be \[B, C, H, W\], each >= 1, got \[2, 6\]"):
        ConvRegressor(VECTOR, MAP)
    with pytest.raises(ValueError, match=r"teacher_shape must be .* got \[2, 0, 4, 4\]"):
        ConvRegressor(MAP, (2, 0, 4, 4))
    for wrong in (VECTOR, (2, 5, 4, 4)):
        with pytest.raises(
            ValueError, match=r"feature must be \[B, 6, H, W\], got a tensor of float32 \[2, [56]"
        ):
            ConvRegressor(MAP, MAP)(torch.zeros(wrong))


# Any to any ------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(shapes, shapes)
@example(MAP, TOKENS)
@example((4, 3, 32, 32), (4, 2, 4, 4))
def test_every_pair_of_shapes_trains(ours, theirs):
    student, teacher = rand(ours).requires_grad_(), rand(theirs, seed=1)
    aligner = make_aligner(student.detach(), teacher)
    predicted, target = aligner(student), aligner.target(teacher)
    assert predicted.shape[1:] == target.shape[1:]
    assert target.shape in {teacher.shape, as_map(teacher).shape}
    weights = rand(predicted.shape, seed=2)
    (predicted * weights).sum().backward()
    assert all(parameter.grad is not None for parameter in aligner.parameters())
    assert all(tensor.grad.isfinite().all() for tensor in (student, *aligner.parameters()))


@pytest.mark.parametrize(
    ("ours", "theirs", "layer", "compared"),
    [
        (VECTOR, (2, 9), nn.Linear, (2, 9)),
        (MAP, (2, 9), nn.Linear, (2, 9)),
        (TOKENS, (2, 9), nn.Linear, (2, 9)),
        (TOKENS, (2, 17, 9), nn.Linear, (2, 17, 9)),
        ((2, 16, 6), TOKENS, ConvRegressor, (2, 6, 4, 4)),
        (MAP, TOKENS, ConvRegressor, (2, 6, 4, 4)),
        (TOKENS, (2, 9, 8, 8), ConvRegressor, (2, 9, 8, 8)),
        (VECTOR, (2, 9, 8, 8), ConvRegressor, (2, 9, 8, 8)),
        (MAP, (2, 9, 8, 8), ConvRegressor, (2, 9, 8, 8)),
    ],
)
def test_what_predicts_and_what_is_compared(ours, theirs, layer, compared):
    student, teacher = rand(ours), rand(theirs)
    aligner = make_aligner(student, teacher)
    assert isinstance(aligner, Aligner)
    assert isinstance(aligner.predict, layer)
    assert aligner(student).shape == aligner.target(teacher).shape == compared
    assert (aligner.target(teacher) is teacher) == (compared == theirs)


def test_the_class_token_is_compared_with_the_class_token():
    aligner = make_aligner(rand(TOKENS), rand(TOKENS))
    feature = rand(TOKENS)
    other = feature.clone()
    other[:, 0] += 1
    difference = (aligner(other) - aligner(feature)).abs().sum((0, 2))
    assert difference[0] > 0
    assert difference[1:].max() == 0


def test_a_regressor_rectifies_where_the_teacher_does():
    student, teacher = rand(MAP), rand(MAP)
    assert make_aligner(student, teacher.relu()).predict.relu
    assert not make_aligner(student, teacher).predict.relu
    assert make_aligner(student, teacher, relu=True).predict.relu


def test_it_can_learn_the_teacher():
    torch.manual_seed(0)
    student, teacher = rand((8, 5, 6)), rand((8, 5, 3), seed=1)
    aligner = make_aligner(student, teacher)
    optimizer = torch.optim.LBFGS(aligner.parameters(), max_iter=50)

    def closure():
        optimizer.zero_grad()
        loss = functional.mse_loss(aligner(student), aligner.target(teacher))
        loss.backward()
        return loss

    optimizer.step(closure)
    rows = torch.cat([student.flatten(0, 1), torch.ones(40, 1)], dim=1)
    best = torch.linalg.lstsq(rows, teacher.flatten(0, 1)).solution  # least squares in closed form
    expected = functional.mse_loss(rows @ best, teacher.flatten(0, 1))
    torch.testing.assert_close(closure().detach(), expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_dtype_of_the_layers(dtype):
    aligner = make_aligner(rand(MAP, dtype=dtype), rand(MAP, dtype=dtype))
    expected = torch.float64 if dtype == torch.float64 else torch.float32
    assert {parameter.dtype for parameter in aligner.parameters()} == {expected}


def test_a_copy_is_independent():
    feature = rand(MAP)
    aligner = make_aligner(feature, rand(TOKENS)).eval()
    twin = copy.deepcopy(aligner)
    nn.init.zeros_(twin.predict.conv.weight)
    assert not torch.equal(twin(feature), aligner(feature))


@pytest.mark.parametrize(
    ("student", "teacher", "message"),
    [
        (
            torch.zeros(3),
            torch.zeros(MAP),
            r"student_feature must be .* 2, 3 or 4 dimensions, .* float32 \[3\]",
        ),
        (
            torch.zeros(MAP),
            torch.zeros(1, 1, 1, 1, 1),
            r"teacher_feature must be .* float32 \[1, 1, 1, 1, 1\]",
        ),
        (torch.zeros(MAP), torch.zeros(MAP).long(), r"teacher_feature must be a floating-point .* int64"),
        (torch.zeros(2, 0), torch.zeros(MAP), r"student_feature must be .* not empty, .* float32 \[2, 0\]"),
    ],
)
def test_wrong_examples_are_named(student, teacher, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        make_aligner(student, teacher)


def test_wrong_features_are_named():
    aligner = make_aligner(torch.zeros(MAP), torch.zeros(TOKENS))
    with pytest.raises(ValueError, match=r"^student_feature must be a map \[B, C, H, W\], got .* \[2, 6\]$"):
        aligner(torch.zeros(VECTOR))
    with pytest.raises(ValueError, match=r"^teacher_feature must be tokens \[B, N, D\], got .* \[2, 6\]$"):
        aligner.target(torch.zeros(VECTOR))
