"""A caller of HTTP/2 made by hand: it sends half a call, or reads no reply, which gRPC's own callers never do."""

from __future__ import annotations

import socket
import struct

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, SETTINGS = 0, 1, 4
END_STREAM, END_HEADERS, ACK = 1, 4, 1
INITIAL_WINDOW_SIZE = 4


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """One frame."""
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + struct.pack(">I", stream) + payload


def header(name: str, value: str) -> bytes:
    """One header, without compression."""
    return b"\0" + b"".join(bytes([len(text)]) + text.encode() for text in (name, value))


class Http2:
    """A connection.

    Args:
        where: an address, or a connected socket.
        window: bytes of each reply that are read.
    """

    def __init__(self, where: str | socket.socket, window: int = 65_535):
        if isinstance(where, str):
            host, _, port = where.rpartition(":")
            where = socket.create_connection((host, int(port)), 5)
        self._socket, self._next = where, 1
        where.sendall(PREFACE + frame(SETTINGS, 0, 0, struct.pack(">HI", INITIAL_WINDOW_SIZE, window)))
        where.settimeout(5)
        where.recv(1 << 16)  # the server's settings
        where.sendall(frame(SETTINGS, ACK, 0))

    def call(self, path: str, message: bytes | None = None, **more: str) -> None:
        """Begin a call without a deadline, and end it with a message, at most what a server takes unread (256 KiB)."""
        pairs = {":method": "POST", ":scheme": "http", ":path": path, ":authority": "x", "te": "trailers"}
        pairs |= {"content-type": "application/grpc", **more}
        block = b"".join(header(name, value) for name, value in pairs.items())
        self._socket.sendall(frame(HEADERS, END_HEADERS, self._next, block))
        if message is not None:
            body = b"\0" + struct.pack(">I", len(message)) + message
            parts = [body[start : start + 16_384] for start in range(0, len(body), 16_384)]
            for part in parts:
                self._socket.sendall(frame(DATA, END_STREAM if part is parts[-1] else 0, self._next, part))
        self._next += 2

    def read(self, seconds: float = 1.0) -> bytes:
        """What comes within some seconds."""
        found = b""
        self._socket.settimeout(seconds)
        try:
            while data := self._socket.recv(1 << 16):
                found += data
        except TimeoutError:
            pass
        return found

    def close(self) -> None:
        """Hang up."""
        self._socket.close()
