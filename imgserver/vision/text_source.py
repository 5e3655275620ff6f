"""How texts are read: a source like that of photos, so that a server need not know which it has."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

from crossmedia.imgserver.storage.catalogue.texts import TextCatalogue, TextTable, open_texts
from crossmedia.imgserver.text.reading import MAX_TEXT_BYTES
from crossmedia.imgserver.vision.decode import ImageLimits
from crossmedia.imgserver.vision.photo_source import PhotoSource
from crossmedia.names import ImageNames


@dataclass(frozen=True)
class TextSource(PhotoSource):
    """How texts are read.

    Attributes:
        limits: of a text: its bytes.
        table: where they stand.
        manifest: whose keys name the items; None: the names that the store has from earlier runs, if any.
        store: folder of those names.
    """

    limits: ImageLimits = ImageLimits(MAX_TEXT_BYTES)
    table: TextTable = field(default=TextTable("", ""))
    manifest: Path | None = None
    store: Path | None = None

    @classmethod
    def of(
        cls, texts: str | Path, text: str, key: str, *, manifest: Path | None = None, store: Path | None = None
    ) -> TextSource:
        """The source of the column ``text`` of a table, whose items the column ``key`` names."""
        path = os.fspath(texts)
        return cls(path, table=TextTable(path, text, key), manifest=manifest, store=store)

    def open(self) -> TextCatalogue:
        """Read the table.

        Raises:
            BadInput: see ``open_texts``.
        """
        return open_texts(self.table, self.names(), self.timeout_s)

    def names(self) -> ImageNames | None:
        """What items are called; None: by their ids.

        Raises:
            BadInput: the manifest cannot be read.
            StoreError: the store's names are damaged.
        """
        if self.manifest is not None:
            return ImageNames.read(self.manifest)
        return ImageNames.of_store(self.store) if self.store is not None else None
