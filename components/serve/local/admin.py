"""Asking Envoy's administration."""

from http.client import HTTPConnection, HTTPException

from fti.serve.local.ports import HOST


def ask(port: int, path: str) -> str:
    """What it says; empty where it does not answer within a second."""
    return _said(port, "GET", path)


def tell(port: int, path: str) -> str:
    """Has it do something; returns what it says, which is empty where it does not answer within a second."""
    return _said(port, "POST", path)


def _said(port: int, method: str, path: str) -> str:
    connection = HTTPConnection(HOST, port, timeout=1)
    try:
        connection.request(method, path)
        return connection.getresponse().read().decode()
    except (OSError, HTTPException):
        return ""
    finally:
        connection.close()
