"""The steps of a local run: processes whose output is kept, whose cost is measured and whose errors are heard.

KFP's runner prints a step's output and forgets the rest. `Steps` takes the place of the one function with which it
starts a process. A run that is interrupted starts no further step and leaves none behind.
"""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from threading import Event, Lock, current_thread, main_thread
from types import FrameType
from typing import TextIO

from fti.common.masking import masked

_ANSI = re.compile(r"\x1b\[[0-9;]*m")
_ERROR = re.compile(r"^fti\.common\.errors\.\w+: (?P<text>.*)$")
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_INTERRUPTED = 130


@dataclass(frozen=True)
class Step:
    """A step that runs or has ended.

    Attributes:
        name: The component's name, with what it works on: `ingest flights`.
        seconds: Wall time; None while it runs.
        cpu_seconds: User and system time of its process, as the kernel counts it.
        peak_mb: The most memory that its process held, MB; at least what the runner itself held when it started it.
        failed: Whether it ended with an error.
        error: Its own words, where the error is one of this library's.
    """

    name: str
    seconds: float | None = None
    cpu_seconds: float = 0.0
    peak_mb: float = 0.0
    failed: bool = False
    error: str = ""


OnStep = Callable[[Step], None]


class Steps:
    """Starts the steps of one run.

    Args:
        log: Gets every line that a step prints, without what may be secret in URLs.
        on_step: Called as each step starts and as it ends.
    """

    def __init__(self, log: TextIO, on_step: OnStep) -> None:
        self._log, self._on_step = log, on_step
        self._running: set[subprocess.Popen[str]] = set()
        self._stopped, self._lock = Event(), Lock()

    @contextmanager
    def observed(self) -> Iterator[None]:
        """Within the block KFP's local runner starts its steps here; a signal stops them all."""
        from kfp.local import subprocess_task_handler as handler

        before = handler.run_local_subprocess
        handler.run_local_subprocess = self.run
        try:
            with self._stopped_by_signals():
                yield
        finally:
            self._stop()
            handler.run_local_subprocess = before

    def run(self, full_command: Sequence[str], env_vars: dict[str, str] | None = None) -> int:
        """Runs one step to its end; stands in for KFP's function of these parameters.

        Returns:
            The exit code.
        """
        command = _restored(full_command)
        step, started = Step(_name(command)), time.monotonic()
        process = self._start(command, env_vars or {})
        if process is None:
            return _INTERRUPTED
        self._on_step(step)
        last = self._kept(process, step.name)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        self._running.discard(process)
        failed = process.returncode != 0
        ended = replace(
            step,
            seconds=time.monotonic() - started,
            cpu_seconds=usage.ru_utime + usage.ru_stime,
            peak_mb=usage.ru_maxrss / 1024,
            failed=failed,
            error=_error(last) if failed else "",
        )
        if not self._stopped.is_set():
            self._on_step(ended)
        return int(process.returncode)

    def _start(self, command: Sequence[str], env_vars: dict[str, str]) -> "subprocess.Popen[str] | None":
        with self._lock:
            if self._stopped.is_set():
                return None
            # A group of its own: KFP wraps the step in a shell, and both must go together.
            process = subprocess.Popen(
                command,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                env={**os.environ, **env_vars},
                process_group=0,
            )
            self._running.add(process)
            return process

    def _stop(self) -> None:
        self._stopped.set()
        for process in list(self._running):
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)

    @contextmanager
    def _stopped_by_signals(self) -> Iterator[None]:
        if current_thread() is not main_thread():  # only the main thread may handle signals
            yield
            return

        def stop(number: int, _frame: FrameType | None) -> None:
            self._stop()
            raise KeyboardInterrupt(signal.Signals(number).name)

        before = {number: signal.signal(number, stop) for number in _SIGNALS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _kept(self, process: "subprocess.Popen[str]", name: str) -> list[str]:
        """Copies a process's output to the log as it comes; the last lines are also returned."""
        last: list[str] = []
        assert process.stdout is not None  # noqa: S101 - it was asked for
        for line in process.stdout:
            plain = masked(_ANSI.sub("", line.rstrip("\n")))
            self._log.write(f"[{name}] {plain}\n")
            self._log.flush()
            last = [*last[-99:], plain]
        return last


def _restored(command: Sequence[str]) -> list[str]:
    """KFP puts the path of this Python in place of every `python3`: right in its script, wrong in the values."""
    return [*command[:4], *(part.replace(sys.executable, "python3") for part in command[4:])]


def _name(command: Sequence[str]) -> str:
    """The component's name, and the table or algorithm that tells it from its like."""
    name = command[command.index("--function_to_execute") + 1]
    inputs = json.loads(command[command.index("--executor_input") + 1]).get("inputs", {})
    parameters = inputs.get("parameterValues", {})
    raw = inputs.get("artifacts", {}).get("raw", {}).get("artifacts", [{}])
    detail = parameters.get("table") or raw[0].get("metadata", {}).get("table") or parameters.get("algorithm", "")
    return f"{name} {detail}".strip()


def _error(lines: Sequence[str]) -> str:
    """The message of the last of our errors, to the end of what the process said."""
    for index in range(len(lines) - 1, -1, -1):
        if match := _ERROR.match(lines[index]):
            return " ".join([match["text"], *(line.strip() for line in lines[index + 1 :])]).strip()
    return ""
