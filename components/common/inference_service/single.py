"""A service that is one InferenceService of a cluster: read, written on what was read, and waited for."""

import logging
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace

from fti.common.errors import BusyError, ConfigError, FtiError, ServingError
from fti.common.inference_service import knative, standard
from fti.common.inference_service.failures import Failure, failures
from fti.common.inference_service.in_force import knative_pending, standard_pending, wait, workload_of
from fti.common.inference_service.modes import KNATIVE
from fti.common.inference_service.objects import Manifest, apply, taken, version_of
from fti.common.inference_service.service import (
    API_VERSION,
    DIGEST,
    MODE,
    SERVICE,
    Service,
    check_running,
    no_shadow,
    with_stop,
)
from fti.common.inference_service.stopping import gone, stopped_pending
from fti.common.kubernetes_api import ConflictError, KubernetesApi

log = logging.getLogger(__name__)

SERVICE_ACCOUNT = "fti-predictor"  # of the predictors, unless the manifest names another


class OneInferenceService:
    """Services that KServe itself splits, in its Standard or its Knative mode.

    Args:
        api: The API server and the namespace.
        mode: `standard` or `knative`.
        seconds: How long to wait until traffic is split as asked.
    """

    def __init__(self, api: KubernetesApi, mode: str, seconds: float) -> None:
        self._api, self._knative, self._seconds = api, mode == KNATIVE, seconds

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
        if self._knative and written is not None and knative.taken_back(service, written):
            self._remember(service.name, {knative.ROLLED_BACK: knative.newest(written)})

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

    def where(self, name: str) -> str:
        """How errors and reports call a service."""
        return f"InferenceService {self._api.namespace}/{name}"

    def delete(self, name: str) -> bool:
        """Deletes a service with all that KServe made of it; says whether there was one."""
        there = gone(self._api, self._path(name), self.where(name), self._seconds)
        gone(self._api, self._trial_path(name), self.where(name), self._seconds)
        return there

    def stop(self, name: str, stopped: bool) -> bool:
        """Stops a service, or starts it, and waits for that; says whether it was otherwise before.

        Raises:
            ConfigError: In Knative mode, a canary is on trial: it would come back with all of the traffic.
            BusyError: Somebody else changes the service meanwhile.
            ServingError: It does not come to be.
        """
        base = self._api.get(self._path(name))
        if base is None:
            return False
        service = self._parsed(base)

        def after(now: Manifest) -> Manifest:
            return with_stop(knative.without_trial(service, now) if self._knative and stopped else now, stopped)

        written = self._put(base, after) if service.stopped != stopped else base
        if stopped:
            wait(name, lambda: stopped_pending(self._current(name, written)), list, self._seconds)
        else:
            self._wait(replace(service, stopped=False), written, written)
        return service.stopped != stopped

    def _apply(self, service: Service, base: Manifest | None) -> Manifest:
        """Writes a service on what was read."""
        if base is not None and self._knative:
            self._remember(service.name, knative.trial(service, base, self._trial(service.name)))
        return apply(
            self._api,
            self._path(service.name),
            base,
            lambda now: self._rendered(service, now),
            self.where(service.name),
        )

    def _rendered(self, service: Service, base: Manifest | None) -> Manifest:
        manifest = knative.render(service, base) if self._knative else standard.render(service, base)
        if base is None:
            manifest["metadata"]["namespace"] = self._api.namespace
            manifest["spec"]["predictor"]["serviceAccountName"] = SERVICE_ACCOUNT
        return manifest

    def _put(self, base: Manifest, after: Callable[[Manifest], Manifest]) -> Manifest:
        name = base["metadata"]["name"]
        return apply(self._api, self._path(name), base, lambda now: after(now or base), self.where(name))

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
            moved = version_of(found) != version_of(base)
            if self._knative and (moved or knative.taken_back(current, base)):
                if moved:  # the stable model must not be written anew: see knative.render
                    self._apply(current.rolled_back(), found)
                self._remember(current.name, {knative.ROLLED_BACK: knative.newest(found)})
            elif not moved:
                return
            elif found["spec"]["predictor"].get("name") == base["spec"]["predictor"].get("name"):
                self._put(found, lambda now: {**now, "spec": base["spec"]})
            else:  # promoted: the pods of the model before are gone
                return
            log.warning("%s: set back to what it was", name)
        except FtiError as error:
            log.warning("%s: could not be set back to what it was: %s", name, error)

    def _wait(self, service: Service, written: Manifest, base: Manifest | None) -> None:
        seen: Manifest = written
        trial = self._trial(service.name) if self._knative else {}

        def pending() -> list[str]:
            nonlocal seen
            seen = self._current(service.name, written)
            if self._knative:
                return knative_pending(service, seen, base, trial)
            return standard_pending(service, seen, self._api)

        def problems() -> list[Failure]:
            revisions = [revision for revision, _ in service.revisions().values()]
            if self._knative:  # only the newest is waited for, which may replace one that is down
                revisions = revisions[-1:]
            return failures(service.name, revisions, seen, self._api)

        wait(service.name, pending, problems, self._seconds)

    def _current(self, name: str, written: Manifest) -> Manifest:
        found = self._api.get(self._path(name))
        if found is None or version_of(found) != version_of(written):
            raise taken(self.where(name))
        return found

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
            raise taken(self.where(service.name))
        if not service.version and base is not None:
            raise taken(self.where(service.name))

    def _check_possible(self, service: Service, base: Manifest | None) -> None:
        name = service.name
        no_shadow(service)
        if base is not None:
            check_running(self._parsed(base))
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
        whole = (manifest["metadata"].get("labels") or {}).get(SERVICE)
        if whole:
            raise ServingError(f"{where} is one of the two that are service {whole}", remedy=f"Use the service {whole}")
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
        if not data:
            return
        if self._api.get(path) is None:
            metadata = {"name": f"fti-trial-{name}", "labels": {"app.kubernetes.io/part-of": "kfp-fti"}}
            body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data}
            with suppress(ConflictError):  # it was written, and the answer got lost
                self._api.call("POST", path.rsplit("/", 1)[0], body)
        self._api.call("PATCH", path, {"data": data})

    def _path(self, name: str = "") -> str:
        path = f"apis/{API_VERSION}/namespaces/{self._api.namespace}/inferenceservices"
        return f"{path}/{name}" if name else path

    def _trial_path(self, name: str) -> str:
        return f"api/v1/namespaces/{self._api.namespace}/configmaps/fti-trial-{name}"
