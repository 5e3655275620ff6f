"""Logs to samples: one Parquet row an impression, with ids only, histories strictly earlier than the impression.

Everything is done on whole columns. Behaviours are sorted once by user and time; the history of an impression is a
slice of them that ends before the impression's own second.
"""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from features.batch import NULL_IMAGE
from features.schema import Rule, Schema
from features.tables import flags, keys, read_table, seconds
from features.vocabulary import Vocabularies, build_vocabulary, tokenize
from imgserver.errors import BadInput

SCHEMA_VERSION = "1"
SPLITS = ("train", "validation", "test")
ROW_GROUP = 50_000
META_FILE = "samples.json"

Int64 = npt.NDArray[np.int64]
Bool = npt.NDArray[np.bool_]


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


@dataclass(frozen=True)
class _Impressions:
    user: pa.Array
    item: pa.Array
    time: Int64
    labels: dict[str, Bool]

    def __len__(self) -> int:
        return len(self.time)


@dataclass(frozen=True)
class _Attributes:
    """Attributes by row of a table; ``rows`` finds the row of a key, -1 where there is none."""

    key: pa.Array
    ids: dict[str, pa.Array]
    image: Int64 | None = None
    text: dict[str, pa.ListArray] = field(default_factory=dict)

    def rows(self, raw: pa.Array) -> Int64:
        found = pc.index_in(raw, value_set=self.key)
        return np.asarray(pc.fill_null(found, -1)).astype(np.int64)


@dataclass(frozen=True)
class _Behaviours:
    """Sorted by user and time, ties in the order of the log; ``user_start`` has one more entry than there are users."""

    item: pa.Array
    time: Int64
    action: pa.Array
    user_start: Int64
    composite: Int64
    span: int
    first_time: int


def build(schema: Schema, out: str | Path) -> BuildReport:
    """Read the tables that ``schema`` names and write samples to the folder ``out``.

    Raises:
        BadInput: a file, a column or a value is wrong; the message names it.
    """
    started = time.monotonic()
    folder = Path(out)
    log, columns = _read_log(schema)
    items, users = _read_items(schema), _read_users(schema)
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
    behaviours = _read_behaviours(schema, columns, log, user_keys, notes)
    start, end = _history_slices(schema, behaviours, user_code, log.time)

    train = split == 0
    seen = _covered(start[train], end[train], len(behaviours.time) if behaviours else 0)
    vocabulary = _vocabularies(schema, log, items, users, behaviours, train, seen)
    encoder = _Encoder(schema, vocabulary, items, users, behaviours)
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


def _read_log(schema: Schema) -> tuple[_Impressions, pa.Table]:
    log = schema.log
    rules = [*log.labels.values(), *(schema.behaviours.from_log.values() if schema.behaviours else ())]
    table = read_table(log.path, [log.user, log.item, log.time, *(rule.column for rule in rules)])
    user, item = keys(table, log.user), keys(table, log.item)
    for name, column in ((log.user, user), (log.item, item)):
        if column.null_count:
            raise BadInput(f"The column {name!r} of {log.path} has {column.null_count} empty cells.")
    labels = {name: flags(log.path, table, rule) for name, rule in log.labels.items()}
    return _Impressions(user, item, seconds(log.path, table, log.time), labels), table


def _read_items(schema: Schema) -> _Attributes | None:
    items = schema.items
    if items is None:
        return None
    optional = [items.image] if items.image else []
    table = read_table(items.path, [items.item, *optional, *items.ids, *items.text])
    image = None
    if items.image:
        column = table[items.image].combine_chunks()
        if not (pa.types.is_integer(column.type) or pa.types.is_null(column.type)):
            raise BadInput(
                f"The image column {items.image!r} of {items.path} is of type {column.type}; image ids are whole "
                f"numbers from 0 on, an empty cell means no image."
            )
        image = np.asarray(pc.fill_null(pc.cast(column, pa.int64()), NULL_IMAGE))
        if image.min() < NULL_IMAGE:
            raise BadInput(f"The image column {items.image!r} of {items.path} holds {image.min()}; ids start at 0.")
    text = {name: tokenize(table[name].combine_chunks()) for name in items.text}
    key = _unique_key(items.path, items.item, keys(table, items.item))
    return _Attributes(key, {name: keys(table, name) for name in items.ids}, image, text)


def _read_users(schema: Schema) -> _Attributes | None:
    users = schema.users
    if users is None:
        return None
    table = read_table(users.path, [users.user, *users.ids])
    key = _unique_key(users.path, users.user, keys(table, users.user))
    return _Attributes(key, {name: keys(table, name) for name in users.ids})


def _unique_key(path: Path, name: str, key: pa.Array) -> pa.Array:
    if key.null_count or len(pc.unique(key)) != len(key):
        raise BadInput(f"The column {name!r} of {path} must name each row once; it has empty or repeated cells.")
    return key


def _split_rows(schema: Schema, user: Int64, at: Int64) -> Int64:
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


