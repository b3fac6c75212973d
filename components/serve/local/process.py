"""Child processes that log to a file and cannot outlive this one."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from time import monotonic

from fti.serve.local import launch
from fti.serve.observe.logs import readable

_LAUNCHER = (sys.executable, "-I", "-S", launch.__file__)


class Child:
    """A running command.

    It dies with the thread that started it: start it in one that lives as long as the command is needed.

    Args:
        argv: The command, its first part an absolute path.
        log: Where its output is appended.
        environ: Its environment.
    """

    def __init__(self, argv: Sequence[str], log: Path, environ: Mapping[str, str]) -> None:
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as stream:
            self._process = subprocess.Popen(
                [*_LAUNCHER, str(os.getpid()), *argv],
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=subprocess.STDOUT,
                env=dict(environ),
                process_group=0,  # Ctrl-C reaches this process alone, which stops its children in order
            )

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    @property
    def status(self) -> int | None:
        """The exit status, negative for a signal, or None while it runs."""
        return self._process.poll()

    def send(self, number: signal.Signals) -> None:
        """Sends a signal, unless it is over already."""
        self._process.send_signal(number)

    def wait(self, deadline: float) -> bool:
        """Waits until it is over, at most until a time of `time.monotonic`; says whether it is."""
        try:
            self._process.wait(max(0.0, deadline - monotonic()))
        except subprocess.TimeoutExpired:
            return False
        return True


def stop_all(children: Iterable[Child], grace: float) -> None:
    """Asks children to end, waits for some seconds, and kills those that did not."""
    running = [child for child in children if child.status is None]
    for child in running:
        child.send(signal.SIGTERM)
    deadline = monotonic() + grace
    for child in running:
        if not child.wait(deadline):
            child.send(signal.SIGKILL)
            child.wait(monotonic() + grace)


def tail(log: Path, lines: int = 12) -> str:
    """The last lines of a log, as people read them, or a word that it is empty."""
    try:
        text = log.read_text(encoding="utf-8", errors="replace").strip()
    except FileNotFoundError:
        text = ""
    return "\n".join(readable(line) for line in text.splitlines()[-lines:]) or "(its log is empty)"
