"""Concepts of a photo: build a head whose numbers have names, show them, and name them."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.table import Table

from crossmedia.config import Command, Group, json_option
from crossmedia.errors import BadInput
from crossmedia.imgserver.commands.options import held_store, names_of, photo_root_option, store_option
from crossmedia.options import Several
from crossmedia.output import show as say

if TYPE_CHECKING:
    from crossmedia.concepts import ConceptCard
    from crossmedia.imgserver.concepts.pixels import PixelNumbers
    from crossmedia.imgserver.concepts.sample import Sample
    from crossmedia.names import ImageNames

HEAD_FILE = "head.safetensors"
SHOWN_REFUSED = 20
card_option = click.option(
    "--card",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="The concepts.json of a build; without it the card of a version of the store.",
)
version_option = click.option(
    "--version", default="", metavar="VERSION", help="Version of the store; without it the active one."
)


@click.command(
    cls=Command,
    example="--store store --items items.csv --key image_id --columns colour,pattern --text title",
    sections={
        "What photos may have": ("--items", "--key", "--columns", "--text", "--points", "--group"),
    },
)
@store_option
@click.option(
    "--items",
    required=True,
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Table of the items, CSV or Parquet.",
)
@click.option("--key", default="image_id", help="Its column with the image ids, or the keys of the manifest.")
@click.option(
    "--columns", type=Several(str, "NAME,..."), default="", help="Its columns with one value a cell, such as colour."
)
@click.option("--text", default="", help="Its column of texts, whose words count.")
@click.option(
    "--points",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Selling points by examples: a table with the column of --key and one called point; ten photos of each.",
)
@click.option(
    "--group",
    default="",
    help="Its column whose value photos of one product share: they are never on both sides of a test.",
)
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    default="concepts",
    help="Folder for the head and its card, concepts.json.",
)
@click.option(
    "--catalogue",
    metavar="PATH|URL",
    help="Where the photos are, for features without numbers of the pixels: 2,000 photos are opened, and probes learn "
    "the numbers from them.",
)
@photo_root_option
@json_option
def build(
    store: Path,
    items: Path,
    key: str,
    columns: tuple[str, ...],
    text: str,
    points: Path | None,
    group: str,
    out: Path,
    catalogue: str | None,
    photo_roots: tuple[str, ...],
    as_json: bool,
) -> None:
    """Learn a head whose numbers have names from stored features and a table of items; no CNN runs.

    A value, a word or a selling point becomes a concept if photos that were left out show it (AUC .85).
    What nobody named is looked for among what is left. Features of a backbone that ends in #photometry have numbers of
    the pixels too; for others --catalogue gives the photos from which probes of these numbers are learnt.
    """
    from crossmedia.concepts import CARD_FILE
    from crossmedia.disk import replacing
    from crossmedia.imgserver.concepts.building import build_concepts
    from crossmedia.imgserver.concepts.items import ItemTable
    from crossmedia.imgserver.concepts.sample import read_sample

    table = ItemTable(str(items), key=key, text=text, columns_of_values=columns, group=group)
    with held_store(store) as opened:
        sample = read_sample(opened, table, names_of(store), points)
    pixels = None if catalogue is None else _pixels(sample, catalogue, photo_roots)
    head, card = build_concepts(sample, pixels=pixels)
    out.mkdir(parents=True, exist_ok=True)
    for name, data in ((HEAD_FILE, head.to_bytes()), (CARD_FILE, card.to_bytes())):
        with replacing(out / name) as part:
            part.write_bytes(data)
    for sentence in sample.items.passed_over:
        click.echo(sentence, err=True)
    counts = Counter(concept.kind for concept in card.concepts)
    say(
        {"head": card.head, "features": card.features, "photos": card.photos, "concepts": len(card), "kinds": counts}
        | {"refused": len(card.refused), "out": str(out)},
        as_json,
        f"{len(card)} concepts of {card.photos:,} photos: " + ", ".join(f"{n} {kind}" for kind, n in counts.items()),
        f"not told, with reasons: {len(card.refused)} ('imgserver concepts show --card {out / CARD_FILE}')",
        f"make vectors: crossmedia imgserver precompute --store {store} --head {out / HEAD_FILE}",
    )


@click.command(cls=Command, example="--store store --catalogue photos --out concepts.html")
@store_option
@version_option
@card_option
@click.option("--catalogue", metavar="PATH|URL", help="Where the photos are, for --out.")
@photo_root_option
@click.option(
    "--out",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write the photos of each concept into this .html or .png.",
)
@json_option
def show(
    store: Path,
    version: str,
    card: Path | None,
    catalogue: str | None,
    photo_roots: tuple[str, ...],
    out: Path | None,
    as_json: bool,
) -> None:
    """Print what each number of a vector means, how well that is founded, and what was refused, and why.

    A name is worth what its photos show: look at the page before you believe one.
    """
    if out is not None and out.suffix not in (".html", ".png"):
        raise BadInput(f"--out {out} is neither .html nor .png.")
    if (out is None) != (catalogue is None):
        raise BadInput("--out and --catalogue go together: the photos of the concepts are drawn into the file.")
    found = _card(store, version, card)
    if out is not None and catalogue is not None:
        names = names_of(store) if card is None or (store / "index").exists() else None
        _write_sheet(found, catalogue, photo_roots, out, names)
    if as_json:
        say(asdict(found), True)
        return
    _print(found)
    if out is not None:
        click.echo(f"drawn: {out}")


@click.command(cls=Command, example='--store store "free 3" "lace"')
@click.argument("name")
@click.argument("new")
@store_option
@version_option
@card_option
@json_option
def rename(name: str, new: str, store: Path, version: str, card: Path | None, as_json: bool) -> None:
    """Call the concept NAME by the name NEW from now on.

    The version stays, for it is that of the numbers. A running server tells the new name at once; a model that was
    trained before keeps the names that it was trained with.
    """
    from crossmedia.disk import replacing
    from crossmedia.imgserver.head_files import save_card

    changed = _card(store, version, card).renamed(name, new)
    called = changed.concepts[changed.place(new.strip())]
    if card is not None:
        with replacing(card) as part:
            part.write_bytes(changed.to_bytes())
    else:
        with held_store(store) as opened:
            save_card(opened, changed)
    photos = ", ".join(map(str, called.most[:3]))
    shown = f"; photos {photos} have the most of it ('imgserver concepts show' draws them)" if photos else ""
    untested = (f"nothing tests a name that is given{shown}",) if called.given else ()
    text = f"{name} is now {called.name}, of {changed.head}"
    say({"head": changed.head, "name": name, "new": called.name}, as_json, text, *untested)


@click.group(cls=Group)
def concepts() -> None:
    """Give the numbers of a vector names: build such a head, show its concepts, rename them."""


for command in (build, show, rename):
    concepts.add_command(command)


def _pixels(sample: Sample, catalogue: str, roots: tuple[str, ...]) -> PixelNumbers:
    """Numbers of the pixels of photos of a sample.

    Raises:
        BadInput: the features have them, or are of no photos; or too few photos can be read.
    """
    from crossmedia.imgserver.concepts.pixels import read_pixels
    from crossmedia.imgserver.vision.backbones import get_backbone, without_endings
    from crossmedia.imgserver.vision.photo_source import PhotoSource
    from crossmedia.version import TEXT

    if sample.anchors:
        raise BadInput(f"The features of {sample.features.name} have the numbers of the pixels; leave out --catalogue.")
    if sample.features.recipe.startswith(TEXT) or not sample.features.recipe:
        raise BadInput(f"What {sample.features.name} was made of has no pixels that are known; leave out --catalogue.")
    source = PhotoSource(catalogue, roots=roots)
    opened = source.open()
    how = get_backbone(without_endings(sample.features.recipe)).preprocessing
    return read_pixels(
        sample.items.ids, lambda image_id: opened.read(image_id, source.limits.max_bytes), how, source.limits
    )


def _card(store: Path, version: str, file: Path | None) -> ConceptCard:
    """The card of a file, or of a version of a store."""
    from crossmedia.concepts import ConceptCard
    from crossmedia.imgserver.head_files import load_card
    from crossmedia.imgserver.storage.versions import held

    if file is not None:
        return ConceptCard.from_bytes(file.read_bytes())
    with held_store(store) as opened:
        return load_card(opened, held(opened, version, "vector").name)


def _print(card: ConceptCard) -> None:
    table = Table(box=None)
    for heading, justify in (("", "right"), ("name", "left"), ("kind", "left"), ("what speaks for it", "left")):
        table.add_column(heading, justify=justify)  # type: ignore[arg-type]  # one of Rich's words
    for place, concept in enumerate(card.concepts):
        table.add_row(str(place + 1), concept.name, concept.kind, concept.evidence, style=None)
    console = Console(width=max(Console().width, 130), markup=False, highlight=False)
    console.print(f"{card.head}: {len(card)} concepts of {card.photos:,} photos, {card.groups:,} groups")
    console.print(table)
    points_first = sorted(card.refused, key=lambda refused: refused.kind != "point")
    for refused in points_first[:SHOWN_REFUSED]:
        console.print(f"not told: {refused.name}: {refused.why}", soft_wrap=True)
    if (more := len(card.refused) - SHOWN_REFUSED) > 0:
        console.print(f"… and {more} more, with reasons: --json lists them")


def _write_sheet(
    card: ConceptCard, catalogue: str, roots: tuple[str, ...], out: Path, names: ImageNames | None
) -> None:
    from crossmedia.disk import replacing
    from crossmedia.imgserver.concepts.sheet import page, photos_of, picture
    from crossmedia.imgserver.similarity.contact_sheet import small
    from crossmedia.imgserver.vision.photo_source import PhotoSource

    source = PhotoSource(catalogue, roots=roots)
    opened, ids = source.open(), photos_of(card)

    def read(image_id: int) -> bytes | None:
        try:
            return small(opened.read(image_id, source.limits.max_bytes))
        except OSError:
            return None

    photos = {image_id: read(image_id) for image_id in ids}
    known = names or opened.names()
    called: dict[int, Any] = dict(zip(ids, known.keys(ids) if known is not None else map(str, ids), strict=True))
    with replacing(out) as part:
        part.write_bytes(picture(card, photos) if out.suffix == ".png" else page(card, photos, called))
