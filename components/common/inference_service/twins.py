"""A service that is two InferenceServices, blue and green, behind a route or a graph: for clusters where KServe itself
cannot split a service's traffic.

What splits (the front) bears the service's name and says which colour is stable. A new model always comes up in the
other colour, without traffic; then the front moves, in one write; then what has no traffic goes. So no model is ever
replaced while it serves, and promotion starts no pod.
"""

import copy
import logging
import time
from collections.abc import Callable
from dataclasses import replace

from fti.common.errors import BusyError, ConfigError, FtiError
from fti.common.inference_service.failures import Failure, failures
from fti.common.inference_service.fronts import BLUE, Front, Graph, Split, other, split_of, workload
from fti.common.inference_service.half import render_half
from fti.common.inference_service.in_force import standard_pending, wait
from fti.common.inference_service.objects import Manifest, apply, taken, version_of
from fti.common.inference_service.pair import State, half_path, half_where, read_state, service_of
from fti.common.inference_service.runtimes import RUNTIMES
from fti.common.inference_service.service import (
    Revision,
    Service,
    check_running,
    no_shadow,
    unreadable,
    with_stop,
)
from fti.common.inference_service.stopping import BACKGROUND, gone, stopped_pending
from fti.common.kubernetes_api import KubernetesApi

log = logging.getLogger(__name__)

