"""One child process that shall always run: started, asked whether it answers, started again when it dies."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from fti.serve.local.process import Child

log = logging.getLogger(__name__)

_FIRST_DELAY, _LONGEST_DELAY, _STABLE_AFTER = 0.5, 30.0, 30.0
_PROVEN_AFTER = 10.0


@dataclass
class Unit:
    """One command that shall always run.

    Attributes:
        name: How messages call it.
        argv: The command.
        log: Where its output goes.
        probe: Whether it answers; returns within a second.
        ready: Whether it answered when it was last asked.
        answered: Whether it ever answered.
        ready_since: When it began to answer, by `time.monotonic`.
        restarts: How often it died and was started again.
    """

    name: str
    argv: Sequence[str]
    log: Path
    probe: Callable[[], bool]
    ready: bool = False
    answered: bool = False
    ready_since: float = 0.0
    restarts: int = 0
    child: Child | None = None
    _started_at: float = 0.0
    _start_at: float = 0.0
    _probe_at: float = 0.0
    _delay: float = field(default=_FIRST_DELAY)

    def is_sound(self, now: float) -> bool:
        """Whether it answers, and, if it has ever died, has done so for a while."""
        return self.ready and (self.restarts == 0 or now - self.ready_since > _PROVEN_AFTER)

    def step(self, now: float, environ: Mapping[str, str]) -> None:
        """Does what is due: starts, notices an end, asks for readiness."""
        if self.child is None:
            if now >= self._start_at:
                self._start(now, environ)
        elif self.child.status is not None:
            self._schedule_restart(now, f"ended with status {self.child.status}")
        elif now >= self._probe_at:
            before, self.ready = self.ready, self.probe()
            if not before:
                self.ready_since = now
            self.answered = self.answered or self.ready
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
