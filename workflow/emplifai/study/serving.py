"""Serve a rating project: on loopback unless told otherwise, and to other machines over TLS only."""

import ipaddress
import os
import socket
import ssl
import sys
from pathlib import Path

from emplifai.errors import UserError
from emplifai.study import project
from emplifai.study.store import Store


def serve(folder: Path, host: str, port: int, cert: Path | None, key: Path | None, behind_proxy: bool) -> None:
    """Runs until Ctrl-C. behind_proxy: believe X-Forwarded-For and -Proto of a proxy on this machine."""
    import uvicorn

    from emplifai.study.page import application

    _check(host, cert, key, behind_proxy)
    os.umask(0o077)  # the database's log files are for their owner only
    study = project.load(folder)
    bound = _bind(host, port)
    with Store(study.database) as store:
        config = uvicorn.Config(
            application(study, store, tls=bool(cert)),
            access_log=False,  # it would hold addresses
            log_level="warning",
            server_header=False,
            proxy_headers=behind_proxy,
            forwarded_allow_ips="127.0.0.1,::1" if behind_proxy else None,
            ssl_certfile=cert,
            ssl_keyfile=key,
            timeout_graceful_shutdown=5,
            h11_max_incomplete_event_size=16_384,
        )
        address = f"{'https' if cert else 'http'}://{f'[{host}]' if ':' in host else host}:{bound.getsockname()[1]}"
        print(
            f"rating page of {folder}: {address}/enter#TOKEN for each rater's token; Ctrl-C ends it", file=sys.stderr, flush=True
        )
        uvicorn.Server(config).run(sockets=[bound])


def _check(host: str, cert: Path | None, key: Path | None, behind_proxy: bool) -> None:
    if bool(cert) != bool(key):
        raise UserError("--tls-cert and --tls-key: give both or neither")
    if cert and key:
        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(cert, key, password=lambda: "")
        except FileNotFoundError:
            raise UserError(*(f"{file}: no such file" for file in (cert, key) if not file.exists())) from None
        except (ssl.SSLError, OSError) as error:
            raise UserError(f"{cert}, {key}: not a certificate in PEM and its key without a passphrase: {error}") from None
    elif not behind_proxy and not _loopback(host):
        raise UserError(
            f"--host {host}: other machines could reach this without TLS, and links and ratings be read on the way; give "
            "--tls-cert and --tls-key, or --behind-proxy when a proxy does TLS (docs/ratings.md)"
        )


def _loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _bind(host: str, port: int) -> socket.socket:
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET, backlog=1024)
    except (OSError, OverflowError) as error:
        raise UserError(f"--host {host} --port {port}: {error}; choose others") from None
