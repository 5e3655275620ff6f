"""Simulated clicks on real photos: the logs of the demo. Nobody clicked; every number here is drawn by a seed.

    python examples/grocery/simulate.py --out demo/logs --seed 1

Each of the 243 photos belongs to one item of a made-up shop; 30 of the items have two, and five have none. Users see
items and click with probability sigmoid(logit), and the logit is a sum of known effects, one for each column:

    column                 effect on the logit of a click
    user_id, city          a user's activity, N(0, 0.4²), and a shift of each of 5 cities, N(0, 0.3²)
    item_id                an item's own quality, N(0, 0.35²): only the id knows it
    shop_id, cate_id       a shift of each of 12 shops and 8 categories, N(0, 0.35²); both are drawn at random, so
                           neither says anything of the picture
    title, review          the sum of the weights of the words; 10 of the 30 words of each count, N(0, 0.5²)
    hist (behaviours)      affinity to the categories of recent behaviours: click 0.25, fav 0.4, cart 0.5, buy 0.7
                           each, halved every 3 days, at most 1.5 together
    photos                 taste: a weight of each pixel statistic, common to all plus one of the user's group of tastes
                           (TASTE_GROUPS of them, not in the data), times the standardised statistic, which is the
                           mean of those of the photos where there are two
    price                  PRICE_WEIGHT times the standardised logarithm; nothing for the items without a price
    tags                   the mean of the weights of the item's tags, of TAGS; nothing without tags

The pixel statistics are ``warmth`` (red minus blue), ``brightness`` (mean grey level) and ``greenness`` (green minus
the mean of red and blue): plain functions of the pixels, never of a neural network. An item's photo has no other trace
in its columns, so for items that a model never saw in training only the picture tells that part of the logit.

About a third of the items are launched in the last fifth of the log: they are never shown before. Because the log is
split by time, these items are unseen in training.

After a click the user may put the item into the favourites, into the cart, or buy it: labels fav, cart and buy, with
probabilities 0.3, 0.2 and 0.1 that rise by half when the shop's shift is positive. Clicks and what followed are the
behaviours, 5 to 300 seconds after the impression.

``truth.json`` holds the coefficients, ``reference.json`` the AUC of the true probabilities on the test rows: no model
can do better but by luck. Beside it stands the AUC of the same logits without the photos' part, and the standard
deviation of that part: how much the photos are worth.

With ``--plain`` there are no second photos, prices and tags, and each photo is one item: the logs of docs/results.md.
With ``--effect department`` the photos' part is no statistic of the pixels: it is what the photo's class is worth, of
that column of ``photos.csv``, which then stands in ``items.csv``, too.
"""

from __future__ import annotations

import argparse
import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from shop import (
    CATEGORIES,
    CITIES,
    TAGS,
    TASTE_GROUPS,
    USERS,
    WITHOUT_PHOTO,
    Catalogue,
    Floats,
    Looks,
    class_looks,
    draw_catalogue,
    draw_effects,
    pixel_looks,
)

HERE = Path(__file__).resolve().parent
START = 1_700_000_000  # 2023-11-14, in seconds
DAYS = 14
TEST_SHARE = 0.2
IMPRESSIONS = 36_000
LATE_SHOWN = 0.45
BIAS = -1.3
HISTORY_WEIGHT = {"click": 0.25, "fav": 0.4, "cart": 0.5, "buy": 0.7}
HALF_LIFE_S = 3 * 86_400
HISTORY_CAP = 1.5
FOLLOW_UP = {"fav": 0.3, "cart": 0.2, "buy": 0.1}


class _Affinity:
    """How much a user's recent behaviours speak for each category: decaying sums, shape (USERS, CATEGORIES)."""

    def __init__(self) -> None:
        self.value = np.zeros((USERS, CATEGORIES))
        self.at = np.full((USERS, CATEGORIES), START, dtype=np.float64)

    def read(self, user: int, category: int, at: float) -> float:
        decayed = self.value[user, category] * 0.5 ** ((at - self.at[user, category]) / HALF_LIFE_S)
        return min(HISTORY_CAP, float(decayed))

    def add(self, user: int, category: int, at: float, weight: float) -> None:
        decayed = self.value[user, category] * 0.5 ** ((at - self.at[user, category]) / HALF_LIFE_S)
        self.value[user, category], self.at[user, category] = decayed + weight, at


