"""May texts be sent to this address? Asked before a client is made, so that a refusal comes before the first byte."""

import ipaddress
from urllib.parse import urlsplit

from emplifai.errors import UserError
from emplifai.params import Data


def check(url: str, where: str, data: Data) -> str:
    """The URL without a trailing slash, if texts may go there.

    where: the key of params.yaml that holds it, for the message. Names are compared as written and never looked up:
    a host is inside if it is loopback or stands in data.internal_hosts. Raises UserError otherwise.
    """
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError as error:
        raise UserError(f"{where}: not a URL: {error}") from None
    if parts.scheme not in ("http", "https") or not host or parts.query or parts.fragment:
        raise UserError(f"{where}: want http(s)://HOST[:PORT]/PATH without query, found {_shown(parts)!r}")
    if parts.username is not None or parts.password is not None:
        raise UserError(f"{where}: a key does not belong into a URL; name the environment variable that holds it in api_key_env")
    if data.external_processing != "allowed" and not inside(host, data.internal_hosts):
        raise UserError(
            f"{where}: {host} is outside this machine, and data.external_processing is 'forbidden': nothing was sent. "
            f"Use a server on this machine, name the host in data.internal_hosts, or set data.external_processing: allowed"
        )
    return url.rstrip("/")


def inside(host: str, internal_hosts: list[str]) -> bool:
    """Whether a host is this machine or a declared internal one."""
    host = host.lower().rstrip(".")
    if host == "localhost" or host in {name.lower().rstrip(".") for name in internal_hosts}:
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _shown(parts) -> str:
    """Scheme, host and path only: what else stands in a URL may be secret."""
    return f"{parts.scheme}://{parts.hostname or ''}{parts.path}"
