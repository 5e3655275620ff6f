"""What a shopper is told of a concept: a value or a word as people say it, and nothing where that would be odd."""

from __future__ import annotations

import re
from dataclasses import dataclass

from crossmedia.concepts import AGAIN, Concept


@dataclass(frozen=True)
class Look:
    """What a number of the pixels is called by people who never heard of it.

    Attributes:
        much, little: what photos with much and with little of it have.
        least: the number, in its own unit, from which on a shopper sees it in a photo; None: no shopper speaks of it.
    """

    much: str
    little: str
    least: float | None = None


ANCHORS = {
    "brightness": Look("a bright picture", "a dark picture", 0.5),
    "warmth": Look("warm colours", "cool colours", 0.1),
    "greenness": Look("green colours", "few green colours", 0.03),
    "saturation": Look("strong colours", "pale colours", 0.25),
    "contrast": Look("strong contrasts", "weak contrasts", 0.2),
    "sharpness": Look("sharp details", "soft details"),
    "colourfulness": Look("vivid colours", "muted colours", 0.18),
    "white background": Look("a white background", "no white background", 0.4),
    "fill of the frame": Look("an item that fills the picture", "much room around the item"),
    "edge density": Look("many fine details", "few details"),
    "entropy": Look("many shades of light and dark", "few shades of light and dark"),
    "symmetry": Look("a symmetric shape", "an asymmetric shape", 0.7),
}
# What catalogues write where they have nothing to say, and English words of a text that are no property alone.
_EMPTY = """
    misc miscellaneous mixed na none other others undefined uncategorised uncategorized unknown unspecified various
    about all and any are around been both but can from for has have her his how into its low lower made may more most
    new not off one onto other our out over per some such than that the their them then there these they this those
    through too two under until upon very was were what when where which while will with without you your
    back down front high inside long side sides up
"""
SAYS_NOTHING = frozenset(_EMPTY.split())
MOST = 40  # letters


def phrase(concept: Concept) -> str:
    """What a concept is called to a shopper, empty if it had better not be mentioned.

    A name that somebody gave it is taken as it is. Of ``column=value`` and ``column: word`` only the value is said,
    in small letters if it is all capitals.

    Example:
        >>> from crossmedia.concepts import Concept
        >>> from crossmedia.trainer.reasons.wording import phrase
        >>> phrase(Concept("colour=LIGHT_BLUE", "probe", "colour", "LIGHT_BLUE"))
        'light blue'
        >>> phrase(Concept("entropy", "anchor", value="entropy"))
        ''
    """
    name = AGAIN.sub("", concept.name)
    if (look := look_of(concept)) is not None:
        return "" if look.least is None else look.much
    if not (value := _value(concept, name)):
        return concept.name if concept.named else ""
    words = re.findall(r"[^\W_]+", value.casefold())
    if len(value) > MOST or not any(sign.isalpha() for sign in value) or set(words) <= SAYS_NOTHING:
        return ""
    said = " ".join(value.replace("_", " ").split())
    return said.lower() if said.isupper() and len(said) > 3 else said


def look_of(concept: Concept) -> Look | None:
    """What a number of the pixels looks like; None of other concepts, and of one that somebody gave a name."""
    return ANCHORS.get(concept.value) if concept.kind == "anchor" and concept.name == concept.value else None


def in_words(concept: Concept, much: bool) -> str:
    """What photos with much of a concept have, or those with little, for people who know the shop and no statistics.

    Example:
        >>> from crossmedia.concepts import Concept
        >>> from crossmedia.trainer.reasons.wording import in_words
        >>> in_words(Concept("edge density", "anchor", value="edge density"), much=False)
        'few details'
        >>> in_words(Concept("colour=black", "probe", "colour", "black"), much=False)
        'little of colour=black'
    """
    if (look := look_of(concept)) is not None:
        return look.much if much else look.little
    return concept.name if much else f"little of {concept.name}"


def shows(concept: Concept, amount: float) -> bool:
    """Whether a photo shows a concept, in the eyes of who looks at it alone and not at what others have less of.

    A number of the pixels is to have a size that is seen; a value, a word or a selling point is to be likelier than
    not; and of a free concept there must be as much as the photos have that named it.

    Args:
        concept: as of a card.
        amount: of it, as of a vector.

    Example:
        >>> from crossmedia.concepts import Concept
        >>> from crossmedia.trainer.reasons.wording import shows
        >>> white = Concept("white background", "anchor", value="white background", mean=0.002, deviation=0.01)
        >>> shows(white, 3.0)  # more than most photos of a shop without white backgrounds: 3 in 100 of the pixels
        False
    """
    if concept.kind == "free":
        return concept.clear is not None and amount >= concept.clear
    least = ANCHORS[concept.value].least if concept.kind == "anchor" and concept.value in ANCHORS else 0.0
    return amount > 0 and concept.mean + concept.deviation * amount >= (least or 0.0)


def _value(concept: Concept, name: str) -> str:
    """The value or word that a concept is still called by; empty: somebody gave it a name, or it is of no column."""
    text = f"{concept.source}={concept.value}" if concept.kind == "probe" else ""
    text = concept.tokens[0].text if concept.kind == "free" and concept.tokens else text
    column, sign, _ = re.split("(=|: )", text, maxsplit=1) if re.search("=|: ", text) else ("", "", "")
    for between in {sign, ": "} if column else ():
        if name.startswith(f"{column}{between}"):
            return name[len(column) + len(between) :]
    return ""
