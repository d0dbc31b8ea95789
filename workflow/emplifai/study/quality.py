"""How each rater agrees with themselves, and whether they read: from second copies and attention checks."""

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from emplifai.records import write_csv
from emplifai.statistics.kappa import weighted_kappa
from emplifai.study.project import Project

COLUMNS = ("rater_id", "criterion", "ratings", "repeats", "same", "mean_difference", "weighted_kappa", "checks", "checks_passed")


def write(path: Path, given: Sequence[tuple], key: dict[str, dict[str, Any]], study: Project) -> None:
    """A row a rater and criterion. given: (rater_id, item_id, position, criterion, score, rated_at)."""
    first, second, checks = defaultdict(dict), defaultdict(dict), defaultdict(list)
    for rater, item, _, criterion, score, _ in given:
        row = key[item]
        if row["kind"] == "check":
            checks[rater, criterion].append(score == row["expected"])
        else:
            of = first if row["kind"] == "item" else second
            of[rater, criterion][row["dialogue_id"], row["model"]] = score
    rows = [_row(r, c, first[r, c], second[r, c], checks[r, c]) for r in study.orders for c in study.criteria if first[r, c]]
    write_csv(path, rows, COLUMNS)


def _row(rater: str, criterion: str, first: dict, second: dict, checks: list[bool]) -> dict[str, Any]:
    both = [item for item in second if item in first]
    row = {"rater_id": rater, "criterion": criterion, "ratings": len(first), "repeats": len(both)}
    row |= {"checks": len(checks), "checks_passed": sum(checks)}
    if both:
        x, y = (np.array([scores[item] for item in both], float) for scores in (first, second))
        row |= {"same": float(np.mean(x == y)), "mean_difference": float(np.mean(y - x)), "weighted_kappa": _kappa(x, y)}
    return row


def _kappa(x: np.ndarray, y: np.ndarray) -> float | None:
    """None where it is undefined: one and the same score throughout."""
    value = weighted_kappa(x, y).estimate()
    return value if np.isfinite(value) else None
