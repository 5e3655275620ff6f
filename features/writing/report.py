"""The report of a build of samples, and the sums that it is made of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from crossmedia.features.batch import Int64Array
from crossmedia.features.splits import SPLITS
from crossmedia.features.times import Span
from crossmedia.features.writing.item_table import ItemTable
from crossmedia.features.writing.notes import Notes
from crossmedia.features.writing.parts import Part

MOST = 0.5  # of the users: a few who did all in one second are in every log
Places = npt.NDArray[np.integer[Any]]


@dataclass
class BuildReport:
    """The report of a build.

    Attributes:
        rows: split name -> rows.
        positive_rate: label name -> share of ones over all rows.
        users, items, images: distinct ones in the log.
        mean_history: entries in the history of a row, on average.
        bytes_per_sample: size of the Parquet files of samples over all rows.
        unknown: split name -> id column -> share of rows whose value is missing, or in no training row.
        notes: what was found on the way, by kind: behaviours of unknown items and the like.
        first: kind of note -> the first one, where one is worth a look.
        remedy: kind of note -> what to do, where that is known.
        vocabulary_hash: of the vocabularies.
        partitions: into how many parts the users were divided.
        peak_memory_bytes: of this process, up to now.
        seconds: of the whole build.
    """

    rows: dict[str, int]
    positive_rate: dict[str, float]
    users: int
    items: int
    images: int
    mean_history: float
    vocabulary_hash: str
    partitions: int
    unknown: dict[str, dict[str, float]]
    notes: dict[str, int]
    first: dict[str, str]
    remedy: dict[str, str] = field(default_factory=dict)
    bytes_per_sample: float = 0.0
    peak_memory_bytes: int = 0
    seconds: float = 0.0

    def notes_in_words(self) -> list[str]:
        """A line for each kind of note."""
        return Notes(self.notes, self.first, self.remedy).lines()

    def as_dict(self) -> dict[str, Any]:
        """The report for ``--json``."""
        return asdict(self)


def memory(kind: str) -> int:
    """Bytes of this process: ``VmHWM`` at its peak, ``VmRSS`` now.

    Unlike ``ru_maxrss``, the peak is not that of the process that started it.
    """
    status = Path("/proc/self/status").read_text()
    return int(status.partition(f"{kind}:")[2].split()[0]) * 1024


@dataclass
class Totals:
    """Sums over the parts of a build."""

    rows: list[int] = field(default_factory=lambda: [0, 0, 0])
    positive: dict[str, int] = field(default_factory=dict)
    history: int = 0
    users: int = 0
    several: int = 0  # users with two rows or more
    at_once: int = 0  # those of them whose rows all have one time
    unknown: dict[str, dict[str, int]] = field(default_factory=lambda: {split: {} for split in SPLITS})
    notes: Notes = field(default_factory=Notes)

    def add(self, part: Part) -> None:
        """Count a part."""
        for number in range(len(SPLITS)):
            self.rows[number] += int((part.split == number).sum())
        for name, values in part.labels.items():
            self.positive[name] = self.positive.get(name, 0) + int(values.sum())
        self.history += int((part.end - part.start).sum())
        self.users += len(part.user_keys)
        self.several += part.several
        self.at_once += part.at_once
        for kind, count in part.notes.items():
            self.notes.add(kind, count)

    def add_unknown(self, ids: Mapping[str, Places], split: Int64Array) -> None:
        """Count the rows of a part whose id is missing, or in no training row, by split and column.

        Args:
            ids: column -> places, shape (n,).
            split: of each row, shape (n,).
        """
        for number, name in enumerate(SPLITS):
            here, unknown = split == number, self.unknown[name]
            for column, places in ids.items():
                unknown[column] = unknown.get(column, 0) + int((places[here] == 0).sum())

    def add_unknown_items(self, items: ItemTable, shown: Int64Array) -> None:
        """The same for the ids of items, and the rows whose item has no attributes.

        Args:
            items: the item table, of n rows.
            shown: how many rows of each split show each item, shape (splits, n).
        """
        for name, times in zip(SPLITS, shown, strict=True):
            for column, places in items.places.items():
                self.unknown[name][column] = int(times[places == 0].sum())
        if items.row_of_attributes is not None:
            without = int(shown[:, items.row_of_attributes < 0].sum())
            self.notes.add("rows_whose_item_has_no_attributes", without)

    def note_drawn(self, columns: list[str]) -> None:
        """Note that drawn negatives have ``columns`` of their positive's impression that tell the item: ``Telling``.

        A price in there is that of the item that was bought, whichever item the row shows.
        """
        drawn = sum(self.rows) - sum(self.positive.values())
        if columns and drawn:
            kind = "negatives_that_have_the_impression_columns_of_their_positive"
            self.notes.add(kind, drawn, ", ".join(columns))
            self.notes.remedy[kind] = (
                "a column that differs from item to item, as a price does, tells a model which item was bought: put it "
                "into [items], or leave it out"
            )

    def note_times(self, log: Span) -> None:
        """Note times that tell no order: one for all rows, or for all rows of most users."""
        if log.rows > 1 and log.first.time == log.last.time:
            kind, what = "rows_that_all_have_one_time", str(log.first.time)
            self.notes.add(kind, log.rows, what)
        elif self.at_once > MOST * self.several:
            kind, what = "users_whose_rows_all_have_one_time", f"of {self.several:,} with two rows or more"
            self.notes.add(kind, self.at_once, what)
        else:
            return
        self.notes.remedy[kind] = (
            "a history is what a user did before, so theirs are empty, and the order of the file decides which of "
            "their rows are for the test. Name a column with the time of each row"
        )

    def note_labels(self) -> None:
        """Note the labels that are the same in all rows: nothing can be learned from them."""
        rows = sum(self.rows)
        for name, positive in self.positive.items():
            if positive in (0, rows):
                self.notes.add(f"rows_that_all_have_one_label_{name}", rows, str(int(positive > 0)))
