"""TLS, tokens, scopes and limits of a daemon; that nothing secret is told; that no name leads out of a catalogue."""

from __future__ import annotations

import ast
import contextlib
import datetime
import hashlib
import ipaddress
import json
import logging
import os
import pickle
import re
import shutil
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import grpc
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import ROOT, DaemonProcess, copy_store, run_command
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from hypothesis import given
from hypothesis import strategies as st

from crossmedia.config import load_config_file
from crossmedia.environment import CLIENT
from crossmedia.errors import (
    BadInput,
    CrossMediaError,
    Overloaded,
    PermissionDenied,
    ServerUnavailable,
    Unauthenticated,
)
from crossmedia.imgserver.client import ClientSecurity, GrpcTransport, HeadServers, ImageClient, Status
from crossmedia.imgserver.serving import scopes
from crossmedia.imgserver.serving.metrics import Metrics
from crossmedia.imgserver.storage.catalogue import open_catalogue
from crossmedia.imgserver.storage.catalogue.manifest import write_manifest
from crossmedia.imgserver.wire import GET_INFO
from crossmedia.secret_files import Followed, is_private
from crossmedia.service.rates import RateLimit
from crossmedia.service.security import ServerSecurity, scope_of
from crossmedia.service.tokens import SCOPES, read_tokens
from crossmedia.v1 import image_server_pb2 as pb
from crossmedia.v1 import image_server_pb2_grpc as pb_grpc

MOST = 1 << 20
TOKENS = {scope: hashlib.sha256(scope.encode()).hexdigest() for scope in SCOPES}
SCOPE_OF = {path.rpartition("/")[2]: scope for path, scope in scopes.SCOPE_OF.items()}
RPCS = [method.name for method in pb.DESCRIPTOR.services_by_name["ImageService"].methods]


class Authority:
    """Signs certificates for loopback."""

    def __init__(self, name: str, folder: Path):
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        constraints = x509.BasicConstraints(ca=True, path_length=0)
        certificate = self._certificate(self.name, self.key.public_key()).add_extension(constraints, critical=True)
        self.file = folder / f"{name}.pem"
        self.file.write_bytes(certificate.sign(self.key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))

    def _certificate(self, subject: x509.Name, public_key: Any) -> x509.CertificateBuilder:
        now = datetime.datetime.now(datetime.UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self.name)
            .public_key(public_key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(hours=1))
            .not_valid_after(now + datetime.timedelta(hours=1))
        )

    def issue(self, cert: Path, key: Path, *hosts: str) -> None:
        """Write a new certificate for ``hosts``, and its key; both at once, as a good renewal does."""
        secret = ec.generate_private_key(ec.SECP256R1())
        names: list[x509.GeneralName] = [
            x509.IPAddress(ipaddress.ip_address(host)) if host[0].isdigit() else x509.DNSName(host) for host in hosts
        ]
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, hosts[0])])
        made = self._certificate(subject, secret.public_key())
        made = made.add_extension(x509.SubjectAlternativeName(names), critical=False)
        pem = serialization.Encoding.PEM
        form = serialization.PrivateFormat.PKCS8
        for file, data in (
            (key, secret.private_bytes(pem, form, serialization.NoEncryption())),
            (cert, made.sign(self.key, hashes.SHA256()).public_bytes(pem)),
        ):
            part = file.with_suffix(".part")
            part.touch(0o600)
            part.write_bytes(data)
            part.replace(file)


@dataclass(frozen=True)
class Files:
    """What an operator makes: authorities, a certificate of the server and one of a client."""

    folder: Path
    authority: Authority
    other: Authority

    def __getitem__(self, name: str) -> Path:
        return self.folder / name

    def client(self, **more: str) -> ClientSecurity:
        return ClientSecurity(tls_ca=str(self.authority.file), **more)


@pytest.fixture
def files(tmp_path: Path) -> Files:
    folder = tmp_path / "secrets"
    folder.mkdir()
    made = Files(folder, Authority("own", folder), Authority("other", folder))
    made.authority.issue(made["server.pem"], made["server.key"], "localhost", "127.0.0.1")
    made.authority.issue(made["client.pem"], made["client.key"], "trainer")
    made.other.issue(made["stranger.pem"], made["stranger.key"], "stranger")
    return made


def private(path: Path, text: str) -> Path:
    path.touch(0o600)
    path.write_text(text)
    return path


def tls(files: Files) -> list[str]:
    return [f"--tls-cert={files['server.pem']}", f"--tls-key={files['server.key']}"]


