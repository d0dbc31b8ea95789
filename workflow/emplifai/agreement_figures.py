"""How the figures of agreement are painted: a panel for each criterion, judges in the colours of figures.py."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from emplifai.figures import FAINT, INK, PALETTE, forest
from emplifai.statistics.bootstrap import Interval

MANY = 2000  # points from which a cloud is a picture in the SVG, not a shape a point
JITTER = 0.012  # of the axis: equal scores would hide each other
BINS = 20


class Standing(NamedTuple):
    """A judge's agreement with people: within systems, and with a rater left out, as the ceiling is measured."""

    name: str
    order: Interval
    left_out: Interval


def _panels(axes: Any, panels: dict[str, Any]):
    for axis, (title, content) in zip(np.atleast_1d(axes), panels.items(), strict=True):
        axis.set_title(title, fontsize=9)
        yield axis, content


def _cloud(axis: Any, x: np.ndarray, y: np.ndarray) -> None:
    """Points moved a little at random, the darker the more of them lie around."""
    from matplotlib.colors import LinearSegmentedColormap

    counts, *edges = np.histogram2d(x, y, BINS)
    place = [np.clip(np.digitize(v, e) - 1, 0, BINS - 1) for v, e in zip((x, y), edges, strict=True)]
    density = counts[place[0], place[1]]
    draw, order = np.random.default_rng(0), np.argsort(density, kind="stable")
    x, y = (v + draw.uniform(-JITTER, JITTER, len(v)) * max(np.ptp(v), 1e-9) for v in (x, y))
    shades = LinearSegmentedColormap.from_list("density", [PALETTE[5], PALETTE[0]])
    axis.scatter(
        x[order], y[order], s=9, c=density[order], cmap=shades, alpha=0.6, linewidths=0, rasterized=len(x) > MANY, zorder=2
    )


def clouds(axes: Any, panels: dict[str, tuple], who: str, judge: str, scale: tuple[float, float] | None) -> None:
    """A judge's scores over the raters' means. scale: where both share one, with the line on which they are equal."""
    for axis, (human, scores) in _panels(axes, panels):
        if scale:
            axis.plot(scale, scale, color=FAINT, linewidth=1, linestyle="--", zorder=1)
        _cloud(axis, human, scores)
        axis.set_xlabel(f"mean of the {who}")
    np.atleast_1d(axes)[0].set_ylabel(judge)


def bland_altman(axes: Any, panels: dict[str, tuple], who: str, judge: str) -> None:
    """Difference over mean; lines: the mean difference, and the limits that hold 95% of normal differences.

    Source: Bland & Altman (1986).
    """
    for axis, (human, scores) in _panels(axes, panels):
        apart = scores - human
        middle, spread = apart.mean(), 1.96 * apart.std(ddof=1)
        axis.axhline(0, color=FAINT, linewidth=1)
        axis.axhline(middle, color=INK, linewidth=1.4)
        for end in (middle - spread, middle + spread):
            axis.axhline(end, color=INK, linewidth=1, linestyle="--")
        _cloud(axis, (scores + human) / 2, apart)
        axis.set_xlabel("mean of both")
    np.atleast_1d(axes)[0].set_ylabel(f"{judge} − {who}")


def standings(axes: Any, panels: dict[str, tuple[Sequence[Standing], Interval]], who: str) -> None:
    """Judges below one another; the band is what a rater reaches against the other raters."""
    for axis, (rows, ceiling) in _panels(axes, panels):
        if ceiling.estimate is not None:
            axis.axvline(ceiling.estimate, color=PALETTE[4], linewidth=1.6, label="a rater with the other raters")
        if ceiling.low is not None:
            axis.axvspan(ceiling.low, ceiling.high, color=PALETTE[4], alpha=0.2, linewidth=0)
        axis.axvline(0, color=FAINT, linewidth=1)
        for at, marker, colour, label, pick in (
            (-0.13, "o", PALETTE[0], "judge and mean, within systems", lambda r: r.order),
            (0.13, "s", PALETTE[1], "judge with the other raters", lambda r: r.left_out),
        ):
            for y, row in enumerate(rows):
                value = pick(row)
                if value.low is not None:
                    axis.plot([value.low, value.high], [y + at] * 2, color=colour, linewidth=1.6)
            known = [(pick(r).estimate, y + at) for y, r in enumerate(rows) if pick(r).estimate is not None]
            axis.plot([x for x, _ in known], [y for _, y in known], marker, color=colour, markersize=5, label=label)
        axis.set_yticks(range(len(rows)), [row.name for row in rows])
        axis.set_ylim(len(rows) - 0.4, -0.6)
        axis.set_xlabel(f"Spearman, {who}")
        axis.grid(axis="y", visible=False)
    first = np.atleast_1d(axes)[0]
    first.figure.legend(*first.get_legend_handles_labels(), loc="outside lower center", ncols=3)


def forests(axes: Any, panels: dict[str, tuple[Sequence[tuple[str, Interval]], float | None]], label: str) -> None:
    """A forest plot a criterion; the line is the mean over the groups."""
    for axis, (rows, line) in _panels(axes, panels):
        forest(axis, rows, label, line)


def ranks(axes: Any, panels: dict[str, tuple[Sequence[str], np.ndarray, np.ndarray]], who: str, judge: str) -> None:
    """Systems by their rank: left as people order them, right as the judge does, with their means."""
    for axis, (names, human, scores) in _panels(axes, panels):
        left, right = (np.argsort(np.argsort(-v, kind="stable"), kind="stable") for v in (human, scores))
        for k, name in enumerate(names):
            colour = FAINT if left[k] == right[k] else PALETTE[0] if right[k] < left[k] else PALETTE[1]
            axis.plot([0, 1], [left[k], right[k]], "o-", color=colour, linewidth=1.6, markersize=4)
            axis.text(-0.06, left[k], f"{name} {human[k]:.2f}", ha="right", va="center", fontsize=8)
            axis.text(1.06, right[k], f"{scores[k]:.2f} {name}", ha="left", va="center", fontsize=8)
        axis.set_xlim(-1.1, 2.1)
        axis.set_ylim(len(names) - 0.5, -0.5)
        axis.set_xticks([0, 1], [who, judge.replace(" (", "\n(")], fontsize=8)
        axis.set_yticks([])
        axis.grid(visible=False)
        axis.spines[:].set_visible(False)
