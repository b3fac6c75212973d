"""Kubeflow Pipelines' REST API, v2beta1: requests that are tried again where that is safe, and errors in sentences.

Why not `kfp.Client`: it never returns from a run that was cancelled, has no time-outs, does not try again after a 503,
takes a ServiceAccount's token by itself only where no address is given, keeps a namespace in a file of the home
directory, prints links and stack traces by itself, and its import takes half a second. The requests are the same; the
tests hold each against the models of `kfp_server_api`, and speak to the same stand-in with `kfp.Client`.
"""

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from types import TracebackType
from typing import TYPE_CHECKING, Any

from fti.common.errors import ConfigError, PipelinesError
from fti.kubeflow import refusals
from fti.kubeflow.connection import Connection
from fti.kubeflow.refusals import LONGEST_PAUSE, UnsureError

if TYPE_CHECKING:
    import httpx

_ROOT = "/apis/v2beta1"
_SECONDS = 30.0
_PAGE = 100

Find = Callable[[], dict[str, Any] | None]


class Api:
    """Requests to one Kubeflow Pipelines.

    Args:
        connection: Where it is, and who asks.
        tries: How often a request is made, where that is safe, before an error of the server is final.
        pause: Seconds before the second try; each further one waits twice as long, or what the server says.
    """

    def __init__(self, connection: Connection, *, tries: int = 6, pause: float = 0.5) -> None:
        import httpx

        self.connection, self.tries, self.pause = connection, tries, pause
        self._client = httpx.Client(base_url=connection.url, timeout=_SECONDS, verify=_trust(connection.ca_file))

    def __enter__(self) -> "Api":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._client.close()

    def get(self, path: str, **params: str) -> dict[str, Any]:
        """Reads an object.

        Raises:
            MissingError: It does not exist.
            PipelinesError: The server refuses, or does not answer after some tries.
        """
        return _object(self._safely("GET", _ROOT + path, params=params))

    def text(self, path: str) -> str:
        """Reads a text that lies outside the versioned API, such as a log; asked once, for nothing depends on it."""
        return self._once("GET", path).text

    def pages(self, path: str, key: str, **params: str) -> Iterator[dict[str, Any]]:
        """Reads all pages of a list, object by object; `key` names the list in the answer."""
        token = ""
        while True:
            page = self.get(path, page_size=str(_PAGE), page_token=token, **params)
            yield from page.get(key) or []
            token = page.get("next_page_token") or ""
            if not token:
                return

    def create(self, path: str, find: Find, *, body: Any = None, files: Any = None, **params: str) -> dict[str, Any]:
        """Makes an object, once, whatever becomes of the answer.

        Where the server fails or falls silent it may have made the object, or be about to: then `find` looks for it
        for a while. Only a server that said that it is too busy is asked again.

        Args:
            path: Of the collection.
            find: Finds the object, where it was made.
            body: The object, as JSON.
            files: In place of a body, files to upload.
            params: The query.

        Raises:
            ConflictError: One of its name exists.
            UnsureError: The server failed, and the object was not found.
            PipelinesError: The server refuses, or cannot be reached.
        """
        for pause in (*self.pauses(), None):
            try:
                return _object(self._once("POST", _ROOT + path, json=body, files=files, params=params))
            except UnsureError as error:
                if found := self._found(find, [max(pause or 0, error.after)] if error.busy else list(self.pauses())):
                    return found
                if pause is None or not error.busy:
                    raise
        raise AssertionError("unreachable")

    def _found(self, find: Find, pauses: list[float]) -> dict[str, Any] | None:
        for pause in pauses:
            time.sleep(pause)
            if found := find():
                return found
        return None

    def act(self, path: str) -> None:
        """Asks for something that may be asked for twice, such as to disable a schedule."""
        self._safely("POST", _ROOT + path)

    def delete(self, path: str) -> None:
        """Deletes an object.

        Raises:
            MissingError: It does not exist.
        """
        self._safely("DELETE", _ROOT + path)

    def pauses(self) -> Iterator[float]:
        """How long to wait before each further try."""
        for again in range(self.tries - 1):
            yield min(self.pause * 2**again, LONGEST_PAUSE)

    def _safely(self, method: str, path: str, **content: Any) -> "httpx.Response":
        for pause in self.pauses():
            try:
                return self._once(method, path, **content)
            except UnsureError as error:
                time.sleep(max(pause, error.after))
        return self._once(method, path, **content)

    def _once(self, method: str, path: str, **content: Any) -> "httpx.Response":
        import httpx

        for pause in (*self.pauses(), None):
            try:
                response = self._client.request(
                    method, path, headers=self.connection.headers(), **{k: v for k, v in content.items() if v}
                )
                return refusals.checked(response, self.connection)
            except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout) as error:
                if pause is None or "CERTIFICATE" in str(error).upper():
                    raise refusals.unreachable(error, self.connection) from error
                time.sleep(pause)  # the request never arrived
            except httpx.TransportError as error:
                raise refusals.silent(error, self.connection) from error
        raise AssertionError("unreachable")


def connect(connection: Connection) -> Api:
    """An API whose namespace is right: one where Kubeflow serves many users, none where it serves one.

    Raises:
        ConfigError: Many users, and no namespace.
        PipelinesError: The server does not know who asks, or does not answer.
    """
    api = Api(connection)
    many = api.get("/healthz").get("multi_user", False)
    if many and not connection.namespace:
        raise ConfigError(
            "Kubeflow serves many users here, and no namespace is given",
            allowed="the namespace of your profile",
            remedy="Set FTI_KFP_NAMESPACE, or give --namespace",
        )
    api.connection = replace(connection, namespace=connection.namespace if many else "")
    return api


def matching(**equal: str) -> str:
    """The `filter` of a list: objects whose fields have these values."""
    predicates = [{"operation": "EQUALS", "key": key, "string_value": value} for key, value in equal.items()]
    return json.dumps({"predicates": predicates})


def _trust(ca_file: str) -> Any:
    import ssl

    context = ssl.create_default_context()
    if ca_file:
        try:
            context.load_verify_locations(ca_file)
        except (ssl.SSLError, OSError) as error:
            raise ConfigError(f"FTI_KFP_CA, {ca_file}, holds no certificate", allowed="PEM") from error
    return context


def _object(response: "httpx.Response") -> dict[str, Any]:
    try:
        content = response.json() if response.content else {}
    except ValueError:
        content = None
    if not isinstance(content, dict):
        raise PipelinesError(
            f"{response.request.url} answers with something else than Kubeflow Pipelines' API",
            remedy="Check FTI_KFP_URL",
        )
    return content
