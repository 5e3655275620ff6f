"""The yardstick: an explainable boosting machine (interpret-core; Lou et al., KDD 2013) on the table of concepts.

It knows the concepts of the ad's photo, its shop and category, and the user's city, a smooth function of each; no user,
no item, no words and no behaviours. So it says what a sum of one-column functions, of any shape, finds in the table.

    pip install interpret-core
"""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from crossmedia.features.reading.samples import Samples
from crossmedia.trainer.metrics import auc

Array = npt.NDArray[Any]


def table(part: str, samples: Samples, logs: Path, vectors: Mapping[int, Array]) -> tuple[Array, Array, Array]:
    """Of the rows of a part: concepts and codes of columns, shape (R, K + 3); labels, shape (R,); unseen items."""
    frame = samples.frame(part, ["label", "item_id", "raw_item_id", "raw_user_id"])
    items, users = (_by(logs / name, key) for name, key in (("items.csv", "item_id"), ("users.csv", "user_id")))
    nothing = np.zeros(len(next(iter(vectors.values()))))
    columns, unseen = [], samples.item_counts()[np.asarray(frame["item_id"])] == 0
    for item, user in zip(frame["raw_item_id"].to_pylist(), frame["raw_user_id"].to_pylist(), strict=True):
        own = items[item]
        photo = vectors[int(own["image_id"])] if own["image_id"] else nothing
        codes = [int(own["shop_id"][4:]), int(own["cate_id"][4:]), int(users[user]["city"][4:])]
        columns.append(np.concatenate([photo, codes]))
    return np.array(columns, dtype=np.float64), np.asarray(frame["label"]), unseen


def _by(path: Path, key: str) -> dict[str, dict[str, str]]:
    with open(path, newline="", encoding="utf-8") as file:
        return {row[key]: row for row in csv.DictReader(file)}


def yardstick(samples: Samples, logs: Path, vectors: Mapping[int, Array]) -> tuple[float, float]:
    """AUC of all test rows, and of those of unseen items."""
    from interpret.glassbox import ExplainableBoostingClassifier

    x, y, _ = table("train", samples, logs, vectors)
    kinds = ["continuous"] * (x.shape[1] - 3) + ["nominal"] * 3
    machine = ExplainableBoostingClassifier(feature_types=kinds, interactions=0, outer_bags=4, n_jobs=1)
    machine.fit(x, y)
    x, y, unseen = table("test", samples, logs, vectors)
    scores = machine.predict_proba(x)[:, 1]
    return auc(y, scores), auc(y[unseen], scores[unseen])
