"""The TOML file that says which column is what.

[log]                       # one row an impression, or a rating
path = "impressions.csv"    # CSV (also .csv.gz), Parquet, or a folder of either, relative to this file; or an address
                            # such as "s3://shop/log/", whose folders may be key=value
user = "user_id"
item = "item_id"
time = "time"               # whole seconds since 1970, or timestamps and dates, in UTC where they name no zone
ids = ["slot", "device"]    # optional: what belongs to the impression; ids, numbers and lists as in [items]
numbers = { price_shown = "log1p" }     # with [negatives] nothing that differs from item to item: a negative has it of
                            # its positive
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
image = "image_id"          # optional; an empty cell is an item without an image. Several images: a column of lists, or
                            # several columns, ["front", "back"]; the order stays
image_manifest = "m.parquet"    # only when the column holds names: the manifest that gives them ids; a name is found
                            # with or without its folder and suffix
ids = ["shop_id"]           # id columns
numbers = { price = "log1p", stars = "standard", age = "buckets:20" }   # "standard": mean 0, deviation 1; "log1p": of
                            # the logarithm; "buckets:20": an id for each twentieth of the training rows. A list of
                            # names means "standard"
lists = { tags = "|", colours = "" }    # columns with several ids a cell: text with this separator, or "" for lists. A
                            # list of names means columns of lists
text = ["title"]            # text columns
tokens = "words"            # lower-cased words; where letters have no spaces between (Chinese, Japanese, Thai, ...),
                            # overlapping pairs or triples of letters. "characters": triples of every word's letters.
                            # Or a file that Hugging Face's tokenizers wrote, "tokenizer.json"

[vectors.title]             # optional: spaces of vectors, by a name of yours. Without any, items with images have one,
key = "item"                # "image". key is "image" (vectors by image id) or "item" (by the item's own key)
manifest = "items.parquet"  # only when items are keyed by names: gives them ids

[images]                    # optional: attributes of the items' images, such as what 'imgserver semantic-ids' writes
path = "semantic_ids.parquet"
image = "image_id"
ids = ["sid_1", "sid_2"]    # id columns, which the items get; of several images, those of the first

[users]                     # optional: attributes of the users
path = "users.csv"          # or without path and user: in the log, as with the items
user = "user_id"
ids = ["city"]              # and numbers and lists, as in [items]

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
hold_out_seed = 0           # another seed, other items. Items that have an image in common are held out together
hold_out_by = "product"     # optional: so are items with one value in this column of [items]
"""

from __future__ import annotations

import re
from pathlib import Path

from crossmedia.errors import BadInput
from crossmedia.features.columns import (
    ACTION,
    GROUP,
    HISTORY,
    HISTORY_COLUMNS,
    IMAGE,
    ITEM_ROW,
    key_column,
    label_columns,
)
from crossmedia.features.numbers import STANDARD, check_how
from crossmedia.features.rules import take_rules
from crossmedia.features.spec import (
    BY_IMAGE,
    BY_ITEM,
    CHARACTERS,
    DEFAULT_HISTORY,
    IMAGE_SPACE,
    LEAVE_ONE_OUT,
    TIME,
    USER_TAIL,
    WORDS,
    Behaviours,
    Columns,
    ImageTable,
    Items,
    Log,
    Negatives,
    Schema,
    Split,
    Users,
    VectorSpace,
)
from crossmedia.features.toml_table import TomlTable, same_path


def load_schema(path: str | Path) -> Schema:
    """Read and check the TOML file.

    Raises:
        BadInput: the file is missing, is not TOML, or a key or value in it is wrong; the message names it.
    """
    file = Path(path)
    top = TomlTable.read(file)
    log, items, users = top.table("log"), top.optional("items"), top.optional("users")
    behaviours, split, negatives = top.optional("behaviours"), top.optional("split"), top.optional("negatives")
    images, vectors = top.optional("images"), top.optional("vectors")
    if "layout" in top.values:
        raise top.fail("there is one layout now, in which a user's behaviours stand once. Leave layout out.")
    top.done()
    if items is None and split is not None and "hold_out_by" in split.values:
        raise split.fail("hold_out_by names a column of [items], and there is no such table.")
    drawn = _negatives(negatives)
    impressions = _log(log, drawn)
    shown = _items(items, impressions)
    schema = Schema(
        impressions,
        shown,
        _users(users, impressions),
        _behaviours(behaviours),
        _split(split),
        drawn,
        _images(images),
        _vectors(vectors, shown),
    )
    if schema.images and not schema.has_images:
        raise top.fail("[images] is given, but [items] has no image column that it could be joined by.")
    names = schema.columns
    if twice := {name for name in names if names.count(name) > 1}:
        raise BadInput(f"{file} uses the column {min(twice)!r} twice; every column needs a name of its own.")
    if taken := _taken(schema):
        raise top.fail(f"samples have a column {taken[0]!r} of their own; give the column another name.")
    return schema


