"""A client believes nothing: a real server of gRPC that lies in one field of a reply or of a failed call at a time."""

from __future__ import annotations

import io
import itertools
import logging
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from click.testing import CliRunner
from google.protobuf.message_factory import GetMessageClass
from grpc_health.v1 import health_pb2
from PIL import Image
from safetensors.numpy import save

from crossmedia.concepts import Concept, ConceptCard
from crossmedia.errors import (
    ERROR_NAME_KEY,
    RETRY_AFTER_KEY,
    BadInput,
    CrossMediaError,
    InvalidRequest,
    NotReady,
    Overloaded,
    PermissionDenied,
    ServerFault,
    ServerUnavailable,
    StoreError,
    Unauthenticated,
    VersionMismatch,
)
from crossmedia.imgserver.cli import imgserver
from crossmedia.imgserver.client import ClientSecurity, ImageClient
from crossmedia.imgserver.client.head_servers import HeadState, head_gradient, put_head
from crossmedia.imgserver.client.replies import finite
from crossmedia.imgserver.client.server_info import PARTS
from crossmedia.status import Status
from crossmedia.v1 import image_server_pb2 as pb
from crossmedia.version import Version

DIM = 8
VERSION = "net@000000000001+pca@000000000002/8"
OTHER = "net@000000000001+pca@000000000003/8"
HEAD = "net@000000000001+learned@000000000004/8"
SHAPES = {"layers.0.weight": (8, 4), "layers.0.bias": (8,)}
STATE = HeadState(HEAD, save({name: np.ones(shape, np.float32) for name, shape in SHAPES.items()}))
REQUESTS = {
    method.name: GetMessageClass(method.input_type) for method in pb.DESCRIPTOR.services_by_name["ImageService"].methods
}
Answer = Callable[[Any, Any], Any]


def jpeg(side: int = 16, kind: str = "JPEG", **options: Any) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (side, 8), "red").save(out, kind, **options)
    return out.getvalue()


def card_of(version: str, numbers: int = DIM) -> bytes:
    named = Version.parse(version)
    concepts = tuple(Concept(f"number {place}", "anchor") for place in range(numbers))
    return ConceptCard(named.head, named.backbone, 9, 9, concepts).to_bytes()


