"""The learning rate over the run, against numbers worked out by hand."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dotkd.recipe.tables import ConstantSchedule, CosineSchedule, StepSchedule
from dotkd.train.step import lr_factor

PUBLISHED = StepSchedule(name="step", epochs=240, milestones=(150, 180, 210), gamma=0.1)


@pytest.mark.parametrize(
    ("time", "rate"),
    [
        (0, 0.05),
        (149.999, 0.05),
        (150, 0.005),
        (179.999, 0.005),
        (180, 0.0005),
        (209.999, 0.0005),
        (210, 0.00005),
        (239.999, 0.00005),
    ],
)
def test_the_published_schedule_of_240_epochs(time: float, rate: float) -> None:
    assert 0.05 * lr_factor(PUBLISHED, time) == pytest.approx(rate, rel=1e-12)


@pytest.mark.parametrize(
    ("time", "factor"), [(0, 0), (0.5, 0.1), (2.5, 0.5), (4.99, 0.998), (5, 1), (9.9, 1)]
)
def test_warm_up_rises_in_a_line(time: float, factor: float) -> None:
    assert lr_factor(ConstantSchedule(name="constant", epochs=10, warmup=5), time) == pytest.approx(
        factor, rel=1e-12
    )


def test_without_warm_up_the_rate_is_whole_at_once() -> None:
    for table in (
        ConstantSchedule(name="constant", epochs=3),
        PUBLISHED,
        CosineSchedule(name="cosine", epochs=3),
    ):
        assert lr_factor(table, 0) == 1.0


@pytest.mark.parametrize(
    ("time", "factor"),
    [(2, 1), (4, (1 + math.sqrt(0.5)) / 2), (6, 0.5), (8, (1 - math.sqrt(0.5)) / 2), (10, 0)],
)
def test_cosine_falls_from_one_to_zero_after_warm_up(time: float, factor: float) -> None:
    assert lr_factor(CosineSchedule(name="cosine", epochs=10, warmup=2), time) == pytest.approx(
        factor, abs=1e-15
    )


def test_cosine_moves_within_an_epoch() -> None:
    table = CosineSchedule(name="cosine", epochs=1)
    assert lr_factor(table, 0.25) > lr_factor(table, 0.5) > lr_factor(table, 0.75)


def test_step_with_warm_up_counts_milestones_from_the_start_of_the_run() -> None:
    table = StepSchedule(name="step", epochs=10, warmup=2, milestones=(4, 6), gamma=0.5)
    assert [lr_factor(table, t) for t in (1, 2, 3.9, 4, 5.9, 6, 9.9)] == [0.5, 1, 1, 0.5, 0.5, 0.25, 0.25]


def test_step_without_milestones_is_constant() -> None:
    assert lr_factor(StepSchedule(name="step", epochs=10, milestones=()), 9.9) == 1.0


@st.composite
def cases(draw):
    epochs = draw(st.integers(2, 400))
    shared = {"epochs": epochs, "warmup": draw(st.integers(0, epochs - 1))}
    kind = draw(st.sampled_from([ConstantSchedule, StepSchedule, CosineSchedule]))
    more = {}
    if kind is StepSchedule:
        drops = draw(st.sets(st.integers(1, epochs - 1), max_size=5))
        more = {"milestones": tuple(sorted(drops)), "gamma": draw(st.floats(1e-6, 1))}
    times = sorted(draw(st.lists(st.floats(0, epochs), min_size=2, max_size=20)))
    return kind(name=kind.__name__.removesuffix("Schedule").lower(), **shared, **more), times


@given(cases())
def test_factor_stays_in_its_range_and_falls_after_warm_up(case) -> None:
    table, times = case
    factors = [lr_factor(table, time) for time in times]
    assert all(0 <= factor <= 1 for factor in factors)
    after = [factor for time, factor in zip(times, factors, strict=True) if time >= table.warmup]
    assert after == sorted(after, reverse=True)
    first_drop = min(getattr(table, "milestones", ()), default=table.epochs)
    during = [f for time, f in zip(times, factors, strict=True) if time < min(table.warmup, first_drop)]
    assert during == sorted(during)
