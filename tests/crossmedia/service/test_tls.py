"""Certificates of a daemon: who may listen to it, and who may call it."""

from __future__ import annotations

import stat
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import DaemonProcess, run_command
from cryptography.hazmat.primitives import serialization
from secured import TOKENS, Credentials, certificate_of, log_of, private, tls

from crossmedia.errors import (
    BadInput,
    ServerUnavailable,
)
from crossmedia.imgserver.client import ClientSecurity, HeadServers, ImageClient
from crossmedia.service.metrics import Metrics
from crossmedia.service.security import ServerSecurity


def test_tls(start_daemon: Callable[..., DaemonProcess], credentials: Credentials) -> None:
    daemon = start_daemon(*tls(credentials))
    with ImageClient(daemon.address, security=credentials.client()) as client:
        assert client.get([1, 2]).ok.all()
        (thumbnail,) = client.thumbnails([1])
        assert thumbnail
    port = daemon.address.rpartition(":")[2]
    copies = f"127.0.0.1:{port},localhost:{port}"
    for address in (f"localhost:{port}", copies, f"dns:///localhost:{port}", f"ipv4:127.0.0.1:{port}"):
        with ImageClient(address, timeout_s=20, security=credentials.client()) as client:
            assert client.get([3]).ok.all(), address
    wrong = (
        ClientSecurity(),
        ClientSecurity(tls_ca=str(credentials.other.file)),
        credentials.client(tls_name="photos.example"),
    )
    for security in wrong:
        with pytest.raises(ServerUnavailable, match="whether it takes TLS"):
            ImageClient(daemon.address, timeout_s=1, security=security).get([1])
    with HeadServers([daemon.address], "run", 10, credentials.client()) as servers:
        assert servers.backbone().startswith("efficientnet_lite0@")


def test_a_client_with_tls_does_not_fall_back_to_a_server_without(
    daemon: DaemonProcess, credentials: Credentials
) -> None:
    with pytest.raises(ServerUnavailable):
        ImageClient(daemon.address, timeout_s=1, security=credentials.client()).info()


def test_mutual_tls(start_daemon: Callable[..., DaemonProcess], credentials: Credentials) -> None:
    daemon = start_daemon(*tls(credentials), f"--tls-client-ca={credentials.authority.file}")

    def pair(name: str) -> ClientSecurity:
        return credentials.client(tls_cert=str(credentials[f"{name}.pem"]), tls_key=str(credentials[f"{name}.key"]))

    with ImageClient(daemon.address, security=pair("client")) as client:
        assert client.get([1]).ok.all()
    for security in (credentials.client(), pair("stranger")):
        with pytest.raises(ServerUnavailable):
            ImageClient(daemon.address, timeout_s=1, security=security).info()


def test_a_renewed_certificate_is_taken_and_a_broken_one_is_not(
    start_daemon: Callable[..., DaemonProcess], credentials: Credentials
) -> None:
    daemon = start_daemon(*tls(credentials))
    with ImageClient(daemon.address, security=credentials.client()) as first:
        assert first.get([1]).ok.all()
        shown = certificate_of(daemon.address)
        credentials.authority.issue(credentials["server.pem"], credentials["server.key"], "localhost", "127.0.0.1")
        renewed = certificate_of(daemon.address)
        assert renewed != shown
        assert first.get([1]).ok.all(), "a connection goes on"
        # A certificate with the key of another one: a renewal that went wrong half-way.
        good = credentials["server.pem"].read_bytes()
        credentials["server.pem"].write_bytes(credentials["client.pem"].read_bytes())
        for _ in range(3):
            assert certificate_of(daemon.address) == renewed
        assert log_of(daemon).count("the change is not taken") == 1
        credentials["server.pem"].unlink()
        assert certificate_of(daemon.address) == renewed
        credentials["server.pem"].write_bytes(good)
        with ImageClient(daemon.address, security=credentials.client()) as second:
            assert second.get([1]).ok.all()
    # Another authority altogether: who trusts the first one is not answered any more, on a new connection.
    credentials.other.issue(credentials["server.pem"], credentials["server.key"], "localhost", "127.0.0.1")
    with ImageClient(daemon.address, security=ClientSecurity(tls_ca=str(credentials.other.file))) as third:
        assert third.get([1]).ok.all()
    with pytest.raises(ServerUnavailable):
        ImageClient(daemon.address, timeout_s=1, security=credentials.client()).info()


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
def test_a_server_does_not_start_half_secured(
    credentials: Credentials, given_files: dict[str, str], message: str
) -> None:
    private(credentials["open.key"], credentials["server.key"].read_text()).chmod(0o640)
    key = serialization.load_pem_private_key(credentials["server.key"].read_bytes(), None)
    locked = serialization.BestAvailableEncryption(b"secret")
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, locked)
    private(credentials["locked.key"], pem.decode())
    private(credentials["open.tokens"], f"reader read {TOKENS['read']}\n").chmod(0o644)
    private(credentials["empty.tokens"], "# nobody yet\n\n")
    private(credentials["empty"], "")
    security = ServerSecurity(**{name: credentials[file] for name, file in given_files.items()})  # type: ignore[arg-type]
    with pytest.raises(BadInput, match=message) as caught:
        security.credentials(), security.interceptors({}, Metrics().rpc_duration)
    assert TOKENS["read"] not in str(caught.value)


def test_a_command_that_is_half_secured_says_so(credentials: Credentials, store: Path) -> None:
    given_files = [f"--tls-cert={credentials['client.pem']}", f"--tls-key={credentials['server.key']}"]
    done = run_command("imgserver", "serve", f"--store={store}", "--port=0", *given_files, check=False)
    assert done.returncode == 2
    assert "must be PEM files, of one pair" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (store / "daemon.json").exists()


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
    told = list(security.warnings(host, "replace photos by others"))
    assert len(told) == len(words)
    assert all(word in line for word, line in zip(words, told, strict=True))


def test_what_a_daemon_writes_of_itself_is_private(start_daemon: Callable[..., DaemonProcess]) -> None:
    daemon = start_daemon("--host=0.0.0.0")
    assert "Listening at 0.0.0.0 without TLS" in log_of(daemon)
    assert "can read the vectors and the thumbnails, and replace photos or texts by others" in log_of(daemon)
    for name in ("daemon.json", "daemon.log", "daemon.lock"):
        assert stat.S_IMODE((daemon.store / name).stat().st_mode) == 0o600, name
