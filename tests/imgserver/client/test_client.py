from __future__ import annotations

import io
import multiprocessing as mp
import pickle
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from conftest import DaemonProcess
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from crossmedia.errors import (
    DeadlineExceeded,
    InvalidRequest,
    Overloaded,
    ServerFault,
    ServerUnavailable,
    TooManyMissingImages,
    VersionMismatch,
)
from crossmedia.imgserver.client import ImageClient, MockTransport, ServerInfo, Status, Vectors, replies
from crossmedia.imgserver.client.transports import Pending
from crossmedia.imgserver.wire import GET_THUMBNAILS, PUT_IMAGES, Method, VectorsReply
from crossmedia.v1 import image_server_pb2 as pb

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
    transport = Flaky([ServerUnavailable("away"), Status.TIMED_OUT, Status.FAILED])
    assert ImageClient(transport).get([2, 4]).ok.all()
    assert len(transport.requests) == 3


@pytest.mark.parametrize(
    ("failure", "error"),
    [(ServerUnavailable("nobody there"), ServerUnavailable), (Status.TIMED_OUT, DeadlineExceeded)],
)
def test_a_fault_that_lasts_is_raised_within_the_deadline(failure: Exception | int, error: type[Exception]) -> None:
    started = time.monotonic()
    with pytest.raises(error):
        ImageClient(Flaky([failure] * 100), timeout_s=0.5).get([2])
    assert time.monotonic() - started < 1.5


@pytest.mark.parametrize(
    ("status", "images", "message"),
    [
        (Status.TIMED_OUT, 0, r"id 2, TIMED_OUT\)\. A part of the image server's store does not answer"),
        (Status.TIMED_OUT, 9, r"id 2, TIMED_OUT\)\. The image server was still computing them"),
        (Status.FAILED, 9, r"id 2, FAILED\)\. The image server failed on it; its log says why"),
    ],
)
def test_what_was_not_ready_is_said_by_what_can_be_the_reason(status: Status, images: int, message: str) -> None:
    class Server(MockTransport):
        def call(self, method: Method[Any], request: Any, timeout_s: float) -> Any:
            if method == PUT_IMAGES:
                return pb.PutImagesResponse(version=self.version, status=bytes([status]) * len(request.images))
            info = super().call(method, request, timeout_s)
            info.contents.images_in_catalogue = images
            return info

    client = ImageClient(Server(VECTORS, status={2: status}), timeout_s=2)
    with pytest.raises(DeadlineExceeded, match=message):
        client.get([2, 4])
    with pytest.raises(DeadlineExceeded, match=message):
        client.put({2: b"photo"})


def test_thumbnails_are_asked_for_again_while_the_server_is_away() -> None:
    class Away(MockTransport):
        tries = 0

        def call(self, method: Method[Any], request: Any, timeout_s: float) -> Any:
            if method != GET_THUMBNAILS:
                return super().call(method, request, timeout_s)
            self.tries += 1
            if self.tries < 3:
                raise ServerUnavailable("away")
            return pb.GetThumbnailsResponse(jpegs=[jpeg.getvalue()] * (len(request.image_ids) // 8))

    jpeg = io.BytesIO()
    Image.new("RGB", (128, 96)).save(jpeg, "JPEG")
    transport = Away(VECTORS)
    assert ImageClient(transport).thumbnails([1, -1]) == [jpeg.getvalue(), None]
    assert transport.tries == 3
    transport.tries = -(10**6)
    started = time.monotonic()
    with pytest.raises(ServerUnavailable):
        ImageClient(transport, timeout_s=0.3).thumbnails([1])
    assert time.monotonic() - started < 1.0


def test_all_that_a_get_asks_for_shares_its_deadline() -> None:
    class Slow(MockTransport):
        def __init__(self) -> None:
            super().__init__(VECTORS)
            self.given_s: list[float] = []

        def call(self, method: Method[Any], request: Any, timeout_s: float) -> Any:
            self.given_s.append(timeout_s)
            time.sleep(0.3)
            return super().call(method, request, timeout_s)

    servers = [Slow(), Slow()]
    assert ImageClient(servers, timeout_s=5).get([1]).status.tolist() == [Status.NOT_FOUND]
    for server in servers:
        limits, version = server.given_s
        assert version <= limits - 0.3


def test_a_retry_hint_is_honoured_within_the_deadline() -> None:
    started = time.monotonic()
    assert ImageClient(Flaky([Overloaded("full", retry_after_s=0.4)])).get([2]).ok.all()
    assert time.monotonic() - started >= 0.4
    started = time.monotonic()
    with pytest.raises(Overloaded, match="full"):
        ImageClient(Flaky([Overloaded("full", retry_after_s=5.0)]), timeout_s=1.0).get([2])
    assert time.monotonic() - started < 1.0, "there is no sense in waiting beyond the deadline"


def test_what_a_try_found_out_is_said_though_the_last_one_had_no_time() -> None:
    class Hurried(MockTransport):
        def get_vectors(self, request: pb.GetVectorsRequest, timeout_s: float) -> Pending:
            self.status = {2: Status.TIMED_OUT if self.requests else Status.FAILED}
            return super().get_vectors(request, timeout_s)

    with pytest.raises(Exception, match=r"1 vector was not ready .* id 2, FAILED"):
        ImageClient(Hurried(VECTORS), timeout_s=0.5).get([1, 2])


def test_an_unknown_status_is_an_error_of_the_reply() -> None:
    with pytest.raises(ServerFault, match="status of image 2 is 99, which is unknown"):
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
    with pytest.raises(TooManyMissingImages, match=r"50\.0% of the 100 vectors .*NOT_FOUND 50"):
        client.stats.check_missing(0.05)
    client.stats.check_missing(0.5)


def test_a_handful_of_ids_says_nothing_about_a_share() -> None:
    client = ImageClient(MockTransport(VECTORS))
    client.get([1, 3, 5])
    client.stats.check_missing(0.0)


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        ([-2], "-2 is negative"),
        ([[1]], "flat list"),
        ([1.5], "holds 1.5 in row 1; image ids are whole numbers"),
        (np.array([1, 2**63], dtype=np.uint64), "holds 9223372036854775808 in row 2"),
        (np.array([2**64 - 1], dtype=np.uint64), "holds 18446744073709551615 in row 1"),  # not the null image
        ([2**70], "holds '1180591620717411303424' in row 1"),
        ([2.0**53 + 2], "not told apart"),
        ([True], "of type bool"),
        (["front.jpg"], "holds 'front.jpg' in row 1"),
        ([[1], [1, 2]], "flat list"),
    ],
)
def test_ids_that_are_none(ids: list[int], message: str) -> None:
    client = ImageClient(MockTransport(VECTORS))
    for call in (client.get, client.thumbnails):
        with pytest.raises(InvalidRequest, match=message):
            call(ids)


