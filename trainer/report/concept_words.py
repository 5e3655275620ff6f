"""What pages say of a concept beside its name, in words that need no other page."""

from __future__ import annotations

from crossmedia.concepts import KINDS_IN_WORDS, Concept

IN_THE_PIXELS = {
    "brightness": "how light the photo is",
    "warmth": "how much red there is, less blue",
    "greenness": "how much green there is, less red and blue",
    "saturation": "how strong its colours are",
    "contrast": "how far light and dark lie apart",
    "sharpness": "how crisp its details are",
    "colourfulness": "how many and how vivid its colours are",
    "white background": "how much of it is nearly white",
    "fill of the frame": "how much of it is not background",
    "edge density": "how much of it is edges and fine lines",
    "entropy": "how evenly it uses all greys, from one grey alone to all of them",
    "symmetry": "how much its left half is like its right",
}


def what_it_is(concept: Concept) -> str:
    """What a concept is, in a few words: of a number of the pixels what it measures, of the others how they are known.

    Example:
        >>> from crossmedia.concepts import Concept
        >>> from crossmedia.trainer.report.concept_words import what_it_is
        >>> what_it_is(Concept("entropy", "anchor", value="entropy"))
        'measured in the pixels: how evenly it uses all greys, from one grey alone to all of them'
    """
    kind = KINDS_IN_WORDS[concept.kind]
    meaning = IN_THE_PIXELS.get(concept.value or concept.name, "") if concept.kind == "anchor" else ""
    return f"{kind}: {meaning}" if meaning else kind
