"""``samples.json``: what a folder of samples holds, beside its rows."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from crossmedia.errors import BadInput
from crossmedia.features.layout import LAYOUTS, META_FILE
from crossmedia.features.schema import DEFAULT_HISTORY
from crossmedia.features.typed import typed


@dataclass(frozen=True)
class Meta:
    """The content of the file.

    Attributes:
        schema_version: of the format; says which layout it is.
        vocabulary_hash: of the vocabularies.
        samples_hash: of the rows.
        labels, id_columns, history_columns, text_columns: names, in order; of the history without ``hist_``.
        image_id_space: name of the table that the image ids are from; empty without images.
        has_images: whether there are image ids.
        has_held_out: whether test rows tell if their item was held out entirely.
        extends: hash of the vocabularies that these continue; empty when they began anew.
        max_history: behaviours that a history holds at most.
        image_names: digests of the manifest that gave the images their ids, see ``ImageNames``; empty without one.
    """

    schema_version: str
    vocabulary_hash: str
    samples_hash: str
    labels: tuple[str, ...]
    id_columns: tuple[str, ...]
    history_columns: tuple[str, ...]
    text_columns: tuple[str, ...]
    image_id_space: str
    has_images: bool
    has_held_out: bool
    extends: str
    max_history: int = DEFAULT_HISTORY  # formats 1 and 2 began without it, and without what follows
    image_names: tuple[str, ...] = ()

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
            if version not in LAYOUTS:
                raise BadInput(
                    f"The samples in {folder} have format {version}; this release reads {' and '.join(LAYOUTS)}. Run "
                    f"'features build' again."
                )
            names = {field.name for field in fields(cls)}
            meta = typed(cls, {name: value for name, value in found.items() if name in names})
        except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
            raise BadInput(
                f"{folder} is no samples folder ({META_FILE}: {error}). Make it with 'features build'."
            ) from error
        if not meta.labels:
            raise BadInput(f"The samples in {folder} have no label ({META_FILE}). Run 'features build' again.")
        return meta
