"""`emplifai track`: results/ into MLflow. It never stops work: whatever goes wrong is one warning, and is sent the next time."""

import re
import sys
from urllib.parse import urlsplit

from emplifai import journal, privacy, snapshot
from emplifai.journal import Pipeline
from emplifai.params import Params
from emplifai.paths import Paths


def run(params: Params, paths: Paths, register: bool = False, watch: bool = False) -> None:
    """Snapshot results/ into the journal, send every pipeline that MLflow does not have, register its adapters if asked to.

    watch: instead show what runs now, until Ctrl-C.
    """
    if watch:
        from emplifai import live

        live.watch(params, paths)
        return
    try:  # nothing that goes wrong here may cost a result
        taken = snapshot.take(params, paths)
        pipelines = journal.kept(paths)
        if not pipelines:
            print(f"track: nothing in {paths.results}/ yet", file=sys.stderr)
            return
        sent, jobs, versions = send(params, paths, pipelines, taken if register else None)
    except Exception as error:
        print(f"warning: not tracked: {reason(error)}\n{advice(params)}", file=sys.stderr)
        return
    for version in versions:
        print(f"track: registered {version}", file=sys.stderr)
    said = f"{sent} pipeline run(s) with {jobs} new job(s) sent" if sent else "all there already"
    print(
        f"track: {said} ({params.tracking.uri}, experiment {params.tracking.experiment}); `make ui` shows them", file=sys.stderr
    )


def send(params: Params, paths: Paths, pipelines: list[Pipeline], register: Pipeline | None) -> tuple[int, int, list[str]]:
    from emplifai import live, tracking
    from emplifai.mlflow_connection import alone

    with alone(params.tracking, paths):
        tracker = tracking.Tracker(params.tracking, paths, texts=may_hold_texts(params))
        live.tidy(tracker.at, {work.key for work in live.running(paths)})
        return *tracker.send(pipelines), tracker.register(register) if register else []


def may_hold_texts(params: Params) -> bool:
    """Whether patients' words may go to the tracking server: to one outside only where data.external_processing allows it."""
    host = urlsplit(params.tracking.uri).hostname or ""
    inside = params.tracking.uri.startswith("sqlite:") or privacy.inside(host, params.data.internal_hosts)
    if inside or params.data.external_processing == "allowed":
        return True
    print(
        f"track: {host or shown(params.tracking.uri)} is outside this machine and data.external_processing is 'forbidden': "
        "numbers, settings and figures are sent, but no report page, samples or traces",
        file=sys.stderr,
    )
    return False


def reason(error: Exception) -> str:
    """The innermost cause in one line, without keys that a URL may hold."""
    while error.__cause__ is not None and isinstance(error.__cause__, Exception):
        error = error.__cause__
    text = " ".join(f"{type(error).__name__}: {error}".split())
    return shown(text)[:300]


def advice(params: Params) -> str:
    where = shown(params.tracking.uri)
    return f"         results are complete and kept for sending; once {where} (tracking.uri) works: emplifai track"


def shown(text: str) -> str:
    """A text whose URLs name no user and no password."""
    return re.sub(r"://[^/@\s]+@", "://***@", text)
