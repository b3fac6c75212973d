"""Publishes a blessed model package and gives it a share of an InferenceService's traffic."""

import json
import logging
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from fti.common.blessing import read_blessing
from fti.common.errors import ConfigError, UnblessedModelError
from fti.common.files import atomic_file
from fti.common.inference_service import (
    CANARY,
    STABLE,
    Revision,
    Service,
    check_name,
    pushed,
    read_service,
    wait_in_force,
    where,
    write_service,
)
from fti.common.inference_service.runtimes import FTI, RUNTIMES, runtime_named, served_uri
from fti.common.inference_service.service import check_running
from fti.common.model_package import ModelPackage, load_package
from fti.common.settings import LOCAL, Settings
from fti.common.shared_repo import shared_repo
from fti.common.storage import publish_dir
from fti.push.endpoint import try_examples
from fti.push.traffic import locked
from fti.push.triton import check_servable, publish_repository

log = logging.getLogger(__name__)


def push(
    model: str | Path,
    blessing: str | Path,
    *,
    service: str,
    settings: Settings,
    canary_percent: int = 100,
    feature_repo: str = "",
    runtime: str = "",
) -> dict[str, Any]:
    """Publishes a blessed model package and routes a share of a service's traffic to it.

    Pushing the same again changes nothing. The traffic follows the rules of `fti.common.inference_service.pushed`.

    Args:
        model: The folder of the model package.
        blessing: The JSON file that infra_validate, or evaluate alone, wrote for this very package.
        service: The name of the InferenceService.
        settings: Where packages and manifests go.
        canary_percent: The share of the traffic: 100 makes the model stable; 1 to 99 a canary; 0 a canary that
            is only reached when asked for by name.
        feature_repo: The Feast repository in which the predictor looks features up, by path or URI. On a cluster the
            profiles of a path are published beside the models.
        runtime: What serves it on a cluster: `fti`, our predictor; `fti-gpu`, the same on a GPU; `triton`, which takes
            the graph's tensors. Empty: as the service has it, and `fti` for a first model.

    Returns:
        What now serves: service, variant, revision, digest, percent, storageUri, manifest.

    Raises:
        ConfigError: The name, the percent, the feature repository or the runtime cannot be used; or the service is
            stopped.
        PackageError: The package is incomplete or tampered with.
        UnblessedModelError: The blessing is absent, refused, or was given to another model.
        StorageError: The package or the manifest cannot be written.
        BusyError: Another push to this service goes on.
        ServingError: On a cluster: the model does not come up; what served before serves on.
    """
    check_name(service)
    percent = _checked_percent(canary_percent)
    package = load_package(model)
    check_blessing(blessing, package.digest)
    repo = _absolute(feature_repo)
    runtime = _checked_runtime(runtime, service, package, repo, settings)
    if package.signature.feature_service and not repo:
        log.warning("%s: without feature_repo every request must carry all features itself", service)
    if repo and settings.serving != LOCAL:
        repo = shared_repo(repo, settings)
    uri = f"{settings.models_uri}/{service}/{package.digest[:12]}"
    revision = Revision(package.digest, publish_dir(package.path, uri, settings), repo, runtime)
    if RUNTIMES[runtime].tensors:
        publish_repository(package, service, served_uri(revision), settings)
    probe = _probe(package, service, runtime)
    with locked(service, settings):
        current = read_service(service, settings)
        if current is not None:
            check_running(current)
        after = pushed(current, service, revision, percent)
        _check_alike(after)
        if after != current:
            write_service(after, settings, probe)
        else:  # an earlier push may have been interrupted before it was in force
            wait_in_force(after, settings, probe)
    return _announced(after, current, revision, percent, where(service, settings))


def _checked_runtime(runtime: str, service: str, package: ModelPackage, repo: str, settings: Settings) -> str:
    """The runtime that is meant, if it can serve the package here."""
    if not runtime:
        current = read_service(service, settings)
        runtime = current.stable.runtime if current else FTI
    tensors = runtime_named(runtime).tensors
    if settings.serving == LOCAL and runtime != FTI:
        raise ConfigError(
            f"the runtime is {runtime!r}, and `fti serve` runs our predictor alone",
            allowed=FTI,
            remedy="FTI_DEVICE=cuda makes it use a GPU",
        )
    if tensors:
        check_servable(package, repo)
    return runtime


def _check_alike(service: Service) -> None:
    """Refuses to split requests between two models that do not take the same ones."""
    if service.canary and RUNTIMES[service.canary.runtime].tensors != RUNTIMES[service.stable.runtime].tensors:
        raise ConfigError(
            f"{service.name}: its stable model runs in {service.stable.runtime}, its canary would in "
            f"{service.canary.runtime}: a request that one takes the other refuses",
            remedy="Push it under another name, or with 100 percent when its clients are ready",
        )


def _probe(package: ModelPackage, service: str, runtime: str) -> Callable[[str], None] | None:
    """What tries the model where it runs; only a pod reaches it there."""
    if "KUBERNETES_SERVICE_HOST" not in os.environ:
        return None
    return partial(try_examples, package, service, runtime=runtime)


def write_endpoint(endpoint: dict[str, Any], path: str | Path) -> None:
    """Writes what push returned as JSON, whole or not at all."""
    with atomic_file(path) as scratch:
        scratch.write_text(json.dumps(endpoint, indent=2) + "\n", encoding="utf-8")


def check_blessing(path: str | Path, digest: str) -> None:
    """Refuses a model that is not blessed.

    Args:
        path: The JSON file that infra_validate wrote, or evaluate where the server is not tried.
        digest: The digest of the package to push.

    Raises:
        UnblessedModelError: The blessing is absent, unreadable, refused, or was given to another model.
    """
    blessing = read_blessing(path, digest)
    if not blessing.blessed:
        why = ": " + "; ".join(blessing.reasons) if blessing.reasons else ""
        raise UnblessedModelError(
            f"model {digest[:12]} was not blessed{why}", remedy="Read the report of the step that refused it"
        )


def _checked_percent(value: float) -> int:
    # KFP hands whole numbers over as floats where they come out of lists.
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 100 or value != int(value):
        raise ConfigError(f"canary_percent is {value!r}", allowed="a whole number from 0 to 100")
    return int(value)


def _absolute(feature_repo: str) -> str:
    """A path that holds from every working directory; a URI as it is, for another machine may be meant."""
    if not feature_repo or "://" in feature_repo:
        return feature_repo
    folder = Path(feature_repo).absolute()
    if not (folder / "feature_store.yaml").is_file():
        raise ConfigError(f"{folder} is not a Feast repository", allowed="a folder that holds feature_store.yaml")
    return str(folder)


def _announced(
    after: Service, before: Service | None, revision: Revision, percent: int, manifest: str
) -> dict[str, Any]:
    variant = STABLE if after.stable == revision else CANARY
    share = after.revisions()[variant][1]
    if share != percent:
        why = "it is the first" if before is None else "it is the stable one already"
        log.warning("%s: revision %s takes %d%%, not %d%%: %s", after.name, revision.name, share, percent, why)
    log.info("%s: %s", after.name, ", ".join(f"{v} {r.name} {p}%" for v, (r, p) in after.revisions().items()))
    return {
        "service": after.name,
        "variant": variant,
        "revision": revision.name,
        "digest": revision.digest,
        "percent": share,
        "storageUri": revision.storage_uri,
        "manifest": manifest,
    }
