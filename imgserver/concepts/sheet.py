"""What people look at to believe a name: the photos of each concept, as a page or as one picture."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from html import escape

from crossmedia.concepts import KINDS_IN_WORDS, Concept, ConceptCard
from crossmedia.imgserver.similarity.contact_sheet import Cell, contact_sheet

Photos = Mapping[int, bytes | None]
STYLE = """
body{font:15px/1.45 system-ui,sans-serif;margin:0 auto;padding:1rem;max-width:76rem;color:#222;background:#fff}
h1{font-size:1.4rem}h2{font-size:1.05rem;margin:1.6rem 0 .2rem}p{margin:.2rem 0 .5rem;color:#555}
.row{display:flex;flex-wrap:wrap;gap:.4rem;align-items:center}.row img,.row i{width:96px;height:96px;object-fit:contain;
background:#eee;border-radius:4px;font-size:.75rem;display:flex;align-items:center;justify-content:center;overflow:hidden}
.row b{width:3.2rem;font-weight:400;color:#777}table{border-collapse:collapse}td,th{text-align:left;padding:.15rem .8rem
.15rem 0;vertical-align:top}th{font-weight:600}td.n{text-align:right}
.row+.row{margin-top:.4rem}
@media(max-width:30rem){.row b{width:100%}.row img,.row i{width:64px;height:64px}.wide{overflow-x:auto}}
"""


def photos_of(card: ConceptCard) -> list[int]:
    """The photos that a sheet shows, ascending."""
    return sorted({image_id for concept in card.concepts for image_id in (*concept.most, *concept.least)})


def picture(card: ConceptCard, photos: Photos) -> bytes:
    """A PNG with a row of photos for each concept, those that have the most of it; its name stands below the first."""
    rows: list[list[Cell]] = []
    for concept in card.concepts:
        if concept.most:
            first, *others = concept.most
            rows.append([(photos.get(first), concept.name), *((photos.get(other), "") for other in others)])
    return contact_sheet(rows)


def page(card: ConceptCard, photos: Photos, called: Mapping[int, str]) -> bytes:
    """An HTML file that needs no network.

    Args:
        card: what is shown.
        photos: small JPEGs by image id; None: there is none.
        called: what each photo is called.
    """
    kinds = ", ".join(f"{len(card.of_kind(kind))} {kind}" for kind in KINDS_IN_WORDS if card.of_kind(kind))
    head = f"<h1>Concepts of {escape(card.head)}</h1><p>{len(card)} numbers: {kinds}. Built on {card.photos:,} photos "
    head += f"of {card.groups:,} groups, from features of {escape(card.features)}.</p>"
    body = "".join(_section(place, concept, photos, called) for place, concept in enumerate(card.concepts))
    start = "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content='width=device-width'>"
    return f"{start}<title>Concepts</title><style>{STYLE}</style>{head}{body}{_refused(card)}</html>\n".encode()


def _section(place: int, concept: Concept, photos: Photos, called: Mapping[int, str]) -> str:
    said = concept.evidence
    text = f"<h2>{escape(concept.name)}</h2><p>number {place + 1}, {KINDS_IN_WORDS[concept.kind]}"
    text += f"; {escape(said)}</p>" if said else "</p>"
    for label, ids in (("most", concept.most), ("least", concept.least)):
        if ids:
            cells = "".join(_cell(photos.get(image_id), called.get(image_id, str(image_id))) for image_id in ids)
            text += f"<div class=row><b>{label}</b>{cells}</div>"
    return text


def _cell(photo: bytes | None, name: str) -> str:
    if photo is None:
        return f"<i>{escape(name)}</i>"
    data = base64.b64encode(photo).decode()
    return f"<img src='data:image/jpeg;base64,{data}' alt='{escape(name)}' title='{escape(name)}'>"


def _refused(card: ConceptCard) -> str:
    if not card.refused:
        return ""
    rows = "".join(
        f"<tr><td>{escape(one.name)}<td class=n>{one.photos or ''}<td>{escape(one.why)}</tr>" for one in card.refused
    )
    return f"<h2>Not told</h2><div class=wide><table><tr><th>what<th>photos<th>why</tr>{rows}</table></div>"
