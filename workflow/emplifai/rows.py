"""A row of agreement.csv or bias.csv: an estimate with its interval, or the reason why there is none."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from emplifai.panel import Panel
from emplifai.raters import raters_share, widen
from emplifai.statistics.bootstrap import Measure, interval, replicate
from emplifai.statistics.significance import p_value

COLUMNS = (
    "criterion", "judge", "by", "group", "level", "statistic", "reference", "n_items", "n_raters",
    "estimate", "ci_low", "ci_high", "p_value", "p_adjusted", "status",
)  # fmt: skip
TESTED = ("pearson", "spearman", "kendall_tau_b", "bias", "spearman_with_length", "partial_spearman")  # get a p-value of "none"
WIDE = 5000  # sums of a statistic (an ICC of 70 raters and more): too many to resample, no interval
UNBOUNDED = ("bias", "mae", "ppi_mean")  # the others end at 1
ZERO = 1e-12  # less is rounding
FEWEST = 3  # items of a correlation: two always correlate perfectly

Row = dict[str, Any]


@dataclass(frozen=True)
class Settings:
    scale: tuple[float, float] = (1, 5)
    cluster: str = "situation_id"
    by: tuple[str, ...] = ()
    confidence: float = 0.95
    resamples: int = 2000
    interval: Literal["percentile", "bca"] = "bca"
    epsilon: float = 0.2
    seed: int = 42


def few(panel: Panel, fewest: int = FEWEST) -> str:
    return "no items" if not len(panel.items) else "too few items" if len(panel.items) < fewest else ""


def people(panel: Panel) -> str:
    if not len(panel.items):
        return "no items"
    return "one rater" if len(panel.raters) < 2 else "" if (panel.count > 1).any() else "no two raters share an item"


def one_value(panel: Panel) -> str:
    return "constant ratings" if np.nanmax(panel.ratings) == np.nanmin(panel.ratings) else ""


def constant(judge: np.ndarray, human: np.ndarray) -> str:
    """No spread, no agreement beyond chance to speak of: kappa and ICC would be 0 by definition, with an interval of no width."""
    return "constant judge" if np.ptp(judge) == 0 else "constant ratings" if np.ptp(human) == 0 else ""


def off_scale(panel: Panel, judge: str) -> str:
    return "judge on its own scale" if judge in panel.own_scale else ""


@dataclass(frozen=True)
class Maker:
    """Makes rows that share panel, judge, level and group."""

    panel: Panel
    judge: str
    level: str
    settings: Settings
    by: str = ""
    group: str = ""

    def plain(self, statistic: str, reference: str, estimate: float | None, why: str, items: int | None = None) -> Row:
        return {
            **dict.fromkeys(COLUMNS),
            "criterion": self.panel.criterion,
            "judge": self.judge,
            "by": self.by,
            "group": self.group,
            "level": self.level,
            "statistic": statistic,
            "reference": reference,
            "n_items": len(self.panel.items) if items is None else items,
            "n_raters": len(self.panel.raters),
            "estimate": None if why else 0.0 if estimate is not None and abs(estimate) < ZERO else estimate,
            "status": why or "ok",
        }

    def row(
        self,
        statistic: str,
        reference: str,
        measure: Callable[[Panel], Measure],
        why: str,
        items: int | None = None,
        by_cluster: bool = False,
        raters: bool = True,
        estimate: Callable[[Panel], float] | None = None,
    ) -> Row:
        """A row with its interval; `why` says why there is none. by_cluster: the features are of clusters, not of items.

        estimate: a quicker way to the measure's estimate, for panels without a rater.
        """
        if why:
            return self.plain(statistic, reference, None, why, items)
        made = measure(self.panel)
        if made.features.shape[1] > WIDE:
            return self.plain(statistic, reference, made.estimate(), "", items)
        cluster = np.arange(made.features.shape[0]) if by_cluster else self.panel.cluster
        found = replicate(made, cluster, self.settings.resamples, self.settings.seed)
        if not np.isfinite(found.estimate):
            return self.plain(statistic, reference, None, "undefined", items)
        row = self.plain(statistic, reference, found.estimate, "", items)
        wider = raters_share(self.panel, estimate or (lambda p: measure(p).estimate()), found.drawn) if raters else 1.0
        bounded = statistic not in UNBOUNDED
        ends = interval(found, self.settings.confidence, self.settings.interval)
        row["ci_low"], row["ci_high"] = (widen(found.estimate, end, wider, bounded) for end in ends)
        if statistic in TESTED:
            row["p_value"] = p_value(statistic, found, wider)
        return row
