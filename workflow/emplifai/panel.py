"""One criterion's ratings and judgements, side by side: the items, their raters, their judges."""

from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import pandas as pd

ATTRIBUTES = ("situation_id", "emotion", "family", "length")  # of items, where known; family: the model's; length: in characters
GROUPS = 30  # of raters, left out one at a time


@dataclass(frozen=True)
class Panel:
    """Items are replies: a dialogue answered by a model. Missing cells are NaN."""

    criterion: str
    items: "pd.DataFrame"  # dialogue_id, model, and what else is known of them
    raters: list[str]
    ratings: np.ndarray  # (items, raters)
    judges: dict[str, np.ndarray]  # (items,) each
    own_scale: frozenset[str]  # judges that do not use the declared scale
    cluster: np.ndarray  # (items,) whole numbers
    samples: dict[str, np.ndarray] = field(default_factory=dict)  # (items, samples), of judges that answered more than once
    families: dict[str, str] = field(default_factory=dict)  # of judges, for self-preference
    proxies: frozenset[str] = frozenset()  # judges that only stand for one: a likelihood, BERTScore

    @cached_property
    def model(self) -> np.ndarray:
        """Name of each item's model, (items,)."""
        return self.items["model"].to_numpy(str)

    @cached_property
    def count(self) -> np.ndarray:
        """Ratings an item, (items,)."""
        return np.isfinite(self.ratings).sum(1)

    @cached_property
    def human(self) -> np.ndarray:
        """Mean of the raters, (items,)."""
        with np.errstate(invalid="ignore"):
            return np.where(self.count > 0, np.nansum(self.ratings, 1) / self.count, np.nan)

    @cached_property
    def median(self) -> np.ndarray:
        """Median of the raters, the lower one of an even number, (items,)."""
        order = np.sort(self.ratings, 1)  # NaN last
        middle = np.maximum(self.count - 1, 0) // 2
        return order[np.arange(len(order)), middle] if order.shape[1] else np.full(len(order), np.nan)

    @cached_property
    def left_out(self) -> list["Panel"]:
        """The panel without one rater at a time; of many raters, without one of 30 groups."""
        group = np.arange(len(self.raters)) % GROUPS
        return [self._without(group == g) for g in np.unique(group)]

    def _without(self, gone: np.ndarray) -> "Panel":
        raters = [r for r, g in zip(self.raters, gone, strict=True) if not g]
        rest = replace(self, ratings=self.ratings[:, ~gone], raters=raters)
        return rest.of((rest.count > 0) | (self.count == 0))

    def of(self, keep: np.ndarray) -> "Panel":
        """The items of a mask; clusters and raters without any of them drop out."""
        there = np.isfinite(self.ratings[keep]).any(0)
        return replace(
            self,
            items=self.items[keep].reset_index(drop=True),
            raters=[r for r, t in zip(self.raters, there, strict=True) if t],
            ratings=self.ratings[keep][:, there],
            judges={name: scores[keep] for name, scores in self.judges.items()},
            samples={name: scores[keep] for name, scores in self.samples.items()},
            cluster=np.unique(self.cluster[keep], return_inverse=True)[1],
        )

    def judged(self, judge: str) -> "Panel":
        """The items that people and this judge scored."""
        return self.of((self.count > 0) & np.isfinite(self.judges[judge]))


def panels(
    ratings: "pd.DataFrame",
    judgements: "pd.DataFrame",
    cluster: str,
    own_scale: set[str],
    attributes: "pd.DataFrame",
    families: dict[str, str] | None = None,
    proxies: frozenset[str] = frozenset(),
) -> list[Panel]:
    """One panel a criterion, in the order of the alphabet.

    ratings: rater_id, dialogue_id, model, criterion, score. judgements: judge, the same; several samples are averaged.
    attributes: indexed by (dialogue_id, model), every item; `cluster` is one of its columns or dialogue_id.
    """
    import pandas as pd

    keys = ["dialogue_id", "model"]
    found = []
    for criterion in sorted(set(ratings["criterion"]) | set(judgements["criterion"])):
        rated = ratings[ratings["criterion"] == criterion]
        scored = judgements[judgements["criterion"] == criterion]
        index = pd.MultiIndex.from_frame(pd.concat([rated[keys], scored[keys]]).drop_duplicates().sort_values(keys))
        raters, matrix = _matrix(rated, "rater_id", index)
        judges, scores = _matrix(scored, "judge", index)
        items = attributes.reindex(index).reset_index()
        found.append(
            Panel(
                criterion,
                items,
                raters,
                matrix,
                {judge: scores[:, k] for k, judge in enumerate(judges)},
                frozenset(own_scale & set(judges)),
                np.unique(items[cluster].astype(str), return_inverse=True)[1],
                _samples(scored, index),
                families or {},
                proxies & set(judges),
            )
        )
    return found


def _matrix(table: "pd.DataFrame", who: str, index: "pd.MultiIndex") -> tuple[list[str], np.ndarray]:
    """Scores as (items, people), the mean of a cell's samples; people in the order of the alphabet."""
    import pandas as pd

    rows = index.get_indexer(pd.MultiIndex.from_frame(table[["dialogue_id", "model"]]))
    people, columns = np.unique(table[who].astype(str), return_inverse=True)
    sums, counts = np.zeros((2, len(index), len(people)))
    np.add.at(sums, (rows, columns), table["score"].to_numpy(float))
    np.add.at(counts, (rows, columns), 1)
    with np.errstate(invalid="ignore"):
        return [str(p) for p in people], np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)


def _samples(scored: "pd.DataFrame", index: "pd.MultiIndex") -> dict[str, np.ndarray]:
    """Every sample of the judges that answered more than once: (items, samples), NaN for missing cells."""
    if "sample" not in scored:
        return {}
    found = {}
    for judge, rows in scored.groupby("judge"):
        samples, matrix = _matrix(rows.assign(sample=rows["sample"].astype(str)), "sample", index)
        if len(samples) > 1:
            found[str(judge)] = matrix
    return found
