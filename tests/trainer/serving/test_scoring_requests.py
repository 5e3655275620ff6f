"""Requests that cannot be answered as they are: refused in words, by gRPC and by HTTP, and the server lives on."""

from __future__ import annotations

import json
import socket
import struct
import subprocess
import time
from collections.abc import Callable
from typing import Any

import grpc
import numpy as np
import pytest
from conftest import soon
from oip import add, call, channel, infer, output
from scoring_server import ScoringProcess

from crossmedia.inference import grpc_predict_v2_pb2 as pb

Change = Callable[[pb.ModelInferRequest], None]


def raw(name: str, datatype: str, shape: list[int], data: bytes) -> Change:
    def change(request: pb.ModelInferRequest) -> None:
        request.inputs.add(name=name, datatype=datatype, shape=shape)
        request.raw_input_contents.append(data)

    return change


def both(request: pb.ModelInferRequest) -> None:
    request.inputs[0].contents.bytes_contents.append(b"i1")


def parameter(name: str, **value: Any) -> Change:
    def change(request: pb.ModelInferRequest) -> None:
        for field, one in value.items():
            setattr(request.parameters[name], field, one)

    return change


def fields(**values: Any) -> Change:
    def change(request: pb.ModelInferRequest) -> None:
        for name, value in values.items():
            setattr(request, name, value)

    return change


def other_output(request: pb.ModelInferRequest) -> None:
    request.outputs.add(name="scores")


LONG = b"x" * 5000
WRONG: dict[str, tuple[Change, str]] = {
    "no such model": (fields(model_name="dim"), r"no model 'dim' here\. Did you mean 'din'\? Served are: din"),
    "no such version": (fields(model_version="7"), r"not held in version '7'\. Held: [0-9a-f]{12}"),
    "no such input": (raw("itemid", "INT64", [1], bytes(8)), r"no input 'itemid'\. Did you mean 'item_id'\?"),
    "an input twice": (raw("item_id", "INT64", [1], bytes(8)), r"has the name 'item_id' again"),
    "no name": (raw("", "INT64", [1], bytes(8)), r"Input number 2 has no name"),
    "no such type": (raw("image_id", "INT63", [1], bytes(8)), r"'image_id', INT63 of shape \[1\], is of no type"),
    "bfloat16": (raw("image_id", "BF16", [1], bytes(2)), r"is of no type that is read here"),
    "of three sizes": (raw("image_id", "INT64", [1, 1, 1], bytes(8)), r"must have one size, or two"),
    "of no size": (raw("image_id", "INT64", [], bytes(8)), r"must have one size, or two"),
    "of a negative size": (raw("image_id", "INT64", [-1], bytes(8)), r"sizes from 0 on"),
    "of an enormous size": (raw("image_id", "INT64", [2**62, 2**62], bytes(8)), r"this server takes 1000 at most"),
    "of another length": (raw("image_id", "INT64", [2], bytes(16)), r"must have 1 rows, one for each candidate"),
    "too few bytes": (raw("image_id", "INT64", [1], bytes(7)), r"takes 8 bytes of raw_input_contents; 7 came"),
    "broken texts": (raw("hist_item_id", "BYTES", [2], b"\x01\x00\x00\x00a\xff\xff\xff\x7f"), r"behind its length"),
    "texts behind the end": (raw("hist_item_id", "BYTES", [0], b"abc"), r"must be 0 values"),
    "no UTF-8": (raw("user_id", "BYTES", [1], b"\x01\x00\x00\x00\xff"), r"no UTF-8 text"),
    "a huge text": (raw("user_id", "BYTES", [1], struct.pack("<I", 5000) + LONG), r"a value of 5000 bytes; 4096"),
    "contents twice": (both, r"contents beside raw_input_contents"),
    "fewer contents": (lambda request: request.raw_input_contents.append(b""), r"1 inputs and 2 entries"),
    "of the user, twice": (raw("user_id", "INT64", [2], bytes(16)), r"'user_id'.*must have one row"),
    "an id that is nan": (
        raw("image_id", "FP32", [1], np.float32(1.5).tobytes()),
        r"'image_id'.*(whole number|image id)",
    ),
    "endless": (raw("hist_time", "FP64", [1], np.float64(np.inf).tobytes()), r"has an infinite value"),
    "a boolean": (raw("image_id", "BOOL", [1], b"\1"), r"image_id"),
    "no such parameter": (parameter("reason", int64_param=1), r"no parameter 'reason'\. Did you mean 'reasons'\?"),
    "a parameter that is nan": (parameter("now", double_param=float("nan")), r"now must be seconds, a number"),
    "a parameter of another type": (parameter("now", string_param="1000"), r"now must be seconds"),
    "too many reasons": (parameter("reasons", int64_param=101), r"reasons must be whole numbers from 0 to 100"),
    "a time beyond all": (parameter("now", double_param=1e300), r"now_s"),
    "no such output": (other_output, r"no output 'scores'\. Did you mean 'score'\? This request has: score, status"),
}


