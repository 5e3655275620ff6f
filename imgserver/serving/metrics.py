"""Numbers for Prometheus: base units, bounded labels. Totals are read from the service when they are asked for."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Histogram, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from crossmedia.errors import BadInput
from crossmedia.hosts import written
from crossmedia.status import Status

if TYPE_CHECKING:
    from crossmedia.imgserver.serving.service import ImageService

SECONDS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60)
IMAGES = (1, 2, 4, 8, 16, 32)


class Metrics:
    """What is observed as it happens; the totals join when the service is there."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.rpc_duration = Histogram(
            "crossmedia_rpc_duration_seconds",
            "Duration of calls, in seconds.",
            ("method", "code"),
            buckets=SECONDS,
            registry=self.registry,
        )
        self.batch_size = Histogram(
            "crossmedia_batch_size", "Images in a CNN batch.", buckets=IMAGES, registry=self.registry
        )

    def watch(self, service: ImageService) -> None:
        """Report the totals of ``service`` too."""
        self.registry.register(_Totals(service))

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


class _Totals(Collector):
    def __init__(self, service: ImageService):
        self._service = service

    def describe(self) -> Iterable[Metric]:
        return []  # nothing is computed to register

    def collect(self) -> Iterator[Metric]:
        info, misses = self._service.get_info(), self._service.misses
        lookups = CounterMetricFamily(
            "crossmedia_cache_lookups", "Ids looked up: vector there, known failure, or neither.", labels=("result",)
        )
        for result, count in self._service.lookup.counts.items():
            lookups.add_metric((result,), count)
        yield lookups
        failed = CounterMetricFamily("crossmedia_images_failed", "Images that failed on demand.", labels=("reason",))
        for status, count in sorted(misses.counters.failed.copy().items()):
            failed.add_metric((Status(status).name,), count)
        yield failed
        yield CounterMetricFamily("crossmedia_images_computed", "Vectors made on demand.", info.computed_on_demand)
        yield GaugeMetricFamily(
            "crossmedia_rows_damaged",
            "Rows and entries of the store found not to be what was written.",
            info.rows_damaged,
        )
        yield CounterMetricFamily(
            "crossmedia_requests_refused", "Calls refused for overload.", self._service.admission.refused
        )
        yield GaugeMetricFamily("crossmedia_queue_items", "Images waiting for the CNN.", info.images_pending)
        yield GaugeMetricFamily(
            "crossmedia_pending_bytes",
            "Bytes of memory that calls under way hold.",
            self._service.admission.under_way.size,
        )
        yield GaugeMetricFamily("crossmedia_store_used_bytes", "Bytes of the store on disk.", info.store_used_bytes)
        yield GaugeMetricFamily("crossmedia_store_free_bytes", "Bytes free on its disk.", info.store_free_bytes)
        yield GaugeMetricFamily("crossmedia_store_images", "Vectors of the active version.", info.images_stored)
        yield GaugeMetricFamily("crossmedia_store_generation", "Grows when a photo is replaced.", info.generation)
        yield GaugeMetricFamily("crossmedia_heads_held", "Heads that trainers have put.", info.heads_held)
        served = GaugeMetricFamily(
            "crossmedia_version_info", "The version that is served.", labels=("version", "engine")
        )
        served.add_metric((info.version, info.engine), 1)
        yield served
