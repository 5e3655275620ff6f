"""Start the daemon, look at it, and stop it."""

from __future__ import annotations

import json
import os
import time
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from crossmedia.config import Command, json_option
from crossmedia.errors import CrossMediaError, DeadlineExceeded, NoStore, ServerUnavailable
from crossmedia.imgserver.commands.options import (
    devices_option,
    photo_root_option,
    served_store_option,
    server_address,
    server_option,
)
from crossmedia.imgserver.places import IMAGE_SERVER, holds_store, is_url, own_folder
from crossmedia.imgserver.serve_config import ServeConfig
from crossmedia.logs import set_up_logs
from crossmedia.options import arguments_of, options_of
from crossmedia.output import show
from crossmedia.service.background import run_in_background, stop_daemon
from crossmedia.service.running import Daemon

STORE_ENV = "CROSSMEDIA_IMGSERVER_SERVE_STORE"


@click.command(
    cls=Command,
    example="--store store --catalogue photos --background",
    sections={
        "What is served": ("--store", "--catalogue", "--texts", "--text", "--key", "--folder", "--servers", "--me"),
        "Where it answers": ("--host", "--port", "--background"),
        "Who may call": ("--tls-cert", "--tls-key", "--tls-client-ca", "--tokens", "--max-ids-per-second"),
        "Photos that are computed when they are asked for": (
            *("--threads", "--decode-threads", "--batch-size", "--devices", "--compile"),
            *("--max-pending-ids", "--negative-ttl-s"),
            *("--max-image-mb", "--read-timeout-s", "--photo-root"),
        ),
        "Logs and metrics": ("--log-format", "--metrics-port", "--otel"),
    },
)
@options_of(ServeConfig, [field.name for field in fields(ServeConfig) if field.name not in ("photo_roots", "devices")])
@photo_root_option
@devices_option
@click.option("--background", is_flag=True, help="Return once the server answers, and leave it running.")
@json_option
def serve(background: bool, as_json: bool, **values: Any) -> None:
    """Serve vectors until SIGTERM or Ctrl-C, computing on demand what is missing.

    With --servers and --me it answers for the images that it owns and refuses others, and clients that are given the
    same list ask each server for its own.
    """
    config = ServeConfig(**values)
    config.check()

    def say(daemon: Daemon) -> None:
        # Standard output is often the same file as the log.
        in_log = config.log_format == "json" and not background
        show(daemon, as_json or in_log, f"The image server answers at {daemon.address} (process {daemon.pid}).")

    if background:
        if is_url(config.store):
            os.environ[STORE_ENV] = values.pop("store")  # it may have a password, and everybody can list arguments
        say(run_in_background(IMAGE_SERVER, config.own_folder, arguments_of(serve.params, values)))
        return
    from crossmedia.imgserver.serving.process import serve as run

    set_up_logs(config.log_format)
    run(config, say)


@click.command(cls=Command, example="--store store")
@server_option
@served_store_option
@click.option("--timeout-s", type=float, default=5.0, help="Seconds to wait for the answer.")
@json_option
def info(server: str | None, store: str, timeout_s: float, as_json: bool) -> None:
    """Show what a running server serves: versions, limits, counters, and the share of ids answered from the table."""
    from crossmedia.imgserver.client import ImageClient
    from crossmedia.imgserver.client.server_info import PARTS

    address = server_address(server, store)
    with ImageClient(address, timeout_s=timeout_s) as client:
        told = client.info()
    every = {"address": address, **asdict(told)}
    parts = {name: every.pop(name) for name in PARTS}
    parts["counters"]["hit_ratio"] = told.counters.hit_ratio
    if as_json:  # flat, as it is read by scripts
        similarity = {f"similarity_{name}": value for name, value in parts.pop("similarity").items()}
        for part in (*parts.values(), similarity):
            every |= part
        click.echo(json.dumps(every))
        return
    table = Table(show_header=False, box=None)
    for heading, part in {"": every, **parts}.items():
        if heading:
            table.add_row()
            table.add_row(heading.capitalize())
        for name, value in part.items():
            table.add_row(name.replace("_", " "), _shown(value) or "(none yet)")
    Console(width=max(Console().width, 130)).print(table)  # a version must stay in one piece to be copied


def _shown(value: Any) -> str:
    if isinstance(value, tuple):
        return ", ".join(map(str, value))
    return f"{value:.3g}" if isinstance(value, float) else str(value)


@click.command(cls=Command, example="--store store")
@served_store_option
@json_option
def stop(store: str, as_json: bool) -> None:
    """Drain and stop the server that serves a store on this machine."""
    if not is_url(store) and not holds_store(Path(store)):
        raise NoStore(store)
    daemon = stop_daemon(IMAGE_SERVER, own_folder(store))
    show(daemon, as_json, f"The image server at {daemon.address} has stopped.")


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
        except (ServerUnavailable, DeadlineExceeded, NoStore) as error:  # a store may be made just now
            why = error
        if not wait or time.monotonic() >= deadline:
            raise why
        time.sleep(0.1)
    show({"address": address, "health": state}, as_json, f"{address} is healthy.")
