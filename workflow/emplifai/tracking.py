"""Pipelines into MLflow: the only importer of mlflow. Everything is idempotent: sent twice, it is there once."""

import json
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
from emplifai.records import sha256

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
TEXTS = ("samples.json", "index.html")  # files that hold what patients and models said


class Slow(Exception):
    """The server took longer than SECONDS."""


def local(uri: str) -> Path | None:
    """The database file of a sqlite URI; None for anything else."""
    return Path(uri.removeprefix("sqlite:///")) if uri.startswith("sqlite:///") else None


class Tracker:
    """A connection to MLflow that knows which runs are there."""

    def __init__(self, settings: Tracking, paths: Paths, texts: bool = True):
        """texts: whether patients' words may go there; otherwise numbers, settings and figures only."""
        for name, value in BOUNDS.items():
            os.environ.setdefault(name, value)
        warnings.filterwarnings("ignore")
        for name in ("mlflow", "alembic", "urllib3"):
            logging.getLogger(name).setLevel(logging.CRITICAL)
        import mlflow

        logging.getLogger("mlflow").setLevel(logging.CRITICAL)
        self.paths, self.uri, self.texts = paths, settings.uri, texts
        self.until = None if local(settings.uri) else time.monotonic() + SECONDS
        if local(settings.uri):
            quick_commits()
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
        for key, (traces, count, left_out) in pipeline.traces.items() if self.texts else ():
            if self.client.get_run(jobs[key].run_id).data.tags.get("emplifai.traces") != traces:
                self._in_time()
                send_traces(self.client, self.experiment, jobs[key], self._load(traces))
                self._batch(jobs[key].run_id, {}, {"emplifai.traces": traces, "traces": f"{count} sent, {left_out} left out"}, [])
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
        if job.adapter:
            self._model(run_id, job)

    def _load(self, key: str) -> list[dict]:
        path = journal.file(self.paths, key)
        return json.loads(path.read_text("utf-8")) if path.exists() else []

    def _model(self, run_id: str, job: Job) -> None:
        """The adapter as a LoggedModel: base, digest of data and weights, and the run's metrics."""
        from mlflow.entities import LoggedModelOutput

        digests = dict(job.adapter)
        weights = digests.get("adapter_model.safetensors", "none")
        found = self.client.search_logged_models([self.experiment], f"tags.`{KEY}` = '{job.key}'")
        tags = {
            KEY: job.key,
            "adapter_sha256": weights,
            "train_sha256": next((d["digest"] for d in job.data if d["name"] == "train"), ""),
        }
        base = {
            k: v for k, v in job.params.items() if k.startswith(("model.model", "model.revision", "finetune.", "rank", "alpha"))
        }
        model = (
            found[0] if found else self.client.create_logged_model(self.experiment, job.name, run_id, tags, base, "lora-adapter")
        )
        if model.status == "READY":
            return
        with self._folder(job.adapter) as folder:
            self.client.log_model_artifacts(model.model_id, str(folder))
        self.client.finalize_logged_model(model.model_id, "READY")
        self.client.log_outputs(run_id, [LoggedModelOutput(model.model_id, 0)])
        dev = next((d for d in job.data if d["name"] == "dev"), {"name": None, "digest": None})
        for name, value, step, at in job.metrics:
            if name.startswith("dev_"):
                self.client.log_metric(run_id, name, value, at, step, True, dev["name"], dev["digest"], model.model_id)

    def register(self, pipeline: Pipeline) -> list[str]:
        """Make every adapter of a pipeline a version of the registered model EXPERIMENT-MODEL; return the new ones."""
        from mlflow.exceptions import MlflowException

        made = []
        for job in (job for job in pipeline.jobs if job.adapter):
            model = self.client.search_logged_models([self.experiment], f"tags.`{KEY}` = '{job.key}'")[0]
            name = f"{self.client.get_experiment(self.experiment).name}-{job.name}"
            with suppress(MlflowException):  # it is there
                self.client.create_registered_model(name)
            if not any(v.tags.get(KEY) == job.key for v in self.client.search_model_versions(f"name = '{name}'")):
                source = f"models:/{model.model_id}"
                version = self.client.create_model_version(
                    name, source, model.source_run_id, {KEY: job.key}, model_id=model.model_id
                )
                made.append(f"{name} version {version.version}")
        return made

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
        """The job's files; those with patients' words only where they may go."""
        with self._folder([f for f in job.files if self.texts or f[0] not in TEXTS]) as folder:
            self.client.log_artifacts(run_id, str(folder))

    @contextmanager
    def _folder(self, files: list[tuple[str, str]]) -> Iterator[Path]:
        """Files of the journal under their own names; one that the journal lost is left out."""
        import tempfile

        with tempfile.TemporaryDirectory() as name:
            for where, key in files:
                if journal.file(self.paths, key).exists():
                    target = Path(name, where)
                    target.parent.mkdir(parents=True, exist_ok=True)
                    target.symlink_to(journal.file(self.paths, key).absolute())
            yield Path(name)

    def _in_time(self) -> None:
        if self.until and time.monotonic() > self.until:
            raise Slow(f"the server took more than {SECONDS} seconds; what is left goes with the next `emplifai track`")


