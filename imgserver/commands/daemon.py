"""The daemon: start it, look at it, stop it."""

from __future__ import annotations

import json
import logging
import os
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from crossmedia.config import Command, json_option
from crossmedia.errors import BadInput, CrossMediaError, DeadlineExceeded, ServerUnavailable
from crossmedia.hosts import host_and_port, written
from crossmedia.imgserver.commands.options import (
    ownership_of,
    ownership_options,
    photo_options,
    photo_source,
    served_store_option,
    server_address,
    server_option,
    threads_option,
)
from crossmedia.imgserver.places import IMAGE_SERVER, holds_store, is_url, own_folder
from crossmedia.logs import LogFormat, set_up_logs
from crossmedia.service.running import Daemon

STORE_ENV = "CROSSMEDIA_IMGSERVER_SERVE_STORE"


@click.command(cls=Command, example="--store store --catalogue photos --background")
@served_store_option
@click.option(
    "--catalogue",
    metavar="PATH|URL",
    help="Where photos are, to compute vectors that are not stored; without it such ids are reported as NOT_FOUND.",
)
@click.option(
    "--folder",
    type=click.Path(file_okay=False, path_type=Path),
    help="With a store behind redis://: where this server keeps its address, its log and the converted backbone; a "
    "second server on the machine needs one of its own. A folder of your cache (~/.cache/crossmedia) when not given.",
)
@click.option(
    "--host", default="127.0.0.1", help="Address to listen at; the default is reached from this machine only."
)
@click.option("--port", type=click.IntRange(0, 65535), default=7070, help="Port to listen at; 0 takes a free one.")
@click.option(
    "--max-pending-ids",
    type=click.IntRange(min=1),
    default=100_000,
    help="Most images that may wait for the CNN at once. More is refused with a retry hint, so that calls fail fast "
    "instead of waiting without end.",
)
@click.option(
    "--negative-ttl-s",
    type=click.FloatRange(min=0),
    default=600.0,
    help="Seconds that a missing or broken photo is remembered as such before it is looked at again.",
)
@click.option(
    "--metrics-port",
    type=click.IntRange(0, 65535),
    help="Serve metrics for Prometheus over HTTP at this port, path /metrics; 0 takes a free one. Off by default.",
)
@click.option(
    "--tls-cert",
    type=click.Path(dir_okay=False, path_type=Path),
    help="PEM file of the server's certificate: callers are answered by TLS alone. A renewed file is taken without a "
    "restart, here and in the two options below.",
)
@click.option(
    "--tls-key",
    type=click.Path(dir_okay=False, path_type=Path),
    help="PEM file of its key, readable by its owner alone.",
)
@click.option(
    "--tls-client-ca",
    type=click.Path(dir_okay=False, path_type=Path),
    help="PEM file of authorities: callers need a certificate of one of them.",
)
@click.option(
    "--tokens",
    type=click.Path(dir_okay=False, path_type=Path),
    help="File of lines 'name scope token', readable by its owner alone; scopes are read, write and admin. Calls "
    "without one of these tokens are refused. A changed file is taken without a restart.",
)
@click.option(
    "--max-ids-per-second",
    type=click.IntRange(min=1),
    help="Most images that one client may ask for in a second, by its token's name, else by its host; no limit when it "
    "is not given.",
)
@click.option(
    "--log-format",
    type=click.Choice(["text", "json"]),
    default="text",
    help="How log lines look on standard error: text, or one JSON object a line with time, level, logger, message and "
    "the id of the request.",
)
@click.option(
    "--otel",
    is_flag=True,
    help="Send a span of every call to OpenTelemetry, where the OTEL_* variables say; the extra otel is needed. When "
    "OTEL_EXPORTER_OTLP_ENDPOINT or OTEL_TRACES_EXPORTER is set and the extra is there, this is on by itself.",
)
@ownership_options
@threads_option
@photo_options
@click.option("--background", is_flag=True, help="Return once the server answers, and leave it running.")
@json_option
def serve(
    store: str,
    catalogue: str | None,
    folder: Path | None,
    host: str,
    port: int,
    max_pending_ids: int,
    negative_ttl_s: float,
    metrics_port: int | None,
    tls_cert: Path | None,
    tls_key: Path | None,
    tls_client_ca: Path | None,
    tokens: Path | None,
    max_ids_per_second: int | None,
    log_format: LogFormat,
    otel: bool,
    servers: tuple[str, ...] | None,
    me: str,
    threads: int,
    read_timeout_s: float,
    max_image_mb: int,
    photo_roots: tuple[str, ...],
    background: bool,
    as_json: bool,
) -> None:
    """Serve vectors until SIGTERM or Ctrl-C, computing on demand what is missing.

    With --servers and --me it answers for the images that it owns and refuses others, and clients that are given the
    same list ask each server for its own.
    """
    if folder is not None and not is_url(store):
        raise BadInput(f"--folder is for a store behind redis://; what is a server's own lies in the store {store}.")
    ownership = ownership_of(servers, me)
    if not is_url(store) and not holds_store(Path(store)):
        raise BadInput(
            f"There is no store in {store}. Check the name; 'imgserver precompute --store {store} --catalogue FOLDER' "
            f"makes one of photos, 'imgserver import' of vectors that there are."
        )
    address = _listening_at(host, port)
    from crossmedia.imgserver.serving.process import Listening
    from crossmedia.imgserver.serving.process import serve as run
    from crossmedia.imgserver.serving.service import ServiceConfig
    from crossmedia.service.process import run_in_background
    from crossmedia.service.security import ServerSecurity
    from crossmedia.service.tracing import tracing

    def say(daemon: Daemon) -> None:
        if as_json or (log_format == "json" and not background):  # standard output is often the same file as the log
            click.echo(json.dumps(asdict(daemon)))
        else:
            click.echo(f"The image server answers at {daemon.address} (process {daemon.pid}).")

    if background:
        given = _serve_arguments(locals())
        if is_url(store):
            os.environ[STORE_ENV] = given.pop("store")  # it may have a password, and everybody can list arguments
        names = [name for name in given if name != "photo-roots"]
        arguments = [f"--{name}" if given[name] is True else f"--{name}={given[name]}" for name in names]
        arguments += [f"--photo-root={root}" for root in photo_roots]
        say(run_in_background(IMAGE_SERVER, own_folder(store, folder), arguments))
        return
    logging.getLogger("faiss.loader").setLevel(logging.WARNING)  # which of its builds fits this CPU
    set_up_logs(log_format)
    security = ServerSecurity(tls_cert, tls_key, tls_client_ca, tokens, max_ids_per_second)
    for warning in security.warnings(host):
        logging.getLogger(__name__).warning("%s", warning)
    config = ServiceConfig(
        store,
        photo_source(catalogue, read_timeout_s, max_image_mb, photo_roots),
        max_pending_ids=max_pending_ids,
        negative_ttl_s=negative_ttl_s,
        threads=threads,
        folder=folder,
        ownership=ownership,
    )
    with tracing(otel) as interceptors:
        run(config, Listening(address, metrics_port, security, interceptors), say)