@pytest.fixture
def start(graph_cache: Path, tmp_path: Path, photos: Path) -> Iterator[Callable[..., DaemonProcess]]:
    """Starts daemons over copies of the store, and stops them."""
    started: list[DaemonProcess] = []

    def make(*options: str, catalogue: Path | None = photos) -> DaemonProcess:
        store = copy_store(graph_cache, tmp_path / f"store-{len(started)}")
        started.append(DaemonProcess(store, catalogue, *options))
        return started[-1]

    yield make
    for daemon in started:
        daemon.stop()


def log_of(daemon: DaemonProcess) -> str:
    return (daemon.store / "daemon.log").read_text()


def certificate_of(address: str) -> bytes:
    """What a new connection is shown, as DER."""
    import ssl

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    host, _, port = address.rpartition(":")
    with socket.create_connection((host, int(port))) as plain, context.wrap_socket(plain) as connection:
        shown = connection.getpeercert(binary_form=True)
    assert shown
    return shown


def test_tls(start: Callable[..., DaemonProcess], files: Files) -> None:
    daemon = start(*tls(files))
    with ImageClient(daemon.address, security=files.client()) as client:
        assert client.get([1, 2]).ok.all()
        (thumbnail,) = client.thumbnails([1])
        assert thumbnail
    port = daemon.address.rpartition(":")[2]
    copies = f"127.0.0.1:{port},localhost:{port}"
    for address in (f"localhost:{port}", copies, f"dns:///localhost:{port}", f"ipv4:127.0.0.1:{port}"):
        with ImageClient(address, timeout_s=20, security=files.client()) as client:
            assert client.get([3]).ok.all(), address
    wrong = (
        ClientSecurity(),
        ClientSecurity(tls_ca=str(files.other.file)),
        files.client(tls_name="photos.example"),
    )
    for security in wrong:
        with pytest.raises(ServerUnavailable, match="whether it takes TLS"):
            ImageClient(daemon.address, timeout_s=1, security=security).get([1])
    with HeadServers([daemon.address], "run", 10, files.client()) as servers:
        assert servers.backbone().startswith("efficientnet_lite0@")


def test_a_client_with_tls_does_not_fall_back_to_a_server_without(daemon: DaemonProcess, files: Files) -> None:
    with pytest.raises(ServerUnavailable):
        ImageClient(daemon.address, timeout_s=1, security=files.client()).info()


def test_mutual_tls(start: Callable[..., DaemonProcess], files: Files) -> None:
    daemon = start(*tls(files), f"--tls-client-ca={files.authority.file}")

    def pair(name: str) -> ClientSecurity:
        return files.client(tls_cert=str(files[f"{name}.pem"]), tls_key=str(files[f"{name}.key"]))

    with ImageClient(daemon.address, security=pair("client")) as client:
        assert client.get([1]).ok.all()
    for security in (files.client(), pair("stranger")):
        with pytest.raises(ServerUnavailable):
            ImageClient(daemon.address, timeout_s=1, security=security).info()


def test_a_renewed_certificate_is_taken_and_a_broken_one_is_not(
    start: Callable[..., DaemonProcess], files: Files
) -> None:
    daemon = start(*tls(files))
    with ImageClient(daemon.address, security=files.client()) as first:
        assert first.get([1]).ok.all()
        shown = certificate_of(daemon.address)
        files.authority.issue(files["server.pem"], files["server.key"], "localhost", "127.0.0.1")
        renewed = certificate_of(daemon.address)
        assert renewed != shown
        assert first.get([1]).ok.all(), "a connection goes on"
        # A certificate with the key of another one: a renewal that went wrong half-way.
        good = files["server.pem"].read_bytes()
        files["server.pem"].write_bytes(files["client.pem"].read_bytes())
        for _ in range(3):
            assert certificate_of(daemon.address) == renewed
        assert log_of(daemon).count("the change is not taken") == 1
        files["server.pem"].unlink()
        assert certificate_of(daemon.address) == renewed
        files["server.pem"].write_bytes(good)
        with ImageClient(daemon.address, security=files.client()) as second:
            assert second.get([1]).ok.all()
    # Another authority altogether: who trusts the first one is not answered any more, on a new connection.
    files.other.issue(files["server.pem"], files["server.key"], "localhost", "127.0.0.1")
    with ImageClient(daemon.address, security=ClientSecurity(tls_ca=str(files.other.file))) as third:
        assert third.get([1]).ok.all()
    with pytest.raises(ServerUnavailable):
        ImageClient(daemon.address, timeout_s=1, security=files.client()).info()


