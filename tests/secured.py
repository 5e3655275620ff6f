"""Servers with certificates and tokens: what an operator makes, and daemons that are started with it."""

from __future__ import annotations

import datetime
import hashlib
import ipaddress
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from conftest import DaemonProcess, copy_store
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from crossmedia.imgserver.client import ClientSecurity
from crossmedia.service.tokens import SCOPES

TOKENS = {scope: hashlib.sha256(scope.encode()).hexdigest() for scope in SCOPES}


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
class Credentials:
    """What an operator makes: authorities, a certificate of the server and one of a client."""

    folder: Path
    authority: Authority
    other: Authority

    def __getitem__(self, name: str) -> Path:
        return self.folder / name

    def client(self, **more: str) -> ClientSecurity:
        return ClientSecurity(tls_ca=str(self.authority.file), **more)


@pytest.fixture
def credentials(tmp_path: Path) -> Credentials:
    folder = tmp_path / "secrets"
    folder.mkdir()
    made = Credentials(folder, Authority("own", folder), Authority("other", folder))
    made.authority.issue(made["server.pem"], made["server.key"], "localhost", "127.0.0.1")
    made.authority.issue(made["client.pem"], made["client.key"], "trainer")
    made.other.issue(made["stranger.pem"], made["stranger.key"], "stranger")
    return made


def private(path: Path, text: str) -> Path:
    path.touch(0o600)
    path.write_text(text)
    return path


def tls(credentials: Credentials) -> list[str]:
    return [f"--tls-cert={credentials['server.pem']}", f"--tls-key={credentials['server.key']}"]


@pytest.fixture
def start_daemon(graph_cache: Path, tmp_path: Path, photos: Path) -> Iterator[Callable[..., DaemonProcess]]:
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
