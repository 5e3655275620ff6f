"""Certificates and tokens of the scoring server, by gRPC and by HTTP; its stubs, beside those of Triton's client."""

from __future__ import annotations

import json
import ssl
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from conftest import ROOT, run_command
from oip import call, infer
from scoring_server import ScoringProcess, Shop
from secured import TOKENS, Credentials, private, tls

from crossmedia.inference import grpc_predict_v2_pb2 as pb
from crossmedia.service.tokens import SCOPES
from crossmedia.trainer.serving.api import NAME
from crossmedia.trainer.serving.api import SCOPES as SCOPE_OF

HEALTH = ("live", "ready")


@pytest.fixture
def guarded(shop: Shop, credentials: Credentials, tmp_path: Path) -> Iterator[ScoringProcess]:
    lines = "".join(f"{scope} {scope} {TOKENS[scope]}\n" for scope in SCOPES)
    tokens = private(tmp_path / "tokens", lines)
    found = ScoringProcess(
        tmp_path / "serving",
        *(str(shop.exported), f"--server={shop.images.address}", "--rest-port=0"),
        *(*tls(credentials), f"--tokens={tokens}"),
    )
    yield found
    found.stop()


def test_grpc_takes_a_certificate_and_a_token(guarded: ScoringProcess, credentials: Credentials) -> None:
    roots = grpc.ssl_channel_credentials(credentials.authority.file.read_bytes())
    with grpc.secure_channel(guarded.address, roots) as opened:

        def code(method: str, request: Any, token: str = "") -> str:
            metadata = (("authorization", f"Bearer {token}"),) if token else ()
            try:
                call(opened, method, request, metadata=metadata)
                return "OK"
            except grpc.RpcError as error:
                return str(error.code().name)

        request = infer({"item_id": ["i1"]})
        load = pb.RepositoryModelLoadRequest(model_name="din")
        load.parameters["rollback"].bool_param = True
        assert code("ModelInfer", request) == "UNAUTHENTICATED"
        assert code("ModelInfer", request, "0" * 64) == "UNAUTHENTICATED"
        assert code("ModelInfer", request, TOKENS["read"]) == "OK"
        assert code("RepositoryIndex", pb.RepositoryIndexRequest(), TOKENS["read"]) == "OK"
        assert code("RepositoryModelLoad", load, TOKENS["read"]) == "PERMISSION_DENIED"
        assert code("RepositoryModelLoad", load, TOKENS["write"]) == "PERMISSION_DENIED"
        assert code("RepositoryModelLoad", load, TOKENS["admin"]) == "INVALID_ARGUMENT", "there was no model before"
    with grpc.insecure_channel(guarded.address) as opened, pytest.raises(grpc.RpcError):
        call(opened, "ServerLive", pb.ServerLiveRequest(), timeout=5)


def test_http_takes_a_certificate_and_a_token(guarded: ScoringProcess, credentials: Credentials) -> None:
    trusted = ssl.create_default_context(cafile=str(credentials.authority.file))

    def get(path: str, token: str = "", body: bytes | None = None) -> int:
        url = f"https://localhost:{guarded.rest_port}{path}"
        request = urllib.request.Request(url, body, {"Authorization": f"Bearer {token}"} if token else {})
        try:
            with urllib.request.urlopen(request, timeout=10, context=trusted) as reply:
                return int(reply.status)
        except urllib.error.HTTPError as error:
            return int(error.code)

    given = {"inputs": [{"name": "item_id", "datatype": "BYTES", "shape": [1], "data": ["i1"]}]}
    body = json.dumps(given).encode()
    assert [get(f"/v2/health/{name}") for name in HEALTH] == [200, 200], "a probe has no token"
    assert get("/v2/models/din") == 401
    assert get("/v2/models/din", TOKENS["read"]) == 200
    assert get("/v2/models/din/infer", body=body) == 401
    assert get("/v2/models/din/infer", "0" * 64, body) == 401
    assert get("/v2/models/din/infer", TOKENS["read"], body) == 200
    with pytest.raises(OSError, match=r"(reset|aborted|closed|Remote|EOF|record)"):
        urllib.request.urlopen(f"http://localhost:{guarded.rest_port}/v2/health/live", timeout=5)


def test_the_command_takes_what_the_environment_says(
    guarded: ScoringProcess, credentials: Credentials, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CROSSMEDIA_TLS_CA", str(credentials.authority.file))
    assert "healthy" in run_command("trainer", "health", f"--folder={guarded.folder}").stdout
    done = run_command("trainer", "switch", "--rollback", f"--folder={guarded.folder}", check=False)
    assert "answers only calls with a token" in done.stderr
    monkeypatch.setenv("CROSSMEDIA_TOKEN_FILE", str(private(tmp_path / "token", TOKENS["admin"])))
    done = run_command("trainer", "switch", "--rollback", f"--folder={guarded.folder}", check=False)
    assert "it was the first" in done.stderr


def test_every_call_has_a_scope() -> None:
    methods = pb.DESCRIPTOR.services_by_name["GRPCInferenceService"].methods
    assert {method.name for method in methods} == set(SCOPE_OF)
    assert pb.DESCRIPTOR.services_by_name["GRPCInferenceService"].full_name == NAME


def test_the_stubs_are_those_of_the_proto(tmp_path: Path) -> None:
    from google.protobuf import descriptor_pb2
    from grpc_tools import protoc

    out = tmp_path / "set"
    arguments = ["protoc", f"-I{ROOT / 'protos'}", f"--descriptor_set_out={out}", "inference/grpc_predict_v2.proto"]
    assert protoc.main(arguments) == 0
    fresh = descriptor_pb2.FileDescriptorSet.FromString(out.read_bytes()).file[0]
    stored = descriptor_pb2.FileDescriptorProto()
    pb.DESCRIPTOR.CopyToProto(stored)
    assert _fields(stored) == _fields(fresh), "run: make protos"


def test_the_proto_is_the_protocol_as_tritons_client_has_it() -> None:
    """Every message and field of ours, by name, number and type."""
    triton: Any = pytest.importorskip("tritonclient.grpc.service_pb2")
    from google.protobuf import descriptor_pb2

    ours, theirs = descriptor_pb2.FileDescriptorProto(), descriptor_pb2.FileDescriptorProto()
    pb.DESCRIPTOR.CopyToProto(ours)
    triton.DESCRIPTOR.CopyToProto(theirs)
    found, expected = _fields(ours), _fields(theirs)
    assert found.items() <= expected.items()
    methods = {method.name: (method.input_type, method.output_type) for method in ours.service[0].method}
    assert methods.items() <= {m.name: (m.input_type, m.output_type) for m in theirs.service[0].method}.items()


def _fields(file: Any) -> dict[str, list[tuple[str, int, int, int, str]]]:
    found: dict[str, list[tuple[str, int, int, int, str]]] = {}

    def add(message: Any, within: str) -> None:
        name = f"{within}.{message.name}"
        found[name] = [(one.name, one.number, one.type, one.label, one.type_name) for one in message.field]
        for nested in message.nested_type:
            add(nested, name)

    for message in file.message_type:
        add(message, file.package)
    return found
