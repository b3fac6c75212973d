"""What shall run on this machine: the pushed services, as far as a laptop can honour their manifests."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from fti.common.errors import ConfigError, ServingError
from fti.common.inference_service import Revision, Service, manifest_path, parse, read_manifest, service_names
from fti.common.settings import Settings

log = logging.getLogger(__name__)

_HONOURED = {"model", "name", "annotations", "labels"}
_MODEL_HONOURED = {"name", "modelFormat", "protocolVersion", "storageUri", "args"}


@dataclass(frozen=True)
class Replica:
    """A predictor process and its share of the traffic.

    Attributes:
        service: The service's name.
        variant: `stable` or `canary`.
        revision: The model package.
        percent: The share of the traffic.
        port: Its HTTP port on loopback.
        grpc_port: Its gRPC port on loopback.
        shadow: Whether it is sent copies of the requests only.
        unit: The column of its requests that names the unit; empty where only a header does.
    """

    service: str
    variant: str
    revision: Revision
    percent: int
    port: int
    grpc_port: int
    shadow: bool = False
    unit: str = ""


def desired_services(
    settings: Settings, names: Sequence[str] = ()
) -> tuple[dict[str, Service], dict[str, ServingError]]:
    """Reads what shall be served.

    Args:
        settings: Where the manifests lie.
        names: Services; none means all.

    Returns:
        The services by name, and what is wrong with the manifests that cannot be served.
    """
    services, errors = dict[str, Service](), dict[str, ServingError]()
    for name in service_names(settings):
        if names and name not in names:
            continue
        try:
            service = _read(name, settings)
        except ServingError as error:
            errors[name] = error
        except (OSError, AttributeError, TypeError, KeyError, ValueError) as error:  # nothing is sure in a manifest
            where = manifest_path(name, settings)
            errors[name] = ServingError(f"{where} cannot be served: {error}", remedy="Mend it, or push again")
        else:
            if service is not None and not service.stopped:
                services[name] = service
    return services, errors


def check_pushed(settings: Settings, names: Sequence[str]) -> None:
    """Refuses to serve nothing.

    Raises:
        ConfigError: A name was never pushed.
        ServingError: Nothing was pushed.
    """
    pushed = service_names(settings)
    if not pushed:
        raise ServingError(f"no service was pushed to {settings.services}", remedy="Run a pipeline that pushes")
    for name in names:
        if name not in pushed:
            raise ConfigError(f"service {name!r} was not pushed", allowed=", ".join(pushed))


def _read(name: str, settings: Settings) -> Service | None:
    manifest, where = read_manifest(name, settings), str(manifest_path(name, settings))
    if manifest is None:  # it has just been removed
        return None
    service = parse(manifest, where)
    if service.name != name:
        raise ServingError(f"{where} names the service {service.name}", allowed=name, remedy="Rename one of the two")
    check_honoured(manifest["spec"], where)
    return service


def check_honoured(spec: dict[str, Any], where: str) -> None:
    """Refuses what would change the answers, and warns of what is left to a cluster.

    Raises:
        ServingError: The manifest has a transformer, an explainer, or a predictor other than a model package.
    """
    for part in spec.keys() - {"predictor", "canary"}:
        raise ServingError(f"{where} has a {part}, which only a cluster runs", remedy="Remove it to serve locally")
    canaries = [("canary", canary["predictor"]) for canary in spec.get("canary") or []]
    for part, predictor in [("predictor", spec["predictor"]), *canaries]:
        model = predictor["model"]
        unknown = [arg for arg in model.get("args") or [] if not arg.startswith("--feature_repo=")]
        if model.get("modelFormat", {}).get("name") != "fti" or unknown or "containers" in predictor:
            got = f"the arguments {unknown}" if unknown else "another model format"
            raise ServingError(f"{where}: {part} has {got}", allowed="a model package as push writes it")
        honoured = _HONOURED | ({"minReplicas"} if predictor.get("minReplicas") == 1 else set())
        left = sorted({*(predictor.keys() - honoured), *(f"model.{key}" for key in model.keys() - _MODEL_HONOURED)})
        if left:
            _warn(f"{where}: {part}: only a cluster heeds {', '.join(left)}")


@cache
def _warn(message: str) -> None:
    """Once for each message: manifests are read again and again."""
    log.warning("%s", message)
