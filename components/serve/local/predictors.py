"""The predictor processes: one for each revision of each service, whatever its share of the traffic."""

import os
import signal
import sys
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException
from time import monotonic

from fti.common.errors import ServingError
from fti.common.inference_service import Revision
from fti.common.settings import Settings
from fti.serve.local.ports import HOST, Ports, is_listened_on
from fti.serve.local.process import Child, stop_all, tail
from fti.serve.local.unit import Unit
from fti.serve.observe.log_files import fresh_log
from fti.serve.protocol import REVISION_HEADER

STOP_SECONDS = 12.0  # more than the predictor's own grace for requests in flight

Target = tuple[str, Revision]


@dataclass(frozen=True, eq=False)
class Predictor:
    """A predictor process.

    Attributes:
        unit: The process.
        port: Its HTTP port on loopback.
        grpc_port: Its gRPC port on loopback.
    """

    unit: Unit
    port: int
    grpc_port: int

    @property
    def failure(self) -> str:
        """Why it cannot start, by the last line of its log; empty while it may."""
        return tail(self.unit.log, 1) if self.unit.restarts and not self.unit.answered else ""


class Predictors:
    """All predictors of this machine.

    Args:
        settings: Where logs go, and what the predictors inherit.
        ports: Where their ports come from.
    """

    def __init__(self, settings: Settings, ports: Ports) -> None:
        self._settings, self._ports = settings, ports
        self._environ = child_environ(settings)
        self._running: dict[Target, Predictor] = {}
        self._ending: dict[Predictor, float] = {}

    def of(self, target: Target) -> Predictor:
        """The predictor of a revision; new ones start with the next step."""
        if target not in self._running:
            self._running[target] = self._new(*target)
        return self._running[target]

    def step(self, wanted: Collection[Target]) -> None:
        """Does what is due: starts, notices ends, and ends those that nobody wants any more."""
        now = monotonic()
        for target in self._running.keys() - wanted:
            self._end(self._running.pop(target), now)
        for predictor in self._running.values():
            predictor.unit.step(now, self._environ)
        for predictor, deadline in list(self._ending.items()):
            self._wait_for_end(predictor, late=now > deadline)

    def pids(self) -> list[int]:
        """The processes, those that are ending too."""
        every = [*self._running.values(), *self._ending]
        return [predictor.unit.child.pid for predictor in every if predictor.unit.child]

    def stop(self) -> None:
        """Ends them all, and waits for it."""
        every = [*self._running.values(), *self._ending]
        stop_all([predictor.unit.child for predictor in every if predictor.unit.child], STOP_SECONDS)

    def _new(self, service: str, revision: Revision) -> Predictor:
        port, grpc_port = self._ports.reserve(), self._ports.reserve()
        name = f"{service}-{revision.name}"
        in_use = [predictor.unit.log for predictor in (*self._running.values(), *self._ending)]
        log = fresh_log(self._settings, name, [self._settings.home / "logs" / "envoy.log", *in_use])
        unit = Unit(
            name=f"the predictor {name}",
            argv=[*command(service, revision, port, grpc_port), "--log_file", str(log)],
            log=log,
            probe=lambda: answers(port, service, revision) and is_listened_on(grpc_port),
        )
        return Predictor(unit, port, grpc_port)

    def _end(self, predictor: Predictor, now: float) -> None:
        if predictor.unit.child:
            predictor.unit.child.send(signal.SIGTERM)
        self._ending[predictor] = now + STOP_SECONDS

    def _wait_for_end(self, predictor: Predictor, *, late: bool) -> None:
        child: Child | None = predictor.unit.child
        if child is not None and child.status is None:
            if late:
                child.send(signal.SIGKILL)
            return
        del self._ending[predictor]
        self._ports.release(predictor.port)
        self._ports.release(predictor.grpc_port)


def command(service: str, revision: Revision, port: int, grpc_port: int) -> list[str]:
    """The command that serves a revision on loopback, over HTTP and gRPC."""
    argv = [sys.executable, "-m", "fti.serve.predictor", "--package", revision.storage_uri]
    argv += ["--name", service, "--revision", revision.name, "--host", HOST]
    argv += ["--http_port", str(port), "--grpc_port", str(grpc_port)]
    return argv + (["--feature_repo", revision.feature_repo] if revision.feature_repo else [])


def not_started(name: str, predictor: Predictor) -> ServingError:
    """That a predictor could not start, and how its log ends."""
    unit = predictor.unit
    return ServingError(
        f"the predictor {name} ended; its log {unit.log} ends:\n{tail(unit.log)}\n",
        remedy="Serve the other services by name: fti serve NAME",
    )


def child_environ(settings: Settings) -> Mapping[str, str]:
    """The environment of a child process: this one's, with these settings."""
    own = settings.environ()
    inherited = {name: value for name, value in os.environ.items() if name not in own}
    return inherited | {name: value for name, value in own.items() if value}


def answers(port: int, service: str, revision: Revision) -> bool:
    """Whether a revision answers on a port of loopback, within a second."""
    connection = HTTPConnection(HOST, port, timeout=0.5)
    try:
        connection.request("GET", f"/v2/models/{service}/ready")
        response = connection.getresponse()
        return response.status == 200 and response.headers.get(REVISION_HEADER) == revision.name
    except (OSError, HTTPException):
        return False
    finally:
        connection.close()
