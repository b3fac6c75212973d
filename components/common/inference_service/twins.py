"""A service that is two InferenceServices, blue and green, behind a route or a graph: for clusters where KServe itself
cannot split a service's traffic.

What splits (the front) bears the service's name and says which colour is stable. A new model always comes up in the
other colour, without traffic; then the front moves, in one write; then what has no traffic goes. So no model is ever
replaced while it serves, and promotion starts no pod.
"""

import copy
import logging
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from fti.common.errors import BusyError, ConfigError, FtiError, ServingError
from fti.common.inference_service import standard
from fti.common.inference_service.failures import Failure, failures
from fti.common.inference_service.fronts import BLUE, GREEN, Front, Graph, Split, other, split_of, workload
from fti.common.inference_service.half import render_half
from fti.common.inference_service.in_force import standard_pending, wait
from fti.common.inference_service.objects import Manifest, apply, taken, version_of
from fti.common.inference_service.runtimes import RUNTIMES
from fti.common.inference_service.service import (
    API_VERSION,
    SERVICE,
    Revision,
    Service,
    check_running,
    is_stopped,
    no_shadow,
    unreadable,
    with_stop,
)
from fti.common.inference_service.stopping import gone, stopped_pending
from fti.common.kubernetes_api import KubernetesApi

log = logging.getLogger(__name__)

Probe = Callable[[str], None]


@dataclass
class _State:
    """What there is of a service.

    Attributes:
        front: What splits, as it was read or last written.
        models: Colour to InferenceService, likewise.
    """

    front: Manifest | None
    models: dict[str, Manifest] = field(default_factory=dict)

    @property
    def version(self) -> str:
        return version_of(self.front, *(self.models.get(colour) for colour in (BLUE, GREEN)))