def honest(request: Any, context: Any) -> Any:
    """What a server answers that does not lie; every image has the same vector."""
    n = len(getattr(request, "image_ids", b"")) // 8
    ok = bytes([Status.OK])
    if isinstance(request, pb.GetInfoRequest):
        told = pb.GetInfoResponse(
            server_version="1", version=VERSION, backbone="net@000000000001", dim=DIM, feature_dim=4
        )
        limits, told.stored_dtype = told.limits, pb.DTYPE_FLOAT16
        limits.max_message_bytes, limits.max_image_bytes = 64 << 20, 1 << 20
        limits.max_ids_per_call = limits.max_thumbnails_per_call = limits.max_put_per_call = 100
        limits.max_queries_per_search, limits.max_neighbours, limits.max_image_pixels = 100, 10, 10**6
        return told
    if isinstance(request, pb.GetVectorsRequest):
        version, values = request.version or VERSION, np.ones((n, DIM), "<f2")
        return pb.GetVectorsResponse(
            version=version, dim=DIM, dtype=pb.DTYPE_FLOAT16, vectors=values.tobytes(), status=ok * n
        )
    if isinstance(request, pb.PutImagesRequest):
        return pb.PutImagesResponse(version=VERSION, status=ok * len(request.images))
    if isinstance(request, pb.SearchRequest):
        ids, cosines = np.tile([100, 101, -1], n), np.tile([0.9, 0.5, 0.0], n)
        found = pb.SearchResponse(version=VERSION, status=ok * n, images=9)
        found.image_ids, found.cosines = ids.astype("<i8").tobytes(), cosines.astype("<f4").tobytes()
        return found
    if isinstance(request, pb.GetThumbnailsRequest):
        return pb.GetThumbnailsResponse(jpegs=[jpeg()] * n)
    if isinstance(request, pb.GetConceptsRequest):
        return pb.GetConceptsResponse(version=request.version or VERSION, card=card_of(request.version or VERSION))
    if isinstance(request, pb.ListImagesRequest):
        asked = request.image_ids or np.arange(request.limit, dtype="<i8").tobytes()
        listed = ok * (len(asked) // 8)
        return pb.ListImagesResponse(version=VERSION, total=9, image_ids=asked, status=listed, counts=[0, 9])
    if isinstance(request, pb.ListVersionsRequest):
        return pb.ListVersionsResponse(held=[pb.HeldVersion(name=VERSION, dim=DIM)], active=VERSION)
    if isinstance(request, pb.ActivateVersionRequest):
        return pb.ActivateVersionResponse(version=request.version)
    if isinstance(request, pb.PutHeadRequest):
        return pb.PutHeadResponse(version=request.version)
    if isinstance(request, pb.GetHeadGradientRequest):
        gradient = {name: np.ones(shape, np.float32) for name, shape in SHAPES.items()}
        return pb.GetHeadGradientResponse(version=request.version, gradient=save(gradient))
    return health_pb2.HealthCheckResponse(status=1)


class Liar(grpc.GenericRpcHandler):
    """A server in threads of this process, whose answers are made by ``answer``; bytes go out as they are."""

    def __init__(self) -> None:
        self.answer: Answer = honest
        self.calls: list[str] = []
        self.metadata: list[tuple[str, str]] = []
        self._pool = ThreadPoolExecutor(8)
        self._server = grpc.server(self._pool, handlers=[self])
        self.address = f"127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"
        self._server.start()

    def service(self, details: Any) -> Any:
        name = details.method.rpartition("/")[2]
        self.metadata = list(details.invocation_metadata)

        def call(data: bytes, context: Any) -> bytes:
            self.calls.append(name)
            reply = self.answer(REQUESTS.get(name, health_pb2.HealthCheckRequest).FromString(data), context)
            return reply if isinstance(reply, bytes) else reply.SerializeToString()

        return grpc.unary_unary_rpc_method_handler(call)

    def lies(self, **fields: Any) -> None:
        """Every reply that has such fields has these in them; a function gets the honest value."""

        def answer(request: Any, context: Any) -> Any:
            reply = honest(request, context)
            if isinstance(request, health_pb2.HealthCheckRequest):
                return reply
            parts = [getattr(reply, part) for part in PARTS] if isinstance(request, pb.GetInfoRequest) else []
            for message, (name, value) in itertools.product([reply, *parts], fields.items()):
                if name not in message.DESCRIPTOR.fields_by_name:
                    continue
                was = getattr(message, name)
                value = value(was) if callable(value) else value
                message.ClearField(name)
                if isinstance(value, list):
                    getattr(message, name).extend(value)
                else:
                    setattr(message, name, value)
            return reply

        self.answer = answer

    def lies_about(self, method: str, **fields: Any) -> None:
        """As ``lies``, in the replies of one method alone."""
        self.lies(**fields)
        lying = self.answer
        kind = REQUESTS[method]
        self.answer = lambda request, context: (lying if isinstance(request, kind) else honest)(request, context)

    def answers(self, kind: type, data: bytes) -> None:
        """Requests of one kind are answered by bytes."""
        self.answer = lambda request, context: data if isinstance(request, kind) else honest(request, context)

    def fails(self, code: grpc.StatusCode, message: str = "words", **metadata: str) -> None:
        """Every call but GetInfo fails."""

        def answer(request: Any, context: Any) -> Any:
            if not isinstance(request, pb.GetInfoRequest):
                context.set_trailing_metadata([(name.replace("_", "-"), value) for name, value in metadata.items()])
                context.abort(code, message)
            return honest(request, context)

        self.answer = answer

    def stop(self) -> None:
        self._server.stop(0).wait()
        self._pool.shutdown()


@pytest.fixture
def liar() -> Iterator[Liar]:
    made = Liar()
    yield made
    made.stop()


@pytest.fixture
def client(liar: Liar) -> Iterator[ImageClient]:
    with ImageClient(liar.address, timeout_s=3) as made:
        yield made


def refused(liar: Liar, words: str, call: Callable[[], Any]) -> None:
    """The call ends at once, with an error that names the server and what is wrong, in one line that can be printed."""
    started = time.monotonic()
    with pytest.raises(ServerFault, match=words) as caught:
        call()
    assert time.monotonic() - started < 1.5
    said = str(caught.value)
    assert liar.address in said
    assert said.isprintable()
    assert len(said) < 1500


def numbers(*values: float, at: int = 5, dtype: str = "<f2") -> Callable[[bytes], bytes]:
    def change(block: bytes) -> bytes:
        array = np.frombuffer(block, dtype).copy()
        array[at : at + len(values)] = values
        return array.tobytes()

    return change


VECTORS: list[tuple[dict[str, Any], str]] = [
    ({"vectors": numbers(np.nan)}, "the vector of image 10 holds nan"),
    ({"vectors": numbers(-np.nan, at=20)}, "the vector of image 12 holds nan"),
    ({"vectors": numbers(np.inf)}, "the vector of image 10 holds inf"),
    ({"vectors": numbers(-np.inf)}, "the vector of image 10 holds -inf"),
    ({"vectors": lambda block: block[:-3]}, "vectors have 45 bytes, which are no rows of 8 numbers"),
    ({"vectors": lambda block: block + b"\0"}, "vectors have 49 bytes"),
    ({"vectors": lambda block: block[:-16]}, "3 statuses and 2 vectors"),
    ({"vectors": lambda block: block * 2}, "3 statuses and 6 vectors"),
    ({"vectors": b""}, "3 statuses and 0 vectors"),
    ({"status": b"\1\1"}, "2 statuses and 3 vectors"),
    ({"status": b""}, "0 statuses and 3 vectors"),
    ({"status": b"\1\0\1"}, "status of image 11 is 0, which is unknown"),
    ({"status": b"\1\1\x4d"}, "status of image 12 is 77, which is unknown"),
    ({"dim": 4, "vectors": lambda block: block[:24]}, "its vectors have 4 numbers, those of .*/8' have 8"),
    ({"dim": 0}, "24 vectors"),
    ({"dim": 2**32 - 1}, "no rows of 4294967295 numbers"),
    ({"dtype": 2}, "no rows of 8 numbers of float32|vectors of float32"),
    ({"dtype": 2, "vectors": lambda block: np.frombuffer(block, "<f2").astype("<f4").tobytes()}, "of float32"),
    ({"dtype": 9}, "dtype is 9, which is unknown"),
    ({"dtype": 0}, "dtype is 0, which is unknown"),
    ({"version": "net"}, "version is 'net', which does not end with the length"),
    ({"version": ""}, "version is '', which does not end with the length"),
    ({"version": "net/²"}, "version is 'net/²', which does not end with the length"),
    ({"version": "net/0"}, "version is 'net/0', which does not end with the length"),
    ({"version": "net/99999999999999"}, "does not end with the length"),
    ({"version": "net\x1b[2J/8"}, r"version is 'net\\x1b\[2J/8'.* cannot be printed"),
    ({"version": "x" * 2000 + "/8"}, "too long for a name"),
]


@pytest.mark.parametrize(("lie", "words"), VECTORS, ids=[words for _, words in VECTORS])
def test_vectors_that_cannot_be(liar: Liar, client: ImageClient, lie: dict[str, Any], words: str) -> None:
    liar.lies_about("GetVectors", **lie)
    refused(liar, words, lambda: client.get([10, 11, 12]))
    assert liar.calls.count("GetVectors") == 1, "a lie is not asked for again"
    assert client.version in (None, VERSION)
    liar.answer = honest
    assert client.get([10, 11, 12]).ok.all()


def test_the_rows_of_failed_images_are_zeros_whatever_came(liar: Liar, client: ImageClient) -> None:
    liar.lies_about("GetVectors", status=b"\1\2\1", vectors=numbers(np.nan, 7, np.inf, at=9))
    found = client.get([10, 11, 12])
    assert found.status.tolist() == [1, 2, 1]
    assert (found.values == np.array([[1], [0], [1]])).all()


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_every_number_that_is_not_finite_is_found(dtype: Any) -> None:
    bits = np.arange(1 << 16, dtype=np.uint32) << (0 if dtype == np.float16 else 16)
    every = bits.astype(f"u{dtype().itemsize}").view(dtype)
    for start in range(0, len(every), 256):  # each exponent and sign by itself, at an odd place of memory too
        part = every[start : start + 256]
        moved = np.frombuffer(b"x" + part.tobytes(), dtype, offset=1)
        for one in (part[:, None], moved[:, None], part[:1, None], part[-1:, None]):
            assert finite(one) == bool(np.isfinite(one).all())
    assert finite(np.zeros((0, 8), dtype))


def test_lengths_that_differ_between_replies(liar: Liar) -> None:
    sizes = iter([8, 8, 4, 8])

    def answer(request: Any, context: Any) -> Any:
        if isinstance(request, pb.GetInfoRequest):
            reply = honest(request, context)
            reply.limits.max_ids_per_call = 1
            return reply
        dim = next(sizes)
        block = np.ones(dim, "<f2").tobytes()
        return pb.GetVectorsResponse(version="other@1", dim=dim, dtype=pb.DTYPE_FLOAT16, vectors=block, status=b"\1")

    liar.answer = answer
    with ImageClient(liar.address, timeout_s=3, in_flight=1) as client:
        words = "some of its vectors have 4 numbers, others 8"
        refused(liar, words, lambda: client.get([1, 2, 3, 4], version="other@1"))


def test_another_version_than_was_asked_for(liar: Liar, client: ImageClient) -> None:
    client.get([1])
    liar.lies_about("GetVectors", version=OTHER)
    with pytest.raises(VersionMismatch, match=r"now serves .*3/8; this client began with .*2/8"):
        client.get([1])
    with pytest.raises(VersionMismatch, match=f"began with {HEAD.replace('+', '.')}"):
        client.get([1], version=HEAD)


INFO: list[tuple[dict[str, Any], str]] = [
    *(
        ({name: 0}, f"limit {name} is 0")
        for name in ("max_ids_per_call", "max_thumbnails_per_call", "max_put_per_call", "max_image_bytes")
    ),
    ({"max_message_bytes": 100}, "limit max_message_bytes is 100; no call can be made within less than 4096"),
    ({"dim": 0}, "dim is 0, and its version is"),
    ({"dim": 64}, "dim is 64, and its version is"),
    ({"dim": 4_000_000_000, "version": "net/4000000000"}, "dim is 4000000000, more than"),
    ({"feature_dim": 4_000_000_000}, "feature_dim is 4000000000, more than"),
    ({"version": "net"}, "its version is 'net', which should end with it"),
    ({"uptime_s": float("nan")}, "uptime_s is nan, which is no number of seconds"),
    ({"negative_ttl_s": float("-inf")}, "negative_ttl_s is -inf"),
    ({"uptime_s": -1.0}, "uptime_s is -1"),
    ({"engine": "a\nb"}, r"engine is 'a\\nb'"),
    ({"server_version": "\x1b]0;x\x07"}, "server_version is"),
    ({"kind": "\u202eflat"}, "kind is"),
    ({"backbone": "x" * 10_000}, "backbone is .*too long"),
    ({"versions": ["a/8", "b\x00/8"]}, "versions is"),
    ({"servers": ["a:1\r"]}, "servers is"),
    ({"versions": ["a"] * 20_000}, "versions lists 20000 names"),
]


@pytest.mark.parametrize(("lie", "words"), INFO, ids=[words for _, words in INFO])
def test_a_description_that_cannot_be(liar: Liar, client: ImageClient, lie: dict[str, Any], words: str) -> None:
    liar.lies_about("GetInfo", **lie)
    for call in (client.info, lambda: client.get([1])):
        refused(liar, words, call)


def test_limits_beyond_reason_harm_nobody(liar: Liar) -> None:
    absurd = {"max_message_bytes": 2**32 - 1, "max_image_bytes": 2**64 - 1, "max_image_pixels": 2**64 - 1}
    absurd |= dict.fromkeys(("max_ids_per_call", "max_thumbnails_per_call", "max_put_per_call"), 2**32 - 1)
    liar.lies_about("GetInfo", generation=2**64 - 1, images_stored=2**64 - 1, **absurd)
    with ImageClient(liar.address) as client:
        assert client.get(np.arange(1000)).ok.all()
        assert client.put({1: b"photo"}) == {1: 1}
    liar.lies_about("GetInfo", max_ids_per_call=1)
    with ImageClient(liar.address) as client:
        assert client.get([1, 2, 3]).ok.all()
    assert liar.calls.count("GetVectors") == 4


SEARCH: list[tuple[dict[str, Any], str]] = [
    ({"image_ids": b"\0" * 7}, "image_ids has 7 bytes; 2 queries of 3 take 48"),
    ({"cosines": b""}, "cosines has 0 bytes; 2 queries of 3 take 24"),
    ({"status": b"\1"}, "status has 1 bytes, and 2 were asked for"),
    ({"status": b"\1\x63"}, "status of query 1 is 99"),
    ({"status": b"\1\2"}, "neighbours of image 2 hold neighbours, though it failed"),
    ({"image_ids": numbers(-5, at=1, dtype="<i8")}, "image 1 hold a negative id"),
    ({"image_ids": numbers(2, at=3, dtype="<i8")}, "image 2 hold itself"),
    ({"image_ids": numbers(101, at=0, dtype="<i8")}, "image 1 hold an image twice"),
    ({"image_ids": numbers(-1, at=0, dtype="<i8"), "cosines": numbers(0, at=0, dtype="<f4")}, "neighbour behind none"),
    ({"cosines": numbers(np.nan, at=1, dtype="<f4")}, "a cosine beyond 1"),
    ({"cosines": numbers(-np.inf, at=1, dtype="<f4")}, "a cosine beyond 1"),
    ({"cosines": numbers(1.5, at=0, dtype="<f4")}, "a cosine beyond 1"),
    ({"cosines": numbers(0.1, at=0, dtype="<f4")}, "neighbours that are not best first"),
    ({"cosines": numbers(0.1, at=2, dtype="<f4")}, "a cosine without a neighbour"),
    ({"version": "a\nb"}, "version is"),
]  # fmt: skip


@pytest.mark.parametrize(("lie", "words"), SEARCH, ids=[words for _, words in SEARCH])
def test_neighbours_that_cannot_be(liar: Liar, client: ImageClient, lie: dict[str, Any], words: str) -> None:
    assert client.search([1, 2], k=3).image_ids.tolist() == [[100, 101, -1]] * 2
    liar.lies_about("Search", **lie)
    refused(liar, words, lambda: client.search([1, 2], k=3))


@pytest.mark.parametrize(
    ("jpegs", "words"),
    [
        ([], "2 thumbnails were asked for, 0 came"),
        ([jpeg()] * 3, "2 thumbnails were asked for, 3 came"),
        ([jpeg(), b"<script>"], "thumbnail of image 2 is no baseline JPEG"),
        ([jpeg(kind="PNG"), b""], "thumbnail of image 1 is no baseline JPEG"),
        ([jpeg()[:15], b""], "thumbnail of image 1 is no baseline JPEG"),
        ([jpeg(progressive=True), b""], "thumbnail of image 1 is no baseline JPEG"),
        ([jpeg(65_000), b""], "thumbnail of image 1 has a side of 65000 pixels, more than 128"),
        ([jpeg() + bytes(2 << 20), b""], "thumbnail of image 1 has 2097.* bytes"),
        ([b"\xff\xd8" + b"\xff\xe0\0\0" * 9, b""], "thumbnail of image 1 is no baseline JPEG"),
    ],
)
def test_thumbnails_that_are_none(liar: Liar, client: ImageClient, jpegs: list[bytes], words: str) -> None:
    assert client.thumbnails([1, 2]) == [jpeg()] * 2
    liar.lies_about("GetThumbnails", jpegs=jpegs)
    refused(liar, words, lambda: client.thumbnails([1, 2]))


@pytest.mark.parametrize(
    ("lie", "words"),
    [
        ({"version": OTHER}, "the concepts of .* were asked for, version is"),
        ({"card": b""}, "card: .* no card of concepts"),
        ({"card": b"[1]"}, "card: .* no card of concepts"),
        ({"card": card_of(OTHER)}, "card describes 8 numbers of pca@000000000003"),
        ({"card": card_of(VERSION, 7)}, "card describes 7 numbers of pca@000000000002"),
    ],
)
def test_concepts_that_are_not_those_of_the_version(
    liar: Liar, client: ImageClient, lie: dict[str, Any], words: str
) -> None:
    assert client.concepts(VERSION).names[:2] == ("number 0", "number 1")
    liar.lies_about("GetConcepts", **lie)
    refused(liar, words, lambda: client.concepts(VERSION))


@pytest.mark.parametrize(
    ("status", "words"), [(b"", "status has 0 bytes"), (b"\1\1", "status has 2"), (b"\0", "status of image 7 is 0")]
)
def test_photos_whose_fate_is_unknown(liar: Liar, client: ImageClient, status: bytes, words: str) -> None:
    liar.lies_about("PutImages", status=status)
    refused(liar, words, lambda: client.put({7: b"photo"}))


def gradient(client: ImageClient) -> Any:
    return head_gradient(client, STATE, np.array([1]), np.ones((1, 8), np.float32), client.deadline())


def gradients(**changed: Any) -> bytes:
    return save({name: changed.get(name[9:], np.ones(shape, np.float32)) for name, shape in SHAPES.items()})


@pytest.mark.parametrize(
    ("lie", "words"),
    [
        ({"version": OTHER}, "gradient of .* was asked for, version is"),
        ({"gradient": b""}, "no block of safetensors"),
        ({"gradient": (2**63).to_bytes(8, "little") + b"{}"}, "no block of safetensors"),
        ({"gradient": gradients()[:-1]}, "no block of safetensors"),
        ({"gradient": save({"x": np.ones(3, np.float32)})}, r"gradient holds \['x'\], and the head's weights are"),
        ({"gradient": gradients(bias=np.ones(8, np.float16))}, "layers.0.bias is of F16"),
        ({"gradient": gradients(weight=np.ones((4, 8), np.float32))}, r"of F32 and shape \[4, 8\], its weight of F32"),
        ({"gradient": gradients(bias=np.full(8, np.nan, np.float32))}, "layers.0.bias holds a number that is not fin"),
        ({"gradient": gradients(weight=np.full((8, 4), -np.inf, np.float32))}, "layers.0.weight holds a number"),
    ],
)
def test_gradients_that_cannot_be(liar: Liar, client: ImageClient, lie: dict[str, Any], words: str) -> None:
    (found,) = gradient(client)
    assert {name: value.shape for name, value in found.items()} == SHAPES
    liar.lies_about("GetHeadGradient", **lie)
    refused(liar, words, lambda: gradient(client))


def test_a_head_that_is_held_under_another_name(liar: Liar, client: ImageClient) -> None:
    put_head(client, "run", STATE, client.deadline())
    liar.lies_about("PutHead", version=OTHER)
    refused(liar, "a head was put as .*, version is", lambda: put_head(client, "run", STATE, client.deadline()))


CALLS: dict[str, Callable[[ImageClient], Any]] = {
    "GetInfo": lambda client: client.info(),
    "GetVectors": lambda client: client.get([1]),
    "PutImages": lambda client: client.put({1: b"photo"}),
    "PutHead": lambda client: put_head(client, "run", STATE, client.deadline()),
    "GetHeadGradient": lambda client: head_gradient(
        client, STATE, np.array([1]), np.ones((1, 8), np.float32), client.deadline()
    ),
    "Search": lambda client: client.search([1], k=3),
    "GetThumbnails": lambda client: client.thumbnails([1]),
    "GetConcepts": lambda client: client.concepts(),
    "ListImages": lambda client: client.images(0, 3),
    "ListVersions": lambda client: client.versions(),
    "ActivateVersion": lambda client: client.activate(OTHER),
}


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"image_ids": b"\1" * 23}, "no ids of 8"),
        ({"image_ids": np.array([2, 1, 3], "<i8").tobytes()}, "not ascending"),
        ({"image_ids": np.array([-5, 1, 3], "<i8").tobytes()}, "negative"),
        ({"total": 2}, "too many"),
        ({"status": b"\1"}, "status has 1 bytes for 3 images"),
        ({"status": b"\1\1\7"}, "one that is unknown"),
        ({"names": ["a"]}, "1 names or reasons came of 3 images"),
        ({"reasons": ["a"] * 4}, "4 names or reasons came of 3 images"),
    ],
)
def test_lies_about_the_images_of_a_store(liar: Liar, client: ImageClient, fields: Any, words: str) -> None:
    assert client.images(0, 3).image_ids.tolist() == [0, 1, 2]
    liar.lies(**fields)
    refused(liar, words, lambda: client.images(0, 3))


