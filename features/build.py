"""Logs to samples: one Parquet row an impression, with ids only, histories strictly earlier than the impression.

The log is streamed, whatever its size: a first pass checks it and lays the rows of each user into one partition on
disk; a second finds splits and histories, a partition at a time, and counts what the training rows hold; a third
encodes and writes. Memory holds a partition, the item table and the vocabularies. There is no Python loop over rows.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from features import partitions
from features.batch import NULL_IMAGE
from features.counting import ValueCounts
from features.encode import EncodedPart, Encoder, TrainingCounts, build_vocabularies
from features.layout import FORMATS, META_FILE, sample_files
from features.logs import (
    Attributes,
    behaviour_source,
    log_source,
    read_items,
    read_users,
    stream_behaviours,
    stream_log,
)
from features.partitions import Partitions
from features.parts import Part, make_part
from features.schema import BY_USER, TIME, Schema
from features.splits import SPLITS, TimeCounts
from features.vocabulary import FILE as VOCABULARY_FILE
from features.vocabulary import Vocabularies
from features.writing import SampleWriter
from imgserver.errors import BadInput
from imgserver.interrupts import undone_if_interrupted

WORK_FOLDER = ".building"
Progress = Callable[[str, int, int], None]


@dataclass
class BuildReport:
    """What came out.

    Attributes:
        rows: split name -> rows.
        positive_rate: label name -> share of ones over all rows.
        users, items, images: distinct ones in the log.
        mean_history: entries in the history of a row, on average.
        bytes_per_sample: size of the Parquet files of samples over all rows.
        unknown: split name -> id column -> share of rows whose value is in no training row.
        notes: what was found on the way, by kind: behaviours of unknown items and the like.
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
    bytes_per_sample: float = 0.0
    peak_memory_bytes: int = 0
    seconds: float = 0.0

    def as_dict(self) -> dict[str, Any]:
        """For ``--json``."""
        return asdict(self)


def build(
    schema: Schema,
    out: str | Path,
    extend: str | Path | None = None,
    progress: Progress = lambda what, done, total: None,
) -> BuildReport:
    """Read the tables that ``schema`` names and write samples to the folder ``out``.

    Args:
        schema: which column is what.
        out: samples that are there already stay until the new ones are complete.
        extend: a folder of samples whose vocabularies are continued: every place in them stays.
        progress: told what is being done, and how far it is.

    Raises:
        BadInput: a file, a column or a value is wrong; the message names it.
    """
    started = time.monotonic()
    folder = Path(out)
    old = Vocabularies.load(Path(extend)) if extend else None
    work = folder / WORK_FOLDER
    shutil.rmtree(work, ignore_errors=True)  # what a killed build left
    work.mkdir(parents=True)
    try:
        undo = undone_if_interrupted(lambda: shutil.rmtree(work, ignore_errors=True))
        with undo, _Build(schema, work, old, progress) as building:
            report = building.run()
        report.seconds = time.monotonic() - started
        names = sample_files(schema.layout)
        # Whoever is killed from here on leaves a folder that says that it holds no samples, and not some of both.
        (folder / META_FILE).unlink(missing_ok=True)
        for name in (*names, VOCABULARY_FILE, META_FILE):
            os.replace(work / name, folder / name)
        for name in set(sample_files(BY_USER)) - set(names):  # of samples in another layout that were there before
            (folder / name).unlink(missing_ok=True)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    report.peak_memory_bytes = memory("VmHWM")
    return report


def memory(kind: str) -> int:
    """Bytes of this process: ``VmHWM`` at its peak, ``VmRSS`` now.

    Unlike ``ru_maxrss``, the peak is not that of the process that started it.
    """
    status = Path("/proc/self/status").read_text()
    return int(status.partition(f"{kind}:")[2].split()[0]) * 1024


@dataclass
class _Totals:
    """Sums over the parts."""

    rows: list[int] = field(default_factory=lambda: [0, 0, 0])
    positive: dict[str, int] = field(default_factory=dict)
    history: int = 0
    users: int = 0
    unknown: dict[str, dict[str, int]] = field(default_factory=lambda: {split: {} for split in SPLITS})
    notes: dict[str, int] = field(default_factory=dict)

    def add(self, part: Part) -> None:
        """Count a part."""
        for number in range(len(SPLITS)):
            self.rows[number] += int((part.split == number).sum())
        for name, values in part.labels.items():
            self.positive[name] = self.positive.get(name, 0) + int(values.sum())
        self.history += int((part.end - part.start).sum())
        self.users += part.users
        for kind, count in part.notes.items():
            self.notes[kind] = self.notes.get(kind, 0) + count


