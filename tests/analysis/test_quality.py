"""Accuracies and proper scores against torchmetrics and scikit-learn, by hand, and by their properties."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import log_loss

from dotkd.analysis import (
    agreement,
    brier_score,
    expected_calibration_error,
    negative_log_likelihood,
    per_class_accuracy,
    reliability_diagram,
    top_k_accuracy,
    worst_classes,
)

seeds = st.integers(0, 2**32 - 1)


def predictions(seed: int, samples: int = 50, classes: int = 6) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(samples, classes, generator=generator)
    return logits, torch.randint(classes, (samples,), generator=generator)


@settings(deadline=None)
@given(seeds, st.integers(1, 40), st.integers(2, 9), st.data())
def test_accuracies_against_torchmetrics(torchmetrics, seed: int, samples: int, classes: int, data) -> None:
    logits, target = predictions(seed, samples, classes)
    k = data.draw(st.integers(1, classes))
    expected = torchmetrics.MulticlassAccuracy(classes, average="micro", top_k=k)(logits, target).item()
    assert top_k_accuracy(logits, target, k=k) == pytest.approx(expected, abs=1e-6)
    found = per_class_accuracy(logits, target, classes)
    expected = torchmetrics.MulticlassAccuracy(classes, average="none")(logits, target)
    torch.testing.assert_close(found.accuracy.nan_to_num().float(), expected)
    assert found.samples.tolist() == target.bincount(minlength=classes).tolist()
    assert found.accuracy.isnan().tolist() == (found.samples == 0).tolist()


@settings(deadline=None)
@given(seeds, st.integers(1, 40), st.integers(2, 9))
def test_scores_against_scikit_learn_and_numpy(seed: int, samples: int, classes: int) -> None:
    logits, target = predictions(seed, samples, classes)
    probabilities = logits.double().softmax(1).numpy()
    expected = log_loss(target, probabilities, labels=range(classes))
    assert negative_log_likelihood(logits, target) == pytest.approx(expected, rel=1e-9)
    expected = np.square(probabilities - np.eye(classes)[target]).sum(1).mean()
    assert brier_score(logits, target) == pytest.approx(expected, rel=1e-12)


@settings(deadline=None)
@given(seeds)
def test_the_order_of_the_samples_does_not_matter(seed: int) -> None:
    logits, target = predictions(seed)
    order = torch.randperm(len(target), generator=torch.Generator().manual_seed(seed))
    for measure in (top_k_accuracy, negative_log_likelihood, brier_score):
        assert measure(logits[order], target[order]) == pytest.approx(measure(logits, target), rel=1e-12)
    shuffled, straight = (
        per_class_accuracy(logits[o], target[o], 6) for o in (order, torch.arange(len(target)))
    )
    assert all(torch.equal(a.nan_to_num(), b.nan_to_num()) for a, b in zip(shuffled, straight, strict=True))


def test_perfect_hopeless_and_clueless_predictions() -> None:
    target = torch.tensor([0, 1, 2, 3])
    sure = 100.0 * torch.eye(4)
    assert top_k_accuracy(sure, target) == 1
    assert brier_score(sure, target) == pytest.approx(0, abs=1e-80)
    assert negative_log_likelihood(sure, target) == pytest.approx(0, abs=1e-40)
    wrong = sure.roll(1, 0)
    assert (top_k_accuracy(wrong, target), brier_score(wrong, target)) == (0, 2)
    assert negative_log_likelihood(wrong, target) == 100
    assert top_k_accuracy(wrong, target, k=4) == 1
    none = torch.zeros(4, 4)
    assert brier_score(none, target) == 0.75
    assert negative_log_likelihood(none, target) == pytest.approx(math.log(4))


def test_more_outputs_than_classes_of_the_data() -> None:
    logits, target = torch.eye(5)[[0, 4, 1]], torch.tensor([0, 0, 1])
    found = per_class_accuracy(logits, target, 2)
    assert found.accuracy.tolist() == [0.5, 1]
    assert found.samples.tolist() == [2, 1]


def test_worst_classes_come_first_and_empty_ones_not_at_all() -> None:
    predicted, target = torch.tensor([0, 1, 1, 3, 4, 4]), torch.tensor([0, 0, 1, 4, 3, 4])
    logits = torch.eye(6)[predicted]
    found = worst_classes(logits, target, 6, k=3)
    assert found == [(3, 0, 1), (0, 0.5, 2), (4, 0.5, 2)]
    assert [one.label for one in worst_classes(logits, target, 6)] == [3, 0, 4, 1]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_widened_first(dtype) -> None:
    logits, target = predictions(3)
    logits = logits.to(dtype)
    for measure in (negative_log_likelihood, brier_score, expected_calibration_error):
        assert measure(logits, target) == measure(logits.float(), target)


def test_nothing_is_differentiated() -> None:
    logits, target = predictions(4)
    logits.requires_grad_()
    brier_score(logits, target)
    assert not any(part.requires_grad for part in per_class_accuracy(logits, target, 6))
    assert not any(part.requires_grad for part in reliability_diagram(logits, target))


# Wrong input -----------------------------------------------------------------

MEASURES = {
    "top_k_accuracy": top_k_accuracy,
    "negative_log_likelihood": negative_log_likelihood,
    "brier_score": brier_score,
    "per_class_accuracy": lambda logits, target: per_class_accuracy(logits, target, 6),
    "worst_classes": lambda logits, target: worst_classes(logits, target, 6),
    "expected_calibration_error": expected_calibration_error,
    "reliability_diagram": reliability_diagram,
    "agreement": lambda logits, target: agreement(logits, logits, target),
}


@pytest.mark.parametrize("name", MEASURES)
def test_wrong_tensors_are_refused(name) -> None:
    logits, target = predictions(5)
    for wrong, labels, message in [
        (
            logits[0],
            target,
            r"logits must be .* \[B, C\] with C >= 2, not empty, got a tensor of float32 \[6\]",
        ),
        (logits[:0], target[:0], r"C >= 2, not empty, got a tensor of float32 \[0, 6\]"),
        (logits.long(), target, "logits must be a floating-point tensor .* got a tensor of int64"),
        (logits, target[1:], r"target must be a tensor of int64 \[50\], got a tensor of int64 \[49\]"),
        (logits, target.float(), r"target must be a tensor of int64 \[\d+\], got a tensor of float32"),
        (logits, target + 1, "target must lie from 0 to 5 .*, got 1 to 6"),
        (logits, target - 1, "target must lie from 0 to 5 .*, got -1 to 4"),
    ]:
        with pytest.raises(ValueError, match=message):
            MEASURES[name](wrong, labels)


def test_wrong_numbers_are_refused() -> None:
    logits, target = predictions(6)
    with pytest.raises(ValueError, match="k must be at most the number of classes, 6, got 7"):
        top_k_accuracy(logits, target, k=7)
    with pytest.raises(ValueError, match="k must be an integer >= 1, got 0"):
        top_k_accuracy(logits, target, k=0)
    with pytest.raises(ValueError, match="k must be an integer >= 1, got 0"):
        worst_classes(logits, target, 6, k=0)
    with pytest.raises(ValueError, match="num_classes must be at most the 6 outputs, got 7"):
        per_class_accuracy(logits, target, 7)
    with pytest.raises(ValueError, match="num_classes must be an integer >= 1, got 0"):
        per_class_accuracy(logits, target, 0)
