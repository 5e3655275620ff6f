"""The TOML file that says which column is what.

layout = "inline"           # each row holds its history; "by_user": a user's behaviours are stored once, and a row says
                            # where its history ends: for long histories

[log]                       # one row an impression, or a rating
path = "impressions.csv"    # CSV (also .csv.gz), Parquet, or a folder of either, relative to this file
user = "user_id"
item = "item_id"
time = "time"               # whole seconds since 1970, or timestamps and dates, in UTC where they name no zone
[log.labels]                # in order; the first is trained
click = "click"             # a column of 0 and 1 ...
like = "rating >= 4"        # ... or a rule: column, one of >= > <= < ==, number

[negatives]                 # for a log of positives, which then has no [log.labels]
per_positive = 4            # rows with label 0 a log row: same user and time, items that this user never has in the log
seed = 0
within_days = 7             # optional: only items that anybody has in the log within so many days of the row

[items]                     # optional: attributes of the items
path = "items.csv"          # without a path, and then without item: the columns stand in the log, the last row counts
item = "item_id"
image = "image_id"          # optional; an empty cell is an item without an image
image_manifest = "m.parquet"    # only when the column holds names: the manifest that gives them ids; a name is found
                            # with or without its folder and suffix
ids = ["shop_id"]           # id columns
text = ["title"]            # text columns: lower-cased words of letters and digits

[images]                    # optional: attributes of the items' images, such as what 'imgserver semantic-ids' writes
path = "semantic_ids.parquet"
image = "image_id"
ids = ["sid_1", "sid_2"]    # id columns, which the items get

[users]                     # optional: attributes of the users
path = "users.csv"          # or without path and user: in the log, as with the items
user = "user_id"
ids = ["city"]

[behaviours]                # optional: what users did, with the kind of it
path = "behaviours.csv"     # a log of its own ...
user = "user_id"
item = "item_id"
time = "time"
action = "action"
max_length = 50             # the latest so many make a history
# from_log = { liked = "rating >= 4" }    ... or rows of the log, instead of path, user, item, time, action;
#                                         "all" takes every row

[split]
method = "user_tail"        # the last rows of each user; "time": the last rows of the log; "leave_one_out": each user's
                            # last row is test, the one before it validation (a user's first row is always training)
test = 0.2                  # shares; not with "leave_one_out"
validation = 0.1
hold_out_items = 0.15       # optional: this share of the items is in no training or validation row and in no history
hold_out_seed = 0
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from crossmedia.errors import BadInput
from crossmedia.features.columns import ACTION, HISTORY, HISTORY_COLUMNS, IMAGE, label_columns
from crossmedia.features.rules import Rule, take_rules
from crossmedia.features.toml_table import TomlTable

DEFAULT_HISTORY = 50
INLINE, BY_USER = "inline", "by_user"
TIME, USER_TAIL, LEAVE_ONE_OUT = "time", "user_tail", "leave_one_out"
POSITIVE = "positive"


@dataclass(frozen=True)
class Log:
    """Impressions: path, columns, labels by name in order."""

    path: Path
    user: str
    item: str
    time: str
    labels: dict[str, Rule]


@dataclass(frozen=True)
class Items:
    """Item table: path, its item column, and which columns are image id, ids and text; the manifest of image names.

    Without a path the columns are the log's own.
    """

    path: Path | None
    item: str
    image: str | None = None
    image_manifest: Path | None = None
    ids: tuple[str, ...] = ()
    text: tuple[str, ...] = ()


@dataclass(frozen=True)
class ImageTable:
    """Image table: path, its image id column, id columns."""

    path: Path
    image: str
    ids: tuple[str, ...]


@dataclass(frozen=True)
class Users:
    """User table: path, its user column, id columns; without a path they are columns of the log."""

    path: Path | None
    user: str
    ids: tuple[str, ...] = ()


@dataclass(frozen=True)
class Behaviours:
    """Where histories come from: a log of its own, or rules over the impressions."""

    path: Path | None
    user: str
    item: str
    time: str
    action: str
    from_log: dict[str, Rule] = field(default_factory=dict)
    max_length: int = DEFAULT_HISTORY


@dataclass(frozen=True)
class Split:
    """How rows are divided: method, the shares of test and validation, and the share of items held out entirely.

    ``LEAVE_ONE_OUT`` does not look at the shares.
    """

    method: str = USER_TAIL
    test: float = 0.2
    validation: float = 0.1
    hold_out_items: float = 0.0
    hold_out_seed: int = 0


@dataclass(frozen=True)
class Negatives:
    """Rows with label 0 that are drawn for each row of a log of positives; within 0 days: of all its items."""

    per_positive: int
    seed: int = 0
    within_days: int = 0


@dataclass(frozen=True)
class Schema:
    """Everything that the TOML file says."""

    log: Log
    items: Items | None
    users: Users | None
    behaviours: Behaviours | None
    split: Split
    negatives: Negatives | None = None
    layout: str = INLINE
    images: ImageTable | None = None

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of the labels, in order; a log of positives has one, ``positive``."""
        return (POSITIVE,) if self.negatives else tuple(self.log.labels)

    @property
    def texts(self) -> tuple[str, ...]:
        """Text columns of an item."""
        return self.items.text if self.items else ()

    @property
    def item_ids(self) -> tuple[str, ...]:
        """Id columns of an item, its own id first, those of its image last."""
        return ("item_id", *(self.items.ids if self.items else ()), *(self.images.ids if self.images else ()))

    @property
    def user_ids(self) -> tuple[str, ...]:
        """Id columns of a user, its own id first."""
        return ("user_id", *(self.users.ids if self.users else ()))