def _read_behaviours(
    schema: Schema, columns: pa.Table, log: _Impressions, user_keys: pa.Array, notes: dict[str, int]
) -> _Behaviours | None:
    source = schema.behaviours
    if source is None:
        return None
    if source.path is None:
        user, item, at, action = _behaviours_from_log(schema.log.path, source.from_log, columns, log)
    else:
        table = read_table(source.path, [source.user, source.item, source.time, source.action])
        user, item, action = (keys(table, name) for name in (source.user, source.item, source.action))
        at = seconds(source.path, table, source.time)
    code = np.asarray(pc.fill_null(pc.index_in(user, value_set=user_keys), -1)).astype(np.int64)
    usable = (code >= 0) & np.asarray(pc.is_valid(item)) & np.asarray(pc.is_valid(action))
    notes["behaviours_of_users_without_impressions"] = int((code < 0).sum())
    chosen = np.flatnonzero(usable)
    order = chosen[np.lexsort((chosen, at[chosen], code[chosen]))]
    counts = np.bincount(code[order], minlength=len(user_keys))
    times = at[order]
    first_time = int(times.min()) if len(times) else 0
    span = (int(times.max()) - first_time if len(times) else 0) + 2
    if span * (len(user_keys) + 1) >= 2**62:
        raise BadInput(
            f"The times of {source.path or schema.log.path} span {span} seconds, too much for {len(user_keys)} users. "
            f"Are they milliseconds? Times are whole seconds."
        )
    take = pa.array(order)
    return _Behaviours(
        item.take(take),
        times,
        action.take(take),
        np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        code[order] * span + (times - first_time),
        span,
        first_time,
    )


def _behaviours_from_log(
    path: Path, rules: dict[str, Rule], columns: pa.Table, log: _Impressions
) -> tuple[pa.Array, pa.Array, Int64, pa.Array]:
    """Rows of the log that a rule calls positive, each with the rule's name as its action, in the log's order."""
    rows, names = [], []
    for number, rule in enumerate(rules.values()):
        positive = np.flatnonzero(flags(path, columns, rule))
        rows.append(positive)
        names.append(np.full(len(positive), number))
    flat = np.concatenate(rows)
    order = np.argsort(flat, kind="stable")
    take = pa.array(flat[order])
    action = pa.array(list(rules), pa.string()).take(pa.array(np.concatenate(names)[order]))
    return log.user.take(take), log.item.take(take), log.time[flat[order]], action


def _history_slices(schema: Schema, behaviours: _Behaviours | None, user: Int64, at: Int64) -> tuple[Int64, Int64]:
    """Where each impression's history starts and ends among the sorted behaviours; strictly before its own second."""
    if behaviours is None or schema.behaviours is None:
        return np.zeros(len(at), dtype=np.int64), np.zeros(len(at), dtype=np.int64)
    query = user * behaviours.span + np.clip(at - behaviours.first_time, 0, behaviours.span - 1)
    end = np.searchsorted(behaviours.composite, query, side="left")
    start = np.maximum(behaviours.user_start[user], end - schema.behaviours.max_length)
    return start.astype(np.int64), end.astype(np.int64)


def _covered(start: Int64, end: Int64, n: int) -> Bool:
    """Which of ``n`` behaviours lie in any slice, shape (n,)."""
    steps = np.zeros(n + 1, dtype=np.int64)
    np.add.at(steps, start, 1)
    np.add.at(steps, end, -1)
    covered: Bool = np.cumsum(steps[:-1]) > 0
    return covered


def _vocabularies(
    schema: Schema,
    log: _Impressions,
    items: _Attributes | None,
    users: _Attributes | None,
    behaviours: _Behaviours | None,
    train: Bool,
    seen: Bool,
) -> Vocabularies:
    """Vocabularies of what occurs in training rows and their histories; counts are of the training rows."""
    user, item = log.user.filter(pa.array(train)), log.item.filter(pa.array(train))
    met = [item] + ([behaviours.item.filter(pa.array(seen))] if behaviours else [])
    values = {"user_id": build_vocabulary([user]), "item_id": build_vocabulary(met)}
    occurring = {"user_id": user, "item_id": item}
    if users is not None:
        rows = users.rows(user)
        for name, column in users.ids.items():
            occurring[name] = column.take(pa.array(rows, mask=rows < 0))
            values[name] = build_vocabulary([occurring[name]])
    if items is not None:
        rows = items.rows(item)
        met_rows = np.unique(np.concatenate([items.rows(part) for part in met]))
        met_rows = met_rows[met_rows >= 0]
        for name, column in items.ids.items():
            occurring[name] = column.take(pa.array(rows, mask=rows < 0))
            values[name] = build_vocabulary([column.take(pa.array(met_rows))])
        for name, tokens in items.text.items():
            occurring[name] = pc.list_flatten(tokens.take(pa.array(rows[rows >= 0])))
            values[name] = build_vocabulary([pc.list_flatten(tokens.take(pa.array(met_rows)))])
        if items.image is not None:
            images = items.image[met_rows]
            # Ascending, so that a batch finds the places of its images by a binary search.
            values["image_id"] = pa.array(np.unique(images[images != NULL_IMAGE])).cast(pa.string())
            shown = np.where(rows >= 0, items.image[rows], NULL_IMAGE)
            occurring["image_id"] = pa.array(shown, mask=shown == NULL_IMAGE).cast(pa.string())
    if behaviours is not None:
        occurring["action"] = behaviours.action.filter(pa.array(seen))
        values["action"] = build_vocabulary([occurring["action"]])
    result = Vocabularies(values, {})
    for name, column in occurring.items():
        result.counts[name] = np.bincount(result.encode(name, column), minlength=result.size(name))
    return result


