"""Write every pin of the project: constraints.txt and the conda files, from the ranges in pyproject.toml.

Usage: make lock. Needs uv. The Apptainer recipe installs by constraints.txt itself.
"""

import subprocess
from pathlib import Path

ROOT = Path(__file__).parent.parent
PYTHON = "3.12"  # of the conda files and the container; constraints.txt holds for 3.11 to 3.13


def resolve(*options: str) -> list[str]:
    command = ["uv", "pip", "compile", "--quiet", "--no-annotate", "--no-header", *options, "pyproject.toml"]
    done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    return [line for line in done.stdout.splitlines() if line]


def conda(name: str, what: str, *options: str) -> None:
    pins = resolve("--constraint", "constraints.txt", "--python-version", PYTHON, "--python-platform", "linux", *options)
    lines = [f"# {what} Made by `make lock` from pyproject.toml and constraints.txt; do not edit.", f"name: emplifai-{name}"]
    lines += ["channels: [conda-forge]", "dependencies:", f"  - python={PYTHON}", "  - pip", "  - pip:"]
    (ROOT / "envs" / f"{name}.yaml").write_text("\n".join([*lines, *(f"      - {pin}" for pin in pins)]) + "\n")


def main() -> None:
    header = "# Exact versions for Python 3.11 to 3.13 of all that pyproject.toml names. Made by `make lock`; do not edit.\n"
    pins = resolve("--universal", "--python-version", "3.11", "--all-extras")
    (ROOT / "constraints.txt").write_text(header + "\n".join(pins) + "\n")
    conda("light", "Stages that need no GPU.")
    conda("gpu", "Stages that run models.", "--extra", "models", "--extra", "gpu")


if __name__ == "__main__":
    main()
