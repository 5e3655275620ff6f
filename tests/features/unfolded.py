"""A batch as plain rows: what its arrays say of each row, one value after the other."""

from __future__ import annotations

from typing import Any

from crossmedia.features.batch import Batch, BatchItems, Jagged, VectorKeys

Row = dict[str, Any]


def cell(jagged: Jagged, row: int) -> list[Any]:
    found: list[Any] = jagged.values[jagged.offsets[row] : jagged.offsets[row + 1]].tolist()
    return found


def keys_of(keys: VectorKeys, item: int) -> list[int]:
    return [int(keys.unique[index]) for index in cell(keys.of_items, item)]


def item_of(items: BatchItems, item: int) -> Row:
    """Everything that an item has."""
    found: Row = {name: int(values[item]) for name, values in items.ids.items()}
    found |= {name: float(values[item]) for name, values in items.numbers.items()}
    found |= {name: cell(lists, item) for name, lists in (items.lists | items.text).items()}
    return found | {f"vectors {name}": keys_of(keys, item) for name, keys in items.vectors.items()}


def unfolded(batch: Batch) -> list[Row]:
    """Each row by the names of ``Samples.frame``; vectors by the name of their space."""
    rows = []
    for n in range(len(batch)):
        row: Row = {name: float(values[n]) for name, values in (batch.labels | batch.numbers).items()}
        row |= {name: int(values[n]) for name, values in batch.ids.items()}
        row |= {name: cell(lists, n) for name, lists in batch.lists.items()}
        row |= item_of(batch.items, int(batch.target[n])) | {"timestamp": int(batch.timestamp[n])}
        seen = [item_of(batch.items, item) for item in cell(batch.history, n)]
        row |= {f"hist_{name}": [one[name] for one in seen] for name in item_of(batch.items, 0)}
        part = slice(batch.history.offsets[n], batch.history.offsets[n + 1])
        row["hist_action"] = batch.action[part].tolist()
        row["hist_time"] = (batch.timestamp[n] - batch.history_age_s[part]).tolist()
        rows.append(row)
    return rows


def first_image(keys: list[int]) -> int:
    return keys[0] if keys else -1
