"""Runs a command that cannot outlive its parent: `python launch.py PARENT_PID COMMAND ...`. Standard library only."""

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1  # prctl(2); survives execve, and is sent even when the parent was killed


def main() -> None:
    """Ties this process to its parent's life, then becomes the command."""
    parent, command = int(sys.argv[1]), sys.argv[2:]
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it died before the tie held
        sys.exit(1)
    os.execv(command[0], command)  # noqa: S606  # fixed arguments, no shell


if __name__ == "__main__":
    main()
