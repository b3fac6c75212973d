"""Where InferenceServices are read from and written to: the folder of this machine, or a cluster."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from fti.common.inference_service import folder
from fti.common.inference_service.service import Service
from fti.common.settings import LOCAL, Settings

if TYPE_CHECKING:
    from fti.common.inference_service.cluster import ClusterServices


def service_names(settings: Settings) -> list[str]:
    """The names of all pushed services, sorted."""
    return folder.names(settings) if settings.serving == LOCAL else _cluster(settings).names()


def read_service(name: str, settings: Settings) -> Service | None:
    """Reads the service of a name, or None where nothing was pushed.

    Raises:
        ServingError: The manifest is not one that this library can read.
    """
    return folder.read(name, settings) if settings.serving == LOCAL else _cluster(settings).read(name)


def stable_package_uri(name: str, settings: Settings) -> str | None:
    """Where the package of the model now served under a name lies, or None where nothing was pushed."""
    service = read_service(name, settings)
    return service.stable.storage_uri if service else None


def write_service(service: Service, settings: Settings, probe: Callable[[str], None] | None = None) -> None:
    """Writes the manifest of a service, whole or not at all; keeps what others added to it.

    On a cluster it returns when traffic is split as asked, and takes back what cannot be.

    Args:
        service: What shall serve.
        settings: Where.
        probe: On a cluster: called with the address of the new model when it is up; what it raises takes it back.

    Raises:
        BusyError: On a cluster: it was changed since `service` was read.
        ConfigError: On a cluster: this mode of KServe cannot do what is asked.
        ServingError: On a cluster: it does not come into force.
    """
    if settings.serving == LOCAL:
        folder.write(service, settings)
    else:
        _cluster(settings).write(service, probe)


def wait_in_force(service: Service, settings: Settings, probe: Callable[[str], None] | None = None) -> None:
    """On a cluster, waits until traffic is split as a service that was read says.

    Args:
        service: What shall serve.
        settings: Where.
        probe: Called with the address of its newest model then.

    Raises:
        ServingError: It does not come into force.
    """
    if settings.serving != LOCAL:
        _cluster(settings).wait(service, probe)


def stop_service(name: str, stopped: bool, settings: Settings) -> bool:
    """Stops a service, or starts it; on a cluster, waits for that. Says whether it was otherwise before.

    Raises:
        ConfigError: On a cluster in Knative mode: a canary is on trial.
        ServingError: On a cluster: it does not come to be.
    """
    if settings.serving == LOCAL:
        return folder.stop(name, stopped, settings)
    return _cluster(settings).stop(name, stopped)


def delete_service(name: str, settings: Settings) -> bool:
    """Deletes a service with all that runs of it, but not its packages; says whether there was one.

    Raises:
        ServingError: On a cluster: it was not made by a push, or does not go.
    """
    return folder.delete(name, settings) if settings.serving == LOCAL else _cluster(settings).delete(name)


def where(name: str, settings: Settings) -> str:
    """Where the manifest of a service is, for people."""
    return str(folder.manifest_path(name, settings)) if settings.serving == LOCAL else _cluster(settings).where(name)


def _cluster(settings: Settings) -> "ClusterServices":
    from fti.common.inference_service.cluster import ClusterServices

    return ClusterServices.of(settings)