class TwoInferenceServices:
    """Services split by what this library writes.

    Args:
        api: The API server and the namespace.
        front: What splits.
        seconds: How long to wait until traffic is split as asked.
    """

    def __init__(self, api: KubernetesApi, front: Front, seconds: float) -> None:
        self._api, self._front, self._seconds = api, front, seconds

    def where(self, name: str) -> str:
        """How errors and reports call a service."""
        return f"{self._front.kind} {self._api.namespace}/{name}"

    def read(self, name: str) -> Service | None:
        """Reads a service, or None where nothing was pushed, or a first push was cut off.

        Raises:
            ServingError: It is not one that this library can read, or the API server refuses.
        """
        return self._service(name, self._state(name))

    def write(self, service: Service, probe: Probe | None = None) -> None:
        """As `OneInferenceService.write`."""
        state = self._state(service.name)
        current = self._service(service.name, state)
        if service.version != (state.version if current else ""):
            raise taken(self.where(service.name))
        self._check_possible(service, current)
        before = copy.deepcopy(state)
        try:
            final = self._realise(service, current, state, probe)
        except BusyError:
            raise
        except FtiError:
            self._restore(service.name, before, state)
            raise
        self._tidy(service.name, final, state)

    def wait(self, service: Service, probe: Probe | None = None) -> None:
        """As `OneInferenceService.wait`; also takes away what an interrupted change has left over."""
        state = self._state(service.name)
        if state.front is None or service.version != state.version:
            raise taken(self.where(service.name))
        split = self._split(service.name, state.front)
        colours = {split.stable: service.stable, **({split.canary: service.canary} if service.canary else {})}
        for colour, revision in colours.items():
            self._wait_model(service.name, colour, revision, state)
        self._wait_front(service.name, state)
        if probe:
            probe(self._address(service.name, split.canary if service.canary else split.stable))
        self._tidy(service.name, split, state)

    def delete(self, name: str) -> bool:
        """Deletes a service with all that was made of it, first what brings requests; says whether there was one."""
        found = gone(self._api, self._front.path(name), self.where(name), self._seconds)
        for colour in (BLUE, GREEN):
            found |= gone(self._api, self._path(name, colour), f"InferenceService {name}-{colour}", self._seconds)
        return found

    def stop(self, name: str, stopped: bool) -> bool:
        """As `OneInferenceService.stop`."""
        state = self._state(name)
        service = self._service(name, state)
        if service is None or state.front is None:
            return False
        for colour, manifest in state.models.items():
            if is_stopped(manifest) != stopped:
                state.models[colour] = self._write_model(name, colour, manifest, with_stop(manifest, stopped))
        if isinstance(self._front, Graph):
            after = with_stop(state.front, stopped)
            state.front = apply(self._api, self._front.path(name), state.front, lambda _: after, self.where(name))
        if stopped:
            wait(name, lambda: self._not_stopped(name, state), list, self._seconds)
        else:
            self.wait(replace(service, version=state.version))
        return service.stopped != stopped

    def _realise(self, service: Service, current: Service | None, state: _State, probe: Probe | None) -> Split:
        """Step by step, each when the one before is in force; returns who has the traffic then."""
        name = service.name
        if current is None or state.front is None:  # the first model
            self._bring_up(name, BLUE, service.stable, state, probe)
            return self._point(name, Split(BLUE), state)
        split = self._split(name, state.front)
        rising = service.canary
        if service.stable.digest != current.stable.digest:
            rising = service.stable
        elif service.stable != current.stable:
            self._bring_up(name, split.stable, service.stable, state, None)
        final = Split(split.stable)
        if rising is not None:
            colour = other(split.stable)
            if rising != current.canary:
                self._point(name, Split(split.stable, colour), state)  # what is there loses its traffic first
                self._bring_up(name, colour, rising, state, probe)
            final = Split(split.stable, colour, service.canary_percent) if service.canary else Split(colour)
        return self._point(name, final, state)

    def _bring_up(self, name: str, colour: str, revision: Revision, state: _State, probe: Probe | None) -> None:
        """Makes one of both serve a model, waits for its pods, and tries it."""
        base = state.models.get(colour)
        pattern = base or next(iter(state.models.values()), None)  # resources, replicas, … as the platform set them
        after = render_half(name, colour, revision, pattern, self._api.namespace)
        state.models[colour] = self._write_model(name, colour, base, after)
        self._wait_model(name, colour, revision, state)
        if probe:
            probe(self._address(name, colour))

    def _point(self, name: str, split: Split, state: _State) -> Split:
        """Moves the traffic, and waits until it has moved."""
        self._write_front(name, split, state)
        self._wait_front(name, state)
        return split

    def _tidy(self, name: str, split: Split, state: _State) -> None:
        """Takes away the one of both that has nothing to do with the service any more."""
        for colour in set(state.models) - {split.stable, split.canary}:
            gone(self._api, self._path(name, colour), f"InferenceService {name}-{colour}", self._seconds)
            del state.models[colour]

    def _restore(self, name: str, before: _State, state: _State) -> None:
        """Takes back what did not come into force, unless somebody else has changed it since.

        A canary that was to be replaced does not come back: it would get its share before its pods are up again.
        """
        try:
            if self._state(name).version != state.version:
                return
            if before.front is None:  # the first model of all: there is nothing to go back to
                self.delete(name)
                log.warning("%s: taken away again", self.where(name))
                return
            split = self._split(name, before.front)
            trial = other(split.stable)
            if version_of(before.models.get(trial)) != version_of(state.models.get(trial)):
                split = Split(split.stable)
            self._write_front(name, split, state)
            earlier, now = before.models[split.stable], state.models[split.stable]
            if version_of(earlier) != version_of(now):
                state.models[split.stable] = self._write_model(name, split.stable, now, earlier)
            if not split.canary:
                self._tidy(name, split, state)
            log.warning("%s: set back to what it was", self.where(name))
        except FtiError as error:
            log.warning("%s: could not be set back to what it was: %s", self.where(name), error)

    def _write_front(self, name: str, split: Split, state: _State) -> None:
        def render(now: Manifest | None) -> Manifest:
            return self._front.render(name, split, now)

        state.front = apply(self._api, self._front.path(name), state.front, render, self.where(name))

    def _write_model(self, name: str, colour: str, base: Manifest | None, after: Manifest) -> Manifest:
        where = f"InferenceService {self._api.namespace}/{name}-{colour}"
        return apply(self._api, self._path(name, colour), base, lambda _: after, where)

    def _wait_front(self, name: str, state: _State) -> None:
        def pending() -> list[str]:
            found = self._api.get(self._front.path(name))
            if found is None or version_of(found) != version_of(state.front):
                raise taken(self.where(name))
            return self._front.pending(name, found)

        wait(name, pending, lambda: self._front.problems(name), self._seconds)

    def _wait_model(self, name: str, colour: str, revision: Revision, state: _State) -> None:
        of = Service(f"{name}-{colour}", revision)
        seen = state.models[colour]

        def pending() -> list[str]:
            nonlocal seen
            found = self._api.get(self._path(name, colour))
            if found is None or version_of(found) != version_of(state.models[colour]):
                raise taken(f"InferenceService {self._api.namespace}/{of.name}")
            seen = found
            return standard_pending(of, seen, self._api)

        def problems() -> list[Failure]:
            return failures(of.name, [revision], seen, self._api)

        wait(name, pending, problems, self._seconds)

    def _not_stopped(self, name: str, state: _State) -> list[str]:
        found = [self._api.get(self._path(name, colour)) for colour in state.models]
        return [each for manifest in found if manifest for each in stopped_pending(manifest)]

    def _address(self, name: str, colour: str) -> str:
        """Where one of both answers, within the cluster."""
        return f"http://{workload(name, colour)}.{self._api.namespace}.svc.cluster.local"

    def _check_possible(self, service: Service, current: Service | None) -> None:
        no_shadow(service)
        if current is not None:
            check_running(current)
        if isinstance(self._front, Graph) and RUNTIMES[service.stable.runtime].tensors:
            raise ConfigError(
                f"{service.name}: an InferenceGraph asks with protocol V1, which {service.stable.runtime} has not",
                allowed="the runtimes fti and fti-gpu on this cluster",
            )

    def _state(self, name: str) -> _State:
        found = {colour: self._api.get(self._path(name, colour)) for colour in (BLUE, GREEN)}
        models = {colour: manifest for colour, manifest in found.items() if manifest is not None}
        for colour, manifest in models.items():
            if (manifest["metadata"].get("labels") or {}).get(SERVICE) != name:
                where = f"InferenceService {self._api.namespace}/{name}-{colour}"
                raise ServingError(f"{where} was not made by a push", remedy="Choose another name, or delete it first")
        return _State(self._api.get(self._front.path(name)), models)

    def _split(self, name: str, front: Manifest) -> Split:
        return split_of(self._front, name, front, self.where(name))

    def _service(self, name: str, state: _State) -> Service | None:
        if state.front is None:
            return None
        split = self._split(name, state.front)
        if split.stable not in state.models:
            raise unreadable(self.where(name), f"sends requests to {name}-{split.stable}, which is gone")
        parsed = {colour: self._parsed(name, colour, manifest) for colour, manifest in state.models.items()}
        service = Service(
            name,
            parsed[split.stable].stable,
            stopped=parsed[split.stable].stopped,
            version=state.version,
        )
        if split.canary not in parsed:  # none, or a push was cut off before it made one
            return service
        return replace(service, canary=parsed[split.canary].stable, canary_percent=split.percent)

    def _parsed(self, name: str, colour: str, manifest: Manifest) -> Service:
        return standard.parse(manifest, f"InferenceService {self._api.namespace}/{name}-{colour}")

    def _path(self, name: str, colour: str) -> str:
        return f"apis/{API_VERSION}/namespaces/{self._api.namespace}/inferenceservices/{name}-{colour}"
