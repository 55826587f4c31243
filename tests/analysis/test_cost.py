"""FLOPs against formulas, latency with a clock of our own."""

import time

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from dotkd.analysis import cost, flops, latency, parameter_count

small = st.integers(1, 5)

# ---------------------------------------------------------------- parameters and operations


def test_parameters_are_counted_once_and_buffers_are_not() -> None:
    layer = nn.Linear(4, 4)
    model = nn.Sequential(layer, nn.BatchNorm1d(4), layer)
    layer.weight.requires_grad_(False)
    assert parameter_count(model) == 4 * 4 + 4 + 4 + 4


@settings(deadline=None)
@given(small, small, small, st.integers(1, 3), st.integers(1, 3), st.integers(0, 2), st.integers(4, 9))
def test_convolution_against_the_formula(batch, inputs, outputs, kernel, stride, padding, size) -> None:
    conv = nn.Conv2d(inputs, outputs, kernel, stride, padding).eval()
    pixels = ((size + 2 * padding - kernel) // stride + 1) ** 2
    expected = 2 * batch * inputs * outputs * kernel**2 * pixels
    assert flops(conv, torch.zeros(batch, inputs, size, size)) == expected


def test_groups_linear_layers_and_what_is_not_counted() -> None:
    model = nn.Sequential(
        nn.Conv2d(4, 8, 3, groups=2, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(32, 5)
    ).eval()
    assert flops(model, torch.zeros(3, 4, 4, 4)) == 2 * 3 * (2 * 8 * 9 * 4 + 32 * 5)


@pytest.mark.parametrize("fast", [True, False])
def test_attention_is_counted_where_it_runs_fused(fast: bool) -> None:
    width, tokens, batch = 8, 6, 2
    layer = nn.TransformerEncoderLayer(width, 2, dim_feedforward=16, batch_first=True).eval()
    projections = 4 * width**2 * tokens
    products = 2 * tokens**2 * width
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(fast)
    try:
        found = flops(layer, torch.zeros(batch, tokens, width))
        assert torch.backends.mha.get_fastpath_enabled() == fast
    finally:
        torch.backends.mha.set_fastpath_enabled(before)
    assert found == 2 * batch * (projections + products + 2 * width * 16 * tokens)


def test_any_callable_is_counted_without_a_graph() -> None:
    weight = torch.zeros(3, 4, requires_grad=True)
    seen = []

    def model(images):
        seen.append(images @ weight)

    assert flops(model, torch.zeros(2, 3)) == 2 * 2 * 3 * 4
    assert not seen[0].requires_grad


@pytest.mark.parametrize("measure", [flops, latency])
def test_training_mode_is_refused(measure) -> None:
    model = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(4)).eval()
    model[1].train()
    with pytest.raises(ValueError, match="model must be in evaluation mode, got one in training mode"):
        measure(model, torch.zeros(2, 4))
    assert model[1].num_batches_tracked == 0


# ---------------------------------------------------------------- time


def test_median_and_quartiles_leave_the_warm_up_out(monkeypatch) -> None:
    now = [0.0]
    seconds = iter([100.0, 50.0, 3.0, 1.0, 2.0, 5.0, 4.0])

    def model(images):
        assert not torch.is_grad_enabled()
        now[0] += next(seconds)

    monkeypatch.setattr(cost.time, "perf_counter", lambda: now[0])
    found = latency(model, torch.zeros(1), repeats=5, warmup=2)
    assert found == pytest.approx((3, 2, 4))
    assert next(seconds, None) is None


def test_a_real_clock() -> None:
    found = latency(lambda _: time.sleep(0.01), torch.zeros(1), repeats=3, warmup=1)
    assert 0.01 <= found.first_quartile <= found.median <= found.third_quartile < 1


def test_clock_waits_for_the_device_at_both_ends(monkeypatch) -> None:
    events = []
    monkeypatch.setattr(torch.accelerator, "synchronize", lambda device: events.append(device.type))
    monkeypatch.setattr(cost.time, "perf_counter", lambda: events.append("clock") or 0.0)
    latency(lambda _: events.append("model"), torch.zeros(1, device="meta"), repeats=1, warmup=1)
    assert events == ["meta", "clock", "model", "meta", "clock"] * 2


@pytest.mark.parametrize("option", ["repeats", "warmup"])
def test_repetitions_are_checked(option) -> None:
    with pytest.raises(ValueError, match=f"{option} must be an integer >= 1, got 0"):
        latency(lambda _: None, torch.zeros(1), **{option: 0})


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_latency_of_a_gpu() -> None:
    matrix = torch.rand(4096, 4096, device="cuda")
    found = latency(lambda batch: batch @ matrix, matrix, repeats=500)
    assert 0 < found.first_quartile <= found.median <= found.third_quartile
