"""Whether the stores that the environment names can be reached from here."""

import re
import socket
from collections.abc import Iterator, Mapping
from urllib.parse import urlsplit

from fti.doctor.finding import MISSING, OK, Finding

_SECONDS = 3.0
_PORTS = {"http": 80, "https": 443}


def reachable(environ: Mapping[str, str]) -> Iterator[Finding]:
    """Opens a connection to each store, and sends nothing.

    Args:
        environ: `FTI_REDIS`, `FTI_POSTGRES`, `AWS_ENDPOINT_URL`, as the profile and the settings read them.
    """
    for name, host, port in _addresses(environ):
        try:
            socket.create_connection((host, port), _SECONDS).close()
        except OSError as error:
            why = error.strerror or type(error).__name__
            remedy = f"Start it, or correct {name}; on a cluster a NetworkPolicy may be in the way"
            yield Finding("store", MISSING, f"{name}: {host}:{port} cannot be reached: {why}", remedy)
        else:
            yield Finding("store", OK, f"{name}: {host}:{port}")


def _addresses(environ: Mapping[str, str]) -> Iterator[tuple[str, str, int]]:
    for name, port in (("FTI_REDIS", 6379), ("FTI_POSTGRES", 5432)):
        if address := re.split(r"[,/?]", environ.get(name, ""))[0]:
            host, _, own = address.rpartition(":") if ":" in address else (address, "", "")
            yield name, host, int(own) if own.isdigit() else port
    url = urlsplit(environ.get("AWS_ENDPOINT_URL", ""))
    if url.hostname:
        yield "AWS_ENDPOINT_URL", url.hostname, url.port or _PORTS.get(url.scheme, 443)
