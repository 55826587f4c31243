"""KD and DKD as methods, and the interface of all methods: defaults, raw losses, weights, ramp, inputs."""

import math
import pickle

import pytest
import torch

from dotkd.losses import dkd_loss, kd_loss
from dotkd.methods import CRD, DKD, KD, VID, FunctionMethod, LabelSmoothing, Method, Outputs, ReviewKD


def batch():
    generator = torch.Generator().manual_seed(0)
    student, teacher = torch.randn(2, 6, 5, generator=generator)
    return Outputs(student), Outputs(teacher), torch.randint(5, (6,), generator=generator)


def test_published_defaults():
    kd, dkd = KD(), DKD()
    assert (kd.temperature, kd.standardize, kd.task_weight, kd.distill_weight) == (4.0, False, 0.1, 0.9)
    assert (dkd.alpha, dkd.beta, dkd.temperature, dkd.task_weight, dkd.distill_weight) == (1, 8, 4, 1, 1)
    assert (kd.warmup, dkd.warmup) == (0.0, 0.0)
    assert (kd.needs, dkd.needs) == (("logits",), ("logits", "target"))


@pytest.mark.parametrize("options", [{}, {"temperature": 2.0, "standardize": True}])
def test_kd_returns_the_raw_loss(options):
    student, teacher, target = batch()
    loss = KD(**options, distill_weight=7.0, warmup=1.0)(student, teacher, target, index=None, progress=0.0)
    assert torch.equal(loss, kd_loss(student.logits, teacher.logits, **options))


@pytest.mark.parametrize("options", [{}, {"alpha": 0.5, "beta": 2.0, "temperature": 1.0}])
def test_dkd_returns_the_raw_loss(options):
    student, teacher, target = batch()
    loss = DKD(**options, distill_weight=7.0, warmup=1.0)(student, teacher, target, index=None, progress=0.0)
    assert torch.equal(loss, dkd_loss(student.logits, teacher.logits, target, **options))


def test_ramp_rises_linearly_and_stays():
    method = DKD(warmup=20 / 240)
    factors = [method.ramp(epoch / 240) for epoch in (0, 1, 10, 20, 21, 240)]
    assert factors == pytest.approx([0, 1 / 20, 1 / 2, 1, 1, 1])
    assert [KD().ramp(progress) for progress in (0.0, 0.5, 1.0)] == [1.0, 1.0, 1.0]
    assert KD(warmup=1.0).ramp(0.25) == 0.25


@pytest.mark.parametrize("method", [KD(temperature=2), DKD(beta=2)])
def test_the_student_is_what_is_deployed_and_methods_pickle(method):
    student = torch.nn.Linear(2, 2)
    assert method.deployable(student) is student
    assert list(method.parameters()) == []
    assert repr(pickle.loads(pickle.dumps(method))) == repr(method)


@pytest.mark.parametrize("method", [KD, DKD])
@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("temperature", 0.0, "temperature must be a finite number > 0, got 0.0"),
        ("task_weight", -1.0, "task_weight must be a finite number >= 0, got -1.0"),
        ("distill_weight", math.nan, "distill_weight must be a finite number >= 0, got nan"),
        ("warmup", 20, "warmup must be a number from 0 to 1, got 20"),
        ("warmup", math.nan, "warmup must be a number from 0 to 1, got nan"),
    ],
)
def test_options_are_checked_when_the_method_is_made(method, option, value, message):
    with pytest.raises(ValueError, match=message):
        method(**{option: value})


@pytest.mark.parametrize("option", ["alpha", "beta"])
def test_dkd_weights_are_checked(option):
    with pytest.raises(ValueError, match=f"{option} must be a finite number >= 0, got -1"):
        DKD(**{option: -1})


def test_half_precision_outputs_are_widened():
    half = Outputs(torch.zeros(2, 3, dtype=torch.float16), {"a": torch.zeros(1, dtype=torch.bfloat16)})
    wide = half.in_float32()
    assert wide.logits.dtype == wide.features["a"].dtype == torch.float32
    double = Outputs(torch.zeros(2, 3, dtype=torch.float64))
    assert double.in_float32().logits is double.logits


@pytest.mark.parametrize(
    ("method", "features", "hard"),
    [
        (KD(), (), False),
        (DKD(), (), True),
        (VID(), ("stages",), False),
        (CRD(), ("pooled",), True),
        (ReviewKD(), ("stages", "preacts", "pooled"), False),
        (FunctionMethod(kd_loss, needs=("logits", "block", "target")), ("block",), True),
    ],
)
def test_needs_are_features_and_labels(method, features, hard):
    assert method.feature_names == features
    assert method.needs_hard_labels == hard
    assert LabelSmoothing().needs_hard_labels


def test_repr_shows_the_options_of_the_constructor_and_the_weights():
    class Own(Method):
        def __init__(self, *, scale=2.0, mode="sum", hidden=3, **weights):
            super().__init__(**weights)
            self.scale, self.mode, self._hidden = scale, mode, hidden

        def forward(self, student, teacher, target, **_):  # noqa: ARG002
            return student.logits.mean()

    weights = "task_weight=1, distill_weight=0.5, warmup=0"
    assert repr(Own(distill_weight=0.5)) == f"Own(scale=2, mode='sum', {weights})"
    assert repr(DKD(beta=2, distill_weight=0.5)) == f"DKD(alpha=1, beta=2, temperature=4, {weights})"
