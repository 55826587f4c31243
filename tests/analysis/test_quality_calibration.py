"""The calibration error against torchmetrics, the diagram against a loop, and both by their properties."""

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from dotkd.analysis import expected_calibration_error, reliability_diagram


def predictions(
    seed: int, scale: float, samples: int = 200, classes: int = 5, dtype: torch.dtype = torch.float32
) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = scale * torch.randn(samples, classes, generator=generator, dtype=dtype)
    return logits, torch.randint(classes, (samples,), generator=generator)


def calibrated(samples: int) -> tuple[torch.Tensor, torch.Tensor]:
    logits, _ = predictions(0, 1.0, samples)
    target = torch.multinomial(logits.softmax(1), 1, generator=torch.Generator().manual_seed(1))
    return logits, target.flatten()


@pytest.fixture(scope="session")
def oracle(torchmetrics):
    def error(logits: torch.Tensor, target: torch.Tensor, bins: int) -> float:
        # Probabilities: it takes logits that all lie in [0, 1] for those.
        metric = torchmetrics.MulticlassCalibrationError(logits.shape[1], n_bins=bins, norm="l1")
        return metric(logits.softmax(1), target).item()

    return error


any_seed, scales = st.integers(0, 2**32 - 1), st.sampled_from([0.0, 0.1, 1.0, 5.0, 30.0, 1e4])


@settings(deadline=None)
@given(any_seed, scales, st.integers(1, 60), st.integers(2, 8), st.integers(1, 30))
@example(0, 30.0, 60, 3, 15)  # most confidences are rounded to 1
@example(0, 0.0, 60, 3, 15)  # all confidences on the edge of a bin
def test_error_equals_torchmetrics(oracle, seed, scale, samples, classes, bins) -> None:
    logits, target = predictions(seed, scale, samples, classes)
    found = expected_calibration_error(logits, target, bins=bins)
    assert found == pytest.approx(oracle(logits, target, bins), abs=2e-6)


def test_fifteen_bins_by_default(oracle) -> None:
    logits, target = calibrated(200)
    default = expected_calibration_error(logits, target)
    assert default == pytest.approx(oracle(logits, target, 15), abs=2e-6)
    assert default != expected_calibration_error(logits, target, bins=14)
    assert len(reliability_diagram(logits, target).samples) == 15


@settings(deadline=None)
@given(any_seed, scales)
def test_error_is_a_share_and_knows_no_order(seed: int, scale: float) -> None:
    logits, target = predictions(seed, scale)
    error = expected_calibration_error(logits, target)
    assert 0 <= error <= 1
    order = torch.randperm(len(target), generator=torch.Generator().manual_seed(seed))
    assert expected_calibration_error(logits[order], target[order]) == pytest.approx(error, abs=1e-12)


@settings(deadline=None)
@given(any_seed, st.sampled_from([0.1, 1.0, 5.0]))
def test_names_of_the_classes_do_not_matter(seed: int, scale: float) -> None:
    logits, target = predictions(seed, scale, dtype=torch.float64)
    classes = torch.randperm(5, generator=torch.Generator().manual_seed(seed))
    renamed = expected_calibration_error(logits[:, classes], classes.argsort()[target])
    assert renamed == pytest.approx(expected_calibration_error(logits, target), abs=1e-12)


def test_sure_predictions_cost_their_mistakes() -> None:
    sure = 1e4 * torch.eye(4)
    target = torch.arange(4)
    assert expected_calibration_error(sure, target) == 0
    assert expected_calibration_error(sure.roll(1, 0), target) == 1
    assert expected_calibration_error(sure, torch.tensor([0, 1, 2, 2])) == 0.25


def test_a_confidence_of_exactly_1_has_a_bin_of_its_own(oracle) -> None:
    logits = torch.tensor([[0.95, 0.05], [1.0, 0.0]]).log()
    target = torch.tensor([0, 1])  # right at 0.95, wrong at 1: in one bin they would cancel
    found = expected_calibration_error(logits, target)
    assert found == pytest.approx((0.05 + 1) / 2)
    assert found == pytest.approx(oracle(logits, target, 15))
    assert reliability_diagram(logits, target).samples.tolist() == [0] * 14 + [2]


def test_a_calibrated_predictor_has_a_small_error() -> None:
    logits, target = calibrated(100_000)
    assert expected_calibration_error(logits, target) < 0.006
    assert expected_calibration_error(3 * logits, target) > 0.2


@settings(deadline=None)
@given(any_seed, scales, st.integers(1, 20))
def test_diagram_against_a_loop(seed: int, scale: float, bins: int) -> None:
    logits, target = predictions(seed, scale, dtype=torch.float64)
    diagram = reliability_diagram(logits, target, bins=bins)
    confidence, predicted = logits.softmax(1).max(1)
    for i in range(bins):
        inside = (confidence >= diagram.edges[i]) & (confidence < diagram.edges[i + 1])
        if i == bins - 1:
            inside |= confidence == 1
        assert diagram.samples[i] == inside.sum()
        expected = confidence[inside].mean(), (predicted == target)[inside].double().mean()
        found = diagram.confidence[i], diagram.accuracy[i]
        torch.testing.assert_close(found, expected, equal_nan=True, rtol=1e-12, atol=0)
    assert diagram.edges.tolist() == pytest.approx([i / bins for i in range(bins + 1)])
    assert diagram.samples.sum() == len(target)


def test_error_follows_from_the_diagram_unless_confidences_are_1() -> None:
    logits, target = predictions(2, 1.0)
    diagram = reliability_diagram(logits, target)
    gaps = (diagram.accuracy - diagram.confidence).abs().nan_to_num()
    expected = (gaps * diagram.samples).sum() / 200
    assert expected_calibration_error(logits, target) == pytest.approx(expected.item(), abs=1e-12)


@pytest.mark.parametrize("bins", [0, -1, 1.5, True])
@pytest.mark.parametrize("measure", [expected_calibration_error, reliability_diagram])
def test_bins_are_checked(measure, bins) -> None:
    with pytest.raises(ValueError, match=rf"bins must be an integer >= 1, got {bins}"):
        measure(*predictions(0, 1.0), bins=bins)
