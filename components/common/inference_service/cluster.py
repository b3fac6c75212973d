"""InferenceServices of a cluster, through the Kubernetes API, however that cluster splits traffic."""

import logging
from collections.abc import Callable
from typing import Any

from fti.common.errors import ConfigError, ServingError
from fti.common.inference_service.fronts import BLUE, GREEN, Graph, Route
from fti.common.inference_service.modes import GRAPH, ROUTE, choose, read_abilities
from fti.common.inference_service.service import API_VERSION, DIGEST, MODE, SERVICE, Service, check_name
from fti.common.inference_service.single import OneInferenceService
from fti.common.inference_service.stopping import gone
from fti.common.inference_service.twins import TwoInferenceServices
from fti.common.kubernetes_api import KubernetesApi
from fti.common.settings import CLUSTER, KNATIVE, STANDARD, Settings

log = logging.getLogger(__name__)

_MODES = {"Knative": KNATIVE, "Serverless": KNATIVE, "Standard": STANDARD, "RawDeployment": STANDARD}

Realm = OneInferenceService | TwoInferenceServices


class ClusterServices:
    """The InferenceServices of one namespace.

    Args:
        api: The API server and the namespace.
        settings: `serving` says how traffic is split, or that the cluster says it; and how long to wait for that.
    """

    def __init__(self, api: KubernetesApi, settings: Settings) -> None:
        self._api, self._settings = api, settings

    @classmethod
    def of(cls, settings: Settings) -> "ClusterServices":
        """Those that the settings name.

        Raises:
            ConfigError: There are no credentials.
        """
        return cls(KubernetesApi.connect(settings.namespace), settings)

    def where(self, name: str) -> str:
        """How errors and reports call a service."""
        realm = self._existing(name)
        return realm.where(name) if realm else f"InferenceService {self._api.namespace}/{name}"

    def names(self) -> list[str]:
        """The names of all pushed services, sorted; those that others made are not ours."""
        found = self._api.call("GET", self._path())["items"]
        ours = [item for item in found if DIGEST in (item["spec"].get("predictor", {}).get("annotations") or {})]
        return sorted({(item["metadata"].get("labels") or {}).get(SERVICE, item["metadata"]["name"]) for item in ours})

    def read(self, name: str) -> Service | None:
        """Reads a service, or None where nothing was pushed.

        Raises:
            ServingError: It is not one that this library can read, or the API server refuses.
        """
        realm = self._existing(name)
        return realm.read(name) if realm else None

    def write(self, service: Service, probe: Callable[[str], None] | None = None) -> None:
        """Makes a service what it shall be, and returns when traffic is split so.

        Where that fails, what was stable is stable again, with all of the traffic or what it had.

        Args:
            service: What it shall be.
            probe: Called with the address of the new model when it is up, before a canary gets traffic.

        Raises:
            ConfigError: What is asked cannot be done on this cluster.
            BusyError: Somebody else changed the service since it was read, or does so now.
            ServingError: It does not come into force; says what is missing.
        """
        (self._existing(service.name) or self._new()).write(service, probe)

    def wait(self, service: Service, probe: Callable[[str], None] | None = None) -> None:
        """Waits until traffic is split as a service that was written before asks.

        Args:
            service: As it was read.
            probe: Called with the address of its newest model then.

        Raises:
            BusyError: Somebody else changes the service meanwhile.
            ServingError: It does not come into force; says what is missing.
        """
        realm = self._existing(service.name)
        if realm:
            realm.wait(service, probe)

    def stop(self, name: str, stopped: bool) -> bool:
        """Stops a service, or starts it, and waits for that; says whether it was otherwise before.

        Raises:
            ConfigError: In Knative mode, a canary is on trial; or its first push was cut off.
            BusyError: Somebody else changes the service meanwhile.
            ServingError: It does not come to be.
        """
        realm = self._existing(name)
        if realm is None:
            raise ConfigError(
                f"{name} has never been up: its first push was cut off", remedy=f"Push it again, or `fti delete {name}`"
            )
        return realm.stop(name, stopped)

    def delete(self, name: str) -> bool:
        """Deletes a service with all that was made of it, and waits for that; says whether there was one.

        Raises:
            ServingError: It was not made by a push, or it does not go.
        """
        realm = self._existing(name)
        if isinstance(realm, OneInferenceService):
            realm.read(name)  # refuses what others made
        if realm is not None:
            return realm.delete(name)
        halves = self._halves(name)  # of a first push that was cut off
        for half in halves:
            gone(self._api, self._path(half), f"InferenceService {half}", self._settings.serving_seconds)
        # what a deletion that was cut off has left
        OneInferenceService(self._api, KNATIVE, self._settings.serving_seconds).delete(name)
        return bool(halves)

    def _existing(self, name: str) -> Realm | None:
        """How a service that exists is split, as it says itself; None too where a first push was cut off."""
        check_name(name)
        one = self._api.get(self._path(name))
        if one is not None:
            mode = self._settings.serving if self._settings.serving != CLUSTER else _mode_of(one)
            return OneInferenceService(self._api, mode, self._settings.serving_seconds)
        for front in (Route(self._api), Graph(self._api)):
            found = self._api.get(front.path(name))
            if found is not None and _is_of(name, found):
                return TwoInferenceServices(self._api, front, self._settings.serving_seconds)
        return None

    def _halves(self, name: str) -> list[str]:
        """The InferenceServices that are one service together."""
        both = {f"{name}-{colour}": self._api.get(self._path(f"{name}-{colour}")) for colour in (BLUE, GREEN)}
        return [half for half, manifest in both.items() if manifest and _is_of(name, manifest)]

    def _new(self) -> Realm:
        """How a new service shall be split, as the settings or the cluster say."""
        mode, seconds = self._settings.serving, self._settings.serving_seconds
        if mode != CLUSTER:
            return OneInferenceService(self._api, mode, seconds)
        abilities = read_abilities(self._api, self._settings.kserve_namespace)
        mode = choose(abilities)
        log.info("This cluster splits traffic by %s: %s", mode, abilities)
        if mode == ROUTE:
            return TwoInferenceServices(self._api, Route(self._api, abilities), seconds)
        if mode == GRAPH:
            return TwoInferenceServices(self._api, Graph(self._api), seconds)
        return OneInferenceService(self._api, mode, seconds)

    def _path(self, name: str = "") -> str:
        path = f"apis/{API_VERSION}/namespaces/{self._api.namespace}/inferenceservices"
        return f"{path}/{name}" if name else path


def _is_of(name: str, manifest: dict[str, Any]) -> bool:
    return (manifest["metadata"].get("labels") or {}).get(SERVICE) == name


def _mode_of(manifest: dict[str, Any]) -> str:
    """The mode of a service that exists, in KServe's own order: its status, then its annotation."""
    metadata = manifest["metadata"]
    said = (manifest.get("status") or {}).get("deploymentMode") or (metadata.get("annotations") or {}).get(MODE, "")
    if said not in _MODES:
        raise ServingError(
            f"InferenceService {metadata['name']} was not made by a push: its deployment mode is {said or 'not said'}",
            remedy="Choose another name, or delete it first",
        )
    return _MODES[said]
