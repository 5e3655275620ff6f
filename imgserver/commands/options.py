"""Options that several commands share, and what to say when the server's packages are missing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from crossmedia.errors import BadInput, ServerUnavailable
from crossmedia.imgserver.places import holds_store, is_url, own_folder
from crossmedia.imgserver.shards import Ownership
from crossmedia.service.running import running_daemon

if TYPE_CHECKING:
    from crossmedia.imgserver.vision.photo_source import PhotoSource
    from crossmedia.names import ImageNames

DEFAULT_SERVER = "localhost:7070"
MEGABYTE = 1 << 20


class _Folder(click.Path):
    """A store's folder; a cluster is refused by name, not made into a folder."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if is_url(value):
            self.fail(
                "A store behind redis:// is served, and filled by 'imgserver publish'; this command needs the folder "
                "of a local store.",
                param,
                ctx,
            )
        return super().convert(value, param, ctx)


class _Names(click.ParamType):  # type: ignore[type-arg]  # generic in late releases of click only
    """Names: ``a:7070,b:7070``, or a list in the configuration file."""

    name = "names"
    takes_lists = True

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, ...]:
        parts = value if isinstance(value, list | tuple) else str(value).split(",")
        return tuple(str(part).strip() for part in parts)


def ownership_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Which servers share the images out among them, and which one is meant."""
    function = click.option(
        "--me", default="", metavar="HOST:PORT", help="Which of --servers this one is, as it stands in that list."
    )(function)
    return click.option(
        "--servers",
        type=_Names(),
        metavar="HOST:PORT,...",
        help="The servers that share the images out among them, in any order, under the addresses that clients are "
        "given: each owns the virtual shards for which its hash is highest. Without it one server has all images.",
    )(function)


def ownership_of(servers: tuple[str, ...] | None, me: str, *, leaving: bool = False) -> Ownership | None:
    """What ``me`` owns; None without servers.

    Args:
        servers: of ``--servers``.
        me: of ``--me``.
        leaving: whether ``me`` may be none of them.

    Raises:
        BadInput: one of the two is missing or wrong.
    """
    if not servers:
        if me:
            raise BadInput(f"--me {me} says nothing without --servers, the list that it is one of.")
        return None
    ownership = Ownership(servers, me)
    if not leaving and me not in servers:
        raise BadInput(f"--me {me} is none of --servers {','.join(servers)}. Write it as it stands in the list.")
    return ownership


store_option = click.option(
    "--store",
    type=_Folder(file_okay=False, path_type=Path),
    default="store",
    help="Folder of the store: features, vectors and index.",
)
served_store_option = click.option(
    "--store",
    metavar="FOLDER|URL",
    default="store",
    help="Folder of the store, or redis://host:port,host:port for vectors that copies of a server share.",
)
server_option = click.option("--server", default=None, metavar="HOST:PORT", help="Address of the image server.")
threads_option = click.option(
    "--threads", type=click.IntRange(0, 1024), default=0, help="Threads of the CNN; 0 takes all cores."
)


photo_root_option = click.option(
    "--photo-root",
    "photo_roots",
    type=click.Path(exists=True, file_okay=False),
    multiple=True,
    help="Folder of this machine that links and manifests may lead to; may be given again. Without it photos are read "
    "below the catalogue's own folder alone.",
)


def photo_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Limits of one photo."""
    function = click.option(
        "--max-image-mb",
        type=click.IntRange(min=1),
        default=20,
        help="Largest photo in MiB; a larger one is rejected as TOO_LARGE.",
    )(function)
    function = photo_root_option(function)
    return click.option(
        "--read-timeout-s",
        type=click.FloatRange(min=0, min_open=True),
        default=20.0,
        help="Seconds for one read of a photo behind a URL; it is tried three times, then the photo is rejected.",
    )(function)


manifest_option = click.option(
    "--manifest",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Manifest whose keys name the images; without it a store's own names count, which precompute keeps.",
)


def names_of(store: str | Path, manifest: Path | None = None) -> ImageNames | None:
    """What images are called: by a manifest, else as the store knows; None where they are called by their ids.

    Raises:
        BadInput: the manifest cannot be read.
        StoreError: the store's names are damaged.
    """
    from crossmedia.names import ImageNames

    return ImageNames.read(manifest) if manifest is not None else ImageNames.of_store(own_folder(store))


def photo_source(
    catalogue: str | None, read_timeout_s: float, max_image_mb: int, photo_roots: tuple[str, ...]
) -> PhotoSource:
    """What ``--catalogue`` and ``photo_options`` say."""
    from crossmedia.imgserver.vision.decode import ImageLimits
    from crossmedia.imgserver.vision.photo_source import PhotoSource

    return PhotoSource(catalogue or "", ImageLimits(max_image_mb * MEGABYTE), read_timeout_s, photo_roots)


def server_address(server: str | None, store: str) -> str:
    """The address given, else that of the daemon which serves ``store`` here; the default where no store is named.

    For a command with ``--store``. A store in the default place counts as named.

    Raises:
        ServerUnavailable: nobody serves the store that is named.
    """
    if server:
        return server
    folder = own_folder(store)
    if daemon := running_daemon(folder):
        return daemon.address
    named = click.get_current_context().get_parameter_source("store") is not ParameterSource.DEFAULT
    if not named and not holds_store(folder):
        return DEFAULT_SERVER
    if is_url(store):
        raise ServerUnavailable(
            "No image server of that cluster was started on this machine without --folder. Name one by --server."
        )
    if not holds_store(folder):
        raise ServerUnavailable(f"There is no store in {store}, and so no image server for it. Check the name.")
    raise ServerUnavailable(
        f"No image server runs for the store {store} on this machine. Start one with 'crossmedia imgserver serve "
        f"--store {store}', or name one that runs elsewhere by --server."
    )


def images_progress(what: str, console: Console, *, disable: bool = False) -> Progress:
    """A bar of images, with the time that is left; ``what`` is done to them. Of none there is no bar: ``disable``."""
    columns = [TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn()]
    return Progress(*columns, console=console, disable=disable)
