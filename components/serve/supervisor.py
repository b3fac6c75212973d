"""Keeps child processes running: starts them, watches their readiness, restarts the dead, stops them all."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event, Thread
from time import monotonic

from fti.common.errors import FtiError, ServingError
from fti.serve.process import Child, stop_all, tail

log = logging.getLogger(__name__)

START_SECONDS = 120.0
STOP_SECONDS = 12.0
_FIRST_DELAY, _LONGEST_DELAY, _STABLE_AFTER = 0.5, 30.0, 30.0


@dataclass
class Unit:
    """One command that shall always run.

    Attributes:
        name: How messages call it.
        argv: The command.
        log: Where its output goes.
        probe: Whether it answers; returns within a second.
        ready: Whether it answered when it was last asked.
        restarts: How often it died and was started again.
    """

    name: str
    argv: Sequence[str]
    log: Path
    probe: Callable[[], bool]
    ready: bool = False
    restarts: int = 0
    child: Child | None = None
    _started_at: float = 0.0
    _start_at: float = 0.0
    _probe_at: float = 0.0
    _delay: float = field(default=_FIRST_DELAY)

    def step(self, now: float, environ: Mapping[str, str]) -> None:
        """Does what is due: starts, notices an end, asks for readiness."""
        if self.child is None:
            if now >= self._start_at:
                self._start(now, environ)
        elif self.child.status is not None:
            self._schedule_restart(now, f"ended with status {self.child.status}")
        elif now >= self._probe_at:
            self.ready = self.probe()
            self._probe_at = now + (1.0 if self.ready else 0.1)

    def _start(self, now: float, environ: Mapping[str, str]) -> None:
        self._started_at = now
        try:
            self.child = Child(self.argv, self.log, environ)
        except OSError as error:
            self._schedule_restart(now, f"could not be started: {error}")

    def _schedule_restart(self, now: float, why: str) -> None:
        if now - self._started_at > _STABLE_AFTER:
            self._delay = _FIRST_DELAY
        log.warning("%s %s; starts again in %.1f s; see %s", self.name, why, self._delay, self.log)
        self.child, self.ready, self._start_at = None, False, now + self._delay
        self._delay = min(2 * self._delay, _LONGEST_DELAY)
        self.restarts += 1


class Supervisor:
    """Runs units in one thread of its own, which outlives them all.

    Args:
        units: The commands; the first is stopped before the others.
        environ: Their environment.
        publish: Called whenever a process or its readiness changed.
    """

    def __init__(self, units: Sequence[Unit], environ: Mapping[str, str], publish: Callable[[], None]) -> None:
        self._units, self._environ, self._publish = units, environ, publish
        self._stopping = Event()
        self._all_ready = False
        self._failure: BaseException | None = None
        self._thread = Thread(target=self._run, name="supervisor", daemon=True)

    def start(self) -> None:
        """Starts the units, without waiting for them."""
        self._thread.start()

    def wait_ready(self, stop: Event) -> bool:
        """Waits until every unit answers.

        Args:
            stop: Gives up when it is set.

        Returns:
            Whether every unit answers; False when told to give up.

        Raises:
            ServingError: A unit ended before it answered, or takes too long; holds the last lines of its log.
        """
        deadline = monotonic() + START_SECONDS
        while not stop.wait(0.05):
            self._raise_failure()
            if self._all_ready:
                return True
            if monotonic() > deadline:
                late = next(unit for unit in self._units if not unit.ready)
                raise _not_started(late, f"does not answer within {START_SECONDS:.0f} s")
        return False

    def wait(self, stop: Event) -> None:
        """Waits until told to stop.

        Raises:
            ServingError: The supervisor itself fails.
        """
        while not stop.wait(0.5):
            self._raise_failure()

    def stop(self) -> None:
        """Stops the units and waits for their end."""
        self._stopping.set()
        if self._thread.ident is not None:
            self._thread.join()

    def _run(self) -> None:
        try:
            before: list[tuple[int | None, bool]] = []
            while not self._stopping.wait(0.05 if not self._all_ready else 0.2):
                for unit in self._units:
                    unit.step(monotonic(), self._environ)
                self._check_start()
                now = [(unit.child.pid if unit.child else None, unit.ready) for unit in self._units]
                if now != before:
                    self._tell()
                before = now
        except BaseException as error:  # handed over to the thread that waits
            self._failure = error
        finally:
            for group in (self._units[:1], self._units[1:]):
                stop_all([unit.child for unit in group if unit.child], STOP_SECONDS)

    def _tell(self) -> None:
        try:
            self._publish()
        except (FtiError, OSError) as error:  # no reason to stop serving
            log.warning("the state could not be written: %s", error)

    def _check_start(self) -> None:
        if self._all_ready:
            return
        for unit in self._units:
            if unit.restarts:
                raise _not_started(unit, "ended")
        self._all_ready = all(unit.ready for unit in self._units)

    def _raise_failure(self) -> None:
        if isinstance(self._failure, FtiError | OSError):
            raise self._failure
        if self._failure is not None:
            raise ServingError(f"the supervisor failed: {self._failure!r}") from self._failure


def _not_started(unit: Unit, how: str) -> ServingError:
    return ServingError(
        f"{unit.name} {how}; its log {unit.log} ends:\n{tail(unit.log)}\n",
        remedy="Serve the other services by name: fti serve NAME",
    )
