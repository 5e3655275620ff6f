"""Heads that trainers put, over the wire: their vectors and gradients, and what each call costs."""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from crossmedia.errors import InvalidRequest, VersionMismatch
from crossmedia.imgserver.head import Head
from crossmedia.imgserver.serving.heads import MAX_HEAD_BYTES, Heads
from crossmedia.imgserver.serving.learning import HeadCall, Learning, working_bytes
from crossmedia.imgserver.serving.lookup import Lookup, Statuses, Values
from crossmedia.imgserver.serving.open_versions import OpenVersions
from crossmedia.imgserver.storage.records import Ids
from crossmedia.service.admission import Admission, Cost, Turns
from crossmedia.service.callers import Caller
from crossmedia.status import is_ok
from crossmedia.v1 import image_server_pb2 as pb
from crossmedia.version import Version

READING_COPIES = (
    5  # of a head's bytes: message, tensors, module, what its digest is made of, and a check of each number
)
GRADIENT_COPIES = 3  # of a head's weights: the sum, a block's part, and the reply


class LiveHeads:
    """Answers for versions whose head a trainer put.

    Args:
        served: the versions that are open, the backbones' features among them.
        lookup: brings features.
        admission: counts what is under way.
    """

    def __init__(self, served: OpenVersions, lookup: Lookup, admission: Admission):
        self.heads, self.learning = Heads(), Learning()
        self._served, self._lookup, self._admission = served, lookup, admission
        self._reading = Turns(1)

    def forget(self) -> None:
        """Give up what nobody asked for for a while."""
        self.heads.forget()
        self.learning.forget()

    def put(self, request: pb.PutHeadRequest, caller: Caller) -> pb.PutHeadResponse:
        """Hold a head that a trainer brings, so that its vectors and gradients can be asked for.

        Raises:
            InvalidRequest, BadInput: the block is no head of finite weights, too large, or not of the version named.
            NotReady: nothing was precomputed yet.
            VersionMismatch: the store has no features of that backbone.
            Overloaded: the heads of all runs would be too large together, or too much is under way.
        """
        if len(request.head) > MAX_HEAD_BYTES:
            raise InvalidRequest(f"The head has {len(request.head)} bytes; the limit is {MAX_HEAD_BYTES} (GetInfo).")
        if request.owner not in (pb.HEAD_OWNER_UNSPECIFIED, pb.HEAD_OWNER_TRAINER):
            raise InvalidRequest(f"The owner {request.owner} is unknown; this server knows heads that trainers own.")
        cost = Cost(size=READING_COPIES * len(request.head), slow=1)
        with self._admission.held(cost, caller), self._reading.one(caller):
            head = Head.from_bytes(request.head)
            backbone = Version.parse(request.version).backbone
            if (right := head.version(backbone)) != request.version:
                raise InvalidRequest(f"The head was put as {request.version}; its weights are those of {right}.")
            features = self._served.of(backbone).table.space
            if features.kind != "feature" or features.dim != head.spec.widths[0]:
                raise InvalidRequest(
                    f"The head takes {head.spec.widths[0]} numbers; features of {backbone} have {features.dim}."
                )
            return pb.PutHeadResponse(version=right, held=self.heads.put(request.run_id, right, head, caller.name))

    def vectors(self, version: str, head: Head, block: bytes, ids: Ids, caller: Caller) -> tuple[Values, Statuses, int]:
        """Vectors of a head, shape (n, D), fp32, their status, and how many features were computed for them.

        Args:
            version: of the head.
            head: the head.
            block: the ids as they came.
            ids: shape (n,).
            caller: who waits.
        """
        cost = Cost(size=len(ids) * 2 * head.spec.widths[0] + working_bytes(head.spec, len(ids)), slow=1)
        with self._admission.held(cost, caller):
            features, status, computed = self._features(version, ids, caller)
            values = self.learning.vectors(HeadCall(version, head, block, caller), features, is_ok(status))
        return values, status, computed

    def gradient(self, request: pb.GetHeadGradientRequest, ids: Ids, caller: Caller) -> pb.GetHeadGradientResponse:
        """The gradient of a head's weights for gradients of its vectors.

        Args:
            request: what is asked for.
            ids: shape (n,), of the request.
            caller: who waits.

        Raises:
            InvalidRequest: a broken block, a gradient that is not finite or belongs to an image without a feature.
            VersionMismatch: no run holds that head (any more): put it again.
            Overloaded: too much is under way.
            DeadlineExceeded: it took too long.
        """
        started = time.perf_counter_ns()
        head = self.heads.get(request.version)
        if head is None:
            raise VersionMismatch(f"No run holds the head of {request.version} here; put it again.")
        spec = head.spec
        if len(request.d_vectors) != 4 * len(ids) * spec.dim:
            raise InvalidRequest(
                f"d_vectors has {len(request.d_vectors)} bytes; {len(ids)} ids of {spec.dim} float32 numbers take "
                f"{4 * len(ids) * spec.dim}."
            )
        size = len(request.d_vectors) + len(ids) * 2 * spec.widths[0] + working_bytes(spec, len(ids))
        cost = Cost(size=size, slow=1)
        reply = Cost(size=GRADIENT_COPIES * 4 * spec.parameters)
        with self._admission.held_until_sent(reply, caller), self._admission.held(cost, caller):
            d_vectors = np.frombuffer(request.d_vectors, dtype="<f4").reshape(len(ids), spec.dim).copy()

            def features() -> tuple[Values, np.ndarray[Any, Any]]:
                values, status, _ = self._features(request.version, ids, caller)
                return values, is_ok(status)

            call = HeadCall(request.version, head, request.image_ids, caller)
            gradient = self.learning.gradient(call, d_vectors, features)
            return pb.GetHeadGradientResponse(
                version=request.version, gradient=gradient, server_time_ns=time.perf_counter_ns() - started
            )

    def _features(self, version: str, ids: Ids, caller: Caller) -> tuple[Values, Statuses, int]:
        return self._lookup.rows(self._served.of(Version.parse(version).backbone), ids, caller)
