"""Loopback ports that nobody else takes."""

import socket
from types import TracebackType

from fti.common.errors import BusyError, ConfigError

HOST = "127.0.0.1"
DEFAULT_PORT = 8080  # of the gateway


class Ports:
    """Reserves loopback ports for child processes, until closed.

    A reserved port is bound but not listened on: the system gives it to nobody, connections to it are refused, and
    a child that sets SO_REUSEADDR, as servers do, can listen on it, again and again.
    """

    def __init__(self) -> None:
        self._held: dict[int, socket.socket] = {}

    def reserve(self, port: int = 0) -> int:
        """Reserves a port.

        Args:
            port: The port, or 0 for any that is free.

        Raises:
            BusyError: Somebody listens on it.
            ConfigError: It is no port, or needs rights that this user lacks.
        """
        if not 0 <= port <= 65535:
            raise ConfigError(f"port {port}", allowed="1 to 65535, or 0 for any that is free")
        holder = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            holder.bind((HOST, port))
        except PermissionError as error:
            holder.close()
            raise ConfigError(f"port {port} needs rights that you lack", allowed="a port from 1024 on") from error
        except OSError as error:
            holder.close()
            raise BusyError(
                f"port {port} on {HOST} is in use", remedy="Stop what listens there, or choose another with --port"
            ) from error
        reserved = int(holder.getsockname()[1])
        self._held[reserved] = holder
        return reserved

    def release(self, port: int) -> None:
        """Gives a reserved port back."""
        self._held.pop(port).close()

    def __enter__(self) -> "Ports":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for holder in self._held.values():
            holder.close()


def is_listened_on(port: int) -> bool:
    """Whether somebody accepts connections on a port of loopback, within half a second."""
    try:
        socket.create_connection((HOST, port), timeout=0.5).close()
    except OSError:
        return False
    return True
