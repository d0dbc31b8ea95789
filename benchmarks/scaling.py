"""How time and memory of each stage grow with items, models and shards; and what a large run costs, by arithmetic.

python benchmarks/scaling.py [--items 280] [--times 1 10] [--models 1 2 8] [--shards 1 2 8] [--model FOLDER]

Each stage in a process of its own, on data of benchmarks/validate.py. --model: the embedded model, or by default one of
two layers with random weights, which shows the stage and not the arithmetic. Growth: the exponent between the smallest and
the largest size of the time beyond the start (the time at a tenth of the smallest size is taken for the start). 1 is a
straight line.
"""

import argparse
import math
import os
import sys
import tempfile
from pathlib import Path

import measure
from validate import make

STAGES = [["validate"], ["split"], ["finetune", "--model", "tuned"], ["generate", "--model", "base0"], ["bertscore"]]
STAGES += [["judge", "--judge", "proxy"], ["correlate"]]
ANCHORS = {name: {"backend": name} for name in ("reference", "parrot")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--items", type=int, default=280)
    parser.add_argument("--times", type=int, nargs="+", default=[1, 10])
    parser.add_argument("--models", type=int, nargs="+", default=[1, 2, 8])
    parser.add_argument("--shards", type=int, nargs="+", default=[1, 2, 8])
    parser.add_argument("--model", default="")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        model = args.model or str(measure.alone(tiny, Path(folder) / "model").value)
        by_items(Path(folder), model, args)
        by_models(Path(folder), model, args)
        by_shards(Path(folder), model, args)


def tiny(folder: Path) -> Path:
    sys.path.insert(0, "tests")
    from conftest import build_tiny

    build_tiny(folder)
    return folder


def project(folder: Path, items: int, model: str, models: int) -> Path:
    import yaml

    (folder / "data/ratings").mkdir(parents=True)
    make(folder / "data/dialogues.jsonl", items)
    (folder / "data/labels.yaml").write_bytes(Path("data/labels.yaml").read_bytes())
    entry = {"backend": "transformers", "model": model}
    params = {
        "data": {"path": "data/dialogues.jsonl"},
        "finetune": {"rank": 4, "checkpoint_every": 10**6},
        "generate": {"max_new_tokens": 12},
        "bertscore": {"model": model, "layer": 1},
        "correlate": {"resamples": 200},
        "models": ANCHORS
        | {f"base{k}": entry | {"shots": k} for k in range(models)}
        | {"tuned": entry | {"adapter": "finetune"}},
        "judges": {"proxy": {"backend": "likelihood", "model": model}},
    }
    (folder / "params.yaml").write_text(yaml.safe_dump(params, allow_unicode=True, sort_keys=False), "utf-8")
    return folder


def stage(folder: Path, words: list[str]) -> None:
    from emplifai.cli import main as run

    os.chdir(folder)
    sys.stdout = sys.stderr = open(os.devnull, "w")
    if run(words):
        raise SystemExit(f"{folder}: {' '.join(words)} failed; run it there by hand")


def by_items(folder: Path, model: str, args: argparse.Namespace) -> None:
    sizes = [max(112, args.items // 10), *(args.items * k for k in args.times)]
    places = [project(folder / f"items{n}", n, model, 1) for n in sizes]
    found = {words[0]: [] for words in STAGES}
    for size, place in zip(sizes, places, strict=True):
        for words in STAGES:
            found[words[0]].append(measure.alone(stage, place, words))
            if words[0] == "generate":  # the others are needed by what follows, and are not what is timed
                for name in (*ANCHORS, "tuned"):
                    measure.alone(stage, place, ["generate", "--model", name])
                measure.alone(stage, place, ["generate", "--gather"])
            if words[0] in ("finetune", "judge"):
                measure.alone(stage, place, [words[0], "--gather"])
        print(f"  {size} dialogues done", flush=True)
    print(f"\n{'dialogues':<12}" + "".join(f"{n:>18}" for n in sizes) + f"{'growth':>9}")
    for name, sides in found.items():
        cells = "".join(f"{s.counted:9.1f} s {s.gigabytes:4.2f} GB" for s in sides)
        print(f"{name:<12}{cells}{growth(sizes, sides):9.2f}")


def growth(sizes: list[int], sides: list[measure.Side]) -> float:
    """Exponent of the time beyond the start, between the second and the last size."""
    start = sides[0].counted
    less, more = (max(s.counted - start, 0.01) for s in (sides[1], sides[-1]))
    return math.log(more / less) / math.log((sizes[-1] - sizes[0]) / (sizes[1] - sizes[0])) if len(sizes) > 2 else float("nan")


def by_models(folder: Path, model: str, args: argparse.Namespace) -> None:
    """generate of all models in turn, then BERTScore and judge of all."""
    print(f"\n{'models':<12}{'generate':>12}{'bertscore':>12}{'judge':>12}   seconds of all, {args.items} dialogues")
    for count in args.models:
        place = project(folder / f"models{count}", args.items, model, count)
        for words in STAGES[:3]:
            measure.alone(stage, place, words)
        names = [*ANCHORS, *(f"base{k}" for k in range(count)), "tuned"]
        wrote = [measure.alone(stage, place, ["generate", "--model", name]).counted for name in names]
        measure.alone(stage, place, ["generate", "--gather"])
        scored, judged = (measure.alone(stage, place, words).counted for words in (["bertscore"], ["judge", "--judge", "proxy"]))
        print(f"{count:<12}{sum(wrote):12.1f}{scored:12.1f}{judged:12.1f}", flush=True)


def by_shards(folder: Path, model: str, args: argparse.Namespace) -> None:
    """The longest shard's time, which is what a user waits for when each has a GPU of its own."""
    print(f"\n{'shards':<12}{'longest':>12}{'all':>12}   seconds of generate, {args.items} dialogues")
    for count in args.shards:
        place = project(folder / f"shards{count}", args.items, model, 1)
        for words in STAGES[:2]:
            measure.alone(stage, place, words)
        parts = [
            ["generate", "--model", "base0", *(["--shard", f"{k}/{count}"] if count > 1 else [])] for k in range(1, count + 1)
        ]
        times = [measure.alone(stage, place, words).counted for words in parts]
        print(f"{count:<12}{max(times):12.1f}{sum(times):12.1f}", flush=True)


if __name__ == "__main__":
    main()
