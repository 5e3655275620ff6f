"""Logs to samples: one Parquet row an impression, with ids only, histories strictly earlier than the impression.

Everything is done on whole columns; there is no Python loop over rows.
"""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq

from features.batch import NULL_IMAGE, Int64Array
from features.encode import Encoder, build_vocabularies
from features.histories import covered, history_slices, read_behaviours
from features.logs import Attributes, Impressions, read_items, read_log, read_users
from features.schema import Schema
from imgserver.errors import BadInput

SCHEMA_VERSION = "1"
SPLITS = ("train", "validation", "test")
ROW_GROUP = 50_000
META_FILE = "samples.json"


@dataclass
class BuildReport:
    """What came out.

    Attributes:
        rows: split name -> rows.
        positive_rate: label name -> share of ones over all rows.
        users, items, images: distinct ones in the log.
        mean_history: entries in the history of a row, on average.
        bytes_per_sample: size of the three Parquet files over all rows.
        notes: what was found on the way, by kind: behaviours of unknown items and the like.
        vocabulary_hash: of the vocabularies.
        seconds: of the whole build.
    """

    rows: dict[str, int]
    positive_rate: dict[str, float]
    users: int
    items: int
    images: int
    mean_history: float
    vocabulary_hash: str
    bytes_per_sample: float = 0.0
    seconds: float = 0.0
    notes: dict[str, int] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """For ``--json``."""
        return asdict(self)


def build(schema: Schema, out: str | Path) -> BuildReport:
    """Read the tables that ``schema`` names and write samples to the folder ``out``.

    Raises:
        BadInput: a file, a column or a value is wrong; the message names it.
    """
    started = time.monotonic()
    folder = Path(out)
    log, columns = read_log(schema)
    items, users = read_items(schema), read_users(schema)
    item_rows = items.rows(log.item) if items else None
    notes: dict[str, int] = {}
    if items is not None and item_rows is not None and schema.items is not None:
        if (absent := int((item_rows < 0).sum())) == len(log):
            raise BadInput(
                f"Not one item of {schema.log.path} is in {schema.items.path} (the first is {log.item[0].as_py()!r}). "
                f"Check that {schema.log.item!r} and {schema.items.item!r} hold the same ids."
            )
        notes["rows_whose_item_has_no_attributes"] = absent
    user_keys = pc.unique(log.user)
    user_code = np.asarray(pc.index_in(log.user, value_set=user_keys)).astype(np.int64)
    split = _split_rows(schema, user_code, log.time)
    if empty := [name for number, name in enumerate(SPLITS) if not (split == number).any()]:
        raise BadInput(f"The split leaves no row for {empty[0]}: {schema.log.path} has {len(log)} rows. Use more data.")
    behaviours = read_behaviours(schema, columns, log, user_keys, notes)
    start, end = history_slices(schema, behaviours, user_code, log.time)

    train = split == 0
    seen = covered(start[train], end[train], len(behaviours.time) if behaviours else 0)
    vocabulary = build_vocabularies(schema, log, items, users, behaviours, train, seen)
    encoder = Encoder(schema, vocabulary, items, users, behaviours)
    folder.mkdir(parents=True, exist_ok=True)
    vocabulary.save(folder)
    metadata = {
        "schema_version": SCHEMA_VERSION,
        "vocabulary_hash": vocabulary.hash,
        "image_id_space": str(schema.items.path.name) if schema.items and schema.items.image else "",
        "labels": json.dumps(list(schema.log.labels)),
    }
    size = 0
    for number, name in enumerate(SPLITS):
        chosen = np.flatnonzero(split == number)
        size += _write(folder / f"{name}.parquet", encoder, log, chosen, start, end, metadata)
    meta = {
        **metadata,
        "labels": list(schema.log.labels),
        "id_columns": [*schema.user_ids, *schema.item_ids],
        "history_columns": [*schema.item_ids, "action"] if behaviours else [],
        "text_columns": list(schema.items.text) if schema.items else [],
        "has_images": bool(schema.items and schema.items.image),
    }
    (folder / META_FILE).write_text(json.dumps(meta, indent=1) + "\n")
    return BuildReport(
        rows={name: int((split == number).sum()) for number, name in enumerate(SPLITS)},
        positive_rate={name: float(values.mean()) for name, values in log.labels.items()},
        users=len(user_keys),
        items=len(pc.unique(log.item)),
        images=_distinct_images(items, item_rows),
        mean_history=float((end - start).mean()),
        vocabulary_hash=vocabulary.hash,
        bytes_per_sample=size / len(log),
        seconds=time.monotonic() - started,
        notes={kind: count for kind, count in notes.items() if count},
    )


def _split_rows(schema: Schema, user: Int64Array, at: Int64Array) -> Int64Array:
    """0, 1 or 2 (train, validation, test) a row, shape (rows,)."""
    split = schema.split
    if split.method == "time":
        ordered = np.sort(at)
        # A second goes to one side as a whole: the side of its first row.
        test_from = ordered[int(np.ceil(len(at) * (1 - split.test)))] if len(at) > 1 else at[0]
        validation_from = ordered[int(np.ceil(len(at) * (1 - split.test - split.validation)))]
        return np.where(at >= test_from, 2, np.where(at >= validation_from, 1, 0)).astype(np.int64)
    order = np.lexsort((np.arange(len(at)), at, user))
    counts = np.bincount(user)
    first = np.cumsum(counts) - counts
    rank = np.empty(len(at), dtype=np.int64)
    rank[order] = np.arange(len(at)) - first[user[order]]
    n = counts[user]
    test_from = n - np.floor(n * split.test + 1e-9)
    validation_from = test_from - np.floor(n * split.validation + 1e-9)
    return np.where(rank >= test_from, 2, np.where(rank >= validation_from, 1, 0)).astype(np.int64)


def _write(
    path: Path,
    encoder: Encoder,
    log: Impressions,
    rows: Int64Array,
    start: Int64Array,
    end: Int64Array,
    metadata: dict[str, str],
) -> int:
    """Write one split, a row group at a time; return the bytes of the file."""
    writer: Any = None
    for first in range(0, len(rows), ROW_GROUP):
        table = encoder.table(log, rows[first : first + ROW_GROUP], start, end).replace_schema_metadata(metadata)
        if writer is None:
            writer = pq.ParquetWriter(path, table.schema, compression="zstd")
        writer.write_table(table)
    writer.close()
    return path.stat().st_size


def _distinct_images(items: Attributes | None, rows: Int64Array | None) -> int:
    if items is None or items.image is None or rows is None:
        return 0
    images = np.unique(items.image[rows[rows >= 0]])
    return int((images != NULL_IMAGE).sum())
