"""The made-up shop of the simulated clicks: its items, and the coefficients of every effect on a click."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

SHOPS, CATEGORIES, CITIES = 12, 8, 5
USERS = 1_500
WITHOUT_PHOTO = 5
SECOND_PHOTOS = 30
LATE_SHARE = 0.33
TASTE_GROUPS = 4
COMMON_TASTE = {"warmth": 0.75, "brightness": 0.55, "greenness": -0.6}
GROUP_TASTE_STD = 0.45
CLASS_TASTE_STD = 1.0  # over the photos, where a class of theirs is what sells
STATISTICS = tuple(COMMON_TASTE)
WITHOUT_PRICE = 12
PRICE_WEIGHT = -0.3
TAGS = ("organic", "new", "sale", "local", "ripe", "imported", "family", "snack", "bulk", "vegan", "fair", "last")
TAG_STD = 0.5
MEAN_TAGS = 1.5

Floats = npt.NDArray[np.float64]


def pixel_statistics(path: Path) -> dict[str, float]:
    """Warmth, brightness and greenness of a photo, each in grey levels."""
    red, green, blue = np.asarray(Image.open(path).convert("RGB"), dtype=np.float64).reshape(-1, 3).mean(axis=0)
    return {
        "warmth": float(red - blue),
        "brightness": float((red + green + blue) / 3),
        "greenness": float(green - (red + blue) / 2),
    }


@dataclass(frozen=True)
class Looks:
    """What of the photos has an effect.

    Attributes:
        names: of the V factors.
        values: of each photo, of mean 0 over the photos, shape (P, V).
        common: taste that all users share, shape (V,).
        classes: of each photo, where the factors are classes; else empty.
    """

    names: tuple[str, ...]
    values: Floats
    common: Floats
    classes: tuple[str, ...] = ()


def pixel_looks(photos: list[Path]) -> Looks:
    """Standardised pixel statistics."""
    raw = np.array([list(pixel_statistics(path).values()) for path in photos])
    return Looks(STATISTICS, (raw - raw.mean(axis=0)) / raw.std(axis=0), np.array([*COMMON_TASTE.values()]))


def class_looks(photos: list[Path], column: str, seed: int) -> Looks:
    """Whether a photo is of each class of a column of ``photos.csv``; what each is worth is drawn."""
    with open(photos[0].parent.parent / "photos.csv", newline="", encoding="utf-8") as file:
        rows = {int(row["item_id"]): row for row in csv.DictReader(file)}
    if column not in next(iter(rows.values())):
        raise SystemExit(f"photos.csv has no column {column!r}; there are: {', '.join(next(iter(rows.values())))}.")
    classes = tuple(rows[int(path.stem)][column] for path in photos)
    names = tuple(sorted(set(classes)))
    values = np.array([[name == own for name in names] for own in classes], dtype=np.float64)
    values -= values.mean(axis=0)
    worth = np.random.default_rng([seed, 3]).normal(size=len(names))
    return Looks(names, values, CLASS_TASTE_STD * worth / (values @ worth).std(), classes)


@dataclass(frozen=True)
class Catalogue:
    """Items, as columns of equal length I.

    Attributes:
        item_id: shuffled numbers, so that they say nothing.
        image_id: of the photo, -1 for none.
        second_image_id: of another photo, -1 for none.
        shop, category: places.
        title, review: word places, shape (I, 4) and (I, 6).
        price: of the item, nan for none.
        tags: whether the item has each of ``TAGS``, shape (I, 12).
        quality: of the item itself, shape (I,).
        static: everything in the logit that does not depend on the user, but the photos; shape (I,).
        statistics: the factors of ``Looks``, the mean over the item's photos, shape (I, V); zeros without a photo.
        late: which items are launched in the last fifth.
    """

    item_id: npt.NDArray[np.int64]
    image_id: npt.NDArray[np.int64]
    second_image_id: npt.NDArray[np.int64]
    shop: npt.NDArray[np.int64]
    category: npt.NDArray[np.int64]
    title: npt.NDArray[np.int64]
    review: npt.NDArray[np.int64]
    price: Floats
    tags: npt.NDArray[np.bool_]
    quality: Floats
    static: Floats
    statistics: Floats
    late: npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Effects:
    """Coefficients, drawn by the seed."""

    quality: Floats
    shop: Floats
    category: Floats
    city: Floats
    activity: Floats
    title: Floats
    review: Floats
    taste: Floats  # (TASTE_GROUPS, V): common and group together
    price: Floats  # (1,)
    tag: Floats


def draw_effects(rng: np.random.Generator, items: int, looks: Looks, seed: int, *, plain: bool) -> Effects:
    """Coefficients of so many items; a plain shop's prices and tags have none."""

    def words() -> Floats:
        weights = np.zeros(30)
        weights[:10] = rng.normal(0, 0.5, 10)
        return weights

    own = np.random.default_rng([seed, 1])  # of what a plain shop has not, so that it is drawn as it ever was
    return Effects(
        quality=rng.normal(0, 0.35, items),
        shop=rng.normal(0, 0.35, SHOPS),
        category=rng.normal(0, 0.35, CATEGORIES),
        city=rng.normal(0, 0.3, CITIES),
        activity=rng.normal(0, 0.4, USERS),
        title=words(),
        review=words(),
        taste=looks.common + rng.normal(0, GROUP_TASTE_STD, (TASTE_GROUPS, len(looks.names))),
        price=np.zeros(1) if plain else np.array([PRICE_WEIGHT]),
        tag=np.zeros(len(TAGS)) if plain else own.normal(0, TAG_STD, len(TAGS)),
    )