class _Build:
    """The three passes over one log."""

    def __init__(self, schema: Schema, work: Path, old: Vocabularies | None, progress: Progress):
        self.schema, self.work, self.old, self.progress = schema, work, old, progress
        self.totals, self.times, self.item_counts = _Totals(), TimeCounts(), ValueCounts()
        self.log, self.behaviours = log_source(schema), behaviour_source(schema)
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
        """All passes."""
        schema, totals = self.schema, self.totals
        items, users = read_items(schema, totals.notes), read_users(schema)
        log_rows = self._partition()
        names, _ = self.item_counts.ordered()
        self.every_item = names.take(pc.sort_indices(names))
        self.boundaries = self.times.boundaries(schema.split) if schema.split.method == TIME else None
        item_rows = items.rows(self.every_item) if items else None
        if item_rows is not None and schema.items is not None and (item_rows < 0).all():
            raise BadInput(
                f"Not one item of {schema.log.path} is in {schema.items.path} (the first is "
                f"{self.every_item[0].as_py()!r}). Check that {schema.log.item!r} and {schema.items.item!r} hold the "
                f"same ids."
            )
        counts = TrainingCounts()

        def count(part: Part) -> None:
            totals.add(part)
            counts.add(part)

        self._each_part("counting", count)
        if empty := [name for name, rows in zip(SPLITS, totals.rows, strict=True) if not rows]:
            raise BadInput(
                f"The split leaves no row for {empty[0]}: {schema.log.path} has {log_rows} rows. Use more data."
            )
        vocabulary = build_vocabularies(schema, counts, items, users, self.old)
        vocabulary.save(self.work)
        size = self._write(Encoder(schema, vocabulary, items, users), vocabulary)
        rows = sum(totals.rows)
        return BuildReport(
            rows=dict(zip(SPLITS, totals.rows, strict=True)),
            positive_rate={name: count / rows for name, count in totals.positive.items()},
            users=totals.users,
            items=len(self.every_item),
            images=_distinct_images(items, item_rows),
            mean_history=totals.history / rows,
            vocabulary_hash=vocabulary.hash,
            partitions=self.log_parts.count,
            unknown={
                split: {name: count / number for name, count in totals.unknown[split].items()}
                for split, number in zip(SPLITS, totals.rows, strict=True)
            },
            notes={kind: count for kind, count in totals.notes.items() if count},
            bytes_per_sample=size / rows,
        )

    def _partition(self) -> int:
        """The first pass; returns the rows of the log."""
        done, guess = 0, self.log.rows_guess()
        for table in stream_log(self.schema, self.log):
            self.item_counts.add(table["item"].combine_chunks())
            if self.schema.split.method == TIME:
                self.times.add(np.asarray(table["time"]))
            self.log_parts.write(table)
            done += len(table)
            self.progress("reading the log", done, max(done, guess))
        self.log_parts.close()
        if self.behaviours is not None:
            read, guess = 0, self.behaviours.rows_guess()
            for table in stream_behaviours(self.schema, self.behaviours):
                self.behaviour_parts.write(table)
                read += len(table)
                self.progress("reading behaviours", read, max(read, guess))
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
        return make_part(self.schema, log, self.behaviour_parts.read(number), self.boundaries, self.every_item)

    def _write(self, encoder: Encoder, vocabulary: Vocabularies) -> int:
        """The third pass: the Parquet files and what describes them; returns the bytes of the files."""
        schema = self.schema
        meta: dict[str, Any] = {
            "schema_version": FORMATS[schema.layout],
            "vocabulary_hash": vocabulary.hash,
            "image_id_space": str(schema.items.path.name) if schema.items and schema.items.image else "",
            "labels": list(schema.labels),
        }

        def write(part: Part) -> None:
            encoded = encoder.encode(part)
            self._count_unknown(encoder, encoded)
            files.write(encoded)

        with SampleWriter(self.work, schema.layout, meta) as files:
            self._each_part("writing", write)
        meta |= {
            "id_columns": [*schema.user_ids, *schema.item_ids],
            "history_columns": [*schema.item_ids, "action"] if schema.behaviours else [],
            "text_columns": list(schema.texts),
            "max_history": schema.behaviours.max_length if schema.behaviours else 0,
            "has_images": bool(schema.items and schema.items.image),
            "has_held_out": bool(schema.split.hold_out_items),
            "extends": self.old.hash if self.old else "",
            "samples_hash": _hash(self.work / name for name in sample_files(schema.layout)),
        }
        (self.work / META_FILE).write_text(json.dumps(meta, indent=1) + "\n")
        return sum((self.work / name).stat().st_size for name in sample_files(schema.layout))

    def _count_unknown(self, encoder: Encoder, encoded: EncodedPart) -> None:
        """Rows whose id is in no training row, by split and column; and rows whose item has no attributes."""
        columns = {"user_id": encoded.user, "item_id": encoded.item}
        if encoded.user_rows is not None:
            columns |= {name: places[encoded.user_rows] for name, places in encoder.user_places.items()}
        if encoded.item_rows is not None:
            columns |= {name: places[encoded.item_rows] for name, places in encoder.item_places.items()}
            notes, kind = self.totals.notes, "rows_whose_item_has_no_attributes"
            notes[kind] = notes.get(kind, 0) + int((encoded.item_rows < 0).sum())
        for number, split in enumerate(SPLITS):
            here, unknown = encoded.part.split == number, self.totals.unknown[split]
            for name, places in columns.items():
                unknown[name] = unknown.get(name, 0) + int((places[here] == 0).sum())


def _hash(files: Iterable[Path]) -> str:
    """12 hex of sha256 over the bytes of some files."""
    sha = hashlib.sha256()
    for path in files:
        with open(path, "rb") as file:
            while block := file.read(1 << 20):
                sha.update(block)
    return sha.hexdigest()[:12]


def _distinct_images(items: Attributes | None, rows: Any) -> int:
    if items is None or items.image is None or rows is None:
        return 0
    images = np.unique(items.image[rows[rows >= 0]])
    return int((images != NULL_IMAGE).sum())
