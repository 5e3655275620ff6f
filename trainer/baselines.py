"""What any model is to beat: a constant, the mean of the item, and that of the item with that of the user.

    constant          p0, the share of positives among the training rows
    item mean         (positives + k * p0) / (rows + k) of the item
    item + user mean  logit(item mean) + logit(user mean) - logit(p0)

All counts are of training rows, however few negatives a model is trained on. An item or a user that no training row has
is at p0; so is the one that stands for all unknown ones. Each k, which draws means of few rows to p0, is the one of
``SHRINKAGES`` with the best AUC on the validation part (additive smoothing towards a prior: Micci-Barreca, SIGKDD
Explorations 2001). Within a user the user's own mean changes no order: in GAUC the last two are the same.

Legend: N rows of a part, P places of a vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from crossmedia.features.columns import label_column
from crossmedia.features.reading.samples import Samples
from crossmedia.trainer.metrics import auc

FloatArray = npt.NDArray[np.float64]
Places = npt.NDArray[np.int64]

CONSTANT, ITEM, ITEM_USER = "constant", "item mean", "item + user mean"
NAMES = CONSTANT, ITEM, ITEM_USER
SHRINKAGES = (20.0, 1.0, 2.0, 5.0, 10.0, 50.0, 100.0, 200.0)  # the first where the validation part cannot tell
LEAST = 1e-6  # of p0, and of 1 - p0: labels that are all alike have no logit


def baselines(samples: Samples, label: str = "", split: str = "test") -> dict[str, FloatArray]:
    """Probabilities of the rows of a part by the name of each baseline, shape (N,), in their order.

    Args:
        samples: as the models are trained on; those of ``samples_of`` where they are validated on unseen items.
        label: which label is meant; the first when it is empty.
        split: which rows.

    Example:
        >>> from crossmedia import Samples
        >>> from crossmedia.trainer.baselines import baselines
        >>> list(baselines(Samples("samples")))
        ['constant', 'item mean', 'item + user mean']
    """
    return fitted(samples, label).of(samples, split)


@dataclass(frozen=True)
class Means:
    """Rows of each value of a column, and the positive ones among them.

    Attributes:
        rows, positives: shape (P,); those of place 0, which is every unknown value at once, are 0.
        share: p0.
        shrinkage: k.
    """

    rows: FloatArray
    positives: FloatArray
    share: float
    shrinkage: float = SHRINKAGES[0]

    @property
    def logits(self) -> FloatArray:
        """Of the shrunk means by place, shape (P,)."""
        k = self.shrinkage
        of_each: FloatArray = _logit((self.positives + k * self.share) / (self.rows + k))
        return of_each


@dataclass(frozen=True)
class Baselines:
    """The three of them.

    Attributes:
        items, users: the means.
        share: p0.
    """

    items: Means
    users: Means
    share: float

    def predict(self, items: Places, users: Places) -> dict[str, FloatArray]:
        """Probabilities of rows by the name of each baseline, shape (N,).

        Args:
            items: shape (N,), places of the rows' items.
            users: shape (N,), those of their users.
        """
        of_item, of_user = self.items.logits[items], self.users.logits[users]
        return {
            CONSTANT: np.full(len(items), self.share),
            ITEM: _probability(of_item),
            ITEM_USER: _probability(of_item + of_user - _logit(self.share)),
        }

    def of(self, samples: Samples, split: str) -> dict[str, FloatArray]:
        """``predict`` for the rows of a part, in their order."""
        parts = [self.predict(*_columns(rows)) for rows in samples.frames(split, ["item_id", "user_id"])]
        return {name: np.concatenate([part[name] for part in parts]) for name in NAMES}


def fitted(samples: Samples, label: str = "") -> Baselines:
    """Count the training rows, which are read once, a row group at a time; k is what the validation part prefers.

    Args:
        samples: as for ``baselines``.
        label: as for ``baselines``.
    """
    column = label_column(samples.labels, label)
    sizes = (samples.item_ids["item_id"], samples.row_ids["user_id"])
    counts = [np.zeros((2, size)) for size in sizes]
    for rows in samples.frames("train", ["item_id", "user_id", column]):
        *keys, labels = _columns(rows)
        for counted, places, size in zip(counts, keys, sizes, strict=True):
            counted += np.stack([np.bincount(places, minlength=size), np.bincount(places, labels > 0, size)])
    all_rows, all_positives = counts[0].sum(axis=1)
    share = float(np.clip(all_positives / all_rows, LEAST, 1 - LEAST))
    for counted in counts:
        counted[:, 0] = 0
    items, users = (Means(rows, positives, share) for rows, positives in counts)
    return _chosen(samples, column, Baselines(items, users, share))


def _chosen(samples: Samples, column: str, found: Baselines) -> Baselines:
    """With the k of items, and then that of users, whose AUC on the validation part is the best."""
    items, users, labels = _columns(samples.frame("validation", ["item_id", "user_id", column]))

    def best(name: str, tried: list[Baselines]) -> Baselines:
        # Labels that are all alike have no AUC: nan is more than nothing to ``max``.
        return max(tried, key=lambda one: np.nan_to_num(auc(labels, one.predict(items, users)[name])))

    found = best(ITEM, [replace(found, items=replace(found.items, shrinkage=k)) for k in SHRINKAGES])
    return best(ITEM_USER, [replace(found, users=replace(found.users, shrinkage=k)) for k in SHRINKAGES])


def _columns(rows: pa.Table) -> list[npt.NDArray[Any]]:
    return [np.asarray(column.combine_chunks()) for column in rows.columns]


def _logit(share: Any) -> Any:
    return np.log(share) - np.log1p(-share)


def _probability(logits: FloatArray) -> FloatArray:
    of_each: FloatArray = 1 / (1 + np.exp(-logits))
    return of_each
