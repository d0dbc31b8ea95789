"""A connection to MLflow that stays within its time, and the one experiment that is written to."""

import logging
import os
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

from emplifai import journal
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
SECONDS = 120  # that a server is given in all; the rest goes with the next `emplifai track`
KEY, KIND = "emplifai.key", "emplifai.kind"
TEXTS = ("samples.json", "index.html", "log.txt")  # files that may hold what patients and models said


class Slow(Exception):
    """The server took longer than SECONDS."""


def local(uri: str) -> Path | None:
    """The database file of a sqlite URI; None for anything else."""
    return Path(uri.removeprefix("sqlite:///")) if uri.startswith("sqlite:///") else None


class Connection:
    """MLflow's client, the experiment, and the journal whose files are sent."""

    def __init__(self, settings: Tracking, paths: Paths, texts: bool):
        """texts: whether patients' words may go there; otherwise numbers, settings and figures only."""
        import_quietly()
        import mlflow

        self.paths, self.texts, self.database = paths, texts, local(settings.uri)
        self.until = None if self.database else time.monotonic() + SECONDS
        uri = settings.uri
        if self.database:
            check_database(self.database)
            quick_commits()
            uri = f"sqlite:///{self.database.absolute()}"  # MLflow keeps connections by URI: a relative one outlives a chdir
        mlflow.set_tracking_uri(uri)
        self.client = mlflow.MlflowClient(uri)
        self.experiment = self._experiment(settings.experiment)

    def _experiment(self, name: str) -> str:
        from mlflow.exceptions import MlflowException

        if found := self.client.get_experiment_by_name(name):
            return found.experiment_id
        here = Path("mlartifacts").absolute().as_uri() if self.database else None
        try:
            return self.client.create_experiment(name, artifact_location=here)
        except MlflowException:  # another process was first
            return self.client.get_experiment_by_name(name).experiment_id

    def runs(self, kind: str) -> Iterator:
        """All runs of a kind, those too that a user deleted in the UI: they stay deleted."""
        token = None
        while True:
            page = self.client.search_runs([self.experiment], f"tags.`{KIND}` = '{kind}'", 3, 1000, page_token=token)
            yield from page
            token = page.token
            if not token:
                return

    def log(self, run_id: str, params: dict[str, str], tags: dict[str, str], metrics: list[journal.Metric]) -> None:
        """Log in as few calls as MLflow's limits allow: 100 params, 100 tags, 1000 metrics."""
        from mlflow.entities import Metric, Param, RunTag

        known = [Param(k, v[:6000]) for k, v in sorted(params.items())]
        marks = [RunTag(k, v[:5000]) for k, v in sorted(tags.items())]
        points = [Metric(name, value, at, step) for name, value, step, at in metrics]
        while known or marks or points:
            self.in_time()
            self.client.log_batch(run_id, points[:800], known[:100], marks[:100])
            points, known, marks = points[800:], known[100:], marks[100:]

    @contextmanager
    def folder(self, files: list[tuple[str, str]]) -> Iterator[Path]:
        """Files of the journal under their own names; one that the journal lost, or that may not go there, is left out."""
        with TemporaryDirectory() as name:
            for where, key in files:
                source = journal.file(self.paths, key)
                if source.exists() and (self.texts or where not in TEXTS):
                    target = Path(name, where)
                    target.parent.mkdir(parents=True, exist_ok=True)
                    target.symlink_to(source.absolute())
            yield Path(name)

    def in_time(self) -> None:
        if self.until and time.monotonic() > self.until:
            raise Slow(f"the server took more than {SECONDS} seconds; what is left goes with the next `emplifai track`")


def import_quietly() -> None:
    """Import mlflow with its bounds set and its chatter off."""
    for name, value in BOUNDS.items():
        os.environ.setdefault(name, value)
    warnings.filterwarnings("ignore")
    for name in ("mlflow", "alembic", "urllib3"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    import mlflow  # noqa: F401  # it sets its own level

    logging.getLogger("mlflow").setLevel(logging.CRITICAL)


def check_database(path: Path) -> None:
    """Raise sqlite3.DatabaseError for a file that is no database: MLflow itself tries for a minute and a half."""
    import sqlite3

    if path.exists():
        with sqlite3.connect(path) as connection:
            connection.execute("PRAGMA schema_version")


def quick_commits() -> None:
    """Let this process's sqlite commits not wait for the disk. A power cut may cost the database; the journal fills it again."""
    from sqlalchemy import event
    from sqlalchemy.engine import Engine

    @event.listens_for(Engine, "connect")
    def _set(connection, _) -> None:
        connection.execute("PRAGMA synchronous = OFF")


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
