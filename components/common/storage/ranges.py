"""Downloading a large object in ranges, several at once, each of which goes on where its connection was cut."""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from typing import Protocol

from fti.common.errors import StorageError

RANGE = 16 * 1024 * 1024  # bytes
_AT_ONCE = 4
_ATTEMPTS = 5
_BLOCK = 1024 * 1024
_FIRST_PAUSE = 0.1  # seconds; doubled each time


class Stream(Protocol):
    """The body of an answer."""

    def read(self, amt: int) -> bytes:
        """The next bytes, at most so many; none at the end."""


# First byte, number of bytes -> the stream of just those.
OpenRange = Callable[[int, int], AbstractContextManager[Stream]]


def download_ranges(path: Path, size: int, open_range: OpenRange, cut: type[Exception]) -> None:
    """Fills a file with an object; of its content only a few blocks are in memory at a time.

    Args:
        path: The file to write.
        size: The size of the object, bytes.
        open_range: Opens a range of it.
        cut: What a broken connection raises.

    Raises:
        StorageError: The object is shorter than it should be.
        Exception: Of the kind `cut`, where a range breaks off again and again without a byte between; whatever else
            `open_range` raises, at once.
    """
    stop = Event()
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT, 0o666)
    try:
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            ranges = [
                _Range(descriptor, first, min(first + RANGE, size), open_range) for first in range(0, size, RANGE)
            ]
            waiting = [pool.submit(each.fetch, cut, stop) for each in ranges]
            try:
                for each in waiting:
                    each.result()
            finally:
                stop.set()  # once one has failed, the others need not go on
    finally:
        os.close(descriptor)


@dataclass
class _Range:
    """A part of an object on its way into a file.

    Attributes:
        descriptor: The file.
        at: The next byte to come.
        end: The byte after the last.
        open_range: Opens it.
    """

    descriptor: int
    at: int
    end: int
    open_range: OpenRange

    def fetch(self, cut: type[Exception], stop: Event) -> None:
        failures = 0
        while self.at < self.end and not stop.is_set():
            before = self.at
            try:
                self._read(stop)
            except cut:
                failures = 1 if self.at > before else failures + 1
                if failures == _ATTEMPTS:
                    raise
                stop.wait(_FIRST_PAUSE * 2**failures)

    def _read(self, stop: Event) -> None:
        with self.open_range(self.at, self.end - self.at) as stream:
            while self.at < self.end and not stop.is_set():
                block = stream.read(min(_BLOCK, self.end - self.at))
                if not block:
                    raise StorageError(f"an object ends at byte {self.at}", allowed=f"{self.end} bytes and more")
                self.at += os.pwrite(self.descriptor, block, self.at)
