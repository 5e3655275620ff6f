"""What each call of an image server costs, and that nothing of it is held when it has ended."""

from __future__ import annotations

import builtins
import errno
import io
import json
import os
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import numpy as np
import pytest
import torch
from conftest import soon
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from http2 import Http2
from safetensors.torch import save

from crossmedia.errors import BadInput, DeadlineExceeded, InvalidRequest, Overloaded
from crossmedia.imgserver.client import GrpcTransport, ImageClient, LocalTransport
from crossmedia.imgserver.head import MAX_LAYERS, Head, HeadSpec
from crossmedia.imgserver.serving import learning
from crossmedia.imgserver.serving.grpc_server import image_server
from crossmedia.imgserver.serving.miss import Miss
from crossmedia.imgserver.serving.service import ImageService
from crossmedia.imgserver.wire import GET_HEAD_GRADIENT, GET_INFO, GET_THUMBNAILS, PUT_HEAD, PUT_IMAGES
from crossmedia.service.admission import NOTHING, SHARE, Cost
from crossmedia.service.callers import caller_name
from crossmedia.service.grpc_server import MAX_STREAMS, GrpcServer
from crossmedia.status import Status
from crossmedia.v1 import image_server_pb2 as pb

ONE = np.array([1], "<i8").tobytes()


@pytest.fixture
def served(service: ImageService) -> Iterator[GrpcServer]:
    server = image_server(service, "127.0.0.1:0")
    server.start()
    yield server
    server.stop(0)


def test_calls_that_wait_leave_places_for_those_that_do_not(service: ImageService) -> None:
    service.admission._most = Cost(1000, 1 << 30, 1)
    first = threading.Thread(target=lambda: ImageClient(LocalTransport(service)).get(list(range(100, 160))))
    first.start()
    while not service.misses.waiting:
        time.sleep(0.001)
    request = pb.GetVectorsRequest(image_ids=np.array([170], "<i8").tobytes())
    with pytest.raises(Overloaded, match="calls that take long"):
        service.get_vectors(request, time.monotonic() + 5)
    assert service.get_vectors(pb.GetVectorsRequest(image_ids=ONE), time.monotonic() + 5).status.tolist() == [1]
    first.join()
    assert service.admission.under_way.slow == 0


def test_images_that_nobody_knows_wait_for_nothing(service: ImageService) -> None:
    """Nothing has a place for images any more, and the CNN's thread stands still."""
    service.admission.take(Cost(items=100_000))
    unknown = pb.GetVectorsRequest(image_ids=np.arange(10**12, 10**12 + 1000, dtype="<i8").tobytes())
    found = service.get_vectors(unknown, time.monotonic() + 20)
    assert (found.status == Status.NOT_FOUND).all()
    assert (service.known_failures.get(np.arange(10**12, 10**12 + 1000)) == Status.NOT_FOUND).all()
    assert service.misses.counters.failed[Status.NOT_FOUND] == 1000
    with pytest.raises(Overloaded):
        service.get_vectors(pb.GetVectorsRequest(image_ids=np.array([150], "<i8").tobytes()), time.monotonic() + 5)
    service.admission.give_back(Cost(items=100_000))


