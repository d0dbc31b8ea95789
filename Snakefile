# The EmplifAI study as a workflow: `snakemake --cores 2 all`, or `snakemake --profile slurm all` on a cluster.
import os
import sys
from functools import partial
from pathlib import Path

import yaml
from snakemake.utils import min_version

from emplifai import STAGES, admission, prefetch, resume, shards, slurm
from emplifai import params as schema
from emplifai.errors import UserError, said
from emplifai.paths import Paths, data_files, rating_files

min_version("9.0")


configfile: "params.yaml"


# `python -m emplifai` in a rule is this Python and this checkout, whether or not an environment is active; with
# `--software-deployment-method conda` it is the Python of the rule's own environment. Models come by `emplifai prefetch`.
os.environ.update(
    PATH=f"{Path(sys.executable).parent}:{os.getenv('PATH')}",
    PYTHONPATH=f"{Path('workflow').absolute()}",
    HF_HUB_OFFLINE="1",
)
resume.mend()
slurm.mend()

with said():
    P = schema.load("params.yaml")
    if config != yaml.safe_load(Path("params.yaml").read_text("utf-8")):
        raise UserError("stages read params.yaml: change values there, not by --config or --configfile")

PATHS = Paths()
MODELS, TUNED, JUDGES = list(P.models), P.tuned, list(P.judges)


one_of, marks = shards.one_of, partial(shards.marks, P, PATHS)


wildcard_constraints:
    shard=r"\d+",
    shards=r"\d+",
    model=r"[A-Za-z0-9][A-Za-z0-9._-]*",
    judge=r"[A-Za-z0-9][A-Za-z0-9._-]*",


localrules:
    all,
    validate,
    split,
    generate_here,
    judge_here,
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


# What would fail hours later is said before the first job.
onstart:
    if not workflow.touch:
        with said():
            jobs = list(workflow.dag.needrun_jobs())
            prefetch.check(P, [(job.rule.name, "".join(job.wildcards)) for job in jobs])
            if workflow.non_local_exec:
                admission.check((job.rule.name, job.resources) for job in jobs if not workflow.is_local(job.rule))
