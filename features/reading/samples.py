"""Read samples on disk as jagged batches."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from crossmedia.errors import BadInput
from crossmedia.features.batch import Batch, Int64Array, concatenate
from crossmedia.features.layout import LAYOUTS, META_FILE, SplitFiles, StoredRows, sample_files
from crossmedia.features.meta import Meta
from crossmedia.features.reading.distinct import ImageVocabulary
from crossmedia.features.reading.occurrences import count_occurrences
from crossmedia.features.reading.row_groups import Columns, RowGroup
from crossmedia.features.vocabulary import Vocabularies

SHUFFLE_BYTES = 512 << 20


class Samples:
    """A folder that ``features build`` made.

    Attributes:
        folder: where it is.
        labels: label names; the first is the one that is trained.
        id_columns: column -> size of its vocabulary, place 0 included.
        history_columns: the same for the history, names without ``hist_``; empty when there are no behaviours.
        text_columns: the same for text.
        max_history: behaviours that a history holds at most.
        image_vocabulary_size: 0 when the samples have no images.
        has_images: whether a training row, or a behaviour of one, has an image.
        image_names: digests of the manifest that gave the images their ids, see ``ImageNames``; empty without one.
        vocabulary: the vocabularies themselves.
        vocabulary_hash: of the vocabularies.
        extends: hash of the vocabularies that these continue; empty when they began anew.
        layout: ``inline`` or ``by_user``, of the files; the rows and batches are the same.
        hash: of the rows: two folders with one hash hold the same samples, in one layout.
        unseen: column -> places that training is kept from, ascending; empty but of ``SamplesWithUnseenItems``.
        has_held_out: whether test rows tell if their item was held out entirely (column ``held_out``).

    Raises:
        BadInput: the folder holds no samples, or samples of another format.

    Example:
        >>> from crossmedia import Samples
        >>> samples = Samples("samples")
        >>> batch = next(iter(samples.batches("train", 64, shuffle_seed=0)))
        >>> len(batch) <= 64, sorted(batch.ids)[:2]
        (True, ['item_id', 'user_id'])
    """

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        meta = Meta.read(self.folder)
        self.layout = LAYOUTS[meta.schema_version]
        self.vocabulary = Vocabularies.load(self.folder)
        self.vocabulary_hash = meta.vocabulary_hash
        if self.vocabulary.hash != self.vocabulary_hash:
            raise self._damaged("The vocabulary is not the one that it tells of")
        self.labels = meta.labels
        self.id_columns = self._sizes(meta.id_columns)
        self.history_columns = self._sizes(meta.history_columns)
        self.text_columns = self._sizes(meta.text_columns)
        self.max_history = meta.max_history
        self.image_vocabulary_size = self._sizes(("image_id",))["image_id"] if meta.has_images else 0
        self.has_images = self.image_vocabulary_size > 1
        self.image_names, self.hash, self.extends = meta.image_names, meta.samples_hash, meta.extends
        self.unseen: dict[str, Int64Array] = {}
        self.has_held_out = meta.has_held_out
        images = self.vocabulary.values["image_id"].cast(pa.int64()) if meta.has_images else []
        self._images = ImageVocabulary(np.array(images, dtype=np.int64))
        self._columns = Columns(
            self.labels,
            tuple(self.id_columns),
            tuple(self.history_columns),
            tuple(self.text_columns),
            bool(self.image_vocabulary_size),
        )

    def _sizes(self, names: tuple[str, ...]) -> dict[str, int]:
        if absent := [name for name in names if name not in self.vocabulary.values]:
            raise self._damaged(f"The vocabulary has no column {absent[0]!r}, which it names")
        return {name: self.vocabulary.size(name) for name in names}

    def _damaged(self, what: str) -> BadInput:
        return BadInput(
            f"{self.folder / META_FILE} and the files beside it do not belong together: a file is damaged. {what}. "
            f"Copy the folder again, or run 'features build' again."
        )

    def _files(self, split: str) -> SplitFiles:
        return SplitFiles(self.folder, split, self.layout, self.vocabulary_hash)

    def rows(self, split: str) -> int:
        """Number of rows of a split."""
        with self._files(split) as files:
            return files.rows

    @property
    def size_bytes(self) -> int:
        """Bytes of the files that hold the samples of all splits, histories included."""
        return sum((self.folder / name).stat().st_size for name in sample_files(self.layout))

    def item_counts(self) -> Int64Array:
        """How often each item is the target of a training row, by the item's place, shape (items + 1,)."""
        return self.vocabulary.counts["item_id"]

    def occurrences(self) -> dict[str, Int64Array]:
        """How often each place occurs in the training rows, as target, in histories, or as a token of the target.

        Reads the training part once. An image that is null or not in its vocabulary counts for place 0.

        Returns:
            vocabulary name (id columns, ``action``, text columns, ``image_id``) -> shape (size,).
        """
        sizes = self.id_columns | self.history_columns | self.text_columns
        if self.image_vocabulary_size:
            sizes = sizes | {"image_id": self.image_vocabulary_size}
        with self._files("train") as files:
            return count_occurrences(files, self._columns, sizes, self._images)

    def frame(self, split: str, columns: list[str] | None = None) -> pa.Table:
        """Some columns of a whole split, or all of them, in file order; histories in list columns in either layout."""
        return pa.concat_tables(self.frames(split, columns))

    def frames(self, split: str, columns: list[str] | None = None) -> Iterator[pa.Table]:
        """The same, one row group at a time, for splits that do not fit into memory."""
        with self._files(split) as files:
            for group in range(files.row_groups):
                yield self._table(files, group, columns)

    def head(self, split: str, rows: int) -> list[dict[str, Any]]:
        """The first rows of a split as dictionaries."""
        found: list[dict[str, Any]] = []
        with self._files(split) as files:
            for group in range(files.row_groups):
                if len(found) < rows:
                    found += self._table(files, group, None, rows - len(found)).to_pylist()
        return found

    def _table(self, files: SplitFiles, group: int, columns: list[str] | None, limit: int | None = None) -> pa.Table:
        wanted = files.columns if columns is None else columns
        of_behaviours = [name for name in wanted if name in self._columns.of_behaviours]
        of_rows = [name for name in wanted if name not in of_behaviours]
        return files.read(group, of_rows, of_behaviours, limit).inlined().select(wanted)

    def batches(
        self, split: str, batch_size: int, *, shuffle_seed: int | None = None, epoch: int = 0
    ) -> Iterator[Batch]:
        """Every row of a split once, in batches of ``batch_size``; the last may be shorter.

        Args:
            split: ``train``, ``validation`` or ``test``.
            batch_size: rows in a batch.
            shuffle_seed: None keeps the order of the file. Else row groups come in a drawn order, some at a time, and
                rows are drawn from all of those: a row group holds few users, with all that they did, and batches from
                it alone would be alike. Memory holds ``SHUFFLE_BYTES`` of them, or one, whatever the size of the split.
            epoch: with the seed, draws another order.

        Raises:
            BadInput: ``batch_size`` is below 1, or there is no such split.
        """
        if batch_size < 1:
            raise BadInput(f"batch_size is {batch_size}; a batch has 1 row or more.")
        columns = self._columns
        rng = None if shuffle_seed is None else np.random.default_rng([shuffle_seed, epoch])
        with self._files(split) as files:
            numbers = np.arange(files.row_groups)
            together = [[number] for number in numbers.tolist()]
            if rng is not None:
                windows = -(-files.row_groups // self._shuffled_together(files))
                together = [window.tolist() for window in np.array_split(rng.permutation(numbers), windows)]
            waiting: list[Batch] = []  # parts of the next batch
            for window in together:
                parts = [files.read(number, columns.of_rows, columns.of_behaviours) for number in window]
                group = RowGroup(columns, StoredRows.joined(parts), self._images)
                order = None if rng is None else rng.permutation(len(group))
                start = 0
                while start < len(group):
                    end = min(len(group), start + batch_size - sum(map(len, waiting)))
                    waiting.append(group.batch(slice(start, end) if order is None else order[start:end]))
                    start = end
                    if sum(map(len, waiting)) == batch_size:
                        yield concatenate(waiting)
                        waiting = []
            if waiting:
                yield concatenate(waiting)

    def _shuffled_together(self, files: SplitFiles) -> int:
        """How many row groups rows are drawn from at once: as many as fit into ``SHUFFLE_BYTES`` with full histories.

        It must not depend on how the files lie, for batches are the same in both layouts.
        """
        numbers_per_row = len(self._columns.of_rows) + self.max_history * len(self._columns.of_behaviours)
        rows_per_group = -(-files.rows // max(1, files.row_groups))
        return max(1, SHUFFLE_BYTES // max(1, 8 * numbers_per_row * rows_per_group))
