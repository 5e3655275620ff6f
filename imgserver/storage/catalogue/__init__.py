"""Catalogues: image ids and bytes from folders, tars, Parquet files and URLs."""

from crossmedia.imgserver.storage.catalogue.catalogue import (
    READ_TIMEOUT_S,
    Catalogue,
    Fingerprints,
    names_in,
    open_catalogue,
)

__all__ = ["READ_TIMEOUT_S", "Catalogue", "Fingerprints", "names_in", "open_catalogue"]
