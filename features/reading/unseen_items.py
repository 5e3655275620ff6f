"""Samples where validation is on items that training never sees, for models whose question is what is new.

A model with item ids, stopped or chosen by rows of items that it was trained on, leans on the ids: what a picture or a
title says of these items their ids say as well.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from crossmedia.errors import BadInput
from crossmedia.features.batch import Batch, Int64Array, concatenate
from crossmedia.features.columns import IMAGE, ITEM
from crossmedia.features.hold_out import drawn
from crossmedia.features.reading.samples import Samples

SHARE = 0.1
SEED = 0x756E7365656E  # of a draw of its own: items that 'features build' holds out are another one's


def samples_of(folder: str | Path, validate_on: str) -> Samples:
    """A folder of samples, validated on ``all-items`` or on ``unseen-items``.

    Raises:
        BadInput: it cannot be, or holds no samples.
    """
    return SamplesWithUnseenItems(folder) if validate_on == "unseen-items" else Samples(folder)


def held_out_places(samples: Samples) -> npt.NDArray[np.bool_]:
    """Which places of the items' vocabulary are held out, shape (places,), place 0 included, which never is."""
    keys = samples.vocabulary.values[ITEM]
    return np.append(False, drawn(SHARE, SEED, keys, samples.items.together(len(keys))))


class SamplesWithUnseenItems(Samples):
    """A folder of samples, as if a tenth of its items had come after training.

    These items, drawn by their keys and so the same for every model and seed, are unknown: their id and their images'
    ids are place 0 wherever they stand, in histories too, as those of an item that no training row has. All else that
    they have stays, vectors too. Items that share an image are drawn together, as are those of a group that the schema
    names (``hold_out_by``). None of their rows is a training row. The validation part keeps its rows of these items,
    and of those that no training row has anyway; the test part keeps all rows. Rows of the training part are no
    validation rows whatever their item: what else a user did in the same hour was trained on, which tells them.

    Args:
        folder: that 'features build' made.

    Raises:
        BadInput: as ``Samples``; or no row is left for training or for validation.
    """

    def __init__(self, folder: str | Path):
        super().__init__(folder)
        self._unknown = held_out_places(self)
        self.items.hide(self._unknown)
        self.unseen = {ITEM: np.flatnonzero(self._unknown), IMAGE: self.items.hidden_images}
        self._rows = {split: sum(map(len, self.frames(split, [ITEM]))) for split in ("train", "validation")}
        if not all(self._rows.values()):
            raise BadInput(
                f"{self.folder} cannot be validated on unseen items: {len(self.unseen[ITEM]):,} of "
                f"{len(self._unknown) - 1:,} items are held out, which leaves {self._rows['train']:,} rows for "
                f"training and {self._rows['validation']:,} for validation. Use --validate-on all-items, or more data."
            )

    def rows(self, split: str) -> int:
        """Number of rows of a split."""
        return self._rows[split] if split in self._rows else super().rows(split)

    def item_counts(self) -> Int64Array:
        """As ``Samples.item_counts``; an item that is unknown is the target of no training row."""
        return np.where(self._unknown, 0, super().item_counts())

    def frames(self, split: str, columns: list[str] | None = None) -> Iterator[pa.Table]:
        """As ``Samples.frames``, of the rows that the split has here; places of items are those of the vocabulary."""
        wanted = columns if columns is None or ITEM in columns else [*columns, ITEM]
        for table in super().frames(split, wanted):
            item = np.asarray(table[ITEM].combine_chunks())
            kept = pa.array(self._belongs(split, self._unknown[item] | (item == 0)))
            yield table.filter(kept).select(columns or table.column_names)

    def batches(
        self, split: str, batch_size: int, *, shuffle_seed: int | None = None, epoch: int = 0
    ) -> Iterator[Batch]:
        """As ``Samples.batches``, of the rows that the split has here."""
        batches = super().batches(split, batch_size, shuffle_seed=shuffle_seed, epoch=epoch)
        kept = (self._kept(split, batch) for batch in batches)
        return in_batches((batch for batch in kept if len(batch)), batch_size)

    def _kept(self, split: str, batch: Batch) -> Batch:
        """The rows of a batch that the split has here."""
        kept = self._belongs(split, batch.items.ids[ITEM][batch.target] == 0)
        return batch if kept.all() else batch.take(np.flatnonzero(kept))

    @staticmethod
    def _belongs(split: str, unseen: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
        """Which rows of the file of a split belong to it here, by whether their items are unseen."""
        return {"train": ~unseen, "validation": unseen}.get(split, np.ones_like(unseen))


def in_batches(parts: Iterable[Batch], batch_size: int) -> Iterator[Batch]:
    """The rows of some batches of one row or more, in order, in batches of ``batch_size``; the last may be shorter."""
    waiting: list[Batch] = []
    for part in parts:
        waiting.append(part)
        while (there := sum(map(len, waiting))) >= batch_size:
            whole = concatenate(waiting)
            yield whole.take(np.arange(batch_size)) if there > batch_size else whole
            waiting = [whole.take(np.arange(batch_size, there))] if there > batch_size else []
    if waiting:
        yield concatenate(waiting)
