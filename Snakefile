# The EmplifAI study as a workflow: `snakemake --cores 2 all`, or `snakemake --profile slurm all` on a cluster.
import os
import sys
from pathlib import Path

import yaml
from snakemake.exceptions import WorkflowError
from snakemake.utils import min_version

from emplifai import params as schema
from emplifai.errors import UserError
from emplifai import STAGES
from emplifai.paths import Paths, data_files, rating_files

min_version("9.0")


configfile: "params.yaml"


# `python -m emplifai` in a rule is this Python and this checkout, whether or not an environment is active; with
# `--software-deployment-method conda` it is the Python of the rule's own environment.
os.environ.update(
    PATH=f"{Path(sys.executable).parent}:{os.getenv('PATH')}",
    PYTHONPATH=f"{Path('workflow').absolute()}",
)

try:
    P = schema.load("params.yaml")
except UserError as error:
    raise WorkflowError(*error.faults)
with open("params.yaml", encoding="utf-8") as file:
    if config != yaml.safe_load(file):
        raise WorkflowError("stages read params.yaml: change values there, not by --config or --configfile")

PATHS = Paths()
MODELS, TUNED, JUDGES = list(P.models), P.tuned, list(P.judges)


wildcard_constraints:
    model=r"[A-Za-z0-9][A-Za-z0-9._-]*",
    judge=r"[A-Za-z0-9][A-Za-z0-9._-]*",


localrules:
    all,
    validate,
    split,
    all_finetune,
    all_generate,
    all_judge,
    correlate,
    report,
    track,


rule all:
    input:
        PATHS.page,
        ".cache/tracked",


include: "workflow/rules/validate.smk"
include: "workflow/rules/split.smk"
include: "workflow/rules/finetune.smk"
include: "workflow/rules/generate.smk"
include: "workflow/rules/bertscore.smk"
include: "workflow/rules/judge.smk"
include: "workflow/rules/correlate.smk"
include: "workflow/rules/report.smk"
include: "workflow/rules/track.smk"
