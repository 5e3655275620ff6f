"""Numbers of the scoring server for Prometheus: base units, bounded labels."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import numpy as np
import numpy.typing as npt
from prometheus_client import Counter, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from crossmedia.service.admission import Admission
from crossmedia.service.metrics import SECONDS, Metrics
from crossmedia.service.timely import TimelyTurns
from crossmedia.status import AWAY, CACHED, UNKNOWN_ITEM, Status
from crossmedia.trainer.serving.served import ServedModel

NAMES = {int(status): status.name for status in Status} | {
    CACHED: "CACHED",
    AWAY: "AWAY",
    UNKNOWN_ITEM: "UNKNOWN_ITEM",
}
COUNTER, GAUGE = CounterMetricFamily, GaugeMetricFamily


class ScoringMetrics(Metrics):
    """What is observed as it happens; ``ScoringTotals`` can be registered beside it."""

    def __init__(self) -> None:
        super().__init__()
        self._seconds = Histogram(
            "crossmedia_score_duration_seconds",
            "Seconds that the scores of a request took, without the wait before.",
            ("model", "version"),
            buckets=SECONDS,
            registry=self.registry,
        )
        self._candidates = Counter(
            "crossmedia_candidates",
            "Candidates scored, by what there was of them.",
            ("model", "version", "status"),
            registry=self.registry,
        )

    def scored(self, model: ServedModel, seconds: float, status: npt.NDArray[np.uint8]) -> None:
        """Note a request.

        Args:
            model: that answered.
            seconds: it took.
            status: of each candidate, shape (C,).
        """
        self._seconds.labels(model.name, model.version).observe(seconds)
        for value, count in zip(*np.unique(status, return_counts=True), strict=True):
            self._candidates.labels(model.name, model.version, NAMES.get(int(value), "FAILED")).inc(int(count))

    def forget(self, model: ServedModel) -> None:
        """Drop the labels of a version that is no longer held, so that their number stays bounded."""
        for metric in (self._seconds, self._candidates):
            for labels in [labels for labels in metric._metrics if labels[:2] == (model.name, model.version)]:
                metric.remove(*labels)


class ScoringTotals(Collector):
    """Reads totals when they are asked for.

    Args:
        roles: gives the models that are held, each with its role.
        admission: of candidates.
        turns: of requests.
    """

    def __init__(
        self, roles: Callable[[], Iterable[tuple[ServedModel, str]]], admission: Admission, turns: TimelyTurns
    ):
        self._roles, self._admission, self._turns = roles, admission, turns

    def describe(self) -> Iterable[Metric]:
        """Nothing: it takes no totals to register."""
        return []

    def collect(self) -> Iterator[Metric]:
        """The totals of now."""
        admission = self._admission
        refused = admission.refused + self._turns.refused
        yield COUNTER("crossmedia_requests_refused", "Calls refused for overload.", refused)
        yield GAUGE("crossmedia_queue_items", "Candidates waiting or being scored.", admission.under_way.items)
        yield GAUGE("crossmedia_pending_bytes", "Bytes of memory that calls under way hold.", admission.under_way.size)
        info = GAUGE("crossmedia_model_info", "Models held.", labels=("model", "version", "role", "vectors"))
        away = GAUGE("crossmedia_vectors_away", "1: the image server of a space is away.", labels=("model", "space"))
        asked = COUNTER("crossmedia_vectors_requested", "Ids whose vectors were needed.", labels=("model", "space"))
        kept = COUNTER("crossmedia_vectors_cached", "Those that the cache had.", labels=("model", "space"))
        failed = COUNTER(
            "crossmedia_vectors_failed", "Fetches of vectors that failed.", labels=("model", "space", "error")
        )
        unmatched = COUNTER(
            "crossmedia_values_unmatched", "Values of requests that nothing matched.", labels=("model", "kind")
        )
        of_model = ("model", "version")
        beside = COUNTER("crossmedia_shadow_candidates", "Candidates scored by a model beside, too.", labels=of_model)
        apart = COUNTER("crossmedia_shadow_difference", "Sum of their absolute differences.", labels=of_model)
        for model, role in self._roles():
            if role == "shadow":
                beside.add_metric((model.name, model.version), model.apart.candidates)
                apart.add_metric((model.name, model.version), model.apart.difference)
            info.add_metric((model.name, model.version, role, model.vectors), 1)
            if role != "active":
                continue
            for kind, count in model.scorer.unmatched().items():
                unmatched.add_metric((model.name, kind), count)
            for space, source in model.sources().items():
                away.add_metric((model.name, space), int(source.away))
                asked.add_metric((model.name, space), source.stats.requested)
                kept.add_metric((model.name, space), source.stats.cached)
                for error, count in source.failures.copy().items():
                    failed.add_metric((model.name, space, error), count)
        yield from (info, away, asked, kept, failed, beside, apart, unmatched)
