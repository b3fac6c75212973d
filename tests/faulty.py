"""A relay in front of a server that breaks connections off in the middle, or answers 503 itself."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

_BUSY = b"HTTP/1.1 503 Slow Down\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


class Faulty:
    """Relays bytes between clients and a server.

    Args:
        host: The server's.
        port: The server's.

    Attributes:
        cuts: How many connections it will still break off.
        cut_after: After how many bytes of one direction it does so.
        refusals: How many connections it will still answer with 503.
        sent: How many bytes have gone to the server.
        received: How many have come from it.
    """

    def __init__(self, host: str, port: int) -> None:
        self._upstream = (host, port)
        self.cuts = self.refusals = self.sent = self.received = 0
        self.cut_after = 1 << 62
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.port: int = self._listener.getsockname()[1]
        self._accepting = threading.Thread(target=self._accept)
        self._accepting.start()

    def close(self) -> None:
        """Stops it."""
        self._listener.shutdown(socket.SHUT_RDWR)
        self._accepting.join()
        self._listener.close()
        self.drop()

    def drop(self) -> None:
        """Ends all connections."""
        for each in list(self._open):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        if self._take("refusals"):
            with client, suppress(OSError):
                client.recv(1 << 16)
                client.sendall(_BUSY)
                client.shutdown(socket.SHUT_WR)
                while client.recv(1 << 16):  # what it still sends
                    pass
            return
        server = socket.create_connection(self._upstream)
        self._open |= {client, server}
        back = threading.Thread(target=self._relay, args=(server, client, "received"), daemon=True)
        back.start()
        self._relay(client, server, "sent")
        back.join()
        self._open -= {client, server}
        client.close()
        server.close()

    def _relay(self, source: socket.socket, target: socket.socket, count: str) -> None:
        passed = 0
        with suppress(OSError):
            while block := source.recv(1 << 16):
                passed += len(block)
                with self._lock:
                    setattr(self, count, getattr(self, count) + len(block))
                if passed > self.cut_after and self._take("cuts"):
                    break
                target.sendall(block)
        for each in (source, target):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)

    def _take(self, name: str) -> bool:
        with self._lock:
            left: int = getattr(self, name)
            setattr(self, name, max(0, left - 1))
            return left > 0


@contextmanager
def faulty(address: str) -> Iterator[Faulty]:
    """Runs a relay to `http://host:port`."""
    host, _, port = address.removeprefix("http://").partition(":")
    relay = Faulty(host, int(port))
    try:
        yield relay
    finally:
        relay.close()
