"""A Docker engine for the tests: the one that DOCKER_HOST names, else one of their own, else the one that runs."""

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

_OPTIONS = ["--iptables=false", "--ip6tables=false", "--bridge=none", "--ip-masq=false"]  # containers share our network


class NoEngineError(Exception):
    """Why no image can be built here."""


@dataclass(frozen=True)
class Engine:
    """A running Docker engine.

    Attributes:
        host: Its address, as DOCKER_HOST has it.
        client: A `docker` command that builds with BuildKit.
    """

    host: str
    client: str

    def docker(self, *arguments: str) -> str:
        """Runs the `docker` command and returns what it prints."""
        return subprocess.run(
            [self.client, *arguments], env=self.environ, check=True, capture_output=True, text=True
        ).stdout

    @property
    def environ(self) -> dict[str, str]:
        """The environment for programs that talk to it."""
        return {**os.environ, "DOCKER_HOST": self.host, "DOCKER_BUILDKIT": "1"}


@contextmanager
def docker_engine() -> Iterator[Engine]:
    """Yields an engine. One that was started here is stopped, and all that it holds removed.

    Raises:
        NoEngineError: There is none, and none can be started.
    """
    client = _client()
    if "DOCKER_HOST" in os.environ or os.geteuid() != 0 or shutil.which("dockerd") is None:
        running = Engine(os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock"), client)
        if not _answers(running):
            raise NoEngineError("no Docker engine answers; as root, with Debian's docker.io, the tests start their own")
        yield running
        return
    folder = Path(tempfile.mkdtemp(prefix="fti-engine-"))  # apart from pytest's own folders, which it keeps
    engine = Engine(f"unix://{folder}/docker.sock", client)
    (folder / "daemon.json").write_text("{}")
    places = [f"--{name}={folder}/{name}" for name in ("data-root", "exec-root")]
    command = ["dockerd", *places, f"--pidfile={folder}/pid", f"--config-file={folder}/daemon.json", *_OPTIONS]
    with (folder / "log").open("w") as log:
        daemon = subprocess.Popen([*command, f"--host={engine.host}"], stdout=log, stderr=log)
    try:
        _wait(engine, daemon, folder / "log")
        yield engine
    finally:
        daemon.terminate()
        daemon.wait(60)
        _remove(folder)


def _remove(folder: Path) -> None:
    """Removes hundred thousands of files, and what the engine leaves mounted, such as its network namespace."""
    mounted = [line.split()[1] for line in Path("/proc/mounts").read_text().splitlines()]
    for place in reversed([each for each in mounted if each.startswith(f"{folder}/")]):
        subprocess.run(["umount", place])
    subprocess.run(["rm", "-rf", str(folder)])


def _client() -> str:
    """Some `docker` commands cannot build with BuildKit: newer ones need a plugin for it."""
    for folder in os.environ["PATH"].split(os.pathsep):
        client = str(Path(folder, "docker"))
        if not os.access(client, os.X_OK):
            continue
        asked = subprocess.run(
            [client, "build", "--help"], env={**os.environ, "DOCKER_BUILDKIT": "1"}, capture_output=True, text=True
        )
        if "--secret" in asked.stdout:
            return client
    raise NoEngineError("no docker command that builds with BuildKit is on the PATH")


def _answers(engine: Engine) -> bool:
    return subprocess.run([engine.client, "version"], env=engine.environ, capture_output=True).returncode == 0


def _wait(engine: Engine, daemon: "subprocess.Popen[bytes]", log: Path) -> None:
    deadline = time.monotonic() + 60
    while not _answers(engine):
        if daemon.poll() is not None or time.monotonic() > deadline:
            raise NoEngineError(f"dockerd does not start here: {log.read_text()[-300:]}")
        time.sleep(0.1)
