"""One materialization of a feature store at a time: two would each take the other's rows for corrections.

Where the registry is in PostgreSQL, which every pod reaches, the lock is a session there: it ends with its process, and
with its machine when that has been silent for half a minute. Elsewhere it is a file in the home.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from fti.common.errors import BusyError, FeatureStoreError, StorageError
from fti.common.settings import Settings

if TYPE_CHECKING:
    from feast import FeatureStore
    from sqlalchemy import Connection, Engine

WAIT = 40  # seconds: longer than PostgreSQL takes to notice that a machine is gone, so that a step tried again succeeds
_LOCK_NOT_AVAILABLE = "55P03"  # PostgreSQL's code for a lock that was waited for too long
_SESSION = {
    "tcp_keepalives_idle": "10",
    "tcp_keepalives_interval": "5",
    "tcp_keepalives_count": "4",
    "idle_session_timeout": "0",
}


@contextmanager
def alone(store: "FeatureStore", settings: Settings) -> Iterator[Callable[[], None]]:
    """Keeps others from materializing this store for as long as the block lasts.

    Args:
        store: An open store.
        settings: Where the home is.

    Yields:
        What raises a FeatureStoreError if the lock was lost meanwhile: to be called before something is written.

    Raises:
        BusyError: Another materialization is at work.
        StorageError: The home cannot be written.
    """
    engine = getattr(store.registry, "write_engine", None)
    if engine is not None and engine.dialect.name == "postgresql":
        with _session(store, engine) as held:
            yield held
    else:
        with _file(settings):
            yield lambda: None


@contextmanager
def _file(settings: Settings) -> Iterator[None]:
    from filelock import FileLock, Timeout

    path = settings.home / "materialize.lock"
    try:
        lock = FileLock(path, timeout=0).acquire()
    except Timeout:
        raise _busy(f"in {settings.home}") from None
    except OSError as error:
        remedy = "Make it writable, or set FTI_HOME"
        raise StorageError(f"{path} could not be written: {error.strerror}", remedy=remedy) from None
    with lock:
        yield


@contextmanager
def _session(store: "FeatureStore", engine: "Engine") -> Iterator[Callable[[], None]]:
    from sqlalchemy import text
    from sqlalchemy.exc import DBAPIError

    from fti.common.feature_store import registry_errors

    def held() -> None:
        try:
            connection.execute(text("SELECT 1"))
        except DBAPIError:
            raise FeatureStoreError(
                "the connection to the registry's database broke off, and with it the lock on the online store",
                remedy="Run it again: what was written stays, and it goes on from there",
            ) from None

    with registry_errors(store):
        connection = engine.connect().execution_options(isolation_level="AUTOCOMMIT")
    with connection:
        connection.detach()  # so that closing it ends the session, and the lock with it
        with registry_errors(store):
            _lock(connection, store.project)
        yield held


def _lock(connection: "Connection", project: str) -> None:
    from sqlalchemy import text
    from sqlalchemy.exc import OperationalError

    known = text("SELECT set_config(name, :value, false) FROM pg_settings WHERE name = :name")  # those of its version
    for name, value in _SESSION.items():
        connection.execute(known, {"name": name, "value": value})
    connection.execute(known, {"name": "lock_timeout", "value": f"{WAIT}s"})
    try:
        connection.execute(text("SELECT pg_advisory_lock(hashtext(:name))"), {"name": f"fti materialize {project}"})
    except OperationalError as error:
        if getattr(error.orig, "sqlstate", None) == _LOCK_NOT_AVAILABLE:
            raise _busy(f"on the feature store {project!r}") from None
        raise


def _busy(where: str) -> BusyError:
    return BusyError(f"another materialization is at work {where}", remedy="Wait until it has ended, then run again")
