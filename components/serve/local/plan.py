"""What shall run on this machine: the pushed services, as far as a laptop can honour their manifests."""

import json
import logging
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fti.common.errors import ConfigError, ServingError
from fti.common.inference_service import Revision, Service, manifest_path, parse, read_manifest, service_names
from fti.common.inference_service.service import UNIT
from fti.common.model_package import SIGNATURE
from fti.common.settings import Settings
from fti.serve.local.fields import check_fields

log = logging.getLogger(__name__)


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


@dataclass(frozen=True)
class Plan:
    """What shall be served.

    Attributes:
        services: By name.
        warnings: By name, what of the manifest is not honoured here.
        errors: By name, what is wrong with a manifest that cannot be served.
    """

    services: dict[str, Service] = field(default_factory=dict)
    warnings: dict[str, tuple[str, ...]] = field(default_factory=dict)
    errors: dict[str, ServingError] = field(default_factory=dict)

    def notes(self, name: str) -> tuple[str, ...]:
        """What is wrong with the manifest of a service, or else what of it is not honoured."""
        return (str(self.errors[name]),) if name in self.errors else self.warnings.get(name, ())

    def log_news(self, before: "Plan") -> None:
        """Logs what an earlier plan did not say."""
        for name in sorted(self.errors.keys() | self.warnings.keys()):
            for note in self.notes(name):
                if note not in before.notes(name):
                    log.warning("%s", note if name in self.errors else f"{name}: {note}")


def desired_services(settings: Settings, names: Sequence[str] = ()) -> Plan:
    """Reads what shall be served.

    Args:
        settings: Where the manifests lie.
        names: Services; none means all.
    """
    plan = Plan()
    for name in service_names(settings):
        if names and name not in names:
            continue
        try:
            service, warnings = read_checked(name, settings)
        except ServingError as error:
            plan.errors[name] = error
        else:
            if service is not None and not service.stopped:
                plan.services[name] = service
                plan.warnings.update({name: warnings} if warnings else {})
    return plan


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


def read_checked(name: str, settings: Settings) -> tuple[Service | None, tuple[str, ...]]:
    """Reads the manifest of a service of this machine, as far as it can be honoured.

    Returns:
        The service, or None where nothing was pushed; and what of its manifest is not honoured here.

    Raises:
        ServingError: It cannot be served.
    """
    where = str(manifest_path(name, settings))
    try:
        manifest = read_manifest(name, settings)
        return _checked(name, manifest, where) if manifest is not None else (None, ())  # it has just been removed
    except (OSError, AttributeError, TypeError, KeyError, ValueError) as error:  # nothing is sure in a manifest
        raise ServingError(f"{where} cannot be served: {error}", remedy="Mend it, or push again") from error


def _checked(name: str, manifest: dict[str, Any], where: str) -> tuple[Service, tuple[str, ...]]:
    service = parse(manifest, where)
    if service.name != name:
        raise ServingError(f"{where} names the service {service.name}", allowed=name, remedy="Rename one of the two")
    if service.stopped:  # whatever else it says, nothing of it runs
        return service, ()
    return service, (*check_fields(manifest, where), *_unit_unknown(service))


def _unit_unknown(service: Service) -> list[str]:
    """That no request of a model names its unit, where its package lies on this machine and is sound."""
    unknown = []
    for variant, (revision, _) in service.revisions().items() if service.unit else ():
        with suppress(OSError, ValueError, KeyError, TypeError):  # its predictor says what is wrong with it
            signature = json.loads((Path(revision.storage_uri) / SIGNATURE).read_text(encoding="utf-8"))
            columns = {feature["name"] for feature in signature["inputs"] if feature["dtype"] == "string"}
            if service.unit not in columns.union(signature["entity_keys"] if revision.feature_repo else ()):
                unknown.append(f"{variant}: {UNIT} names {service.unit}, no text column of this model's requests")
    return unknown
