"""Row groups of samples in numpy: each is read and converted once, then batches are gathered from it.

Legend: R rows and M behaviours of the row group, B rows and N history entries of a batch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from crossmedia.features.batch import Batch, Jagged
from crossmedia.features.columns import HISTORY, IMAGE, label_columns
from crossmedia.features.layout import StoredRows
from crossmedia.features.reading.distinct import GroupImages, ImageVocabulary
from crossmedia.features.slices import Chosen, Slices, column, gathered, list_values, picked


@dataclass(frozen=True)
class Columns:
    """Which columns a folder of samples has.

    Attributes:
        labels: label names, in order.
        ids: id columns.
        history: history columns without ``hist_``, ``time`` and ``image_id`` left out; empty without behaviours.
        text: text columns.
        images: whether rows, and behaviours, have an ``image_id``.
    """

    labels: tuple[str, ...]
    ids: tuple[str, ...]
    history: tuple[str, ...]
    text: tuple[str, ...]
    images: bool

    @property
    def label_columns(self) -> dict[str, str]:
        """Label name -> its column."""
        return label_columns(self.labels)

    @property
    def of_rows(self) -> list[str]:
        """Columns that batches need of each row."""
        image = ["image_id"] if self.images else []
        return [*self.label_columns.values(), "timestamp", *self.ids, *image, *self.text]

    @property
    def of_behaviours(self) -> list[str]:
        """Columns that batches need of each behaviour; empty without behaviours."""
        image = ["image_id"] if self.images else []
        return [HISTORY + name for name in (*self.history, *image, "time")] if self.history else []


class RowGroup:
    """A row group, ready for batches.

    Args:
        columns: what there is.
        stored: ``columns.of_rows`` and ``columns.of_behaviours`` of the row group.
        vocabulary: places of image ids.
    """

    def __init__(self, columns: Columns, stored: StoredRows, vocabulary: ImageVocabulary):
        table = stored.table

        def values(name: str) -> npt.NDArray[Any]:
            return np.asarray(column(table, name))

        self._slices = stored.slices
        self._history = {name: stored.behaviours[HISTORY + name] for name in columns.history}
        self._behaviour_time = stored.behaviours[HISTORY + "time"] if columns.history else None
        self._time = values("timestamp")
        self._labels = {name: values(of).astype(np.float32) for name, of in columns.label_columns.items()}
        self._ids = {name: values(name) for name in columns.ids}
        self._text = {}
        for name in columns.text:
            lists = column(table, name)
            self._text[name] = (Slices.of(lists), list_values(lists))
        self._images: GroupImages | None = None
        if columns.images:
            seen = stored.behaviours.get(HISTORY + IMAGE, np.zeros(0, dtype=np.int64))
            self._images = GroupImages(values("image_id"), seen, vocabulary)

    def __len__(self) -> int:
        return len(self._time)

    def batch(self, rows: Chosen) -> Batch:
        """A batch of one or more rows, in the given order."""
        entries, offsets = self._slices.entries(rows)
        timestamp = picked(self._time, rows)
        age = np.zeros(0, dtype=np.int64)
        if self._behaviour_time is not None:
            age = np.repeat(timestamp, np.diff(offsets))
            age -= gathered(self._behaviour_time, entries)
        text = {}
        for name, (slices, tokens) in self._text.items():
            chosen, ends = slices.entries(rows)
            text[name] = Jagged(picked(tokens, chosen), ends)
        return Batch(
            labels={name: values[rows].copy() for name, values in self._labels.items()},
            timestamp=timestamp,
            ids={name: picked(values, rows) for name, values in self._ids.items()},
            history={name: Jagged(picked(values, entries), offsets) for name, values in self._history.items()},
            history_age_s=age,
            text=text,
            images=self._images.batch(rows, entries, offsets) if self._images else None,
        )
