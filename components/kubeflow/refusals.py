"""What Kubeflow Pipelines answers when it refuses or fails, as errors in sentences that hold no secret."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from fti.common.errors import PipelinesError
from fti.common.masking import masked
from fti.kubeflow.connection import Connection

if TYPE_CHECKING:
    import httpx

LONGEST_PAUSE = 20.0
_TRY_AGAIN = {429, 500, 502, 503, 504}
_UNAVAILABLE = 14  # gRPC's code, as the API server's gateway writes it
_LOOK = "Look in the UI what it did before you ask again"


class UnsureError(PipelinesError):
    """The server may or may not have done what it was asked.

    Attributes:
        busy: Whether it said that it is too busy, and so will hardly be doing it still.
        after: Seconds after which it wants to be asked again.
    """

    busy: bool = False
    after: float = 0.0


class UnreachableError(PipelinesError):
    """The server cannot be reached; it has got nothing of what was asked."""


class MissingError(PipelinesError):
    """What was asked for does not exist."""


class ConflictError(PipelinesError):
    """Something of that name exists."""


def checked(response: "httpx.Response", connection: Connection) -> "httpx.Response":
    """The answer, where it is one of success.

    Raises:
        MissingError: What was asked for does not exist.
        ConflictError: Something of that name exists.
        UnsureError: The server failed, and may have done it.
        PipelinesError: It refuses. A proxy's way to a sign-in page is taken for what it means, a 401.
    """
    signed_out = response.is_redirect or (response.is_success and "text/html" in _kind(response))
    if response.is_success and not signed_out:
        return response
    raise _refusal(401 if signed_out else response.status_code, response, connection)


def unreachable(error: Exception, connection: Connection) -> UnreachableError:
    """No connection came about."""
    reason = masked(" ".join(str(error).split()))[:300]
    untrusted = "CERTIFICATE" in reason.upper()
    return UnreachableError(
        f"{connection.url} cannot be reached: {reason}",
        remedy="Name the CA that signed its certificate: FTI_KFP_CA" if untrusted else "Check FTI_KFP_URL",
    )


def silent(error: Exception, connection: Connection) -> UnsureError:
    """The request went out, and no answer came."""
    return UnsureError(f"{connection.url} fell silent: {type(error).__name__}", remedy=_LOOK)


def _refusal(code: int, response: "httpx.Response", connection: Connection) -> PipelinesError:
    said = masked(connection.without_secrets(_message(response)))
    asked, url = f"{response.request.method} {response.request.url.path}", connection.url
    if code == 401:
        return PipelinesError(
            f"{url} does not know who asks (401)",
            allowed="a token or a session's cookie that has not expired",
            remedy="Set FTI_KFP_TOKEN or FTI_KFP_COOKIE anew",
        )
    if code == 403:
        where = f"the namespace {connection.namespace}" if connection.namespace else "the namespace of the runs"
        return PipelinesError(
            f"{url} forbids {asked} (403): {said}",
            remedy=f"Have the role kubeflow-pipelines-edit bound to you in {where}",
        )
    if code == 404:
        return MissingError(f"{url} has no {response.request.url.path} (404): {said}")
    if code == 409:
        return ConflictError(f"{url}: something of that name exists (409): {said}")
    if code in _TRY_AGAIN:
        error = UnsureError(f"{url} failed at {asked} ({code}): {said}", remedy=_LOOK)
        error.busy, error.after = _is_busy(code, response), _retry_after(response)
        return error
    hidden = "The server says no more where the right to make pipelines is missing" if "upload" in asked else ""
    return PipelinesError(f"{url} refuses {asked} ({code}): {said}", remedy=hidden)


def _is_busy(code: int, response: "httpx.Response") -> bool:
    """Whether it has not begun: a proxy's 503 by itself may also mean that it lost the server in the middle."""
    if code == 429:
        return True
    try:
        content: Any = response.json()
    except ValueError:
        content = None
    said = isinstance(content, Mapping) and content.get("code") == _UNAVAILABLE
    return code == 503 and (said or "retry-after" in response.headers)


def _message(response: "httpx.Response") -> str:
    """What the server says of itself: gRPC's gateway, its upload server, and proxies each say it otherwise."""
    try:
        content: Any = response.json()
    except ValueError:
        content = None
    if isinstance(content, Mapping):
        text = content.get("message") or content.get("error_message") or content.get("error") or ""
    else:
        text = "" if "html" in _kind(response) else response.text
    return " ".join(str(text).split())[:500] or "without a reason"


def _kind(response: "httpx.Response") -> str:
    return str(response.headers.get("content-type", ""))


def _retry_after(response: "httpx.Response") -> float:
    text = response.headers.get("retry-after", "")
    return min(float(text), LONGEST_PAUSE) if text.isdigit() else 0.0
