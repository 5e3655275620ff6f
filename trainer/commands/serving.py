"""Serve models, and look at what serves them."""

from __future__ import annotations

import json
import os
import time
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import click

from crossmedia.config import Command, json_option
from crossmedia.errors import BadInput, CrossMediaError, DeadlineExceeded, ServerUnavailable
from crossmedia.logs import set_up_logs
from crossmedia.options import arguments_of, options_of
from crossmedia.output import show
from crossmedia.service.background import run_in_background, stop_daemon
from crossmedia.service.running import Daemon, running_daemon
from crossmedia.trainer.serving.settings import SCORING_SERVER, ServingConfig

folder_option = click.option(
    "--folder",
    type=click.Path(file_okay=False, path_type=Path),
    default=ServingConfig.folder,
    help="Folder of the server, as 'trainer serve' was given.",
)
address_option = click.option(
    "--server", default=None, help="Address of the server; the one of --folder when it is not given."
)


@click.command(
    cls=Command,
    example="din.pt2 --server localhost:7070 --port 8081",
    sections={
        "What it scores with": ("--server", "--vectors", "--vectors-timeout-s", "--cache", "--items", "--manifest"),
        "Where it answers": ("--host", "--port", "--rest-port", "--folder", "--background"),
        "What it takes on": ("--threads", "--max-candidates", "--max-pending", "--max-wait-s"),
        "Whom it trusts": ("--tls-cert", "--tls-key", "--tls-client-ca", "--tokens", "--trust-native"),
        "Logs and metrics": ("--log-format", "--metrics-port", "--otel"),
    },
)
@click.argument("models", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="MODEL...")
@options_of(ServingConfig, [field.name for field in fields(ServingConfig)])
@click.option("--background", is_flag=True, help="Return once the server answers, and leave it running.")
@json_option
def serve(models: tuple[Path, ...], background: bool, as_json: bool, **values: Any) -> None:
    """Serve the scores of MODEL, exported models or run folders, until SIGTERM or Ctrl-C.

    It speaks the Open Inference Protocol, version 2, as Triton and KServe do. A model is called as its file.
    """
    config = ServingConfig(**values)
    _ = config.address

    def say(daemon: Daemon) -> None:
        # Standard output is often the same file as the log.
        in_log = config.log_format == "json" and not background
        rest = f", by HTTP at port {daemon.rest_port}" if daemon.rest_port else " by gRPC alone"
        show(daemon, as_json or in_log, f"The scoring server answers at {daemon.address}{rest} (process {daemon.pid}).")

    if background:
        arguments = [*map(str, models), *arguments_of(serve.params, values)]
        say(run_in_background(SCORING_SERVER, config.folder, arguments))
        return
    from crossmedia.trainer.serving.process import serve as run

    set_up_logs(config.log_format)
    run(models, config, say)


@click.command(cls=Command, example="--folder serving")
@folder_option
@json_option
def stop(folder: Path, as_json: bool) -> None:
    """Drain and stop the scoring server of a folder on this machine."""
    daemon = stop_daemon(SCORING_SERVER, folder)
    show(daemon, as_json, f"The scoring server at {daemon.address} has stopped.")


def address_of(server: str | None, folder: Path) -> str:
    """Where a scoring server answers.

    Raises:
        ServerUnavailable: none runs for the folder.
    """
    if server:
        return server
    daemon = running_daemon(folder)
    if daemon is None:
        raise ServerUnavailable(
            f"No scoring server runs for the folder {folder}. Start one with 'trainer serve MODEL --folder {folder}', "
            f"or give --server."
        )
    return daemon.address


@click.command(cls=Command, example="--server localhost:8081 --wait")
@address_option
@folder_option
@click.option("--wait", is_flag=True, help="Wait until the server is healthy, for at most --timeout-s seconds.")
@click.option("--timeout-s", type=float, default=30.0, help="Seconds to wait.")
@json_option
def health(server: str | None, folder: Path, wait: bool, timeout_s: float, as_json: bool) -> None:
    """Tell whether scores really go through the server; the exit code is 0 when they do, else 3."""
    from crossmedia.imgserver.client.health import health_of
    from crossmedia.trainer.serving.control import SCORER

    deadline = time.monotonic() + timeout_s
    while True:
        try:
            address = address_of(server, folder)
            state = health_of(address, max(0.1, min(deadline - time.monotonic(), 5.0)), SCORER)
            if state == "SERVING":
                break
            why: CrossMediaError = ServerUnavailable(
                f"The scoring server at {address} is not healthy: {state}. It may be loading or draining; its log says "
                f"why."
            )
        except (ServerUnavailable, DeadlineExceeded) as error:
            why = error
        if not wait or time.monotonic() >= deadline:
            raise why
        time.sleep(0.1)
    show({"address": address, "health": state}, as_json, f"{address} is healthy.")


@click.command(cls=Command, example="din-2.pt2 --server localhost:8081 --canary 5%")
@click.argument("file", required=False, default="")
@address_option
@folder_option
@click.option("--model", default="", help="By which name it is served; the only one when it is not given.")
@click.option("--canary", default="", help="Have it answer a share of the requests, such as 5%; all when not given.")
@click.option("--shadow", is_flag=True, help="Have it score beside, and answer nothing: metrics show the difference.")
@click.option("--trust-native", default="", metavar="DIGEST", help="Digest (sha256) of FILE, if it holds native code.")
@click.option("--rollback", is_flag=True, help="Have the model before answer again, and drop one that runs beside.")
@json_option
def switch(
    file: str, server: str | None, folder: Path, model: str, shadow: bool, rollback: bool, as_json: bool, **texts: str
) -> None:
    """Have a running server answer with another model: FILE, which lies in the folder of the one that is served.

    Without FILE it is what lies now in the place of the one that is served. The new one is loaded beside, its vectors
    are looked for, and it scores the latest requests: how far both are apart is shown. The one before is kept.
    """
    from crossmedia.trainer.serving.control import Control

    control = Control(address_of(server, folder))
    names = sorted({one.name for one in control.models()})
    if not model and len(names) > 1:
        raise BadInput(f"The server has several models: {', '.join(names)}. Say which one is meant by --model.")
    asked: dict[str, str | bool] = {"file": os.path.abspath(file) if os.sep in file else file, **texts}
    asked |= {"shadow": shadow, "rollback": rollback}
    control.load(model or names[0], **{name: value for name, value in asked.items() if value})
    held = control.models()
    if as_json:
        click.echo(json.dumps([asdict(one) for one in held]))
        return
    click.echo("\n".join(f"{one.name} {one.version}: {one.role}" for one in held))