@pytest.mark.parametrize(
    ("given_files", "message"),
    [
        ({"tls_cert": "server.pem"}, "give --tls-cert and --tls-key"),
        ({"tls_client_ca": "own.pem"}, "give --tls-cert and --tls-key"),
        ({"tls_cert": "server.pem", "tls_key": "absent"}, "cannot be read: No such file"),
        ({"tls_cert": "server.pem", "tls_key": "open.key"}, r"can be read by others \(its mode is 0640\)"),
        ({"tls_cert": "client.pem", "tls_key": "server.key"}, "must be PEM files, of one pair"),
        ({"tls_cert": "server.pem", "tls_key": "locked.key"}, "the key must have no password"),
        ({"tls_cert": "server.pem", "tls_key": "server.key", "tls_client_ca": "server.key"}, "cannot be used"),
        (
            {"tls_cert": "server.pem", "tls_key": "server.key", "tls_client_ca": "empty"},
            "authorities .* Empty",
        ),
        ({"tokens": "absent"}, "cannot be read: No such file"),
        ({"tokens": "open.tokens"}, r"can be read by others \(its mode is 0644\)"),
        ({"tokens": "empty.tokens"}, "has no token, so that nobody could call"),
    ],
)
def test_a_server_does_not_start_half_secured(files: Files, given_files: dict[str, str], message: str) -> None:
    private(files["open.key"], files["server.key"].read_text()).chmod(0o640)
    key = serialization.load_pem_private_key(files["server.key"].read_bytes(), None)
    locked = serialization.BestAvailableEncryption(b"secret")
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, locked)
    private(files["locked.key"], pem.decode())
    private(files["open.tokens"], f"reader read {TOKENS['read']}\n").chmod(0o644)
    private(files["empty.tokens"], "# nobody yet\n\n")
    private(files["empty"], "")
    security = ServerSecurity(**{name: files[file] for name, file in given_files.items()})  # type: ignore[arg-type]
    with pytest.raises(BadInput, match=message) as caught:
        security.credentials(), security.interceptors({}, Metrics().rpc_duration)
    assert TOKENS["read"] not in str(caught.value)


def test_a_command_that_is_half_secured_says_so(files: Files, store: Path) -> None:
    given_files = [f"--tls-cert={files['client.pem']}", f"--tls-key={files['server.key']}"]
    done = run_command("imgserver", "serve", f"--store={store}", "--port=0", *given_files, check=False)
    assert done.returncode == 2
    assert "must be PEM files, of one pair" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (store / "daemon.json").exists()


def test_secrets_of_root_may_be_read_by_the_group_of_a_container() -> None:
    assert is_private(0o100440, 0, 10001)
    assert not is_private(0o100440, 0, 0)
    assert not is_private(0o100440, 10001, 10001)
    assert not is_private(0o100444, 0, 10001)
    assert not is_private(0o100460, 0, 10001)
    assert is_private(0o100400, 0, 0)
    assert is_private(0o100600, 10001, 10001)


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


def test_tokens_are_replaced_without_a_restart(start: Callable[..., DaemonProcess], files: Files) -> None:
    old, new = "o" * 32, "n" * 32
    tokens = private(files["tokens"], f"trainer read {old}\n")
    daemon = start(f"--tokens={tokens}")
    own = private(files["token"], old)
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
        ImageClient(daemon.address, security=ClientSecurity(token_file=str(private(files["old"], old)))).info()
    tokens.write_text("trainer read short\n")
    time.sleep(1.2)
    with ImageClient(daemon.address, security=ClientSecurity(token_file=str(own))) as client:
        assert all(client.get([1]).ok.all() for _ in range(3)), "a broken file changes nothing"
    assert log_of(daemon).count("the change is not taken") == 1


def test_nothing_secret_is_logged(store: Path, files: Files, tmp_path: Path) -> None:
    """At the loudest that Python and gRPC have, through good calls, refused ones and broken files."""
    token, wrong = "Vq7" * 12, "Zx9" * 12
    tokens = private(files["tokens"], f"trainer read {token}\n")
    code = (
        "import logging; logging.basicConfig(level=logging.DEBUG); "
        "from crossmedia.imgserver.cli import imgserver; imgserver(auto_envvar_prefix='CROSSMEDIA_IMGSERVER')"
    )
    arguments = ["serve", f"--store={store}", "--port=0", "--json", f"--tokens={tokens}", *tls(files)]
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
            own = private(files["token"], brought)
            env = {**os.environ, "CROSSMEDIA_TLS_CA": str(files.authority.file), "CROSSMEDIA_TOKEN_FILE": str(own)}
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
    messages += [repr(read_tokens(private(files["good"], f"a read {token}\n")))]
    text = "\n".join(messages)
    secrets = [token, wrong, hashlib.sha256(token.encode()).hexdigest()]
    secrets += [line for line in files["server.key"].read_text().splitlines() if "-----" not in line]
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


