"""Photos in rows with a line of text below each, as one picture: what a person looks at to believe a search."""

from __future__ import annotations

import io
from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

from crossmedia.imgserver.vision.decode import ImageLimits, open_image, thumbnail
from crossmedia.imgserver.vision.formats import CorruptImage, ImageTooLarge

SIDE, GAP, TEXT = 128, 8, 18
GREY, INK = (225, 225, 225), (40, 40, 40)
LIMITS = ImageLimits(max_bytes=1 << 20, max_pixels=1 << 20)  # of what a server sends as a thumbnail
Cell = tuple[bytes | None, str]


def contact_sheet(rows: Sequence[Sequence[Cell]]) -> bytes:
    """A PNG.

    Args:
        rows: of JPEGs (None, and what is no small picture: a grey square) with the text below each.
    """
    columns = max((len(row) for row in rows), default=1)
    step, height = SIDE + GAP, SIDE + TEXT + GAP
    sheet = Image.new("RGB", (columns * step + GAP, len(rows) * height + GAP), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(12)
    for line, row in enumerate(rows):
        for column, (jpeg, text) in enumerate(row):
            left, top = GAP + column * step, GAP + line * height
            if (photo := opened_small(jpeg)) is None:
                draw.rectangle((left, top, left + SIDE, top + SIDE), fill=GREY)
            else:
                photo.thumbnail((SIDE, SIDE))
                sheet.paste(photo, (left + (SIDE - photo.width) // 2, top + (SIDE - photo.height) // 2))
            while text and draw.textlength(text, font) > SIDE:
                text = text[:-2] + "…" if len(text) > 2 else ""
            draw.text((left, top + SIDE + 2), text, fill=INK, font=font)
    out = io.BytesIO()
    sheet.save(out, format="PNG")
    return out.getvalue()


def small(photo: bytes | None) -> bytes | None:
    """A thumbnail for a picture, as a JPEG; None if there is no photo, or a broken one."""
    try:
        return thumbnail(photo, SIDE, ImageLimits()) if photo else None
    except (CorruptImage, ImageTooLarge):
        return None


def opened_small(jpeg: bytes | None) -> Image.Image | None:
    """A small picture that somebody sent; None if there is none, or what was sent is no small picture."""
    try:
        return open_image(jpeg, LIMITS, 0) if jpeg else None
    except (CorruptImage, ImageTooLarge):
        return None
