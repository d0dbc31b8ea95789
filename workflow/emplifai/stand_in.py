"""verdict.json: can a judge stand in for people? In plain words and numbers, per criterion.

The order is that of a careful reader: are people reliable enough to validate anything; how close does the judge come to
what people reach among themselves; may it replace a rater (alternative annotator test); does it order systems alike; where
does it fail; what is the mean that few ratings and many judgements give together.
"""

from typing import Any

import numpy as np

from emplifai.panel import Panel
from emplifai.rows import Row, Settings
from emplifai.statistics.alt_test import ITEMS, alt_test

RELIABLE, MODERATE = 0.75, 0.5  # ICC of the raters' mean: "good" and "moderate" in Koo & Li (2016)
CEILING = 0.7  # share of ratings at one end of the scale that restricts the range
SYSTEMS = 10  # fewer models than this: points to look at, no claim
PASSED = 0.5  # winning rate of the alternative annotator test

Json = dict[str, Any]


def verdict(
    panels: list[Panel], agreement: list[Row], bias: list[Row], settings: Settings, models: bool, simulated: bool
) -> Json:
    """All criteria. Numbers are rows of agreement.csv and bias.csv; words say what they allow to conclude."""
    return {
        "simulated": simulated,
        **(
            {"warning": "SIMULATED RATERS: these numbers show that the program runs. They say nothing about people."}
            if simulated
            else {}
        ),
        "intervals": {
            "kind": settings.interval,
            "confidence": settings.confidence,
            "clusters": settings.cluster,
            "resamples": settings.resamples,
            "seed": settings.seed,
        },
        "criteria": {p.criterion: _criterion(p, _Rows(agreement, p), _Rows(bias, p), settings, models) for p in panels},
    }


class _Rows:
    """The rows of one criterion, found by what they are about."""

    def __init__(self, rows: list[Row], panel: Panel):
        self.rows = [row for row in rows if row["criterion"] == panel.criterion]

    def find(self, **where: str) -> list[Row]:
        return [row for row in self.rows if all(row[k] == v for k, v in where.items())]

    def number(self, **where: str) -> Json:
        """Estimate, interval and counts of one row; only its status where it is undefined or there is none."""
        found = self.find(**where)
        if not found or found[0]["estimate"] is None:
            return {"estimate": None, "status": found[0]["status"] if found else "not computed"}
        row = found[0]
        return {
            "estimate": row["estimate"],
            "low": row["ci_low"],
            "high": row["ci_high"],
            "n_items": row["n_items"],
            "status": "ok",
        }


def _criterion(panel: Panel, rows: _Rows, bias: _Rows, settings: Settings, models: bool) -> Json:
    people = _people(panel, rows, settings)
    judges = {judge: _judge(panel, judge, people, rows, bias, settings, models) for judge in panel.judges}
    return {"people": people, "judges": judges}


def _people(panel: Panel, rows: _Rows, settings: Settings) -> Json:
    """Are the raters reliable enough that agreement with their mean means something?"""
    alpha, mean = (rows.number(level="raters", statistic=s) for s in ("krippendorff_ordinal", "icc_ak"))
    value, low = mean["estimate"], mean.get("low")
    if value is None:
        reliable, words = "unknown", f"Whether people agree cannot be told ({mean['status']})."
    elif value < MODERATE:
        reliable = "no"
        words = f"People do not agree enough (reliability of their mean {value:.2f}, below {MODERATE}): nothing can be validated."
    elif value < RELIABLE or (low is not None and low < MODERATE):
        reliable = "tentative"
        words = f"People agree moderately (reliability of their mean {_shown(mean)}): read what follows with care."
    else:
        reliable, words = "yes", f"People agree well (reliability of their mean {_shown(mean)})."
    if alpha["estimate"] is not None:
        words += f" A single rating is less reliable: Krippendorff's alpha {_shown(alpha)}."
    ends = [float((panel.ratings == end).sum() / max(panel.count.sum(), 1)) for end in settings.scale]
    if max(ends) > CEILING:
        words += f" {max(ends):.0%} of the ratings are one end of the scale: little is left to agree on, whoever judges."
    return {
        "raters": len(panel.raters),
        "items": int((panel.count > 0).sum()),
        "ratings": int(panel.count.sum()),
        "reliable": reliable,
        "share_at_lowest_point": ends[0],
        "share_at_highest_point": ends[1],
        "krippendorff_ordinal": alpha,
        "reliability_of_mean": mean,
        "ceiling": rows.number(level="raters", statistic="leave_one_out_spearman"),
        "words": words,
    }


def _judge(panel: Panel, judge: str, people: Json, rows: _Rows, bias: _Rows, settings: Settings, models: bool) -> Json:
    level = {"level": "within_model", "group": "mean"} if models else {"level": "pooled", "by": "", "group": ""}
    order = rows.number(judge=judge, statistic="spearman", **level)
    loo = rows.number(judge=judge, level="pooled", statistic="leave_one_out_spearman")
    found = {
        "spearman": order | {"level": level["level"]},
        "ceiling": _ceiling(loo, rows.number(judge=judge, level="pooled", statistic="leave_one_out_difference"), people),
        "corrected_for_unreliable_raters": _corrected(order, people),
        "alternative_annotator_test": _alt_test(panel, judge, rows, settings),
        "systems": _systems(panel, judge, rows) if models else {"status": "one system"},
        "fails": _fails(judge, rows, bias, settings),
        "share_of_rated_replies_without_a_score": _missing(panel, judge),
        "mean_rating": rows.number(judge=judge, level="pooled", statistic="ppi_mean"),
    }
    kind = "proxy" if judge in panel.proxies else "judge"
    answer, words = _answer(f"the {kind} {judge}", people, found)
    return {"kind": kind, "may_replace_a_rater": answer, "words": words[0].upper() + words[1:], **found}


