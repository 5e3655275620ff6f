"""Load the server's certificate: check it before use, and load a renewed one for the next connection."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Any

import grpc

from crossmedia.errors import BadInput
from crossmedia.secret_files import Followed, read_private


def server_credentials(cert: Path, key: Path, client_ca: Path | None) -> grpc.ServerCredentials:
    """Credentials that follow their files.

    A connection keeps the certificate that it began with; the server closes connections after two minutes anyway.

    Args:
        cert: PEM, the server's certificate and those between it and its authority.
        key: PEM, its private key, without a password.
        client_ca: PEM, authorities of the callers' certificates; None: callers need none.

    Raises:
        BadInput: a file cannot be read, the key can be read by others, or the two do not belong together.
    """
    paths = [cert, key, *([client_ca] if client_ca else [])]
    followed = Followed(f"the certificate {cert}", paths, lambda: _load(cert, key, client_ca))
    used = followed.now()

    def renewed() -> Any:  # the stubs know nothing of None
        nonlocal used
        now = followed.now()
        if now is used:
            return None  # gRPC goes on with what it has
        used = now
        return now

    return grpc.dynamic_ssl_server_credentials(used, renewed, require_client_authentication=client_ca is not None)


def _load(cert: Path, key: Path, client_ca: Path | None) -> grpc.ServerCertificateConfiguration:
    """The files' content, after OpenSSL has tried them: gRPC would accept unusable files and then fail every call."""
    secret, context = read_private(key, "private key"), _context(cert, key, client_ca)
    del context  # it was made to be sure that it can be
    trusted = client_ca.read_bytes() if client_ca else None
    return grpc.ssl_server_certificate_configuration([(secret, cert.read_bytes())], trusted)


def http_context(cert: Path, key: Path, client_ca: Path | None) -> Followed[ssl.SSLContext]:
    """The same for a server of HTTP, which takes a context for each connection.

    Raises:
        BadInput: as ``server_credentials``.
    """

    def load() -> ssl.SSLContext:
        read_private(key, "private key")
        return _context(cert, key, client_ca)

    paths = [cert, key, *([client_ca] if client_ca else [])]
    return Followed(f"the certificate {cert}", paths, load, look_every_s=1.0)


def _context(cert: Path, key: Path, client_ca: Path | None) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    # Without an answer to give, OpenSSL would ask for a password on the terminal.
    try:
        cert.read_bytes()
        trusted = client_ca.read_bytes() if client_ca else None
        context.load_cert_chain(cert, key, password=lambda: b"")
    except OSError as error:  # also of OpenSSL
        raise BadInput(
            f"The certificate {cert} and the key {key} cannot be used: {error}. Both must be PEM files, of one pair, "
            f"and the key must have no password."
        ) from error
    if trusted is not None:
        try:
            context.load_verify_locations(cadata=trusted.decode("ascii"))
        except (OSError, ValueError) as error:  # ValueError: empty, or not in ASCII
            raise BadInput(f"The authorities {client_ca} cannot be used: {error}. It must be a PEM file.") from error
        context.verify_mode = ssl.CERT_REQUIRED
    return context
