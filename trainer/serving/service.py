"""The scoring server's service, whatever it is reached by: gRPC, REST, or a call in the same process."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version

import numpy as np

from crossmedia.errors import InvalidRequest, did_you_mean
from crossmedia.inference import grpc_predict_v2_pb2 as pb
from crossmedia.service.admission import Admission, Cost
from crossmedia.service.callers import Caller, OnEnd
from crossmedia.service.timely import TimelyTurns
from crossmedia.trainer.serving.loads import beside, load_of
from crossmedia.trainer.serving.metrics import ScoringMetrics, ScoringTotals
from crossmedia.trainer.serving.models import CANARY, Models
from crossmedia.trainer.serving.replies import metadata_of, reply_of
from crossmedia.trainer.serving.requests import count_of, request_of
from crossmedia.trainer.serving.served import ServedModel
from crossmedia.trainer.serving.tensors import short

EXTENSIONS = ("model_repository",)
MAX_SIZE = 1 << 30  # bytes that requests may hold in all
MAX_MESSAGE = 64 << 20
BYTES_A_VALUE = 256  # of a candidate or a behaviour, on the way to a score
PROBE_S = 5.0


@dataclass(frozen=True)
class Limits:
    """What is taken on.

    Attributes:
        threads: requests that are computed at once; 0: as many as there are cores.
        max_candidates: of a request.
        max_pending: candidates that wait or are computed, of all requests.
        max_wait_s: seconds that a request may be expected to wait.
    """

    threads: int = 0
    max_candidates: int = 10_000
    max_pending: int = 20_000
    max_wait_s: float = 1.0


class ScoringService:
    """Answers the calls of the protocol.

    Args:
        models: that are served.
        limits: what is taken on.

    Attributes:
        models: as given.
        admission: of candidates and of memory.
        turns: of requests.
        metrics: of what it does.
        ready: whether scores go through, as its health says.
        last_at: when a score went through last, on the monotonic clock.
        timeout_s: seconds that ``probe`` may take.
    """

    timeout_s = PROBE_S
    alive = True

    def __init__(self, models: Models, limits: Limits):
        self.models, self._limits = models, limits
        self.admission = Admission(limits.max_pending, MAX_SIZE, waiting="candidates wait or are scored")
        self.turns = TimelyTurns(limits.threads or len(os.sched_getaffinity(0)), limits.max_wait_s)
        self.metrics = ScoringMetrics()
        models.forget, models.turn = self.metrics.forget, self.turns.own
        self.metrics.registry.register(ScoringTotals(models.roles, self.admission, self.turns))
        self.last_at = -float("inf")
        self.ready: Callable[[], bool] = lambda: False

    def server_metadata(self) -> pb.ServerMetadataResponse:
        """What this server is."""
        return pb.ServerMetadataResponse(name="crossmedia", version=version("crossmedia"), extensions=EXTENSIONS)

    def model(self, name: str, of_version: str = "") -> ServedModel:
        """A model that is served.

        Raises:
            InvalidRequest: there is none of that name, or not of that version.
        """
        known = self.models.names
        if name not in known:
            raise InvalidRequest(
                f"There is no model {short(name)} here.{did_you_mean(name[:60], known)} Served are: {', '.join(known)}."
            )
        return self.models.chosen(name, of_version)

    def model_metadata(self, request: pb.ModelMetadataRequest) -> pb.ModelMetadataResponse:
        """What a model takes and gives.

        Raises:
            InvalidRequest: there is no such model.
        """
        model = self.model(request.name, request.version)
        scorer = model.scorer
        versions = self.models.versions(request.name)
        return metadata_of(model.name, versions, scorer.columns, model.labels, scorer.gives_reasons)

    def infer(
        self, request: pb.ModelInferRequest, deadline: float, on_end: OnEnd | None = None
    ) -> pb.ModelInferResponse:
        """Scores of a request's candidates.

        Args:
            request: as it came.
            deadline: on the monotonic clock.
            on_end: tells when the caller has gone.

        Raises:
            InvalidRequest, BadInput: it can never be answered as it is; what, where, and what to do.
            Overloaded: there are too many before it.
            DeadlineExceeded: its time was over before it was its turn.
        """
        caller = Caller(deadline, on_end)
        model = self.model(request.model_name, request.model_version)
        count = count_of(request, model.scorer.columns, self._limits.max_candidates)
        if count > self.admission.share_of_items:
            raise InvalidRequest(
                f"The request has {count} candidates; this server admits {self.admission.share_of_items} of one caller "
                f"at a time. Ask in several requests."
            )
        # All that takes time is done in turn, so that no more threads than cores compute.
        with self.admission.held(Cost(count, count * BYTES_A_VALUE), caller), self.turns.one(caller, max(1, count)):
            caller.check()  # its time may be over by now
            started = time.perf_counter()
            asked = request_of(request, model.scorer.columns, self._limits.max_candidates)
            answer = model.answer(asked)
            reply = reply_of(request, answer, model.labels, model.version, model.vectors)
            self.metrics.scored(model, time.perf_counter() - started, answer.status)
            self.last_at = time.monotonic()
        self.admission.note_rate(count)
        self.models.seen(model, asked, answer)
        return reply

    def index(self, request: pb.RepositoryIndexRequest) -> pb.RepositoryIndexResponse:
        """Every model that is held; the reason of its state says what for, and how far it is from the one before."""
        told = pb.RepositoryIndexResponse()
        for name in self.models.names:
            held = self.models.held(name)
            for model, role in held.models():
                newest = model is (held.beside or held.active) and held.drift.requests
                share = f", {held.share:.0%} of the requests" if role == CANARY else ""
                reason = f"{role}{share}. {held.drift.said}" if newest else f"{role}{share}"
                told.models.add(name=name, version=model.version, state="READY", reason=reason)
        return told

    def load(self, request: pb.RepositoryModelLoadRequest) -> pb.RepositoryModelLoadResponse:
        """Serve what lies in a model's file now, or another file beside it: ``loads.py`` says by which parameters.

        Raises:
            InvalidRequest, BadInput: it cannot be; what is served has not changed.
        """
        self.model(request.model_name)
        asked = load_of(request)
        if asked.rollback:
            self.models.rolled_back(request.model_name)
        else:
            active = self.models.held(request.model_name).active
            path = beside(active.path, asked.file)
            self.models.switch(request.model_name, path, asked.share, asked.trust_native)
        return pb.RepositoryModelLoadResponse()

    def probe(self) -> None:
        """Score an item that nobody knows, with each model.

        Raises:
            Exception: of any kind: no score came.
        """
        for name in self.models.names:
            model = self.models.chosen(name, "")
            with self.turns.own(PROBE_S):
                found = model.answer(model.probe()).probabilities
            if not np.isfinite(found).all():
                raise RuntimeError(f"the model {name} gives a score that is no number")
        self.last_at = time.monotonic()
