"""The grocery clicks as any trainer may have them: arrays with ids of pictures, and no picture.

    python examples/grocery/simulate.py --plain --out clicks

Legend: R rows, H = 10 behaviours of a row.
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.csv as pc
import torch
from torch.utils.data import BatchSampler, DataLoader, RandomSampler, SequentialSampler, TensorDataset

Columns = dict[str, npt.NDArray[np.generic]]
IDS = ("user_id", "item_id", "shop_id", "cate_id")
IMAGES = ("image_id", "hist_image_id")  # of the item, shape (R,), and of the user's last clicks, shape (R, H)
LABEL, HISTORY, BATCH = "click", 10, 256


@dataclass(frozen=True)
class Clicks:
    """Both parts of the log, column -> array, and how many values each column of ids has, with 0 for unknown ones."""

    train: Columns
    test: Columns
    sizes: dict[str, int]


def read_clicks(folder: Path) -> Clicks:
    """The newest fifth of the log is the test part. Images are ids, -1 where there is none."""
    log, items, seen = (
        pc.read_csv(folder / f"{name}.csv").to_pydict() for name in ("impressions", "items", "behaviours")
    )
    place = {item: n for n, item in enumerate(items["item_id"])}
    images = np.array([-1 if image is None else image for image in items["image_id"]])
    of_row = np.array([place[item] for item in log["item_id"]])
    raw = {"user_id": np.array(log["user_id"]), "item_id": np.array(log["item_id"])}
    raw |= {name: np.array(items[name])[of_row] for name in ("shop_id", "cate_id")}

    clicked: dict[str, tuple[list[int], list[int]]] = {}
    for user, item, time, action in zip(*(seen[n] for n in ("user_id", "item_id", "time", "action")), strict=True):
        if action == "click":
            times, pictures = clicked.setdefault(user, ([], []))
            times.append(time)
            pictures.append(int(images[place[item]]))
    history = np.full((len(of_row), HISTORY), -1)
    for row, (user, time) in enumerate(zip(log["user_id"], log["time"], strict=True)):
        times, pictures = clicked.get(user, ([], []))
        last = pictures[: bisect_left(times, time)][-HISTORY:]  # strictly before
        history[row, : len(last)] = last

    late = np.array(log["time"]) >= np.quantile(log["time"], 0.8)
    columns: Columns = {"image_id": images[of_row], "hist_image_id": history, LABEL: np.array(log[LABEL], np.float32)}
    sizes = {}
    for name, values in raw.items():
        known = np.unique(values[~late])
        found = np.minimum(np.searchsorted(known, values), len(known) - 1)
        columns[name], sizes[name] = np.where(known[found] == values, found + 1, 0), len(known) + 1
    parts = ({name: values[rows] for name, values in columns.items()} for rows in (~late, late))
    return Clicks(next(parts), next(parts), sizes)


def loader(part: Columns, shuffle: bool = False) -> DataLoader[Any]:
    """Batches of a part, column -> tensor."""
    rows = TensorDataset(*(torch.from_numpy(values) for values in part.values()))
    order = RandomSampler(rows) if shuffle else SequentialSampler(rows)
    batches = BatchSampler(order, BATCH, drop_last=False)  # rows are taken a batch at a time
    return DataLoader(
        rows, sampler=batches, batch_size=None, collate_fn=lambda found: dict(zip(part, found, strict=True))
    )
