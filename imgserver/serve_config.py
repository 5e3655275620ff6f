"""How the daemon is started: every setting with its default, of which the options of ``imgserver serve`` are made."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import click

from crossmedia.errors import BadInput, NoStore
from crossmedia.hosts import listening_at
from crossmedia.imgserver.places import holds_store, is_url, own_folder
from crossmedia.imgserver.shards import Ownership, ownership_of
from crossmedia.logs import LogFormat
from crossmedia.options import Several, Text

_File = Annotated[Path | None, click.Path(dir_okay=False, path_type=Path)]
_Port = click.IntRange(0, 65535)


@dataclass(frozen=True)
class ServeConfig:
    """How a store is served by a daemon.

    Attributes:
        store: folder of the store, or redis://host:port,host:port for vectors that copies of a server share.
        catalogue: where photos are, to compute vectors that are not stored; without it such ids are reported as
            NOT_FOUND.
        texts: in the place of photos: a Parquet or CSV file (.csv, .csv.gz) of texts, or its URL, for a store that was
            filled from texts.
        text: the column of ``texts`` that is embedded.
        key: the column of ``texts`` that names the items: ids, or keys of a manifest.
        folder: with a store behind redis://: where this server keeps its address, its log and the converted backbone; a
            second server on the machine needs one of its own. A folder of your cache (~/.cache/crossmedia) when not
            given.
        host: address to listen at; the default is reached from this machine only.
        port: port to listen at; 0 takes a free one.
        max_pending_ids: most images that may wait for the CNN at once. More is refused with a retry hint, so that calls
            fail fast instead of waiting without end.
        negative_ttl_s: seconds that a missing or broken photo is remembered as such before it is looked at again.
        metrics_port: serve metrics for Prometheus over HTTP at this port, path /metrics; 0 takes a free one. Off by
            default.
        tls_cert: PEM file of the server's certificate: callers are answered by TLS alone. A renewed file is taken
            without a restart, here and in the two options below.
        tls_key: PEM file of its key, readable by its owner alone.
        tls_client_ca: PEM file of authorities: callers need a certificate of one of them.
        tokens: file of lines 'name scope token', readable by its owner alone; scopes are read, write and admin. Calls
            without one of these tokens are refused. A changed file is taken without a restart.
        max_ids_per_second: most images that one client may ask for in a second, by its token's name, else by its host;
            no limit when it is not given.
        log_format: how log lines look on standard error: text, or one JSON object a line with time, level, logger,
            message and the id of the request.
        otel: send a span of every call to OpenTelemetry, where the OTEL_* variables say; the extra otel is needed. When
            OTEL_EXPORTER_OTLP_ENDPOINT or OTEL_TRACES_EXPORTER is set and the extra is there, this is on by itself.
        servers: the servers that share the images out among them, in any order, under the addresses that clients are
            given: each owns the virtual shards for which its hash is highest. Without it one server has all images.
        me: which of ``servers`` this one is, as it stands in that list.
        threads: threads of the CNN on a CPU; 0 takes all cores.
        decode_threads: photos that are decoded at once; 0 takes as many as there are cores, and two more.
        batch_size: images that go through the CNN at a time; 0 takes 32 on a CPU, 256 on a GPU.
        compile: on a GPU, let torch.compile fuse what the CNN does: a minute before the first photo, faster then.
        devices: cpu, or GPUs separated by commas, such as cuda:0,cuda:1, each with the CNN on it and one queue for all;
            the first GPU when it is not given and there is one, else the CPU. Texts go through the first one.
        read_timeout_s: seconds for one read of a photo behind a URL; it is tried three times, then the photo is
            rejected.
        max_image_mb: largest photo in MiB; a larger one is rejected as TOO_LARGE.
        photo_roots: folders of this machine that links and manifests may lead to, beside the catalogue's own.
    """

    store: Annotated[str, Text("folder|url")] = "store"
    catalogue: Annotated[str | None, Text("path|url")] = None
    texts: Annotated[str | None, Text("path|url")] = None
    text: Annotated[str, Text("column")] = "title"
    key: Annotated[str, Text("column")] = "item_id"
    folder: Annotated[Path | None, click.Path(file_okay=False, path_type=Path)] = None
    host: str = "127.0.0.1"
    port: Annotated[int, _Port] = 7070
    max_pending_ids: Annotated[int, click.IntRange(min=1)] = 100_000
    negative_ttl_s: Annotated[float, click.FloatRange(min=0)] = 600.0
    metrics_port: Annotated[int | None, _Port] = None
    tls_cert: _File = None
    tls_key: _File = None
    tls_client_ca: _File = None
    tokens: _File = None
    max_ids_per_second: Annotated[int | None, click.IntRange(min=1)] = None
    log_format: LogFormat = "text"
    otel: bool = False
    servers: Annotated[tuple[str, ...] | None, Several(str, "host:port,...")] = None
    me: Annotated[str, Text("host:port")] = ""
    threads: Annotated[int, click.IntRange(0, 1024)] = 0
    decode_threads: Annotated[int, click.IntRange(0, 1024)] = 0
    batch_size: Annotated[int, click.IntRange(0, 65536)] = 0
    compile: bool = False
    devices: tuple[str, ...] = ()
    read_timeout_s: Annotated[float, click.FloatRange(min=0, min_open=True)] = 20.0
    max_image_mb: Annotated[int, click.IntRange(min=1)] = 20
    photo_roots: tuple[str, ...] = ()

    @property
    def own_folder(self) -> Path:
        """Where the server keeps what is its own: its address, its log, the converted backbone."""
        return own_folder(self.store, self.folder)

    @property
    def ownership(self) -> Ownership | None:
        """Which images it answers for; None: all.

        Raises:
            BadInput: ``me`` is none of ``servers``, or one of the two is missing.
        """
        return ownership_of(self.servers, self.me)

    @property
    def address(self) -> str:
        """``host:port`` or ``[IPv6]:port``.

        Raises:
            BadInput: the host is none.
        """
        return listening_at(self.host, self.port)

    def check(self) -> None:
        """Refuse what cannot be served, before anything is loaded that takes long.

        Raises:
            BadInput: there is no such host, or settings do not go together.
            NoStore: there is no store of that name.
        """
        store = self.store
        if self.folder is not None and not is_url(store):
            raise BadInput(
                f"--folder is for a store behind redis://; what is a server's own lies in the store {store}."
            )
        if self.texts is not None and self.catalogue is not None:
            raise BadInput("--catalogue is for photos and --texts for texts: a store holds one of them, so give one.")
        _ = self.ownership
        if not is_url(store) and not holds_store(Path(store)):
            raise NoStore(store)
        _ = self.address
