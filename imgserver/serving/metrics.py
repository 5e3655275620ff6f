"""Numbers of the image server that are observed as they happen, beside those that every daemon has."""

from __future__ import annotations

from prometheus_client import Histogram

from crossmedia.service.metrics import Metrics

IMAGES = (1, 2, 4, 8, 16, 32)


class ImageMetrics(Metrics):
    """Calls and batches; ``ServiceTotals`` can be registered beside them."""

    def __init__(self) -> None:
        super().__init__()
        self.batch_size = Histogram(
            "crossmedia_batch_size", "Images in a CNN batch.", buckets=IMAGES, registry=self.registry
        )
