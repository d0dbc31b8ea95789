"""Pipelines into MLflow: the only importer of mlflow. Everything is idempotent: sent twice, it is there once."""

import logging
import os
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from emplifai import journal
from emplifai.journal import Job, Pipeline
from emplifai.params import Tracking
from emplifai.paths import Paths

#: Without these a dead server holds a call for four minutes, a mute one for a quarter of an hour. A user's own values win.
BOUNDS = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "5",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "GIT_PYTHON_REFRESH": "quiet",
}
SECONDS = 60  # that a server is given in all; the rest goes with the next `emplifai track`
KEY, KIND = "emplifai.key", "emplifai.kind"


class Slow(Exception):
    """The server took longer than SECONDS."""


def local(uri: str) -> Path | None:
    """The database file of a sqlite URI; None for anything else."""
    return Path(uri.removeprefix("sqlite:///")) if uri.startswith("sqlite:///") else None


class Tracker:
    """A connection to MLflow that knows which runs are there."""

    def __init__(self, settings: Tracking, paths: Paths):
        for name, value in BOUNDS.items():
            os.environ.setdefault(name, value)
        warnings.filterwarnings("ignore")
        for name in ("mlflow", "alembic", "urllib3"):
            logging.getLogger(name).setLevel(logging.CRITICAL)
        import mlflow

        logging.getLogger("mlflow").setLevel(logging.CRITICAL)
        self.paths, self.uri = paths, settings.uri
        self.until = None if local(settings.uri) else time.monotonic() + SECONDS
        mlflow.set_tracking_uri(settings.uri)
        self.client = mlflow.MlflowClient(settings.uri)
        self.experiment = self._experiment(settings.experiment)
        self.there = {run.data.tags[KEY]: run.info for run in self._runs("pipeline")}

    def _experiment(self, name: str) -> str:
        from mlflow.exceptions import MlflowException

        if found := self.client.get_experiment_by_name(name):
            return found.experiment_id
        here = Path("mlartifacts").absolute().as_uri() if local(self.uri) else None
        try:
            return self.client.create_experiment(name, artifact_location=here)
        except MlflowException:  # another process was first
            return self.client.get_experiment_by_name(name).experiment_id

    def _runs(self, kind: str) -> Iterator:
        """All runs of a kind, those too that a user deleted in the UI: they stay deleted."""
        token = None
        while True:
            page = self.client.search_runs([self.experiment], f"tags.`{KIND}` = '{kind}'", 3, 1000, page_token=token)
            yield from page
            token = page.token
            if not token:
                return

    def send(self, pipelines: list[Pipeline]) -> tuple[int, int]:
        """Send what is not there yet; return how many pipelines and jobs were sent."""
        missing = [p for p in pipelines if not self._done(self.there.get(p.key))]
        if not missing:
            return 0, 0
        jobs = {run.data.tags[KEY]: run.info for run in self._runs("job")}
        return len(missing), sum(self._pipeline(pipeline, jobs) for pipeline in missing)

    def _pipeline(self, pipeline: Pipeline, jobs: dict) -> int:
        """A parent with the jobs that are new as children, and links to those that an earlier pipeline has."""
        parent = self.there.get(pipeline.key) or self._start(pipeline.key, "pipeline", pipeline.name, pipeline.start, {})
        sent, reused = 0, {}
        for job in pipeline.jobs:
            self._in_time()
            info = jobs.get(job.key)
            if not self._done(info):
                info = info or self._start(job.key, "job", job.title, job.start, {"mlflow.parentRunId": parent.run_id})
                self._fill(info.run_id, job)
                jobs[job.key] = info = self._finish(info.run_id, job.end)
                sent += 1
            elif self.client.get_run(info.run_id).data.tags.get("mlflow.parentRunId") != parent.run_id:
                reused[job.title] = info.run_id
        tags = pipeline.tags | {f"reused.{title.replace('/', '.')}": run for title, run in reused.items()}
        links = "".join(f"\n- [{t}](#/experiments/{self.experiment}/runs/{run})" for t, run in reused.items())
        if links:
            tags["mlflow.note.content"] = f"Reused from earlier pipelines:\n{links}"
        self._batch(parent.run_id, pipeline.params, tags, self._headline(pipeline))
        self.there[pipeline.key] = self._finish(parent.run_id, pipeline.end)
        return sent

    def _headline(self, pipeline: Pipeline) -> list[journal.Metric]:
        """The parent's own numbers, so that pipelines compare in one table: those of the stages that have no parts."""
        return [
            (f"{job.stage}.{name}", value, step, at)
            for job in pipeline.jobs
            for name, value, step, at in job.metrics
            if not name.startswith("history.") and job.stage in ("bertscore", "correlate") and not name.startswith("run.")
        ]

    def _start(self, key: str, kind: str, name: str, start: int, tags: dict[str, str]):
        tags = {KEY: key, KIND: kind, "mlflow.source.name": "emplifai", "mlflow.source.type": "PROJECT", **tags}
        return self.client.create_run(self.experiment, start, tags, name).info

    def _finish(self, run_id: str, end: int):
        self.client.set_terminated(run_id, "FINISHED", end)
        return self.client.get_run(run_id).info

    def _done(self, info) -> bool:
        return info is not None and (info.status == "FINISHED" or info.lifecycle_stage == "deleted")

    def _fill(self, run_id: str, job: Job) -> None:
        from mlflow.entities import Dataset, DatasetInput, InputTag

        tags = dict(job.tags)
        if any(where == "samples.json" for where, _ in job.files):
            tags["mlflow.loggedArtifacts"] = '[{"path": "samples.json", "type": "table"}]'
        if job.tags["git_commit"] != "none":
            tags["mlflow.source.git.commit"] = job.tags["git_commit"]
        self._batch(run_id, job.params, tags, job.metrics)
        inputs = [
            DatasetInput(
                Dataset(d["name"], d["digest"], "local", f'{{"uri": "{d["source"]}"}}', profile=d["profile"]),
                [InputTag("mlflow.data.context", d["context"])],
            )
            for d in job.data
        ]
        if inputs:
            self.client.log_inputs(run_id, inputs)
        self._files(run_id, job)

    def _batch(self, run_id: str, params: dict[str, str], tags: dict[str, str], metrics: list[journal.Metric]) -> None:
        """Log in as few calls as MLflow's limits allow: 100 params, 100 tags, 1000 metrics."""
        from mlflow.entities import Metric, Param, RunTag

        known = [Param(k, v[:6000]) for k, v in sorted(params.items())]
        marks = [RunTag(k, v[:5000]) for k, v in sorted(tags.items())]
        points = [Metric(name, value, at, step) for name, value, step, at in metrics]
        while known or marks or points:
            self._in_time()
            self.client.log_batch(run_id, points[:800], known[:100], marks[:100])
            points, known, marks = points[800:], known[100:], marks[100:]

    def _files(self, run_id: str, job: Job) -> None:
        """The job's files under their own names; one that the journal lost is left out."""
        import tempfile

        with tempfile.TemporaryDirectory() as folder:
            for where, key in job.files:
                if journal.file(self.paths, key).exists():
                    target = Path(folder, where)
                    target.parent.mkdir(parents=True, exist_ok=True)
                    target.symlink_to(journal.file(self.paths, key).absolute())
            self.client.log_artifacts(run_id, folder)

    def _in_time(self) -> None:
        if self.until and time.monotonic() > self.until:
            raise Slow(f"the server took more than {SECONDS} seconds; what is left goes with the next `emplifai track`")


@contextmanager
def alone(settings: Tracking, paths: Paths) -> Iterator[None]:
    """One sender at a time: a sqlite database made by two processes at once is broken for good."""
    import fcntl

    database = local(settings.uri)
    path = database.with_name(f"{database.name}.lock") if database else journal.folder(paths) / "lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
        with suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_UN)
