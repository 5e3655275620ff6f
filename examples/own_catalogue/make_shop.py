"""Stands in for data of one's own: a folder of photos with names, and a CSV of who was shown which, and clicked.

The photos are those of examples/grocery under the names of what they show, in a folder a department. The clicks are
simulated: a user likes some departments more than others, and all like warm colours. Half of the photos are there from
the start, the others come in over the two weeks, as photos do. Nobody clicked.

    python examples/own_catalogue/make_shop.py --out shop
"""

from __future__ import annotations

import argparse
import csv
import shutil
from pathlib import Path

import numpy as np
from PIL import Image

GROCERY = Path(__file__).resolve().parent.parent / "grocery"
USERS, SHOWN = 300, 12_000
START, SECONDS = 1_700_000_000, 14 * 86_400


def copy_photos(out: Path) -> list[tuple[str, str, float]]:
    """Copy the photos to ``out/<department>/<what it shows>-<number>.jpg``; names, departments and warmth of each."""
    found = []
    with open(GROCERY / "photos.csv", newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            source, name = GROCERY / row["image"], f"{row['fine'].lower()}-{int(row['item_id']):03d}"
            (out / row["department"].lower()).mkdir(parents=True, exist_ok=True)
            shutil.copy(source, out / row["department"].lower() / f"{name}{source.suffix}")
            red, _, blue = np.asarray(Image.open(source).convert("RGB"), dtype=np.float64).reshape(-1, 3).mean(axis=0)
            found.append((name, row["department"], red - blue))
    return found


def write_clicks(photos: list[tuple[str, str, float]], out: Path) -> None:
    """Draw who is shown what and clicks, and write ``user, photo, time, clicked``."""
    rng = np.random.default_rng(1)
    departments = sorted({department for _, department, _ in photos})
    of_photo = np.array([departments.index(department) for _, department, _ in photos])
    warmth = np.array([warm for _, _, warm in photos])
    warmth = (warmth - warmth.mean()) / warmth.std()
    liking = rng.normal(0, 1, (USERS, len(departments)))
    time = np.sort(rng.choice(SECONDS, SHOWN, replace=False))
    new_from = np.maximum(0, rng.uniform(-SECONDS, SECONDS, len(photos)))
    user = rng.integers(0, USERS, SHOWN)
    photo = np.array([rng.choice(np.flatnonzero(new_from <= at)) for at in time])
    logit = -1 + liking[user, of_photo[photo]] + warmth[photo]
    clicked = rng.random(SHOWN) < 1 / (1 + np.exp(-logit))
    with open(out, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["user", "photo", "time", "clicked"])
        for u, p, t, c in zip(user, photo, time, clicked, strict=True):
            writer.writerow([f"customer-{u}", photos[p][0], START + t, int(c)])


def main() -> None:
    """Write the shop."""
    parser = argparse.ArgumentParser(description="Write a folder of photos and a CSV of simulated clicks.")
    parser.add_argument("--out", type=Path, required=True, help="Folder to write photos/ and clicks.csv to.")
    out = parser.parse_args().out
    photos = copy_photos(out / "photos")
    write_clicks(photos, out / "clicks.csv")
    print(f"{len(photos)} photos in {out / 'photos'}, {SHOWN:,} simulated impressions in {out / 'clicks.csv'}")


if __name__ == "__main__":
    main()
