"""Writing the inference log without slowing requests: they append to a queue, two threads do the rest.

One gathers answered requests into Arrow batches and cuts files; the other writes them, and is the one that waits while
an object store is down. Rows that do not fit are dropped and counted; nothing ever waits for the log.
"""

import hashlib
import logging
import os
import re
import socket
import threading
import time
from collections import deque
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from queue import SimpleQueue
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from fti.common.errors import ConfigError, FtiError
from fti.common.inference_log import KeyType, schema_of
from fti.common.settings import Settings
from fti.common.storage import shown, upload
from fti.common.storage.location import parse
from fti.serve.forms import TEXT_KEY, WHOLE_KEY
from fti.serve.observe.inference_rows import Entry, Rows, size_of
from fti.serve.observe.metrics import Metrics

if TYPE_CHECKING:
    import pyarrow as pa

    from fti.serve.model import PackagedModel

log = logging.getLogger(__name__)

_TICK = 0.25  # seconds
_WAKE_ROWS = 2_000  # so many are gathered before the tick is over
_CHUNK = 1_000  # requests gathered at once
_FILE_ROWS, _FILE_SHARE = 50_000, 4  # a file is cut from so many rows, or from that part of the memory, 1 / 4
_FIRST_PAUSE, _LONGEST_PAUSE = 1.0, 30.0  # seconds between tries to write a file


@dataclass(frozen=True)
class Limits:
    """How much of the log may be lost, and how much memory it may take.

    Attributes:
        rows: So many rows wait at most to be written; more are dropped.
        memory: So many bytes they take at most, about; what would take more is dropped.
        seconds: No row waits longer, unless it cannot be written.
        sample: The share of requests that is logged, by the hash of the request id.
    """

    rows: int = 100_000
    memory: int = 128 * 1024 * 1024
    seconds: float = 60.0
    sample: float = 1.0


@dataclass
class _Sum:
    """Of rows, counted by one thread alone."""

    rows: int = 0
    memory: int = 0

    def add(self, rows: int, memory: int) -> None:
        self.rows += rows
        self.memory += memory