def draw_catalogue(
    rng: np.random.Generator, photos: list[Path], looks: Looks, effects: Effects, seed: int, *, plain: bool
) -> Catalogue:
    """Items that show the photos, and some that show none. Of a shop that is not plain some photos are second ones."""
    items = len(photos) + WITHOUT_PHOTO
    standard = np.concatenate([looks.values, np.zeros((WITHOUT_PHOTO, len(looks.names)))])
    shop, category = rng.integers(0, SHOPS, items), rng.integers(0, CATEGORIES, items)
    title, review = rng.integers(0, 30, (items, 4)), rng.integers(0, 30, (items, 6))
    text = effects.title[title].sum(axis=1) + effects.review[review].sum(axis=1) / 2
    late = np.zeros(items, dtype=np.bool_)
    late[rng.choice(items, round(LATE_SHARE * items), replace=False)] = True
    item_id = 1000 + rng.permutation(items)
    image = np.concatenate([[int(path.stem) for path in photos], np.full(WITHOUT_PHOTO, -1)])
    static = effects.quality + effects.shop[shop] + effects.category[category] + text

    # Items that the plain shop has give their photos to others, and are not there.
    own = np.random.default_rng([seed, 2])
    of_photos = own.permutation(len(photos))[: 0 if plain else 2 * SECOND_PHOTOS]
    gone, with_two = of_photos[: len(of_photos) // 2], of_photos[len(of_photos) // 2 :]
    second = np.full(items, -1, dtype=np.int64)
    second[with_two] = image[gone]
    statistics = standard.copy()
    statistics[with_two] = (standard[with_two] + standard[gone]) / 2
    price, tags = np.exp(own.normal(1, 0.7, items)).round(2), own.random((items, len(TAGS))) < MEAN_TAGS / len(TAGS)
    price[own.choice(items, WITHOUT_PRICE, replace=False)] = np.nan
    there = np.setdiff1d(np.arange(items), gone)
    price, tags = price[there], tags[there]
    return Catalogue(
        item_id=item_id[there],
        image_id=image[there],
        second_image_id=second[there],
        shop=shop[there],
        category=category[there],
        title=title[there],
        review=review[there],
        price=price,
        tags=tags,
        quality=effects.quality[there],
        static=static[there]
        + effects.price * standardised_price(price)
        + tags @ effects.tag / np.maximum(tags.sum(axis=1), 1),
        statistics=statistics[there],
        late=late[there],
    )


def standardised_price(price: Floats) -> Floats:
    """log(1 + price), of mean 0 and deviation 1 over the items; 0 without a price."""
    logarithm = np.log1p(price)
    found: Floats = (logarithm - np.nanmean(logarithm)) / np.nanstd(logarithm)
    return np.nan_to_num(found)
