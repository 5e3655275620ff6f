"""Numbers of the pixels for features that were stored without them: told by probes, from photos of a sample.

A probe tells how a photo looks by what the CNN made of it, so that it is less sure than the pixels; how sure it is, on
photos left out, stands in the card. It follows what photos of the catalogue differ in. Of one photo that is rendered
brighter or warmer than it was taken it says less (docs/adr/0047).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from crossmedia.concepts import Concept, Refused
from crossmedia.errors import BadInput
from crossmedia.imgserver.concepts.linear import Affine, Floats, Places, explained, fit_probes, folds_of
from crossmedia.imgserver.storage.records import Ids
from crossmedia.imgserver.vision.decode import ImageLimits, Preprocessing, decode
from crossmedia.imgserver.vision.formats import CorruptImage, ImageTooLarge
from crossmedia.imgserver.vision.photometry import ANCHORS, photometry

LEAST_R2 = 0.5  # of the variance of a number is told, on photos left out
MOST_READ = 2_000  # photos that are opened
FEWEST_READ = 64


@dataclass(frozen=True)
class PixelNumbers:
    """Numbers of the pixels of some photos.

    Attributes:
        places: of the photos in the sample, shape (p,), ascending.
        values: shape (p, 12), in the order of ``ANCHORS``.
    """

    places: Places
    values: Floats


def read_pixels(ids: Ids, read: Callable[[int], bytes | None], how: Preprocessing, limits: ImageLimits) -> PixelNumbers:
    """The numbers of photos of a sample, evenly chosen where there are many; those that cannot be read are left out.

    Args:
        ids: of the sample's photos, shape (n,).
        read: gives the bytes of a photo; None: there is none.
        how: what the backbone wants of a photo.
        limits: of a photo.

    Raises:
        BadInput: too few of them can be read.
    """
    asked = np.unique(np.linspace(0, len(ids) - 1, min(len(ids), MOST_READ), dtype=np.int64))
    places, values = list[int](), list[Floats]()
    for place in asked.tolist():
        try:
            if data := read(int(ids[place])):
                values.append(photometry(decode(data, how, limits)[None])[0])
                places.append(place)
        except (CorruptImage, ImageTooLarge, OSError):
            continue
    if len(places) < FEWEST_READ:
        raise BadInput(
            f"Of {len(asked)} photos of the sample {len(places)} are in the catalogue and can be read; numbers of the "
            f"pixels are learnt from {FEWEST_READ} at least. --catalogue names the photos of the store."
        )
    return PixelNumbers(np.array(places, dtype=np.int64), np.stack(values))


def pixel_probes(
    pixels: PixelNumbers, scaled: Floats, groups: Places
) -> tuple[tuple[Concept, ...], Affine, tuple[Refused, ...]]:
    """Ridge probes that tell numbers of the pixels, in their own units, and what is refused.

    Args:
        pixels: of some photos.
        scaled: features of all of the sample, shape (n, F).
        groups: of them, shape (n,).
    """
    features, n = scaled[pixels.places], len(pixels.places)
    spread = np.maximum(pixels.values.std(axis=0), 1e-6)
    mean = pixels.values.mean(axis=0)
    wanted = ((pixels.values - mean) / spread).astype(np.float32)
    found = fit_probes(features, wanted, folds_of(groups[pixels.places]))
    r2 = explained(found.left_out, wanted)
    kept = [place for place in range(len(ANCHORS)) if r2[place] >= LEAST_R2]
    numbers = Affine(found.numbers.weight * spread, found.numbers.bias * spread + mean).columns(kept)
    concepts = tuple(
        Concept(ANCHORS[place], "anchor", value=ANCHORS[place], photos=n, r2=float(r2[place])) for place in kept
    )
    refused = tuple(
        Refused("anchor", name, n, f"R² {r2[place]:.2f} on photos left out; {LEAST_R2} is asked for")
        for place, name in enumerate(ANCHORS)
        if place not in kept
    )
    return concepts, numbers, refused