def test_names_that_cannot_be_printed_are_shown_without_harm(liar: Liar, client: ImageClient) -> None:
    liar.lies(names=["a\n\x1b[31mb", "<b>", "x" * 5000])
    names = client.images(0, 3).names
    assert all(name.isprintable() for name in names)
    assert names[1] == "<b>"
    assert len(names[2]) < 1100


@pytest.mark.parametrize("method", CALLS)
def test_bytes_that_are_no_reply(
    liar: Liar, client: ImageClient, method: str, caplog: pytest.LogCaptureFixture
) -> None:
    assert set(CALLS) == set(REQUESTS)
    kind = REQUESTS[method]
    for data in (b"\xff" * 40, b"\x0a\xff\xff\xff\xff\x0f", b"\x0a\x02\xff\xfe"):
        liar.answers(kind, data)
        refused(liar, "its bytes are no|it cannot be read|no baseline JPEG", lambda: CALLS[method](client))
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR], "gRPC would log a trace"


@pytest.mark.parametrize(
    ("hint", "error", "words"),
    [
        ("soon", ServerFault, "to be asked again after 'soon' ms, which is no number of milliseconds"),
        ("nan", ServerFault, "after 'nan' ms"),
        ("inf", ServerFault, "after 'inf' ms"),
        ("-5", ServerFault, "after '-5' ms"),
        ("1e3", ServerFault, "after '1e3' ms"),
        ("", ServerFault, "after '' ms"),
        ("9" * 5000, ServerFault, "after '9999"),
        ("999999999", Overloaded, "words"),
        ("0", Overloaded, "words"),
    ],
)
def test_a_time_to_come_back_that_is_none(liar: Liar, hint: str, error: type[Exception], words: str) -> None:
    liar.fails(grpc.StatusCode.RESOURCE_EXHAUSTED, **{ERROR_NAME_KEY: "Overloaded", RETRY_AFTER_KEY: hint})
    started = time.monotonic()
    with ImageClient(liar.address, timeout_s=1) as client, pytest.raises(error, match=words):
        client.get([1])
    assert time.monotonic() - started < 2
    assert liar.calls.count("GetVectors") < 10


