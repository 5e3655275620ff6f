"""What a schema says: which table is where, and which of its columns is what."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

from crossmedia.errors import BadInput
from crossmedia.features.rules import Rule

DEFAULT_HISTORY = 50
TIME, USER_TAIL, LEAVE_ONE_OUT = "time", "user_tail", "leave_one_out"
POSITIVE = "positive"
WORDS, CHARACTERS = "words", "characters"
BY_IMAGE, BY_ITEM = "image", "item"
IMAGE_SPACE = "image"  # the space of a schema that has images and names none for them


@dataclass(frozen=True)
class Columns:
    """Columns of a table by what they hold.

    Attributes:
        ids: keys.
        numbers: column -> how a model takes it, see ``numbers.fit``.
        lists: column -> what stands between the entries in a text; empty for a column of lists.
        text: words.
        tokens: how words are found in ``text``: ``WORDS``, ``CHARACTERS``, or a file of Hugging Face tokenizers.
    """

    ids: tuple[str, ...] = ()
    numbers: dict[str, str] = field(default_factory=dict)
    lists: dict[str, str] = field(default_factory=dict)
    text: tuple[str, ...] = ()
    tokens: str = WORDS

    @property
    def names(self) -> list[str]:
        """All of them."""
        return [*self.ids, *self.numbers, *self.lists, *self.text]


@dataclass(frozen=True)
class Log:
    """Impressions: path, columns, labels by name in order, and what else belongs to an impression."""

    path: str
    user: str
    item: str
    time: str
    labels: dict[str, Rule]
    columns: Columns = Columns()


@dataclass(frozen=True)
class Items:
    """Item table: path, its item column, columns of images and the manifest of their names, other columns.

    Without a path the columns are the log's own.
    """

    path: str | None
    item: str
    images: tuple[str, ...] = ()
    image_manifest: Path | None = None
    columns: Columns = Columns()


@dataclass(frozen=True)
class ImageTable:
    """Image table: path, its image id column, id columns."""

    path: str
    image: str
    ids: tuple[str, ...]


@dataclass(frozen=True)
class Users:
    """User table: path, its user column, other columns; without a path they are columns of the log."""

    path: str | None
    user: str
    columns: Columns = Columns()


@dataclass(frozen=True)
class Behaviours:
    """Where histories come from: a log of its own, or rules over the impressions."""

    path: str | None
    user: str
    item: str
    time: str
    action: str
    from_log: dict[str, Rule] = field(default_factory=dict)
    max_length: int = DEFAULT_HISTORY


@dataclass(frozen=True)
class Split:
    """How rows are divided: method, the shares of test and validation, and the share of items held out entirely.

    ``LEAVE_ONE_OUT`` does not look at the shares. ``hold_out_by`` is the column of the item table that names the groups
    that are held out whole; empty: only items with a photo in common are.
    """

    method: str = USER_TAIL
    test: float = 0.2
    validation: float = 0.1
    hold_out_items: float = 0.0
    hold_out_seed: int = 0
    hold_out_by: str = ""


@dataclass(frozen=True)
class Negatives:
    """Rows with label 0 that are drawn for each row of a log of positives; within 0 days: of all its items."""

    per_positive: int
    seed: int = 0
    within_days: int = 0


@dataclass(frozen=True)
class VectorSpace:
    """Vectors that a model may be given: by image or by item; a manifest of the items' names."""

    key: str
    manifest: Path | None = None


@dataclass(frozen=True)
class Schema:
    """Everything that the TOML file says."""

    log: Log
    items: Items | None
    users: Users | None
    behaviours: Behaviours | None
    split: Split
    negatives: Negatives | None = None
    images: ImageTable | None = None
    vectors: dict[str, VectorSpace] = field(default_factory=dict)

    def with_hold_out_seed(self, seed: int) -> Schema:
        """The same, with other items held out.

        Raises:
            BadInput: it holds none out.
        """
        if not self.split.hold_out_items:
            raise BadInput("The schema holds no items out. Say how many in [split], as in hold_out_items = 0.15.")
        return replace(self, split=replace(self.split, hold_out_seed=seed))

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of the labels, in order; a log of positives has one, ``positive``."""
        return (POSITIVE,) if self.negatives else tuple(self.log.labels)

    @property
    def of_items(self) -> Columns:
        """Columns of the item table, without its keys."""
        return self.items.columns if self.items else Columns()

    @property
    def of_users(self) -> Columns:
        """Columns of the user table, without its keys."""
        return self.users.columns if self.users else Columns()

    @property
    def item_ids(self) -> tuple[str, ...]:
        """Id columns of an item, its own id first, those of its image last."""
        return ("item_id", *self.of_items.ids, *(self.images.ids if self.images else ()))

    @property
    def has_images(self) -> bool:
        """Whether items have images."""
        return self.items is not None and bool(self.items.images)

    @property
    def columns(self) -> list[str]:
        """Names of all columns of users, items and impressions, in order."""
        of_items = self.of_items
        others = [*of_items.numbers, *of_items.lists, *of_items.text]
        return ["user_id", *self.of_users.names, *self.log.columns.names, *self.item_ids, *others]
