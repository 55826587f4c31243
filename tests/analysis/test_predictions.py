"""Predictions against torchmetrics, scikit-learn, scipy and plain loops, by hand, and by their properties."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy.special import ive, rel_entr
from sklearn.metrics import log_loss
from torch import nn

from dotkd.analysis import (
    CORRUPTIONS,
    agreement,
    brier_score,
    corrupt,
    expected_calibration_error,
    fgsm,
    negative_log_likelihood,
    per_class_accuracy,
    reliability_diagram,
    top_k_accuracy,
    worst_classes,
)

seeds = st.integers(0, 2**32 - 1)


def predictions(
    seed: int, samples: int = 50, classes: int = 6, *, scale: float = 3.0, dtype: torch.dtype = torch.float32
) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = scale * torch.randn(samples, classes, generator=generator, dtype=dtype)
    return logits, torch.randint(classes, (samples,), generator=generator)


# ---------------------------------------------------------------- accuracy and scores


@pytest.mark.slow  # torchmetrics takes seconds to load
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


# ---------------------------------------------------------------- checks of all scores

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
        (logits[0], target, r"logits must .*\[B, C\].* got .*\[6\]"),
        (logits[:0], target[:0], r"logits must .*\[B, C\].* got .*\[0, 6\]"),
        (logits[:, :1], target, r"logits must .*\[B, C\].* 2.* got .*\[50, 1\]"),
        (logits.long(), target, "logits must .*floating.point.* got .*int64"),
        (logits, target[1:], r"^target must .*\[50\].* got .*\[49\]"),
        (logits, target.float(), "^target must .*int64.* got .*float32"),
        (logits, target + 1, "^target must .* 0 to 5.* got 1 to 6"),
        (logits, target - 1, "^target must .* 0 to 5.* got -1 to 4"),
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


# ---------------------------------------------------------------- calibration


def calibrated(samples: int) -> tuple[torch.Tensor, torch.Tensor]:
    logits, _ = predictions(0, samples, 5, scale=1.0)
    target = torch.multinomial(logits.softmax(1), 1, generator=torch.Generator().manual_seed(1))
    return logits, target.flatten()


@pytest.fixture(scope="session")
def oracle(torchmetrics):
    def error(logits: torch.Tensor, target: torch.Tensor, bins: int) -> float:
        # Probabilities: it takes logits that all lie in [0, 1] for those.
        metric = torchmetrics.MulticlassCalibrationError(logits.shape[1], n_bins=bins, norm="l1")
        return metric(logits.softmax(1), target).item()

    return error


scales = st.sampled_from([0.0, 0.1, 1.0, 5.0, 30.0, 1e4])


@pytest.mark.slow  # torchmetrics takes seconds to load
@settings(deadline=None)
@given(seeds, scales, st.integers(1, 60), st.integers(2, 8), st.integers(1, 30))
@example(0, 30.0, 60, 3, 15)  # most confidences are rounded to 1
@example(0, 0.0, 60, 3, 15)  # all confidences on the edge of a bin
def test_calibration_error_equals_torchmetrics(oracle, seed, scale, samples, classes, bins) -> None:
    logits, target = predictions(seed, samples, classes, scale=scale)
    found = expected_calibration_error(logits, target, bins=bins)
    assert found == pytest.approx(oracle(logits, target, bins), abs=2e-6)


@pytest.mark.slow  # torchmetrics takes seconds to load
def test_fifteen_bins_by_default(oracle) -> None:
    logits, target = calibrated(200)
    default = expected_calibration_error(logits, target)
    assert default == pytest.approx(oracle(logits, target, 15), abs=2e-6)
    assert default != expected_calibration_error(logits, target, bins=14)
    assert len(reliability_diagram(logits, target).samples) == 15


@settings(deadline=None)
@given(seeds, scales)
def test_calibration_error_is_a_share_and_knows_no_order(seed: int, scale: float) -> None:
    logits, target = predictions(seed, 200, 5, scale=scale)
    error = expected_calibration_error(logits, target)
    assert 0 <= error <= 1
    order = torch.randperm(len(target), generator=torch.Generator().manual_seed(seed))
    assert expected_calibration_error(logits[order], target[order]) == pytest.approx(error, abs=1e-12)


@settings(deadline=None)
@given(seeds, st.sampled_from([0.1, 1.0, 5.0]))
def test_names_of_the_classes_do_not_matter(seed: int, scale: float) -> None:
    logits, target = predictions(seed, 200, 5, scale=scale, dtype=torch.float64)
    classes = torch.randperm(5, generator=torch.Generator().manual_seed(seed))
    renamed = expected_calibration_error(logits[:, classes], classes.argsort()[target])
    assert renamed == pytest.approx(expected_calibration_error(logits, target), abs=1e-12)


def test_sure_predictions_cost_their_mistakes() -> None:
    sure = 1e4 * torch.eye(4)
    target = torch.arange(4)
    assert expected_calibration_error(sure, target) == 0
    assert expected_calibration_error(sure.roll(1, 0), target) == 1
    assert expected_calibration_error(sure, torch.tensor([0, 1, 2, 2])) == 0.25


@pytest.mark.slow  # torchmetrics takes seconds to load
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
@given(seeds, scales, st.integers(1, 20))
def test_diagram_against_a_loop(seed: int, scale: float, bins: int) -> None:
    logits, target = predictions(seed, 200, 5, scale=scale, dtype=torch.float64)
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
    logits, target = predictions(2, 200, 5, scale=1.0)
    diagram = reliability_diagram(logits, target)
    gaps = (diagram.accuracy - diagram.confidence).abs().nan_to_num()
    expected = (gaps * diagram.samples).sum() / 200
    assert expected_calibration_error(logits, target) == pytest.approx(expected.item(), abs=1e-12)


@pytest.mark.parametrize("bins", [0, -1, 1.5, True])
@pytest.mark.parametrize("measure", [expected_calibration_error, reliability_diagram])
def test_bins_are_checked(measure, bins) -> None:
    with pytest.raises(ValueError, match=rf"bins must be an integer >= 1, got {bins}"):
        measure(*predictions(0), bins=bins)


# ---------------------------------------------------------------- agreement


def test_agreement_by_hand() -> None:
    student = torch.eye(4)[[0, 1, 2, 3, 0]]
    teacher = torch.eye(4)[[0, 2, 1, 0, 3]]
    found = agreement(student, teacher, torch.tensor([1, 1, 1, 2, 0]))
    assert found.differing == 4
    assert found == pytest.approx((0.2, found.kl, 4, 0.5, 0.25, 0.25))


@settings(deadline=None)
@given(seeds, st.integers(1, 60), st.integers(2, 6))
def test_agreement_against_numpy(seed: int, samples: int, classes: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    student, teacher = torch.randn(2, samples, classes, generator=generator, dtype=torch.float64)
    target = torch.randint(classes, (samples,), generator=generator)
    found = agreement(student, teacher, target)

    divergence = rel_entr(teacher.softmax(1).numpy(), student.softmax(1).numpy()).sum(1).mean()
    assert found.kl == pytest.approx(divergence, rel=1e-9)
    ours, theirs, truth = student.argmax(1).numpy(), teacher.argmax(1).numpy(), target.numpy()
    differ = ours != theirs
    assert found.differing == differ.sum()
    assert found.top1 == pytest.approx(1 - differ.mean())
    if differ.any():
        shares = [(ours == truth)[differ].mean(), (theirs == truth)[differ].mean()]
        assert found[3:] == pytest.approx([*shares, 1 - sum(shares)], abs=1e-12)
        assert sum(found[3:]) == pytest.approx(1)
    swapped = agreement(teacher, student, target)
    assert (swapped.top1, swapped.differing) == (found.top1, found.differing)
    assert np.array_equal(swapped[3:5], found[4:2:-1], equal_nan=True)


def test_agreement_of_a_perfect_copy() -> None:
    logits = torch.randn(8, 3, generator=torch.Generator().manual_seed(0))
    found = agreement(logits, logits + 5, torch.zeros(8, dtype=torch.int64))
    assert (found.top1, found.differing) == (1, 0)
    assert found.kl == pytest.approx(0, abs=1e-12)
    assert all(math.isnan(share) for share in found[3:])


def test_extreme_logits_stay_finite_and_gradients_are_not_kept() -> None:
    student = torch.tensor([[6e4, -6e4]], dtype=torch.float16, requires_grad=True)
    found = agreement(student, -student, torch.tensor([0]))
    assert found == (0, pytest.approx(120_000, rel=1e-3), 1, 1, 0, 0)


def test_agreement_needs_equal_shapes() -> None:
    message = r"student_logits and teacher_logits must .*same shape.* got \[2, 3\] and \[2, 4\]"
    with pytest.raises(ValueError, match=message):
        agreement(torch.zeros(2, 3), torch.zeros(2, 4), torch.tensor([0, 1]))


# ---------------------------------------------------------------- corruptions

every_kind = pytest.mark.parametrize("kind", sorted(CORRUPTIONS))


def images(seed: int = 0, *shape: int, dtype=torch.float32) -> torch.Tensor:
    return torch.rand(shape or (4, 3, 9, 7), generator=torch.Generator().manual_seed(seed)).to(dtype)


def corrupted(clean: torch.Tensor, kind: str, strength: int, seed: int = 0) -> torch.Tensor:
    return corrupt(clean, kind, strength, generator=torch.Generator().manual_seed(seed))


@every_kind
@settings(deadline=None)
@given(seeds, st.tuples(*[st.integers(1, 12)] * 4))
def test_corruptions_keep_range_and_shape_and_grow(kind: str, seed: int, shape: tuple[int, ...]) -> None:
    clean = images(seed, *shape, dtype=torch.float64)
    before = clean.clone()
    changed = [corrupted(clean, kind, strength, seed) for strength in range(1, 6)]
    assert torch.equal(clean, before)
    for one in changed:
        assert (one.shape, one.dtype) == (clean.shape, clean.dtype)
        assert 0 <= one.min() <= one.max() <= 1
    distances = [(one - clean).norm().item() for one in changed]
    assert all(low <= high + 1e-12 for low, high in itertools.pairwise([0, *distances]))


@every_kind
def test_each_strength_changes_more(kind: str) -> None:
    clean = nn.functional.interpolate(images(0, 4, 3, 6, 6), 24, mode="bilinear")  # smooth, as photos are
    distances = [(corrupted(clean, kind, strength) - clean).norm().item() for strength in range(1, 6)]
    assert all(low * 1.05 < high for low, high in itertools.pairwise(distances))
    assert distances[0] > 0.1


@every_kind
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_corruptions_keep_half_precision(kind: str, dtype) -> None:
    clean = images(dtype=dtype)
    changed = corrupted(clean, kind, 3)
    assert changed.dtype == dtype
    assert torch.equal(changed, corrupted(clean.float(), kind, 3).to(dtype))


@every_kind
def test_a_corruption_repeats(kind: str) -> None:
    assert torch.equal(corrupted(images(), kind, 2), corrupted(images(), kind, 2))
    differs = not torch.equal(corrupted(images(), kind, 2), corrupted(images(), kind, 2, seed=1))
    generator = torch.Generator().manual_seed(0)
    untouched = generator.get_state()
    corrupt(images(), kind, 2, generator=generator)
    drawn = not torch.equal(generator.get_state(), untouched)
    assert differs == drawn == (kind == "gaussian_noise")


def test_corruptions_by_hand() -> None:
    clean = torch.tensor([0.0, 0.5, 0.6, 0.9]).reshape(1, 1, 2, 2)
    assert corrupted(clean, "brightness", 4).flatten().tolist() == pytest.approx([0.4, 0.9, 1, 1])
    contrast = [0.5 + 0.3 * (value - 0.5) for value in (0, 0.5, 0.6, 0.9)]
    assert corrupted(clean, "contrast", 4).flatten().tolist() == pytest.approx(contrast)
    grey = torch.full((8, 3, 32, 32), 0.5)
    noise = corrupted(grey, "gaussian_noise", 3) - grey
    assert noise.std().item() == pytest.approx(0.08, rel=0.02)
    assert noise.mean().item() == pytest.approx(0, abs=0.002)


@pytest.mark.parametrize("strength", range(1, 6))
def test_blur_is_a_gaussian(strength: int) -> None:
    sigma = CORRUPTIONS["gaussian_blur"][strength - 1]
    point = torch.zeros(1, 1, 33, 25, dtype=torch.float64)
    point[0, 0, 16, 12] = 1
    spread = corrupted(point, "gaussian_blur", strength)[0, 0]
    assert spread.sum().item() == pytest.approx(1, abs=1e-12)
    for dim, centre in ((0, 16), (1, 12)):
        offsets = np.abs(np.arange(point.shape[2 + dim]) - centre)
        # The discrete analogue of the Gaussian, in closed form; the edges are far away.
        expected = ive(offsets, sigma**2)
        np.testing.assert_allclose(spread.sum(1 - dim).numpy(), expected, atol=1e-6)
        assert (expected * offsets**2).sum() == pytest.approx(sigma**2, rel=1e-3)


def test_blur_keeps_constants_and_the_mean() -> None:
    grey = torch.full((1, 2, 5, 8), 0.3, dtype=torch.float64)
    torch.testing.assert_close(corrupted(grey, "gaussian_blur", 5), grey)
    clean = images(dtype=torch.float64)
    blurred = corrupted(clean, "gaussian_blur", 5)
    torch.testing.assert_close(blurred.mean((2, 3)), clean.mean((2, 3)))
    torch.testing.assert_close(corrupted(clean.mT, "gaussian_blur", 5), blurred.mT)


# ---------------------------------------------------------------- adversarial images


def network() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Conv2d(3, 6, 3), nn.Tanh(), nn.Flatten(), nn.Linear(6 * 7 * 5, 4))
    return model.double().eval()


def loss_of(model: nn.Module):
    target = torch.tensor([0, 1, 2, 3])
    return lambda batch: nn.functional.cross_entropy(model(batch), target)


def test_loss_rises_by_epsilon_times_the_l1_norm_of_its_gradient() -> None:
    loss = loss_of(network())
    clean = 0.1 + 0.8 * images(dtype=torch.float64)
    inside = clean.clone().requires_grad_()
    (slope,) = torch.autograd.grad(loss(inside), inside)
    for epsilon in (1e-3, 1e-4):
        rise = loss(fgsm(loss, clean, epsilon=epsilon)) - loss(clean)
        assert rise.item() == pytest.approx(epsilon * slope.abs().sum().item(), rel=20 * epsilon)
        random = (
            clean + epsilon * (torch.randn(clean.shape, generator=torch.Generator().manual_seed(0))).sign()
        )
        assert loss(random) - loss(clean) < rise / 4


@settings(deadline=None)
@given(seeds, st.floats(0, 1))
def test_attack_stays_in_its_box(seed: int, epsilon: float) -> None:
    clean = images(seed)
    attacked = fgsm(lambda batch: (batch - 0.5).pow(3).sum(), clean, epsilon=epsilon)
    assert 0 <= attacked.min() <= attacked.max() <= 1
    assert (attacked - clean).abs().max() <= epsilon + 1e-6
    assert (attacked >= clean).all()


def test_nothing_but_the_images_is_changed() -> None:
    model, clean = network(), images(dtype=torch.float64)
    before = clean.clone()
    with torch.no_grad():
        attacked = fgsm(loss_of(model), clean, epsilon=8 / 255)
    assert torch.equal(clean, before)
    assert not attacked.requires_grad
    assert all(parameter.grad is None for parameter in model.parameters())
    assert attacked.dtype == torch.float64


# ---------------------------------------------------------------- checks of images


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (images()[0], r"^images must .*\[B, C, H, W\].* got .*float32 \[3, 9, 7\]"),
        (images()[:0], r"^images must .*not empty.* got .*float32 \[0, 3, 9, 7\]"),
        (images().byte(), "^images must .*floating.point.* got .*uint8"),
        (2 * images() - 1, r"^images must .*\[0, 1\].* got -\d"),
        (images() + 1, r"^images must .*\[0, 1\].* got 1"),
        (images() * torch.nan, r"^images must .*\[0, 1\].* got nan"),
    ],
)
def test_images_are_checked(wrong, message) -> None:
    with pytest.raises(ValueError, match=message):
        corrupted(wrong, "contrast", 1)
    with pytest.raises(ValueError, match=message):
        fgsm(torch.sum, wrong, epsilon=0.1)


def test_kind_and_strength_are_checked() -> None:
    with pytest.raises(ValueError, match="unknown corruption 'blur'; nearest: 'gaussian_blur'"):
        corrupted(images(), "blur", 1)
    for strength in (0, 6, 1.0, True):
        with pytest.raises(ValueError, match=f"strength must be an integer from 1 to 5, got {strength}"):
            corrupted(images(), "contrast", strength)


def test_loss_and_epsilon_are_checked() -> None:
    with pytest.raises(ValueError, match=r"epsilon must be a finite number >= 0, got -0.1"):
        fgsm(torch.sum, images(), epsilon=-0.1)
    with pytest.raises(ValueError, match=r"loss_of_images must return a scalar, got shape \[4\]"):
        fgsm(lambda batch: batch.sum((1, 2, 3)), images(), epsilon=0.1)
    for constant in (torch.tensor(1.0), torch.tensor(1.0, requires_grad=True) * 2):
        with pytest.raises(ValueError, match="a loss that depends on the images, got one that does not"):
            fgsm(lambda _, constant=constant: constant, images(), epsilon=0.1)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@every_kind
def test_gpu_makes_the_same_corruptions(kind: str) -> None:
    torch.testing.assert_close(corrupted(images().cuda(), kind, 4).cpu(), corrupted(images(), kind, 4))