class _Encoder:
    """Turns impressions and behaviours into places, once, and rows of samples into Arrow columns."""

    def __init__(
        self,
        schema: Schema,
        vocabulary: Vocabularies,
        items: _Attributes | None,
        users: _Attributes | None,
        behaviours: _Behaviours | None,
    ):
        self.labels = list(schema.log.labels)
        self.vocabulary, self.items, self.users, self.behaviours = vocabulary, items, users, behaviours
        self.item_places = (
            {name: _with_unknown(vocabulary.encode(name, c)) for name, c in items.ids.items()} if items else {}
        )
        self.user_places = (
            {name: _with_unknown(vocabulary.encode(name, c)) for name, c in users.ids.items()} if users else {}
        )
        self.tokens = {name: self._token_places(name, t) for name, t in items.text.items()} if items else {}
        self.image = np.append(items.image, NULL_IMAGE) if items is not None and items.image is not None else None
        self.history = self._history() if behaviours else {}

    def _token_places(self, name: str, tokens: pa.ListArray) -> pa.ListArray:
        places = pa.array(self.vocabulary.encode(name, tokens.flatten()).astype(np.int32))
        lists = pa.ListArray.from_arrays(tokens.offsets, places)
        return pa.concat_arrays([lists, pa.array([[]], pa.list_(pa.int32()))])  # the last row: no such item

    def _history(self) -> dict[str, npt.NDArray[Any]]:
        assert self.behaviours is not None
        item = self.behaviours.item
        columns: dict[str, npt.NDArray[Any]] = {
            "hist_item_id": self.vocabulary.encode("item_id", item).astype(np.int32)
        }
        if self.items is not None:
            rows = self.items.rows(item)
            for name, places in self.item_places.items():
                columns[f"hist_{name}"] = places[rows].astype(np.int32)
            if self.image is not None:
                columns["hist_image_id"] = self.image[rows]
        columns["hist_action"] = self.vocabulary.encode("action", self.behaviours.action).astype(np.int32)
        columns["hist_time"] = self.behaviours.time
        return columns

    def table(self, log: _Impressions, rows: Int64, start: Int64, end: Int64) -> pa.Table:
        """Samples of the impressions ``rows``."""
        take = pa.array(rows)
        user, item = log.user.take(take), log.item.take(take)
        columns: dict[str, Any] = {}
        for number, name in enumerate(self.labels):
            columns["label" if number == 0 else f"label_{name}"] = log.labels[name][rows].astype(np.int8)
        columns["timestamp"] = log.time[rows]
        columns["user_id"] = self.vocabulary.encode("user_id", user)
        if self.users is not None:
            at = self.users.rows(user)
            columns |= {name: places[at] for name, places in self.user_places.items()}
        columns["item_id"] = self.vocabulary.encode("item_id", item)
        columns["raw_item_id"] = item
        if self.items is not None:
            at = self.items.rows(item)
            columns |= {name: places[at] for name, places in self.item_places.items()}
            if self.image is not None:
                columns["image_id"] = self.image[at]
            for name, lists in self.tokens.items():
                columns[name] = lists.take(pa.array(np.where(at < 0, len(lists) - 1, at)))
        if self.behaviours is not None:
            lengths = end[rows] - start[rows]
            offsets = np.concatenate([[0], np.cumsum(lengths)])
            flat = np.repeat(start[rows] - offsets[:-1], lengths) + np.arange(offsets[-1])
            for name, values in self.history.items():
                lists = pa.ListArray.from_arrays(pa.array(offsets.astype(np.int32)), pa.array(values[flat]))
                columns[name] = lists
        return pa.table(columns)


def _with_unknown(places: Int64) -> Int64:
    """Places by row of a table, with a last entry 0 that row -1 (no such key) finds."""
    return np.append(places, 0)


def _write(
    path: Path, encoder: _Encoder, log: _Impressions, rows: Int64, start: Int64, end: Int64, metadata: dict[str, str]
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


def _distinct_images(items: _Attributes | None, rows: Int64 | None) -> int:
    if items is None or items.image is None or rows is None:
        return 0
    images = np.unique(items.image[rows[rows >= 0]])
    return int((images != NULL_IMAGE).sum())
