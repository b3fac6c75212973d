"""A bar on a terminal, if it takes long; nothing in a log."""

import os
import pty
import subprocess
import sys

CODE = """
import time
from fti.materialize.progress import progress
with progress("materialize spending", 3) as advance:
    advance(1)
    time.sleep(float(__import__("sys").argv[1]))
    advance(1)
    advance(1)
"""


def on_a_terminal(seconds: float) -> str:
    ours, theirs = pty.openpty()
    subprocess.run(
        [sys.executable, "-c", CODE, str(seconds)], stderr=theirs, check=True, env={**os.environ, "TERM": "xterm"}
    )
    os.close(theirs)
    said = b""
    try:
        while piece := os.read(ours, 4096):
            said += piece
    except OSError:  # that is how a terminal ends
        pass
    os.close(ours)
    return said.decode()


def test_a_bar_on_a_terminal_if_it_takes_long() -> None:
    assert "materialize spending" in on_a_terminal(3.1)
    assert on_a_terminal(0) == ""


def test_nothing_in_a_log() -> None:
    run = subprocess.run([sys.executable, "-c", CODE, "3.1"], capture_output=True, text=True, check=True)
    assert run.stdout + run.stderr == ""
