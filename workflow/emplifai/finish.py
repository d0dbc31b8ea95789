"""What `make demo` says at its end: where the report is and what to type next."""

import sys

from emplifai.errors import UserError
from emplifai.params import Params
from emplifai.paths import Paths
from emplifai.records import read_json


def run(params: Params, paths: Paths) -> None:
    if not paths.page.is_file():
        raise UserError(f"{paths.page}: not there yet; `make demo` makes it, `emplifai status` says what is missing")
    seconds = sum(read_json(record).get("seconds", 0) for record in paths.results.glob("**/run.json"))
    print(
        f"\nDone ({seconds / 60:.1f} minutes of work in {paths.results}/).\n"
        f"  report        {paths.page.absolute()}\n"
        "  next          . .venv/bin/activate\n"
        "                edit params.yaml (say finetune.max_dialogues), then `dvc repro` or `snakemake --cores 2 all`:\n"
        "                only what depends on the change runs again\n"
        "  all runs      make ui\n"
        "  your data     README.md, 'Your own data'",
        file=sys.stderr,
    )
