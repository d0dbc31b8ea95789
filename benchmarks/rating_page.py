"""The rating page under 50 raters who never pause: latency of a save and of a page, saves a second, memory of the server.

python benchmarks/rating_page.py [--raters 50] [--items 10]

Floor: the same row committed by bare SQLite on the same disk, one after the other. Raters run in processes of their own; on a
machine of few cores they take time from the server, so people will see less than what is measured here.
"""

import argparse
import multiprocessing
import sqlite3
import statistics
import sys
import tempfile
import time
from itertools import chain
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

import psutil

from emplifai.records import CRITERIA
from rating_study import Rater, Server, draw, make


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--raters", type=int, default=50)
    parser.add_argument("--items", type=int, default=10)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        folder = make(Path(work) / "study")
        project, tokens = draw(folder, "load", "--raters", str(args.raters), "--items", str(args.items))
        with Server(project) as server, multiprocessing.Pool(args.raters) as pool:
            pool.map(time.sleep, [0.1] * args.raters)  # all are up
            start = time.perf_counter()
            saves, pages = zip(*pool.starmap(work_through, [(server.port, token) for token in tokens.values()], 1), strict=True)
            seconds = time.perf_counter() - start
            memory = psutil.Process(server.process.pid).memory_info().rss / 2**20
        bare = min(floor(Path(work), k) for k in range(3))
        report([*chain(*saves)], [*chain(*pages)], seconds, memory, stored(project), bare)


def work_through(port: int, token: str) -> tuple[list[float], list[float]]:
    """Rate everything; seconds of each save and of each page."""
    rater, saves, pages = Rater(port, token), [], []
    rater.begin()
    while True:
        start = time.perf_counter()
        position = rater.position
        pages.append(time.perf_counter() - start)
        if position is None:
            return saves, pages
        for fields in [{c: 3} for c in CRITERIA] + [{"next": 1}]:
            start = time.perf_counter()
            status, _ = rater.send(position=position, **fields)
            saves.append(time.perf_counter() - start)
            assert status == 200


def stored(project: Path) -> int:
    with sqlite3.connect(project / "ratings.sqlite") as db:
        return db.execute("SELECT count(*) FROM rating").fetchone()[0]


def floor(folder: Path, number: int, commits: int = 300) -> float:
    """Seconds of a commit that reaches the disk."""
    db = sqlite3.connect(folder / f"floor{number}.sqlite", isolation_level=None)
    db.execute("PRAGMA journal_mode=WAL")
    db.execute("PRAGMA synchronous=FULL")
    db.execute("CREATE TABLE rating (rater TEXT, position INTEGER, score INTEGER)")
    start = time.perf_counter()
    for k in range(commits):
        db.execute("INSERT INTO rating VALUES ('r01', ?, 3)", (k,))
    db.close()
    return (time.perf_counter() - start) / commits


def report(saves: list[float], pages: list[float], seconds: float, memory: float, rows: int, bare: float) -> None:
    print(f"{'ms':>10}  {'median':>8}{'95%':>8}{'99%':>8}{'slowest':>9}")
    for name, times in (("save", saves), ("page", pages)):
        cuts = statistics.quantiles(times, n=100)
        print(f"{name:>10}  " + "".join(f"{1000 * t:8.1f}" for t in (cuts[49], cuts[94], cuts[98])) + f"{1000 * max(times):9.1f}")
    print(
        f"{len(saves)} saves and {len(pages)} pages in {seconds:.1f} s: {len(saves) / seconds:.0f} saves/s; {rows} ratings stored"
    )
    print(f"server: {memory:.0f} MB; bare commit: {1000 * bare:.2f} ms")


if __name__ == "__main__":
    main()
