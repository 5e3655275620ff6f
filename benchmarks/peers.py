"""The servers that ours is compared with: each the shortest honest one for its kind, over the same vectors.

    python -m benchmarks.peers KIND VECTORS.npy

prints the port. Ids are ``0 … n-1``, and all but Redis look them up with the same hash and gather that ours has, so
that the way is compared and not the table.
"""

from __future__ import annotations

import socket
import struct
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.flight as flight

from crossmedia.imgserver.storage.hashtable import IdTable

Ids = npt.NDArray[np.int64]


class Lookup:
    """id -> row, then a gather."""

    def __init__(self, vectors: npt.NDArray[np.float16]):
        self._vectors, self._table = vectors, IdTable(len(vectors))
        self._table.put(np.arange(len(vectors)), np.arange(len(vectors)))
        self.dim = vectors.shape[1]

    def __call__(self, ids: Ids) -> npt.NDArray[np.float16]:
        """Vectors of ``ids``."""
        out = np.empty((len(ids), self._vectors.shape[1]), dtype=np.float16)
        return np.take(self._vectors, self._table.get(ids), axis=0, out=out, mode="clip")


class _Flight(flight.FlightServerBase):  # type: ignore[misc]
    def __init__(self, lookup: Lookup):
        super().__init__("grpc://127.0.0.1:0")
        self._lookup = lookup

    def do_exchange(self, context: Any, descriptor: Any, reader: Any, writer: Any) -> None:
        begun = False
        for chunk in reader:
            values = self._lookup(chunk.data.column(0).to_numpy())
            block = pa.FixedSizeBinaryArray.from_buffers(
                pa.binary(2 * values.shape[1]), len(values), [None, pa.py_buffer(values)]
            )
            batch = pa.record_batch([block], names=["vector"])
            if not begun:
                writer.begin(batch.schema)
                begun = True
            writer.write_batch(batch)


def serve_flight(lookup: Lookup) -> None:
    """Arrow Flight: ids in, fixed-size binary out, over one exchange."""
    server = _Flight(lookup)
    print(server.port, flush=True)
    server.serve()


def serve_repeated(lookup: Lookup) -> None:
    """GRPC with ``repeated float``, what a first draft of such a service has."""
    from benchmarks.repeated import Request, Response

    def get(request: Any, context: Any) -> Any:
        return Response(values=lookup(np.array(request.ids, dtype=np.int64)).astype(np.float32).ravel())

    server = grpc.server(ThreadPoolExecutor(8), options=[("grpc.max_send_message_length", -1)])
    method = grpc.unary_unary_rpc_method_handler(get, Request.FromString, Response.SerializeToString)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("Repeated", {"Get": method}),))
    print(server.add_insecure_port("127.0.0.1:0"), flush=True)
    server.start()
    server.wait_for_termination()


def serve_empty(lookup: Lookup) -> None:
    """GRPC alone: a handler that looks nothing up, and answers with as many bytes as the vectors would have.

    It is what any server in Python is up against, before it has done anything.
    """
    size = lookup.dim * 2

    def get(request: bytes, context: Any) -> bytes:
        return bytes(len(request) // 8 * size)

    server = grpc.server(ThreadPoolExecutor(8), options=[("grpc.max_send_message_length", -1)])
    server.add_registered_method_handlers("Empty", {"Get": grpc.unary_unary_rpc_method_handler(get)})
    print(server.add_insecure_port("127.0.0.1:0"), flush=True)
    server.start()
    server.wait_for_termination()


def serve_socket(lookup: Lookup) -> None:
    """A plain TCP socket: length and ids in, vectors out. The limit of what a Python server can do."""

    def answer(connection: socket.socket) -> None:
        with connection, connection.makefile("rb", buffering=1 << 20) as stream:
            while head := stream.read(8):
                ids = np.frombuffer(stream.read(8 * struct.unpack("<q", head)[0]), dtype=np.int64)
                connection.sendall(lookup(ids).data)

    listener = socket.create_server(("127.0.0.1", 0))
    print(listener.getsockname()[1], flush=True)
    while True:
        connection, _ = listener.accept()
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        threading.Thread(target=answer, args=(connection,), daemon=True).start()


KINDS = {"flight": serve_flight, "repeated": serve_repeated, "empty": serve_empty, "socket": serve_socket}

if __name__ == "__main__":
    KINDS[sys.argv[1]](Lookup(np.load(sys.argv[2])))
