"""`emplifai correlate` on tables of a large study: time and memory of the whole command.

python benchmarks/correlate.py [--judgements 1000000] [--ratings 100000] [--resamples 2000]

Three judges, three criteria, six models, five raters on a part of the replies. There is no peer: no tool known to us computes
these tables; the resampling alone is compared with SciPy in benchmarks/bootstrap.py.
"""

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd

JUDGES, CRITERIA, MODELS, RATERS = 3, 3, 6, 5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--judgements", type=int, default=1_000_000)
    parser.add_argument("--ratings", type=int, default=100_000)
    parser.add_argument("--resamples", type=int, default=2000)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        sizes = write(Path(folder), args.judgements, args.ratings)
        command = [sys.executable, "-m", "emplifai", "correlate", "--ratings", "R.csv", "--judgements", "J.csv", "--out", "out"]
        start = time.perf_counter()
        subprocess.run([*command, "--resamples", str(args.resamples)], cwd=folder, check=True)
        seconds = time.perf_counter() - start
        rows = sum(1 for _ in open(Path(folder) / "out/agreement.csv")) - 1
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20
    print(f"{sizes[0]} judgements, {sizes[1]} ratings: {seconds:.0f} s, {peak:.2f} GB, {rows} rows of agreement.csv")


def write(folder: Path, judgements: int, ratings: int) -> tuple[int, int]:
    rng = np.random.default_rng(0)
    dialogues = round(judgements / JUDGES / CRITERIA / MODELS)
    items = pd.MultiIndex.from_product([range(dialogues), range(MODELS), range(CRITERIA)], names=["d", "m", "c"]).to_frame(
        index=False
    )
    quality = rng.normal(size=len(items)) + 0.2 * items["m"].to_numpy()
    scored = [scores(items, quality, rng, judge=f"j{j}", noise=0.5 + 0.3 * j) for j in range(JUDGES)]
    part = rng.permutation(len(items))[: ratings // RATERS]
    rated = [scores(items.iloc[part], quality[part], rng, rater_id=f"r{j}", noise=0.7) for j in range(RATERS)]
    pd.concat(scored).to_csv(folder / "J.csv", index=False)
    pd.concat(rated).to_csv(folder / "R.csv", index=False)
    return sum(map(len, scored)), sum(map(len, rated))


def scores(items: pd.DataFrame, quality: np.ndarray, rng: np.random.Generator, noise: float, **who: str) -> pd.DataFrame:
    named = {
        "dialogue_id": "d" + items["d"].astype(str),
        "model": "m" + items["m"].astype(str),
        "criterion": "c" + items["c"].astype(str),
    }
    situation = "s" + (items["d"] // 15).astype(str)
    points = np.clip(np.rint(3 + quality + noise * rng.normal(size=len(items))), 1, 5).astype(int)
    return pd.DataFrame({**who, **named, "score": points, "situation_id": situation})


if __name__ == "__main__":
    main()
