"""A line between two processes that can be cut as a network is: silently, nobody is told, nothing passes any more."""

from __future__ import annotations

import socket
import threading
from contextlib import suppress


class Line:
    """Listens on a port of its own, and carries what comes to another one and back while it is whole.

    What is under way when it is cut waits, as TCP sends again what a network has dropped as soon as that works again.
    """

    def __init__(self, port: int) -> None:
        """`port`: where it leads."""
        self._port = port
        self._whole = threading.Event()
        self._whole.set()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._ends: list[socket.socket] = []
        self._lock = threading.Lock()
        self._closed = False
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        """From now on, nothing passes."""
        self._whole.clear()

    def mend(self) -> None:
        """What has waited passes."""
        self._whole.set()

    def give_up(self) -> None:
        """Break the connections of now, heard at both ends, as systems do after minutes; others may be made."""
        with self._lock:
            ends, self._ends = self._ends, []
        _end(*ends)
        self._whole.set()

    def close(self) -> None:
        """Break all connections, and take no more."""
        with self._lock:
            self._closed = True
        _end(self._listener)
        self.give_up()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                try:
                    far = socket.create_connection(("127.0.0.1", self._port))
                except ConnectionRefusedError:  # Nobody listens there yet.
                    near.close()
                    continue
                with self._lock:
                    if self._closed:
                        return _end(near, far)
                    self._ends += [near, far]
                for source, sink in ((near, far), (far, near)):
                    threading.Thread(target=self._carry, args=(source, sink), daemon=True).start()

    def _carry(self, source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(1 << 16):
                self._whole.wait()
                sink.sendall(data)
            self._whole.wait()
            sink.shutdown(socket.SHUT_WR)


def _end(*ends: socket.socket) -> None:
    for end in ends:
        with suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)
        end.close()
