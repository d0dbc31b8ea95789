"""`emplifai ui`: MLflow's pages on this machine, over the database that tracking.uri names."""

import os
import socket
import subprocess
import sys
from contextlib import closing, suppress
from pathlib import Path

from emplifai.params import Params
from emplifai.paths import Paths
from emplifai.track import shown


def run(params: Params, paths: Paths) -> None:
    """Become an MLflow server on a free port of 127.0.0.1; for a tracking server only say where it is."""
    uri = params.tracking.uri
    if uri.startswith(("http://", "https://")):
        print(f"The runs are on the tracking server: {shown(uri)}; `emplifai track --watch` adds what runs now", file=sys.stderr)
        return
    port = free_port()
    page = f"http://127.0.0.1:{port}/{runs(params)}"
    print(f"MLflow on {page} in half a minute (Ctrl-C ends it)", file=sys.stderr, flush=True)
    os.environ |= {"MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "true"}
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    subprocess.Popen([sys.executable, "-m", "emplifai", "track", "--watch"], **quiet)  # what runs now; ends with the server
    os.execv(sys.executable, [sys.executable, "-m", "mlflow", *command(uri, port)])


def runs(params: Params) -> str:
    """The page of this project's runs, where the database has any: MLflow's first page does not show them."""
    import sqlite3

    path = Path(params.tracking.uri.removeprefix("sqlite:///"))
    with suppress(sqlite3.Error), closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as database:
        ask = "SELECT experiment_id FROM experiments WHERE name = ?"
        for (found,) in database.execute(ask, (params.tracking.experiment,)):
            return f"#/experiments/{found}/runs"
    return ""


def command(uri: str, port: int) -> list[str]:
    """Arguments of `mlflow`: one worker, loopback only, artifacts where `emplifai track` puts them."""
    store = ["--backend-store-uri", uri, "--artifacts-destination", str(Path("mlartifacts").absolute())]
    return ["server", *store, "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]


def free_port(first: int = 5000) -> int:
    """The first port from 5000 on that nobody listens to."""
    for port in range(first, first + 100):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    return first
