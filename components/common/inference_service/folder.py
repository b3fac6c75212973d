"""InferenceServices of this machine: one manifest for each in the folder that `fti serve` realises."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from fti.common.files import atomic_file
from fti.common.inference_service import standard
from fti.common.inference_service.service import Service, check_running, is_stopped, unreadable, with_stop
from fti.common.settings import Settings


def manifest_path(name: str, settings: Settings) -> Path:
    """Where the manifest of a service lies."""
    return settings.services / f"{name}.yaml"


def names(settings: Settings) -> list[str]:
    """The names of all pushed services, sorted."""
    return sorted(path.stem for path in settings.services.glob("*.yaml") if path.is_file())


def read(name: str, settings: Settings) -> Service | None:
    """Reads the service of a name, or None where nothing was pushed.

    Raises:
        ServingError: The manifest is not one that this library can read.
    """
    manifest = read_manifest(name, settings)
    return standard.parse(manifest, str(manifest_path(name, settings))) if manifest is not None else None


def read_manifest(name: str, settings: Settings) -> dict[str, Any] | None:
    """Reads the manifest of a name as it stands, or None where nothing was pushed.

    Raises:
        ServingError: The file is not YAML.
    """
    path = manifest_path(name, settings)
    try:
        manifest = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise unreadable(str(path), f"is not YAML: {error}") from error
    if not isinstance(manifest, dict):
        raise unreadable(str(path), f"holds a {type(manifest).__name__}")
    return manifest


def write(service: Service, settings: Settings) -> None:
    """Writes the manifest of a service, whole or not at all; keeps what others added to it.

    Raises:
        ConfigError: The service is stopped.
    """
    base = read_manifest(service.name, settings)
    check_running(replace(service, stopped=base is not None and is_stopped(base)))
    _put(standard.render(service, base), settings)


def stop(name: str, stopped: bool, settings: Settings) -> bool:
    """Says in the manifest that nothing of a service shall run, or that it shall; says whether it was otherwise."""
    service, base = read(name, settings), read_manifest(name, settings)
    if service is None or base is None or service.stopped == stopped:
        return False
    _put(with_stop(base, stopped), settings)
    return True


def delete(name: str, settings: Settings) -> bool:
    """Removes the manifest of a service; says whether there was one."""
    try:
        manifest_path(name, settings).unlink()
    except FileNotFoundError:
        return False
    return True


def _put(manifest: dict[str, Any], settings: Settings) -> None:
    with atomic_file(manifest_path(manifest["metadata"]["name"], settings)) as scratch:
        scratch.write_text(yaml.safe_dump(manifest, sort_keys=False), encoding="utf-8")
