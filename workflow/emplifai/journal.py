"""What the tracking has to send, in plain JSON, kept until MLflow has it and afterwards.

.cache/tracking/pipelines/KEY.json holds a pipeline run (all its run.json, numbers, curves); small files (report, figures,
samples) lie by their digest in .cache/tracking/files/. From it MLflow's database can be filled again at any time, with the
runs whose results have been overwritten since. The folder may be deleted: then only what results/ holds can be sent.
"""

import json
import os
import shutil
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

from emplifai.paths import Paths
from emplifai.records import atomic, file_sha256, sha256, write_json

Metric = tuple[str, float, int, int]  # name, value, step, milliseconds since 1970


@dataclass
class Job:
    """A stage, or one model's or judge's part of it: a child run."""

    key: str  # digest of its run.json: the same job is never sent twice
    stage: str
    name: str
    start: int  # milliseconds since 1970
    end: int
    params: dict[str, str]
    tags: dict[str, str]
    metrics: list[Metric] = field(default_factory=list)
    data: list[dict[str, str]] = field(default_factory=list)  # name, digest, context, source, profile
    files: list[tuple[str, str]] = field(default_factory=list)  # path in the run, digest
    adapter: list[tuple[str, str]] = field(default_factory=list)  # of a finetune job: file, digest
    status: str = "FINISHED"  # or FAILED: a job that ended before its end, with its log

    @property
    def title(self) -> str:
        return f"{self.stage}/{self.name}" if self.name else self.stage


@dataclass
class Pipeline:
    """All jobs behind one state of results/: a parent run."""

    key: str
    name: str
    tags: dict[str, str]
    params: dict[str, str]
    jobs: list[Job]
    traces: dict[str, list] = field(default_factory=dict)  # job's key: digest of its traces, how many, how many left out

    @property
    def start(self) -> int:
        return min(job.start for job in self.jobs)

    @property
    def end(self) -> int:
        return max(job.end for job in self.jobs)

    @property
    def status(self) -> str:
        return "FAILED" if any(job.status == "FAILED" for job in self.jobs) else "FINISHED"


def folder(paths: Paths) -> Path:
    return paths.cache / "tracking"


def put(paths: Paths, pipeline: Pipeline) -> None:
    write_json(folder(paths) / "pipelines" / f"{pipeline.key}.json", asdict(pipeline))


def kept(paths: Paths) -> list[Pipeline]:
    """Every pipeline of the journal, oldest first; a damaged file is left out."""
    found = []
    for path in (folder(paths) / "pipelines").glob("*.json"):
        try:
            values = json.loads(path.read_text("utf-8"))
            found.append(Pipeline(**values | {"jobs": [Job(**j) for j in values["jobs"]]}))
        except (ValueError, TypeError, KeyError):
            continue
    return sorted(found, key=lambda p: (p.end, p.key))


def file(paths: Paths, key: str) -> Path:
    return folder(paths) / "files" / key


def keep_text(paths: Paths, text: str) -> str:
    """Keep a text under its digest."""
    key = sha256(text)
    with atomic(file(paths, key)) as out:
        out.write(text)
    return key


def keep(paths: Paths, where: str, path: Path) -> tuple[str, str]:
    """Put a file into the journal under its digest. Weights get a second name, not a copy: stages replace their files."""
    key = file_sha256(path)
    target = file(paths, key)
    if target.exists():
        return where, key
    target.parent.mkdir(parents=True, exist_ok=True)
    with suppress(OSError):
        if path.suffix == ".safetensors":
            os.link(path, target)
            return where, key
    with atomic(target, "wb") as out, open(path, "rb") as source:
        shutil.copyfileobj(source, out)
    return where, key