def test_a_client_is_limited_and_another_is_not(start: Callable[..., DaemonProcess], files: Files) -> None:
    tokens = private(files["tokens"], f"busy read {'b' * 32}\nquiet read {'q' * 32}\n")
    daemon = start(f"--tokens={tokens}", "--max-ids-per-second=50")

    def security(letter: str) -> ClientSecurity:
        return ClientSecurity(token_file=str(private(files[letter], letter * 32)))

    ids = np.arange(90, dtype="<i8").tobytes()
    busy, quiet = (GrpcTransport(daemon.address, security(letter)) for letter in "bq")
    busy.get_vectors(pb.GetVectorsRequest(image_ids=ids), 5).result()
    with pytest.raises(Overloaded, match="busy has asked for more than 50 images a second") as caught:
        busy.get_vectors(pb.GetVectorsRequest(image_ids=ids[:8]), 5).result()
    assert 0.2 < caught.value.retry_after_s < 2
    assert quiet.get_vectors(pb.GetVectorsRequest(image_ids=ids[:80]), 5).result().values.shape == (10, 16)
    time.sleep(caught.value.retry_after_s + 0.1)
    busy.get_vectors(pb.GetVectorsRequest(image_ids=ids), 5).result()
    # ImageClient waits as it is told, and has what it asked for.
    started = time.monotonic()
    with ImageClient(daemon.address, timeout_s=20, security=security("b")) as client:
        assert client.get(list(range(30))).ok.all()
    assert time.monotonic() - started > 0.5
    assert "health" in run_command("imgserver", "health", f"--server={daemon.address}").stdout
    for transport in (busy, quiet):
        transport.close()


def test_without_tokens_a_host_is_a_client(start: Callable[..., DaemonProcess]) -> None:
    daemon = start("--max-ids-per-second=20")
    request = pb.GetVectorsRequest(image_ids=np.arange(40, dtype="<i8").tobytes())
    first, second = GrpcTransport(daemon.address), GrpcTransport(f"localhost:{daemon.address.rpartition(':')[2]}")
    first.get_vectors(request, 5).result()
    with pytest.raises(Overloaded, match=r"^127\.0\.0\.1 has asked"):  # another port of the same host
        second.get_vectors(request, 5).result()
    first.close()
    second.close()


def test_the_rate_holds_on_the_average(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("crossmedia.service.rates.time.monotonic", lambda: now[0])
    limit, taken = RateLimit(100), 0
    for _ in range(100_000):
        now[0] += 0.001
        with contextlib.suppress(Overloaded):
            limit.take("a", 7)
            taken += 7
    assert abs(taken - 100 * 100 - 100) <= 14  # the rate, and the second's worth that was there at first
    now[0] += 3600
    limit.take("a", 10**6)  # a call of any size goes through,
    with pytest.raises(Overloaded) as caught:
        limit.take("a", 1)  # and is paid for
    assert caught.value.retry_after_s == pytest.approx(9999.01)
    limit.take("b", 1)


@pytest.mark.parametrize(
    ("security", "host", "words"),
    [
        (ServerSecurity(), "127.0.0.1", []),
        (ServerSecurity(), "localhost", []),
        (ServerSecurity(), "::1", []),
        (ServerSecurity(), "0.0.0.0", ["without TLS: anybody", "without tokens: everybody"]),
        (ServerSecurity(), "", ["without TLS: anybody", "without tokens: everybody"]),
        (ServerSecurity(tokens=Path("t")), "10.0.0.1", ["take a token and use it"]),
        (ServerSecurity(Path("c"), Path("k")), "::", ["replace photos by others"]),
        (ServerSecurity(Path("c"), Path("k"), Path("a")), "0.0.0.0", []),
        (ServerSecurity(Path("c"), Path("k"), tokens=Path("t")), "photos.example", []),
    ],
)
def test_a_server_that_listens_wider_says_what_that_means(
    security: ServerSecurity, host: str, words: list[str]
) -> None:
    told = list(security.warnings(host))
    assert len(told) == len(words)
    assert all(word in line for word, line in zip(words, told, strict=True))


def test_commands_take_security_from_environment_and_file(
    start: Callable[..., DaemonProcess], files: Files, tmp_path: Path, photos: Path
) -> None:
    tokens = private(files["tokens"], f"all admin {'a' * 32}\n")
    daemon = start(*tls(files), f"--tokens={tokens}", "--host=0.0.0.0")
    settings = {
        "tls-ca": str(files.authority.file),
        "tls-name": "localhost",
        "token-file": str(private(files["token"], "a" * 32)),
    }
    file, photo = tmp_path / "c.toml", photos / "200.jpg"
    file.write_text("[client]\n" + "".join(f"{key} = {json.dumps(value)}\n" for key, value in settings.items()))
    variables = {f"CROSSMEDIA_{key.upper().replace('-', '_')}": value for key, value in settings.items()}
    assert set(variables) <= set(CLIENT.values())
    ways: list[tuple[list[str], dict[str, str]]] = [([], variables), ([f"--config={file}"], {})]
    for options, env in ways:
        for words in (
            ["info", "--json"],
            ["health"],
            ["search", "1", "--timeout-s=5"],
            ["add", str(photo), "--id=4711"],
        ):
            command = [sys.executable, "-m", "crossmedia.imgserver", *options, *words, f"--store={daemon.store}"]
            done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **env}, timeout=60)
            # The store has no index: that is what the server says to somebody whom it answers.
            assert done.returncode == (4 if words[0] == "search" else 0), done.stderr
    file.write_text("[client]\ntls-cart = 'x'\n")
    done = run_command("imgserver", f"--config={file}", "info", check=False)
    assert done.returncode == 2
    assert "'tls-cart' for the client; it takes strings for: tls-ca, tls-cert" in done.stderr
    assert load_config_file(str(file)) == {"client": {"tls-cart": "x"}}


