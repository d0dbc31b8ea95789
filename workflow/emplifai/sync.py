"""After `git checkout`, `dvc checkout` or `dvc pull`: make Snakemake believe what DVC has proved.

DVC knows files by content and restores them with new times; Snakemake goes by times and by its own record of
parameters. When `dvc status` is clean, every file belongs to these parameters, and Snakemake may take that for granted.
"""

import json
import subprocess
import sys
from pathlib import Path

from emplifai.errors import UserError
from emplifai.params import Params
from emplifai.paths import Paths


def run(params: Params, paths: Paths) -> None:
    """dvc checkout, then `snakemake --touch` if nothing differs. Raises UserError naming what does."""
    _call("dvc", "checkout")  # --quiet would keep the reason of a failure to itself
    status = json.loads(_call("dvc", "status", "--json") or "{}")
    if status:
        raise UserError(
            *(f"{stage}: {_differences(changes)}" for stage, changes in status.items()),
            "nothing was touched: files and params.yaml do not belong together. `dvc repro` makes them so; "
            "after a git checkout of older params.yaml and dvc.lock, `dvc pull` may be missing",
        )
    mark = Path(".cache/tracked")
    mark.parent.mkdir(exist_ok=True)
    mark.touch()
    _call("snakemake", "--profile", "none", "--cores", "1", "--quiet", "all", "--touch", "--", "all")
    print("in step: neither snakemake nor dvc repro has anything to do", file=sys.stderr)


def _call(*command: str) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True)
    except FileNotFoundError:
        raise UserError(f"{command[0]}: not found; activate the environment: . .venv/bin/activate") from None
    if done.returncode:
        told = " ".join((done.stderr.strip() or done.stdout.strip()).split())
        missing = "; `dvc pull` brings what this clone lacks, then give this command again" if "Checkout failed" in told else ""
        raise UserError(f"{' '.join(command)}: {told}{missing}")
    return done.stdout


def _differences(changes: list) -> str:
    """One line of DVC's status of a stage."""
    parts = []
    for change in changes:
        for kind, files in change.items() if isinstance(change, dict) else [(change, {})]:
            parts.append(f"{kind} ({', '.join(f'{file}: {what}' for file, what in files.items())})" if files else kind)
    return "; ".join(parts)
