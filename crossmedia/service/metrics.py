"""Numbers for Prometheus that every daemon has: base units, bounded labels."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Histogram, start_http_server

from crossmedia.errors import BadInput
from crossmedia.hosts import written

SECONDS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60)


class Metrics:
    """What is observed as it happens; collectors of totals can be registered beside it.

    Attributes:
        registry: what ``/metrics`` shows.
        rpc_duration: seconds of calls, by method and code.
    """

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.rpc_duration = Histogram(
            "crossmedia_rpc_duration_seconds",
            "Duration of calls, in seconds.",
            ("method", "code"),
            buckets=SECONDS,
            registry=self.registry,
        )

    def listen(self, host: str, port: int) -> int:
        """Answer ``GET /metrics``; return the port.

        Raises:
            BadInput: the port is taken.
        """
        try:
            server, _ = start_http_server(port, host, self.registry)
        except OSError as error:
            raise BadInput(
                f"Metrics cannot be served at {written(host, port)}: {error}. Choose another port."
            ) from error
        return int(server.server_address[1])