def load_schema(path: str | Path) -> Schema:
    """Read and check the TOML file.

    Raises:
        BadInput: the file is missing, is not TOML, or a key or value in it is wrong; the message names it.
    """
    file = Path(path)
    top = TomlTable.read(file)
    log, items, users = top.table("log"), top.optional("items"), top.optional("users")
    behaviours, split, negatives = top.optional("behaviours"), top.optional("split"), top.optional("negatives")
    images = top.optional("images")
    layout = top.take("layout", str, INLINE)
    top.done()
    if layout not in (INLINE, BY_USER):
        raise top.fail(f'layout is {layout!r}; it must be "inline" or "by_user".')
    if layout == BY_USER and behaviours is None:
        raise top.fail('layout is "by_user", but there is no [behaviours] whose histories it could lay out.')
    drawn = _negatives(negatives)
    impressions = _log(log, drawn)
    schema = Schema(
        impressions,
        _items(items, impressions),
        _users(users, impressions),
        _behaviours(behaviours),
        _split(split),
        drawn,
        layout,
        _images(images),
    )
    if schema.images and not (schema.items and schema.items.image):
        raise top.fail("[images] is given, but [items] has no image column that it could be joined by.")
    names = [*schema.user_ids, *schema.item_ids, *schema.texts]
    if twice := {name for name in names if names.count(name) > 1}:
        raise BadInput(f"{file} uses the column {min(twice)!r} twice; every column needs a name of its own.")
    if taken := _taken(schema, by_user=layout == BY_USER):
        raise top.fail(f"samples have a column {taken[0]!r} of their own; give the column another name.")
    return schema


def _taken(schema: Schema, *, by_user: bool) -> list[str]:
    """Id and text columns whose names belong to other columns of the samples, or to their vocabularies.

    What a schema calls by such a name would be written over one of them.

    Args:
        schema: names of columns.
        by_user: whether the layout is ``by_user``.
    """
    own = {*label_columns(schema.labels).values(), "timestamp", "raw_user_id", "raw_item_id"}
    if schema.items is not None and schema.items.image:
        own.add(IMAGE)
    if schema.split.hold_out_items:
        own.add("held_out")
    if by_user:
        own.update(HISTORY_COLUMNS)
    names = [*schema.user_ids, *schema.item_ids, *schema.texts]
    if schema.behaviours is None:
        return [name for name in names if name in own]
    own |= {ACTION, *(HISTORY + name for name in (*schema.item_ids, ACTION, "time", IMAGE))}
    # hist_time is when a behaviour was, so that an item's own column cannot be called time.
    return [name for name in names if name in own or (name == "time" and name in schema.item_ids)]