@pytest.mark.parametrize(
    "name", ["SystemExit", "TrainingDiverged", "NothingEmbedded", "CrossMediaError", "Exception", ""]
)
@pytest.mark.parametrize("code", [grpc.StatusCode.UNKNOWN, grpc.StatusCode.INTERNAL])
def test_only_errors_of_servers_are_raised_for_servers(
    liar: Liar, client: ImageClient, name: str, code: grpc.StatusCode
) -> None:
    liar.fails(code, "lower the learning rate", **{ERROR_NAME_KEY: name})
    with pytest.raises(ServerFault, match="lower the learning rate"):
        client.get([1])


def test_what_a_server_says_is_printed_in_one_line(liar: Liar, client: ImageClient) -> None:
    liar.fails(
        grpc.StatusCode.INVALID_ARGUMENT, "\x1b]0;pwned\x07\x1b[2J\u202ex\nfake line", **{ERROR_NAME_KEY: "BadInput"}
    )
    with pytest.raises(BadInput) as caught:
        client.get([1])
    assert str(caught.value).isprintable()
    assert "x\\nfake line (request " in str(caught.value)
    liar.fails(grpc.StatusCode.INVALID_ARGUMENT, "long " * 1000)
    with pytest.raises(InvalidRequest) as cut:
        client.get([1])
    assert 900 < len(str(cut.value)) < 1100


