"""Stops, starts and deletes a service. All may be repeated and interrupted at any time."""

from collections.abc import Callable

from fti.common.errors import ConfigError
from fti.common.inference_service import check_name, delete_service, service_names, stop_service
from fti.common.settings import Settings
from fti.push.traffic import locked


def stop(name: str, settings: Settings) -> bool:
    """Stops a service: nothing of it runs, nothing answers, and all that was pushed is kept.

    Returns:
        Whether it ran until now.

    Raises:
        ConfigError: It was never pushed; or, in Knative mode, a canary is on trial.
        ServingError: On a cluster: it does not stop.
    """
    return _change(name, settings, lambda: stop_service(name, True, settings))


def start(name: str, settings: Settings) -> bool:
    """Starts a service that was stopped, with the models and shares that it had; on a cluster, waits for them.

    Returns:
        Whether it was stopped until now.

    Raises:
        ConfigError: It was never pushed.
        ServingError: On a cluster: it does not come up.
    """
    return _change(name, settings, lambda: stop_service(name, False, settings))


def delete(name: str, settings: Settings) -> bool:
    """Deletes a service with all that runs of it. Its model packages stay in the store.

    Returns:
        Whether there was one.

    Raises:
        ConfigError: No service can be called so.
        ServingError: On a cluster: it was not made by a push, or does not go.
    """
    with locked(name, settings):
        return delete_service(name, settings)


def _change(name: str, settings: Settings, change: Callable[[], bool]) -> bool:
    check_name(name)
    if name not in service_names(settings):
        raise ConfigError(
            f"service {name!r} was not pushed", allowed=", ".join(service_names(settings)) or "none was pushed"
        )
    with locked(name, settings):
        return change()
