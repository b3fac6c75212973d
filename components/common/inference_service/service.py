"""What serves under a name, and what a push makes of it: plain values, pure functions."""

import copy
import re
from dataclasses import dataclass, field, replace
from typing import Any

from fti.common.errors import ConfigError, ServingError

API_VERSION = "serving.kserve.io/v1beta1"
KIND = "InferenceService"
MODE = "serving.kserve.io/deploymentMode"
MODEL_FORMAT = "fti"  # what the ServingRuntime on a cluster declares to support
DIGEST = "fti/model-digest"  # an annotation: a label is too short for a SHA-256
REVISION = "fti/revision"
SHADOW = "fti/shadow"  # an annotation of a canary's predictor: it is sent copies of all requests, and answers nobody
SERVICE = "fti/service"  # a label of each of the two InferenceServices that are one service: its name
STABLE_COLOUR, CANARY_COLOUR = "fti/stable", "fti/canary"  # annotations of what splits between the two: which is which
STOP = "serving.kserve.io/stop"  # an annotation: "true" and KServe runs no pod of it
UNIT = "fti/unit"  # an annotation of a service: the column of its requests that names the unit
STABLE, CANARY = "stable", "canary"

_DNS_1035 = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")
_LONGEST_NAME = 40  # KServe's longest label of it, `isvc.<name>-canary2-predictor`, must stay within 63 characters


@dataclass(frozen=True)
class Revision:
    """A published model package, ready to serve.

    Attributes:
        digest: The digest of the package.
        storage_uri: Where the package was published.
        feature_repo: The Feast repository that the predictor asks; empty where all inputs come with the request.
        runtime: What serves it: a name of `fti.common.inference_service.runtimes`.
    """

    digest: str
    storage_uri: str
    feature_repo: str = ""
    runtime: str = "fti"

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
        unit: The column of its requests, such as an entity key, by which a local gateway keeps them with one variant.
        stopped: Whether nothing of it runs, until it is started again.
        version: The state of the cluster that this was read from: a write based on an older one is refused. Empty
            where it was not read from a cluster.
    """

    name: str
    stable: Revision
    canary: Revision | None = None
    canary_percent: int = 0
    shadow: bool = False
    unit: str = ""
    stopped: bool = False
    version: str = field(default="", compare=False, repr=False)

    def revisions(self) -> dict[str, tuple[Revision, int]]:
        """Variant (`stable`, `canary`) to revision and share in percent; the shares sum to 100."""
        variants = {STABLE: (self.stable, 100 - self.canary_percent)}
        if self.canary is not None:
            variants[CANARY] = (self.canary, self.canary_percent)
        return variants

    def promoted(self) -> "Service":
        """The service with its canary as its stable model."""
        return replace(self, stable=self.canary or self.stable, canary=None, canary_percent=0, shadow=False)

    def rolled_back(self) -> "Service":
        """The service without its canary."""
        return replace(self, canary=None, canary_percent=0, shadow=False)


def pushed(current: Service | None, name: str, revision: Revision, percent: int) -> Service:
    """The service after a push; pure, so that its laws can be tested.

    - The first revision becomes stable, whatever the percent: there is nothing to share with.
    - 100 makes the revision stable and ends the trial of any canary.
    - 0 to 99 makes it the canary with that share, in place of an earlier one.
    - The model that is already stable cannot be its own canary: such a push leaves the traffic as it is.
    """
    if current is None:
        return Service(name, stable=revision)
    if percent == 100:
        return replace(current.rolled_back(), stable=revision)
    if revision.digest == current.stable.digest:
        return replace(current, stable=revision)
    return replace(current, canary=revision, canary_percent=percent, shadow=False)


def check_name(name: str) -> None:
    """Refuses a name that Kubernetes would refuse, in itself or in what KServe makes of it.

    Raises:
        ConfigError: The name is no DNS-1035 label of at most 40 characters.
    """
    if not _DNS_1035.fullmatch(name) or len(name) > _LONGEST_NAME:
        raise ConfigError(
            f"{name!r} cannot name a service",
            allowed=f"lower-case letters, digits and inner hyphens, a letter first, at most {_LONGEST_NAME} characters",
        )


def check_running(service: Service) -> None:
    """Refuses to change the traffic of what is stopped: nothing could come into force, nor be tried.

    Raises:
        ConfigError: It is stopped.
    """
    if service.stopped:
        raise ConfigError(f"{service.name} is stopped", remedy=f"Run `fti start {service.name}` first")


def no_shadow(service: Service) -> None:
    """Refuses what no mode of KServe can do.

    Raises:
        ConfigError: The canary shall be sent copies of the requests.
    """
    if service.shadow:
        raise ConfigError(
            f"{service.name}: KServe cannot send a canary copies of the requests",
            remedy="Begin with a small share instead, such as --steps 5,25,50,100",
        )


def is_stopped(manifest: dict[str, Any]) -> bool:
    """Whether a manifest asks for no pods."""
    return str(((manifest.get("metadata") or {}).get("annotations") or {}).get(STOP, "")).lower() == "true"


def with_stop(manifest: dict[str, Any], stopped: bool) -> dict[str, Any]:
    """The manifest as it stops a service, or starts it."""
    after = copy.deepcopy(manifest)
    annotations = {key: text for key, text in (after["metadata"].get("annotations") or {}).items() if key != STOP}
    after["metadata"]["annotations"] = {**annotations, STOP: "true"} if stopped else annotations
    return after


def unreadable(where: str, problem: str, allowed: str = "a manifest as push writes it") -> ServingError:
    """The error of a manifest that this library cannot read."""
    return ServingError(f"{where} {problem}", allowed=allowed, remedy="Push the model again, or mend the manifest")
