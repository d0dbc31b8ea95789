"""What SLURM costs: a small whole run on a real SLURM of two nodes, against the same run on this machine.

python benchmarks/slurm.py [--poll 2]

Wants root, slurm-wlm and munge. "Between jobs": from the end of a stage to the start of the one that waits for it, by their
run.json; on SLURM that is a poll of squeue, sbatch, the scheduler, and Snakemake's start on the node.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "tests"))

PAIRS = (("finetune/tuned", "generate/tuned"), ("generate/tuned", "bertscore"), ("generate/tuned", "judge/proxy"))


def main() -> None:
    import conftest
    from slurm_cluster import Cluster, missing

    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--poll", type=int, default=2, help="seconds between polls (the profile has 20)")
    poll = parser.parse_args().poll
    if lacking := missing():
        sys.exit(f"not there: {', '.join(lacking)}")
    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder, "tiny")
        conftest.build_tiny(model)
        local = run(conftest.make_project(Path(folder, "local"), model), ["--cores", "2"], {})
        cluster = Cluster(Path(folder, "cluster"))
        try:
            cluster.start()
            profile = ["--profile", "slurm", "--slurm-init-seconds-before-status-checks", str(poll)]
            slurm = run(conftest.make_project(Path(folder, "slurm"), model), profile, cluster.environment())
        finally:
            cluster.stop()
    show(local, slurm, poll)


def run(project: Path, options: list[str], environment: dict[str, str]) -> dict[str, float]:
    """Seconds of the whole run and between dependent jobs."""
    import conftest

    env = conftest.environment(**{"OMP_NUM_THREADS": "1", **environment})
    begun = time.monotonic()
    subprocess.run(["snakemake", *options, "--quiet", "all", "--", "all"], cwd=project, env=env, check=True, capture_output=True)
    found = {"whole run": time.monotonic() - begun}
    for before, after in PAIRS:
        first, second = (json.loads((project / "results" / part / "run.json").read_text()) for part in (before, after))
        found[f"{before} to {after}"] = second["started"] - first["started"] - first["seconds"]
    return found


def show(local: dict[str, float], slurm: dict[str, float], poll: int) -> None:
    print(f"{'seconds':<34} {'--cores 2':>10} {f'SLURM, poll {poll} s':>16} {'ratio':>6}")
    for name, seconds in local.items():
        print(f"{name:<34} {seconds:>10.1f} {slurm[name]:>16.1f} {slurm[name] / seconds:>6.1f}")


if __name__ == "__main__":
    main()