def test_a_new_photo_does_not_wait_for_all_of_another_caller(
    service: ImageService, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor does one that the other asked for before, far back in its queue."""
    decoded, go, decode = list[int](), threading.Event(), service.misses._lookups.look

    def slowly(miss: Miss) -> int:
        go.wait(20)
        decoded.append(miss.image_id)
        return decode(miss)

    def get(name: str, ids: list[int]) -> None:
        caller_name.set(name)
        service.get_vectors(pb.GetVectorsRequest(image_ids=np.array(ids, "<i8").tobytes()), time.monotonic() + 60)

    monkeypatch.setattr(service.misses._lookups, "look", slowly)
    calls = []
    for name, ids, waiting in (("greedy", list(range(101, 181)), 80), ("patient", [179, 190], 81)):
        calls.append(threading.Thread(target=get, args=(name, ids)))
        calls[-1].start()
        while service.misses.waiting != waiting:
            time.sleep(0.01)
    assert soon(lambda: all("patient" in {c.name for c in miss.callers} for miss in asked(service, [179, 190])))
    go.set()
    for call in calls:
        call.join()
    busy = len(service.misses._lookups._threads)  # had begun before, or end beside it
    assert decoded.index(179) < 2 * busy + 2
    assert decoded.index(190) < 2 * busy + 4
    assert (service.admission.under_way, service.admission._held) == (NOTHING, {})


def asked(service: ImageService, ids: list[int]) -> list[Miss]:
    """Images under way."""
    return [miss for miss in list(service.misses._under_way._misses.values()) if miss.image_id in ids]


def slow_calls(service: ImageService) -> dict[str, Callable[[], Any]]:
    """A call of each method that takes long."""
    backbone, end = service.get_info().backbone, time.monotonic() + 60
    torch.manual_seed(0)
    head = Head(HeadSpec("learned", (1280, 4)))
    version = head.version(backbone)
    photo = (service.catalogue.read(1, 1 << 20) if service.catalogue else None) or b""
    put = pb.PutHeadRequest(run_id="r", version=version, head=head.to_bytes())
    bring = pb.PutImagesRequest(images=[pb.PutImage(image_id=1, data=photo)])
    return {
        "PutHead": lambda: service.answer(PUT_HEAD, put, end),
        "GetVectors of a head": lambda: service.get_vectors(pb.GetVectorsRequest(version=version, image_ids=ONE), end),
        "GetHeadGradient": lambda: service.answer(
            GET_HEAD_GRADIENT, pb.GetHeadGradientRequest(version=version, image_ids=ONE, d_vectors=b"\0" * 16), end
        ),
        "GetVectors of no stored image": lambda: service.get_vectors(
            pb.GetVectorsRequest(image_ids=np.array([150], "<i8").tobytes()), end
        ),
        "PutImages": lambda: service.answer(PUT_IMAGES, bring, end),
        "GetThumbnails": lambda: service.answer(GET_THUMBNAILS, pb.GetThumbnailsRequest(image_ids=ONE), end),
    }


def test_every_call_that_takes_long_needs_a_place_and_gives_it_back(service: ImageService) -> None:
    name = caller_name.set("greedy")
    try:
        service.admission.take(Cost(slow=int(SHARE * 48)), "greedy")
        work = slow_calls(service)
        for method, call in work.items():
            if method != "PutHead":
                continue
            with pytest.raises(Overloaded, match="take long are under way for greedy"):
                call()
        service.admission.give_back(Cost(slow=int(SHARE * 48)), "greedy")
        for method, call in work.items():
            call()
            assert service.admission.under_way == NOTHING, method
        service.admission.take(Cost(slow=int(SHARE * 48)), "greedy")
        for method in ("GetVectors of a head", "GetHeadGradient", "PutImages", "GetThumbnails"):
            with pytest.raises(Overloaded, match="take long are under way for greedy"):
                work[method]()
        service.get_vectors(pb.GetVectorsRequest(image_ids=ONE), time.monotonic() + 5)
    finally:
        caller_name.reset(name)


def test_a_call_whose_deadline_is_over_or_whose_caller_has_gone_does_no_more(service: ImageService) -> None:
    work = pb.GetThumbnailsRequest(image_ids=np.arange(100, dtype="<i8").tobytes())
    with pytest.raises(DeadlineExceeded, match="deadline was over"):
        service.answer(GET_THUMBNAILS, work, time.monotonic() + 0.01)
    with pytest.raises(DeadlineExceeded, match="has gone"):
        service.answer(GET_THUMBNAILS, work, time.monotonic() + 60, lambda function: False)
    head = Head(HeadSpec("learned", (1280, 4)))
    version = head.version(service.get_info().backbone)
    put = pb.PutHeadRequest(run_id="r", version=version, head=head.to_bytes())
    service.answer(PUT_HEAD, put, time.monotonic() + 5)
    with pytest.raises(DeadlineExceeded, match="has gone"):
        service.get_vectors(
            pb.GetVectorsRequest(version=version, image_ids=ONE), time.monotonic() + 60, lambda function: False
        )
    assert service.admission.under_way == NOTHING


def test_a_head_that_is_wide_is_computed_in_blocks_and_a_reply_fits_a_message(service: ImageService) -> None:
    wide = HeadSpec("learned", (1280, 6000))
    assert learning.block_rows(wide) * learning.row_bytes(wide) <= learning.BLOCK_BYTES
    assert learning.working_bytes(wide, 100_000) <= learning.BLOCK_BYTES
    head = Head(wide)
    version = head.version(service.get_info().backbone)
    put = pb.PutHeadRequest(run_id="r", version=version, head=head.to_bytes())
    service.answer(PUT_HEAD, put, time.monotonic() + 20)
    request = pb.GetVectorsRequest(version=version, image_ids=ONE * 50_000, dtype=pb.DTYPE_FLOAT32)
    with pytest.raises(InvalidRequest, match=r"a message has at most 67108864\. Ask for fewer"):
        service.get_vectors(request, time.monotonic() + 20)
    few = pb.GetVectorsRequest(version=version, image_ids=ONE * 3000, dtype=pb.DTYPE_FLOAT16)
    found = service.get_vectors(few, time.monotonic() + 20)
    assert (found.values == found.values[0]).mean() > 0.99
    assert service.admission.under_way.size == 0


def test_what_is_kept_for_a_gradient_is_given_up(service: ImageService, monkeypatch: pytest.MonkeyPatch) -> None:
    work = slow_calls(service)
    work["PutHead"]()
    work["GetVectors of a head"]()
    assert len(service.live_heads.learning._kept) == 1
    monkeypatch.setattr(learning, "KEPT_S", 0.0)
    assert soon(lambda: not service.live_heads.learning._kept), "the thread that follows the store gives it up"


def header_of(spec: str, tensors: str = "") -> bytes:
    text = f'{{"__metadata__":{{"spec":{json.dumps(spec)}}}{tensors}}}'.encode()
    return struct.pack("<Q", len(text)) + text


def lying_heads() -> dict[str, bytes]:
    spec = HeadSpec("learned", (4, 3))
    right = {name: value.contiguous() for name, value in Head(spec).state_dict().items()}
    about = {"spec": spec.canonical()}
    many = HeadSpec("x", (1, 1)).canonical().replace("[1,1]", json.dumps([1] * 100_001))
    tensor = ',"layers.0.weight":{"dtype":"F32","shape":[3,4],"data_offsets":[0,48]}'
    return {
        "layers": header_of(many) + b"\0" * 800_000,
        "layers, few bytes": header_of(HeadSpec("x", (1, 1)).canonical().replace("[1,1]", str([1] * (MAX_LAYERS + 2)))),
        "product": header_of(HeadSpec("x", (2**40, 2**40)).canonical()),
        "a header that is longer than the file": struct.pack("<Q", 2**63) + b"{}",
        "a header of megabytes": struct.pack("<Q", 1 << 20) + b" " * (1 << 20),
        "deep": struct.pack("<Q", 60_000) + b"[" * 60_000,
        "no object": struct.pack("<Q", 2) + b"[]",
        "metadata that is none": struct.pack("<Q", 19) + b'{"__metadata__":[]}',
        "a name twice": header_of(spec.canonical(), tensor * 2) + b"\0" * 60,
        "float64": save({name: value.double() for name, value in right.items()}, about),
        "another shape": save(right | {"layers.0.weight": right["layers.0.weight"].T.contiguous()}, about),
        "one weight more": save(right | {"more": torch.zeros(1000)}, about),
        "true for one": header_of(spec.canonical().replace("[4,3]", "[4,true]")) + b"\0" * 100,
    }


@pytest.mark.parametrize("what", list(lying_heads()))
def test_a_head_that_lies_is_refused_before_it_is_made(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def load(data: bytes) -> None:
        raise AssertionError("its weights were read")

    monkeypatch.setattr("crossmedia.imgserver.head.load", load)
    with pytest.raises(BadInput):
        Head.from_bytes(lying_heads()[what])


def test_a_head_of_many_layers_survives_its_file() -> None:
    head = Head(HeadSpec("learned", (3,) * (MAX_LAYERS + 1), normalisation="layer"))
    assert Head.from_bytes(head.to_bytes()).digest() == head.digest()


def test_half_messages_hold_threads_of_their_caller_alone(served: GrpcServer) -> None:
    """Calls whose message never comes: the caller's others wait or are refused, a caller from elsewhere is not."""
    under = served.methods.calls
    silent = [Http2(served.address) for _ in range(0, under.share, MAX_STREAMS)]
    for number in range(under.share):
        silent[number // MAX_STREAMS].call("/crossmedia.v1.ImageService/GetVectors")
    assert soon(lambda: under.under_way == under.share)
    same_host = GrpcTransport(served.address)
    with pytest.raises(Overloaded, match=r"127\.0\.0\.1 are under way, which is the share"):
        same_host.call(GET_INFO, pb.GetInfoRequest(), 5)
    same_host.close()
    port = served.address.rpartition(":")[2]
    elsewhere = socket.create_connection(("127.0.0.1", int(port)), 5, source_address=("127.0.0.2", 0))
    other = Http2(elsewhere)
    other.call("/crossmedia.v1.ImageService/GetInfo", b"")
    assert b"efficientnet" in other.read()
    for connection in silent:
        connection.close()
    assert soon(lambda: under.under_way == 0), "who has gone holds nothing"
    other.close()


def test_a_caller_without_a_deadline_has_the_servers(
    served: GrpcServer, service: ImageService, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half a message, and a reply that nobody reads: the call is ended, and nothing is held."""
    monkeypatch.setattr("crossmedia.service.grpc_server.MAX_CALL_S", 2.0)
    half, deaf = Http2(served.address), Http2(served.address, window=0)
    half.call("/crossmedia.v1.ImageService/GetVectors")
    deaf.call(
        "/crossmedia.v1.ImageService/GetVectors", pb.GetVectorsRequest(image_ids=ONE * 20_000).SerializeToString()
    )
    assert soon(lambda: service.admission.under_way.size > 0 and served.methods.calls.under_way == 1)
    assert soon(lambda: service.admission.under_way.size == 0 and served.methods.calls.under_way == 0)
    for connection in (half, deaf):
        connection.close()


def test_health_keeps_nothing_and_waits_for_nobody(served: GrpcServer) -> None:
    states = health_pb2.HealthCheckResponse
    with grpc.insecure_channel(served.address) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        for name in ("x", "x" * 100_000):
            with pytest.raises(grpc.RpcError) as caught:
                stub.Check(health_pb2.HealthCheckRequest(service=name), timeout=5)
            assert caught.value.code() == grpc.StatusCode.NOT_FOUND
            watch = stub.Watch(health_pb2.HealthCheckRequest(service=name), timeout=5)
            assert next(watch).status == states.SERVICE_UNKNOWN
            with pytest.raises(grpc.RpcError) as caught:
                next(watch)
            assert caught.value.code() == grpc.StatusCode.NOT_FOUND
        assert served.health.watchers == 0
        watch = stub.Watch(health_pb2.HealthCheckRequest(service="crossmedia.v1.ImageService"))
        assert next(watch).status == states.SERVING
        assert soon(lambda: served.health.watchers == 1)
        deaf = Http2(served.address, window=0)
        deaf.call("/grpc.health.v1.Health/Watch", b"")
        deaf.call("/grpc.health.v1.Health/Check", b"")
        started = time.monotonic()
        served.health.set(False)
        assert list(watch) == [], "the stream ends, and the caller asks again"
        assert stub.Check(health_pb2.HealthCheckRequest(), timeout=5).status == states.NOT_SERVING
        assert time.monotonic() - started < 2, "nobody waits for a caller who reads nothing"
        deaf.close()
        assert soon(lambda: served.health.watchers == 0 and served.health.calls.under_way == 0)


def test_watchers_are_bounded(served: GrpcServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("crossmedia.service.probes.MAX_WATCHERS", 4)
    with grpc.insecure_channel(served.address) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        watches = [stub.Watch(health_pb2.HealthCheckRequest(), timeout=20) for _ in range(3)]
        for watch in watches:
            next(watch)
        assert soon(lambda: served.health.watchers == 3)
        more = stub.Watch(health_pb2.HealthCheckRequest(), timeout=20)
        next(more)
        with pytest.raises(grpc.RpcError) as caught:
            next(more)
        assert caught.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
        for watch in watches:
            watch.cancel()
        assert soon(lambda: served.health.watchers == 0)


def test_reflection_answers_a_few_streams_and_small_requests(served: GrpcServer) -> None:
    def asked(*requests: reflection_pb2.ServerReflectionRequest) -> Any:
        return stub.ServerReflectionInfo(iter(requests), timeout=5)

    def endless() -> Iterator[reflection_pb2.ServerReflectionRequest]:
        yield listed
        ended.wait()

    listed, ended = reflection_pb2.ServerReflectionRequest(list_services=""), threading.Event()
    with grpc.insecure_channel(served.address) as channel:
        stub = reflection_pb2_grpc.ServerReflectionStub(channel)
        names = [service.name for service in next(asked(listed)).list_services_response.service]
        assert names == [
            "crossmedia.v1.ImageService",
            "grpc.health.v1.Health",
            "grpc.reflection.v1alpha.ServerReflection",
        ]
        found = list(asked(reflection_pb2.ServerReflectionRequest(file_containing_symbol=names[0]), listed))
        assert len(found) == 2
        assert found[0].file_descriptor_response.file_descriptor_proto
        with pytest.raises(grpc.RpcError) as caught:
            list(asked(reflection_pb2.ServerReflectionRequest(file_by_filename="x" * 5000)))
        assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
        streams = [stub.ServerReflectionInfo(endless(), timeout=20) for _ in range(6)]
        for stream in streams:
            next(stream)
        with pytest.raises(grpc.RpcError) as caught:
            list(asked(listed))
        assert caught.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
        ended.set()


def test_no_file_is_opened_to_answer(served: GrpcServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """With none left, info and vectors are told; what needs a file is refused as something that passes."""

    def guarded(opens: Callable[..., Any]) -> Callable[..., Any]:
        def none_left(*arguments: Any, **named: Any) -> Any:
            if threading.current_thread().name.startswith("call"):
                raise OSError(errno.EMFILE, "Too many open files")
            return opens(*arguments, **named)

        return none_left

    with ImageClient(served.address) as client:
        client.get([1])
        client.thumbnails([1])
        monkeypatch.setattr(io, "open", guarded(io.open))
        monkeypatch.setattr(builtins, "open", guarded(builtins.open))
        for name in ("scandir", "open", "listdir"):
            monkeypatch.setattr(os, name, guarded(getattr(os, name)))
        assert client.info().contents.store_used_bytes > 0
        assert client.get([1, 2]).ok.all()
        transport = GrpcTransport(served.address)
        with pytest.raises(Overloaded, match="no file left to open"):
            transport.call(GET_THUMBNAILS, pb.GetThumbnailsRequest(image_ids=ONE), 5)
        transport.close()
