"""New photos or texts through a running server."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from crossmedia.config import Command, json_option
from crossmedia.errors import BadInput, NothingEmbedded
from crossmedia.imgserver.commands.options import (
    manifest_option,
    names_of,
    served_store_option,
    server_address,
    server_option,
    text_options,
)
from crossmedia.output import show

if TYPE_CHECKING:
    from crossmedia.names import ImageNames


@click.command(cls=Command, example="4711.jpg --store store", goes_on=True)
@click.argument("photos", nargs=-1, type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--id", "image_id", type=click.IntRange(min=0), help="Image id of the one photo that is given.")
@text_options
@manifest_option
@server_option
@served_store_option
@click.option("--timeout-s", type=float, default=60.0, help="Seconds for all of it, retries included.")
@json_option
def add(
    photos: tuple[Path, ...],
    image_id: int | None,
    manifest: Path | None,
    server: str | None,
    store: str,
    timeout_s: float,
    as_json: bool,
    **of_texts: Any,
) -> None:
    """Have a running server embed new PHOTOS, or new --texts, at once, or take new ones in place of old ones.

    Files are named <image id>.jpg, or by a key of the manifest that the store was filled from, or --id names the image.
    The server keeps the vector, not the photo or the text: bring it to the catalogue too.
    """
    from crossmedia.imgserver.client import ImageClient, Status

    if bool(photos) == (of_texts["texts"] is not None):
        raise BadInput("Give either files of photos or --texts, a table of texts: a store holds one of them.")
    names = names_of(store, manifest) if server is None or manifest is not None else None
    brought: dict[int, bytes] | dict[int, str | bytes]
    brought = _read(photos, image_id, names) if photos else _read_texts(**of_texts, names=names)
    with ImageClient(server_address(server, store), timeout_s=timeout_s) as client:
        result = client.put(brought)
    refused = {number: status.name for number, status in result.items() if status != Status.OK}
    added = len(result) - len(refused)
    reasons = [f"{_said(i, brought[i])}: {name}{_why(brought[i], name)}" for i, name in refused.items()]
    show({"added": added, "refused": refused}, as_json, f"added {added}, refused {len(refused)}", *reasons)
    if refused:
        raise NothingEmbedded(f"{len(refused)} of {len(result)} were refused; each has its reason above.")


def _read(photos: tuple[Path, ...], image_id: int | None, names: ImageNames | None) -> dict[int, bytes]:
    brought: dict[int, bytes] = {}
    for path in photos:
        number = _image_id(path, names) if image_id is None else image_id
        if number in brought:
            raise BadInput(f"Image id {number} is given twice; the second photo is {path}.")
        brought[number] = path.read_bytes()
    return brought


def _read_texts(texts: str, text: str, key: str, names: ImageNames | None) -> dict[int, str | bytes]:
    from crossmedia.imgserver.storage.catalogue.texts import TextTable, open_texts

    catalogue = open_texts(TextTable(texts, text, key), names)
    for sentence in catalogue.passed_over:
        click.echo(sentence, err=True)
    ids = catalogue.ids()
    return {number: _decoded(data) for number, data in zip(ids.tolist(), catalogue.all_of(ids), strict=True)}


def _image_id(path: Path, names: ImageNames | None) -> int:
    """The image that a file is named after: a key of the manifest, else a whole number, in digits as in a catalogue."""
    from crossmedia.keys import as_image_id

    if names is not None and (found := int(names.named([path.name])[0])) >= 0:
        return found

    if path.stem.isdecimal() and (number := as_image_id(path.stem)) is not None:
        return number
    other = ", nor by a key of the store's manifest" if names is not None else ", a whole number from 0 to 2^63 - 1"
    meant = names.meant(path.name) if names is not None else ""
    raise BadInput(
        f"The photo {path} is not named after an image id{other}.{meant} Rename it, or give its id with --id."
    )


def _decoded(data: bytes) -> str | bytes:
    """A text, or its bytes where they are none: the server says so."""
    try:
        return data.decode()
    except UnicodeDecodeError:
        return data


def _said(number: int, data: str | bytes) -> str:
    return f"{'text' if isinstance(data, str) else 'image'} {number}"


def _why(data: str | bytes, status: str) -> str:
    """Why a text was refused; or what the bytes of a refused photo look like, if they do not begin like a photo."""
    if isinstance(data, str):
        from crossmedia.imgserver.text.reading import NOTHING_KNOWN

        return f": {NOTHING_KNOWN if data.strip() else 'the text is empty'}" if status == "CORRUPT" else ""
    from crossmedia.imgserver.vision.formats import CorruptImage, format_of

    try:
        format_of(data)
    except CorruptImage as error:
        return f": {error}"
    return ""