def test_megabytes_of_error(liar: Liar, client: ImageClient) -> None:
    liar.fails(grpc.StatusCode.INVALID_ARGUMENT, "x" * (10 << 20))
    refused(liar, "its metadata is too large", lambda: client.get([1]))


def test_megabytes_that_nobody_asked_for(liar: Liar) -> None:
    """The client says how large a message may be, and not the server."""
    big = bytes(300 << 20)
    liar.answer = lambda request, context: big
    with (
        ImageClient(liar.address, timeout_s=20) as client,
        pytest.raises(ServerFault, match="larger than this client takes"),
    ):
        client.info()


@pytest.mark.parametrize("answer", [b"\xff\xff", b"\x08\x63", b""])
def test_a_state_of_health_that_is_none(liar: Liar, answer: bytes) -> None:
    liar.answer = lambda request, context: answer
    done = CliRunner().invoke(imgserver, ["health", f"--server={liar.address}"])
    assert done.exit_code == 3, done.exception
    assert "is not healthy" in done.stderr


def test_a_server_does_not_choose_where_a_client_and_its_token_go(liar: Liar, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("secret")
    token.chmod(0o600)
    with socket.create_server(("127.0.0.1", 0)) as elsewhere:
        elsewhere.settimeout(0.5)
        evil = f"127.0.0.1:{elsewhere.getsockname()[1]}"
        liar.lies_about("GetInfo", servers=[evil, liar.address], server_name=evil)
        security = ClientSecurity(token_file=str(token))
        with ImageClient(liar.address, timeout_s=2, security=security) as client:
            assert client.get([1]).ok.all()
            assert ("authorization", "Bearer secret") in liar.metadata
        copies = f"{liar.address}, {liar.address}"
        with ImageClient(copies, timeout_s=2, security=security) as client, pytest.raises(CrossMediaError):
            client.get([1])
        with pytest.raises(TimeoutError):
            elsewhere.accept()


TRANSIENT = [
    (grpc.StatusCode.UNAVAILABLE, {}, ServerUnavailable),
    (grpc.StatusCode.UNAVAILABLE, {ERROR_NAME_KEY: "ServerUnavailable"}, ServerUnavailable),
    (grpc.StatusCode.RESOURCE_EXHAUSTED, {ERROR_NAME_KEY: "Overloaded", RETRY_AFTER_KEY: "50"}, Overloaded),
    (grpc.StatusCode.RESOURCE_EXHAUSTED, {}, Overloaded),
]
PERMANENT = [
    (grpc.StatusCode.INVALID_ARGUMENT, InvalidRequest),
    (grpc.StatusCode.FAILED_PRECONDITION, VersionMismatch),
    (grpc.StatusCode.UNAUTHENTICATED, Unauthenticated),
    (grpc.StatusCode.PERMISSION_DENIED, PermissionDenied),
    (grpc.StatusCode.DATA_LOSS, StoreError),
    (grpc.StatusCode.INTERNAL, ServerFault),
    (grpc.StatusCode.UNKNOWN, ServerFault),
    (grpc.StatusCode.UNIMPLEMENTED, ServerFault),
    (grpc.StatusCode.OUT_OF_RANGE, ServerFault),
]


@pytest.mark.parametrize("method", [name for name in CALLS if name != "GetInfo"])
@pytest.mark.parametrize(("code", "metadata", "error"), TRANSIENT)
def test_what_passes_is_tried_again(
    liar: Liar, method: str, code: grpc.StatusCode, metadata: dict[str, str], error: type[Exception]
) -> None:
    liar.fails(code, **metadata)
    failing = liar.answer
    liar.answer = lambda request, context: (honest if liar.calls.count(method) > 2 else failing)(request, context)
    with ImageClient(liar.address, timeout_s=5) as client:
        CALLS[method](client)
    assert liar.calls.count(method) == 3
    liar.answer = failing
    started = time.monotonic()
    with ImageClient(liar.address, timeout_s=0.4) as client, pytest.raises(error):
        CALLS[method](client)
    assert time.monotonic() - started < 2


@pytest.mark.parametrize(("code", "error"), PERMANENT)
def test_what_stays_is_not_tried_again(
    liar: Liar, client: ImageClient, code: grpc.StatusCode, error: type[Exception]
) -> None:
    liar.fails(code)
    with pytest.raises(error, match="words"):
        client.get([1])
    liar.fails(code, **{ERROR_NAME_KEY: error.__name__})
    with pytest.raises(error, match="words"):
        client.get([1])
    liar.fails(grpc.StatusCode.FAILED_PRECONDITION, **{ERROR_NAME_KEY: "NotReady"})
    with pytest.raises(NotReady):
        client.get([1])
    assert liar.calls.count("GetVectors") == 3


@contextmanager
def breaking_off(address: str, breaks: Callable[[socket.socket, bytes], bool], times: int) -> Iterator[str]:
    """Stands before a server and breaks its first connections off when a call has come."""
    host, _, port = address.rpartition(":")
    left = [times]

    def copy(source: socket.socket, target: socket.socket, asks: bool) -> None:
        try:
            while data := source.recv(1 << 16):
                if asks and left[0] > 0 and b"GetVectors" in data:
                    left[0] -= 1
                    if breaks(source, data):
                        return
                target.sendall(data)
        except OSError:
            pass

    def serve() -> None:
        while True:
            try:
                ours, _ = listening.accept()
            except OSError:
                return
            theirs = socket.create_connection((host, int(port)))
            opened.extend([ours, theirs])
            threading.Thread(target=copy, args=(ours, theirs, True), daemon=True).start()
            threading.Thread(target=copy, args=(theirs, ours, False), daemon=True).start()

    opened: list[socket.socket] = []
    listening = socket.create_server(("127.0.0.1", 0))
    threading.Thread(target=serve, daemon=True).start()
    try:
        yield f"127.0.0.1:{listening.getsockname()[1]}"
    finally:
        listening.shutdown(socket.SHUT_RDWR)
        for one in (listening, *opened):
            one.close()


def reset(code: int) -> Callable[[socket.socket, bytes], bool]:
    """RST_STREAM for the stream of the call, as a server sends that has nothing left to answer with."""

    def breaks(connection: socket.socket, data: bytes) -> bool:
        place = 0
        while data[place + 3] != 1:  # the frame of the headers
            place += 9 + int.from_bytes(data[place : place + 3], "big")
        connection.sendall(b"\0\0\4\3\0" + data[place + 5 : place + 9] + code.to_bytes(4, "big"))
        return False

    return breaks


def hang_up(connection: socket.socket, data: bytes) -> bool:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")  # a reset, and no farewell
    connection.close()
    return True


@pytest.mark.parametrize(
    "breaks", [hang_up, *map(reset, [0, 2, 7, 8, 11])], ids=["TCP", "NO_ERROR", "INTERNAL", "REFUSED", "CANCEL", "CALM"]
)
def test_calls_that_are_broken_off_are_made_again(liar: Liar, breaks: Callable[[socket.socket, bytes], bool]) -> None:
    """By a proxy, by a server that ends, by one that has no threads, memory or files left."""
    with breaking_off(liar.address, breaks, 1) as address, ImageClient(address, timeout_s=8) as client:
        assert client.get([1]).ok.all()
        assert client.stats.retries == 1