Probe = Callable[[str], None]
Render = Callable[[Manifest | None], Manifest]


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
        """Reads a service, or None where nothing was pushed, or there is no stable model.

        Raises:
            ServingError: It is not one that this library can read, or the API server refuses.
        """
        return service_of(name, self._state(name), self._front, self._api)

    def write(self, service: Service, probe: Probe | None = None) -> None:
        """As `OneInferenceService.write`."""
        state = self._state(service.name)
        current = service_of(service.name, state, self._front, self._api)
        if service.version != (state.version if current else ""):
            raise taken(self.where(service.name))
        self._check_possible(service, current, state)
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
        if split.canary and service.canary is None:  # it was deleted by hand
            split = Split(split.stable)
            self._write_front(service.name, split, state)
        colours = {split.stable: service.stable, **({split.canary: service.canary} if service.canary else {})}
        for colour, revision in colours.items():
            self._wait_model(service.name, colour, revision, state)
        self._wait_front(service.name, state)
        if probe:
            probe(self._address(service.name, split.canary if service.canary else split.stable))
        self._tidy(service.name, split, state)

    def delete(self, name: str) -> bool:
        """Deletes a service with all that was made of it; says whether there was one.

        Raises:
            BusyError: Somebody else changes the service meanwhile.
            ServingError: One of both was not made by a push, or something does not go.
        """
        return self._remove(name, self._state(name))

    def stop(self, name: str, stopped: bool) -> bool:
        """As `OneInferenceService.stop`."""
        state = self._state(name)
        service = service_of(name, state, self._front, self._api)
        if service is None or state.front is None:
            raise unreadable(self.where(name), "sends requests to a model that is gone")
        version = state.version

        def render(now: Manifest | None) -> Manifest:
            return with_stop(now or {}, stopped)

        for colour, manifest in state.models.items():
            state.models[colour] = self._write_model(name, colour, manifest, render)
        if isinstance(self._front, Graph):
            state.front = apply(self._api, self._front.path(name), state.front, render, self.where(name))
        if stopped:
            wait(name, lambda: self._not_stopped(name, state), list, self._seconds, self._path(name, min(state.models)))
        else:
            self.wait(replace(service, version=state.version))
        return state.version != version

    def _realise(self, service: Service, current: Service | None, state: State, probe: Probe | None) -> Split:
        """Step by step, each when the one before is in force; returns who has the traffic then."""
        name = service.name
        if current is None or state.front is None:  # the first model, or the stable one was deleted by hand
            colour = self._split(name, state.front).stable if state.front else BLUE
            self._bring_up(name, colour, service.stable, state, probe)
            return self._point(name, Split(colour), state)
        split = self._split(name, state.front)
        rising = service.canary
        if service.stable.digest != current.stable.digest:
            rising = service.stable
        elif service.stable != current.stable:
            self._bring_up(name, split.stable, service.stable, state, None)
        final = Split(split.stable)
        if rising is not None:
            colour = other(split.stable)
            if rising == current.canary:  # its pods may have died since
                self._wait_model(name, colour, rising, state)
            else:
                if split.canary:  # what is there loses its traffic first
                    self._point(name, Split(split.stable), state)
                    time.sleep(self._front.drain)
                self._bring_up(name, colour, rising, state, probe)
            final = Split(split.stable, colour, service.canary_percent) if service.canary else Split(colour)
        return self._point(name, final, state)

    def _bring_up(self, name: str, colour: str, revision: Revision, state: State, probe: Probe | None) -> None:
        """Makes one of both serve a model, waits for its pods, and tries it."""
        base = state.models.get(colour)
        pattern = base or next(iter(state.models.values()), None)  # resources, replicas, … as the platform set them
        if base and base["metadata"].get("deletionTimestamp"):  # what was deleted cannot be changed any more
            self._remove_model(name, colour, state)
            base = None

        def render(now: Manifest | None) -> Manifest:
            return render_half(name, colour, revision, now or pattern, self._api.namespace)

        state.models[colour] = self._write_model(name, colour, base, render)
        self._wait_model(name, colour, revision, state)
        if probe:
            probe(self._address(name, colour))

    def _point(self, name: str, split: Split, state: State) -> Split:
        """Moves the traffic, and waits until it has moved."""
        self._write_front(name, split, state)
        self._wait_front(name, state)
        return split

    def _tidy(self, name: str, split: Split, state: State) -> None:
        """Takes away the one of both that has nothing to do with the service any more, when nothing asks it any more.

        Where somebody else has changed the service since, what becomes of it is for them to say.
        """
        leaving = set(state.models) - {split.stable, split.canary}
        if not leaving:
            return
        time.sleep(self._front.drain)
        if self._state(name).version != state.version:
            log.info("%s: changed by somebody else: what had no traffic is left to them", self.where(name))
            return
        for colour in leaving:
            self._remove_model(name, colour, state)

    def _remove(self, name: str, state: State) -> bool:
        """Deletes all that there is, first what brings requests; says whether there was anything.

        KServe's controller of graphs would make the router anew for as long as the graph waited for its pods.
        """
        found = False
        if state.front is not None:
            path = self._front.path(name)
            found = gone(self._api, path, self.where(name), self._seconds, seen=state.front, policy=BACKGROUND)
        for colour in list(state.models):
            found |= self._remove_model(name, colour, state)
        return found

    def _remove_model(self, name: str, colour: str, state: State) -> bool:
        seen = state.models.pop(colour)
        return gone(self._api, self._path(name, colour), half_where(name, colour, self._api), self._seconds, seen=seen)

    def _restore(self, name: str, before: State, state: State) -> None:
        """Takes back what did not come into force, unless somebody else has changed it since.

        A canary that was to be replaced does not come back: it would get its share before its pods are up again.
        """
        try:
            if self._state(name).version != state.version:
                return
            if before.front is None:  # the first model of all: there is nothing to go back to
                self._remove(name, state)
                log.warning("%s: taken away again", self.where(name))
                return
            split = self._split(name, before.front)
            trial = other(split.stable)
            if version_of(before.models.get(trial)) != version_of(state.models.get(trial)):
                split = Split(split.stable)
            self._write_front(name, split, state)
            earlier, now = before.models.get(split.stable), state.models.get(split.stable)
            if now and not earlier:
                self._remove_model(name, split.stable, state)
            elif now and earlier and version_of(earlier) != version_of(now):
                state.models[split.stable] = self._write_model(
                    name, split.stable, now, lambda found: {**(found or now), "spec": earlier["spec"]}
                )
            if not split.canary:
                self._tidy(name, split, state)
            log.warning("%s: set back to what it was", self.where(name))
        except FtiError as error:
            log.warning("%s: could not be set back to what it was: %s", self.where(name), error)

    def _write_front(self, name: str, split: Split, state: State) -> None:
        def render(now: Manifest | None) -> Manifest:
            return self._front.render(name, split, now)

        state.front = apply(self._api, self._front.path(name), state.front, render, self.where(name))

    def _write_model(self, name: str, colour: str, base: Manifest | None, render: Render) -> Manifest:
        return apply(self._api, self._path(name, colour), base, render, half_where(name, colour, self._api))

    def _wait_front(self, name: str, state: State) -> None:
        def pending() -> list[str]:
            found = self._api.get(self._front.path(name))
            if found is None or version_of(found) != version_of(state.front):
                raise taken(self.where(name))
            return self._front.pending(name, found)

        wait(name, pending, lambda: self._front.problems(name), self._seconds, self._front.path(name))

    def _wait_model(self, name: str, colour: str, revision: Revision, state: State) -> None:
        of = Service(f"{name}-{colour}", revision)
        seen = state.models[colour]

        def pending() -> list[str]:
            nonlocal seen
            found = self._api.get(self._path(name, colour))
            if found is None or version_of(found) != version_of(seen) or found["metadata"].get("deletionTimestamp"):
                raise taken(half_where(name, colour, self._api))
            seen = found
            return standard_pending(of, seen, self._api)

        def problems() -> list[Failure]:
            return failures(of.name, [revision], seen, self._api)

        wait(name, pending, problems, self._seconds, self._path(name, colour))

    def _not_stopped(self, name: str, state: State) -> list[str]:
        found = [self._api.get(self._path(name, colour)) for colour in state.models]
        return [each for manifest in found if manifest for each in stopped_pending(manifest)]

    def _address(self, name: str, colour: str) -> str:
        """Where one of both answers, within the cluster."""
        return f"http://{workload(name, colour)}.{self._api.namespace}.svc.cluster.local"

    def _check_possible(self, service: Service, current: Service | None, state: State) -> None:
        no_shadow(service)
        if current is not None:
            check_running(current)
        if state.front is None:  # what could not be written is refused before a model comes up
            self._front.render(service.name, Split(BLUE), None)
        if isinstance(self._front, Graph) and RUNTIMES[service.stable.runtime].tensors:
            raise ConfigError(
                f"{service.name}: an InferenceGraph asks with protocol V1, which {service.stable.runtime} has not",
                allowed="the runtimes fti and fti-gpu on this cluster",
            )

    def _state(self, name: str) -> State:
        return read_state(name, self._front, self._api)

    def _split(self, name: str, front: Manifest) -> Split:
        return split_of(self._front, name, front, self.where(name))

    def _path(self, name: str, colour: str) -> str:
        return half_path(name, colour, self._api)
