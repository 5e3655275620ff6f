"""Users who each like one kind of picture, and features that show the kind below much else, for tests of alignment."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
from made_samples import SCHEMA

from crossmedia.features.schema import load_schema
from crossmedia.features.writing.build import build_samples
from crossmedia.imgserver.head import fit_pca
from crossmedia.imgserver.head_files import save_head
from crossmedia.imgserver.storage.records import SOURCE, Rows
from crossmedia.imgserver.storage.store import Store
from crossmedia.imgserver.storage.versions import FEATURE_DTYPE, vector_space
from crossmedia.status import Status
from crossmedia.version import Version

ITEMS, NEW, USERS, ROWS, KINDS, FEATURE = 300, 60, 60, 6000, 6, 24
BACKBONE = "tastes@000000000000"
SPACES = SCHEMA.replace("[split]", '[vectors.photo]\nkey = "image"\n[vectors.title]\nkey = "item"\n[split]')


def make_tastes(folder: Path, schema: str = SCHEMA) -> Path:
    """Samples: what is clicked is of the kind that the user likes; the last items are new in the test part."""
    rng = np.random.default_rng(3)
    with open(folder / "impressions.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["user", "item", "time", "click"])
        for n in range(ROWS):
            time_s, user = 120 * n, int(rng.integers(USERS))
            item = int(rng.integers(ITEMS - NEW if n < 0.8 * ROWS else ITEMS))
            liked = user % KINDS == item % KINDS
            writer.writerow([f"u{user}", item, time_s, int(rng.random() < (0.9 if liked else 0.05))])
    with open(folder / "items.csv", "w", newline="") as file:
        csv.writer(file).writerows([("item", "image"), *((i, i) for i in range(ITEMS))])
    (folder / "samples.toml").write_text(schema)
    build_samples(load_schema(folder / "samples.toml"), folder / "samples")
    return folder / "samples"


def make_store(folder: Path, backbone: str = BACKBONE, missing: int = 0) -> Path:
    """Features: the kind in a few numbers, and much that nobody's taste knows in the others; the first are missing."""
    rng = np.random.default_rng(4)
    kind = np.eye(KINDS)[np.arange(ITEMS) % KINDS] + 0.2 * rng.standard_normal((ITEMS, KINDS))
    values = np.hstack([kind, 1.5 * rng.standard_normal((ITEMS, FEATURE - KINDS))]).astype(np.float16)
    store = Store(folder)
    features = store.index.ensure_space(backbone, "feature", FEATURE, FEATURE_DTYPE, "none")
    head = fit_pca(values, 8)
    version = head.version(backbone)
    save_head(store, head)
    ids, status = np.arange(ITEMS), np.full(ITEMS, Status.OK, dtype=np.uint8)
    status[:missing] = Status.CORRUPT
    for space, rows in ((features, values), (vector_space(store, Version.parse(version)), head.apply_numpy(values))):
        store.put(Rows(space, ids, status, np.zeros(ITEMS, dtype=SOURCE), rows))
    store.index.activate(version)
    store.close()
    return folder
