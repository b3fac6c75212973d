"""KServe InferenceServices: which model packages serve under a name, with what share of the traffic.

The manifest of a service `<name>.yaml` is the one truth of what has been pushed. It is written for KServe's
Standard mode (0.20 and later: stable in `spec.predictor`, canary in `spec.canary[]`) and realised by KServe on a
cluster or by `fti serve` on a laptop.
"""

import copy
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from fti.common.errors import ConfigError, ServingError
from fti.common.files import atomic_file
from fti.common.settings import Settings

API_VERSION = "serving.kserve.io/v1beta1"
KIND = "InferenceService"
MODE = "serving.kserve.io/deploymentMode"
MODEL_FORMAT = "fti"  # what the ServingRuntime on a cluster declares to support
DIGEST = "fti/model-digest"  # an annotation: a label is too short for a SHA-256
REVISION = "fti/revision"
SHADOW = "fti/shadow"  # an annotation of a canary's predictor: it is sent copies of all requests, and answers nobody
STABLE, CANARY = "stable", "canary"

_DNS_1035 = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")
_LONGEST_NAME = 50  # leaves room for the suffixes that KServe adds, within the 63 characters of a DNS label
_FEATURE_REPO = "--feature_repo="


@dataclass(frozen=True)
class Revision:
    """A published model package, ready to serve.

    Attributes:
        digest: The digest of the package.
        storage_uri: Where the package was published.
        feature_repo: The Feast repository that the predictor asks; empty where all inputs come with the request.
    """

    digest: str
    storage_uri: str
    feature_repo: str = ""

    @property
    def name(self) -> str:
        """A short name: equal models have equal names."""
        return self.digest[:12]


@dataclass(frozen=True)
class Service:
    """What serves under one name.

    Attributes:
        name: The service's name, also the model's name in the protocols.
        stable: The revision that takes what the canary does not.
        canary: The revision on trial, if any.
        canary_percent: Its share of the traffic, 0 to 100.
        shadow: Whether the canary is sent a copy of every request, its answers unseen; its share is 0 then.
    """

    name: str
    stable: Revision
    canary: Revision | None = None
    canary_percent: int = 0
    shadow: bool = False

    def revisions(self) -> dict[str, tuple[Revision, int]]:
        """Variant (`stable`, `canary`) to revision and share in percent; the shares sum to 100."""
        variants = {STABLE: (self.stable, 100 - self.canary_percent)}
        if self.canary is not None:
            variants[CANARY] = (self.canary, self.canary_percent)
        return variants


def pushed(current: Service | None, name: str, revision: Revision, percent: int) -> Service:
    """The service after a push; pure, so that its laws can be tested.

    - The first revision becomes stable, whatever the percent: there is nothing to share with.
    - 100 makes the revision stable and ends the trial of any canary.
    - 0 to 99 makes it the canary with that share, in place of an earlier one.
    - The model that is already stable cannot be its own canary: such a push leaves the traffic as it is.
    """
    if current is None or percent == 100:
        return Service(name, stable=revision)
    if revision.digest == current.stable.digest:
        return replace(current, stable=revision)
    return replace(current, canary=revision, canary_percent=percent, shadow=False)


def check_name(name: str) -> None:
    """Refuses a name that Kubernetes would refuse.

    Raises:
        ConfigError: The name is no DNS-1035 label of at most 50 characters.
    """
    if not _DNS_1035.fullmatch(name) or len(name) > _LONGEST_NAME:
        raise ConfigError(
            f"{name!r} cannot name a service",
            allowed=f"lower-case letters, digits and inner hyphens, a letter first, at most {_LONGEST_NAME} characters",
        )


def manifest_path(name: str, settings: Settings) -> Path:
    """Where the manifest of a service lies."""
    return settings.services / f"{name}.yaml"


def service_names(settings: Settings) -> list[str]:
    """The names of all pushed services, sorted."""
    return sorted(path.stem for path in settings.services.glob("*.yaml") if path.is_file())


def stable_package_uri(name: str, settings: Settings) -> str | None:
    """Where the package of the model now served under a name lies, or None where nothing was pushed."""
    service = read_service(name, settings)
    return service.stable.storage_uri if service else None


def read_service(name: str, settings: Settings) -> Service | None:
    """Reads the service of a name, or None where nothing was pushed.

    Raises:
        ServingError: The manifest is not one that this library can read.
    """
    manifest = read_manifest(name, settings)
    return parse(manifest, str(manifest_path(name, settings))) if manifest is not None else None


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
        raise _unreadable(str(path), f"is not YAML: {error}") from error
    if not isinstance(manifest, dict):
        raise _unreadable(str(path), f"holds a {type(manifest).__name__}")
    return manifest


def write_service(service: Service, settings: Settings) -> Path:
    """Writes the manifest of a service, whole or not at all; keeps what others added to it."""
    manifest = render(service, read_manifest(service.name, settings))
    path = manifest_path(service.name, settings)
    with atomic_file(path) as scratch:
        scratch.write_text(yaml.safe_dump(manifest, sort_keys=False), encoding="utf-8")
    return path