def quick_commits() -> None:
    """Let this process's sqlite commits not wait for the disk. A power cut may cost the database; the journal fills it again."""
    from sqlalchemy import event
    from sqlalchemy.engine import Engine

    @event.listens_for(Engine, "connect")
    def _set(connection, _) -> None:
        connection.execute("PRAGMA synchronous = OFF")


def send_traces(client, experiment: str, job, traces: list[dict]) -> None:
    """Write traces with ids of their own, so that the same ones again change nothing and new ratings join them."""
    from mlflow.tracing.client import TracingClient

    tracing = TracingClient(client.tracking_uri)
    start = job.start_time * 1_000_000
    spans = [span for k, trace in enumerate(traces) for span in _spans(trace, start + k * 1_000_000)]
    for k, trace in enumerate(traces):
        tracing.start_trace(_info(trace, experiment, job.run_id, job.start_time + k))
    if spans:
        tracing.log_spans(experiment, spans)


def _info(trace: dict, experiment: str, run_id: str, at: int):
    from mlflow.entities import TraceInfo, TraceLocation, TraceState

    return TraceInfo(
        trace_id=f"tr-{trace['id']}",
        trace_location=TraceLocation.from_experiment_id(experiment),
        request_time=at,
        state=TraceState.OK,
        request_preview=trace["inputs"]["reply"][:500],
        response_preview=json.dumps(trace["outputs"], ensure_ascii=False),
        trace_metadata={"mlflow.sourceRun": run_id, "mlflow.trace_schema.version": "3"},
        tags={"mlflow.traceName": trace["name"], **trace["tags"]},
        assessments=[_assessment(trace, a, at) for a in trace["assessments"]],
    )


def _assessment(trace: dict, row: dict, at: int):
    """An assessment whose id comes from trace, name and source: sent again it takes its own place."""
    from mlflow.entities import AssessmentError, AssessmentSource, Expectation, Feedback

    source = AssessmentSource(source_type=row["source"][0], source_id=row["source"][1])
    common = {
        "name": row["name"],
        "source": source,
        "trace_id": f"tr-{trace['id']}",
        "create_time_ms": at,
        "last_update_time_ms": at,
    }
    if row["kind"] == "expectation":
        made = Expectation(value=row["value"], **common)
    else:
        error = AssessmentError(row["error"], row["error"]) if row["error"] else None
        made = Feedback(value=row["value"], error=error, rationale=row["rationale"], **common)
    made.assessment_id = "a-" + sha256(f"{trace['id']} {row['name']} {row['source']}")[:32]
    return made


def _spans(trace: dict, start: int) -> Iterator:
    """The root, what was judged, and a child for each question to the judge. Times are placeholders of equal length:
    a judgement's own time is not recorded."""
    from opentelemetry.trace import SpanContext, TraceFlags

    def context(name: str) -> SpanContext:
        return SpanContext(int(trace["id"], 16), int(sha256(f"{trace['id']} {name}")[:16], 16), False, TraceFlags(1))

    root = context("root")
    yield _span(trace, trace["name"], root, None, start, trace["inputs"], trace["outputs"], "EVALUATOR", {}, True)
    for k, call in enumerate(trace["calls"]):
        usage = dict(zip(("input_tokens", "output_tokens"), call["tokens"], strict=True))
        more = {"mlflow.chat.tokenUsage": usage | {"total_tokens": sum(call["tokens"])}} if None not in call["tokens"] else {}
        if call["cost_usd"] is not None:
            more["mlflow.llm.cost"] = {"total_cost": call["cost_usd"]}
        own = context(f"{k} {call['name']}")
        yield _span(trace, call["name"], own, root, start, call["inputs"], call["outputs"], "LLM", more, call["ok"])


def _span(trace: dict, name: str, context, parent, start: int, inputs, outputs, kind: str, more: dict, good: bool):
    from mlflow.entities import Span
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import ReadableSpan
    from opentelemetry.trace import Status, StatusCode

    values = {"mlflow.traceRequestId": f"tr-{trace['id']}", "mlflow.spanInputs": inputs, "mlflow.spanOutputs": outputs}
    values |= {"mlflow.spanType": kind, **more}
    attributes = {k: json.dumps(v, ensure_ascii=False) for k, v in values.items()}
    status = Status(StatusCode.OK if good else StatusCode.ERROR)
    times = {"start_time": start, "end_time": start + 1_000_000}
    return Span(ReadableSpan(name, context, parent, Resource({}), attributes, status=status, **times))


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
