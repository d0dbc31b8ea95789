"""What Snakemake and DVC cost: the whole tiny workflow against the same stages called in one Python process, and no-ops.

python benchmarks/orchestration.py [--rounds 1]

The project of the tests: four emotions of the corpus, models of two layers with random weights. Both sides in a fresh copy, one
job at a time, with the same params and caches that are empty; they must write the same metrics. The difference is divided by the
number of stages (8) and of jobs. Then: what the commands that find nothing to do take (the best of five).
"""

import argparse
import contextlib
import io
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import measure

STAGES = ["validate", "split", "finetune", "generate", "bertscore", "judge", "correlate", "report"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=1)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        measure.alone(tiny, Path(folder) / "model")
        found: dict[str, list] = {"one process": [], "snakemake": []}
        for k in range(args.rounds):
            projects = {name: project(Path(folder) / f"{name}{k}".replace(" ", "-"), Path(folder) / "model") for name in found}
            for name, work in (("one process", together), ("snakemake", by_snakemake)):
                found[name].append(measure.alone(work, projects[name]))
                print(f"  round {k + 1}, {name}: {found[name][-1].seconds:.1f} s", flush=True)
            same(projects)
        measure.table("the whole tiny workflow", found, ours="one process")
        jobs = found["one process"][-1].value
        over = min(s.counted for s in found["snakemake"]) - min(s.counted for s in found["one process"])
        print(f"snakemake over it: {over:.1f} s: {over / len(STAGES):.2f} s a stage, {over / jobs:.2f} s a job of {jobs}")
        nothing(projects["snakemake"])


def tiny(folder: Path) -> None:
    sys.path.insert(0, "tests")
    from conftest import build_tiny

    build_tiny(folder)


def project(folder: Path, model: Path) -> Path:
    sys.path.insert(0, "tests")
    from conftest import make_project

    made = make_project(folder, model)
    for command in (["git", "init", "-q"], ["git", "add", "-A"]):
        subprocess.run(command, cwd=made, check=True)
    return made


def environment(folder: Path) -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(folder / "workflow"), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}


def together(folder: Path) -> int:
    """All jobs of the workflow by the command line's main, one after another in this process; how many."""
    import yaml

    os.chdir(folder)
    from emplifai.cli import main as run

    params = yaml.safe_load(Path("params.yaml").read_text("utf-8"))
    models, judges = params["models"], params["judges"]
    jobs = [["validate"], ["split"]]
    jobs += [["finetune", "--model", name] for name, entry in models.items() if entry.get("adapter") == "finetune"]
    jobs += [
        ["finetune", "--gather"],
        *(["generate", "--model", name] for name in models),
        ["generate", "--gather"],
        ["bertscore"],
    ]
    jobs += [*(["judge", "--judge", name] for name in judges), ["judge", "--gather"], ["correlate"], ["report"], ["track"]]
    for job in jobs:
        with contextlib.redirect_stdout(io.StringIO()):
            assert run(job) == 0, job
    return len(jobs)


def by_snakemake(folder: Path) -> None:
    command = ["snakemake", "--cores", "1", "--quiet", "all", "--", "all"]
    subprocess.run(command, cwd=folder, env=environment(folder), check=True, capture_output=True)


def same(projects: dict[str, Path]) -> None:
    one, other = ({s: (p / f"results/{s}/metrics.json").read_bytes() for s in STAGES} for p in projects.values())
    assert one == other, [s for s in STAGES if one[s] != other[s]]


def nothing(folder: Path) -> None:
    commands = {"snakemake": ["snakemake", "--cores", "1", "--quiet", "all", "--", "all"], "dvc status": ["dvc", "status"]}
    commands |= {"emplifai --help": ["emplifai", "--help"], "python": [sys.executable, "-c", "pass"]}
    subprocess.run(["dvc", "repro", "-q"], cwd=folder, env=environment(folder), check=True, capture_output=True)
    for name, command in commands.items():
        best = (float("inf"), float("inf"))
        for _ in range(5):
            watch = measure.Watch()
            subprocess.run(command, cwd=folder, env=environment(folder), check=True, capture_output=True)
            best = tuple(map(min, best, watch.read()))  # type: ignore[assignment]
        print(f"{name:<18} nothing to do: {best[0]:.2f} s, of the processor {best[1]:.2f} s")


if __name__ == "__main__":
    main()
