"""Tokens and their scopes: who may make which call, and that nothing secret is told."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from conftest import DaemonProcess, copy_store, run_command
from hypothesis import given
from hypothesis import strategies as st
from secured import TOKENS, Credentials, log_of, private, tls

from crossmedia.errors import (
    BadInput,
    PermissionDenied,
    Unauthenticated,
)
from crossmedia.imgserver.client import ClientSecurity, GrpcTransport, ImageClient, Status
from crossmedia.imgserver.serving import scopes
from crossmedia.imgserver.wire import GET_INFO
from crossmedia.service.security import scope_of
from crossmedia.service.tokens import SCOPES, read_tokens
from crossmedia.v1 import image_server_pb2 as pb
from crossmedia.v1 import image_server_pb2_grpc as pb_grpc

SCOPE_OF = {path.rpartition("/")[2]: scope for path, scope in scopes.SCOPE_OF.items()}


RPCS = [method.name for method in pb.DESCRIPTOR.services_by_name["ImageService"].methods]


@pytest.fixture(scope="module")
def guarded(graph_cache: Path, photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[DaemonProcess]:
    """A daemon with a token for each scope."""
    folder = tmp_path_factory.mktemp("guarded")
    lines = "".join(f"{scope}-er {scope} {token}\n" for scope, token in TOKENS.items())
    tokens = private(folder / "tokens", f"# name scope token\n{lines}")
    daemon = DaemonProcess(copy_store(graph_cache, folder / "store"), photos, f"--tokens={tokens}", "--metrics-port=0")
    yield daemon
    daemon.stop()


def call(address: str, method: str, token: str | None) -> grpc.StatusCode:
    """How a call ends with an empty request: OK or whatever the service says of it, unless it is refused before."""
    metadata = [] if token is None else [("authorization", f"Bearer {token}")]
    with grpc.insecure_channel(address) as channel:
        request = getattr(pb, f"{method}Request")()
        try:
            getattr(pb_grpc.ImageServiceStub(channel), method)(request, timeout=10, metadata=metadata)
        except grpc.RpcError as error:
            code: grpc.StatusCode = error.code()
            return code
    return grpc.StatusCode.OK


@pytest.mark.parametrize("method", RPCS)
def test_each_call_takes_its_scope_and_no_lesser_one(guarded: DaemonProcess, method: str) -> None:
    assert method in SCOPE_OF, f"{method} is new: what scope does it need?"
    refused = (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED)
    for scope in SCOPES:
        code = call(guarded.address, method, TOKENS[scope])
        if SCOPES.index(scope) < SCOPES.index(SCOPE_OF[method]):
            assert code == grpc.StatusCode.PERMISSION_DENIED
        else:
            assert code not in refused
    for token in (None, "", "wrong", TOKENS["admin"][:-1], TOKENS["admin"].upper(), "x" * 5000):
        assert call(guarded.address, method, token) == grpc.StatusCode.UNAUTHENTICATED


def test_scopes_name_calls_that_there_are_and_the_unknown_needs_the_highest() -> None:
    assert set(SCOPE_OF) == set(RPCS)
    assert scope_of("/crossmedia.v1.ImageService/Erase", scopes.SCOPE_OF) == "admin"
    assert scope_of("/other.Service/GetInfo", scopes.SCOPE_OF) == "admin"


def test_the_client_raises_the_servers_classes(guarded: DaemonProcess, tmp_path: Path, photos: Path) -> None:
    photo = {7: (photos / "007.jpg").read_bytes()}

    def client(scope: str) -> ImageClient:
        return ImageClient(
            guarded.address, security=ClientSecurity(token_file=str(private(tmp_path / scope, TOKENS[scope] + "\n")))
        )

    with client("read") as reader:
        assert reader.get([1, 120]).ok.all(), "a miss is computed for a reader too"
        with pytest.raises(PermissionDenied, match=r"read-er has the scope 'read'; this call needs 'write'"):
            reader.put(photo)
    with client("write") as writer:
        assert writer.put(photo) == {7: Status.OK}
    started = time.monotonic()
    with pytest.raises(Unauthenticated, match="CROSSMEDIA_TOKEN_FILE"):
        ImageClient(guarded.address, timeout_s=20).get([1])
    assert time.monotonic() - started < 5, "it is not tried again until the deadline"
    security = ClientSecurity(token_file=str(private(tmp_path / "wrong", "x" * 30)))
    with pytest.raises(Unauthenticated, match="does not know this token"):
        GrpcTransport(guarded.address, security).call(GET_INFO, pb.GetInfoRequest(), 5)


def test_refused_calls_are_counted_by_known_names_alone(guarded: DaemonProcess) -> None:
    from urllib.request import urlopen

    call(guarded.address, "Search", None)
    with grpc.insecure_channel(guarded.address) as channel:
        made_up: Any = channel.unary_unary("/crossmedia.v1.ImageService/Made up")
        with pytest.raises(grpc.RpcError) as caught:
            made_up(b"", timeout=5)
    assert caught.value.code() == grpc.StatusCode.UNAUTHENTICATED
    port = json.loads((guarded.store / "daemon.json").read_text())["metrics_port"]
    with urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as reply:
        text = reply.read().decode()
    assert 'crossmedia_rpc_duration_seconds_count{code="UNAUTHENTICATED",method="Search"}' in text
    assert "Made up" not in text


def test_probes_need_no_token_and_reflection_does(guarded: DaemonProcess) -> None:
    from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

    assert "is healthy" in run_command("imgserver", "health", f"--server={guarded.address}").stdout

    def services(*metadata: tuple[str, str]) -> list[str]:
        with grpc.insecure_channel(guarded.address) as channel:
            stub = reflection_pb2_grpc.ServerReflectionStub(channel)
            asked = iter([reflection_pb2.ServerReflectionRequest(list_services="")])
            reply = next(iter(stub.ServerReflectionInfo(asked, timeout=5, metadata=metadata)))
            return [service.name for service in reply.list_services_response.service]

    with pytest.raises(grpc.RpcError) as caught:
        services()
    assert caught.value.code() == grpc.StatusCode.UNAUTHENTICATED
    assert "crossmedia.v1.ImageService" in services(("authorization", f"Bearer {TOKENS['read']}"))


def test_a_call_without_a_token_is_refused_before_its_body_came(guarded: DaemonProcess) -> None:
    with grpc.insecure_channel(guarded.address, options=[("grpc.max_send_message_length", -1)]) as channel:
        never = threading.Event()
        endless = (never.wait() and b"" for _ in range(1))
        try:
            put: Any = channel.stream_stream("/crossmedia.v1.ImageService/PutImages")
            calls = put(endless, timeout=20)
            started = time.monotonic()
            with pytest.raises(grpc.RpcError) as caught:
                next(iter(calls))
            assert caught.value.code() == grpc.StatusCode.UNAUTHENTICATED
            assert time.monotonic() - started < 10
        finally:
            never.set()


def test_tokens_are_replaced_without_a_restart(
    start_daemon: Callable[..., DaemonProcess], credentials: Credentials
) -> None:
    old, new = "o" * 32, "n" * 32
    tokens = private(credentials["tokens"], f"trainer read {old}\n")
    daemon = start_daemon(f"--tokens={tokens}")
    own = private(credentials["token"], old)
    with ImageClient(daemon.address, security=ClientSecurity(token_file=str(own))) as client:
        assert client.get([1]).ok.all()
        hashed = hashlib.sha256(new.encode()).hexdigest()
        private(tokens, f"trainer read {old}\ntrainer read sha256:{hashed}\n")
        time.sleep(1.2)
        assert client.get([1]).ok.all()
        private(own, new)
        time.sleep(1.2)
        assert client.get([1]).ok.all(), "the client sends the new one, and the server knows it by its hash"
        private(tokens, f"trainer read {new}\n")
        time.sleep(1.2)
        assert client.get([1]).ok.all()
    with pytest.raises(Unauthenticated):
        ImageClient(daemon.address, security=ClientSecurity(token_file=str(private(credentials["old"], old)))).info()
    tokens.write_text("trainer read short\n")
    time.sleep(1.2)
    with ImageClient(daemon.address, security=ClientSecurity(token_file=str(own))) as client:
        assert all(client.get([1]).ok.all() for _ in range(3)), "a broken file changes nothing"
    assert log_of(daemon).count("the change is not taken") == 1


def test_nothing_secret_is_logged(store: Path, credentials: Credentials, tmp_path: Path) -> None:
    """At the loudest that Python and gRPC have, through good calls, refused ones and broken files."""
    token, wrong = "Vq7" * 12, "Zx9" * 12
    tokens = private(credentials["tokens"], f"trainer read {token}\n")
    code = (
        "import logging; logging.basicConfig(level=logging.DEBUG); "
        "from crossmedia.imgserver.cli import imgserver; imgserver(auto_envvar_prefix='CROSSMEDIA_IMGSERVER')"
    )
    arguments = ["serve", f"--store={store}", "--port=0", "--json", f"--tokens={tokens}", *tls(credentials)]
    with open(tmp_path / "log", "wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-c", code, *arguments],
            stdout=subprocess.PIPE,
            stderr=log,
            env={**os.environ, "GRPC_VERBOSITY": "debug"},
        )
    assert process.stdout is not None
    address = json.loads(process.stdout.readline())["address"]
    messages = [subprocess.run(["ps", "-ww", "-o", "args=", str(process.pid)], capture_output=True, text=True).stdout]
    try:
        for brought in (token, wrong):
            own = private(credentials["token"], brought)
            env = {
                **os.environ,
                "CROSSMEDIA_TLS_CA": str(credentials.authority.file),
                "CROSSMEDIA_TOKEN_FILE": str(own),
            }
            command = [sys.executable, "-m", "crossmedia.imgserver", "info", f"--server={address}", "--timeout-s=5"]
            done = subprocess.run(command, capture_output=True, text=True, env=env)
            assert done.returncode == (0 if brought == token else 2), done.stderr
            messages += [done.stdout, done.stderr]
        private(tokens, f"trainer {token} read\n{token}\n")
        time.sleep(1.2)
        call(address, "GetInfo", token)
    finally:
        process.terminate()
        messages.append(process.communicate(timeout=30)[0].decode())
    messages.append((tmp_path / "log").read_text())
    assert "DEBUG" in messages[-1]
    messages += [repr(read_tokens(private(credentials["good"], f"a read {token}\n")))]
    text = "\n".join(messages)
    secrets = [token, wrong, hashlib.sha256(token.encode()).hexdigest()]
    secrets += [line for line in credentials["server.key"].read_text().splitlines() if "-----" not in line]
    assert [secret for secret in secrets if secret in text] == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("trainer read", "Line 1 of the tokens .* has 2 words"),
        ("\n# x\ntrainer read abc def", "Line 3 .* has 4 words"),
        ("tr@iner read {0}", "begins with no name"),
        ("trainer {0} read", "has no scope in the second place"),
        ("{0}{0} read {0}", "begins with no name"),
        ("trainer read Vq7Vq7", "at least 20 letters"),
        ("trainer read sha256:Vq7{0}", "has no token in the third place"),
        ("a read {0}\nb write {0}", "Line 2 .* the token of an earlier line"),
    ],
)
def test_a_wrong_line_is_named_and_not_shown(tmp_path: Path, text: str, message: str) -> None:
    file = private(tmp_path / "tokens", text.format("Vq7" * 12))
    with pytest.raises(BadInput, match=message) as caught:
        read_tokens(file)
    assert "Vq7" not in str(caught.value)


@given(st.binary(max_size=80))
def test_any_header_is_refused_by_a_class_of_ours(header: bytes) -> None:
    from crossmedia.service.tokens import Token, Tokens

    known = Tokens([Token("a", "read", hashlib.sha256(b"t" * 32).digest())])
    text = header.decode("latin-1")
    for value in (header, text, f"Bearer {text}", b"Bearer " + header):
        with pytest.raises(Unauthenticated):
            known.caller([("authorization", value)], "read")
    assert known.caller([("x", "y"), ("authorization", "bearer " + "t" * 32)], "read") == "a"
