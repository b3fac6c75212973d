"""One at a time across machines: a lease, which is a small object in an object store.

Its holder writes it anew every few seconds. Whoever wants it watches it: only a lease that has not changed for `EXPIRY`
seconds of the watcher's own clock is taken over, by a write on the condition that it is still the same. So no clocks
are compared, and a killed holder blocks nobody for long. A holder that was only cut off or paused does not notice that
it was taken over: what must not be done twice has to be written on a condition as well.
"""

import json
import logging
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from threading import Event, Thread

from fti.common.errors import BusyError, StorageError
from fti.common.settings import Settings
from fti.common.storage import read_versioned, replace_text

log = logging.getLogger(__name__)

EXPIRY = 30.0  # seconds without a sign of life
_BEATS = 6  # signs of life in that time


@contextmanager
def leased(uri: str, settings: Settings, *, what: str, who: str) -> Iterator[None]:
    """Holds a lease for as long as the block lasts.

    Args:
        uri: The object, `s3://` or `gs://`; made where it is missing, and left behind as free.
        settings: How object stores are reached.
        what: What goes on, for the error of whoever else wants it, such as `a rollout of late-arrival`.
        who: Who holds it, for the same.

    Raises:
        BusyError: Another holds it, and shows signs of life.
        StorageError: It cannot be read or written.
    """
    lease, ended = _Lease(uri, settings, who), Event()
    lease.take(what)
    thread = Thread(target=lease.beat, args=(ended,), daemon=True, name=f"lease {uri}")
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        lease.leave()


class _Lease:
    def __init__(self, uri: str, settings: Settings, who: str) -> None:
        self._uri, self._settings, self._who = uri, settings, who
        self._id, self._count, self._version = uuid.uuid4().hex, 0, ""

    def take(self, what: str) -> None:
        """Takes it where nobody holds it, or its holder gives no sign of life."""
        text, self._version = read_versioned(self._uri, self._settings)
        since = time.monotonic()
        while _holder(text) and time.monotonic() - since < EXPIRY:
            time.sleep(EXPIRY / _BEATS / 2)
            before = self._version
            text, self._version = read_versioned(self._uri, self._settings)
            if self._version != before and _holder(text):
                raise _busy(f"{what} goes on already, by {_holder(text)}")
        try:
            self._write(self._who)
        except BusyError:
            raise _busy(f"{what} has just been begun by another") from None

    def beat(self, ended: Event) -> None:
        """Gives signs of life until it is ended."""
        while not ended.wait(EXPIRY / _BEATS):
            try:
                self._write(self._who)
            except BusyError:
                log.warning("%s was taken over by another: this process gave no sign of life", self._uri)
                return
            except StorageError as error:
                log.warning("no sign of life to %s: %s", self._uri, error)

    def leave(self) -> None:
        """Lets the next one in without a wait."""
        with suppress(BusyError, StorageError):  # it is another's by now, or lapses
            self._write("")

    def _write(self, holder: str) -> None:
        self._count += 1
        text = json.dumps({"holder": holder, "id": self._id, "count": self._count})
        try:
            self._version = replace_text(text, self._uri, self._version, self._settings)
        except BusyError:
            found, version = read_versioned(self._uri, self._settings)
            if _field(found, "id") != self._id:
                raise
            # An earlier write of this process, whose answer was lost.
            self._version = replace_text(text, self._uri, version, self._settings)


def _holder(text: str) -> str:
    """Who holds a lease; empty where nobody does."""
    return _field(text, "holder")


def _field(text: str, name: str) -> str:
    try:
        return str(json.loads(text)[name])
    except (ValueError, TypeError, KeyError):  # nobody's yet, or no lease of ours
        return ""


def _busy(got: str) -> BusyError:
    return BusyError(got, remedy="Wait for its end, or stop it")
