"""Judged replies as MLflow's traces: spans of the questions to the judge, assessments of judge and raters side by side."""

import json
from collections.abc import Iterator
from typing import Any

from emplifai.mlflow_connection import Connection
from emplifai.records import sha256


def send_traces(connection: Connection, run_id: str, began: int, traces: list[dict]) -> None:
    """Write traces with ids of their own, so that the same ones again change nothing and new ratings join them.

    run_id, began: the judge's run, and when it started (ms since 1970). The last trace is the newest, so the first that
    MLflow's pages show.
    """
    from mlflow.tracing.client import TracingClient

    tracing, experiment = TracingClient(connection.client.tracking_uri), connection.experiment
    start = began * 1_000_000
    spans = [span for k, trace in enumerate(traces) for span in _spans(trace, start + k * 1_000_000)]
    for k, trace in enumerate(traces):
        connection.in_time()
        tracing.start_trace(_info(trace, experiment, run_id, began + k))
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
    """The root, what was judged, and a child for each question to the judge, one after the other from `start` (ns)."""
    from opentelemetry.trace import SpanContext, TraceFlags

    def context(name: str) -> SpanContext:
        return SpanContext(int(trace["id"], 16), int(sha256(f"{trace['id']} {name}")[:16], 16), False, TraceFlags(1))

    root, at, children = context("root"), start, []
    for k, call in enumerate(trace["calls"]):
        end = at + max(1_000, int(1e9 * (call.get("seconds") or 0)))
        own = context(f"{k} {call['name']}")
        values = (call["name"], call["inputs"], call["outputs"], "LLM", _cost(call), call["ok"])
        children.append(_span(trace, own, root, (at, end), *values))
        at = end
    yield _span(trace, root, None, (start, at), trace["name"], trace["inputs"], trace["outputs"], "EVALUATOR", {}, True)
    yield from children


def _cost(call: dict) -> dict[str, Any]:
    """Tokens and dollars where the judge's server said them, and what the span's length is."""
    more: dict[str, Any] = {"latency": call.get("latency", "not known")}
    if None not in call["tokens"]:
        used = dict(zip(("input_tokens", "output_tokens"), call["tokens"], strict=True))
        more["mlflow.chat.tokenUsage"] = used | {"total_tokens": sum(call["tokens"])}
    if call["cost_usd"] is not None:
        more["mlflow.llm.cost"] = {"total_cost": call["cost_usd"]}
    return more


def _span(trace: dict, context, parent, times: tuple[int, int], name: str, inputs, outputs, kind: str, more: dict, good: bool):
    from mlflow.entities import Span
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import ReadableSpan
    from opentelemetry.trace import Status, StatusCode

    values = {"mlflow.traceRequestId": f"tr-{trace['id']}", "mlflow.spanInputs": inputs, "mlflow.spanOutputs": outputs}
    values |= {"mlflow.spanType": kind, **more}
    attributes = {k: json.dumps(v, ensure_ascii=False) for k, v in values.items()}
    status = Status(StatusCode.OK if good else StatusCode.ERROR)
    made = ReadableSpan(name, context, parent, Resource({}), attributes, status=status, start_time=times[0], end_time=times[1])
    return Span(made)
