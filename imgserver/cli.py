"""The commands of the image server. Heavy imports wait until a command runs."""

from __future__ import annotations

import json
import logging
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table as RichTable

from imgserver.config import Command, Group, config_option, json_option
from imgserver.errors import BadInput, NothingEmbedded, ServerUnavailable

if TYPE_CHECKING:
    from imgserver.offline.precompute import PrecomputeResult

DEFAULT_SERVER = "localhost:7070"

store_option = click.option(
    "--store",
    type=click.Path(file_okay=False, path_type=Path),
    default="store",
    help="Folder of the store: features, vectors and index.",
)
server_option = click.option("--server", default=None, metavar="HOST:PORT", help="Address of the image server.")


@click.group(cls=Group, name="imgserver")
@config_option
def imgserver(config: str | None) -> None:
    """Run the image server, and embed catalogues of photos."""


def _missing_extra(error: ImportError) -> BadInput:
    return BadInput(
        f"This command needs the server's packages ({error.name} is missing). "
        f'Install them with: pip install "crossmedia[server]"'
    )


@imgserver.command(cls=Command)
@store_option
@click.option(
    "--catalogue",
    type=click.Path(path_type=Path),
    help="Folder of photos named <image id>.jpg, to compute vectors that are not stored; without it such ids are "
    "reported as NOT_FOUND.",
)
@click.option(
    "--host", default="127.0.0.1", help="Address to listen at; the default is reached from this machine only."
)
@click.option("--port", type=click.IntRange(0, 65535), default=7070, help="Port to listen at; 0 takes a free one.")
@click.option("--backbone", default="efficientnet_lite0", help="CNN for images that are not stored.")
@click.option(
    "--max-pending-ids",
    type=click.IntRange(min=1),
    default=20_000,
    help="Most images that may wait for the CNN at once. More is refused with a retry hint, so that calls fail fast "
    "instead of waiting without end.",
)
@click.option("--threads", type=click.IntRange(min=0), default=0, help="Threads of the CNN; 0 takes all cores.")
@click.option("--background", is_flag=True, help="Return once the server answers, and leave it running.")
@json_option
def serve(
    store: Path,
    catalogue: Path | None,
    host: str,
    port: int,
    backbone: str,
    max_pending_ids: int,
    threads: int,
    background: bool,
    as_json: bool,
) -> None:
    """Serve vectors until SIGTERM or Ctrl-C, computing on demand what is missing."""
    try:
        from imgserver.serving.process import Daemon, serve_in_background
        from imgserver.serving.process import serve as run
        from imgserver.serving.service import ServiceConfig
    except ImportError as error:
        raise _missing_extra(error) from error

    def say(daemon: Daemon) -> None:
        if as_json:
            click.echo(json.dumps(asdict(daemon)))
        else:
            click.echo(f"The image server answers at {daemon.address} (process {daemon.pid}).")

    if background:
        arguments = [f"--{name}={value}" for name, value in _serve_arguments(locals()).items()]
        say(serve_in_background(arguments, store))
        return
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    if host not in ("127.0.0.1", "localhost", "::1"):
        logging.getLogger(__name__).warning(
            "listening at %s: everybody who reaches this address can read the vectors; there is no TLS", host
        )
    store.mkdir(parents=True, exist_ok=True)
    config = ServiceConfig(store, catalogue, backbone, max_pending_ids=max_pending_ids, threads=threads)
    run(config, f"{host}:{port}", say)


def _serve_arguments(values: dict[str, Any]) -> dict[str, Any]:
    names = ("store", "catalogue", "host", "port", "backbone", "max_pending_ids", "threads")
    return {name.replace("_", "-"): values[name] for name in names if values[name] is not None}


def server_address(server: str | None, store: Path) -> str:
    """The address given, else that of the daemon which serves ``store`` here, else the default."""
    if server:
        return server
    file = store / "daemon.json"
    try:
        return str(json.loads(file.read_text())["address"])
    except (OSError, ValueError, KeyError, TypeError):
        return DEFAULT_SERVER


@imgserver.command(cls=Command)
@server_option
@store_option
@click.option("--timeout-s", type=float, default=5.0, help="Seconds to wait for the answer.")
@json_option
def status(server: str | None, store: Path, timeout_s: float, as_json: bool) -> None:
    """Show what a running server serves: version, limits, counters."""
    from imgserver.client import ImageClient

    address = server_address(server, store)
    with ImageClient(address, timeout_s=timeout_s) as client:
        info = {"address": address, **asdict(client.info())}
    if as_json:
        click.echo(json.dumps(info))
        return
    table = RichTable(show_header=False, box=None)
    for name, value in info.items():
        shown = ", ".join(value) if isinstance(value, tuple) else f"{value:.1f}" if isinstance(value, float) else value
        table.add_row(name.replace("_", " "), str(shown) or "(none yet)")
    Console().print(table)