def _missing(panel: Panel, judge: str) -> dict[str, float]:
    """By model: what a judge failed to score is seldom missing by chance."""
    rated = panel.of(panel.count > 0)
    gone = ~np.isfinite(rated.judges[judge])
    return {str(model): float(gone[rated.model == model].mean()) for model in np.unique(rated.model)}


def _ceiling(judge: Json, apart: Json, people: Json) -> Json:
    """The judge, and a left-out rater, each against the mean of the other raters."""
    return {"judge": judge, "rater": people["ceiling"], "judge_less_rater": apart}


def _corrected(order: Json, people: Json) -> float | None:
    """r / sqrt(reliability of the raters' mean), Spearman (1904): what perfect raters might give, not an observation."""
    reliability = people["reliability_of_mean"]["estimate"]
    if order["estimate"] is None or not reliability or reliability <= 0:
        return None
    return min(1.0, max(-1.0, order["estimate"] / reliability**0.5))


def _alt_test(panel: Panel, judge: str, rows: _Rows, settings: Settings) -> Json:
    rate = rows.number(judge=judge, statistic="alt_test_winning_rate")
    if rate["estimate"] is None:
        return {"status": rate["status"]}
    shared = panel.judged(judge)
    result = alt_test(shared.ratings, shared.judges[judge], settings.epsilon)
    few = [f"fewer than {ITEMS} items a rater"] * (result.items < ITEMS) + ["fewer than three raters"] * (result.raters < 3)
    return {
        "winning_rate": result.winning_rate,
        "passed": bool(result.winning_rate >= PASSED),
        "advantage": rows.number(judge=judge, statistic="alt_test_advantage"),
        "epsilon": settings.epsilon,
        "raters": result.raters,
        "items_of_the_rater_with_fewest": result.items,
        "test": "t test" if result.test == "t" else "Wilcoxon signed-rank test",
        "unreliable_because": few,
        "status": "ok",
    }


def _systems(panel: Panel, judge: str, rows: _Rows) -> Json:
    kendall, alike = (rows.number(judge=judge, level="system", statistic=s) for s in ("kendall_tau_b", "pairwise_accuracy"))
    models = int(panel.judged(judge).items["model"].nunique())
    return {"models": models, "enough_for_a_claim": models >= SYSTEMS, "kendall_tau_b": kendall, "pairs_ordered_alike": alike}


def _fails(judge: str, rows: _Rows, bias: _Rows, settings: Settings) -> Json:
    """Groups whose whole interval lies below the overall agreement; what else moves the judge, where the interval excludes 0."""
    below = {}
    for by in settings.by:
        mean = bias.number(judge=judge, statistic="spearman_shrunken", by=by, group="mean")["estimate"]
        groups = [r for r in bias.find(judge=judge, statistic="spearman_shrunken", by=by) if r["group"] != "mean"]
        below[by] = [r["group"] for r in groups if mean is not None and r["ci_high"] is not None and r["ci_high"] < mean]
    mean = rows.number(judge=judge, level="within_model", statistic="spearman", group="mean")["estimate"]
    models = [r for r in rows.find(judge=judge, level="within_model", statistic="spearman") if r["group"] != "mean"]
    below["model"] = [r["group"] for r in models if mean is not None and r["ci_high"] is not None and r["ci_high"] < mean]
    undefined = {r["group"]: r["status"] for r in models if r["estimate"] is None}
    moved = {s: bias.number(judge=judge, statistic=s) for s in ("length_effect", "self_preference")}
    return {"below_its_mean_agreement": below, "undefined_in_model": undefined, **moved}


def _answer(name: str, people: Json, found: Json) -> tuple[str, str]:
    """yes, no, or why there is no answer; and the same in words."""
    test, order = found["alternative_annotator_test"], found["spearman"]
    if people["reliable"] in ("no", "unknown"):
        return "no verdict", f"{people['words']} No verdict on {name}."
    if order["estimate"] is None:
        words = f"{name} cannot be compared with people ({order['status']})."
        return "no verdict", words
    words = f"{name} orders replies as people do to the degree {_shown(order)} (Spearman, {order['level']})"
    alike, ceiling = (found["ceiling"][who]["estimate"] for who in ("judge", "rater"))
    known = alike is not None and ceiling is not None
    words += f"; against the other raters it reaches {alike:.2f}, where a rater reaches {ceiling:.2f}." if known else "."
    if test["status"] != "ok":
        return "not tested", f"{words} Whether it may replace a rater was not tested ({test['status']})."
    if test["unreliable_because"]:
        return (
            "too few ratings",
            f"{words} Too few ratings to say whether it may replace a rater ({', '.join(test['unreliable_because'])}).",
        )
    if not test["passed"]:
        return "no", f"{words} It may not replace a rater: it wins against {test['winning_rate']:.0%} of them."
    if order["low"] is None or order["low"] <= 0:
        return (
            "no",
            f"{words} It comes close to the raters' scores, but its order may be chance: closeness alone is no discrimination.",
        )
    return (
        "yes",
        f"{words} It may replace a rater: it wins against {test['winning_rate']:.0%} of them (epsilon {test['epsilon']:g}).",
    )


def _shown(number: Json) -> str:
    if number.get("low") is None:
        return f"{number['estimate']:.2f}"
    return f"{number['estimate']:.2f} [{number['low']:.2f}, {number['high']:.2f}]"
