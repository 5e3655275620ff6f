"""``samples.json``: what a folder of samples holds, beside its rows."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from crossmedia.errors import BadInput
from crossmedia.features.layout import FORMAT, META_FILE
from crossmedia.features.typed import typed


@dataclass(frozen=True)
class Space:
    """Vectors that items have, under one kind of key.

    Attributes:
        key: ``image``: vectors of the item's images, by image id; ``item``: of the item itself, by its key.
        id_space: name of the table that the keys are from.
        names: digests of the manifest that gave names their ids, see ``ImageNames``; empty without one.
    """

    key: str
    id_space: str = ""
    names: tuple[str, ...] = ()


@dataclass(frozen=True)
class Meta:
    """The content of the file.

    Attributes:
        schema_version: of the format.
        vocabulary_hash: of the vocabularies.
        items_hash: of the keys of the item table, whose rows the other files name.
        samples_hash: of the rows, histories and items.
        labels: names, in order.
        ids, numbers, lists: columns of users and impressions, in order, ``user_id`` first.
        of_log: which of these are the impression's.
        item_ids, item_numbers, item_lists, item_text: columns of items, in order, ``item_id`` first.
        spaces: name -> ``Space`` as an object.
        has_histories: whether rows have histories.
        has_images: whether items have image ids.
        has_held_out: whether the item table tells which items are held out entirely.
        hold_out_seed: of the draw of these.
        hold_out_by: column of the source that names groups of items, which are held out whole; empty without one.
        extends: hash of the vocabularies that these continue; empty when they began anew.
        max_history: behaviours that a history holds at most.
    """

    schema_version: str
    vocabulary_hash: str
    items_hash: str
    samples_hash: str
    labels: tuple[str, ...]
    ids: tuple[str, ...]
    numbers: tuple[str, ...]
    lists: tuple[str, ...]
    of_log: tuple[str, ...]
    item_ids: tuple[str, ...]
    item_numbers: tuple[str, ...]
    item_lists: tuple[str, ...]
    item_text: tuple[str, ...]
    has_histories: bool
    has_images: bool
    has_held_out: bool
    extends: str
    max_history: int
    spaces: dict[str, dict[str, Any]] = field(default_factory=dict)
    hold_out_seed: int = 0
    hold_out_by: str = ""

    @property
    def space_of(self) -> dict[str, Space]:
        """The spaces by name."""
        return {name: typed(Space, space) for name, space in self.spaces.items()}

    @property
    def build(self) -> dict[str, str]:
        """What the files that belong together have in their metadata."""
        return {"vocabulary_hash": self.vocabulary_hash, "items_hash": self.items_hash}

    def write(self, folder: Path) -> None:
        """Write the file."""
        (folder / META_FILE).write_text(json.dumps(asdict(self), indent=1) + "\n")

    @classmethod
    def read(cls, folder: Path) -> Meta:
        """Read what ``write`` wrote.

        Raises:
            BadInput: there is none, it is damaged, or of a format that this release does not read.
        """
        try:
            found = json.loads((folder / META_FILE).read_text(encoding="utf-8"))
            version = found["schema_version"]
            if version != FORMAT:
                raise BadInput(
                    f"The samples in {folder} have format {version}; this release reads {FORMAT}. Run 'features build' "
                    f"again."
                )
            names = {field.name for field in fields(cls)}
            meta = typed(cls, {name: value for name, value in found.items() if name in names})
            _ = meta.space_of
        except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
            raise BadInput(
                f"{folder} is no samples folder ({META_FILE}: {error}). Make it with 'features build'."
            ) from error
        if not meta.labels:
            raise BadInput(f"The samples in {folder} have no label ({META_FILE}). Run 'features build' again.")
        return meta