def _log(table: TomlTable, negatives: Negatives | None) -> Log:
    labels = take_rules(table, "labels", columns=True)
    if labels and negatives:
        raise table.fail("labels and [negatives] exclude each other: negatives are drawn for a log of positives only.")
    if not labels and not negatives:
        raise table.fail('no label is given. Add a table [log.labels] such as click = "click".')
    log = Log(table.path(), table.take("user", str), table.take("item", str), table.take("time", str), labels)
    table.done()
    return log


def _own_table(table: TomlTable, log: Log, key: str, column: str) -> tuple[Path | None, str]:
    """Path and key column of a table of attributes; no path when the attributes are columns of the log."""
    if "path" in table.values and (path := table.path()).resolve() != log.path.resolve():
        return path, table.take(key, str)
    table.known.append("path")
    return None, table.take(key, str, column)


def _items(table: TomlTable | None, log: Log) -> Items | None:
    if table is None:
        return None
    manifest = table.take("image_manifest", str, None)
    items = Items(
        *_own_table(table, log, "item", log.item),
        table.take("image", str, None),
        table.file.parent / manifest if manifest else None,
        table.names("ids"),
        table.names("text"),
    )
    table.done()
    if manifest and not items.image:
        raise table.fail("image_manifest is given without image, the column whose names it gives ids to.")
    return items


def _images(table: TomlTable | None) -> ImageTable | None:
    if table is None:
        return None
    images = ImageTable(table.path(), table.take("image", str), table.names("ids"))
    table.done()
    return images


def _negatives(table: TomlTable | None) -> Negatives | None:
    if table is None:
        return None
    count, seed, days = table.take("per_positive", int), table.take("seed", int, 0), table.take("within_days", int, 0)
    negatives = Negatives(count, seed, days)
    if negatives.per_positive < 1 or min(negatives.seed, negatives.within_days) < 0:
        raise table.fail("per_positive must be 1 or more, seed and within_days 0 or more.")
    table.done()
    return negatives


def _users(table: TomlTable | None, log: Log) -> Users | None:
    if table is None:
        return None
    users = Users(*_own_table(table, log, "user", log.user), table.names("ids"))
    table.done()
    return users


def _behaviours(table: TomlTable | None) -> Behaviours | None:
    if table is None:
        return None
    length = table.take("max_length", int, DEFAULT_HISTORY)
    if length < 1:
        raise table.fail(f"max_length is {length}; a history needs at least 1.")
    rules = take_rules(table, "from_log", columns=False)
    if rules:
        found = Behaviours(None, "", "", "", "", rules, length)
    else:
        user, item, time, action = (str(table.take(key, str)) for key in ("user", "item", "time", "action"))
        found = Behaviours(table.path(), user, item, time, action, max_length=length)
    table.done()
    return found


def _split(table: TomlTable | None) -> Split:
    if table is None:
        return Split()
    method = table.take("method", str, USER_TAIL)
    if method not in (USER_TAIL, TIME, LEAVE_ONE_OUT):
        raise table.fail(f'method is {method!r}; it must be "user_tail", "time" or "leave_one_out".')
    if method == LEAVE_ONE_OUT and (shares := [key for key in ("test", "validation") if key in table.values]):
        raise table.fail(
            f"{shares[0]} is a share, and leave_one_out takes one row of each user for test and one for validation. "
            f"Leave {shares[0]} out."
        )
    split = Split(
        method,
        float(table.take("test", (int, float), 0.2)),
        float(table.take("validation", (int, float), 0.1)),
        float(table.take("hold_out_items", (int, float), 0.0)),
        table.take("hold_out_seed", int, 0),
    )
    if not 0 <= split.hold_out_items < 1 or split.hold_out_seed < 0:
        raise table.fail(f"hold_out_items is {split.hold_out_items}; it must be a share from 0 to below 1.")
    if not (split.test > 0 and split.validation > 0 and split.test + split.validation < 1):
        raise table.fail(f"test {split.test} and validation {split.validation} must be above 0 and below 1 together.")
    table.done()
    return split
