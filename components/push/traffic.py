"""Ends the trial of a canary: it becomes stable, or it goes. Both may be repeated and interrupted at any time."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from fti.common.errors import BusyError, ConfigError, StorageError
from fti.common.inference_service import Service, check_name, read_service, service_names, write_service
from fti.common.settings import LOCAL, Settings

LOCK_SECONDS = 60.0


def promote(name: str, settings: Settings, only: str = "") -> bool:
    """Makes a service's canary its stable model, with all of the traffic.

    Args:
        name: The service.
        settings: Where the manifests lie.
        only: The digest of the canary that is meant; another one is left alone. Empty means any.

    Returns:
        Whether there was such a canary.

    Raises:
        ConfigError: The service was never pushed.
        BusyError: Another change of this service goes on.
    """
    return _change(name, settings, only, Service.promoted)


def rollback(name: str, settings: Settings, only: str = "") -> bool:
    """Takes a service's canary away: the stable model gets all of the traffic.

    Args:
        name: The service.
        settings: Where the manifests lie.
        only: The digest of the canary that is meant; another one is left alone. Empty means any.

    Returns:
        Whether there was such a canary.

    Raises:
        ConfigError: The service was never pushed.
        BusyError: Another change of this service goes on.
    """
    return _change(name, settings, only, Service.rolled_back)


@contextmanager
def locked(service: str, settings: Settings, seconds: float = LOCK_SECONDS) -> Iterator[None]:
    """Holds a service's manifest: changes come one after another. A cluster refuses what is based on an old state.

    Raises:
        ConfigError: No service can be called so.
        BusyError: Another change takes too long.
        StorageError: The folder of the manifests cannot be written.
    """
    from filelock import FileLock, Timeout

    check_name(service)
    if settings.serving != LOCAL:
        yield
        return
    path = settings.services / f".{service}.lock"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path, timeout=seconds):
            yield
    except Timeout as error:
        raise BusyError(f"another push to {service} goes on", remedy="Wait until it is done and push again") from error
    except PermissionError as error:
        raise StorageError(f"{path} could not be written: {error.strerror}", remedy="Make it writable") from error


def _change(name: str, settings: Settings, only: str, change: Callable[[Service], Service]) -> bool:
    check_name(name)
    if name not in service_names(settings):
        raise ConfigError(
            f"service {name!r} was not pushed", allowed=", ".join(service_names(settings)) or "none was pushed"
        )
    with locked(name, settings):
        service = read_service(name, settings)
        if service is None or service.canary is None or only not in {"", service.canary.digest}:
            return False
        write_service(change(service), settings)
    return True
