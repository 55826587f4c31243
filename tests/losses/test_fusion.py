"""Knowledge review: recorded numbers of the whole pyramid, its levels by hand, and any sizes."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from dotkd.losses import ReviewFusion, hierarchical_context_loss

GOLDEN = Path(__file__).parents[1] / "golden"
HYPER = json.loads((GOLDEN / "losses.json").read_text())["reviewkd"]["hyper"]
VECTORS = np.load(GOLDEN / "losses.npz")

TWO = ([3, 4], [5, 6], [(4, 6), 2])
FOUR = ([2, 3, 4, 5], [3, 4, 5, 6], [8, 8, 3, 1])
pyramids = pytest.mark.parametrize("lists", [TWO, FOUR], ids=["two", "four"])


def pyramid(student_channels, teacher_channels, sizes, **options):
    torch.manual_seed(0)
    return ReviewFusion(student_channels, teacher_channels, sizes, **options)


def student_maps(channels, sizes, dtype=torch.float32, batch=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    shapes = [
        (batch, c, *(s if isinstance(s, tuple) else (s, s))) for c, s in zip(channels, sizes, strict=True)
    ]
    return [torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype) for shape in shapes]


# Recorded numbers ------------------------------------------------------------


def test_value_and_gradient_equal_the_published_ones():
    module = ReviewFusion(HYPER["in_channels"], HYPER["out_channels"], HYPER["shapes"][::-1])
    prefix = "reviewkd/module/"
    module.load_state_dict(
        {
            f"fusions.{key.removeprefix(prefix)}": torch.from_numpy(VECTORS[key].copy())
            for key in VECTORS
            if key.startswith(prefix)
        }
    )
    student = [torch.from_numpy(VECTORS[f"reviewkd/in/student{i}"].copy()).requires_grad_() for i in range(3)]
    teacher = [torch.from_numpy(VECTORS[f"reviewkd/in/teacher{i}"]) for i in range(3)]
    loss = hierarchical_context_loss(module(student), teacher)
    loss.backward()
    torch.testing.assert_close(loss.item(), VECTORS["reviewkd/loss"].item(), rtol=1e-5, atol=0)
    for number, feature in enumerate(student):
        expected = torch.from_numpy(VECTORS[f"reviewkd/grad/student{number}"])
        assert (feature.grad - expected).norm() <= 1e-5 * expected.norm()
        torch.testing.assert_close(feature.grad, expected, rtol=1e-5, atol=1e-6 * expected.abs().max().item())


# Numbers by hand -------------------------------------------------------------


def plain(module):
    """Every convolution a constant, every batch norm the identity: levels can be worked by hand."""
    for part in module.modules():
        if isinstance(part, nn.Conv2d):
            nn.init.zeros_(part.weight)
            part.weight.data[:, :, part.kernel_size[0] // 2, part.kernel_size[1] // 2] = 1
        if isinstance(part, nn.BatchNorm2d):
            part.eps = 0.0
    return module.eval()


def test_by_hand():
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


# The pyramid -----------------------------------------------------------------


@pyramids
@pytest.mark.parametrize("scale", [1, 2])
def test_outputs_are_shaped_like_the_teachers(lists, scale):
    student_channels, teacher_channels, sizes = lists
    own_sizes = [tuple(scale * side for side in ((s, s) if isinstance(s, int) else s)) for s in sizes]
    outputs = pyramid(*lists)(student_maps(student_channels, own_sizes))
    pairs = [(s, s) if isinstance(s, int) else s for s in sizes]
    assert [tuple(o.shape) for o in outputs] == [
        (3, c, *p) for c, p in zip(teacher_channels, pairs, strict=True)
    ]


@pyramids
def test_a_shallow_output_depends_on_all_deeper_features_and_a_deep_one_on_no_shallower(lists):
    module = pyramid(*lists)
    features = [f.requires_grad_() for f in student_maps(lists[0], lists[2])]
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


def test_gradients_by_finite_differences():
    module = pyramid([2, 2, 3], [2, 3, 2], [3, 2, 1]).double()
    teacher = student_maps([2, 3, 2], [3, 2, 1], torch.float64, batch=2, seed=1)
    student = student_maps([2, 2, 3], [4, 2, 2], torch.float64, batch=2)
    inputs = [feature.requires_grad_() for feature in student]
    assert torch.autograd.gradcheck(lambda *f: hierarchical_context_loss(module(f), teacher), inputs)


def test_every_weight_learns():
    module, student = pyramid(*FOUR), student_maps(FOUR[0], FOUR[2])
    teacher = student_maps(FOUR[1], FOUR[2], seed=1)
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1, momentum=0.9)
    losses = []
    for _ in range(20):
        optimizer.zero_grad()
        losses.append(hierarchical_context_loss(module(student), teacher))
        losses[-1].backward()
        if len(losses) == 1:
            # Batch norm takes out what all of a channel share, so its convolution sees rounding at most.
            assert all(parameter.grad is not None for parameter in module.parameters())
        optimizer.step()
    assert losses[-1] < 0.9 * losses[0]


def test_state_round_trip():
    module, other = pyramid(*FOUR), ReviewFusion(*FOUR)
    features = student_maps(FOUR[0], FOUR[2])
    module(features)  # moves the running statistics
    other.load_state_dict(module.state_dict())
    for ours, theirs in zip(module.eval()(features), other.eval()(features), strict=True):
        assert torch.equal(ours, theirs)


# Extremes, dtypes, devices ---------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize("scale", [0.0, 1e-7, 1.0, 1e4])
def test_extremes_stay_finite(dtype, scale):
    module = pyramid(*FOUR)
    student = [(scale * f).to(dtype).requires_grad_() for f in student_maps(FOUR[0], FOUR[2])]
    teacher = [(scale * f).to(dtype) for f in student_maps(FOUR[1], FOUR[2], seed=1)]
    outputs = module(student)
    loss = hierarchical_context_loss(outputs, teacher)
    loss.backward()
    assert all(output.dtype == torch.float32 for output in outputs)
    assert loss.isfinite()
    for tensor in (*student, *module.parameters()):
        assert tensor.grad.isfinite().all()


class NoHostRead(TorchDispatchMode):
    """Fails on operations whose result the host must wait for."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        waits = ("_local_scalar_dense", "nonzero", "masked_select", "aten.index.")
        assert not any(word in str(func) for word in waits), func
        return func(*args, **(kwargs or {}))


