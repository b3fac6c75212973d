"""Changing Feast's registry: one at a time, and never over what a newer version wrote."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from fti.common.errors import BusyError, FeatureStoreError

if TYPE_CHECKING:
    from feast import FeatureStore
    from google.protobuf.message import Message
    from sqlalchemy import Engine

WAIT = 120  # seconds
_LOCK_NOT_AVAILABLE = "55P03"  # PostgreSQL's code for a lock that was waited for too long


@contextmanager
def changing(store: "FeatureStore") -> Iterator[None]:
    """Holds the registry alone while it is changed; whoever else wants to change it waits.

    Feast registers each object by itself, and some in several transactions: two at once fail, or leave a mixture.
    What holds the lock is a file beside SQLite's, a session in PostgreSQL: it ends with its process.

    Args:
        store: An open store. A registry in neither of the two is not locked.

    Raises:
        BusyError: Another change went on for two minutes.
        FeatureStoreError: The registry holds what this version does not know and would lose by writing.
    """
    engine = getattr(store.registry, "write_engine", None)
    with _locked(engine, store.project):
        _require_known(store)
        yield


def _require_known(store: "FeatureStore") -> None:
    """Checks that a newer Feast has not written what this one would silently drop when it writes an object again.

    Raises:
        FeatureStoreError: It has; names the objects.
    """
    from feast import __version__

    registered = store.registry.proto()
    newer = sorted(
        {
            f"{field.name.removesuffix('s').replace('_', ' ')} {_name(each)!r}"
            for field, objects in registered.ListFields()
            if field.message_type and field.is_repeated
            for each in objects
            if _project(each) == store.project and _holds_unknown(each)
        }
    )
    if newer:
        raise FeatureStoreError(
            f"the registry of the feature store {store.project!r} is newer than the code: Feast {__version__} does not "
            f"know all that it says of {', '.join(newer)}",
            remedy="Install the version of Feast that wrote it; nothing was changed",
        )


@contextmanager
def _locked(engine: "Engine | None", project: str) -> Iterator[None]:
    if engine is not None and engine.dialect.name == "sqlite" and engine.url.database:
        with _file_lock(engine.url.database, project):
            yield
    elif engine is not None and engine.dialect.name == "postgresql":
        with _advisory_lock(engine, project):
            yield
    else:
        yield


@contextmanager
def _file_lock(database: str, project: str) -> Iterator[None]:
    from filelock import FileLock, Timeout

    try:
        with FileLock(f"{database}.lock", timeout=WAIT):
            yield
    except Timeout:
        raise _busy(project) from None


@contextmanager
def _advisory_lock(engine: "Engine", project: str) -> Iterator[None]:
    from sqlalchemy import text
    from sqlalchemy.exc import OperationalError

    with engine.begin() as session:
        session.execute(text(f"SET LOCAL lock_timeout = '{WAIT}s'"))
        try:
            session.execute(text("SELECT pg_advisory_xact_lock(hashtext(:name))"), {"name": f"fti {project}"})
        except OperationalError as error:
            if getattr(error.orig, "sqlstate", None) == _LOCK_NOT_AVAILABLE:
                raise _busy(project) from None
            raise
        yield


def _busy(project: str) -> BusyError:
    return BusyError(
        f"the registry of the feature store {project!r} has been changed by another for {WAIT} s",
        remedy="Wait until it has ended, then run again",
    )


def _project(each: "Message") -> str:
    return str(getattr(getattr(each, "spec", each), "project", ""))


def _name(each: "Message") -> str:
    return str(getattr(getattr(each, "spec", each), "name", ""))


def _holds_unknown(message: Any) -> bool:
    """Whether a message, or one within it, has a field or a value of an enumeration that its definition lacks."""
    from google.protobuf.message import Message
    from google.protobuf.unknown_fields import UnknownFieldSet

    if len(UnknownFieldSet(message)):
        return True
    for field, value in message.ListFields():
        values = list(value.values() if hasattr(value, "values") else value) if field.is_repeated else [value]
        if field.enum_type and any(each not in field.enum_type.values_by_number for each in values):
            return True
        if any(isinstance(each, Message) and _holds_unknown(each) for each in values):
            return True
    return False
