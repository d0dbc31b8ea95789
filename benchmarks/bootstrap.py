"""Cluster bootstrap of agreement against scipy.stats.bootstrap with the obvious function.

python benchmarks/bootstrap.py [--judgements 50000] [--resamples 10000] [--peer-resamples 30] [--rounds 3]

3 criteria x 3 judges x 3 statistics (Pearson, Spearman, Kendall's tau-b), each over all judgements; 15 items a cluster; people
are the mean of five raters on 1 to 5. Peer: scipy.stats.bootstrap over the clusters, a function that gathers the rows of those
drawn and calls scipy.stats. It takes hours for all resamples, so it runs --peer-resamples of them, of one criterion and judge,
and its time is multiplied; before that both run the same few resamples and must give the same intervals. Rounds alternate.
"""

import argparse
import resource
import statistics
import time

import numpy as np
import scipy.stats

from emplifai.statistics import bootstrap, correlation

PAIRS = {
    "pearson": (correlation.pearson, scipy.stats.pearsonr),
    "spearman": (correlation.spearman, scipy.stats.spearmanr),
    "kendall": (correlation.kendall, scipy.stats.kendalltau),
}
CRITERIA, JUDGES, SEED = 3, 3, 7


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--judgements", type=int, default=50_000)
    parser.add_argument("--resamples", type=int, default=10_000)
    parser.add_argument("--peer-resamples", type=int, default=30)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    cluster = np.arange(args.judgements) // 15
    tables = [table(k, args.judgements) for k in range(CRITERIA * JUDGES)]
    same(*tables[0], cluster, args.peer_resamples)
    ours, theirs = [], {name: [] for name in PAIRS}
    for k in range(args.rounds):
        ours.append(all_of_ours(tables, cluster, args.resamples, SEED + k))
        for name in PAIRS:
            theirs[name].append(peer(name, *tables[k % len(tables)], cluster, args.peer_resamples)[1] / args.peer_resamples)
    show(args, ours, theirs)


def table(seed: int, items: int) -> tuple[np.ndarray, np.ndarray]:
    """A judge and the mean of five raters."""
    rng = np.random.default_rng(seed)
    quality = rng.normal(size=items)
    ratings = np.clip(np.rint(3 + quality[:, None] + rng.normal(size=(items, 5))), 1, 5)
    return np.clip(np.rint(3 + quality + rng.normal(size=items)), 1, 5), ratings.mean(1)


def all_of_ours(tables: list[tuple[np.ndarray, np.ndarray]], cluster: np.ndarray, resamples: int, seed: int) -> float:
    start = time.perf_counter()
    for judge, human in tables:
        for measure, _ in PAIRS.values():
            bootstrap.interval(bootstrap.replicate(measure(judge, human), cluster, resamples, seed), method="bca")
    return time.perf_counter() - start


def peer(name: str, judge: np.ndarray, human: np.ndarray, cluster: np.ndarray, resamples: int):
    """Percentile interval and seconds: SciPy's BCa would take one more call a cluster."""
    rows = np.split(np.arange(len(cluster)), np.flatnonzero(np.diff(cluster)) + 1)

    def statistic(drawn: np.ndarray) -> float:
        chosen = np.concatenate([rows[c] for c in drawn])
        return PAIRS[name][1](judge[chosen], human[chosen]).statistic

    start = time.perf_counter()
    found = scipy.stats.bootstrap(
        (np.arange(len(rows)),),
        statistic,
        vectorized=False,
        n_resamples=resamples,
        method="percentile",
        rng=np.random.default_rng(SEED),
    )
    return found.confidence_interval, time.perf_counter() - start


def same(judge: np.ndarray, human: np.ndarray, cluster: np.ndarray, resamples: int) -> None:
    for name, (measure, _) in PAIRS.items():
        ours = bootstrap.interval(bootstrap.replicate(measure(judge, human), cluster, resamples, SEED), method="percentile")
        theirs, _ = peer(name, judge, human, cluster, resamples)
        difference = max(abs(a - b) for a, b in zip(ours, theirs, strict=True))
        assert difference < 1e-10, (name, ours, theirs)
        print(f"{name}: same interval for the same {resamples} draws, difference {difference:.1e}")


def show(args: argparse.Namespace, ours: list[float], theirs: dict[str, list[float]]) -> None:
    whole = [sum(seconds) * args.resamples * CRITERIA * JUDGES for seconds in zip(*theirs.values(), strict=True)]
    size = f"{args.judgements} judgements x {CRITERIA} criteria x {JUDGES} judges x {len(PAIRS)} statistics"
    print(f"{size}, {args.resamples} resamples")
    for name, seconds in (("emplifai, with BCa", ours), ("scipy.stats.bootstrap, percentile (extrapolated)", whole)):
        print(f"{name:<50} {statistics.median(seconds):10.1f} s  {min(seconds):.1f}-{max(seconds):.1f}")
    print(f"ratio {statistics.median(whole) / statistics.median(ours):.0f}")
    print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GB")
    arithmetic = 2 * args.resamples * len(np.unique(np.arange(args.judgements) // 15)) * (6 + 2 * 105) * CRITERIA * JUDGES
    print(f"floor: {arithmetic / 1e9:.0f} GFLOP of matrix products at {rate() / 1e9:.0f} GFLOP/s = {arithmetic / rate():.1f} s")


def rate() -> float:
    """Rate of a large product in float64, in operations a second."""
    a = np.ones((2000, 2000))
    a @ a
    start = time.perf_counter()
    a @ a
    return 2 * 2000**3 / (time.perf_counter() - start)


if __name__ == "__main__":
    main()
