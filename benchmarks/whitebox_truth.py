"""What the simulator knows and no model is told: what of a photo has an effect, and which items came late.

Legend: P photos, V factors, R test rows.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from benchmarks.whitebox_rendering import FACTORS

Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]
RIDGES = np.geomspace(1, 1e4, 25)


@dataclass(frozen=True)
class Truth:
    """The photos of simulated clicks, and what they are worth.

    Attributes:
        factors: V names, such as warmth, or those of classes.
        photos: ids, ascending, shape (P,).
        values: of each photo, of mean 0, shape (P, V).
        scale: what one of a value is, in grey levels, shape (V,); of classes 1.
        taste: what all users have in common, shape (V,).
        photo_of: of each item, by its id in the logs; -1: it has none.
        late: items that training never shows.
    """

    factors: tuple[str, ...]
    photos: npt.NDArray[np.int64]
    values: Floats
    scale: Floats
    taste: Floats
    photo_of: dict[str, int]
    late: frozenset[str]

    @classmethod
    def of(cls, file: Path, photos: dict[int, Path], classes: Path) -> Truth:
        """What ``truth.json`` says, with ``items.csv`` beside it; classes stand in the table ``classes``."""
        told = json.loads(file.read_text())
        with open(file.parent / "items.csv", newline="", encoding="utf-8") as rows:
            items = list(csv.DictReader(rows))
        factors = tuple(told["factors"])
        raw = _pixels(photos) if factors == tuple(FACTORS) else _classes(photos, classes, factors)
        scale = raw.std(axis=0) if factors == tuple(FACTORS) else np.ones(len(factors))
        return cls(
            factors,
            np.array(sorted(photos)),
            (raw - raw.mean(axis=0)) / scale,
            scale,
            np.mean(told["effects"]["taste"], axis=0),
            {item["item_id"]: int(item["image_id"] or -1) for item in items},
            frozenset(str(item) for item in told["late_items"]),
        )

    @property
    def effect(self) -> Floats:
        """What each photo adds to a logit, but for groups of tastes: shape (P,)."""
        found: Floats = self.values @ self.taste
        return found

    def early_photos(self) -> npt.NDArray[np.int64]:
        """Of the items that training sees, ascending."""
        return np.unique([photo for item, photo in self.photo_of.items() if photo >= 0 and item not in self.late])

    def late_photos(self) -> npt.NDArray[np.int64]:
        """Of the others, ascending."""
        return np.setdiff1d([photo for photo in self.photo_of.values() if photo >= 0], self.early_photos())

    def places(self, photos: Sequence[int] | npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Where photos stand in ``photos``."""
        return np.searchsorted(self.photos, photos)

    def beside(self, picture: Floats, items: Sequence[str]) -> Floats:
        """What a model's picture adds to rows, and the true effect, of late photos, each once: shape (late, 2).

        Args:
            picture: shape (R,).
            items: of the rows.
        """
        shown = np.array([self.photo_of[item] if item in self.late else -1 for item in items])
        photos = np.unique(shown[shown >= 0])
        own = np.array([picture[shown == photo].mean() for photo in photos])
        return np.stack([own, self.effect[self.places(photos)]], axis=1)


def _pixels(photos: dict[int, Path]) -> Floats:
    """Mean factors of each photo, in grey levels, as the simulator measures them."""
    means = [
        np.asarray(Image.open(photos[i]).convert("RGB"), dtype=np.float64).mean(axis=(0, 1)) for i in sorted(photos)
    ]
    red, green, blue = np.array(means).T
    return np.stack([red - blue, (red + green + blue) / 3, green - (red + blue) / 2], axis=1)


def _classes(photos: dict[int, Path], table: Path, names: Sequence[str]) -> Floats:
    """Whether each photo is of each class, of the column of the table that has these."""
    with open(table, newline="", encoding="utf-8") as file:
        rows = {int(row["item_id"]): row for row in csv.DictReader(file)}
    column = next(c for c in next(iter(rows.values())) if {row[c] for row in rows.values()} == set(names))
    return np.array([[rows[i][column] == name for name in names] for i in sorted(photos)], dtype=np.float64)


def ceiling(features: npt.NDArray[Any], truth: Truth) -> float:
    """What a linear function of the features could reach on late photos if early ones had their true effect as a label.

    Ridge regression whose penalty is chosen on folds of early photos: no click is drawn, and nothing is noise.

    Args:
        features: of all photos, in the order of ``truth.photos``, shape (P, F).
        truth: of the photos.
    """
    early, late = truth.places(truth.early_photos()), truth.places(truth.late_photos())
    scaled = (features - features[early].mean(axis=0)) / (features[early].std(axis=0) + 1e-6)
    fold, effect = np.random.default_rng(0).permutation(len(early)) % 5, truth.effect
    parts = [(early[fold != k], early[fold == k]) for k in range(5)]
    lost = [
        sum(float(((_ridge(scaled, effect, own, out, at) - effect[out]) ** 2).sum()) for own, out in parts)
        for at in RIDGES
    ]
    found = _ridge(scaled, effect, early, late, float(RIDGES[int(np.argmin(lost))]))
    return float(np.corrcoef(found, effect[late])[0, 1])


def _ridge(x: Floats, y: Floats, learnt: npt.NDArray[np.int64], asked: npt.NDArray[np.int64], penalty: float) -> Floats:
    """What ridge regression on some rows says of others; by the kernel, for rows are few."""
    own = x[learnt].astype(np.float64)
    dual = np.linalg.solve(own @ own.T + penalty * np.eye(len(own)), y[learnt] - y[learnt].mean())
    found: Floats = x[asked].astype(np.float64) @ (own.T @ dual) + y[learnt].mean()
    return found