def test_nothing_waits_for_the_device():
    module, student = pyramid(*FOUR), student_maps(FOUR[0], FOUR[2])
    with NoHostRead():
        sum(output.sum() for output in module(student)).backward()


def test_compiles_in_one_piece():
    module, student = pyramid(*TWO).eval(), student_maps(TWO[0], TWO[2])
    compiled = torch.compile(module, backend="eager", fullgraph=True)
    for ours, theirs in zip(compiled(student), module(student), strict=True):
        torch.testing.assert_close(ours, theirs)


# Wrong input -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        (
            ([3], [5, 6], [2, 1]),
            {},
            "student_channels and teacher_channels must have one entry for each feature",
        ),
        (([3, 4], [5, 0], [2, 1]), {}, "teacher_channels[1] must be an integer >= 1, got 0"),
        (([3, 4], [5, 6], [2]), {}, "sizes must have one entry for each of 2 features, got [2]"),
        (([3, 4], [5, 6], [2, 0]), {}, "sizes[1] must be an integer >= 1, got 0"),
        (
            ([3, 4], [5, 6], [(2, 2, 2), 1]),
            {},
            "sizes[0] must be a number or a pair (height, width), got (2, 2, 2)",
        ),
        (([3], [5], [2]), {"hidden_channels": 0}, "hidden_channels must be an integer >= 1, got 0"),
    ],
)
def test_options_are_checked(arguments, options, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        ReviewFusion(*arguments, **options)


def test_features_are_checked():
    features = student_maps(TWO[0], TWO[2])
    for given, message in [
        (features[0], "student_features must be a list of 2 maps with [3, 4] channels, got Tensor"),
        (features[:1], "student_features must be a list of 2 maps with [3, 4] channels, got a list of 1"),
        (features[::-1], "student_features[0] must be [B, 3, H, W], not empty, got shape [3, 4, 2, 2]"),
        ([features[0], features[1].long()], "student_features[1] must be floating point, got torch.int64"),
    ]:
        with pytest.raises(ValueError, match=re.escape(message)):
            pyramid(*TWO)(given)
