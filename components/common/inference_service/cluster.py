"""InferenceServices of a cluster, through the Kubernetes API: read, written on what was read, and waited for."""

import hashlib
import json
import logging
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from fti.common.errors import BusyError, ConfigError, FtiError, ServingError
from fti.common.inference_service import knative, standard
from fti.common.inference_service.in_force import wait, workload_of
from fti.common.inference_service.service import API_VERSION, DIGEST, MODE, Service
from fti.common.kubernetes_api import ConflictError, KubernetesApi, merge_patch
from fti.common.settings import Settings

log = logging.getLogger(__name__)

SERVICE_ACCOUNT = "fti-predictor"  # of the predictors, unless the manifest names another
_TRIES = 20
_STRICT = {"fieldValidation": "Strict"}  # else an older KServe drops what it does not know, without a word

Manifest = dict[str, Any]


class ClusterServices:
    """The InferenceServices of one namespace.

    Args:
        api: The API server and the namespace.
        mode: `standard` or `knative`.
        seconds: How long to wait until traffic is split as asked.
    """

    def __init__(self, api: KubernetesApi, mode: str, seconds: float) -> None:
        self._api, self._knative, self._seconds = api, mode == "knative", seconds

    @classmethod
    def of(cls, settings: Settings) -> "ClusterServices":
        """Those that the settings name.

        Raises:
            ConfigError: There are no credentials.
        """
        return cls(KubernetesApi.connect(settings.namespace), settings.serving, settings.serving_seconds)

    def where(self, name: str) -> str:
        """How errors and reports call a service."""
        return f"InferenceService {self._api.namespace}/{name}"

    def names(self) -> list[str]:
        """The names of all pushed services, sorted; those that others made are not ours."""
        found = self._api.call("GET", self._path())["items"]
        ours = (item for item in found if DIGEST in (item["spec"].get("predictor", {}).get("annotations") or {}))
        return sorted(item["metadata"]["name"] for item in ours)

    def read(self, name: str) -> Service | None:
        """Reads a service, or None where nothing was pushed.

        Raises:
            ServingError: It is not one that this library can read, or the API server refuses.
        """
        manifest = self._api.get(self._path(name))
        return self._parsed(manifest) if manifest else None

    def write(self, service: Service, probe: Callable[[str], None] | None = None) -> None:
        """Makes a service what it shall be, and returns when traffic is split so.

        Where that fails, what was stable is stable again, with all of the traffic or what it had.

        Args:
            service: What it shall be.
            probe: Called with the address of the new model when it is up, before a canary gets traffic.

        Raises:
            ConfigError: This mode of KServe cannot do what is asked.
            BusyError: Somebody else changed the service since it was read, or does so now.
            ServingError: It does not come into force; says what is missing.
        """
        base = self._api.get(self._path(service.name))
        self._check_unchanged(service, base)
        self._check_possible(service, base)
        current = self._parsed(base) if base else None
        steps = knative.steps(service, current, base) if self._knative else standard.steps(service, current)
        written = base
        try:
            for step in steps:
                written = self._apply(step, written)
                self._wait(step, written, base)
                if probe and step is steps[0]:
                    probe(self._address(service.name, self._api.get(self._path(service.name)) or written))
        except BusyError:
            raise
        except FtiError:
            self._restore(service.name, current, base, written)
            raise
        if self._knative and service.canary is None and knative.PERCENT in (written or {})["spec"]["predictor"]:
            self._remember(service.name, {knative.ROLLED_BACK: knative.newest(written or {})})

    def wait(self, service: Service, probe: Callable[[str], None] | None = None) -> None:
        """Waits until traffic is split as a service that was written before asks.

        Args:
            service: As it was read.
            probe: Called with the address of its newest model then.

        Raises:
            BusyError: Somebody else changes the service meanwhile.
            ServingError: It does not come into force; says what is missing.
        """
        manifest = self._api.get(self._path(service.name))
        self._check_unchanged(service, manifest)
        if manifest is not None:
            self._wait(service, manifest, manifest)
            if probe:
                probe(self._address(service.name, self._api.get(self._path(service.name)) or manifest))

    def delete(self, name: str) -> bool:
        """Deletes a service with all that KServe made of it; says whether there was one."""
        there = self._api.get(self._path(name)) is not None
        if there:
            self._api.call("DELETE", self._path(name))
        if self._api.get(self._trial_path(name)) is not None:
            self._api.call("DELETE", self._trial_path(name))
        return there

    def _apply(self, service: Service, base: Manifest | None) -> Manifest:
        """Writes a manifest on what was read; where only its status has moved since, on that."""
        for _ in range(_TRIES):
            try:
                return self._create(service) if base is None else self._patch(service, base)
            except ConflictError:
                found = self._api.get(self._path(service.name))
                if found is None or base is None or version_of(found) != version_of(base):
                    raise self._taken(service.name) from None
                base = found
        raise BusyError(f"{self.where(service.name)} changes all the time", remedy="Run it again")

    def _create(self, service: Service) -> Manifest:
        manifest = (knative if self._knative else standard).render(service)
        manifest["metadata"]["namespace"] = self._api.namespace
        manifest["spec"]["predictor"]["serviceAccountName"] = SERVICE_ACCOUNT
        return self._api.call("POST", self._path(), manifest, _STRICT)

    def _patch(self, service: Service, base: Manifest) -> Manifest:
        if self._knative and (service.canary is not None or knative.PERCENT in base["spec"]["predictor"]):
            self._remember(service.name, knative.trial(service, base, self._trial(service.name)))
        after = (knative if self._knative else standard).render(service, base)
        return self._put(base, after)

    def _put(self, base: Manifest, after: Manifest) -> Manifest:
        patch = merge_patch(
            {"spec": base["spec"], "metadata": {"annotations": base["metadata"].get("annotations") or {}}},
            {"spec": after["spec"], "metadata": {"annotations": after["metadata"].get("annotations") or {}}},
        )
        patch.setdefault("metadata", {})["resourceVersion"] = base["metadata"]["resourceVersion"]
        return self._api.call("PATCH", self._path(base["metadata"]["name"]), patch, _STRICT)

    def _restore(self, name: str, current: Service | None, base: Manifest | None, written: Manifest | None) -> None:
        """Takes back what did not come into force, unless somebody else has changed it since."""
        try:
            found = self._api.get(self._path(name))
            if written is None or found is None or version_of(found) != version_of(written):
                return
            if current is None or base is None:  # the first model of all: there is nothing to go back to
                self.delete(name)
                log.warning("%s: taken away again", name)
                return
            if version_of(found) == version_of(base):
                return
            if self._knative:  # the stable model must not be written anew: see knative.render
                self._apply(current.rolled_back(), found)
                self._remember(current.name, {knative.ROLLED_BACK: knative.newest(found)})
            elif found["spec"]["predictor"].get("name") == base["spec"]["predictor"].get("name"):
                self._put(found, base)
            else:  # promoted: the pods of the model before are gone
                return
            log.warning("%s: set back to what it was", name)
        except FtiError as error:
            log.warning("%s: could not be set back to what it was: %s", name, error)

    def _wait(self, service: Service, written: Manifest, base: Manifest | None) -> None:
        def read() -> Manifest:
            found = self._api.get(self._path(service.name))
            if found is None or version_of(found) != version_of(written):
                raise self._taken(service.name)
            return found

        trial = self._trial(service.name) if self._knative else {}
        wait(service, read, base, self._api, self._seconds, trial=trial, knative_mode=self._knative)

    def _address(self, name: str, manifest: Manifest) -> str:
        """Where the newest model answers, within the cluster."""
        if self._knative:  # a tag's URL in the status is that for callers from outside
            traffic = knative.predictor_status(manifest).get("traffic") or []
            tag = "latest-" if any(target.get("tag") == "latest" for target in traffic) else ""
            return f"http://{tag}{name}-predictor.{self._api.namespace}.svc.cluster.local"
        canaries = manifest["spec"].get("canary") or []
        predictor = canaries[0]["predictor"] if canaries else manifest["spec"]["predictor"]
        return f"http://{workload_of(name, predictor)}.{self._api.namespace}.svc.cluster.local"

    def _check_unchanged(self, service: Service, base: Manifest | None) -> None:
        if service.version and (base is None or version_of(base) != service.version):
            raise self._taken(service.name)
        if not service.version and base is not None:
            raise self._taken(service.name)

    def _check_possible(self, service: Service, base: Manifest | None) -> None:
        name = service.name
        if service.shadow:
            raise ConfigError(
                f"{name}: KServe cannot send a canary copies of the requests",
                remedy="Begin with a small share instead, such as --steps 5,25,50,100",
            )
        if base is None or service.canary is None:
            return
        if self._knative and not knative.predictor_status(base).get("latestRolledoutRevision"):
            raise ServingError(
                f"{name}: its stable model has never been ready: a canary would get all of the traffic",
                remedy="Push a model with 100 percent",
            )
        if not self._knative and base["spec"]["predictor"].get("minReplicas") == 0:
            raise ConfigError(
                f"{name}: minReplicas is 0, and a canary gets its share of the stable model's replicas: none",
                remedy="Set spec.predictor.minReplicas to 1 or more",
            )

    def _parsed(self, manifest: Manifest) -> Service:
        where = self.where(manifest["metadata"]["name"])
        mode = (manifest["metadata"].get("annotations") or {}).get(MODE)
        if mode is None and DIGEST not in (manifest["spec"].get("predictor", {}).get("annotations") or {}):
            raise ServingError(f"{where} was not made by a push", remedy="Choose another name, or delete it first")
        if self._knative:
            trial = self._trial(manifest["metadata"]["name"])
            return replace(knative.parse(manifest, where, trial), version=version_of(manifest))
        return replace(standard.parse(manifest, where), version=version_of(manifest))

    def _trial(self, name: str) -> dict[str, str]:
        found = self._api.get(self._trial_path(name)) or {}
        return dict(found.get("data") or {})

    def _remember(self, name: str, data: dict[str, str]) -> None:
        path = self._trial_path(name)
        if self._api.get(path) is None:
            metadata = {"name": f"fti-trial-{name}", "labels": {"app.kubernetes.io/part-of": "kfp-fti"}}
            body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data}
            self._api.call("POST", path.rsplit("/", 1)[0], body)
        else:
            self._api.call("PATCH", path, {"data": data})

    def _taken(self, name: str) -> BusyError:
        return BusyError(
            f"somebody else changed {self.where(name)} at the same time", remedy="Look at it, then run this again"
        )

    def _path(self, name: str = "") -> str:
        path = f"apis/{API_VERSION}/namespaces/{self._api.namespace}/inferenceservices"
        return f"{path}/{name}" if name else path

    def _trial_path(self, name: str) -> str:
        return f"api/v1/namespaces/{self._api.namespace}/configmaps/fti-trial-{name}"


def version_of(manifest: Manifest) -> str:
    """What a manifest asks for, in short; its status does not count."""
    metadata = manifest["metadata"]
    asked = [metadata.get("uid", ""), manifest["spec"], (metadata.get("annotations") or {}).get(MODE, "")]
    return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()
