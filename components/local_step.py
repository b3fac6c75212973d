"""One step of a local run: a process whose output is kept, whose cost is measured and whose error is heard.

KFP's runner prints a step's output and forgets the rest. `observed_steps` takes the place of the one function with
which it starts a process.
"""

import json
import os
import re
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TextIO

_ANSI = re.compile(r"\x1b\[[0-9;]*m")
_ERROR = re.compile(r"^fti\.common\.errors\.\w+: (?P<text>.*)$")


@dataclass(frozen=True)
class Step:
    """A step that runs or has ended.

    Attributes:
        name: The component's name, with what it works on: `ingest flights`.
        seconds: Wall time; None while it runs.
        cpu_seconds: User and system time of its process, as the kernel counts it.
        peak_mb: The most memory that its process held, MB.
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


@contextmanager
def observed_steps(log: TextIO, on_step: OnStep) -> Iterator[None]:
    """Within the block KFP's local runner starts steps that are kept, measured and told.

    Args:
        log: Gets every line that a step prints.
        on_step: Called as each step starts and as it ends.
    """
    from kfp.local import subprocess_task_handler as handler

    before = handler.run_local_subprocess
    handler.run_local_subprocess = lambda full_command, env_vars=None: _run(full_command, env_vars, log, on_step)
    try:
        yield
    finally:
        handler.run_local_subprocess = before


def _run(command: Sequence[str], env_vars: dict[str, str] | None, log: TextIO, on_step: OnStep) -> int:
    step = Step(_name(command))
    on_step(step)
    started = time.monotonic()
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        env={**os.environ, **(env_vars or {})},
    )
    try:
        lines = _kept(process, step.name, log)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    except BaseException:  # Ctrl-C: the step must not outlive the run
        process.kill()
        process.wait()
        raise
    failed = process.returncode != 0
    on_step(
        replace(
            step,
            seconds=time.monotonic() - started,
            cpu_seconds=usage.ru_utime + usage.ru_stime,
            peak_mb=usage.ru_maxrss / 1024,
            failed=failed,
            error=_error(lines) if failed else "",
        )
    )
    return int(process.returncode)


def _kept(process: "subprocess.Popen[str]", name: str, log: TextIO) -> list[str]:
    """Copies a process's output to the log as it comes; the last lines are also returned."""
    last: list[str] = []
    assert process.stdout is not None  # noqa: S101 - it was asked for
    for line in process.stdout:
        plain = _ANSI.sub("", line.rstrip("\n"))
        log.write(f"[{name}] {plain}\n")
        log.flush()
        last = [*last[-99:], plain]
    return last


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