@pytest.mark.parametrize("what", WRONG)
def test_it_is_refused_in_words(scoring: ScoringProcess, what: str) -> None:
    change, words = WRONG[what]
    request = infer({"item_id": ["i1"]})
    change(request)
    with channel(scoring.address) as opened, pytest.raises(grpc.RpcError, match=words) as caught:
        call(opened, "ModelInfer", request)
    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT


def test_a_million_candidates_are_refused_and_nothing_is_held(scoring: ScoringProcess) -> None:
    with channel(scoring.address) as opened:
        for request in (infer({"item_id": range(10**6)}), infer({"item_id": range(1001)})):
            started = time.monotonic()
            with pytest.raises(grpc.RpcError, match=r"1000 at most|values at most") as caught:
                call(opened, "ModelInfer", request)
            assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
            assert time.monotonic() - started < 5
        assert len(output(call(opened, "ModelInfer", infer({"item_id": range(1000)})), "score")) == 1000


def test_bytes_that_are_no_message(scoring: ScoringProcess) -> None:
    with channel(scoring.address) as opened:
        for method in ("ModelInfer", "ModelMetadata", "ModelReady", "ServerLive"):
            with pytest.raises(grpc.RpcError, match="are no request of") as caught:
                call(opened, method, b"\xff\xff\xff")
            assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT


def test_no_candidates_and_no_inputs(scoring: ScoringProcess) -> None:
    with channel(scoring.address) as opened:
        for request in (infer({}), infer({"user_id": ["u1"]}), infer({"item_id": []})):
            with pytest.raises(grpc.RpcError, match="has no candidates: give at least one of item_id, image_id"):
                call(opened, "ModelInfer", request)


def test_unknown_values_are_scored(scoring: ScoringProcess) -> None:
    """Numbers in any type, and ids that nobody knows."""
    with channel(scoring.address) as opened:
        request = infer({"item_id": [5, 7]})
        add(request, "image_id", [float("nan"), 3.0], "FP32")
        reply = call(opened, "ModelInfer", request)
        assert output(reply, "status").tolist() == [2, 1]
        assert np.isfinite(output(reply, "score")).all()


