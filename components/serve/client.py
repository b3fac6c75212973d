"""Asks a served model, for people at a terminal."""

import re
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from fti.common.errors import ConfigError, ServingError
from fti.common.inference_service import read_service, service_names
from fti.common.settings import Settings
from fti.serve.local.routes import UNIT_HEADER, VARIANT_HEADER
from fti.serve.local.status import read_state
from fti.serve.protocol import REVISION_HEADER

if TYPE_CHECKING:
    import httpx

_SECONDS = 30.0  # for a prediction
_PAUSE = 0.2  # seconds, before an explanation is asked for again


def predict(
    settings: Settings,
    service: str,
    rows: Sequence[dict[str, Any]],
    *,
    variant: str | None = None,
    unit: str = "",
    url: str = "",
) -> dict[str, Any]:
    """Asks a served model for predictions.

    Args:
        settings: Where the runner's state lies.
        service: The service's name.
        rows: Rows of columns: every feature, or entity keys and the request's own features.
        variant: `stable` or `canary`, instead of the split.
        unit: Whom the rows are about, who is to see the same variant each time; empty leaves it to the gateway.
        url: The gateway, such as `http://gateway:80`; empty means the one that `fti serve` runs here.

    Returns:
        `revision`, which answered, and `predictions`, one for each row.

    Raises:
        ConfigError: The service is not served, or it refuses the rows; says why.
        ServingError: Nothing is served, or the service is out of order.
    """
    address = url or _gateway(settings, service)
    return _answer(service, _post(f"{address.rstrip('/')}/v1/models/{service}:predict", rows, variant, unit, _SECONDS))


def explain(
    settings: Settings,
    service: str,
    rows: Sequence[dict[str, Any]],
    *,
    variant: str | None = None,
    unit: str = "",
    url: str = "",
    patience: float = 120.0,
) -> dict[str, Any]:
    """Asks a served model which feature moved its predictions by how much.

    Args:
        settings: Where the runner's state lies.
        service: The service's name.
        rows: As for `predict`.
        variant: As for `predict`.
        unit: As for `predict`.
        url: As for `predict`.
        patience: Seconds to go on asking while the process that explains is starting, busy or has died.

    Returns:
        `revision`, `predictions` and, for each row, its explanation: see `docs/explain.md`.

    Raises:
        ConfigError: The service is not served, it refuses the rows, or its model cannot be explained; says why.
        ServingError: Nothing is served, the service is out of order, or it gave no explanation in time.
    """
    address = url or _gateway(settings, service)
    until = time.monotonic() + patience
    while True:
        response = _post(f"{address.rstrip('/')}/v1/models/{service}:explain", rows, variant, unit, patience)
        # What does not say so, such as a budget that is too small, would come again.
        passes = response.status_code in {503, 504} and re.search("ask(ed)? again", response.text, re.IGNORECASE)
        if not passes or time.monotonic() > until:
            return _answer(service, response)
        time.sleep(_PAUSE)


def examples(settings: Settings, service: str) -> list[dict[str, Any]]:
    """The example rows that the package of a service's stable model carries.

    Raises:
        ConfigError: The service was never pushed.
        StorageError: The package cannot be read.
    """
    from fti.common.model_package import load_package
    from fti.common.storage import local_copy

    pushed = read_service(service, settings)
    if pushed is None:
        raise ConfigError(f"service {service!r} was not pushed", allowed=", ".join(service_names(settings)))
    with local_copy(pushed.stable.storage_uri, settings) as folder:
        rows: list[dict[str, Any]] = load_package(folder).examples["inputs"]
    return rows


def _post(
    address: str, rows: Sequence[dict[str, Any]], variant: str | None, unit: str, seconds: float
) -> "httpx.Response":
    import httpx

    headers = {VARIANT_HEADER: variant} if variant else {}
    headers |= {UNIT_HEADER: quote(unit, safe="")} if unit else {}
    try:
        return httpx.post(address, json={"instances": list(rows)}, headers=headers, timeout=seconds)
    except ValueError as error:
        raise ConfigError(f"the rows are not JSON: {error}", remedy="Use null where a value is missing") from error
    except httpx.HTTPError as error:
        raise ServingError(f"{address} does not answer: {error}", remedy="See `fti status`") from error


def _answer(service: str, response: "httpx.Response") -> dict[str, Any]:
    if response.is_success:
        return {"revision": response.headers.get(REVISION_HEADER), **response.json()}
    raise _refused(service, response)


def _gateway(settings: Settings, service: str) -> str:
    state = read_state(settings)
    if state is None:
        raise ServingError("nothing is served on this machine", remedy="Start `fti serve` in another terminal")
    if service not in state["services"]:
        raise ConfigError(f"service {service!r} is not served", allowed=", ".join(state["services"]))
    url: str = state["services"][service]["url"]
    return url.partition("/v1/")[0]


def _refused(service: str, response: "httpx.Response") -> ConfigError | ServingError:
    try:
        reason = str(response.json()["error"])
    except (ValueError, KeyError, TypeError):
        reason = response.text[:300]
    if response.is_client_error:
        return ConfigError(f"{service} refuses the request ({response.status_code}): {reason}")
    return ServingError(f"{service} is out of order ({response.status_code}): {reason}", remedy="See `fti status`")
