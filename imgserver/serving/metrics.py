"""Numbers of the image server that are observed as they happen, beside those that every daemon has."""

from __future__ import annotations

from prometheus_client import Histogram

from crossmedia.imgserver import wire
from crossmedia.service.metrics import SECONDS, Metrics
from crossmedia.v1 import image_server_pb2 as pb

IMAGES = (1, 2, 4, 8, 16, 32)


class ImageMetrics(Metrics):
    """Calls and batches; ``ServiceTotals`` can be registered beside them."""

    def __init__(self) -> None:
        super().__init__()
        self.batch_size = Histogram(
            "crossmedia_batch_size", "Images in a CNN batch.", buckets=IMAGES, registry=self.registry
        )

    def lookup_durations(self) -> pb.Durations:
        """How long the calls of ``GetVectors`` took so far, whatever came of them; empty before the first."""
        counts: dict[float, float] = {}
        for sample in (one for metric in self.rpc_duration.collect() for one in metric.samples):
            if sample.name.endswith("_bucket") and sample.labels["method"] == wire.GET_VECTORS.name:
                bound = float(sample.labels["le"])
                counts[bound] = counts.get(bound, 0.0) + sample.value
        if not counts:
            return pb.Durations()
        up_to = [int(counts[bound]) for bound in sorted(counts)]  # each holds those of the bounds below it
        calls = [more - less for more, less in zip(up_to, [0, *up_to], strict=False)]
        return pb.Durations(lookup_seconds=SECONDS, lookup_calls=calls)
