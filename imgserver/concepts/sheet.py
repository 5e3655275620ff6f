"""What people look at to believe a name: the photos of each concept, as a page or as one picture."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from html import escape

from crossmedia.concepts import KINDS_IN_WORDS, Concept, ConceptCard
from crossmedia.imgserver.similarity.contact_sheet import Cell, contact_sheet
from crossmedia.pages import page as whole_page

Photos = Mapping[int, bytes | None]


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
    of_kinds = {said: len(card.of_kind(kind)) for kind, said in KINDS_IN_WORDS.items()}
    kinds = ", ".join(f"{said} ({count})" for said, count in of_kinds.items() if count)
    head = f"<h1>Concepts of {escape(card.head)}</h1><p>{len(card)} numbers: {kinds}. Built on {card.photos:,} photos "
    head += f"of {card.groups:,} groups, from features of {escape(card.features)}.</p>"
    body = "".join(_section(place, concept, photos, called) for place, concept in enumerate(card.concepts))
    return whole_page("Concepts", f"{head}{body}{_refused(card)}").encode()


def _section(place: int, concept: Concept, photos: Photos, called: Mapping[int, str]) -> str:
    said = concept.evidence
    text = f'<h2>{escape(concept.name)}</h2><p class="soft">number {place + 1}, {KINDS_IN_WORDS[concept.kind]}'
    text += f"; {escape(said)}</p>" if said else "</p>"
    for label, ids in (("most", concept.most), ("least", concept.least)):
        if ids:
            cells = "".join(_cell(photos.get(image_id), called.get(image_id, str(image_id))) for image_id in ids)
            text += f'<div class="thumbs sheet"><span class="soft">{label}</span>{cells}</div>'
    return text


def _cell(photo: bytes | None, name: str) -> str:
    if photo is None:
        return f'<span class="frame">{escape(name)}</span>'
    data = base64.b64encode(photo).decode()
    return f"<img src='data:image/jpeg;base64,{data}' alt='{escape(name)}' title='{escape(name)}'>"


def _refused(card: ConceptCard) -> str:
    if not card.refused:
        return ""
    rows = "".join(
        f'<tr><td>{escape(one.name)}</td><td>{one.photos or ""}</td><td class="text">{escape(one.why)}</td></tr>'
        for one in card.refused
    )
    heads = '<tr><th>what</th><th>photos</th><th class="text">why</th></tr>'
    table = f'<table class="sortable"><thead>{heads}</thead><tbody>{rows}</tbody></table>'
    return f'<h2>Not told</h2><div class="scroll">{table}</div>'