def render(service: Service, base: dict[str, Any] | None = None) -> dict[str, Any]:
    """Renders a service as a manifest for KServe's Standard mode.

    Args:
        service: What shall serve.
        base: An earlier manifest, whose other fields (resources, service account, ...) are kept, and from whose
            stable predictor a canary takes them too.
    """
    manifest = copy.deepcopy(base) if base else {}
    metadata = manifest.get("metadata") or {}
    metadata = {**metadata, "name": service.name}
    metadata["annotations"] = {**(metadata.get("annotations") or {}), MODE: "Standard"}
    spec = manifest.get("spec") or {}
    earlier = spec.get("predictor") or {}
    spec["predictor"] = _predictor(service.stable, earlier)
    spec.pop("canary", None)
    if service.canary is not None:
        canary = {**_predictor(service.canary, earlier), "name": CANARY}
        if service.shadow:
            canary["annotations"][SHADOW] = "true"
        spec["canary"] = [{"trafficPercent": service.canary_percent, "predictor": canary}]
    return {**manifest, "apiVersion": API_VERSION, "kind": KIND, "metadata": metadata, "spec": spec}


def parse(manifest: dict[str, Any], where: str) -> Service:
    """Reads a manifest in KServe's Standard mode.

    Args:
        manifest: The manifest.
        where: How errors call it.

    Raises:
        ServingError: It lacks a field, has one of another type, or asks for a mode that is not Standard.
    """
    try:
        if manifest["kind"] != KIND or manifest["apiVersion"] != API_VERSION:
            raise _unreadable(where, f"is a {manifest['apiVersion']} {manifest['kind']}", f"{API_VERSION} {KIND}")
        metadata, spec = manifest["metadata"], manifest["spec"]
        mode = (metadata.get("annotations") or {}).get(MODE)
        if mode != "Standard":
            raise _unreadable(where, f"has the deployment mode {mode}", f"the annotation {MODE}: Standard")
        canaries = spec.get("canary") or []
        if "canaryTrafficPercent" in spec["predictor"]:  # KServe itself ignores it without a word
            raise _unreadable(where, "has a canaryTrafficPercent, which Standard mode ignores", "spec.canary")
        if len(canaries) > 1:
            raise _unreadable(where, f"has {len(canaries)} canaries", "one canary at a time")
        service = Service(name=metadata["name"], stable=_revision(spec["predictor"]))
        if canaries:
            percent = canaries[0]["trafficPercent"]
            shadow = canaries[0]["predictor"]["annotations"].get(SHADOW) == "true"
            canary = _revision(canaries[0]["predictor"])
            service = replace(service, canary=canary, canary_percent=percent, shadow=shadow)
    except (KeyError, TypeError, AttributeError) as error:
        raise _unreadable(where, f"lacks a field or has one of a wrong type: {error}") from error
    if type(service.canary_percent) is not int or not 0 <= service.canary_percent <= 100:
        raise _unreadable(where, f"gives the canary {service.canary_percent!r} percent", "a whole number from 0 to 100")
    if service.shadow and service.canary_percent:
        raise _unreadable(where, f"gives a shadow {service.canary_percent} percent of the traffic", "0")
    return service


def _predictor(revision: Revision, base: dict[str, Any]) -> dict[str, Any]:
    predictor = copy.deepcopy(base)
    model = predictor.get("model") or {}
    args = [arg for arg in model.get("args") or [] if not arg.startswith(_FEATURE_REPO)]
    if revision.feature_repo:
        args.append(_FEATURE_REPO + revision.feature_repo)
    model = {
        "name": "",  # required by the schema of a canary; KServe sets it
        **model,
        "modelFormat": {"name": MODEL_FORMAT},
        "protocolVersion": "v2",
        "storageUri": revision.storage_uri,
        "args": args,
    }
    if not args:
        del model["args"]
    predictor["annotations"] = {**(predictor.get("annotations") or {}), DIGEST: revision.digest}
    predictor["labels"] = {**(predictor.get("labels") or {}), REVISION: revision.name}
    return {**predictor, "model": model}


def _revision(predictor: dict[str, Any]) -> Revision:
    model = predictor["model"]
    repos = [arg.removeprefix(_FEATURE_REPO) for arg in model.get("args") or [] if arg.startswith(_FEATURE_REPO)]
    digest, uri = predictor["annotations"][DIGEST], model["storageUri"]
    if not isinstance(digest, str) or not isinstance(uri, str):
        raise TypeError(f"{DIGEST} and storageUri must be text")
    return Revision(digest=digest, storage_uri=uri, feature_repo=repos[-1] if repos else "")


def _unreadable(where: str, problem: str, allowed: str = "a manifest as push writes it") -> ServingError:
    return ServingError(f"{where} {problem}", allowed=allowed, remedy="Push the model again, or mend the manifest")
