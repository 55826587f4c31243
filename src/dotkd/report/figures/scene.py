"""What all figures of one report share: the runs, the numbers, which arms they draw, and how these look."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from dotkd.report.figures.svg import Look, sample
from dotkd.report.inputs import Extras
from dotkd.report.statistics import Summary, by_arm
from dotkd.report.sweep import Series, choices, make_series, spoken_of
from dotkd.runs import RunRecord

# Okabe and Ito's colours as far as they stand out from white and from near black; plain is grey.
GREY, COLOURS = "#808080", ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#9a7b00")
LINES, MARKERS = ("-", "--", "-.", (0, (1, 1.2))), "osD^vXP"
SPREAD = " Lines are means over seeds, bands reach from the lowest to the highest seed."
LEFT_OUT = " Of each swept arm only the value that is best on validation images is drawn."


@dataclass(frozen=True)
class Scene:
    """The runs by arm, the numbers, and the look of each arm.

    ``drawn`` are the arms of figures that have a line for each; ``families`` maps an arm to the base that
    it was swept from, or to itself. ``labels`` are names for where there is little room: of a swept arm
    its base and its values.
    """

    groups: Mapping[str, Sequence[RunRecord]]
    summary: Summary
    extras: Extras
    series: tuple[Series, ...]
    drawn: tuple[str, ...]
    families: Mapping[str, str]
    labels: Mapping[str, str]
    looks: Mapping[str, Look]

    def remarks(self, spread: str = SPREAD, left_out: str = LEFT_OUT) -> str:
        """Say, for a caption, what the lines are means of and which arms are missing."""
        said = spread if any(len(runs) > 1 for runs in self.groups.values()) else ""
        return said + (left_out if len(self.drawn) < len(self.groups) else "")

    def legend(self, key: str, names: Sequence[str]) -> tuple[tuple[str, str], ...]:
        """Pair a sample of each arm's look with its name."""
        return tuple((sample(f"{key}-{place}", self.looks[name]), name) for place, name in enumerate(names))


def make_scene(runs: Sequence[RunRecord], summary: Summary, extras: Extras) -> Scene:
    """Put together what figures share.

    Args:
        runs: the runs that the summary was made of.
        summary: their numbers.
        extras: what was found beside them.

    Returns:
        The scene.
    """
    groups = by_arm(runs)
    series = make_series(extras.sweep, groups)
    best_of = choices(series, groups, summary.baseline)
    drawn = spoken_of(groups, series, best_of)
    labels = {point.name: f"{one.base}: {point.label}" for one in series for point in one.points}
    families = {name: name for name in groups} | {name: one.base for one in series for name in one.names}
    return Scene(
        groups=groups,
        summary=summary,
        extras=extras,
        series=series,
        drawn=drawn,
        families=families,
        labels={name: labels.get(name, name) for name in groups},
        looks=_looks(summary, families, drawn),
    )


def _looks(summary: Summary, families: Mapping[str, str], drawn: Sequence[str]) -> dict[str, Look]:
    """Colour, line style and marker of each arm, and of each base; arms of one base share its colour."""
    names = [arm.name for arm in summary.arms]
    members: dict[str, list[str]] = {}
    for name in names:
        members.setdefault(families[name], []).append(name)
    looks: dict[str, Look] = {}
    colours = itertools.cycle(COLOURS)
    for place, (family, arms) in enumerate(members.items()):
        grey = place == 0 and summary.arms[0].kind == "plain"
        colour = GREY if grey else next(colours)
        # The first of them has the base's lines and markers too: it has its name, or else it is drawn.
        arms.sort(key=lambda name: (name != family, name not in drawn))
        for number, name in enumerate([family, *(name for name in arms if name != family)]):
            later = place + max(number - (family not in arms), 0)
            looks[name] = {
                "color": colour,
                "linestyle": LINES[later % len(LINES)],
                "marker": MARKERS[later % len(MARKERS)],
            }
    return looks