def curl(scoring: ScoringProcess, path: str, *options: str) -> tuple[int, Any]:
    url = f"http://127.0.0.1:{scoring.rest_port}{path}"
    done = subprocess.run(["curl", "-sS", "-w", "\n%{http_code}", *options, url], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    body, _, status = done.stdout.rpartition("\n")
    return int(status), json.loads(body)


def item(*names: str) -> dict[str, Any]:
    return {"name": "item_id", "datatype": "BYTES", "shape": [len(names)], "data": [*names]}


def test_the_rest_form(scoring: ScoringProcess) -> None:
    assert curl(scoring, "/v2/health/live") == (200, {"live": True})
    assert curl(scoring, "/v2/health/ready") == (200, {"ready": True})
    assert curl(scoring, "/v2")[1]["extensions"] == ["model_repository"]
    status, told = curl(scoring, "/v2/models/din")
    assert status == 200
    (version,) = told["versions"]
    assert curl(scoring, f"/v2/models/din/versions/{version}/ready") == (200, {"name": "din", "ready": True})
    request = {
        "id": "a",
        "parameters": {"now": 2000},
        "inputs": [
            {"name": "user_id", "datatype": "BYTES", "shape": [1], "data": ["u1"]},
            {"name": "hist_item_id", "datatype": "BYTES", "shape": [2], "data": ["i3", "i4"]},
            {"name": "hist_time", "datatype": "INT64", "shape": [2], "data": [1000, 1001]},
            {"name": "image_id", "datatype": "INT64", "shape": [2, 2], "data": [[1, -1], [9, 2]]},
            item("i1", "i9"),
        ],
    }
    status, reply = curl(scoring, "/v2/models/din/infer", "-d", json.dumps(request))
    assert status == 200
    by_grpc = infer({"user_id": ["u1"], "hist_item_id": ["i3", "i4"], "hist_time": [1000, 1001]}, now=2000)
    add(by_grpc, "item_id", ["i1", "i9"])
    add(by_grpc, "image_id", [1, -1, 9, 2], shape=[2, 2])
    with channel(scoring.address) as opened:
        expected = output(call(opened, "ModelInfer", by_grpc), "score")
    assert (reply["model_name"], reply["id"]) == ("din", "a")
    (score, statuses) = reply["outputs"]
    assert score["data"] == pytest.approx(expected.tolist())
    assert (statuses["datatype"], statuses["data"]) == ("UINT8", [1, 1])


@pytest.mark.parametrize(
    ("path", "body", "status", "words"),
    [
        ("/v2/models/dim/infer", {"inputs": [item("i1")]}, 400, "Did you mean 'din'?"),
        ("/v2/models/din/infer", '{"a": ', 400, "is no JSON"),
        ("/v2/models/din/infer", "[" * 100_000, 400, "is no JSON"),
        ("/v2/models/din/infer", [], 400, "'request' must be an object"),
        ("/v2/models/din/infer", {"inputs": {}}, 400, "'inputs' must be a list"),
        ("/v2/models/din/infer", {"inputs": [item("i1") | {"data": [7]}]}, 400, "is of BYTES; 7 is none. Write texts"),
        ("/v2/models/din/infer", {"inputs": [item("i1") | {"data": [None]}]}, 400, "null is none"),
        ("/v2/models/din/infer", {"inputs": [item("i1") | {"data": [0]}]}, 400, "is of BYTES; 0 is none"),
        ("/v2/models/din/infer", {"inputs": [item("i1") | {"data": [False]}]}, 400, "false is none"),
        ("/v2/models/din/infer", {"inputs": [item("i1") | {"data": [{}]}]}, 400, "{} is none"),
        ("/v2/models/din/infer", {"inputs": [item("i1") | {"data": [[[]]]}]}, 400, "[] is none"),
        ("/v2/models/din/infer", {"inputs": [item("i1")], "parameters": {"\ud800": 1}}, 400, "half a character"),
        ("/v2/models/din/infer", {"inputs": [item("i1")], "parameters": {"now": "\ud800"}}, 400, "half a character"),
        ("/v2/models/din/infer", {"inputs": [], "outputs": [{"name": "a\ud800"}]}, 400, "half a character"),
        ("/v2/models/din/infer", {"inputs": [item("i1") | {"shape": [2]}]}, 400, "must have 2 values"),
        ("/v2/models/din/infer", {"inputs": [item("i1") | {"shape": ["2"]}]}, 400, "must be a list of sizes"),
        ("/v2/models/din/infer", {"inputs": [item("i1") | {"datatype": "TEXT"}]}, 400, "is of no type"),
        ("/v2/models/din/infer", {"inputs": [item("\ud800")]}, 400, "cannot hold"),
        ("/v2/models/din/infer", {"inputs": [item("i1")], "parameters": {"now": [1]}}, 400, "must be a number"),
        ("/v2/models/din/infer", {"inputs": [item("i1")], "parameters": {"now": 2**70}}, 400, "64 bits"),
        (
            "/v2/models/din/infer",
            {"inputs": [{"name": "image_id", "datatype": "INT64", "shape": [1], "data": [2**70]}]},
            400,
            "a value that INT64 cannot hold",
        ),
        ("/nothing", {}, 400, "Paths begin with /v2"),
        ("/v2/models/din", {}, 400, "is asked for by GET, not by POST"),
    ],
)
def test_wrong_requests_by_http(scoring: ScoringProcess, path: str, body: Any, status: int, words: str) -> None:
    data = body if isinstance(body, str) else json.dumps(body)
    found, told = curl(scoring, path, "-d", data)
    assert (found, words in told["error"]) == (status, True), told


POST = b"POST /v2/models/din/infer HTTP/1.1\r\nHost: x\r\n"


def sent(scoring: ScoringProcess, data: bytes) -> bytes:
    """What comes back for bytes until the server closes the connection."""
    with socket.create_connection(("127.0.0.1", scoring.rest_port), 15) as opened:
        opened.sendall(data)
        return b"".join(iter(lambda: opened.recv(1 << 16), b""))


@pytest.mark.parametrize(
    ("head", "words"),
    [
        (POST + b"Content-Length: 2\r\nContent-Length: 99\r\n", b"several headers content-length"),
        (POST + b"Content-Length: 2\r\ncontent-length: 2\r\n", b"several headers content-length"),
        (POST + b"Content-Length: 2, 99\r\n", b"must say how long it is"),
        (POST + b"Content-Length: +2\r\n", b"must say how long it is"),
        (POST + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n", b"have no other encoding"),
        (POST + b"Transfer-Encoding: chunked\r\n", b"have no other encoding"),
        (POST + b"Transfer-Encoding : chunked\r\nContent-Length: 2\r\n", b"lines that are no headers"),
        (POST + b"Host: y\r\nContent-Length: 2\r\n", b"several headers host"),
        (POST + b"Authorization: Bearer a\r\nAuthorization: Bearer b\r\n", b"several headers authorization"),
        (b"GET /v2 HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n", b"a body where there must be none"),
    ],
)
def test_a_request_that_ends_in_two_ways_is_refused_and_what_follows_is_not_read(
    scoring: ScoringProcess, head: bytes, words: bytes
) -> None:
    hidden = b"GET /v2/health/live HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    found = sent(scoring, head + b"\r\n{}" + hidden)
    assert found.count(b"HTTP/1.1") == 1, found
    assert found.startswith(b"HTTP/1.1 400 ")
    assert words in found
    assert b"\r\nConnection: close\r\n" in found


def test_senders_that_are_slow_or_huge_hold_nothing(scoring: ScoringProcess) -> None:
    def ask(head: bytes) -> bytes:
        return sent(scoring, head)

    post = POST
    assert b"says" not in ask(post + b"Content-Length: 999999999999\r\n\r\n" + b"x" * 1_100_000)
    assert b"must say how long it is" in ask(post + b"\r\n")
    assert b"must say how long it is" in ask(post + b"Content-Length: -1\r\n\r\n")
    assert b"must say how long it is" in ask(post + b"Content-Length: " + b"9" * 5000 + b"\r\n\r\n")
    started = time.monotonic()
    assert ask(post + b"Content-Length: 100\r\n\r\nhalf") == b"", "who sends half a request is closed"
    assert time.monotonic() - started < 14
    silent = [socket.create_connection(("127.0.0.1", scoring.rest_port), 5) for _ in range(200)]
    assert soon(lambda: _closed(silent[-1])), "a host has a share of the connections"
    for opened in silent:
        opened.close()
    assert soon(lambda: curl(scoring, "/v2/health/live")[0] == 200)


def _closed(opened: socket.socket) -> bool:
    opened.settimeout(0.2)
    try:
        return opened.recv(1) == b""
    except TimeoutError:
        return False
    except OSError:
        return True
