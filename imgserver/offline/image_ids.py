"""Which images of a catalogue are to be embedded."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa

from crossmedia.errors import BadInput, NothingEmbedded
from crossmedia.imgserver.storage.catalogue import Catalogue
from crossmedia.imgserver.storage.records import Ids
from crossmedia.keys import NULL_IMAGE, Column
from crossmedia.names import ImageNames, ids_or_keys


def read_ids(path: Path, names: ImageNames | None = None) -> Ids:
    """Image ids from a text file, one a line, or keys of a manifest; empty lines are skipped.

    Args:
        path: of the file.
        names: that the manifest gave ids to; a line that is one of them is that image, though it is a number as well.

    Raises:
        BadInput: the file does not exist, a line is no image id and no key, or there is none.
    """
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"The file of image ids {path} cannot be read: {error}.") from error
    given = Column(pa.array([line or None for line in lines], pa.string()), "", str(path))
    ids = ids_or_keys(given, names)
    if (none := (ids == NULL_IMAGE) & np.array([bool(line) for line in lines], dtype=np.bool_)).any():
        raise given.wrong(none, "each line is one image id")
    if (ids == NULL_IMAGE).all():
        raise BadInput(f"The file of image ids {path} is empty.")
    return np.unique(ids[ids != NULL_IMAGE])


def wanted_ids(catalogue: Catalogue, only: Ids | None) -> Ids:
    """The image ids to embed: all of the catalogue, or those that are asked for.

    Raises:
        BadInput: an id of ``only`` is not in the catalogue.
        NothingEmbedded: the catalogue has no photo.
    """
    ids = catalogue.ids()
    if only is not None:
        absent = np.setdiff1d(only, ids)
        if len(absent):
            raise BadInput(
                f"{len(absent)} of the {len(only)} image ids asked for are not in {catalogue.where}; "
                f"the first is {absent[0]}."
            )
        ids = only
    if not len(ids):
        raise NothingEmbedded(
            f"No photo was found in {catalogue.where}. Photos are files named <image id>.jpg (or .png, .webp, …), "
            f"alone or in tars, or rows of Parquet files."
        )
    return ids
