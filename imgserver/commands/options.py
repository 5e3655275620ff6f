"""Options that several commands share, and what they mean: a store, a server's address, names of photos."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from crossmedia.errors import NoStore, ServerUnavailable
from crossmedia.imgserver.places import holds_store, is_url, own_folder
from crossmedia.imgserver.serve_config import ServeConfig
from crossmedia.options import Function, Several, help_of, options_of
from crossmedia.service.running import running_daemon
from crossmedia.version import TEXT

if TYPE_CHECKING:
    from crossmedia.imgserver.storage.store import Store
    from crossmedia.imgserver.vision.machine import Machine
    from crossmedia.imgserver.vision.text_source import TextSource
    from crossmedia.names import ImageNames

DEFAULT_SERVER = "localhost:7070"


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


ownership_options = options_of(ServeConfig, ("servers", "me"))
store_option = click.option(
    "--store",
    type=_Folder(file_okay=False, path_type=Path),
    default="store",
    help="Folder of the store: features, vectors and index.",
)
served_store_option = options_of(ServeConfig, ("store",))
server_option = click.option("--server", default=None, metavar="HOST:PORT", help="Address of the image server.")
devices_option = click.option(
    "--device",
    "--devices",
    "devices",
    type=Several(str, "cpu|cuda:0,..."),
    default="",
    help=help_of(ServeConfig)["devices"],
)


def machine_options(function: Function) -> Function:
    """What is taken of this machine; ``machine_of`` takes their values."""
    return options_of(ServeConfig, ("threads", "decode_threads", "batch_size", "compile"))(devices_option(function))


def machine_of(options: dict[str, Any]) -> Machine:
    """What the values of ``machine_options`` say, which are taken out of ``options``.

    Raises:
        BadInput: a device is not there.
    """
    from crossmedia.imgserver.vision.machine import Machine

    made = Machine(**{field.name: options.pop(field.name) for field in fields(Machine)})
    _ = made.gpus  # before anything is listed or loaded
    return made


photo_root_option = click.option(
    "--photo-root",
    "photo_roots",
    type=click.Path(exists=True, file_okay=False),
    multiple=True,
    help="Folder of this machine that links and manifests may lead to; may be given again. Without it photos are read "
    "below the catalogue's own folder alone.",
)


def photo_options(function: Function) -> Function:
    """Limits of one photo."""
    return options_of(ServeConfig, ("read_timeout_s",))(
        photo_root_option(options_of(ServeConfig, ("max_image_mb",))(function))
    )


manifest_option = click.option(
    "--manifest",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Manifest whose keys name the images; without it a store's own names count, which precompute keeps.",
)


def names_of(store: str | Path, manifest: Path | None = None) -> ImageNames | None:
    """Names of images: those of a manifest, else those of the store; None if images have ids only.

    Raises:
        BadInput: the manifest cannot be read.
        StoreError: the store's names are damaged.
    """
    from crossmedia.names import ImageNames

    return ImageNames.read(manifest) if manifest is not None else ImageNames.of_store(own_folder(store))


@contextmanager
def held_store(folder: Path, *, create: bool = False) -> Iterator[Store]:
    """A local store, open for a block."""
    from crossmedia.imgserver.storage.store import Store

    with closing(Store(folder, create=create)) as store:
        yield store


def how_to_serve(store: Path, version: str) -> str:
    """A sentence for whoever has just made a version."""
    return f"serve it with: crossmedia imgserver versions --store {store} --activate '{version}'"


text_options = options_of(ServeConfig, ("texts", "text", "key"))


def text_source(
    store: Path, texts: str, text: str, key: str, manifest: Path | None = None, encoder: str = ""
) -> tuple[TextSource, str]:
    """What ``text_options`` say, names being those of a manifest, else of the store; and the recipe of an encoder."""
    from crossmedia.imgserver.vision.text_source import TextSource

    return TextSource.of(texts, text, key, manifest=manifest, store=store), TEXT + encoder


def server_address(server: str | None, store: str) -> str:
    """The given address, else that of the daemon that serves ``store`` here; the default if no store is named.

    For a command with ``--store``. A store in the default place counts as named.

    Raises:
        ServerUnavailable: nobody serves the store that is named.
        NoStore: there is none.
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
        raise NoStore(store)
    raise ServerUnavailable(
        f"No image server runs for the store {store} on this machine. Start one with 'crossmedia imgserver serve "
        f"--store {store}', or name one that runs elsewhere by --server."
    )
