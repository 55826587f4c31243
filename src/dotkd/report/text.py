"""The words of a report: one paragraph made from the numbers, and how each figure is read.

A sentence here claims what its interval allows and nothing more; plain text, escaped by whoever shows it.
"""

import math
from collections.abc import Collection, Iterator, Sequence

from dotkd.report.statistics import Difference, Estimate, Summary

MINUS = "\N{MINUS SIGN}"

READINGS = {
    "accuracy": (
        "Each small dot is one seed; a diamond, where there are several, is their mean with its 95 % "
        "interval; overlapping intervals decide nothing, because the table compares arms seed by seed."
    ),
    "sweep": (
        "Higher is better in the first panel, lower in the others; values were compared seed by seed above, "
        "which the bars do not show."
    ),
    "tradeoff": (
        "Lower left is better: whoever lies below and to the left of another is lower in both losses. Where "
        "only the weights of the losses were swept, the joined ends are what reweighting reaches."
    ),
    "losses": (
        "Lower is better in all panels, and a gain in one that costs in the other is a trade-off between "
        "the losses; they are raw, before any weight, so arms can be compared within a panel but not across."
    ),
    "task-loss": "Lower is better; on training images it does not tell how well the student does on others.",
    "gradients": (
        "Below 0 the two losses pull against each other on the probe batch, above 0 they agree; a norm "
        "ratio above 1 means that the task gradient is the longer one. A cosine below 0 with the last step "
        "means that, where this step ended, going on in its direction would raise that loss: it went "
        "too far, or elsewhere."
    ),
    "layers": (
        "Orange is below 0, where the two losses pull a layer in opposite directions, violet above 0, where "
        "they agree; a layer counts by itself here, however short its gradients are."
    ),
    "landscape-task": (
        "The cross is the student; colours and levels are the same for all arms, and so are the directions, "
        "in units of each filter's own length. The wider apart the lines, the flatter."
    ),
    "landscape-distill": (
        "Drawn like the figure before, with levels of its own: compare arms within a figure. Arms with "
        "different distillation losses do not compare."
    ),
    "spectrum": (
        "Further to the right is sharper, left of 0 the loss curves downwards. Each eigenvalue counts alike: "
        "almost all lie near 0. Estimated from a random vector for each seed: the ends are near eigenvalues, "
        "the height of a lone bump is rough."
    ),
    "interpolation": (
        "Both ends are students; statistics of batch norm are interpolated like the weights. A hill between "
        "them says that they lie in different basins along this line, not that no other way leads around it."
    ),
    "reliability": (
        "On the diagonal confidence is what it says; below it the student is too sure of itself, above it "
        "not sure enough. Bins with few images jump about."
    ),
    "robustness": "The flatter, the more robust; the strengths are this library's own.",
}


NOISY = "With wrong labels a lower task loss on the training images is partly the noise, learned by heart."


def reading(figure: str, *, noisy: bool) -> str:
    """Say how a figure is read.

    Args:
        figure: its key.
        noisy: whether it shows losses of training images of which some have a wrong label.

    Returns:
        A sentence or two.
    """
    said = READINGS[figure.rstrip("0123456789")]  # of one kind there may be several
    return f"{said} {NOISY}" if noisy else said


def sentences(summary: Summary, arms: Collection[str] | None = None) -> list[str]:
    """Say what the numbers allow to be said.

    Args:
        summary: the numbers.
        arms: names of those to speak of, as a sweep has too many; by default all.

    Returns:
        Sentences, one finding each: what is quoted, whether distillation helps, whether DOT differs from
        plain momentum and from its matched control, and what the intervals do not cover.
    """
    kinds = {arm.name: arm.kind for arm in summary.arms if arms is None or arm.name in arms}
    over_plain = _over_plain(summary, kinds)
    said = [
        "Quoted is the test accuracy after the last epoch; the test images were read after training.",
        *_distillation(summary, over_plain),
    ]
    dots = [name for name, kind in kinds.items() if kind == "dot"]
    said += _dot(summary, dots)
    against = [d for d in (*summary.to_sgd, *summary.to_control) if d.arm in dots]
    return [*said, *_caveat([*over_plain, *against])]


def _over_plain(summary: Summary, arms: Collection[str]) -> list[Difference]:
    """Pick the differences that tell whether distillation helps: plain momentum's, else the baseline's."""
    kinds = {arm.name: arm.kind for arm in summary.arms}
    plain_momentum = [d for d in summary.to_plain if kinds[d.arm] == "sgd" and d.arm in arms]
    return plain_momentum or [d for d in summary.to_plain if d.arm == summary.baseline]


def _distillation(summary: Summary, over_plain: Sequence[Difference]) -> Iterator[str]:
    if all(arm.kind == "plain" for arm in summary.arms):
        yield "No arm distils, so nothing is said about distillation."
    elif not over_plain:
        yield "There is no arm without distillation, so whether distillation helps was not measured."
    for difference in over_plain:
        yield f"Distillation: {compared(difference)}."


def _dot(summary: Summary, arms: Sequence[str]) -> Iterator[str]:
    for name in arms:
        beside = [difference for difference in summary.to_sgd if difference.arm == name]
        matched = [difference for difference in summary.to_control if difference.arm == name]
        for difference in beside:
            yield f"DOT against plain momentum: {compared(difference)}."
        if not beside:
            yield f"{name} has no arm with plain momentum and its method to be compared with."
        for difference in matched:
            yield (
                "DOT against its control, which has one momentum and the weights that DOT's two come to in "
                f"the long run: {compared(difference)}."
            )
        if not matched:
            yield (
                f"Without a gain-matched control, an effect of {name} may be memory or only a heavier "
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


def effect(size: float) -> str:
    """Write an effect size."""
    return f"{size:+.2f}".replace("-", MINUS)


def seconds(value: float) -> str:
    """Write a time."""
    return f"{value:,.0f}" if value >= 10 else f"{value:.1f}"


def large(count: float) -> str:
    """Write a large count with its prefix.

    Args:
        count: at least 0.

    Returns:
        Three digits and k, M, G or T.

    Example:
        >>> large(41_330_000), large(512)
        ('41.3 M', '512')
    """
    for size, prefix in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if count >= size:
            return f"{count / size:.3g} {prefix}"
    return f"{count:.0f}"


def number(estimate: Estimate) -> str:
    """Write a loss, with its standard error where there is one, to as many digits as both need to be seen."""
    error = estimate.error or 0.0
    if error < 1e-9 * abs(estimate.mean):  # what rounding leaves of equal values
        error = 0.0
    digits = max(_digits(estimate.mean) + 2, _digits(error) if error else 0)
    mean = f"{estimate.mean:.{digits}f}".replace("-", MINUS)
    return mean if estimate.error is None else f"{mean} ± {error:.{digits}f}"


def _digits(value: float) -> int:
    """Decimals that show one digit of a number; at most 6."""
    return min(6, max(0, -math.floor(math.log10(abs(value))))) if value else 0
