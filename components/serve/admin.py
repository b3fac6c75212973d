"""Asking Envoy's administration."""

from http.client import HTTPConnection, HTTPException

from fti.serve.ports import HOST


def ask(port: int, path: str) -> str:
    """What it says; empty where it does not answer within a second."""
    connection = HTTPConnection(HOST, port, timeout=1)
    try:
        connection.request("GET", path)
        return connection.getresponse().read().decode()
    except (OSError, HTTPException):
        return ""
    finally:
        connection.close()
