"""The server on trial: the predictor, as a process of its own, asked over HTTP and watched."""

import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from time import monotonic, perf_counter, sleep
from typing import Any

from fti.common.inference_service import Revision
from fti.common.masking import masked
from fti.common.model_package import ModelPackage
from fti.common.settings import Settings
from fti.infra_validate.scratch import PROFILE, ScratchStore
from fti.serve.local.ports import HOST, Ports
from fti.serve.local.predictors import STOP_SECONDS, answers, child_environ, command
from fti.serve.local.process import Child, stop_all, tail

_NAME = "candidate"
_POLL_SECONDS = 0.05
_ANSWER_SECONDS = 30.0
_ERROR = re.compile(r"^\w+Error: .*", re.MULTILINE | re.DOTALL)
_MEMORY = re.compile(r"^Vm(RSS|HWM):\s+(\d+) kB$", re.MULTILINE)


class ServerFailedError(Exception):
    """The server does not start, dies, does not answer, or outgrows its memory; says why in one sentence."""


@dataclass(frozen=True)
class Answer:
    """An answer.

    Attributes:
        status: Of HTTP.
        content: The JSON value.
        seconds: From the call to the whole answer.
    """

    status: int
    content: Any
    seconds: float

    @property
    def refusal(self) -> str:
        """Why the request was refused; empty where it was not."""
        if self.status == 200:
            return ""
        said = self.content.get("error") if isinstance(self.content, dict) else self.content
        return f"{self.status}: {said}"


@dataclass
class Server:
    """A running predictor.

    Attributes:
        child: Its process.
        port: Where it listens.
        revision: What it serves.
        log: What it says.
        memory_limit_mb: Of its resident memory.
        started_at: When it was started, by `time.monotonic`.
        ready_after: Seconds until it answered; None while it does not.
        memory: Its resident memory over time: seconds since the start, MiB.
        peak_mb: Its resident memory at its peak, MiB.
    """

    child: Child
    port: int
    revision: Revision
    log: Path
    memory_limit_mb: float
    started_at: float = field(default_factory=monotonic)
    ready_after: float | None = None
    memory: list[tuple[float, float]] = field(default_factory=list)
    peak_mb: float = 0.0
    _connection: HTTPConnection | None = None

    def wait_ready(self, seconds: float) -> None:
        """Waits until the predictor answers.

        Raises:
            ServerFailedError: It ended, it takes too long, or its memory is above the limit.
        """
        while not answers(self.port, _NAME, self.revision):
            if self.child.status is not None:
                raise ServerFailedError(f"the predictor does not start: {_last_words(self.log)}")
            if monotonic() - self.started_at > seconds:
                raise ServerFailedError(f"the predictor does not answer within {seconds:g} s: {_last_words(self.log)}")
            self._watch()
            sleep(_POLL_SECONDS)
        self.ready_after = monotonic() - self.started_at
        self._watch()

    def ask(self, action: str, rows: Sequence[dict[str, Any]]) -> Answer:
        """Sends rows.

        Args:
            action: `predict` or `features`.
            rows: The instances.

        Raises:
            ServerFailedError: The server died, does not answer, or its memory is above the limit.
        """
        body = json.dumps({"instances": list(rows)})
        path, headers = f"/v1/models/{_NAME}:{action}", {"content-type": "application/json"}
        started = perf_counter()
        try:
            if self._connection is None:
                self._connection = HTTPConnection(HOST, self.port, timeout=_ANSWER_SECONDS)
            self._connection.request("POST", path, body, headers)
            response = self._connection.getresponse()
            content = response.read()
        except TimeoutError as error:
            raise ServerFailedError(f"the predictor does not answer within {_ANSWER_SECONDS:g} s") from error
        except (OSError, HTTPException) as error:
            self.child.wait(monotonic() + 1)
            how = f"ended with status {self.child.status}" if self.child.status is not None else f"hung up: {error!r}"
            raise ServerFailedError(f"the predictor {how}: {_last_words(self.log)}") from error
        seconds = perf_counter() - started
        self._watch()
        try:
            return Answer(response.status, json.loads(content), seconds)
        except ValueError as error:
            raise ServerFailedError(f"the predictor answers no JSON: {content[:200]!r}") from error

    def close(self) -> None:
        """Closes the connection."""
        if self._connection is not None:
            self._connection.close()

    def _watch(self) -> None:
        """Reads the process's memory, as proc(5) counts it: resident now, and at its peak."""
        try:
            status = Path(f"/proc/{self.child.pid}/status").read_text(encoding="utf-8")
        except (FileNotFoundError, ProcessLookupError):
            return
        figures = {name: int(kilobytes) / 1024 for name, kilobytes in _MEMORY.findall(status)}
        if not figures:  # it has just ended
            return
        self.memory.append((monotonic() - self.started_at, figures["RSS"]))
        self.peak_mb = figures["HWM"]
        if self.peak_mb > self.memory_limit_mb:
            reached = f"the predictor's memory reached {self.peak_mb:,.0f} MB"
            raise ServerFailedError(f"{reached}, above the limit of {self.memory_limit_mb:,g} MB")


@contextmanager
def serving(
    package: ModelPackage, scratch: ScratchStore | None, settings: Settings, log: Path, memory_limit_mb: float
) -> Iterator[Server]:
    """Starts the predictor as `fti serve` does, and stops it in the end. Does not wait until it answers.

    Args:
        package: The model package.
        scratch: Where it looks features up; None: every request carries all.
        settings: Where the stores lie.
        log: Where its output goes.
        memory_limit_mb: Of its memory, MiB.
    """
    revision = Revision(package.digest, str(package.path), scratch.feature_repo if scratch else "")
    # What it answers on trial belongs neither into the log of predictions nor into traces.
    environ = {**child_environ(replace(settings, now=None, inference_log_uri="")), "OTEL_SDK_DISABLED": "true"}
    environ |= {PROFILE: str(scratch.profile)} if scratch else {}
    with Ports() as ports:
        port = ports.reserve()
        child = Child(command(_NAME, revision, port, ports.reserve()), log, environ)
        server = Server(child, port, revision, log, memory_limit_mb)
        try:
            yield server
        finally:
            server.close()
            stop_all([child], STOP_SECONDS)


def _last_words(log: Path) -> str:
    """Its own error, where it is one of ours; else the last line of its log."""
    said = _ERROR.search(tail(log))
    return masked(" ".join(said[0].split()) if said else tail(log, 1))
