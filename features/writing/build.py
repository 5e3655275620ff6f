"""Turn logs into samples: one Parquet row per impression, with ids only and strictly earlier histories.

The log is streamed, whatever its size: a first pass checks it and lays the rows of each user into one partition on
disk; a second finds splits and histories, a partition at a time, and counts what the training rows hold; a third
encodes and writes. Memory holds a partition, the item table and the vocabularies. There is no Python loop over rows.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from crossmedia.arguments import check_places
from crossmedia.errors import BadInput
from crossmedia.features.encoding import Encoding
from crossmedia.features.layout import FORMAT, sample_files
from crossmedia.features.meta import Meta, Space
from crossmedia.features.schema import load_schema
from crossmedia.features.spec import BY_IMAGE, TIME, Columns, Schema
from crossmedia.features.splits import SPLITS, TimeCounts
from crossmedia.features.times import Span
from crossmedia.features.vocabulary import Vocabularies
from crossmedia.features.writing import partitions
from crossmedia.features.writing.attributes import Attributes, read_items, read_users
from crossmedia.features.writing.counting import ValueCounts
from crossmedia.features.writing.encode import EncodedPart, Encoder
from crossmedia.features.writing.files import SampleWriter
from crossmedia.features.writing.hold_out import HoldOut
from crossmedia.features.writing.item_table import ItemTable
from crossmedia.features.writing.logs import behaviour_source, log_source, stream_behaviours, stream_log
from crossmedia.features.writing.matching import check_histories, check_known, check_splits, check_times, note_items
from crossmedia.features.writing.on_sale import LogItems, SaleDays
from crossmedia.features.writing.partitions import Partitions
from crossmedia.features.writing.parts import Part, make_part
from crossmedia.features.writing.report import BuildReport, Totals, memory
from crossmedia.features.writing.target import claimed, put_in_place
from crossmedia.features.writing.telling import Telling
from crossmedia.features.writing.training import TrainingCounts, build_vocabularies
from crossmedia.names import ImageNames

Progress = Callable[[str, int, int], None]


def build_samples(
    schema: Schema | str | Path,
    out: str | Path,
    extend: str | Path | None = None,
    progress: Progress = lambda what, done, total: None,
    *,
    overwrite: bool = False,
) -> BuildReport:
    """Read the tables that ``schema`` names and write samples to the folder ``out``.

    Args:
        schema: which column is what, or the TOML file that says so.
        out: of one build at a time.
        extend: a folder of samples whose vocabularies are continued: every place in them stays.
        progress: told what is being done, and how far it is.
        overwrite: replace samples that are in ``out``; they stay until the new ones are complete.

    Raises:
        BadInput: a file, a column or a value is wrong, or tables match nobody; the message names them. Or there are
            samples in ``out``, or another build is at work there.

    Example:
        >>> from crossmedia import build_samples
        >>> report = build_samples("samples.toml", out="samples", overwrite=True)
        >>> report.rows["train"] > 0
        True
    """
    check_places(out=out, extend=extend or "", **({} if isinstance(schema, Schema) else {"schema": schema}))
    started = time.monotonic()
    schema = schema if isinstance(schema, Schema) else load_schema(schema)
    folder = Path(out)
    old = Vocabularies.load(Path(extend)) if extend else None
    with claimed(folder, overwrite=overwrite) as work:
        with _Build(schema, work, old, progress) as building:
            report = building.run()
        report.seconds = time.monotonic() - started
        put_in_place(work, folder, histories=schema.behaviours is not None)
    report.peak_memory_bytes = memory("VmHWM")
    return report


class _Build:
    """The three passes over one log."""

    def __init__(self, schema: Schema, work: Path, old: Vocabularies | None, progress: Progress):
        self.schema, self.work, self.old, self.progress = schema, work, old, progress
        self.totals, self.times, self.item_counts = Totals(), TimeCounts(), ValueCounts()
        self.sale_days = (
            SaleDays(schema.negatives.within_days) if schema.negatives and schema.negatives.within_days else None
        )
        self.log_span, self.behaviour_span, self.behaviour_rows = Span(), Span(), 0
        self.telling = Telling(schema.log.columns if schema.negatives else Columns())
        self.log, self.behaviours = log_source(schema), behaviour_source(schema)
        for source in filter(None, (self.log, self.behaviours)):
            source.note_others(self.totals.notes)
        guess = self.log.rows_guess() + (self.behaviours.rows_guess() if self.behaviours else 0)
        count = partitions.partitions_for(guess)
        self.log_parts = Partitions(work, "log", count)
        self.behaviour_parts = Partitions(work, "behaviours", count)
        self._only_part: Part | None = None

    def __enter__(self) -> _Build:
        return self

    def __exit__(self, *_: object) -> None:
        self.log_parts.close()
        self.behaviour_parts.close()

    def run(self) -> BuildReport:
        """Run all passes."""
        schema, totals = self.schema, self.totals
        encoding = Encoding.of(schema.log.columns, schema.of_users, schema.of_items)
        items, users = read_items(schema, encoding, totals.notes), read_users(schema, encoding, totals.notes)
        self.hold_out = HoldOut(schema.split, items, totals.notes)
        log_rows = self._partition()
        names, _ = self.item_counts.ordered()
        every_item = names.take(pc.sort_indices(names))
        self.items = LogItems(every_item, self.sale_days.on_sale(every_item) if self.sale_days else None)
        self.boundaries = self.times.boundaries(schema.split) if schema.split.method == TIME else None
        check_known(schema, every_item, items, "item", totals.notes)
        counts = TrainingCounts(schema.log.columns)
        known = pc.unique(pa.concat_arrays([every_item, items.key])) if items else every_item

        def count(part: Part) -> None:
            totals.add(part)
            counts.add(part)
            note_items(schema, part.behaviours, known, totals.notes)

        self._each_part("counting", count)
        totals.note_labels()
        totals.note_times(self.log_span)
        if schema.negatives:
            totals.note_drawn(self.telling.columns())
        check_histories(schema, totals, self.behaviour_rows, (self.log_span, self.behaviour_span))
        check_splits(schema, totals, log_rows)
        check_known(schema, counts.user.ordered()[0], users, "user", totals.notes)
        counts.note(totals.notes)
        vocabulary = build_vocabularies(schema, counts, encoding, (items, users), self.old)
        vocabulary.save(self.work)
        table = ItemTable(schema, vocabulary, items, counts.shown.ordered()[0], self.hold_out, totals.notes)
        size = self._write(Encoder(schema, vocabulary, table, users), vocabulary)
        rows = sum(totals.rows)
        return BuildReport(
            rows=dict(zip(SPLITS, totals.rows, strict=True)),
            positive_rate={name: count / rows for name, count in totals.positive.items()},
            users=totals.users,
            items=len(every_item),
            images=_distinct_images(items, every_item),
            mean_history=totals.history / rows,
            vocabulary_hash=vocabulary.hash,
            partitions=self.log_parts.count,
            unknown={
                split: {name: count / number for name, count in totals.unknown[split].items()}
                for split, number in zip(SPLITS, totals.rows, strict=True)
            },
            notes=totals.notes.counts,
            first=totals.notes.first,
            remedy=totals.notes.remedy,
            bytes_per_sample=size / rows,
        )

    def _partition(self) -> int:
        """The first pass; returns the rows of the log."""
        done, guess = 0, self.log.rows_guess()
        for table in stream_log(self.schema, self.log, self.log_span):
            self.item_counts.add(table["item"].combine_chunks())
            if self.sale_days is not None:
                self.sale_days.add(table["item"].combine_chunks(), np.asarray(table["time"]))
            if self.schema.split.method == TIME:
                self.times.add(np.asarray(table["time"]))
            self.telling.add(table)
            self.log_parts.write(table)
            done += len(table)
            self.progress("reading the log", done, max(done, guess))
        self.log_parts.close()
        if self.behaviours is not None:
            guess = self.behaviours.rows_guess()
            for table in stream_behaviours(self.schema, self.behaviours, self.behaviour_span, self.totals.notes):
                if not len(table):
                    continue
                self.behaviour_parts.write(table)
                self.behaviour_rows += len(table)
                self.progress("reading behaviours", self.behaviour_rows, max(self.behaviour_rows, guess))
            if not self.behaviour_rows:
                raise BadInput(f"No row of {self.behaviours.path} has a user, an item and an action.")
            check_times(self.schema, self.log_span, self.behaviour_span)
        self.behaviour_parts.close()
        return done

    def _each_part(self, what: str, work: Callable[[Part], None]) -> None:
        """Do ``work`` on every part, one in memory at a time; a log of one partition is prepared once."""
        for number in range(self.log_parts.count):
            self.progress(what, number, self.log_parts.count)
            if (part := self._only_part or self._part(number)) is None:
                continue
            if self.log_parts.count == 1:
                self._only_part = part
            work(part)
            del part
            pa.default_memory_pool().release_unused()
        self.progress(what, self.log_parts.count, self.log_parts.count)

    def _part(self, number: int) -> Part | None:
        log = self.log_parts.read(number)
        if log is None:
            return None
        return make_part(
            self.schema, log, self.behaviour_parts.read(number), self.boundaries, self.items, self.hold_out
        )

    def _write(self, encoder: Encoder, vocabulary: Vocabularies) -> int:
        """The third pass: the Parquet files and what describes them; returns the bytes of the files."""
        schema, names = self.schema, sample_files(histories=self.schema.behaviours is not None)
        of_files = {
            "schema_version": FORMAT,
            "vocabulary_hash": vocabulary.hash,
            "items_hash": encoder.items.hash,
            "labels": json.dumps(list(schema.labels)),
        }
        shown = np.zeros((len(SPLITS), len(encoder.items.keys)), dtype=np.int64)

        def write(part: Part) -> None:
            encoded = EncodedPart(encoder, part)
            for number in range(len(SPLITS)):
                rows = encoded.item_row[part.split == number]
                shown[number] += np.bincount(rows, minlength=shown.shape[1])
            self.totals.add_unknown(encoded.ids, part.split)
            files.write(encoded)

        with SampleWriter(self.work, of_files) as files:
            self._each_part("writing", write)
        encoder.items.write(self.work, of_files)
        self.totals.add_unknown_items(encoder.items, shown)
        hashes = (encoder.items.hash, _hash(self.work / name for name in names))
        _meta(schema, vocabulary, self.old, hashes).write(self.work)
        return sum((self.work / name).stat().st_size for name in names)


def _meta(schema: Schema, vocabulary: Vocabularies, old: Vocabularies | None, hashes: tuple[str, str]) -> Meta:
    """What describes the samples; ``hashes`` are of the items' keys, and of the files."""
    scales = vocabulary.encoding.numbers
    items, users, log = schema.of_items, schema.of_users, schema.log.columns

    def in_buckets(numbers: Iterable[str]) -> tuple[str, ...]:
        return tuple(name for name in numbers if scales[name].in_buckets)

    def plain(numbers: Iterable[str]) -> tuple[str, ...]:
        return tuple(name for name in numbers if not scales[name].in_buckets)

    return Meta(
        schema_version=FORMAT,
        vocabulary_hash=vocabulary.hash,
        items_hash=hashes[0],
        samples_hash=hashes[1],
        labels=schema.labels,
        ids=("user_id", *users.ids, *in_buckets(users.numbers), *log.ids, *in_buckets(log.numbers)),
        numbers=plain([*users.numbers, *log.numbers]),
        lists=(*users.lists, *log.lists),
        of_log=tuple(log.names),
        item_ids=(*schema.item_ids, *in_buckets(items.numbers)),
        item_numbers=plain(items.numbers),
        item_lists=tuple(items.lists),
        item_text=items.text,
        spaces={name: asdict(_space(schema, name)) for name in schema.vectors},
        has_histories=schema.behaviours is not None,
        has_images=schema.has_images,
        has_held_out=bool(schema.split.hold_out_items),
        hold_out_seed=schema.split.hold_out_seed,
        hold_out_by=schema.split.hold_out_by,
        extends=old.hash if old else "",
        max_history=schema.behaviours.max_length if schema.behaviours else 0,
    )


def _space(schema: Schema, name: str) -> Space:
    space = schema.vectors[name]
    manifest = space.manifest
    if space.key == BY_IMAGE and schema.items is not None:
        manifest = schema.items.image_manifest
    keys_from = (schema.items and schema.items.path) or schema.log.path
    return Space(space.key, Path(keys_from).name, ImageNames.read(manifest).digests() if manifest else ())


def _hash(files: Iterable[Path]) -> str:
    """12 hex digits of sha256 over the bytes of some files."""
    sha = hashlib.sha256()
    for path in files:
        with open(path, "rb") as file:
            while block := file.read(1 << 20):
                sha.update(block)
    return sha.hexdigest()[:12]


def _distinct_images(items: Attributes | None, shown: pa.Array) -> int:
    if items is None or items.images is None:
        return 0
    rows = items.rows(shown)
    return int(pc.count_distinct(pa.array(items.images.take(rows[rows >= 0]).values)).as_py())
