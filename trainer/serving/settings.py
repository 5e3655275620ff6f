"""How the scoring server is started: every setting with its default, of which its options are made."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import click

from crossmedia.hosts import listening_at
from crossmedia.logs import LogFormat
from crossmedia.options import Matching
from crossmedia.service.running import Program
from crossmedia.words import SIZE

SCORING_SERVER = Program("scoring server", "trainer", "folder")

_File = Annotated[Path | None, click.Path(dir_okay=False, path_type=Path)]
_Port = click.IntRange(0, 65535)


@dataclass(frozen=True)
class ServingConfig:
    """How models are served by a daemon.

    Attributes:
        server: address of the image server, for models with one space of vectors; a model without images asks nobody.
        vectors: where the vectors of a space are, such as photo=host:7070, for models that have several spaces; may be
            given for each.
        items: Parquet file of items, so that requests may name items by item_id alone: an item table of samples, or raw
            values in columns named as in the samples. It is read again when it changes. When it is not given: the table
            that the export carries, or that of the run's samples.
        manifest: manifest of 'imgserver manifest', where requests give images by name.
        folder: folder in which this server keeps its address and its log.
        host: address to listen at; the default is reached from this machine only.
        port: port of gRPC; 0 takes a free one.
        rest_port: answer the REST form of the protocol over HTTP at this port; 0 takes a free one. Off by default.
        metrics_port: serve metrics for Prometheus over HTTP at this port, path /metrics; 0 takes a free one. Off by
            default.
        trust_native: digests (sha256), separated by commas, of models that may hold native code, see 'trainer export
            --format aoti': it runs with all rights of this server. Other such files are refused.
        threads: requests that are computed at once; 0 takes as many as there are cores.
        max_candidates: most candidates of a request.
        max_pending: most candidates that may wait or be computed at once. More is refused with a retry hint, so that
            calls fail fast instead of waiting without end.
        max_wait_s: seconds that a request may be expected to wait for its turn, by what such requests took lately. One
            that would wait longer, or come after its own deadline, is refused at once with a retry hint.
        vectors_timeout_s: seconds that the vectors of a request may take. Then it is scored with those of the cache,
            and without the others; each candidate's status says so.
        cache: memory for vectors that servers sent, such as 512MB, of each space of a model, so that they are not
            fetched again, and are there while the server is gone; 0 keeps none.
        tls_cert: PEM file of the server's certificate: callers are answered by TLS alone. A renewed file is taken
            without a restart, here and in the two options below.
        tls_key: PEM file of its key, readable by its owner alone.
        tls_client_ca: PEM file of authorities: callers need a certificate of one of them.
        tokens: file of lines 'name scope token', readable by its owner alone; scopes are read, write and admin. Calls
            without one of these tokens are refused. A changed file is taken without a restart.
        log_format: how log lines look on standard error: text, or one JSON object a line with time, level, logger,
            message and the id of the request.
        otel: send a span of every call to OpenTelemetry, where the OTEL_* variables say; the extra otel is needed. When
            OTEL_EXPORTER_OTLP_ENDPOINT or OTEL_TRACES_EXPORTER is set and the extra is there, this is on by itself.
    """

    server: str = "localhost:7070"
    vectors: dict[str, str] = field(default_factory=dict)
    items: _File = None
    manifest: _File = None
    folder: Annotated[Path, click.Path(file_okay=False, path_type=Path)] = Path("serving")
    host: str = "127.0.0.1"
    port: Annotated[int, _Port] = 8081
    rest_port: Annotated[int | None, _Port] = None
    metrics_port: Annotated[int | None, _Port] = None
    trust_native: tuple[str, ...] = ()
    threads: Annotated[int, click.IntRange(0, 1024)] = 0
    max_candidates: Annotated[int, click.IntRange(1, 1_000_000)] = 10_000
    max_pending: Annotated[int, click.IntRange(min=1)] = 20_000
    max_wait_s: Annotated[float, click.FloatRange(min=0)] = 1.0
    vectors_timeout_s: Annotated[float, click.FloatRange(min=0, min_open=True)] = 0.5
    cache: Annotated[str, Matching(SIZE, "size", "a size such as 512MB or 2GiB")] = "256MB"
    tls_cert: _File = None
    tls_key: _File = None
    tls_client_ca: _File = None
    tokens: _File = None
    log_format: LogFormat = "text"
    otel: bool = False

    @property
    def address(self) -> str:
        """``host:port`` or ``[IPv6]:port`` of gRPC.

        Raises:
            BadInput: the host is none.
        """
        return listening_at(self.host, self.port)
