"""The list of photos that cannot be embedded, which precompute keeps beside a store: what its lines are."""

from __future__ import annotations

import csv
from dataclasses import dataclass, fields
from pathlib import Path

REJECTS_FILE = "rejects.csv"


@dataclass(frozen=True)
class Reject:
    """A photo that cannot be embedded: a line of the file.

    Attributes:
        image_id: its id.
        key: what a manifest calls it; empty where it is called by its id.
        file: where it is, below the catalogue; empty where that is not known.
        reason: its status, and why.
    """

    image_id: int
    key: str
    file: str
    reason: str


COLUMNS = tuple(field.name for field in fields(Reject))


def read_rejects(folder: Path) -> dict[int, Reject]:
    """What earlier runs wrote, by image id; nothing where there is no file, or another one."""
    try:
        with open(folder / REJECTS_FILE, encoding="utf-8", newline="") as file:
            rows = csv.DictReader(file)
            if tuple(rows.fieldnames or ()) != COLUMNS:
                return {}
            found = [Reject(int(row["image_id"]), row["key"], row["file"], row["reason"]) for row in rows]
    except (OSError, ValueError, TypeError, csv.Error):
        return {}
    return {reject.image_id: reject for reject in found}
