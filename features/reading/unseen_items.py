"""Samples where validation is on items that training never sees, for models whose question is what is new.

A model with item ids, stopped or chosen by rows of items that it was trained on, leans on the ids: what a picture or a
title says of these items their ids say as well.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import chain
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from crossmedia.errors import BadInput
from crossmedia.features.batch import Batch, Int64Array, Jagged, concatenate
from crossmedia.features.columns import HISTORY, IMAGE
from crossmedia.features.hashing import draw, hash_strings
from crossmedia.features.reading.samples import Samples
from crossmedia.features.reading.sampling import take_rows

ITEM = "item_id"
SHARE = 0.1
SEED = 0x756E7365656E  # of a draw of its own: items that 'features build' holds out are another one's


def samples_of(folder: str | Path, validate_on: str) -> Samples:
    """A folder of samples, validated on ``all-items`` or on ``unseen-items``.

    Raises:
        BadInput: it cannot be, or holds no samples.
    """
    return SamplesWithUnseenItems(folder) if validate_on == "unseen-items" else Samples(folder)


class SamplesWithUnseenItems(Samples):
    """A folder of samples, as if a tenth of its items had come after training.

    These items, drawn by their keys and so the same for every model and seed, are unknown: their id and their image's
    are place 0 wherever they stand, in histories too, as those of an item that no training row has. Their other
    columns, words and vectors stay. None of their rows is a training row. The validation part is all their rows before
    the test part, and those validation rows whose item no training row has anyway. The test part keeps its rows.

    Args:
        folder: that 'features build' made.

    Attributes:
        unseen: vocabulary name (``item_id``, ``image_id``) -> places that are unknown, ascending.

    Raises:
        BadInput: as ``Samples``; or no row is left for training or for validation.
    """

    def __init__(self, folder: str | Path):
        super().__init__(folder)
        drawn = draw(SEED, hash_strings(self.vocabulary.values[ITEM]).view(np.int64))
        self._unknown = {ITEM: np.append(False, drawn < np.uint64(SHARE * 2**64))}
        if self.image_vocabulary_size:
            self._unknown[IMAGE] = self._images_of_unknown()
        self.unseen = {name: np.flatnonzero(unknown) for name, unknown in self._unknown.items()}
        self._rows = {split: sum(map(len, self.frames(split, [ITEM]))) for split in ("train", "validation")}
        if not all(self._rows.values()):
            raise BadInput(
                f"{self.folder} cannot be validated on unseen items: {len(self.unseen[ITEM]):,} of {len(drawn):,} "
                f"items are held out, which leaves {self._rows['train']:,} rows for training and "
                f"{self._rows['validation']:,} for validation. Use --validate-on all-items, or more data."
            )

    def _images_of_unknown(self) -> npt.NDArray[np.bool_]:
        """Which places of the image vocabulary are images of items that are unknown."""
        unknown = np.zeros(self.image_vocabulary_size, dtype=np.bool_)
        pairs = [(ITEM, IMAGE), *([(HISTORY + ITEM, HISTORY + IMAGE)] if self.history_columns else [])]
        for table in super().frames("train", [name for pair in pairs for name in pair]):
            for item, image in pairs:
                of = [table[name].combine_chunks() for name in (item, image)]
                places, ids = (np.asarray(v.flatten() if pa.types.is_list(v.type) else v) for v in of)
                unknown[self._images.places(ids[self._unknown[ITEM][places]])] = True
        unknown[0] = False
        return unknown

    def rows(self, split: str) -> int:
        """Number of rows of a split."""
        return self._rows[split] if split in self._rows else super().rows(split)

    def item_counts(self) -> Int64Array:
        """As ``Samples.item_counts``; an item that is unknown is the target of no training row."""
        return np.where(self._unknown[ITEM], 0, super().item_counts())

    def occurrences(self) -> dict[str, Int64Array]:
        """As ``Samples.occurrences``, where what is unknown counts for place 0, in rows that are left out as well."""
        found = super().occurrences()
        for name, unknown in self._unknown.items():
            found[name][0] += found[name][unknown].sum()
            found[name][unknown] = 0
        return found

    def frames(self, split: str, columns: list[str] | None = None) -> Iterator[pa.Table]:
        """As ``Samples.frames``, of the rows that the split has here."""
        for part in self._parts(split):
            wanted = columns if columns is None or ITEM in columns else [*columns, ITEM]
            for table in super().frames(part, wanted):
                kept = pa.array(self._belongs(split, np.asarray(table[ITEM].combine_chunks())))
                yield table.filter(kept).select(columns or table.column_names)

    def batches(
        self, split: str, batch_size: int, *, shuffle_seed: int | None = None, epoch: int = 0
    ) -> Iterator[Batch]:
        """As ``Samples.batches``, of the rows that the split has here."""
        parts = [
            super(SamplesWithUnseenItems, self).batches(part, batch_size, shuffle_seed=shuffle_seed, epoch=epoch)
            for part in self._parts(split)
        ]
        kept = (self._kept(split, batch) for batch in chain(*parts))
        return map(self._without_ids, in_batches((batch for batch in kept if len(batch)), batch_size))

    def _parts(self, split: str) -> tuple[str, ...]:
        """The files that rows of a split lie in."""
        return ("train", "validation") if split == "validation" else (split,)

    def _belongs(self, split: str, item: npt.NDArray[np.integer]) -> npt.NDArray[np.bool_]:
        """Which rows of the files of a split belong to it here, by the places of their items."""
        if split == "test":
            return np.ones(len(item), dtype=np.bool_)
        unseen: npt.NDArray[np.bool_] = self._unknown[ITEM][item] | (item == 0)
        return unseen if split == "validation" else ~unseen

    def _kept(self, split: str, batch: Batch) -> Batch:
        rows = np.flatnonzero(self._belongs(split, batch.ids[ITEM]))
        return batch if len(rows) == len(batch) else take_rows(batch, rows)

    def _without_ids(self, batch: Batch) -> Batch:
        """A batch in which what is unknown has place 0."""

        def known(name: str, places: Int64Array) -> Int64Array:
            return np.where(self._unknown[name][places], 0, places)

        history, images = batch.history, batch.images
        if ITEM in history:
            history = history | {ITEM: Jagged(known(ITEM, history[ITEM].values), history[ITEM].offsets)}
        if images is not None:
            images = replace(images, unique_index=known(IMAGE, images.unique_index))
        return replace(batch, ids=batch.ids | {ITEM: known(ITEM, batch.ids[ITEM])}, history=history, images=images)


def in_batches(parts: Iterable[Batch], batch_size: int) -> Iterator[Batch]:
    """The rows of some batches of one row or more, in order, in batches of ``batch_size``; the last may be shorter."""
    waiting: list[Batch] = []
    for part in parts:
        waiting.append(part)
        while (there := sum(map(len, waiting))) >= batch_size:
            whole = concatenate(waiting)
            yield take_rows(whole, np.arange(batch_size)) if there > batch_size else whole
            waiting = [take_rows(whole, np.arange(batch_size, there))] if there > batch_size else []
    if waiting:
        yield concatenate(waiting)
