"""What shall run on this machine: one predictor per revision of each pushed service."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from fti.common.errors import ConfigError, ServingError
from fti.common.inference_service import Revision, Service, manifest_path, parse, read_manifest, service_names
from fti.common.settings import Settings
from fti.serve.ports import Ports

log = logging.getLogger(__name__)

_HONOURED = {"model", "name", "annotations", "labels"}
_MODEL_HONOURED = {"name", "modelFormat", "protocolVersion", "storageUri", "args"}


@dataclass(frozen=True)
class Replica:
    """One predictor process.

    Attributes:
        service: The service's name.
        variant: `stable` or `canary`.
        revision: The model package.
        percent: The share of the traffic.
        port: Its HTTP port on loopback.
        grpc_port: Its gRPC port on loopback.
    """

    service: str
    variant: str
    revision: Revision
    percent: int
    port: int
    grpc_port: int


def pushed_services(settings: Settings, names: Sequence[str] = ()) -> list[Service]:
    """Reads the services to serve.

    Args:
        settings: Where the manifests lie.
        names: Their names; none means all.

    Raises:
        ConfigError: A name was never pushed.
        ServingError: Nothing was pushed, or a manifest asks for what a laptop cannot give.
    """
    pushed = service_names(settings)
    if not pushed:
        raise ServingError(f"no service was pushed to {settings.services}", remedy="Run a pipeline that pushes")
    for name in names:
        if name not in pushed:
            raise ConfigError(f"service {name!r} was not pushed", allowed=", ".join(pushed))
    return [_read(name, settings) for name in names or pushed]


def replicas_of(services: Sequence[Service], ports: Ports) -> list[Replica]:
    """One predictor for each revision, each with ports of its own."""
    return [
        Replica(service.name, variant, revision, percent, ports.reserve(), ports.reserve())
        for service in services
        for variant, (revision, percent) in service.revisions().items()
    ]


def _read(name: str, settings: Settings) -> Service:
    manifest, where = read_manifest(name, settings), str(manifest_path(name, settings))
    if manifest is None:
        raise ServingError(f"{where} has just been removed", remedy="Push the model again")
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
        left = sorted({*(predictor.keys() - _HONOURED), *(f"model.{key}" for key in model.keys() - _MODEL_HONOURED)})
        if left:
            log.warning("%s: %s: only a cluster heeds %s", where, part, ", ".join(left))
