"""Pipelines into MLflow's runs, a child a job. Everything is idempotent: sent twice, it is there once."""

import json

from emplifai import journal, mlflow_models
from emplifai.journal import Job, Pipeline
from emplifai.mlflow_connection import KEY, KIND, Connection
from emplifai.mlflow_traces import send_traces
from emplifai.params import Tracking
from emplifai.paths import Paths

ENDED = ("FINISHED", "FAILED")


class Tracker:
    """Knows which pipelines MLflow has, and sends the rest."""

    def __init__(self, settings: Tracking, paths: Paths, texts: bool = True):
        """texts: whether patients' words may go there; otherwise numbers, settings and figures only."""
        self.paths = paths
        self.at = Connection(settings, paths, texts)
        self.client = self.at.client
        self.there = {run.data.tags[KEY]: run.info for run in self.at.runs("pipeline")}

    def send(self, pipelines: list[Pipeline]) -> tuple[int, int]:
        """Send what is not there yet; return how many pipelines and jobs were sent."""
        missing = [p for p in pipelines if not self._done(self.there.get(p.key))]
        if not missing:
            return 0, 0
        jobs = {run.data.tags[KEY]: run.info for run in self.at.runs("job")}
        return len(missing), sum(self._pipeline(pipeline, jobs) for pipeline in missing)

    def register(self, pipeline: Pipeline) -> list[str]:
        return mlflow_models.register(self.at, pipeline)

    def _pipeline(self, pipeline: Pipeline, jobs: dict) -> int:
        """A parent with the jobs that are new as children, and links to those that an earlier pipeline has."""
        parent = self.there.get(pipeline.key) or self._start(pipeline.key, "pipeline", pipeline.name, pipeline.start, {})
        sent, reused = 0, {}
        for job in pipeline.jobs:
            self.at.in_time()
            info = jobs.get(job.key)
            if not self._done(info):
                info = info or self._start(job.key, "job", job.title, job.start, {"mlflow.parentRunId": parent.run_id})
                self._fill(info.run_id, job)
                jobs[job.key] = info = self._finish(info.run_id, job.status, job.end)
                sent += 1
            elif self.client.get_run(info.run_id).data.tags.get("mlflow.parentRunId") != parent.run_id:
                reused[job.title] = info.run_id
        if self.at.texts:
            self._traces(pipeline, jobs)
        self.at.log(parent.run_id, pipeline.params, pipeline.tags | self._links(reused), self._headline(pipeline))
        self.there[pipeline.key] = self._finish(parent.run_id, pipeline.status, pipeline.end)
        return sent

    def _traces(self, pipeline: Pipeline, jobs: dict) -> None:
        for key, (traces, count, left_out) in pipeline.traces.items():
            run = jobs[key]
            if self.client.get_run(run.run_id).data.tags.get("emplifai.traces") != traces:
                self.at.in_time()
                send_traces(self.at, run, self._load(traces))
                self.at.log(run.run_id, {}, {"emplifai.traces": traces, "traces": f"{count} sent, {left_out} left out"}, [])

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

    def _start(self, key: str, kind: str, name: str, start: int, tags: dict[str, str]):
        tags = {KEY: key, KIND: kind, "mlflow.source.name": "emplifai", "mlflow.source.type": "PROJECT", **tags}
        return self.client.create_run(self.at.experiment, start, tags, name).info

    def _finish(self, run_id: str, status: str, end: int):
        self.client.set_terminated(run_id, status, end)
        return self.client.get_run(run_id).info

    def _done(self, info) -> bool:
        return info is not None and (info.status in ENDED or info.lifecycle_stage == "deleted")

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
