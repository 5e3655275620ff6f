"""Photos that are changed in one thing alone: rendered warmer, brighter or greener, and embedded like any other photo.

A step is what is added to the red, green and blue of each pixel. The three directions are perpendicular: a warmer photo
is no brighter and no greener, but for pixels that were black or white already. So what else of a concept moves is not
in the photo.

Legend: n photos, m renderings of a photo, h x w pixels of a photo, F numbers in a feature.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

import crossmedia
from crossmedia.imgserver.storage.store import Store
from crossmedia.imgserver.storage.versions import held
from crossmedia.status import is_ok

BACKBONE = "efficientnet_lite0#photometry"
# One grey level more of each factor, as the simulator measures it: red - blue; the mean; green - (red + blue) / 2.
FACTORS = {"warmth": (0.5, 0.0, -0.5), "brightness": (1.0, 1.0, 1.0), "greenness": (-1 / 3, 2 / 3, -1 / 3)}
STEPS = (0.25, 0.5, 1.0)  # of a standard deviation over the photos
LEAST_PART = 0.4  # of the pixels of a photo
Pixels = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Changes:
    """How renderings of a photo are made.

    Attributes:
        colour: what is added of each of ``FACTORS``, in grey levels, shape (m, 3).
        part: top, bottom, left and right of what is rendered, as shares of the sides, shape (m, 4).
    """

    colour: Floats
    part: Floats

    @classmethod
    def of_whole(cls, colour: Floats) -> Changes:
        """Of photos whose parts are not taken."""
        return cls(colour, np.tile([0.0, 1.0, 0.0, 1.0], (len(colour), 1)))


@dataclass(frozen=True)
class Rendered:
    """Photos of one catalogue with their features.

    Attributes:
        photo: of each row the photo that it was rendered from, shape (n,).
        change: what was added of each of ``FACTORS``, in grey levels, shape (n, 3).
        features: shape (n, F), the numbers of the pixels last.
    """

    photo: npt.NDArray[np.int64]
    change: Floats
    features: npt.NDArray[np.float32]


def rendered(pixels: Pixels, change: Floats) -> Pixels:
    """A photo, shape (h, w, 3), with so many grey levels more of each of ``FACTORS``, shape (3,).

    Example:
        >>> import numpy as np
        >>> from benchmarks.whitebox_rendering import rendered
        >>> rendered(np.full((1, 1, 3), 100, dtype=np.uint8), np.array([20.0, 0, 0])).tolist()
        [[[110, 100, 90]]]
    """
    added = np.asarray(change) @ np.array(list(FACTORS.values()))
    found: Pixels = np.clip(np.rint(pixels + added), 0, 255).astype(np.uint8)
    return found


def single_steps(deviations: Floats) -> Changes:
    """The photo as it is, and each factor moved by each of ``STEPS``: 1 + 3 * 3 renderings."""
    steps = [np.eye(3)[factor] * step * deviations for factor in range(3) for step in STEPS]
    return Changes.of_whole(np.stack([np.zeros(3), *steps]))


def random_changes(count: int, deviations: Floats, rng: np.random.Generator) -> Changes:
    """The photo as it is, and others with more and less of each factor, as photos differ; half of them of a part.

    A part has 40 to 100 of 100 pixels. So a few photos show more than they do as a whole.
    """
    colour = np.concatenate([np.zeros((1, 3)), rng.normal(0, 1, (count - 1, 3)) * deviations])
    found = Changes.of_whole(colour)
    for number in range(count // 2, count):
        side = rng.uniform(LEAST_PART, 1) ** 0.5
        top, left = rng.uniform(0, 1 - side, 2)
        found.part[number] = top, top + side, left, left + side
    return found


def embedded(photos: Mapping[int, Path], changes: Mapping[int, Changes], folder: Path) -> Rendered:
    """Render photos, and embed them as ``imgserver precompute`` does; what the folder has is not embedded again.

    Args:
        photos: the file of each.
        changes: of each photo; every photo has as many.
        folder: for the renderings and their store.
    """
    pictures, store = folder / "photos", folder / "store"
    width = max(len(change.colour) for change in changes.values())
    pictures.mkdir(parents=True, exist_ok=True)
    for image, own in changes.items():
        _write(photos[image], own, [pictures / f"{image * width + n}.png" for n in range(len(own.colour))])
    crossmedia.precompute(store, str(pictures), BACKBONE, dim=16)
    ids, features = features_of(store)
    photo, number = ids // width, ids % width
    change = np.stack([changes[int(p)].colour[int(n)] for p, n in zip(photo, number, strict=True)])
    return Rendered(photo, change, features)


def _write(photo: Path, changes: Changes, files: Iterable[Path]) -> None:
    pixels = np.asarray(Image.open(photo).convert("RGB"))
    sides = np.array([pixels.shape[0], pixels.shape[0], pixels.shape[1], pixels.shape[1]])
    for colour, part, file in zip(changes.colour, changes.part, files, strict=True):
        if not file.exists():
            top, bottom, left, right = np.rint(part * sides).astype(int)
            shown = rendered(pixels[top:bottom, left:right], colour)
            Image.fromarray(shown).save(file, compress_level=1)  # PNG: not a pixel is lost


def features_of(folder: Path) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    """Ids and features of all photos in a store, ascending."""
    store = Store(folder, create=False)
    try:
        space = held(store, held(store, "", "vector").version.backbone, "feature")
        ids, entries, _ = store.index.load(space.name)
        good = is_ok(entries["status"])
        return ids[good].astype(np.int64), store.read(space, entries[good]).astype(np.float32)
    finally:
        store.close()
