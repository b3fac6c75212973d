"""Asks a served model, for people at a terminal."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from fti.common.errors import ConfigError, ServingError
from fti.common.inference_service import read_service, service_names
from fti.common.settings import Settings
from fti.serve.protocol import REVISION_HEADER
from fti.serve.routes import UNIT_HEADER, VARIANT_HEADER
from fti.serve.status import read_state

if TYPE_CHECKING:
    import httpx


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
    import httpx

    address = f"{url.rstrip('/')}/v1/models/{service}:predict" if url else _local_url(settings, service)
    headers = {VARIANT_HEADER: variant} if variant else {}
    headers |= {UNIT_HEADER: quote(unit, safe="")} if unit else {}
    try:
        response = httpx.post(address, json={"instances": list(rows)}, headers=headers, timeout=30)
    except ValueError as error:
        raise ConfigError(f"the rows are not JSON: {error}", remedy="Use null where a value is missing") from error
    except httpx.HTTPError as error:
        raise ServingError(f"{address} does not answer: {error}", remedy="See `fti status`") from error
    if response.is_success:
        return {"revision": response.headers.get(REVISION_HEADER), **response.json()}
    raise _refused(service, response)


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


def _local_url(settings: Settings, service: str) -> str:
    state = read_state(settings)
    if state is None:
        raise ServingError("nothing is served on this machine", remedy="Start `fti serve` in another terminal")
    if service not in state["services"]:
        raise ConfigError(f"service {service!r} is not served", allowed=", ".join(state["services"]))
    url: str = state["services"][service]["url"]
    return url


def _refused(service: str, response: "httpx.Response") -> ConfigError | ServingError:
    try:
        reason = str(response.json()["error"])
    except (ValueError, KeyError, TypeError):
        reason = response.text[:300]
    if response.is_client_error:
        return ConfigError(f"{service} refuses the request ({response.status_code}): {reason}")
    return ServingError(f"{service} is out of order ({response.status_code}): {reason}", remedy="See `fti status`")