def test_the_doctor_examines_a_server_behind_tls_and_tokens(
    start: Callable[..., DaemonProcess], files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokens = private(files["tokens"], f"all read {TOKENS['read']}")
    daemon = start(*tls(files), f"--tokens={tokens}", catalogue=None)
    command = ("imgserver", "doctor", f"--store={daemon.store}", f"--server={daemon.address}", "--json")

    def examined() -> dict[str, dict[str, str]]:
        checks: dict[str, dict[str, str]] = json.loads(run_command(*command, check=False).stdout)["checks"]
        return checks

    found = examined()
    assert found["health"]["level"] == found["served"]["level"] == "problem"
    assert "whether it takes TLS" in found["health"]["advice"]
    assert "whether it takes TLS" in found["served"]["found"]
    monkeypatch.setenv("CROSSMEDIA_TLS_CA", str(files.authority.file))
    found = examined()
    assert found["health"]["found"] == f"{daemon.address} is SERVING", "health is told without a token"
    assert "CROSSMEDIA_TOKEN_FILE" in found["served"]["found"]
    monkeypatch.setenv("CROSSMEDIA_TOKEN_FILE", str(private(files["token"], TOKENS["read"])))
    found = examined()
    assert [name for name, check in found.items() if check["level"] == "problem"] == []
    assert "100 images of efficientnet_lite0@" in found["served"]["found"]
    assert "as in the store" in found["served"]["found"]


def test_a_client_says_what_it_lacks(files: Files, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    cases: list[tuple[dict[str, str], str]] = [
        ({"tls_ca": "absent.pem"}, "The certificate absent.pem cannot be read"),
        ({"tls_cert": str(files["client.pem"])}, "CROSSMEDIA_TLS_CERT, CROSSMEDIA_TLS_KEY and CROSSMEDIA_TLS_CA"),
        ({"token_file": str(tmp_path / "absent")}, "The token .*absent cannot be read"),
        ({"token_file": str(private(tmp_path / "two", "a b"))}, "must hold one word"),
    ]
    for given_files, message in cases:
        with pytest.raises(BadInput, match=message):
            ImageClient("127.0.0.1:1", timeout_s=1, security=ClientSecurity(**given_files)).info()
    (tmp_path / "two").chmod(0o644)
    with pytest.raises(BadInput, match="can be read by others"):
        ClientSecurity(token_file=str(tmp_path / "two")).token()
    own = ClientSecurity(token_file=str(private(tmp_path / "own", "t" * 32)))
    for address, warned in (("127.0.0.1:1", 0), ("localhost:1,127.0.0.1:2", 0), ("192.0.2.1:1", 1)):
        caplog.clear()
        with caplog.at_level(logging.WARNING), pytest.raises(CrossMediaError):
            ImageClient(address, timeout_s=0.2, security=own).info()
        assert sum("without TLS" in record.message for record in caplog.records) == warned


def test_security_travels_to_other_processes_without_secrets(tmp_path: Path) -> None:
    own = private(tmp_path / "own", "t" * 32)
    packed = pickle.dumps(GrpcTransport("localhost:1", ClientSecurity(token_file=str(own))))
    assert b"tttt" not in packed
    assert pickle.loads(packed).__getstate__()["security"].token_file == str(own)


def test_files_that_are_being_written_are_not_taken_half(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    one = tmp_path / "one"
    one.write_text("1")
    during: list[Callable[[], object]] = []

    def load() -> str:
        text = one.read_text()
        if during:
            during.pop()()
        if not text:
            raise BadInput("it is empty")
        return text

    followed = Followed("one", [one], load)
    one.write_text("")
    during.append(lambda: one.write_text("22"))
    with caplog.at_level(logging.ERROR):
        assert followed.now() == "1"
        assert caplog.records == [], "what was read while it changed is neither taken nor complained of"
        assert followed.now() == "22"
        one.unlink()
        during.append(lambda: None)
        one.write_text("")
        assert [followed.now() for _ in range(3)] == ["22"] * 3
    assert len(caplog.records) == 1


def test_what_a_daemon_writes_of_itself_is_private(start: Callable[..., DaemonProcess]) -> None:
    daemon = start("--host=0.0.0.0")
    assert "Listening at 0.0.0.0 without TLS" in log_of(daemon)
    for name in ("daemon.json", "daemon.log", "daemon.lock"):
        assert stat.S_IMODE((daemon.store / name).stat().st_mode) == 0o600, name


# No name leads out of a catalogue.


@pytest.fixture
def outside(tmp_path: Path, photos: Path) -> Path:
    """A photo that nobody is to see."""
    (tmp_path / "private").mkdir()
    (tmp_path / "private" / "9.jpg").write_bytes((photos / "009.jpg").read_bytes())
    return tmp_path / "private" / "9.jpg"


def test_links_and_pipes_in_a_folder_lead_nowhere(
    tmp_path: Path, outside: Path, photos: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    (folder / "1.jpg").write_bytes((photos / "001.jpg").read_bytes())
    (folder / "2.jpg").symlink_to("1.jpg")
    (folder / "3.jpg").symlink_to(outside)
    (folder / "4.jpg").symlink_to("/etc/passwd")
    (folder / "deep").symlink_to(outside.parent)
    os.mkfifo(folder / "5.jpg")
    (folder / "6.jpg").symlink_to("/dev/zero")
    catalogue = open_catalogue(folder)
    assert catalogue.ids().tolist() == [1, 2, 5]
    assert catalogue.read(1, MOST) == catalogue.read(2, MOST) == (photos / "001.jpg").read_bytes()
    assert catalogue.read(5, MOST) is None, "a pipe is no photo, and nobody waits for it"
    (folder / "7.jpg").symlink_to(outside)  # came after the listing
    (folder / "1.jpg").unlink()
    (folder / "1.jpg").symlink_to(outside)  # put in the place of a photo
    for image_id in (1, 2, 3, 4, 6, 7, 9):
        assert catalogue.read(image_id, MOST) is None
    assert sum("--photo-root" in record.message for record in caplog.records) == 1
    allowed = open_catalogue(folder, photo_roots=[str(outside.parent)])
    assert allowed.read(3, MOST) == allowed.read(9, MOST) == outside.read_bytes()
    assert allowed.read(4, MOST) is None


def test_a_catalogue_that_is_a_link_is_its_owners_to_move(tmp_path: Path, photos: Path) -> None:
    for number, name in enumerate(("first", "second")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "1.jpg").write_bytes((photos / f"00{number}.jpg").read_bytes())
    current = tmp_path / "current"
    current.symlink_to("first")
    catalogue = open_catalogue(current)
    assert catalogue.read(1, MOST) == (photos / "000.jpg").read_bytes()
    current.unlink()
    current.symlink_to("second")
    assert catalogue.read(1, MOST) == (photos / "001.jpg").read_bytes()


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("{outside}", "leads to .* out of its own folder"),
        ("../private/9.jpg", "leads to .* out of its own folder"),
        ("sub/../../private/9.jpg", "leads to .* out of its own folder"),
        ("deep/../../9.jpg", "leads to .* out of its own folder"),
        ("/etc/passwd", "--photo-root /etc"),
        ("file://{outside}", "by a protocol that a manifest may not name"),
        ("local://{outside}", "by a protocol that a manifest may not name"),
        ("FILE://{outside}", "by a protocol that a manifest may not name"),
        ("simplecache::file://{outside}", "by a protocol that a manifest may not name"),
        ("zip://9.jpg::file://{outside}", "by a protocol that a manifest may not name"),
        ("s3://a/b.jpg\0", "holds a zero byte"),
        ("1.jpg\0.png", "holds a zero byte"),
    ],
)
def test_a_manifest_leads_nowhere_else(tmp_path: Path, outside: Path, uri: str, message: str) -> None:
    home = tmp_path / "photos"
    (home / "sub").mkdir(parents=True)
    (home / "deep").symlink_to(outside.parent / "none")
    uris = ["1.jpg", "sub/2.jpg", "https://photos.example/x.jpg", uri.format(outside=outside)]
    pq.write_table(pa.table({"image_id": range(4), "uri": uris}), home / "m.parquet")
    with pytest.raises(BadInput, match=message):
        open_catalogue(home / "m.parquet")


def test_a_manifest_inside_its_folder_is_read_whatever_its_spelling(tmp_path: Path, outside: Path) -> None:
    home = tmp_path / "photos"
    (home / "sub").mkdir(parents=True)
    (home / "1.jpg").write_bytes(b"one")
    (home / "link.jpg").symlink_to(outside)
    (home / "a.tar").write_bytes(b"0123456789")
    uris = ["1.jpg", "./sub/../1.jpg", str(home / "1.jpg"), "..1.jpg", "link.jpg", "a.tar"]
    columns = {"image_id": range(6), "uri": uris, "offset": [-1, -1, -1, -1, -1, 4]}
    pq.write_table(pa.table(columns), home / "m.parquet")
    catalogue = open_catalogue(home / "m.parquet")
    assert [catalogue.read(i, MOST) for i in range(6)] == [b"one", b"one", b"one", None, None, b"456789"]
    pq.write_table(pa.table(columns | {"offset": [-1, -1, -1, -1, -1, -7]}), home / "m.parquet")
    with pytest.raises(BadInput, match="offset -7"):
        open_catalogue(home / "m.parquet")


def test_a_manifest_behind_a_url_names_no_file_of_this_machine(outside: Path) -> None:
    import fsspec

    memory = fsspec.filesystem("memory")
    for uri in ("file://" + str(outside), "../private/9.jpg", str(outside)):
        with memory.open("/shop/m.parquet", "wb") as out:
            pq.write_table(pa.table({"image_id": [9], "uri": [uri]}), out)
        with pytest.raises(BadInput, match=r"may not name|leads out of the manifest's folder"):
            open_catalogue("memory://shop/m.parquet")


def test_tars_and_shards_that_are_links_out_are_not_read(tmp_path: Path, outside: Path) -> None:
    import tarfile

    home, rows = tmp_path / "photos", tmp_path / "private" / "rows.parquet"
    home.mkdir()
    pq.write_table(pa.table({"image_id": [1], "bytes": pa.array([b"x"], pa.binary())}), rows)
    with tarfile.open(tmp_path / "private" / "a.tar", "w") as tar:
        tar.add(outside, "../../../../outside/9.jpg")  # a member's name is its last part, and nothing is unpacked
    for name in ("a.tar", "rows.parquet"):
        (home / name).symlink_to(tmp_path / "private" / name)
    assert len(open_catalogue(home)) == 0
    assert open_catalogue(home, photo_roots=[str(tmp_path / "private")]).ids().tolist() == [1, 9]
    assert open_catalogue(home / "a.tar").read(9, MOST) == outside.read_bytes(), "the operator named this link"
    assert write_manifest(str(home / "a.tar"), home / "m.parquet", 5).images == 1


def test_photo_root_reaches_every_command(tmp_path: Path, photos: Path, graph_cache: Path) -> None:
    from crossmedia.imgserver.cli import imgserver

    takes = {
        name
        for name, command in imgserver.commands.items()
        if {"catalogue", "photo_roots"} <= {p.name for p in command.params if isinstance(p, click.Option)}
    }
    reads = {
        name
        for name, command in imgserver.commands.items()
        if "catalogue" in {p.name for p in command.params if isinstance(p, click.Option)}
    }
    assert takes == reads
    folder = tmp_path / "links"
    folder.mkdir()
    (folder / "200.jpg").symlink_to(photos / "200.jpg")
    daemon = DaemonProcess(copy_store(graph_cache, tmp_path / "store"), folder, f"--photo-root={photos}")
    try:
        with ImageClient(daemon.address) as client:
            assert client.get([200]).ok.all()
    finally:
        daemon.stop()


# Nothing that is read can run code.

CALLS = (
    "eval",
    "exec",
    "compile",
    "os.system",
    "os.popen",
    "torch.hub.load",
    "torch.export.load",
    "yaml.load",
    "yaml.unsafe_load",
)
# torch.distributed sends objects by pickle.
CALLS_OF_ANYTHING = ("read_pickle", "extractall", "gather_object", "broadcast_object_list", "scatter_object_list")
LOADERS = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}


def unsafe(tree: ast.AST) -> Iterator[str]:
    """Calls and imports that could run what a file or a peer holds."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in LOADERS:
            yield f"{node.lineno}: from {node.module}"
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) in LOADERS and node.attr != "UnpicklingError":
            yield f"{node.lineno}: {ast.unparse(node)}"
        if not isinstance(node, ast.Call):
            continue
        name = ast.unparse(node.func)
        words = {word.arg: ast.unparse(word.value) for word in node.keywords}
        if name in CALLS or name.endswith(CALLS_OF_ANYTHING):
            yield f"{node.lineno}: {name}"
        if name == "torch.load" and words.get("weights_only") != "True":
            yield f"{node.lineno}: {name} without weights_only=True"
        if words.get("allow_pickle", "False") != "False" or words.get("shell", "False") != "False":
            yield f"{node.lineno}: {name} with {words}"


@pytest.mark.parametrize("package", ["imgserver", "features", "trainer"])
def test_no_code_is_loaded_from_data(package: str) -> None:
    found = [
        f"{file.relative_to(ROOT)}:{what}"
        for file in sorted((ROOT / package).rglob("*.py"))
        for what in unsafe(ast.parse(file.read_text()))
    ]
    assert found == []


@pytest.mark.parametrize(
    "code",
    [
        "from pickle import loads",
        "import pickle\npickle.loads(x)",
        "torch.load(f)",
        "torch.load(f, weights_only=False)",
        "np.load(f, allow_pickle=True)",
        "yaml.load(f)",
        "eval(x)",
        "subprocess.run(x, shell=True)",
        "tar.extractall(p)",
        "dist.all_gather_object(a, b)",
    ],
)
def test_the_search_for_such_code_finds_it(code: str) -> None:
    assert list(unsafe(ast.parse(code)))


def test_the_secured_deployments_give_options_and_variables_that_there_are() -> None:
    import yaml

    from crossmedia.imgserver.cli import imgserver

    deploy = ROOT / "deploy"
    options = {option for parameter in imgserver.commands["serve"].params for option in parameter.opts}
    plain, secured = (yaml.safe_load((deploy / name).read_text()) for name in ("compose.yaml", "compose.secure.yaml"))
    command = secured["services"]["imgserver"]["command"]
    assert command[: len(plain["services"]["imgserver"]["command"])] == plain["services"]["imgserver"]["command"]
    overlay = yaml.safe_load((deploy / "kubernetes-secure/kustomization.yaml").read_text())
    patches = yaml.safe_load(overlay["patches"][0]["patch"])
    arguments = [patch["value"] for patch in patches if patch["path"].endswith("/args/-")]
    assert {"--tls-cert", "--tls-key", "--tokens"} <= {word.partition("=")[0] for word in arguments} <= options
    assert {word.partition("=")[0] for word in command[2:]} <= options
    (env,) = [patch["value"] for patch in patches if patch["path"].endswith("/env")]
    variables = {entry["name"] for entry in env}
    for service in secured["services"].values():
        variables |= set(service["environment"])
    assert variables <= set(CLIENT.values())
    modes = [patch["value"]["secret"]["defaultMode"] for patch in patches if patch["path"].endswith("/volumes/-")]
    assert modes == [0o400, 0o400]


def test_kustomize_reads_the_secured_servers() -> None:
    import yaml

    if shutil.which("kubectl") is None:
        pytest.skip("kubectl is not installed")
    folder = ROOT / "deploy/kubernetes-secure"
    done = subprocess.run(["kubectl", "kustomize", folder], capture_output=True, text=True, check=True)
    things = {thing["kind"]: thing for thing in yaml.safe_load_all(done.stdout)}
    (container,) = things["StatefulSet"]["spec"]["template"]["spec"]["containers"]
    assert "--tokens=/tokens/tokens" in container["args"]
    assert "grpc" not in container["readinessProbe"]


def test_the_documents_three_commands_make_a_server_that_answers(
    start: Callable[..., DaemonProcess], tmp_path: Path
) -> None:
    """What SECURITY.md tells to type, but the address to listen at and the store."""
    commands = re.findall(r"^    (.+)$", (ROOT / "SECURITY.md").read_text(), re.MULTILINE)
    home = tmp_path / "home"
    home.mkdir()
    for command in commands[:2]:
        subprocess.run(["bash", "-c", command], cwd=home, check=True, capture_output=True)
    options = re.findall(r"(--(?:tls-cert|tls-key|tokens)) (\S+)", commands[2])
    assert len(options) == 3
    daemon = start(*(f"{option}={home / name}" for option, name in options))
    settings = dict(re.findall(r"(CROSSMEDIA_\w+)=(\S+)", commands[3]))
    env = {**os.environ, **{variable: str(home / name) for variable, name in settings.items()}}
    command = [sys.executable, "-m", "crossmedia.imgserver", "info", f"--server={daemon.address}", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, env=env)
    assert json.loads(done.stdout)["images_stored"] == 100, done.stderr


def test_the_document_names_every_setting() -> None:
    text = (ROOT / "SECURITY.md").read_text()
    for variable in CLIENT.values():
        assert variable in text
    for method, scope in SCOPE_OF.items():
        assert re.search(rf"\| `{scope}` \|[^\n]*`{method}`", text), f"{method} is not in the table of scopes"
