"""Makes what runs equal to what was pushed, again and again: manifests on one side, processes and routes on the other.

A new revision takes traffic once it answers; until then, and where it cannot start, what was served before is. What it
has replaced is kept for a while, and takes over again should the new one die.
"""

import logging
import shutil
from collections.abc import Sequence
from dataclasses import replace
from threading import Event, Thread
from time import monotonic

from fti.common.errors import FtiError, ServingError
from fti.common.inference_service import CANARY, STABLE, Service
from fti.common.settings import Settings
from fti.serve.local.conditions import Status, remove_status, status_of, write_status
from fti.serve.local.envoy import cluster_names
from fti.serve.local.gateway import Gateway
from fti.serve.local.kept import BAKE_SECONDS, Kept
from fti.serve.local.plan import Plan, Replica, desired_services
from fti.serve.local.ports import Ports
from fti.serve.local.predictors import STOP_SECONDS, Predictor, Predictors, Target, child_environ, not_started
from fti.serve.local.process import stop_all, tail
from fti.serve.local.status import State, replica_state, write_state

log = logging.getLogger(__name__)

START_SECONDS = 120.0
_MANIFESTS_SECONDS = 0.25
_BUSY_PAUSE, _IDLE_PAUSE = 0.05, 0.2


class Reconciler:
    """Runs predictors and a gateway in one thread of its own, which outlives them all.

    Args:
        settings: Where manifests, packages and state lie.
        names: The services to serve; none means all, and those pushed later too.
        gateway: The gateway.
        ports: Where the predictors' ports come from.
        bake_seconds: How long the predictor that a new stable one has replaced is kept to take over again.

    Attributes:
        served: The services that answer.
        failures: What cannot be served as desired, and why: by `<service>`, or `<service>-<variant>`.
    """

    def __init__(
        self,
        settings: Settings,
        names: Sequence[str],
        gateway: Gateway,
        ports: Ports,
        bake_seconds: float = BAKE_SECONDS,
    ) -> None:
        self._settings, self._names, self._gateway = settings, names, gateway
        self._predictors = Predictors(settings, ports)
        self._environ = child_environ(settings)
        self._plan = Plan()
        self._routed: dict[str, list[Replica]] = {}
        self._kept = Kept(bake_seconds)
        self.served: list[str] = []
        self.failures: dict[str, ServingError] = {}
        self._settled = self._was_settled = False
        self._trouble = ""
        self._manifests_at = 0.0
        self._published: State = {}
        self._statuses: dict[str, Status] = {}
        self._stopping = Event()
        self._failure: BaseException | None = None
        self._thread = Thread(target=self._run, name="reconciler", daemon=True)

    def start(self) -> None:
        """Starts everything, without waiting for it."""
        self._thread.start()

    def stop(self) -> None:
        """Stops everything, the gateway first, and waits for the end."""
        self._stopping.set()
        if self._thread.ident is not None:
            self._thread.join()

    def wait_settled(self, stop: Event) -> bool:
        """Waits until every service is served, or cannot be.

        Args:
            stop: Gives up when it is set.

        Returns:
            False when told to give up.

        Raises:
            ServingError: The gateway cannot start, or something takes too long.
        """
        deadline = monotonic() + START_SECONDS
        while not stop.wait(0.02):
            self._raise_failure()
            if self._settled:
                return True
            if monotonic() > deadline:
                raise ServingError(f"not all is served within {START_SECONDS:.0f} s", remedy="See `fti status`")
        return False

    def wait(self, stop: Event) -> None:
        """Waits until told to stop.

        Raises:
            ServingError: The reconciler itself fails.
        """
        while not stop.wait(0.5):
            self._raise_failure()

    def _run(self) -> None:
        shutil.rmtree(self._settings.services / "status", ignore_errors=True)  # of one that was killed
        try:
            while not self._stopping.wait(_IDLE_PAUSE if self._settled else _BUSY_PAUSE):
                self._try_tick()
        except BaseException as error:  # handed over to the thread that waits
            self._failure = error
        finally:
            stop_all([self._gateway.unit.child] if self._gateway.unit.child else [], STOP_SECONDS)
            self._predictors.stop()
            for name in self._statuses:
                remove_status(name, self._settings)

    def _try_tick(self) -> None:
        """Once all was served, nothing that fails, such as a full disk, ends what is served."""
        try:
            self._tick()
            self._trouble = ""
        except (FtiError, OSError) as error:
            if not self._was_settled:
                raise
            if str(error) != self._trouble:
                log.warning("%s", error)
            self._trouble = str(error)

    def _tick(self) -> None:
        self._read_manifests()
        self._gateway.unit.step(monotonic(), self._environ)
        self._predictors.step(self._wanted())
        self._check_gateway()
        self._reconcile()
        self.served, self.failures = sorted(self._routed), self._find_failures()
        self._publish()
        self._settled = all(self._is_settled(service) for service in self._plan.services.values())
        self._was_settled = self._was_settled or self._settled

    def _read_manifests(self) -> None:
        if monotonic() < self._manifests_at:
            return
        self._manifests_at = monotonic() + _MANIFESTS_SECONDS
        plan, before = desired_services(self._settings, self._names), self._plan
        plan.log_news(before)
        as_before = {name: before.services[name] for name in plan.errors if name in before.services}
        self._plan = replace(plan, services=plan.services | as_before)

    def _wanted(self) -> set[Target]:
        """Every revision that is desired, has traffic, or had it until just now."""
        desired = {
            (name, revision)
            for name, service in self._plan.services.items()
            for revision, _ in service.revisions().values()
        }
        groups = [*self._routed.values(), self._kept.replicas(monotonic())]
        routed = {(replica.service, replica.revision) for group in groups for replica in group}
        for target in desired:
            self._predictors.of(target)
        return desired | routed

    def _check_gateway(self) -> None:
        unit = self._gateway.unit
        if unit.restarts and not unit.answered:
            raise ServingError(f"{unit.name} ended; its log {unit.log} ends:\n{tail(unit.log)}\n")

    def _reconcile(self) -> None:
        """Moves the traffic where it shall be and can."""
        routes = {name: self._route(service) for name, service in sorted(self._plan.services.items())}
        possible = {name: group for name, group in routes.items() if group}
        if not self._gateway.unit.ready:
            return
        if possible != self._routed and self._gateway.route([each for group in possible.values() for each in group]):
            self._take_over(possible)
        self._gateway.tidy()

    def _take_over(self, routes: dict[str, list[Replica]]) -> None:
        for name in routes.keys() | self._routed.keys():
            before, after = self._routed.get(name, []), routes.get(name, [])
            if before == after:
                continue
            log.info("%s: %s", name, _described(after))
            self._kept.move(before, after, monotonic())
        self._routed = routes

    def _route(self, service: Service) -> list[Replica]:
        """How a service's traffic can be split now: as desired, as before, or not at all."""
        now, before = monotonic(), self._routed.get(service.name, [])
        whole = self._replicas(service)
        live = {replica.revision for replica in before}
        stable = next(replica for replica in whole if replica.variant == STABLE)
        earlier = self._earlier(service)
        if earlier and stable.revision in live and not self._of(stable).unit.ready:
            return earlier  # it has died before its bake ended
        if all(replica.revision in live or self._of(replica).unit.is_sound(now) for replica in whole):
            return whole
        canaries_failed = all(self._of(replica).failure for replica in whole if replica.variant != STABLE)
        sound = stable.revision in live or self._of(stable).unit.is_sound(now)
        if sound and len(whole) > 1 and canaries_failed:
            return self._replicas(Service(service.name, service.stable))
        return before

    def _earlier(self, service: Service) -> list[Replica]:
        """The stable predictor that this service's has replaced, if it is kept and answers."""
        earlier = self._kept.earlier(service.name)
        if earlier is None or earlier.revision == service.stable or not self._of(earlier).unit.ready:
            return []
        return [replace(earlier, percent=100)]

    def _replicas(self, service: Service) -> list[Replica]:
        replicas = []
        for variant, (revision, percent) in service.revisions().items():
            predictor = self._predictors.of((service.name, revision))
            shadow = service.shadow and variant == CANARY
            ports = (predictor.port, predictor.grpc_port)
            replicas.append(Replica(service.name, variant, revision, percent, *ports, shadow, service.unit))
        return replicas

    def _of(self, replica: Replica) -> Predictor:
        return self._predictors.of((replica.service, replica.revision))

    def _is_settled(self, service: Service) -> bool:
        if not self._gateway.unit.ready:
            return False
        whole = self._replicas(service)
        starting = any(not self._of(replica).unit.answered and not self._of(replica).failure for replica in whole)
        return not starting and self._routed.get(service.name, []) == self._route(service)

    def _find_failures(self) -> dict[str, ServingError]:
        broken = dict(self._plan.errors)
        for replica in (replica for service in self._plan.services.values() for replica in self._replicas(service)):
            name = f"{replica.service}-{replica.variant}"
            if self._of(replica).failure:
                broken[name] = not_started(name, self._of(replica))
        return broken

    def _publish(self) -> None:
        state = self._state()
        if state == self._published:
            return
        write_state(state, self._settings)
        self._write_statuses(state)
        self._published = state

    def _write_statuses(self, state: State) -> None:
        for name, service in self._plan.services.items():
            live = state["services"].get(name, {}).get("revisions", {})
            whole = self._replicas(service)
            failures = {each.variant: self._of(each).failure for each in whole if self._of(each).failure}
            before, notes = self._statuses.get(name, {}), self._plan.notes(name)
            status = status_of(service, live, failures, self._gateway.url(name), before, notes=notes)
            if status != before:
                write_status(name, status, self._settings)
                self._statuses[name] = status
        for name in self._statuses.keys() - self._plan.services.keys():
            remove_status(name, self._settings)
            del self._statuses[name]

    def _state(self) -> State:
        services: State = {}
        clusters = cluster_names([replica for group in self._routed.values() for replica in group])
        for name, group in self._routed.items():
            revisions = {each.variant: replica_state(each, self._of(each).unit, clusters[each]) for each in group}
            earlier = self._kept.earlier(name)
            kept = earlier.revision.name if earlier and earlier.revision not in {of.revision for of in group} else None
            services[name] = {"url": self._gateway.url(name), "revisions": revisions, "kept": kept}
        gateway = self._gateway
        return {
            "port": gateway.port,
            "admin_port": gateway.admin_port,
            "gateway_pid": gateway.unit.child.pid if gateway.unit.child else None,
            "services": services,
            "predictor_pids": self._predictors.pids(),
            "failures": {name: str(error) for name, error in self.failures.items()},
            "warnings": self._plan.warnings,
        }

    def _raise_failure(self) -> None:
        if isinstance(self._failure, FtiError | OSError):
            raise self._failure
        if self._failure is not None:
            raise ServingError(f"the reconciler failed: {self._failure!r}") from self._failure


def _described(group: Sequence[Replica]) -> str:
    shares = (f"{replica.variant} {replica.revision.name} {replica.percent} %" for replica in group)
    return ", ".join(shares) or "no longer served"