def _listening_at(host: str, port: int) -> str:
    """``--host`` with ``--port``.

    Raises:
        BadInput: it is no host.
    """
    try:
        return written(*host_and_port(written(host, port)))
    except BadInput:
        raise BadInput(
            f"--host {host!r} is neither a name nor an address, such as 0.0.0.0 or ::1. The port is --port."
        ) from None


def _serve_arguments(values: dict[str, Any]) -> dict[str, Any]:
    names = [option.name for option in serve.params if option.name not in ("background", "as_json")]
    given = {
        name.replace("_", "-"): values[name] for name in names if values[name] is not None and values[name] is not False
    }
    return {name: ",".join(value) if isinstance(value, tuple) else value for name, value in given.items()}


@click.command(cls=Command, example="--store store")
@server_option
@served_store_option
@click.option("--timeout-s", type=float, default=5.0, help="Seconds to wait for the answer.")
@json_option
def info(server: str | None, store: str, timeout_s: float, as_json: bool) -> None:
    """Show what a running server serves: versions, limits, counters, and the share of ids answered from the table."""
    from crossmedia.imgserver.client import ImageClient

    address = server_address(server, store)
    with ImageClient(address, timeout_s=timeout_s) as client:
        told = client.info()
    found = {"address": address, **asdict(told), "hit_ratio": told.hit_ratio}
    if as_json:
        click.echo(json.dumps(found))
        return
    table = Table(show_header=False, box=None)
    for name, value in found.items():
        shown = ", ".join(value) if isinstance(value, tuple) else f"{value:.3g}" if isinstance(value, float) else value
        table.add_row(name.replace("_", " "), str(shown) or "(none yet)")
    Console(width=max(Console().width, 130)).print(table)  # a version must stay in one piece to be copied


@click.command(cls=Command, example="--store store")
@served_store_option
@json_option
def stop(store: str, as_json: bool) -> None:
    """Drain and stop the server that serves a store on this machine."""
    from crossmedia.service.process import stop_daemon

    daemon = stop_daemon(IMAGE_SERVER, own_folder(store))
    click.echo(json.dumps(asdict(daemon)) if as_json else f"The image server at {daemon.address} has stopped.")


@click.command(cls=Command, example="--store store --wait")
@server_option
@served_store_option
@click.option("--wait", is_flag=True, help="Wait until the server is healthy, for at most --timeout-s seconds.")
@click.option("--timeout-s", type=float, default=30.0, help="Seconds to wait.")
@json_option
def health(server: str | None, store: str, wait: bool, timeout_s: float, as_json: bool) -> None:
    """Tell whether work really goes through the server; the exit code is 0 when it does, else 3."""
    from crossmedia.imgserver.client.health import health_of

    deadline = time.monotonic() + timeout_s
    while True:
        try:
            address = server_address(server, store)  # a daemon that is just starting has not written its address yet
            state = health_of(address, max(0.1, min(deadline - time.monotonic(), 5.0)))
            if state == "SERVING":
                break
            why: CrossMediaError = ServerUnavailable(
                f"The image server at {address} is not healthy: {state}. It may be loading or draining, or have no "
                f"vectors yet; its log says why, and 'imgserver doctor' looks at its store."
            )
        except (ServerUnavailable, DeadlineExceeded) as error:
            why = error
        if not wait or time.monotonic() >= deadline:
            raise why
        time.sleep(0.1)
    click.echo(json.dumps({"address": address, "health": state}) if as_json else f"{address} is healthy.")
