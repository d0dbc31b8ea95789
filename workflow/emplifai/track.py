"""`emplifai track`: results/ into MLflow. It never stops work: whatever goes wrong is one warning, and is sent the next time."""

import re
import sys

from emplifai import journal
from emplifai.params import Params
from emplifai.paths import Paths


def run(params: Params, paths: Paths) -> None:
    """Snapshot results/ into the journal, then send every pipeline that MLflow does not have."""
    taken = journal.take(params, paths)
    pipelines = journal.kept(paths)
    if taken is None and not pipelines:
        print(f"track: nothing in {paths.results}/ yet", file=sys.stderr)
        return
    try:
        sent, jobs = send(params, paths, pipelines)
    except Exception as error:  # a tracking server must never cost a result
        print(f"warning: not tracked: {reason(error)}\n{advice(params)}", file=sys.stderr)
        return
    said = f"{sent} pipeline run(s) with {jobs} new job(s) sent" if sent else "all there already"
    print(
        f"track: {said} ({params.tracking.uri}, experiment {params.tracking.experiment}); `make ui` shows them", file=sys.stderr
    )


def send(params: Params, paths: Paths, pipelines: list[journal.Pipeline]) -> tuple[int, int]:
    from emplifai import tracking

    with tracking.alone(params.tracking, paths):
        return tracking.Tracker(params.tracking, paths).send(pipelines)


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
