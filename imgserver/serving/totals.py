"""Totals of a service for Prometheus: base units, bounded labels."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from crossmedia.imgserver.serving.service import ImageService
from crossmedia.status import Status

COUNTER, GAUGE = CounterMetricFamily, GaugeMetricFamily


class ServiceTotals(Collector):
    """Watches a service from outside, and reads its totals when they are asked for."""

    def __init__(self, service: ImageService):
        self._service = service

    def describe(self) -> Iterable[Metric]:
        """Nothing: it takes no totals to register."""
        return []

    def collect(self) -> Iterator[Metric]:
        """The totals of now."""
        info, misses = self._service.get_info(), self._service.misses
        contents, counters = info.contents, info.counters
        lookups = COUNTER(
            "crossmedia_cache_lookups", "Ids looked up: vector there, known failure, or neither.", labels=("result",)
        )
        for result, count in self._service.lookup.counts.items():
            lookups.add_metric((result,), count)
        yield lookups
        failed = COUNTER("crossmedia_images_failed", "Images that failed on demand.", labels=("reason",))
        for status, count in sorted(misses.counters.failed.copy().items()):
            failed.add_metric((Status(status).name,), count)
        yield failed
        admission = self._service.admission
        for kind, name, help_text, total in (
            (COUNTER, "crossmedia_images_computed", "Vectors made on demand.", counters.computed_on_demand),
            (
                GAUGE,
                "crossmedia_rows_damaged",
                "Rows and entries of the store found not to be what was written.",
                counters.rows_damaged,
            ),
            (COUNTER, "crossmedia_requests_refused", "Calls refused for overload.", admission.refused),
            (GAUGE, "crossmedia_queue_items", "Images waiting for the CNN.", counters.images_pending),
            (GAUGE, "crossmedia_pending_bytes", "Bytes of memory that calls under way hold.", admission.under_way.size),
            (GAUGE, "crossmedia_store_used_bytes", "Bytes of the store on disk.", contents.store_used_bytes),
            (GAUGE, "crossmedia_store_free_bytes", "Bytes free on its disk.", contents.store_free_bytes),
            (GAUGE, "crossmedia_store_images", "Vectors of the active version.", contents.images_stored),
            (GAUGE, "crossmedia_store_generation", "Grows when a photo is replaced.", info.generation),
            (GAUGE, "crossmedia_heads_held", "Heads that trainers have put.", contents.heads_held),
        ):
            yield kind(name, help_text, total)
        served = GAUGE("crossmedia_version_info", "The version that is served.", labels=("version", "engine"))
        served.add_metric((info.version, info.engine), 1)
        yield served