def simulate(out: Path, seed: int, *, plain: bool = False, effect: str = "") -> dict[str, Any]:
    """Draw the logs and write them to ``out``; return what ``truth.json`` holds."""
    rng = np.random.default_rng(seed)
    photos = sorted((HERE / "images").glob("*.jpg"))
    looks = class_looks(photos, effect, seed) if effect else pixel_looks(photos)
    effects = draw_effects(rng, len(photos) + WITHOUT_PHOTO, looks, seed, plain=plain)
    items = draw_catalogue(rng, photos, looks, effects, seed, plain=plain)
    city, group = rng.integers(0, CITIES, USERS), rng.integers(0, TASTE_GROUPS, USERS)
    visual = items.statistics @ effects.taste.T  # (I, TASTE_GROUPS)

    # One impression a second at most, so that a split by time cuts between seconds.
    times = START + np.sort(rng.choice(DAYS * 86_400, IMPRESSIONS, replace=False))
    test_from = round(IMPRESSIONS * (1 - TEST_SHARE))
    early, late = np.flatnonzero(~items.late), np.flatnonzero(items.late)
    affinity = _Affinity()
    pending: list[tuple[int, int, int, str]] = []  # (time, user, item, action), still to happen
    impressions, behaviours, probabilities = [], [], np.zeros(IMPRESSIONS)
    of_photo = np.zeros(IMPRESSIONS)  # logits
    for n, at in enumerate(times.tolist()):
        while pending and pending[0][0] < at:
            moment, user, item, action = pending.pop(0)
            behaviours.append((f"u{user}", items.item_id[item], moment, action))
            affinity.add(user, int(items.category[item]), moment, HISTORY_WEIGHT[action])
        user = int(rng.integers(USERS))
        item = int(rng.choice(late if n >= test_from and rng.random() < LATE_SHOWN else early))
        of_photo[n] = visual[item, group[user]]
        logit = (
            BIAS
            + effects.activity[user]
            + effects.city[city[user]]
            + items.static[item]
            + of_photo[n]
            + affinity.read(user, int(items.category[item]), at)
        )
        probabilities[n] = 1 / (1 + np.exp(-logit))
        click = bool(rng.random() < probabilities[n])
        more = 1.5 if effects.shop[items.shop[item]] > 0 else 1.0
        follow = {name: click and bool(rng.random() < min(1.0, p * more)) for name, p in FOLLOW_UP.items()}
        labels = {"click": click, **follow}
        impressions.append((f"u{user}", items.item_id[item], at, *(int(labels[name]) for name in HISTORY_WEIGHT)))
        for name, happened in labels.items():
            if happened:
                pending.append((at + int(rng.integers(5, 300)), user, item, name))
        pending.sort()

    _write(out, _of_items(items, _classes(photos, looks, effect), plain=plain), city, impressions, behaviours)
    clicks = np.array([row[3] for row in impressions])
    shown_late = np.isin([row[1] for row in impressions], items.item_id[items.late])
    test = np.arange(IMPRESSIONS) >= test_from
    blind = np.log(probabilities / (1 - probabilities)) - of_photo
    reference = {
        "name": "best possible (true probabilities)",
        "test": _auc_of_parts(clicks, probabilities, test, shown_late),
        "without_photos": _auc_of_parts(clicks, blind, test, shown_late),
        "photo_effect_std": float(of_photo[test].std()),
    }
    (out / "reference.json").write_text(json.dumps(reference, indent=1) + "\n")
    truth = {
        "simulated": True,
        "seed": seed,
        "click_rate": float(clicks.mean()),
        "late_items": sorted(int(i) for i in items.item_id[items.late]),
        "late_share_of_test": float(shown_late[test].mean()),
        "factors": list(looks.names),
        "effects": {name: np.round(values, 6).tolist() for name, values in vars(effects).items()},
        "quality": dict(zip(items.item_id.tolist(), np.round(items.quality, 6).tolist(), strict=True)),
        "probabilities": np.round(probabilities, 6).tolist(),
        "reference": reference,
    }
    (out / "truth.json").write_text(json.dumps(truth) + "\n")
    return truth


