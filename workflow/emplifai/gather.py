"""The metrics of a stage's jobs in one file; what jobs of models and judges long gone left behind is removed."""

import shutil
from importlib import import_module

from emplifai.params import Params
from emplifai.paths import Paths
from emplifai.records import read_json, write_json


def run(params: Params, paths: Paths, stage: str) -> None:
    """Write results/STAGE/metrics.json as NAME.METRIC: value; of several judges also between.METRIC, what they make together."""
    names = {"finetune": params.tuned, "generate": list(params.models), "judge": list(params.judges)}[stage]
    folder = paths.stage(stage)
    folder.mkdir(parents=True, exist_ok=True)
    for path in folder.iterdir():
        if path.is_dir() and path.name not in names:
            shutil.rmtree(path)
    together = import_module(f"emplifai.{stage}").between(params, paths) if stage == "judge" else {}
    write_json(paths.metrics(stage), {name: read_json(paths.metrics(stage, name)) for name in names} | together)
