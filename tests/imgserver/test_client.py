from __future__ import annotations

import time

import numpy as np
import pytest
from crossmedia.v1 import image_server_pb2 as pb
from hypothesis import given
from hypothesis import strategies as st

from imgserver.client import ImageClient, MockTransport, Status
from imgserver.client.transports import Pending
from imgserver.errors import (
    DeadlineExceeded,
    InvalidRequest,
    Overloaded,
    ServerFault,
    ServerUnavailable,
    TooManyMissingImages,
    VersionMismatch,
)
from imgserver.wire import VectorsReply

DIM = 8
VECTORS = {i: np.full(DIM, i, dtype=np.float16) for i in range(0, 200, 2)}


@given(ids=st.lists(st.integers(-1, 210), max_size=60), limit=st.integers(1, 20), in_flight=st.integers(1, 5))
def test_any_ids_come_back_in_order_whatever_the_limits(ids: list[int], limit: int, in_flight: int) -> None:
    transport = MockTransport(VECTORS, max_ids_per_call=limit)
    result = ImageClient(transport, in_flight=in_flight).get(ids)
    assert result.values.dtype == np.float16
    assert result.values.shape == (len(ids), DIM)
    for row, image_id in enumerate(ids):
        there = image_id in VECTORS
        assert result.ok[row] == there
        assert (result.values[row] == (image_id if there else 0)).all()
    sent = [i for r in transport.requests for i in np.frombuffer(r.image_ids, "<i8").tolist()]
    assert sorted(sent) == sorted(set(ids) - {-1}), "each id is sent once, the null image never"
    assert all(len(r.image_ids) // 8 <= limit for r in transport.requests)


class Flaky(MockTransport):
    """Fails some calls, then works."""

    def __init__(self, failures: list[Exception | int]):
        super().__init__(VECTORS)
        self.failures = failures

    def get_vectors(self, request: pb.GetVectorsRequest, timeout_s: float) -> Pending:
        failure = self.failures.pop(0) if self.failures else None
        if isinstance(failure, Exception):
            raise_later = failure

            class Failing:
                def result(self) -> VectorsReply:
                    raise raise_later

            return Failing()
        reply = super().get_vectors(request, timeout_s).result()
        if failure is not None:
            reply.status = np.full(len(reply.status), failure, dtype=np.uint8)

        class Done:
            def result(self) -> VectorsReply:
                return reply

        return Done()


def test_what_is_retryable_is_retried() -> None:
    transport = Flaky([ServerUnavailable("away"), pb.VECTOR_STATUS_TIMED_OUT, pb.VECTOR_STATUS_FAILED])
    assert ImageClient(transport).get([2, 4]).ok.all()
    assert len(transport.requests) == 3


@pytest.mark.parametrize(
    ("failure", "error"),
    [(ServerUnavailable("nobody there"), ServerUnavailable), (pb.VECTOR_STATUS_TIMED_OUT, DeadlineExceeded)],
)
def test_a_fault_that_lasts_is_raised_within_the_deadline(failure: Exception | int, error: type[Exception]) -> None:
    started = time.monotonic()
    with pytest.raises(error):
        ImageClient(Flaky([failure] * 100), timeout_s=0.5).get([2])
    assert time.monotonic() - started < 1.5


def test_a_retry_hint_is_honoured_within_the_deadline() -> None:
    started = time.monotonic()
    assert ImageClient(Flaky([Overloaded("full", retry_after_s=0.4)])).get([2]).ok.all()
    assert time.monotonic() - started >= 0.4
    started = time.monotonic()
    with pytest.raises(Overloaded, match="full"):
        ImageClient(Flaky([Overloaded("full", retry_after_s=5.0)]), timeout_s=1.0).get([2])
    assert time.monotonic() - started < 1.0, "there is no sense in waiting beyond the deadline"


def test_an_unknown_status_is_an_error_of_the_reply() -> None:
    with pytest.raises(ServerFault, match="unknown status 99"):
        ImageClient(MockTransport(VECTORS, status={2: 99})).get([2])


def test_a_version_is_kept() -> None:
    transport = MockTransport(VECTORS)
    client = ImageClient(transport)
    client.get([2])
    transport.version = "mock@111111111111+none@000000000000/8"
    with pytest.raises(VersionMismatch):
        client.get([2])


def test_missing_images_are_counted_and_limited() -> None:
    client = ImageClient(MockTransport(VECTORS))
    client.get(list(range(100)))
    assert client.stats.missing == {"NOT_FOUND": 50}
    with pytest.raises(TooManyMissingImages, match=r"50\.0% of the 100 images .*NOT_FOUND 50"):
        client.stats.check_missing(0.05)
    client.stats.check_missing(0.5)


def test_a_handful_of_ids_says_nothing_about_a_share() -> None:
    client = ImageClient(MockTransport(VECTORS))
    client.get([1, 3, 5])
    client.stats.check_missing(0.0)


@pytest.mark.parametrize(("ids", "message"), [([-2], "-2 is negative"), ([[1]], "flat list"), ([1.5], "float64")])
def test_ids_that_are_none(ids: list[int], message: str) -> None:
    with pytest.raises(InvalidRequest, match=message):
        ImageClient(MockTransport(VECTORS)).get(ids)


def test_statuses_mirror_the_contract() -> None:
    names = {v.removeprefix("VECTOR_STATUS_"): n for v, n in pb.VectorStatus.items() if n}
    assert {s.name: int(s) for s in Status} == names


def test_nobody_at_the_address_is_said_within_the_deadline() -> None:
    started = time.monotonic()
    with pytest.raises(ServerUnavailable, match=r"No image server answers at localhost:1\b.*imgserver serve"):
        ImageClient("localhost:1", timeout_s=1.0).get([1])
    assert time.monotonic() - started < 3.0
