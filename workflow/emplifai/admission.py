"""Before the first job: does SLURM answer, and would it take the jobs to come? What it refuses is said, with a way out."""

import subprocess
from collections.abc import Iterable, Mapping
from typing import Any

from emplifai.errors import UserError

#: Resources of a rule and the options of sbatch that ask for them.
OPTIONS = {
    "slurm_partition": "--partition",
    "slurm_account": "--account",
    "qos": "--qos",
    "constraint": "--constraint",
    "gres": "--gres",
    "mem_mb": "--mem",
    "runtime": "--time",
    "_cores": "--cpus-per-task",
}
#: A word of what sbatch says; what helps; and how sinfo shows what there is.
ADVICE = (
    ("account", "name one of yours (`sacctmgr show user $USER withassoc`), see presets/slurm-site", ""),
    ("partition", "name one of yours in profiles/default/profile.yaml, see presets/slurm-site", "%R"),
    ("feature", "name one that nodes have", "%f"),
    ("gres", "ask for what nodes have: --set-resources RULE:gres=...", "%G"),
    ("configuration", "ask for what a node has: --set-resources RULE:gres=... RULE:mem_mb=...", "%G %c cores %m MB"),
)


def check(jobs: Iterable[tuple[str, Mapping[str, Any]]] = ()) -> None:
    """jobs: rule and resources of each job that SLURM is to run. Raises UserError where they cannot be submitted."""
    _answers()
    asked: dict[tuple[str, ...], set[str]] = {}
    for rule, resources in jobs:
        options = tuple(f"{option}={resources[key]}" for key, option in OPTIONS.items() if resources.get(key))
        asked.setdefault(options, set()).add(rule)
    faults = [_fault(sorted(rules), options, said) for options, rules in asked.items() if (said := _refusal(options))]
    if faults:
        raise UserError(*faults)


def _answers() -> None:
    try:
        subprocess.run(["sbatch", "--version"], capture_output=True, text=True)
        asked = subprocess.run(["sinfo", "-h"], capture_output=True, text=True, timeout=120)
    except FileNotFoundError as error:
        raise UserError(
            f"{error.filename}: not found; type this on the cluster's login node (perhaps after `module load slurm`), or use "
            "this machine: snakemake --cores all all"
        ) from None
    except subprocess.TimeoutExpired:
        raise UserError("sinfo: no answer in 2 minutes; is slurmctld well? Ask the cluster's administrators") from None
    if asked.returncode:
        said = " ".join(asked.stderr.split())
        what = "munged does not run on this machine" if "munge" in said.lower() else "this machine cannot reach slurmctld"
        raise UserError(f"SLURM does not answer: {what}; ask the cluster's administrators. sinfo said: {said[:300]}")


def _refusal(options: tuple[str, ...]) -> str:
    """What sbatch says against such a job; "" if it takes it. A job that only waits for a node that is down is taken."""
    tried = _sbatch("--test-only", *options)
    if tried.returncode == 0:
        return ""
    real = _sbatch("--begin=now+1hour", "--parsable", "--output=/dev/null", *options)  # with a node down a test refuses too much
    if real.returncode == 0:
        subprocess.run(["scancel", real.stdout.strip().split(";")[0]], capture_output=True)
        return ""
    return " ".join(real.stderr.rpartition("failed: ")[2].split())


def _sbatch(*options: str) -> subprocess.CompletedProcess:
    return subprocess.run(["sbatch", *options, "--wrap=true"], capture_output=True, text=True)


def _fault(rules: list[str], options: tuple[str, ...], said: str) -> str:
    help_, shown = next(((text, form) for word, text, form in ADVICE if word in said.lower()), ("see `man sbatch`", ""))
    there = subprocess.run(["sinfo", "-h", "-o", shown], capture_output=True, text=True).stdout.splitlines() if shown else []
    there = f" Here: {', '.join(sorted(set(map(str.strip, there))))}." if there else ""
    return f"{', '.join(rules)}: SLURM refuses such a job (sbatch {' '.join(options)}): {said}; {help_}.{there}"