def test_ids_may_be_what_frames_make_of_them() -> None:
    client = ImageClient(MockTransport(VECTORS))
    wanted = client.get([2, -1, 4]).values
    every: list[Any] = [[2.0, float("nan"), 4.0], ["2", None, "4.0"], pa.array([2, None, 4])]
    for asked in every:
        assert client.get(asked).values.tolist() == wanted.tolist()


def test_photos_under_ids_that_are_none() -> None:
    for image_id in (-2, -1, 2**63, 2**70):
        with pytest.raises(InvalidRequest):
            ImageClient(MockTransport(VECTORS)).put({image_id: b"photo"})


def test_no_version_is_no_version_however_it_is_written() -> None:
    client = ImageClient(MockTransport(VECTORS), version="")
    assert client.get([2], version="").version == client.get([2]).version == client.version


def test_statuses_mirror_the_contract() -> None:
    names = {v.removeprefix("VECTOR_STATUS_"): n for v, n in pb.VectorStatus.items() if n}
    assert {s.name: int(s) for s in Status} == names


def test_nobody_at_the_address_is_said_within_the_deadline() -> None:
    started = time.monotonic()
    with pytest.raises(ServerUnavailable, match=r"No image server answers at localhost:1\b.*imgserver serve"):
        ImageClient("localhost:1", timeout_s=1.0).get([1])
    assert time.monotonic() - started < 3.0


def test_servers_that_share_the_images_are_told_of_as_one() -> None:
    def of(n: int) -> ServerInfo:
        told = pb.GetInfoResponse(version=f"{n}@0/8", dim=8, generation=n, engine="none")
        limits, contents, counters = told.limits, told.contents, told.counters
        limits.max_ids_per_call, limits.max_thumbnails_per_call, limits.max_put_per_call = 10 * n, 5, 5
        limits.max_message_bytes, limits.max_image_bytes, limits.max_image_pixels = 1 << 20, 7, 7
        contents.images_in_catalogue, contents.images_stored, contents.heads_held = 90, 30 * n, 2
        counters.ids_requested, counters.ids_from_table, counters.rows_damaged = 10 * n, 5, n
        told.similarity.images, told.similarity.kind = n, "flat"
        told.ownership.servers[:], told.ownership.server_name = ["a:1", "b:1"], "ab"[n - 1] + ":1"
        return replies.info(told, "there")

    one, both = of(1), ServerInfo.of_servers([of(1), of(2)])
    assert ServerInfo.of_servers([one]) is one
    assert (both.generation, both.version) == (3, "1@0/8")
    assert (both.limits.max_ids_per_call, both.limits.max_put_per_call) == (10, 5)
    assert both.contents == replace(one.contents, images_stored=90)
    assert (both.counters.ids_requested, both.counters.rows_damaged, both.counters.hit_ratio) == (30, 3, 1 / 3)
    assert (both.similarity.images, both.similarity.kind) == (3, "flat")
    assert both.ownership == replace(one.ownership, server_name="")


def test_a_client_is_sent_to_another_process(daemon: DaemonProcess) -> None:
    """As a Dataset holds one that workers are spawned with: it connects there, and stays with the version."""
    with ImageClient([daemon.address], timeout_s=20) as client:
        before = client.get([1, 2])
        sent = pickle.dumps(client)
    with ThreadPoolExecutor(1) as other, ProcessPoolExecutor(1, mp.get_context("spawn")) as process:
        for pool in (other, process):
            after = pool.submit(_fetched, sent).result()
            assert after.version == before.version
            assert after.values.tolist() == before.values.tolist()


def _fetched(sent: bytes) -> Vectors:
    with pickle.loads(sent) as client:
        found: Vectors = client.get([1, 2])
        return found
