"""Realises pushed InferenceServices on this machine: a KServe predictor per revision, and Envoy in front."""

import logging
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from threading import Event

import yaml

from fti.common.errors import BusyError, StorageError
from fti.common.files import atomic_file
from fti.common.settings import Settings
from fti.serve import envoy
from fti.serve.plan import Replica, pushed_services, replicas_of
from fti.serve.ports import DEFAULT_PORT, HOST, Ports
from fti.serve.protocol import REVISION_HEADER
from fti.serve.status import State, remove_state, write_state
from fti.serve.supervisor import Supervisor, Unit

log = logging.getLogger(__name__)

Endpoints = dict[str, str]


def serve(
    settings: Settings,
    names: Sequence[str] = (),
    port: int = DEFAULT_PORT,
    on_ready: Callable[[Endpoints], None] | None = None,
) -> None:
    """Serves pushed services until SIGINT or SIGTERM. Call it from the main thread.

    Args:
        settings: Where manifests, packages and state lie.
        names: The services; none means all.
        port: The gateway's port on 127.0.0.1; 0 lets the system choose.
        on_ready: Called once every revision answers, with each service's URL.

    Raises:
        ConfigError: A service was never pushed.
        BusyError: The port is in use, or these services are served already.
        ServingError: Nothing was pushed, or a predictor cannot start.
    """
    stop = Event()
    with _stopped_by_signals(stop), _session(settings, names, port) as (supervisor, endpoints):
        if supervisor.wait_ready(stop):
            if on_ready:
                on_ready(endpoints)
            supervisor.wait(stop)
    log.info("Stopped")


@contextmanager
def running(settings: Settings, names: Sequence[str] = (), port: int = 0) -> Iterator[Endpoints]:
    """Serves pushed services within a `with` block; yields each service's URL.

    Args:
        settings: Where manifests, packages and state lie.
        names: The services; none means all.
        port: The gateway's port on 127.0.0.1; 0 lets the system choose.

    Raises:
        ConfigError: A service was never pushed.
        BusyError: The port is in use, or these services are served already.
        ServingError: Nothing was pushed, or a predictor cannot start.
    """
    with _session(settings, names, port) as (supervisor, endpoints):
        supervisor.wait_ready(Event())
        yield endpoints


@contextmanager
def _session(settings: Settings, names: Sequence[str], port: int) -> Iterator[tuple[Supervisor, Endpoints]]:
    services = pushed_services(settings, names)
    binary = envoy.binary()
    with ExitStack() as stack:
        stack.enter_context(_only_runner(settings))
        ports = stack.enter_context(Ports())
        gateway_port, admin_port = ports.reserve(port), ports.reserve()
        replicas = replicas_of(services, ports)
        units = {replica: _predictor(replica, settings) for replica in replicas}
        gateway = _gateway(binary, replicas, gateway_port, admin_port, settings)
        endpoints = {service.name: _url(service.name, gateway_port) for service in services}
        supervisor = Supervisor(
            [gateway, *units.values()],
            _environ(settings),
            lambda: write_state(_state(units, gateway, gateway_port, admin_port), settings),
        )
        stack.callback(remove_state, settings)
        stack.callback(supervisor.stop)
        supervisor.start()
        yield supervisor, endpoints


def _environ(settings: Settings) -> dict[str, str]:
    own = settings.environ()
    inherited = {name: value for name, value in os.environ.items() if name not in own}
    return inherited | {name: value for name, value in own.items() if value}


def _predictor(replica: Replica, settings: Settings) -> Unit:
    argv = [sys.executable, "-m", "fti.serve.predictor", "--package", replica.revision.storage_uri]
    argv += ["--name", replica.service, "--revision", replica.revision.name, "--host", HOST]
    argv += ["--http_port", str(replica.port), "--grpc_port", str(replica.grpc_port)]
    if replica.revision.feature_repo:
        argv += ["--feature_repo", replica.revision.feature_repo]
    name = f"{replica.service}-{replica.variant}"
    return Unit(
        name=f"the predictor {name}",
        argv=argv,
        log=_fresh_log(settings, name),
        probe=lambda: _answers(replica.port, replica, {}),
    )


def _gateway(binary: str, replicas: Sequence[Replica], port: int, admin_port: int, settings: Settings) -> Unit:
    config = settings.home / "envoy.yaml"
    with atomic_file(config) as scratch:
        scratch.write_text(yaml.safe_dump(envoy.bootstrap(replicas, port, admin_port)), encoding="utf-8")
    argv = [binary, "--config-path", str(config), "--disable-hot-restart", "--log-level", "warning"]
    argv += ["--concurrency", str(min(2, os.cpu_count() or 1))]
    return Unit(
        name="the gateway",
        argv=argv,
        log=_fresh_log(settings, "envoy"),
        probe=lambda: all(_answers(port, replica, {envoy.VARIANT_HEADER: replica.variant}) for replica in replicas),
    )


def _answers(port: int, replica: Replica, headers: dict[str, str]) -> bool:
    """Whether a revision answers on a port: itself, or through the gateway."""
    connection = HTTPConnection(HOST, port, timeout=0.5)
    try:
        connection.request("GET", f"/v2/models/{replica.service}/ready", headers=headers)
        response = connection.getresponse()
        return response.status == 200 and response.headers.get(REVISION_HEADER) == replica.revision.name
    except (OSError, HTTPException):
        return False
    finally:
        connection.close()


def _state(units: dict[Replica, Unit], gateway: Unit, port: int, admin_port: int) -> State:
    services: State = {}
    for replica, unit in units.items():
        service = services.setdefault(replica.service, {"url": _url(replica.service, port), "revisions": {}})
        service["revisions"][replica.variant] = {
            "revision": replica.revision.name,
            "percent": replica.percent,
            "pid": unit.child.pid if unit.child else None,
            "port": replica.port,
            "grpc_port": replica.grpc_port,
            "ready": unit.ready,
            "restarts": unit.restarts,
        }
    gateway_pid = gateway.child.pid if gateway.child else None
    return {"port": port, "admin_port": admin_port, "gateway_pid": gateway_pid, "services": services}


def _url(service: str, port: int) -> str:
    return f"http://{HOST}:{port}/v1/models/{service}:predict"


def _fresh_log(settings: Settings, name: str) -> Path:
    path = settings.home / "logs" / f"{name}.log"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    except OSError as error:
        raise StorageError(f"{path} could not be written: {error.strerror}", remedy="Free disk space") from error
    return path


@contextmanager
def _only_runner(settings: Settings) -> Iterator[None]:
    from filelock import FileLock, Timeout

    lock = settings.home / ".serving.lock"
    lock.parent.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(lock, blocking=False):
            yield
    except Timeout as error:
        raise BusyError(
            f"the services of {settings.home} are served already", remedy="Stop that `fti serve` first, or ask it"
        ) from error


@contextmanager
def _stopped_by_signals(stop: Event) -> Iterator[None]:
    """Turns SIGINT and SIGTERM into an event, so that no start or stop is interrupted half-way."""
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.signal(number, lambda _number, _frame: stop.set()) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
