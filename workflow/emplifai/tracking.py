"""Pipelines into MLflow's runs, a child a job. Everything is idempotent: sent twice, it is there once."""

import json
from dataclasses import dataclass

from emplifai import journal, mlflow_models
from emplifai.journal import Job, Pipeline
from emplifai.mlflow_connection import KEY, KIND, Connection
from emplifai.mlflow_traces import send_traces
from emplifai.params import Tracking
from emplifai.paths import Paths

ENDED = ("FINISHED", "FAILED")


@dataclass
class Known:
    """A run that MLflow has, as far as sending needs to know it."""

    run_id: str
    start: int
    done: bool = False  # all of it is there, or a user deleted it: it stays deleted
    parent: str = ""
    traces: str = ""  # digest of the traces that it has


class Tracker:
    """Knows which pipelines MLflow has, and sends the rest."""

    def __init__(self, settings: Tracking, paths: Paths, texts: bool = True):
        """texts: whether patients' words may go there; otherwise numbers, settings and figures only."""
        self.paths = paths
        self.at = Connection(settings, paths, texts)
        self.client = self.at.client
        self.there = self._known("pipeline")

    def _known(self, kind: str) -> dict[str, Known]:
        found = {}
        for run in self.at.runs(kind):
            info, tags = run.info, run.data.tags
            done = info.status in ENDED or info.lifecycle_stage == "deleted"
            parent, traces = tags.get("mlflow.parentRunId", ""), tags.get("emplifai.traces", "")
            found[tags[KEY]] = Known(info.run_id, info.start_time, done, parent, traces)
        return found

    def send(self, pipelines: list[Pipeline]) -> tuple[int, int]:
        """Send what is not there yet; return how many pipelines and jobs were sent."""
        missing = [p for p in pipelines if not (p.key in self.there and self.there[p.key].done)]
        if not missing:
            return 0, 0
        jobs = self._known("job")
        return len(missing), sum(self._pipeline(pipeline, jobs) for pipeline in missing)

    def register(self, pipeline: Pipeline) -> list[str]:
        return mlflow_models.register(self.at, pipeline)

    def _pipeline(self, pipeline: Pipeline, jobs: dict[str, Known]) -> int:
        """A parent with the jobs that are new as children, and links to those that an earlier pipeline has."""
        if pipeline.key not in self.there:
            self.there[pipeline.key] = self._start(pipeline.key, "pipeline", pipeline.name, pipeline.start)
        parent, sent, reused = self.there[pipeline.key], 0, {}
        for job in pipeline.jobs:
            if job.key not in jobs:
                jobs[job.key] = self._start(job.key, "job", job.title, job.start, parent.run_id)
            run = jobs[job.key]
            if not run.done:
                self._fill(run.run_id, job)
                self._finish(run, job.status, job.end)
                sent += 1
            elif run.parent != parent.run_id:
                reused[job.title] = run.run_id
        if self.at.texts:
            self._traces(pipeline, jobs)
        self.at.log(parent.run_id, pipeline.params, pipeline.tags | self._links(reused), self._headline(pipeline))
        self._finish(parent, pipeline.status, pipeline.end)
        return sent

    def _traces(self, pipeline: Pipeline, jobs: dict[str, Known]) -> None:
        for key, (traces, count, left_out) in pipeline.traces.items():
            run = jobs[key]
            if run.traces != traces:
                send_traces(self.at, run.run_id, run.start, self._load(traces))
                self.at.log(run.run_id, {}, {"emplifai.traces": traces, "traces": f"{count} sent, {left_out} left out"}, [])
                run.traces = traces

    def _links(self, reused: dict[str, str]) -> dict[str, str]:
        """Tags that name the runs of earlier pipelines whose results this one used again."""
        tags = {f"reused.{title.replace('/', '.')}": run for title, run in reused.items()}
        links = "".join(f"\n- [{t}](#/experiments/{self.at.experiment}/runs/{run})" for t, run in reused.items())
        return tags | ({"mlflow.note.content": f"Reused from earlier pipelines:\n{links}"} if links else {})

    def _headline(self, pipeline: Pipeline) -> list[journal.Metric]:
        """The parent's own numbers, so that pipelines compare in one table: those of the stages that have no parts."""
        return [
            (f"{job.stage}/{name}", value, step, at)
            for job in pipeline.jobs
            for name, value, step, at in job.metrics
            if job.stage in ("bertscore", "correlate", "report") and "/" not in name
        ]

    def _start(self, key: str, kind: str, name: str, start: int, parent: str = "") -> Known:
        self.at.in_time()
        tags = {KEY: key, KIND: kind, "mlflow.source.name": "emplifai", "mlflow.source.type": "PROJECT"}
        tags |= {"mlflow.parentRunId": parent} if parent else {}
        run = self.client.create_run(self.at.experiment, start, tags, name)
        return Known(run.info.run_id, start, parent=parent)

    def _finish(self, run: Known, status: str, end: int) -> None:
        self.client.set_terminated(run.run_id, status, end)
        run.done = True

    def _fill(self, run_id: str, job: Job) -> None:
        tags = dict(job.tags)
        if any(where == "samples.json" for where, _ in job.files):
            tags["mlflow.loggedArtifacts"] = '[{"path": "samples.json", "type": "table"}]'
        if job.tags.get("git_commit", "none") != "none":
            tags["mlflow.source.git.commit"] = job.tags["git_commit"]
        self.at.log(run_id, job.params, tags, job.metrics)
        if job.data:
            self.client.log_inputs(run_id, [_data_set(d) for d in job.data])
        with self.at.folder(job.files) as folder:
            self.client.log_artifacts(run_id, str(folder))
        if job.adapter:
            mlflow_models.log_model(self.at, run_id, job)

    def _load(self, key: str) -> list[dict]:
        path = journal.file(self.paths, key)
        return json.loads(path.read_text("utf-8")) if path.exists() else []


def _data_set(row: dict[str, str]):
    """What a job read, as MLflow shows it: name, digest, size, the context it was used in."""
    from mlflow.entities import Dataset, DatasetInput, InputTag

    source = json.dumps({"uri": row["source"]}, ensure_ascii=False)
    made = Dataset(row["name"], row["digest"], "local", source, profile=row["profile"])
    return DatasetInput(made, [InputTag("mlflow.data.context", row["context"])])