@imgserver.command(cls=Command)
@store_option
@json_option
def stop(store: Path, as_json: bool) -> None:
    """Drain and stop the server that serves a store on this machine."""
    from imgserver.serving.process import stop_daemon

    daemon = stop_daemon(store)
    click.echo(json.dumps(asdict(daemon)) if as_json else f"The image server at {daemon.address} has stopped.")


@imgserver.command(cls=Command)
@server_option
@store_option
@click.option("--wait", is_flag=True, help="Wait until the server is healthy, for at most --timeout-s seconds.")
@click.option("--timeout-s", type=float, default=30.0, help="Seconds to wait.")
@json_option
def health(server: str | None, store: Path, wait: bool, timeout_s: float, as_json: bool) -> None:
    """Tell whether work really goes through the server; the exit code is 0 when it does, else 3."""
    import grpc
    from grpc_health.v1 import health_pb2, health_pb2_grpc

    deadline = time.monotonic() + timeout_s
    state, address = "", ""
    while True:
        address = server_address(server, store)  # a daemon that is just starting has not written its address yet
        with grpc.insecure_channel(address) as channel:
            stub = health_pb2_grpc.HealthStub(channel)
            try:
                left = max(0.1, min(deadline - time.monotonic(), 5.0))
                reply = stub.Check(health_pb2.HealthCheckRequest(service=""), timeout=left)
                state = health_pb2.HealthCheckResponse.ServingStatus.Name(reply.status)
            except grpc.RpcError as error:
                state = error.code().name
        if state == "SERVING":
            break
        if not wait or time.monotonic() >= deadline:
            raise ServerUnavailable(f"The image server at {address} is not healthy: {state}.")
        time.sleep(0.1)
    click.echo(json.dumps({"address": address, "health": state}) if as_json else f"{address} is healthy.")


@imgserver.command(cls=Command)
@store_option
@click.option(
    "--catalogue",
    type=click.Path(path_type=Path),
    required=True,
    help="Folder of photos named <image id>.jpg (or .png, .webp, …); sub-folders are read too.",
)
@click.option("--backbone", default="efficientnet_lite0", help="CNN that makes the features.")
@click.option("--dim", type=click.IntRange(min=1), default=64, help="Numbers in a vector.")
@click.option(
    "--ids",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Embed only the image ids in this text file, one a line.",
)
@click.option("--threads", type=click.IntRange(min=0), default=0, help="Threads of the CNN; 0 takes all cores.")
@json_option
def precompute(
    store: Path, catalogue: Path, backbone: str, dim: int, ids: Path | None, threads: int, as_json: bool
) -> None:
    """Embed a catalogue of photos, and activate the vectors. Run it again after a kill, or when photos were added."""
    try:
        from imgserver.offline import precompute as work
        from imgserver.storage.catalog import FolderCatalog
        from imgserver.storage.store import Store
        from imgserver.vision.backbones import get_backbone
        from imgserver.vision.engines import make_engine
    except ImportError as error:
        raise _missing_extra(error) from error

    console = Console(stderr=True)
    catalog, net = FolderCatalog(catalogue), get_backbone(backbone)
    config = work.PrecomputeConfig(dim=dim, only=work.read_ids(ids) if ids else None)
    opened = Store(store)
    try:
        plan = work.make_plan(opened, catalog, net, config)
        engine = make_engine(net, store / "engine", threads)
        todo = len(plan.to_embed)
        console.print(f"{plan.found} photos, {plan.skipped} of them embedded already, {todo} to embed.")
        if todo:
            rate = work.measure_rate(catalog, net, engine, config, plan.to_embed)
            megabytes = plan.disk_bytes(net.feature_dim, dim) / 1e6
            console.print(f"Estimate: {todo / rate:.0f} s at {rate:.0f} images/s, {megabytes:.1f} MB on disk.")
        columns = [
            TextColumn("embedding"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
        ]
        with Progress(*columns, console=console) as progress:
            task = progress.add_task("embedding", total=todo)
            result = work.precompute(
                opened, catalog, net, engine, config, plan, lambda done: progress.advance(task, done)
            )
    finally:
        opened.close()
    _report_precompute(result, as_json)
    if not result.embedded and not result.skipped:
        raise NothingEmbedded(f"Not one photo was embedded; the reasons are in {result.rejects_file}.")


def _report_precompute(result: PrecomputeResult, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(result.as_dict()))
        return
    click.echo(
        f"found {result.found}, embedded {result.embedded}, skipped {result.skipped}, rejected {result.rejected} "
        f"in {result.seconds:.1f} s"
    )
    if result.rejects_file:
        click.echo(f"rejected ids and reasons: {result.rejects_file}")
    click.echo(f"active version: {result.version}")
