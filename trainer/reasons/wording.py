"""What a shopper is told of a concept: a value or a word as people say it, and nothing where that would be odd."""

from __future__ import annotations

import re

from crossmedia.concepts import Concept

# Of the numbers of the pixels what much of them looks like; of the others nothing that a shopper would say.
ANCHORS = {
    "brightness": "a bright picture",
    "warmth": "warm colours",
    "greenness": "green colours",
    "saturation": "strong colours",
    "contrast": "strong contrasts",
    "colourfulness": "vivid colours",
    "white background": "a white background",
    "symmetry": "a symmetric shape",
}
ANCHORS_UNSAID = frozenset(("sharpness", "fill of the frame", "edge density", "entropy"))
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
_NUMBER = re.compile(r" \((?:free )?\d+\)$")  # that tells two concepts of one name apart


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
    name = _NUMBER.sub("", concept.name)
    if concept.kind == "anchor" and concept.name == concept.value:
        return "" if name in ANCHORS_UNSAID else ANCHORS.get(name, name)
    if not (value := _value(concept, name)):
        return concept.name if concept.named else ""
    words = re.findall(r"[^\W_]+", value.casefold())
    if len(value) > MOST or not any(sign.isalpha() for sign in value) or set(words) <= SAYS_NOTHING:
        return ""
    said = " ".join(value.replace("_", " ").split())
    return said.lower() if said.isupper() and len(said) > 3 else said


def _value(concept: Concept, name: str) -> str:
    """The value or word that a concept is still called by; empty: somebody gave it a name, or it is of no column."""
    text = f"{concept.source}={concept.value}" if concept.kind == "probe" else ""
    text = concept.tokens[0].text if concept.kind == "free" and concept.tokens else text
    column, sign, _ = re.split("(=|: )", text, maxsplit=1) if re.search("=|: ", text) else ("", "", "")
    for between in {sign, ": "} if column else ():
        if name.startswith(f"{column}{between}"):
            return name[len(column) + len(between) :]
    return ""
