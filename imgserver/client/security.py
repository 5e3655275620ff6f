"""What a client shows of itself and whom it believes: TLS, its certificate, its token.

Every command and every ``ImageClient`` takes it from the environment, or from the table ``[client]`` of the
configuration file, so that no command needs options for it::

    CROSSMEDIA_TLS_CA      tls-ca      PEM file of authorities that the server's certificate is checked by: turns TLS on
    CROSSMEDIA_TLS_CERT    tls-cert    PEM file of the client's certificate, for a server that asks for one
    CROSSMEDIA_TLS_KEY     tls-key     PEM file of its key, readable by its owner alone
    CROSSMEDIA_TLS_NAME    tls-name    name in the server's certificate, where it is not the address's host
    CROSSMEDIA_TOKEN_FILE  token-file  file of the token, readable by its owner alone
"""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import grpc

from crossmedia.environment import CLIENT
from crossmedia.errors import BadInput
from crossmedia.imgserver.client.addresses import channel_target, hosts_of, stays_here
from crossmedia.secret_files import Followed, read_private

log = logging.getLogger(__name__)

Metadata = tuple[tuple[str, str], ...]
LOOK_EVERY_S = 1.0


@dataclass(frozen=True)
class ClientSecurity:
    """Files and a name; nothing secret is held here, so it may be printed and sent to other processes.

    Attributes:
        tls_ca: PEM file of authorities; None: no TLS. ``/etc/ssl/certs/ca-certificates.crt`` has the public ones.
        tls_cert: PEM file of the client's certificate.
        tls_key: PEM file of its key.
        tls_name: name in the server's certificate; None: the host of the address, of several the first.
        token_file: file of the token; a token put in its place is sent within a second.

    Example:
        >>> from crossmedia import ImageClient
        >>> from crossmedia.imgserver.client import ClientSecurity
        >>> security = ClientSecurity(tls_ca="/etc/ssl/certs/ca-certificates.crt", token_file="token")
        >>> client = ImageClient("images.example.com:443", security=security)  # the files are read by the first call
    """

    tls_ca: str | None = None
    tls_cert: str | None = None
    tls_key: str | None = None
    tls_name: str | None = None
    token_file: str | None = None

    @classmethod
    def from_environment(cls) -> ClientSecurity:
        """What ``CROSSMEDIA_TLS_CA`` and the others say."""
        return cls(**{name: os.environ.get(variable) or None for name, variable in CLIENT.items()})

    def credentials(self) -> grpc.ChannelCredentials | None:
        """Of a channel; None: no TLS.

        Raises:
            BadInput: a file cannot be read, a key can be read by others, or one of the pair is missing.
        """
        if bool(self.tls_cert) != bool(self.tls_key) or (self.tls_cert and not self.tls_ca):
            raise BadInput(
                "A client's certificate takes CROSSMEDIA_TLS_CERT, CROSSMEDIA_TLS_KEY and CROSSMEDIA_TLS_CA together."
            )
        if not self.tls_ca:
            return None
        key = read_private(Path(self.tls_key), "private key") if self.tls_key else None
        chain = _read(self.tls_cert) if self.tls_cert else None
        return grpc.ssl_channel_credentials(_read(self.tls_ca), key, chain)

    def token(self) -> Followed[Metadata] | None:
        """What goes with every call; None: no token.

        Raises:
            BadInput: the file cannot be read, can be read by others, or holds no single word.
        """
        if not self.token_file:
            return None
        path = Path(self.token_file)
        return Followed(f"the token {path}", [path], lambda: _authorization(path), LOOK_EVERY_S)


def open_channel(address: str, security: ClientSecurity, options: Sequence[tuple[str, str | int]] = ()) -> grpc.Channel:
    """A channel to a server, or to copies of one.

    Args:
        address: as ``channel_target`` takes it.
        security: TLS or none.
        options: of the channel.

    Raises:
        BadInput: a file of ``security`` cannot be used, or the address is wrong.
        ServerUnavailable: a host of a list has no address (now).
    """
    target, more = channel_target(address)
    credentials = security.credentials()
    if credentials is None:
        if security.token_file and not stays_here(address):
            log.warning(
                "The token goes to %s without TLS: whoever is on the way can take it and use it. "
                "Set CROSSMEDIA_TLS_CA, or leave the network to those who may.",
                address,
            )
        return grpc.insecure_channel(target, options=[*options, *more])
    name = security.tls_name or _first_host(address)
    if name:
        more = [*more, ("grpc.ssl_target_name_override", name)]
    return grpc.secure_channel(target, credentials, options=[*options, *more])


def _first_host(address: str) -> str | None:
    """Of a list; gRPC knows the host of a single address by itself."""
    if "," not in address:
        return None
    return next(iter(hosts_of(address)), None)


def _authorization(path: Path) -> Metadata:
    words = read_private(path, "token").decode(errors="replace").split()
    if len(words) != 1 or not words[0].isascii():
        raise BadInput(f"The token file {path} must hold one word of ASCII, the token; it holds {len(words)} words.")
    return (("authorization", f"Bearer {words[0]}"),)


def _read(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise BadInput(f"The certificate {path} cannot be read: {error.strerror}.") from error
