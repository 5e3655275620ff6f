"""Search: what is most alike an image, a photo, or words."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
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
    text_source,
)
from crossmedia.imgserver.commands.similarity import keys_of, write_file
from crossmedia.imgserver.places import own_folder

if TYPE_CHECKING:
    from crossmedia.imgserver.client.results import Neighbours
    from crossmedia.imgserver.storage.catalogue.texts import TextCatalogue
    from crossmedia.names import ImageNames

SHOWN_CHARACTERS, MOST_READ = 40, 4096  # of a text, and bytes of it that are read


@click.command(cls=Command, example="5 photos/042.jpg --store store --out similar.png")
@click.argument("queries", nargs=-1, required=True)
@click.option("--k", type=click.IntRange(min=1), default=10, help="Neighbours of each.")
@click.option(
    "--out", type=click.Path(dir_okay=False, path_type=Path), help="Draw queries and neighbours into this PNG."
)
@text_options
@manifest_option
@server_option
@served_store_option
@click.option("--timeout-s", type=float, default=30.0, help="Seconds for all of it, retries included.")
@json_option
def search(
    queries: tuple[str, ...],
    k: int,
    out: Path | None,
    manifest: Path | None,
    server: str | None,
    store: str,
    timeout_s: float,
    as_json: bool,
    **of_texts: Any,
) -> None:
    """What is most alike QUERIES: keys of the manifest, ids, files of photos in no catalogue, or words.

    Asks a running server, whose store has an index ('imgserver index'). A word that is a key is that image, though it
    is a number or a file as well. Words find texts, and photos that went through the image tower of CLIP or SigLIP.
    With --texts, the table that the server was given, texts are shown beside their keys.
    """
    from crossmedia.imgserver.client import ImageClient, Status

    names = names_of(store, manifest) if manifest is not None or server is None else None
    texts = text_source(own_folder(store), **of_texts, manifest=manifest)[0].open() if of_texts["texts"] else None
    ids, files, words = _asked(queries, names)
    photos = [file.read_bytes() for file in files]
    labels = [_label(image_id, names) for image_id in ids] + [file.name for file in files]
    labels += [f'"{word}"' for word in words]
    kinds = [*("id" for _ in ids), *("photo" for _ in files), *("words" for _ in words)]
    with ImageClient(server_address(server, store), timeout_s=timeout_s) as client:
        if words and not client.info().knows_words:
            raise _neither(words[0], names, client.info().version)
        parts = [client.search(part, k) for part in (ids, photos, words) if part]
        near = [row for part in parts for row in _near(part)]
        status = [Status(value).name for part in parts for value in part.status.tolist()]
        called = keys_of({image_id for row in near for image_id, _ in row}, names)
        if texts is not None:
            called = {image_id: texts.key(image_id) or name for image_id, name in called.items()}
        if out is not None:
            _draw(out, client, ids, [*photos, *(None for _ in words)], labels, near, called)
    failed = {row: _why(kinds[row], state) for row, state in enumerate(status) if state != "OK"}
    if as_json:
        rows = [
            {"query": labels[row], "status": status[row]}
            | ({"reason": failed[row]} if row in failed else {})
            | {"neighbours": [_neighbour(i, c, names, called, texts) for i, c in found]}
            for row, found in enumerate(near)
        ]
        click.echo(json.dumps({"version": parts[0].version, "images": parts[0].images, "queries": rows}))
    else:
        for row, found in enumerate(near):
            said = "  ".join(f"{called[i]}{_beginning(i, texts)} ({cosine:.3f})" for i, cosine in found)
            click.echo(f"{labels[row]}: {f'{status[row]}: {failed[row]}' if row in failed else said}")
        if out is not None:
            click.echo(f"drawn: {out}")
    if failed:
        first = next(iter(failed))
        raise NothingEmbedded(
            f"{len(failed)} of {len(labels)} queries have no vector; the first is {labels[first]}: {failed[first]}."
        )


def _near(found: Neighbours) -> Iterator[list[tuple[int, float]]]:
    """The neighbours that each query has."""
    for row in zip(found.image_ids.tolist(), found.cosines.tolist(), strict=True):
        yield [(image_id, cosine) for image_id, cosine in zip(*row, strict=True) if image_id >= 0]


def _asked(queries: Sequence[str], names: ImageNames | None) -> tuple[list[int], list[Path], list[str]]:
    """Image ids, files and words: a key first, then a number, a file, a key with a suffix behind it; the rest."""
    from crossmedia.keys import as_image_id

    keyed = dict(zip(queries, names.find(queries).tolist(), strict=True)) if names is not None else {}
    ids, files, words = [], [], []
    for query in queries:
        found, number = keyed.get(query, -1), as_image_id(query)
        if found >= 0 and (names is None or names.keys([found]) == [query] or not os.path.isfile(query)):
            ids.append(found)
        elif number is not None:
            ids.append(number)
        elif os.path.isfile(query):
            files.append(Path(query))
        else:
            words.append(query)
    return ids, files, words


def _neither(query: str, names: ImageNames | None, version: str) -> BadInput:
    key = "a key of the manifest, " if names is not None else ""
    meant = names.meant(query) if names is not None else ""
    of = version or "nothing yet"
    return BadInput(
        f"{query} is neither {key}an image id nor a file.{meant} As words it cannot be searched either: the server's "
        f"vectors are of {of}, which knows no words."
    )


def _why(kind: str, status: str) -> str:
    """Why a query has no vector."""
    from crossmedia.imgserver.text.reading import MAX_TEXT_BYTES, NOTHING_KNOWN

    known = {
        ("words", "CORRUPT"): NOTHING_KNOWN,
        ("words", "TOO_LARGE"): f"words have at most {MAX_TEXT_BYTES} bytes",
        ("photo", "CORRUPT"): "no photo can be decoded from the file",
        ("photo", "TOO_LARGE"): "the file or the photo in it is larger than the server takes",
        ("id", "NOT_FOUND"): "the server has no such id",
        ("id", "CORRUPT"): "there is one, and it could not be embedded: see rejects.csv of the store",
        ("id", "TOO_LARGE"): "there is one, and it was too large to be embedded: see rejects.csv of the store",
    }
    return known.get((kind, status), "the server failed on it, and its log says why")


def _beginning(image_id: int, texts: TextCatalogue | None) -> str:
    """The beginning of a text behind its key, on one line; empty without texts."""
    text = _text(image_id, texts)
    return f" {text if len(text) <= SHOWN_CHARACTERS else text[: SHOWN_CHARACTERS - 1] + '…'!r}" if text else ""


def _text(image_id: int, texts: TextCatalogue | None) -> str:
    data = texts.read(image_id, MOST_READ) if texts is not None else None
    return " ".join((data or b"").decode(errors="replace").split())


def _label(image_id: int, names: ImageNames | None) -> str:
    return f"image {image_id}" if names is None else names.keys([image_id])[0]


def _neighbour(
    image_id: int, cosine: float, names: ImageNames | None, called: dict[int, str], texts: TextCatalogue | None
) -> dict[str, Any]:
    key = {} if names is None and texts is None else {"key": called[image_id]}
    return {"image_id": image_id, "cosine": cosine} | key | ({"text": _text(image_id, texts)} if texts else {})


def _draw(
    out: Path,
    client: Any,
    ids: Sequence[int],
    photos: Sequence[bytes | None],
    names: Sequence[str],
    near: Sequence[Sequence[tuple[int, float]]],
    called: dict[int, str],
) -> None:
    from crossmedia.imgserver.similarity.contact_sheet import contact_sheet, small

    every = sorted({*ids, *(image_id for row in near for image_id, _ in row)})
    jpegs = dict(zip(every, client.thumbnails(every), strict=True))
    own = [jpegs[image_id] for image_id in ids] + [small(photo) for photo in photos]
    rows = [
        [(jpeg, name), *((jpegs[image_id], f"{called[image_id]}  {cosine:.3f}") for image_id, cosine in row)]
        for jpeg, name, row in zip(own, names, near, strict=True)
    ]
    write_file(out, contact_sheet(rows))
