"""Decide who may call what, how often, over what connection; it stands before the service, unless it is off."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import grpc
from prometheus_client import Histogram

from crossmedia.errors import BadInput, CrossMediaError, PermissionDenied, Unauthenticated
from crossmedia.hosts import is_loopback
from crossmedia.secret_files import Followed
from crossmedia.service.callers import caller_name
from crossmedia.service.failures import end_call
from crossmedia.service.rates import RateLimit
from crossmedia.service.tls import http_context, server_credentials
from crossmedia.service.tokens import Tokens, followed_tokens

_OPEN = "/grpc.health.v1.Health/"  # a probe has no token
_REFLECTION = "/grpc.reflection."


@dataclass(frozen=True)
class ServerSecurity:
    """How a server is protected; nothing is on by default.

    Attributes:
        tls_cert: PEM file of the certificate.
        tls_key: PEM file of its private key.
        tls_client_ca: PEM file of authorities; callers then need a certificate of one of them.
        tokens: file of tokens and their scopes.
        max_ids_per_second: most ids that one client may ask for.
    """

    tls_cert: Path | None = None
    tls_key: Path | None = None
    tls_client_ca: Path | None = None
    tokens: Path | None = None
    max_ids_per_second: int | None = None

    def credentials(self) -> grpc.ServerCredentials | None:
        """Credentials of the port; None without TLS.

        Raises:
            BadInput: one file without the other, or they cannot be used.
        """
        if self.tls_cert is None or self.tls_key is None:
            if self.tls_cert or self.tls_key or self.tls_client_ca:
                raise BadInput("TLS takes both a certificate and its key: give --tls-cert and --tls-key.")
            return None
        return server_credentials(self.tls_cert, self.tls_key, self.tls_client_ca)

    def interceptors(self, scopes: Mapping[str, str], durations: Histogram) -> list[grpc.ServerInterceptor]:
        """What calls pass through; nothing when there are no tokens.

        Args:
            scopes: ``/package.Service/Method`` -> the scope that a call of it needs.
            durations: refused calls are counted here too.

        Raises:
            BadInput: the file of tokens cannot be used.
        """
        return [Guard(followed_tokens(self.tokens), scopes, durations)] if self.tokens else []

    def http_context(self) -> Followed[ssl.SSLContext] | None:
        """TLS of a port of HTTP; None without it.

        Raises:
            BadInput: as ``credentials``.
        """
        _ = self.credentials()  # refuses one file without the other
        if self.tls_cert is None or self.tls_key is None:
            return None
        return http_context(self.tls_cert, self.tls_key, self.tls_client_ca)

    def http_tokens(self) -> Followed[Tokens] | None:
        """The tokens that callers by HTTP need; None: they need none.

        Raises:
            BadInput: the file of tokens cannot be used.
        """
        return followed_tokens(self.tokens) if self.tokens else None

    def rate_limit(self) -> RateLimit | None:
        """The rate limit of each client, if there is one."""
        return RateLimit(self.max_ids_per_second) if self.max_ids_per_second else None

    def warnings(self, host: str, callers_can: str) -> Iterator[str]:
        """In plain words, what everybody on the network can do to a server that listens at ``host``.

        Args:
            host: where it listens.
            callers_can: what its calls are for, such as ``read the scores``.
        """
        if is_loopback(host):
            return
        if self.tls_cert is None:
            yield (
                f"Listening at {host} without TLS: anybody between this server and a caller can read what is "
                f"sent{', take a token and use it' if self.tokens else ''}. Give --tls-cert and --tls-key, or keep "
                f"others out of the network."
            )
        if self.tokens is None and self.tls_client_ca is None:
            yield (
                f"Listening at {host} without tokens: everybody who reaches this address can {callers_can}. Give "
                f"--tokens, or --tls-client-ca."
            )


OPEN = ServerSecurity()


class Guard(grpc.ServerInterceptor):
    """Refuses calls with a wrong token before their messages are read, and names the caller if the token is right.

    Args:
        tokens: who may call what.
        scopes: ``/package.Service/Method`` -> the scope that a call of it needs.
        durations: refused calls are counted here too.
    """

    def __init__(self, tokens: Followed[Tokens], scopes: Mapping[str, str], durations: Histogram):
        self._tokens, self._scopes, self._durations = tokens, scopes, durations

    def intercept_service(self, continuation: Callable[[Any], Any], handler_call_details: Any) -> Any:
        """The handler of a call, or one that refuses it."""
        method: str = handler_call_details.method
        if not method.startswith(_OPEN):
            try:
                name = self._tokens.now().caller(
                    handler_call_details.invocation_metadata, scope_of(method, self._scopes)
                )
            except (Unauthenticated, PermissionDenied) as error:
                return self._refuse(method, error)
            caller_name.set(name)  # the context is the call's own
        return continuation(handler_call_details)

    def _refuse(self, method: str, error: CrossMediaError) -> Any:
        # As a handler of streams it is run at once: one of single messages would wait for a body of up to 64 MiB.
        return grpc.stream_stream_rpc_method_handler(lambda _, context: self._end(method, context, error))

    def _end(self, method: str, context: Any, error: CrossMediaError) -> NoReturn:
        if method in self._scopes:  # a caller's own words must not become labels
            self._durations.labels(method.rpartition("/")[2], error.grpc_code.name).observe(0.0)
        end_call(context, error)


def scope_of(method: str, scopes: Mapping[str, str]) -> str:
    """The scope that a call of ``/package.Service/Method`` needs: the highest one for what is not known."""
    return "read" if method.startswith(_REFLECTION) else scopes.get(method, "admin")