class InferenceLog:
    """The log of one predictor.

    Args:
        folder: `<uri>/<model>/<revision>`.
        rows: Makes the rows.
        metrics: Counts what becomes of the rows.
        settings: How object stores are reached.
        limits: See there.

    Raises:
        ConfigError: The folder cannot be written to, whatever happens.
    """

    def __init__(self, folder: str, rows: Rows, metrics: Metrics, settings: Settings, limits: Limits) -> None:
        if parse(folder).is_web:
            raise ConfigError(f"FTI_INFERENCE_LOG is {shown(folder)}", allowed="a folder, or s3:// or gs://")
        self._folder, self._rows = folder, rows
        self._metrics, self._settings, self._limits = metrics, settings, limits
        # What went in, was gathered, could not be gathered, was written.
        self._added, self._gathered, self._unfit, self._done = (_Sum() for _ in range(4))
        self._queue: deque[tuple[Entry, int]] = deque()
        self._batches: list[pa.RecordBatch] = []
        self._memory = 0  # of the batches
        self._oldest = 0.0
        self._files: SimpleQueue[_File | None] = SimpleQueue()
        self._cut_files = 0
        self._writer = f"{re.sub(r'[^A-Za-z0-9.-]', '-', socket.gethostname())}-{os.getpid()}"
        self._wake, self._closing = threading.Event(), threading.Event()
        self._threads = [
            threading.Thread(target=work, name=f"inference-log-{name}", daemon=True)
            for name, work in (("gather", self._gather), ("write", self._write))
        ]
        for thread in self._threads:
            thread.start()

    @property
    def waiting(self) -> int:
        """How many rows are not yet written."""
        return self._added.rows - self._unfit.rows - self._done.rows

    def add(self, entry: Entry) -> None:
        """Takes the rows of a request, or drops them where too many wait. Never blocks; call it from one thread."""
        rows = entry.request.rows
        if self._limits.sample < 1 and not sampled(entry.request_id, self._limits.sample):
            self._metrics.logged("sampled_out", rows)
            return
        memory = size_of(entry)
        held = self._added.memory - self._unfit.memory - self._done.memory
        too_much = self.waiting + rows > self._limits.rows or held + memory > self._limits.memory
        if too_much or self._closing.is_set():
            self._metrics.logged("dropped", rows)
            return
        self._added.add(rows, memory)
        self._queue.append((entry, memory))
        if self._added.rows - self._gathered.rows > _WAKE_ROWS and not self._wake.is_set():
            self._wake.set()

    def close(self, seconds: float = 4.0) -> None:
        """Writes what is left, and gives up after some seconds; says how many rows were lost."""
        self._closing.set()
        self._wake.set()
        deadline = time.monotonic() + seconds
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        if lost := self.waiting:
            self._metrics.logged("dropped", lost)
            log.error("%d rows of the inference log were not written before the end", lost)

    def _gather(self) -> None:
        while not self._closing.is_set():
            self._wake.wait(_TICK)
            self._wake.clear()
            self._gather_queue()
            if self._batches and time.monotonic() - self._oldest >= self._limits.seconds:
                self._cut()
        self._gather_queue()
        self._cut()
        self._files.put(None)

    def _gather_queue(self) -> None:
        # What comes meanwhile waits for the next time: a batch of few rows costs as much as one of many.
        for _ in range(0, len(self._queue), _CHUNK):
            taken = [self._queue.popleft() for _ in range(min(_CHUNK, len(self._queue)))]
            rows, memory = sum(entry.request.rows for entry, _ in taken), sum(size for _, size in taken)
            try:
                batch = self._rows.batch([entry for entry, _ in taken])
            except Exception:  # a row that fits no schema must not end the log
                log.exception("%d rows do not fit into the inference log", rows)
                self._metrics.logged("dropped", rows)
                self._unfit.add(rows, memory)
            else:
                if not self._batches:
                    self._oldest = time.monotonic()
                self._batches.append(batch)
                self._memory += memory
            self._gathered.add(rows, memory)
            large = self._memory * _FILE_SHARE >= self._limits.memory
            if large or sum(map(len, self._batches)) >= _FILE_ROWS:
                self._cut()

    def _cut(self) -> None:
        """Hands what was gathered over for writing, a file for each day."""
        import pyarrow as pa
        import pyarrow.compute as pc

        if not self._batches:
            return
        table, memory = pa.Table.from_batches(self._batches), self._memory
        self._batches, self._memory = [], 0
        days = table["time"].cast(pa.date32())
        for day in pc.unique(days):
            self._cut_files += 1
            stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S%fZ")
            name = f"date={day}/{stamp}-{self._writer}-{self._cut_files}.parquet"
            self._files.put(_File(f"{self._folder}/{name}", table.filter(pc.equal(days, day)), memory))
            memory = 0  # told of the first file alone

    def _write(self) -> None:
        while (file := self._files.get()) is not None:
            if not self._written(file):  # the end has come; neither would the others be written
                return
            self._done.add(len(file.table), file.memory)
            self._metrics.logged("written", len(file.table))

    def _written(self, file: "_File") -> bool:
        """Writes a file, again and again under the same name, until it is written or the predictor has ended."""
        pause, told = _FIRST_PAUSE, False
        while True:
            last = self._closing.is_set()
            try:
                file.write(self._settings)
            except Exception as error:  # whatever it is, the next try may succeed
                if not told:
                    said = str(error) if isinstance(error, FtiError) else type(error).__name__
                    log.warning("the inference log cannot be written: %s It is tried again.", said)
                    told = True
            else:
                if told:
                    log.info("the inference log is written again")
                return True
            if last:
                return False
            self._closing.wait(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)


@dataclass(frozen=True)
class _File:
    uri: str
    table: "pa.Table"
    memory: int

    def write(self, settings: Settings) -> None:
        import pyarrow.parquet as pq

        with TemporaryDirectory(prefix="fti-inference-log-") as scratch:
            path = Path(scratch) / "rows.parquet"
            pq.write_table(self.table, path, compression="zstd")
            upload(path, self.uri, settings)


def open_log(model: "PackagedModel", settings: Settings, limits: Limits) -> InferenceLog | None:
    """Opens the inference log of a model; None where `settings.inference_log_uri` is empty.

    Args:
        model: The model.
        settings: Where the log lies, and the share of requests that is logged.
        limits: How much may wait; the share is that of the settings.

    Raises:
        ConfigError: The URI cannot be written to, whatever happens, or a limit is none.
    """
    if limits.rows < 1 or limits.memory < 1 or limits.seconds <= 0:
        raise ConfigError(
            f"the inference log's limits are {limits.rows} rows, {limits.memory} bytes and {limits.seconds} seconds",
            allowed="--inference_log_rows and --inference_log_bytes of at least 1, --inference_log_seconds above 0",
        )
    if not settings.inference_log_uri:
        return None
    kinds = {name: kind for name, kind in model.schema.keyed.items() if kind in {TEXT_KEY, WHOLE_KEY}}
    keys: dict[str, KeyType] = {name: "int64" if kind == WHOLE_KEY else "string" for name, kind in kinds.items()}
    made = Rows(model.name, model.revision, model.signature, schema_of(model.signature, keys))
    limits = replace(limits, sample=settings.inference_log_sample)
    folder = f"{settings.inference_log_uri}/{model.name}/{model.revision}"
    return InferenceLog(folder, made, model.metrics, settings, limits)


def sampled(request_id: str, share: float) -> bool:
    """Whether a request is in a sample: the same answer everywhere, so that a request is logged whole or not at all."""
    digest = hashlib.blake2b(request_id.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") < share * 2**64
