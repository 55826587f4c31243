"""The words of a report: one paragraph made from the numbers, and how each figure is read.

A sentence here claims what its interval allows and nothing more; plain text, escaped by whoever shows it.
"""

import math
from collections.abc import Iterator, Sequence

from dotkd.report.statistics import Difference, Estimate, Summary

MINUS = "\N{MINUS SIGN}"

READINGS = {
    "losses": (
        "Lower is better in both panels, and a gain in one that costs in the other is a trade-off between "
        "the losses; they are raw, before any weight, so arms can be compared within a panel but not across."
    ),
    "task-loss": (
        "Lower is better, on training images: it does not tell how well the student does on others."
    ),
    "gradients": (
        "Below 0 the two losses pull against each other on the probe batch, above 0 they agree; a norm "
        "ratio above 1 means that the task gradient is the longer one."
    ),
    "accuracy": (
        "Each small dot is one seed; a diamond, where there are several, is their mean with its 95 % "
        "interval; overlapping intervals decide nothing, because the table compares arms seed by seed."
    ),
}


NOISY = "With wrong labels a lower task loss on the training images is partly the noise, learned by heart."


def reading(figure: str, *, noisy: bool) -> str:
    """Say how a figure is read.

    Args:
        figure: its key.
        noisy: whether some training labels are wrong.

    Returns:
        A sentence or two.
    """
    return f"{READINGS[figure]} {NOISY}" if noisy and "loss" in figure else READINGS[figure]


def sentences(summary: Summary) -> list[str]:
    """Say what the numbers allow to be said.

    Args:
        summary: the numbers.

    Returns:
        Sentences, one finding each: what is quoted, whether distillation helps, whether DOT differs from
        plain momentum and from its matched control, and what the intervals do not cover.
    """
    kinds = {arm.name: arm.kind for arm in summary.arms}
    plain_momentum = [d for d in summary.to_plain if kinds[d.arm] == "sgd"]
    over_plain = plain_momentum or [d for d in summary.to_plain if d.arm == summary.baseline]
    said = [
        "Quoted is the test accuracy after the last epoch; the test images were read after training.",
        *_distillation(summary, over_plain),
    ]
    shown = list(over_plain)
    if "dot" in kinds.values():
        said += [*_dot(summary)]
        shown += [*summary.to_sgd, *summary.to_control]
    return [*said, *_caveat(shown)]


def _distillation(summary: Summary, over_plain: Sequence[Difference]) -> Iterator[str]:
    if all(arm.kind == "plain" for arm in summary.arms):
        yield "No arm distils, so nothing is said about distillation."
    elif not over_plain:
        yield "There is no arm without distillation, so whether distillation helps was not measured."
    for difference in over_plain:
        yield f"Distillation: {compared(difference)}."


def _dot(summary: Summary) -> Iterator[str]:
    for arm in summary.arms:
        if arm.kind != "dot":
            continue
        beside = [difference for difference in summary.to_sgd if difference.arm == arm.name]
        matched = [difference for difference in summary.to_control if difference.arm == arm.name]
        for difference in beside:
            yield f"DOT against plain momentum: {compared(difference)}."
        if not beside:
            yield f"{arm.name} has no arm with plain momentum and its method to be compared with."
        for difference in matched:
            yield (
                "DOT against its control, which has one momentum and the weights that DOT's two come to in "
                f"the long run: {compared(difference)}."
            )
        if not matched:
            yield (
                f"Without a gain-matched control, an effect of {arm.name} may be memory or only a heavier "
                "weight on the distillation loss: the two were not told apart."
            )


def _caveat(shown: Sequence[Difference]) -> Iterator[str]:
    intervals = sum(difference.low is not None for difference in shown)
    if intervals > 1:
        yield (
            f"The {intervals} intervals are at 95 % each, without correction for their number, "
            "and speak of further student seeds, with this teacher, these labels and tests."
        )
    elif intervals == 1:
        yield "The interval speaks of further student seeds, with this teacher, these labels and tests."


def compared(difference: Difference) -> str:
    """Say how two arms compare, in half a sentence.

    Args:
        difference: of one arm to another.

    Returns:
        "KD is higher than plain by 1.20 points (...)", or that it is not distinguishable, or why
        nothing can be said.
    """
    arm, against = difference.arm, difference.against
    if difference.mean is None:
        return f"{arm} and {against} have no seed in common and are not compared"
    if difference.low is None:
        return (
            f"{arm} and {against} share one seed, with a difference of {points(difference.mean)} points; "
            "one seed gives no interval, so nothing is claimed"
        )
    if difference.verdict == "no spread":
        return (
            f"{arm} and {against} differ by {points(difference.mean)} points in every one of "
            f"{len(difference.seeds)} seeds; without any spread there is no interval, so nothing is claimed"
        )
    range_ = f"95 % interval {interval(difference)}, {len(difference.seeds)} seeds"
    if difference.verdict == "not distinguishable":
        size = f"difference {points(difference.mean)} points"
        return f"{arm} is not distinguishable from {against} ({size}, {range_})"
    size = f"{100 * abs(difference.mean):.2f}"
    return f"{arm} is {difference.verdict} than {against} by {size} points ({range_})"


def points(fraction: float) -> str:
    """Write a difference of accuracies in percentage points; what rounds to 0 keeps its sign."""
    sign = "+" if fraction > 0 else MINUS if fraction < 0 else ""
    return f"{sign}{100 * abs(fraction):.2f}"


def interval(difference: Difference) -> str:
    """Write the interval of a difference, or nothing where there is none."""
    if difference.low is None or difference.high is None:
        return ""
    return f"{points(difference.low)} to {points(difference.high)}"


def percent(estimate: Estimate) -> str:
    """Write an accuracy in percent, with its standard error where there is one."""
    return f"{100 * estimate.mean:.2f}" + ("" if estimate.error is None else f" ± {100 * estimate.error:.2f}")


def number(estimate: Estimate) -> str:
    """Write a loss, with its standard error where there is one, to as many digits as both need to be seen."""
    error = estimate.error or 0.0
    digits = max(_digits(estimate.mean) + 2, _digits(error) if error else 0)
    mean = f"{estimate.mean:.{digits}f}".replace("-", MINUS)
    return mean if estimate.error is None else f"{mean} ± {error:.{digits}f}"


def _digits(value: float) -> int:
    """Decimals that show one digit of a number; at most 6."""
    return min(6, max(0, -math.floor(math.log10(abs(value))))) if value else 0