def _taken(schema: Schema) -> list[str]:
    """Columns whose names belong to other columns of the samples, or to their vocabularies.

    What a schema calls by such a name would be written over one of them.
    """
    own = {*label_columns(schema.labels).values(), "timestamp", "raw_user_id", "raw_item_id", ITEM_ROW}
    if schema.has_images:
        own.add(IMAGE)
    if schema.split.hold_out_items:
        own.add("held_out")
    if schema.split.hold_out_by:
        own.add(GROUP)
    own |= {key_column(name) for name, space in schema.vectors.items() if space.key == BY_ITEM}
    names = schema.columns
    if schema.behaviours is None:
        return [name for name in names if name in own]
    own |= {ACTION, *HISTORY_COLUMNS, *(HISTORY + name for name in (*schema.item_ids, ACTION, "time", IMAGE, ITEM_ROW))}
    # hist_time is when a behaviour was, so that an item's own column cannot be called time.
    return [name for name in names if name in own or (name == "time" and name in schema.item_ids)]


def _columns(table: TomlTable, *, text: bool) -> Columns:
    """What the columns of a table are."""
    scales = table.named("numbers", STANDARD)
    for name, how in scales.items():
        if wrong := check_how(how):
            raise table.fail(f"numbers.{name} is {how!r}; {wrong}.")
    ids, lists = table.names("ids"), table.named("lists", "")
    if not text:
        return Columns(ids, scales, lists)
    tokens = table.take("tokens", str, WORDS)
    if tokens not in (WORDS, CHARACTERS):
        if not tokens.endswith(".json"):
            raise table.fail(
                f'tokens is {tokens!r}; it must be "{WORDS}", "{CHARACTERS}" or a file of Hugging Face\'s tokenizers, '
                f'such as "tokenizer.json".'
            )
        tokens = str(table.file.parent / tokens)
    return Columns(ids, scales, lists, table.names("text"), tokens)


def _log(table: TomlTable, negatives: Negatives | None) -> Log:
    labels = take_rules(table, "labels", columns=True)
    if labels and negatives:
        raise table.fail("labels and [negatives] exclude each other: negatives are drawn for a log of positives only.")
    if not labels and not negatives:
        raise table.fail('no label is given. Add a table [log.labels] such as click = "click".')
    log = Log(
        table.path(),
        table.take("user", str),
        table.take("item", str),
        table.take("time", str),
        labels,
        _columns(table, text=False),
    )
    table.done()
    return log


def _own_table(table: TomlTable, log: Log, key: str, column: str) -> tuple[str | None, str]:
    """Path and key column of a table of attributes; no path when the attributes are columns of the log."""
    if "path" in table.values and not same_path(path := table.path(), log.path):
        return path, table.take(key, str)
    table.known.append("path")
    return None, table.take(key, str, column)


def _items(table: TomlTable | None, log: Log) -> Items | None:
    if table is None:
        return None
    manifest = table.take("image_manifest", str, None)
    items = Items(
        *_own_table(table, log, "item", log.item),
        table.name_or_names("image"),
        table.file.parent / manifest if manifest else None,
        _columns(table, text=True),
    )
    table.done()
    if twice := [name for name in items.images if items.images.count(name) > 1]:
        raise table.fail(f"image names the column {twice[0]!r} twice; every photo of it would count twice.")
    if manifest and not items.images:
        raise table.fail("image_manifest is given without image, the column whose names it gives ids to.")
    return items


def _vectors(table: TomlTable | None, items: Items | None) -> dict[str, VectorSpace]:
    """The spaces by name; items with images have one for them in any case."""
    spaces: dict[str, VectorSpace] = {}
    for name in list(table.values) if table else ():
        assert table is not None
        one = table.table(name)
        if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
            raise one.fail("the name of a space has small letters, digits and _, and begins with a letter.")
        key, manifest = one.take("key", str), one.take("manifest", str, None)
        if key not in (BY_IMAGE, BY_ITEM):
            raise one.fail(f'key is {key!r}; it must be "{BY_IMAGE}" or "{BY_ITEM}".')
        if key == BY_IMAGE and not (items and items.images):
            raise one.fail('key is "image", but [items] has no image column whose ids would be the keys.')
        if key == BY_IMAGE and manifest:
            raise one.fail("manifest gives ids to names of items; image_manifest in [items] gives them to images.")
        one.done()
        spaces[name] = VectorSpace(key, one.file.parent / manifest if manifest else None)
    if items and items.images and not any(space.key == BY_IMAGE for space in spaces.values()):
        if IMAGE_SPACE in spaces:
            assert table is not None
            raise table.fail('the space "image" is that of the images of the items; call this one by another name.')
        spaces = {IMAGE_SPACE: VectorSpace(BY_IMAGE), **spaces}
    return spaces


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
    users = Users(*_own_table(table, log, "user", log.user), _columns(table, text=False))
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
        table.take("hold_out_by", str, ""),
    )
    if not 0 <= split.hold_out_items < 1 or split.hold_out_seed < 0:
        raise table.fail(f"hold_out_items is {split.hold_out_items}; it must be a share from 0 to below 1.")
    if not (split.test > 0 and split.validation > 0 and split.test + split.validation < 1):
        raise table.fail(f"test {split.test} and validation {split.validation} must be above 0 and below 1 together.")
    table.done()
    return split
