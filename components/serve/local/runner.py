"""Realises pushed InferenceServices on this machine: a KServe predictor per revision, and Envoy in front."""

import logging
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from threading import Event

from fti.common.errors import BusyError, ServingError
from fti.common.settings import Settings
from fti.serve.local.gateway import Gateway
from fti.serve.local.kept import BAKE_SECONDS
from fti.serve.local.plan import check_pushed
from fti.serve.local.ports import DEFAULT_PORT, Ports
from fti.serve.local.reconciler import Reconciler
from fti.serve.local.status import remove_state

log = logging.getLogger(__name__)

Endpoints = dict[str, str]


def serve(
    settings: Settings,
    names: Sequence[str] = (),
    port: int = DEFAULT_PORT,
    on_ready: Callable[[Endpoints], None] | None = None,
    bake_seconds: float = BAKE_SECONDS,
) -> None:
    """Serves pushed services until SIGINT or SIGTERM, and takes over whatever is pushed meanwhile.

    Call it from the main thread. A service that cannot start does not stop the others.

    Args:
        settings: Where manifests, packages and state lie.
        names: The services; none means all.
        port: The gateway's port on 127.0.0.1; 0 lets the system choose.
        on_ready: Called once all that can be served is, with each service's URL.
        bake_seconds: How long the predictor that a new stable one has replaced is kept to take over again.

    Raises:
        ConfigError: A service was never pushed.
        BusyError: The port is in use, or these services are served already.
        ServingError: Nothing was pushed, or no service can start.
    """
    with stopped_by_signals() as stop, _session(settings, names, port, bake_seconds) as (reconciler, gateway):
        if reconciler.wait_settled(stop):
            if not reconciler.served:
                stopped = ServingError("every service is stopped", remedy="Start one with `fti start NAME`")
                raise next(iter(reconciler.failures.values()), stopped)
            for error in reconciler.failures.values():
                log.warning("%s", error)
            if on_ready:
                on_ready({name: gateway.url(name) for name in reconciler.served})
            reconciler.wait(stop)
    log.info("Stopped")


@contextmanager
def running(
    settings: Settings, names: Sequence[str] = (), port: int = 0, bake_seconds: float = BAKE_SECONDS
) -> Iterator[Endpoints]:
    """Serves pushed services within a `with` block; yields each service's URL.

    Args:
        settings: Where manifests, packages and state lie.
        names: The services; none means all.
        port: The gateway's port on 127.0.0.1; 0 lets the system choose.
        bake_seconds: As `serve` takes it.

    Raises:
        ConfigError: A service was never pushed.
        BusyError: The port is in use, or these services are served already.
        ServingError: Nothing was pushed, or a predictor cannot start.
    """
    with _session(settings, names, port, bake_seconds) as (reconciler, gateway):
        reconciler.wait_settled(Event())
        for error in reconciler.failures.values():
            raise error
        yield {name: gateway.url(name) for name in reconciler.served}


@contextmanager
def _session(
    settings: Settings, names: Sequence[str], port: int, bake_seconds: float
) -> Iterator[tuple[Reconciler, Gateway]]:
    check_pushed(settings, names)
    with ExitStack() as stack:
        stack.enter_context(_only_runner(settings))
        ports = stack.enter_context(Ports())
        gateway = Gateway(ports.reserve(port), ports.reserve(), settings)
        reconciler = Reconciler(settings, names, gateway, ports, bake_seconds)
        stack.callback(remove_state, settings)
        stack.callback(reconciler.stop)
        reconciler.start()
        yield reconciler, gateway


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
def stopped_by_signals() -> Iterator[Event]:
    """Turns SIGINT and SIGTERM into an event, so that no start, stop or change is interrupted half-way."""
    stop = Event()
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.signal(number, lambda _number, _frame: stop.set()) for number in numbers}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