def _auc_of_parts(
    clicks: npt.NDArray[np.int64], scores: Floats, test: npt.NDArray[np.bool_], late: npt.NDArray[np.bool_]
) -> dict[str, float]:
    return {
        "all": plain_auc(clicks[test], scores[test]),
        "unseen_items": plain_auc(clicks[test & late], scores[test & late]),
    }


def plain_auc(labels: npt.NDArray[Any], scores: Floats) -> float:
    """Area under the ROC curve, ties one half: its own few lines, to share no fault with the trainer."""
    positive, negative = np.sort(scores[labels == 1]), np.sort(scores[labels == 0])
    below, upto = np.searchsorted(negative, positive, "left"), np.searchsorted(negative, positive, "right")
    return float((below + upto).sum() / 2 / (len(positive) * len(negative)))


def _classes(photos: list[Path], looks: Looks, column: str) -> dict[str, dict[int, str]]:
    """The class of each photo, where classes are what sells, by the column's name."""
    ids = [int(path.stem) for path in photos]
    return {column: dict(zip(ids, looks.classes, strict=True))} if looks.classes else {}


def _of_items(items: Catalogue, classes: dict[str, dict[int, str]], *, plain: bool) -> dict[str, list[Any]]:
    """Columns of ``items.csv``, by their items' ids."""

    def images(ids: npt.NDArray[np.int64]) -> list[Any]:
        return ["" if image < 0 else image for image in ids.tolist()]

    def words(kind: str, places: npt.NDArray[np.int64]) -> list[str]:
        return [" ".join(f"{kind}{place}" for place in row) for row in places.tolist()]

    columns: dict[str, list[Any]] = {
        "item_id": items.item_id.tolist(),
        "image_id": images(items.image_id),
        "second_image_id": images(items.second_image_id),
        "shop_id": [f"shop{place}" for place in items.shop.tolist()],
        "cate_id": [f"cate{place}" for place in items.category.tolist()],
        "title": words("t", items.title),
        "review": words("r", items.review),
        "price": ["" if np.isnan(price) else price for price in items.price.tolist()],
        "tags": ["|".join(np.array(TAGS)[row]) for row in items.tags],
        **{name: [of.get(image, "") for image in items.image_id.tolist()] for name, of in classes.items()},
    }
    order = np.argsort(items.item_id).tolist()
    left_out = ("second_image_id", "price", "tags") if plain else ()
    return {name: [values[i] for i in order] for name, values in columns.items() if name not in left_out}


def _write(
    out: Path,
    items: dict[str, list[Any]],
    city: npt.NDArray[np.int64],
    impressions: list[Any],
    behaviours: list[Any],
) -> None:
    out.mkdir(parents=True, exist_ok=True)

    def table(name: str, header: list[str], rows: Any) -> None:
        with open(out / name, "w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(header)
            writer.writerows(rows)

    table("items.csv", list(items), zip(*items.values(), strict=True))
    table("users.csv", ["user_id", "city"], ((f"u{user}", f"city{c}") for user, c in enumerate(city)))
    table("impressions.csv", ["user_id", "item_id", "time", "click", "fav", "cart", "buy"], impressions)
    table("behaviours.csv", ["user_id", "item_id", "time", "action"], behaviours)


def main() -> None:
    """Write the simulated logs."""
    parser = argparse.ArgumentParser(description="Simulate clicks on the grocery photos. Nobody clicked.")
    parser.add_argument("--out", type=Path, required=True, help="Folder to write the logs to.")
    parser.add_argument("--seed", type=int, default=1, help="Seed of everything that is drawn.")
    parser.add_argument("--plain", action="store_true", help="No second photos, prices and tags.")
    parser.add_argument("--effect", default="", help="Column of photos.csv whose classes sell, in place of the pixels.")
    arguments = parser.parse_args()
    truth = simulate(arguments.out, arguments.seed, plain=arguments.plain, effect=arguments.effect)
    best, blind = truth["reference"]["test"], truth["reference"]["without_photos"]
    print(
        f"simulated {IMPRESSIONS:,} impressions, click rate {truth['click_rate']:.1%}, "
        f"{truth['late_share_of_test']:.0%} of the test rows show items launched then"
    )
    print(f"best AUC any model could reach: {best['all']:.4f}, on those items {best['unseen_items']:.4f}")
    print(f"the same without the photos' part: {blind['all']:.4f}, on those items {blind['unseen_items']:.4f}")


if __name__ == "__main__":
    main()
