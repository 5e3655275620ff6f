"""A TCP proxy between client and server that delays, throttles, cuts and goes deaf."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from types import TracebackType

PIECE = 16 << 10


class Proxy:
    """Listens at ``address`` and forwards to ``target``; what it does to the bytes can be changed at any time.

    Attributes:
        delay_s: before each piece of a reply is handed on.
        bytes_per_s: most that is handed on of the replies of one connection; None: no limit.
        cut_after: bytes of replies, over all connections from now on, after which a connection is cut; None: never.
        deaf: connections stay open and nothing passes any more, as when a machine has gone without a word.
        connections: that were taken so far.
    """

    def __init__(self, target: str):
        host, _, port = target.rpartition(":")
        self._target = (host, int(port))
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=512)
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self.delay_s = 0.0
        self.bytes_per_s: float | None = None
        self.cut_after: int | None = None
        self.deaf = False
        self.connections = 0
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self) -> Proxy:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._listener.close()
        self.cut()

    def cut(self) -> None:
        """Cut every connection that is open."""
        with self._lock:
            sockets, self._open = self._open, set()
        for one in sockets:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()

    def half_close(self) -> None:
        """End the sending side of every connection, both ways: each peer sees an end, and may go on sending."""
        with self._lock:
            for one in self._open:
                with contextlib.suppress(OSError):
                    one.shutdown(socket.SHUT_WR)

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            try:
                server = socket.create_connection(self._target, 5)
            except OSError:
                client.close()
                continue
            server.settimeout(None)
            with self._lock:
                self._open |= {client, server}
            for source, sink, reply in ((client, server, False), (server, client, True)):
                threading.Thread(target=self._forward, args=(source, sink, reply), daemon=True).start()

    def _forward(self, source: socket.socket, sink: socket.socket, reply: bool) -> None:
        try:
            while piece := source.recv(PIECE):
                while self.deaf:
                    time.sleep(0.02)
                    if source.fileno() < 0:
                        return
                if reply and self._cuts(piece):
                    sink.sendall(piece[: len(piece) // 2])
                    break
                if reply:
                    time.sleep(self.delay_s + (len(piece) / self.bytes_per_s if self.bytes_per_s else 0))
                sink.sendall(piece)
        except OSError:
            pass
        for one in (source, sink):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    def _cuts(self, piece: bytes) -> bool:
        with self._lock:
            if self.cut_after is None:
                return False
            self.cut_after -= len(piece)
            if self.cut_after > 0:
                return False
            self.cut_after = None
            return True
